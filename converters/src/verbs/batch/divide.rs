//! How machines divide the images of a batch among themselves.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use crate::error::Result;
use crate::store::work::{Run, Taken};
use crate::store::{Shard, Store};
use crate::task::pool;
use crate::task::progress::{self, Progress};

/// How long to wait before an image that another machine works on is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which images of a batch a process works on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Division {
    /// All of them.
    #[default]
    Alone,
    /// Those of a shard, by the names of the images.
    Shard(Shard),
    /// The next one that no other process has taken or finished, until all are finished.
    Claim {
        /// What the processes that work together agree on. Without it, all who do such work at the same time do.
        run: Option<String>,
    },
}

impl Division {
    /// Returns true if an image with this name is among those that this process may work on.
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Division::Shard(shard) => shard.contains(name),
            Division::Alone | Division::Claim { .. } => true,
        }
    }

    /// Joins the others who do such work, if it is divided by claims.
    pub(super) fn join(&self, store: &Store, kind: &str, progress: &dyn Progress) -> Result<Option<Run>> {
        match self {
            Division::Claim { run } => store.join(kind, run.as_deref(), progress).map(Some),
            Division::Alone | Division::Shard(_) => Ok(None),
        }
    }
}

/// Calls `work` for each item on `jobs` threads. It returns true if the item is done.
///
/// In a run that others take part in, calls it for the items that this process gets, and `elsewhere` for those that
/// others finish. Returns when all items are done: an item whose process died is taken again. An item that `work` could
/// not do is left to the others. `waiting` shows how many items others are working on.
pub(super) fn each<'w>(
    run: Option<&Run>,
    jobs: usize,
    items: &[String],
    waiting: &(dyn Fn() -> Box<dyn Progress + 'w> + Sync),
    work: impl Fn(usize) -> Result<bool> + Sync,
    elsewhere: impl Fn(usize) + Sync,
) -> Result<()> {
    let Some(run) = run else {
        return pool::run(jobs, items.len(), |number, _| work(number).map(drop));
    };
    // Not all begin with the same item.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.rotate_left(run.random() as usize % items.len().max(1));
    let queue = Mutex::new(VecDeque::from(order));
    let take = || queue.lock().expect("no thread panics while it holds this").pop_front();
    pool::run(jobs, jobs, |_, _| {
        let mut busy = 0;
        let mut shown = None;
        while let Some(number) = take() {
            match run.take(&items[number])? {
                Taken::Done => elsewhere(number),
                Taken::Mine(item) => {
                    shown = None;
                    if work(number)? {
                        item.done()?;
                    }
                }
                Taken::Busy => {
                    busy += 1;
                    let left = {
                        let mut queue = queue.lock().expect("no thread panics while it holds this");
                        queue.push_back(number);
                        queue.len()
                    };
                    if busy >= left {
                        pause(&**shown.get_or_insert_with(waiting))?;
                        busy = 0;
                    }
                    continue;
                }
            }
            busy = 0;
        }
        Ok(())
    })
}

fn pause(progress: &dyn Progress) -> Result<()> {
    const STEPS: u32 = 10;
    for _ in 0..STEPS {
        progress::check(progress)?;
        std::thread::sleep(PAUSE / STEPS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn every_item_is_done_once_by_all_together_and_what_one_could_not_do_is_left_to_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path(), &Silent).unwrap();
        let items: Vec<String> = (0..20).map(|n| format!("image-{n}")).collect();
        let counts: Vec<AtomicUsize> = items.iter().map(|_| AtomicUsize::new(0)).collect();
        let elsewhere = AtomicUsize::new(0);
        let waiting: &(dyn Fn() -> Box<dyn Progress> + Sync) = &|| Box::new(Silent);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let claim = Division::Claim { run: Some("test".into()) };
                    let run = claim.join(&store, "import", &Silent).unwrap();
                    let work = |number: usize| {
                        std::thread::sleep(Duration::from_millis(2));
                        // Nobody can do the last one.
                        Ok(counts[number].fetch_add(1, Ordering::SeqCst) < usize::MAX && number != 19)
                    };
                    let count = |_| {
                        elsewhere.fetch_add(1, Ordering::SeqCst);
                    };
                    each(run.as_ref(), 2, &items, waiting, work, count).unwrap();
                });
            }
        });
        let counts: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        assert_eq!(counts, [vec![1; 19], vec![3]].concat());
        assert_eq!(elsewhere.into_inner(), 2 * 19);
    }
}
