//! Rereads many images.

use std::time::Instant;

use serde::Serialize;

use super::Watch;
use crate::error::{Error, Result};
use crate::store::{ImageName, Selector, Store, WriterStats};
use crate::task::progress::{self, interrupted};
use crate::verbs::transfer::reread::{RereadOptions, RereadReport, reread};

/// An event while many images are reread.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RereadEvent {
    /// The work on an image has started.
    Started {
        /// The image, `name@version` or as the user called it.
        image: String,
    },
    /// A new version was made.
    Finished(RereadReport),
    /// Today's readers describe the disk as the store does.
    Unchanged(RereadReport),
    /// The image could not be reread. No version was made.
    Failed {
        /// The image, `name@version` or as the user called it.
        image: String,
        /// The exit code for the error.
        code: u8,
        /// The error, with advice.
        error: String,
    },
    /// The batch has ended, completely or as far as possible.
    Summary(RereadSummary),
}

/// The summary of a batch.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RereadSummary {
    /// The number of images.
    pub images: u64,
    /// Images of which a new version was made.
    pub reread: u64,
    /// Images that today's readers describe as the store does.
    pub unchanged: u64,
    /// Images that could not be reread.
    pub failed: u64,
    /// Images that were not finished, because the user interrupted the work.
    pub left: u64,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Rereads these images, or the newest version of every image if there are none, one after the other. Continues after
/// images that cannot be reread. Fails if the store has no images, or if the user interrupts it.
pub fn reread_all(
    store: &Store,
    names: &[ImageName],
    options: &RereadOptions,
    watch: &dyn Watch<RereadEvent>,
) -> Result<RereadSummary> {
    let started = Instant::now();
    let all = if names.is_empty() { newest(store)? } else { names.to_vec() };
    if all.is_empty() {
        return Err(Error::input(format!("{}: the store has no images", store.storage().place())));
    }
    watch.total(all.len());
    let mut summary = RereadSummary { images: all.len() as u64, ..RereadSummary::default() };
    let mut done = Ok(());
    for name in &all {
        let image = name.to_string();
        let progress = watch.begin(&image);
        if progress.interrupted() {
            done = progress::check(&*progress);
            break;
        }
        watch.event(RereadEvent::Started { image: image.clone() });
        let read = reread(store, name, options, &*progress);
        let stopped = progress.interrupted();
        drop(progress);
        watch.event(match read {
            Ok(report) => {
                summary.added = summary.added.with(report.added);
                match report.result {
                    "unchanged" => {
                        summary.unchanged += 1;
                        RereadEvent::Unchanged(report)
                    }
                    _ => {
                        summary.reread += 1;
                        RereadEvent::Finished(report)
                    }
                }
            }
            Err(_) if stopped => {
                done = Err(interrupted());
                break;
            }
            Err(error) => {
                summary.failed += 1;
                RereadEvent::Failed { image, code: error.code() as u8, error: error.to_string() }
            }
        });
    }
    summary.left = summary.images - summary.reread - summary.unchanged - summary.failed;
    summary.seconds = started.elapsed().as_secs_f64();
    watch.event(RereadEvent::Summary(summary));
    done.map(|()| summary)
}

/// Returns the newest version of every image.
fn newest(store: &Store) -> Result<Vec<ImageName>> {
    let newest = |name: String| -> Result<Option<ImageName>> {
        let version = store.versions(&name)?.last().copied();
        Ok(version.map(|version| ImageName { name, version: Selector::Number(version) }))
    };
    store.names()?.into_iter().filter_map(|name| newest(name).transpose()).collect()
}
