//! `replace`: replaces one content with another in all files that have it.

use std::path::Path;
use std::time::Instant;

use mif_formats::fs::FileType;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Row;
use mif_formats::text::hex;

use crate::error::{Error, Result};
use crate::merge::{Batch, ImageResult, UpdateCounts, UpdateOptions, UpdateReport, UpdatedImage, chosen};
use crate::store::{ImageName, Selector, Store};
use crate::task::progress::Progress;
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;
use crate::tree::path::Place;
use crate::verbs::inspect::search::{Query, WantedContents, search};

/// A content to search for.
struct Wanted {
    contents: WantedContents,
    /// Its name in reports: its SHA-1 in hex.
    name: String,
    id: Option<ObjectId>,
}

/// Replaces the content `old`, a local file or a SHA-1 in hex, with the content of the local file `new`, in the next
/// version of each image. The files keep everything except their times.
pub fn replace(
    store: &Store,
    old: &Path,
    new: &Path,
    options: &UpdateOptions,
    progress: &dyn Progress,
) -> Result<UpdateReport> {
    let started = Instant::now();
    let images = chosen(store, options.images.as_deref(), &[])?;
    let wanted = wanted(old)?;
    let new = NewContent::of_file(new)?;
    let new_name = hex(&new.sha1);
    if wanted.id == Some(new.id) || wanted.id.is_none() && wanted.name == new_name {
        return Err(Error::usage("--old and --new have the same content"));
    }
    progress.stage("searching", 0);
    let names = images.iter().map(|image| {
        let (name, version) = (image.image.name.clone(), Selector::Number(image.image.version));
        ImageName { name, version }
    });
    let query =
        Query { images: names.collect(), contents: Some(wanted.contents.clone()), ..Query::default() };
    let found = if images.is_empty() { Vec::new() } else { search(store, &query, progress)?.hits };
    let has_it = |image: &String| found.iter().any(|hit| hit.image == *image);
    let order: Vec<String> = images.iter().map(|image| image.image.id()).collect();
    let (images, without): (Vec<_>, Vec<_>) = images.into_iter().partition(|image| has_it(&image.image.id()));
    progress.stage("replacing", 0);
    let recipe = format!("replace\0{}\0{}", wanted.name, new.id);
    let recipe = blake3::hash(recipe.as_bytes()).to_hex().to_string();
    let between = [wanted.name.clone(), new_name];
    let batch = Batch { store, operation: "replace", recipe, between: between.clone(), options };
    let (mut done, added) = batch.run(
        &images,
        &|image, files| {
            let mut said = UpdatedImage::of(&image.image.id());
            let mut edited = files.clone();
            said.counts = replace_in(&mut edited, &wanted, &new)?;
            said.result = ImageResult::Applied;
            Ok((edited, said))
        },
        progress,
    )?;
    done.extend(without.iter().map(|image| UpdatedImage::of(&image.image.id())));
    done.sort_by_key(|image| order.iter().position(|id| *id == image.image));
    let report = UpdateReport::new("replace", between, options, done);
    Ok(UpdateReport { added, seconds: started.elapsed().as_secs_f64(), ..report })
}

/// Replaces a content in the files of an image.
fn replace_in(files: &mut Files, wanted: &Wanted, new: &NewContent) -> Result<UpdateCounts> {
    let fits = |row: &&Row| {
        row.node.file_type == FileType::File && wanted.contents.contain(row.blake3(), row.sha1())
    };
    let found: Vec<(Place, Option<ObjectId>)> = files
        .rows()
        .into_iter()
        .filter(fits)
        .map(|row| (Place { volume: row.volume.clone(), path: row.path.clone() }, row.object()))
        .collect();
    if let Some(pair) = found.windows(2).find(|pair| pair[0].1 != pair[1].1) {
        let of =
            |place: &Place| format!("{}:{}", place.volume, mif_formats::mif::manifest::escape(&place.path));
        let (a, b) = (of(&pair[0].0), of(&pair[1].0));
        return Err(Error::input(format!("{a} and {b}: different contents with this SHA-1"))
            .advise("Pass the content as a file: --old FILE"));
    }
    for (place, _) in &found {
        files.replace(place, new.clone())?;
    }
    Ok(UpdateCounts { changed: found.len() as u64, ..UpdateCounts::default() })
}

/// Parses `--old`: the file of that name if it exists, or else a SHA-1.
fn wanted(old: &Path) -> Result<Wanted> {
    let mut contents = WantedContents::default();
    if !old.exists() {
        let text = old.to_string_lossy();
        contents
            .add_sha1(&text)
            .map_err(|_| Error::input(format!("{text}: no such file, and not a SHA-1 (40 hex digits)")))?;
        return Ok(Wanted { contents, name: text.to_ascii_lowercase(), id: None });
    }
    let content = NewContent::of_file(old)?;
    if content.source.is_empty() {
        return Err(Error::usage(format!(
            "{}: the file is empty, and replacing every empty file is refused",
            old.display()
        )));
    }
    contents.add_blake3(&content.id.to_string())?;
    Ok(Wanted { contents, name: hex(&content.sha1), id: Some(content.id) })
}
