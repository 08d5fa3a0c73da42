//! `update`: applies the changes from an image A to an image B to other images.
//!
//! ```text
//! A, B → the changes of each volume ─┐
//! an image's files (tree/edit/) ─────┴→ merge (three_way.rs; rules.rs, entries.rs) → files, changed (apply.rs)
//!     → rows → rebuild → the image's next version (batch.rs)
//! ```
//!
//! An image is changed completely or not at all. Volumes are matched by where the system mounts them.

mod apply;
mod batch;
mod entries;
#[cfg(test)]
mod properties;
mod report;
mod rules;
mod side;
mod three_way;

use std::collections::BTreeMap;
use std::time::Instant;

use mif_formats::mif::manifest::escape;

use self::apply::Applying;
pub(crate) use self::batch::{Batch, chosen};
pub use self::report::{
    Conflict, ImageResult, Left, UpdateCounts, UpdateOptions, UpdateReport, UpdatedImage, Winner,
};
use self::side::Side;
use self::three_way::Change;
use crate::compose::staging::Bench;
use crate::error::{Error, Result};
use crate::rebuild::Base;
use crate::store::{Store, StoredImage};
use crate::task::progress::Progress;
use crate::tree::edit::Files;

/// Applies the changes from the image `from` to the image `to`, and publishes the next version of each changed image.
///
/// Fails before any image is changed if one of them does not exist. If an image cannot take the update, the report says
/// so.
pub fn update(
    store: &Store,
    from: &StoredImage,
    to: &StoredImage,
    options: &UpdateOptions,
    progress: &dyn Progress,
) -> Result<UpdateReport> {
    let started = Instant::now();
    let between = [from.image.id(), to.image.id()];
    let images = chosen(store, options.images.as_deref(), &between)?;
    progress.stage("comparing", 0);
    let files = [from, to].map(|image| Base::new(Bench::Store(store), image)?.files(options.time));
    let [a, b] = files;
    let files = [a?, b?];
    let (changes, warnings) = changes([&files[0], &files[1]]);
    let paths = changes.iter().map(|change| change.paths.len() as u64).sum();
    let recipe = [&from.image.layout_digest, &to.image.layout_digest].map(String::as_str).join("\0");
    let recipe =
        blake3::hash(format!("update\0{recipe}\0{:?}", options.winner).as_bytes()).to_hex().to_string();
    progress.stage("updating", 0);
    let batch = Batch { store, operation: "update", recipe, between: between.clone(), options };
    let edit = |image: &StoredImage, files: &Files| {
        let said = UpdatedImage::of(&image.image.id());
        update_image(&changes, files, options.winner, said)
    };
    let (done, added) = batch.run(&images, &edit, progress)?;
    let report = UpdateReport::new("update", between, options, done);
    Ok(UpdateReport {
        paths: Some(paths),
        added,
        seconds: started.elapsed().as_secs_f64(),
        warnings,
        ..report
    })
}

/// The directories of GRUB's modules for BIOS.
const GRUB_MODULES: [&[u8]; 2] = [b"/boot/grub/i386-pc/", b"/boot/grub2/i386-pc/"];

/// Returns the changes from A to B on each volume, and warnings about what the update leaves out.
fn changes<'a>(files: [&'a Files; 2]) -> (Vec<Change<'a>>, Vec<String>) {
    let roles = files.map(Files::roles);
    let mut warnings = Vec::new();
    for (role, volume) in roles[0].iter().chain(&roles[1]) {
        if roles.iter().any(|roles| !roles.contains_key(role)) {
            warnings.push(format!(
                "{volume}: only one of --from and --to has this volume, so its files are ignored"
            ));
        }
    }
    let both =
        roles[0].iter().filter_map(|(role, a)| Some((role, [a.as_str(), roles[1].get(role)?.as_str()])));
    let changes = both.map(|(role, volumes)| Change::new(role, files, volumes));
    let changes: Vec<Change<'_>> = changes.filter(|change| !change.paths.is_empty()).collect();
    let guest_paths =
        changes.iter().flat_map(|change| change.paths.iter().filter_map(|p| change.guest_path(p)));
    let is_grub = |path: &Vec<u8>| GRUB_MODULES.iter().any(|folder| path.starts_with(folder));
    if let Some(path) = guest_paths.into_iter().find(is_grub) {
        warnings.push(format!(
            "{}: the update changes GRUB's modules, but not its core image for BIOS, which is outside all files; the two may \
             not match",
            escape(&path)
        ));
    }
    (changes, warnings)
}

/// Merges changes into the files of an image.
fn update_image(
    changes: &[Change<'_>],
    files: &Files,
    winner: Option<Winner>,
    mut said: UpdatedImage,
) -> Result<(Files, UpdatedImage)> {
    let roles = files.roles();
    check_volumes(changes, files, &roles)?;
    let mut edited = files.clone();
    for change in changes {
        let volume = &roles[&change.role];
        let ours = Side::new(files, volume);
        let merge = three_way::merge(change, files, volume, &ours, winner)?;
        let applying = Applying { volume, ours: &ours, change, takes: &merge.takes };
        said.merged.extend(applying.apply(&mut edited, &mut said.counts)?);
        said.conflicts.extend(merge.conflicts);
        said.left.extend(merge.left);
    }
    said.result = if !said.conflicts.is_empty() && winner.is_none() {
        ImageResult::Conflict
    } else if said.counts == UpdateCounts::default() {
        ImageResult::Unchanged
    } else {
        ImageResult::Applied
    };
    Ok((edited, said))
}

/// Fails unless an image has the volumes that change, and mounts no others over the changed paths.
fn check_volumes(changes: &[Change<'_>], files: &Files, roles: &BTreeMap<String, String>) -> Result<()> {
    for change in changes {
        let Some(volume) = roles.get(&change.role) else {
            let what = if change.role.starts_with('/') { "mounted on " } else { "named " };
            return Err(Error::input(format!("the image has no volume {what}{}", change.role)));
        };
        let ours = files.capabilities(volume);
        if let Some(side) = change.sides.iter().find(|side| side.can.is_posix != ours.is_posix) {
            let (ours, theirs) = (ours.name, side.can.name);
            return Err(Error::unsupported(format!(
                "{volume}: has {ours} in this image, but {theirs} in the update"
            )));
        }
        for (role, volume) in roles.iter().filter(|(role, _)| role.starts_with('/') && **role != change.role)
        {
            let folder = format!("{}/", role.trim_end_matches('/'));
            let hidden = |path: &&&[u8]| {
                change.guest_path(path).is_some_and(|path| path.starts_with(folder.as_bytes()))
            };
            let is_below = role.starts_with(&change.role) && !changes.iter().any(|c| c.role == *role);
            if is_below && let Some(path) = change.paths.iter().find(hidden) {
                let path = escape(path);
                return Err(Error::unsupported(format!(
                    "{path}: the update puts it on {}, but the image mounts {volume} on {role}",
                    change.role
                )));
            }
        }
    }
    Ok(())
}
