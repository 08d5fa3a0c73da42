//! Verbs on many images: in parallel, continuing after failures, with events for each image.

mod divide;
mod export;
mod find;
mod import;
mod names;
mod originals;
mod reread;
mod verify;

use std::path::{Path, PathBuf};

use mif_formats::container::OpenOptions;

use crate::task::pool;
use crate::task::progress::Progress;

pub use self::divide::Division;
pub use self::export::{BatchExportOptions, ExportEvent, ExportSummary, export_all};
pub use self::find::PassedOver;
pub use self::import::{BatchImportOptions, ImportEvent, ImportSummary, import_all};
pub use self::names::NamePattern;
pub use self::originals::Comparison;
pub use self::reread::{RereadEvent, RereadSummary, reread_all};
pub use self::verify::{ImageCheck, LibraryReport, VerifyAllOptions, verify_all};

/// Finds the disk images that `paths` stand for, as an import does: files, and the disk images in directories. Makes
/// `options` trust the directories, as an import does.
pub fn disk_images(
    paths: &[PathBuf],
    options: &mut OpenOptions,
    progress: &dyn Progress,
) -> crate::error::Result<Vec<PathBuf>> {
    *options = find::trusting(paths, options);
    Ok(find::find(paths, options, progress)?.images.into_iter().map(|image| image.path).collect())
}

/// Receives the progress of work on many images, from several threads.
pub trait Watch<E>: Sync {
    /// Announces the number of images.
    fn total(&self, images: usize);

    /// Announces the start of work on an image, and returns the receiver of its progress. Dropping that ends the work.
    fn begin<'w>(&'w self, label: &str) -> Box<dyn Progress + 'w>;

    /// Reports an event.
    fn event(&self, event: E);
}

/// The default number of images processed in parallel: each takes about 200 MB of memory.
const MAX_JOBS: usize = 4;

/// The distribution of threads to images that are processed in parallel.
struct Share {
    threads: usize,
    jobs: usize,
    images: usize,
}

impl Share {
    /// Distributes `threads` to `images`, with `jobs` at a time.
    fn new(images: usize, jobs: Option<usize>, threads: Option<usize>) -> Self {
        let threads = threads.unwrap_or_else(pool::processors).max(1);
        let jobs = jobs.unwrap_or(threads.min(MAX_JOBS)).clamp(1, images.max(1));
        Share { threads, jobs, images }
    }

    /// Returns the number of threads for image `number`. The last images get more, so that no thread is idle.
    fn threads_for(&self, number: usize) -> usize {
        self.threads.div_ceil(self.jobs.min(self.images - number))
    }
}

/// Returns the path without symbolic links, or unchanged if it cannot be resolved.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_and_the_last_image_gets_all() {
        let share = Share::new(5, Some(2), Some(4));
        assert_eq!((0..5).map(|i| share.threads_for(i)).collect::<Vec<_>>(), [2, 2, 2, 2, 4]);
        let share = Share::new(3, Some(8), Some(2));
        assert_eq!((share.jobs, share.threads_for(0)), (3, 1));
        assert_eq!(Share::new(0, None, Some(1)).jobs, 1);
    }
}
