//! Makes new versions of many images independently: an error is reported for its image, and the other images are made.

use std::collections::BTreeSet;

use super::report::{ImageResult, UpdateOptions, UpdatedImage};
use crate::compose::staging::Bench;
use crate::error::{Error, Result};
use crate::rebuild::{Base, Draft, RebuildOptions, Reshape};
use crate::store::{ImageName, ObjectWriter, Selector, Store, StoredImage, WriterStats};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};
use crate::tree::edit::Files;

/// How many images are processed together and share a pack. More take more memory.
const GROUP: usize = 8;

/// The operation on every image.
pub(crate) struct Batch<'a> {
    pub(crate) store: &'a Store,
    /// The operation recorded in the provenance.
    pub(crate) operation: &'static str,
    /// The digest of the edits, for the images' records.
    pub(crate) recipe: String,
    /// The two images or contents of the operation.
    pub(crate) between: [String; 2],
    pub(crate) options: &'a UpdateOptions,
}

/// A drafted image.
struct Drafted<'a> {
    base: Base<'a>,
    files: Files,
    draft: Draft,
    said: UpdatedImage,
}

/// The state of an image.
enum Tried<'a> {
    Drafted(Box<Drafted<'a>>),
    /// No version of it will be made.
    Done(Box<UpdatedImage>),
}

impl<'a> Batch<'a> {
    /// Makes the next version of each of `images` with the files that `edit` returns, unless `edit` returns a result
    /// other than applied. Fails only if the user interrupts it, or if the store cannot be read at all.
    pub(crate) fn run(
        &self,
        images: &'a [StoredImage],
        edit: &(impl Fn(&StoredImage, &Files) -> Result<(Files, UpdatedImage)> + Sync),
        progress: &dyn Progress,
    ) -> Result<(Vec<UpdatedImage>, WriterStats)> {
        let bench = Bench::Store(self.store);
        let objects = bench.objects()?;
        let (mut done, mut added) = (Vec::new(), WriterStats::default());
        for group in images.chunks(GROUP) {
            let writer = bench.writer()?;
            let mut tried = in_parallel(group, progress, |image| {
                let base = Base::among(objects.clone(), Bench::Store(self.store), image);
                let tried = base.and_then(|base| self.draft(base, image, edit, &writer, progress));
                or_refused(tried, &image.image.id(), progress, |said| Tried::Done(said.into()))
            })?;
            let layouts = tried.iter_mut().filter_map(|tried| match tried {
                Tried::Drafted(drafted) => Some(&mut drafted.draft.layout),
                Tried::Done(_) => None,
            });
            // Images rely on objects that others of their group have claimed.
            let finished = if writer.is_whole() {
                bench.finish(writer, &objects, layouts)
            } else {
                Err(Error::store("another image of this batch failed to store content that this one shares"))
            };
            let written = finished.map(|more| added = added.with(more)).map_err(|e| e.to_string());
            done.extend(in_parallel(&tried, progress, |tried| match tried {
                Tried::Done(said) => Ok((**said).clone()),
                Tried::Drafted(drafted) => {
                    let made = match &written {
                        Ok(()) => self.publish(drafted),
                        Err(e) => Err(Error::store(e.clone())),
                    };
                    or_refused(made, &drafted.said.image, progress, |said| said)
                }
            })?);
        }
        Ok((done, added))
    }

    fn draft(
        &self,
        base: Base<'a>,
        image: &StoredImage,
        edit: &impl Fn(&StoredImage, &Files) -> Result<(Files, UpdatedImage)>,
        writer: &ObjectWriter,
        progress: &dyn Progress,
    ) -> Result<Tried<'a>> {
        let files = base.files(self.options.time)?;
        let (files, mut said) = edit(image, &files)?;
        if said.result != ImageResult::Applied {
            return Ok(Tried::Done(said.into()));
        }
        let (rows, reshape) = (files.rows(), Reshape::default());
        if self.options.dry_run {
            said.planned = base.check(&rows, &files.new, &reshape, progress)?.planned;
            return Ok(Tried::Done(said.into()));
        }
        let draft = base.draft(&rows, &files.new, &[], &reshape, writer, progress)?;
        said.planned.clone_from(&draft.planned);
        said.notes.clone_from(&draft.notes);
        Ok(Tried::Drafted(Box::new(Drafted { base, files, draft, said })))
    }

    fn publish(&self, drafted: &Drafted<'a>) -> Result<UpdatedImage> {
        let Drafted { base, files, draft, said } = drafted;
        let rebuild = RebuildOptions {
            name: base.name().to_owned(),
            operation: self.operation.into(),
            command: self.options.command.clone(),
            recipe: Some(self.recipe.clone()),
            source: Some(self.between.join(" to ")),
            ..Default::default()
        };
        let image = base.publish(self.store, draft, &files.rows(), &rebuild)?;
        Ok(UpdatedImage { made: Some(image.id()), ..said.clone() })
    }
}

/// Turns an error into a report for its image, unless the user has interrupted.
fn or_refused<T>(
    tried: Result<T>,
    image: &str,
    progress: &dyn Progress,
    done: impl Fn(UpdatedImage) -> T,
) -> Result<T> {
    tried.or_else(|error| {
        progress::check(progress)?;
        let result = ImageResult::Refused;
        let (code, error) = (Some(error.code() as u8), Some(error.to_string()));
        Ok(done(UpdatedImage { result, error, code, ..UpdatedImage::of(image) }))
    })
}

/// Returns the images to make new versions of, without duplicates: the named ones, or if `names` is `None`, the newest
/// version of every image except `except`.
pub(crate) fn chosen(
    store: &Store,
    names: Option<&[ImageName]>,
    except: &[String],
) -> Result<Vec<StoredImage>> {
    let all = |name: String| ImageName { name, version: Selector::Newest };
    let named = match names {
        Some(names) => names.to_vec(),
        None => store.names()?.into_iter().map(all).collect(),
    };
    let images = named.iter().map(|name| store.image(name)).collect::<Result<Vec<_>>>()?;
    let mut seen = BTreeSet::new();
    let wanted = images.into_iter().filter(|image| {
        let id = image.image.id();
        (names.is_some() || !except.contains(&id)) && seen.insert(id)
    });
    Ok(wanted.collect())
}
