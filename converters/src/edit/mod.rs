//! `customize`: makes new images from a stored one by editing its files. Nothing is booted or mounted, and no content
//! is copied.
//!
//! ```text
//! recipe, flags (recipe.rs) → steps, filled in for each image
//!     → primitive edits (compile.rs, and host.rs, accounts.rs, users/, network/, systemd.rs, first_boot.rs, kernel.rs,
//!       sysctl.rs, provision.rs, generalize/, which look into the image)
//!     → the files (tree/edit/), edited (primitive.rs, graft.rs, substitute.rs) → rows → rebuild
//! ```
//!
//! All edits of all images are made, and all volumes planned, before anything is published: an error leaves the store
//! unchanged.

mod accounts;
mod compile;
mod first_boot;
pub(crate) mod generalize;
mod graft;
mod host;
mod initramfs;
mod kernel;
mod network;
mod primitive;
mod provision;
mod recipe;
mod secrets;
mod substitute;
mod sysctl;
mod systemd;
mod users;

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mif_formats::fs::Timestamp;
use serde::Serialize;

use self::compile::{Context, LocalFiles, compile};
pub use self::recipe::{Recipe, Variables, read_instances};
use self::recipe::{Step, fill};
pub use self::secrets::{PLACEHOLDER, is_secret_file};
use crate::compose::staging::Bench;
use crate::error::{Error, Result};
use crate::rebuild::{Base, Draft, IdsReport, RebuildOptions, Reshape};
use crate::store::{Counts, Store, StoredImage, WriterStats, check_name};
use crate::task::pool::in_parallel;
use crate::task::progress::Progress;
use crate::tree::edit::Files;

/// How many images are drafted before they are published together, sharing a pack. More take more memory.
const GROUP: usize = 128;

/// Options of `customize`.
#[derive(Debug, Clone, Default)]
pub struct CustomizeOptions {
    /// The name of the new image; it may contain `{{names}}`.
    pub name: String,
    /// The edits.
    pub recipe: Recipe,
    /// The values of `{{names}}`.
    pub variables: Variables,
    /// Further values, one set for each image. If `None`, one image is made.
    pub instances: Option<Vec<Variables>>,
    /// The time of the edits, in seconds since 1970, for reproducible images. `None` for now.
    pub time: Option<i64>,
    /// New sizes and identities. Several images with the same seed get different identities.
    pub reshape: Reshape,
    /// Report what would be done without doing it.
    pub dry_run: bool,
    /// The command line, for the images' records.
    pub command: Vec<String>,
    /// The target that the images are made for, for their records.
    pub target: Option<String>,
}

/// The report of `customize`.
#[derive(Debug, Clone, Serialize)]
pub struct CustomizeReport {
    /// The image that was edited, as `name@version`.
    pub parent: String,
    /// The digest of the edits.
    pub recipe: String,
    /// True if nothing was done, because this is a dry run.
    pub dry_run: bool,
    /// The new images.
    pub images: Vec<Customized>,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// The duration in seconds.
    pub seconds: f64,
}

/// A new image.
#[derive(Debug, Clone, Serialize)]
pub struct Customized {
    /// Its id, as `name@version`; without a version if it was not made.
    pub image: String,
    /// The edits in order, as sentences.
    pub edits: Vec<String>,
    /// What was removed because clones must not share it.
    pub generalized: Vec<String>,
    /// What clones should not share but still do, each with the reason.
    pub left: Vec<String>,
    /// The volumes that were planned; all others are identical to the parent's, bit for bit.
    pub planned: Vec<String>,
    /// Side effects of rebuilding volumes, as sentences.
    pub notes: Vec<String>,
    /// The effects of new identities, if any were given.
    pub ids: Option<IdsReport>,
    /// How its disk is divided, if it was made.
    pub counts: Option<Counts>,
}

/// Makes new images from `parent`.
pub fn customize(
    store: &Store,
    parent: &StoredImage,
    options: &CustomizeOptions,
    progress: &dyn Progress,
) -> Result<CustomizeReport> {
    let started = Instant::now();
    options.recipe.check_name(&options.name)?;
    let orders = orders(options)?;
    progress.stage("reading", 0);
    let base = Base::new(Bench::Store(store), parent)?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let time = Timestamp { secs: options.time.unwrap_or_else(now), nanos: 0 };
    let files = base.files(time)?;
    let local = LocalFiles::default();
    let salt = options.time.map(|_| &parent.image.layout_digest);
    let edit = |order: &Order| order.edit(&options.recipe, &files, &local, salt);

    let mut report = CustomizeReport {
        parent: parent.image.id(),
        recipe: options.recipe.digest(),
        dry_run: options.dry_run,
        images: Vec::new(),
        added: WriterStats::default(),
        seconds: 0.0,
    };
    // If there is only one group, drafting finds all errors before anything is published.
    if options.dry_run || orders.len() > GROUP {
        progress.stage("checking", 0);
        let checked = in_parallel(&orders, progress, |order| {
            let edited = edit(order)?;
            let (rows, new) = (edited.files.rows(), &edited.files.new);
            let planned = base.check(&rows, new, &order.reshape(&options.reshape), progress);
            let checked = planned.map_err(|e| order.blame(e))?;
            let mut said = edited.report(order, checked.planned);
            said.notes.extend(checked.notes);
            Ok(Customized { ids: checked.ids, ..said })
        })?;
        if options.dry_run {
            report.images = checked;
        }
    }
    if !options.dry_run {
        progress.stage("planning", 0);
        for group in orders.chunks(GROUP) {
            let writer = base.writer()?;
            let mut drafts = in_parallel(group, progress, |order| {
                let edited = edit(order)?;
                let (rows, new) = (edited.files.rows(), &edited.files.new);
                let reshape = order.reshape(&options.reshape);
                let draft = base.draft(&rows, new, &[], &reshape, &writer, progress);
                Ok((draft.map_err(|e| order.blame(e))?, edited))
            })?;
            let added = base.finish(writer, drafts.iter_mut().map(|(draft, _)| draft))?;
            report.added = report.added.with(added);
            let publish = |(order, (draft, edited)): &(&Order, (Draft, Edited))| {
                let rebuild = RebuildOptions {
                    name: order.name.clone(),
                    operation: "customize".into(),
                    command: options.command.clone(),
                    recipe: Some(report.recipe.clone()),
                    target: options.target.clone(),
                    ..Default::default()
                };
                let image = base.publish(store, draft, &edited.files.rows(), &rebuild)?;
                let (id, counts) = (image.id(), Some(image.counts));
                let said = edited.report(order, draft.planned.clone());
                let (mut notes, ids) = (said.notes.clone(), draft.ids.clone());
                notes.extend(draft.notes.clone());
                Ok(Customized { image: id, notes, ids, counts, ..said })
            };
            let drafts: Vec<_> = group.iter().zip(drafts).collect();
            report.images.extend(in_parallel(&drafts, progress, publish)?);
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// An image to make.
struct Order {
    name: String,
    variables: Variables,
    /// True if it is one of several images, so that errors must name it.
    one_of_many: bool,
}

/// Returns the images to make, each with a unique name.
fn orders(options: &CustomizeOptions) -> Result<Vec<Order>> {
    let alone = [Variables::new()];
    let instances = options.instances.as_deref().unwrap_or(&alone);
    let mut names = BTreeSet::new();
    let orders = instances.iter().map(|instance| {
        let mut variables = options.variables.clone();
        variables.extend(instance.clone());
        let name = fill(&options.name, &variables).map_err(|e| e.within("--as"))?;
        check_name(&name)?;
        if !names.insert(name.clone()) {
            return Err(Error::usage(format!("two images would be named {name}"))
                .advise("Use a column that differs between them, such as --as 'web-{{n}}'"));
        }
        Ok(Order { name, variables, one_of_many: instances.len() > 1 })
    });
    let orders: Vec<Order> = orders.collect::<Result<_>>()?;
    if options.recipe.is_empty() && options.reshape.is_empty() {
        return Err(Error::usage("no edits given").advise("List the edits with `mif customize --help`"));
    }
    Ok(orders)
}

/// An image's files after all edits.
struct Edited {
    files: Files,
    edits: Vec<String>,
    generalized: Vec<String>,
    left: Vec<String>,
}

impl Order {
    fn edit(
        &self,
        recipe: &Recipe,
        files: &Files,
        local: &LocalFiles,
        salt: Option<&String>,
    ) -> Result<Edited> {
        let mut files = files.clone();
        let salt = salt.map(|salt| format!("{salt}\0{}", self.name));
        let context = Context { variables: &self.variables, local, salt };
        let (mut edits, mut generalized, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for step in recipe.steps(&self.variables).map_err(|e| self.blame(e))? {
            let failed = |e: Error| self.blame(e.within(&step.label));
            for (edit, purpose) in compile(&step, &files, &context).map_err(failed)? {
                if files.has_folder(&edit) {
                    continue;
                }
                files.apply(&edit).map_err(failed)?;
                edits.push(edit.to_string());
                generalized.extend(purpose);
            }
            if matches!(step.step, Step::Generalize {}) {
                left.extend(generalize::left(&files).map_err(failed)?);
            }
        }
        Ok(Edited { files, edits, generalized, left })
    }

    /// Returns the sizes and identities of this image. If there are several images, each gets its own identities.
    fn reshape(&self, common: &Reshape) -> Reshape {
        let mut reshape = common.clone();
        if let Some(ids) = reshape.new_ids.as_mut().filter(|_| self.one_of_many) {
            ids.seed.extend([b"\0", self.name.as_bytes()].concat());
        }
        reshape
    }

    /// Adds the name of this image to an error if there are several images.
    fn blame(&self, error: Error) -> Error {
        if self.one_of_many { error.within(&self.name) } else { error }
    }
}

impl Edited {
    /// Returns notes about the edits for the user, as sentences.
    fn notes(&self) -> Vec<String> {
        let mut notes = self.files.notes.clone();
        let first = self.files.labelled_by_directory.first();
        let Some(first) = first.filter(|_| self.files.get_link("/.autorelabel").is_none()) else {
            return notes;
        };
        let count = self.files.labelled_by_directory.len();
        notes.push(format!(
            "{count} new files have the SELinux label of their directory (the first is {first}), because the image has no file_contexts; add --write /.autorelabel: to relabel the image at its first boot"
        ));
        notes
    }

    fn report(&self, order: &Order, planned: Vec<String>) -> Customized {
        Customized {
            image: order.name.clone(),
            edits: self.edits.clone(),
            generalized: self.generalized.clone(),
            left: self.left.clone(),
            planned,
            notes: self.notes(),
            ids: None,
            counts: None,
        }
    }
}
