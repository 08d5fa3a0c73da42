//! A pool of threads for work that creates more work: numbered items, and the jobs that they leave behind.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;

use super::progress::{self, Progress};
use crate::error::{Error, Result};

type Job<'env> = Box<dyn FnOnce() -> Result<()> + Send + 'env>;

/// Where an item leaves jobs for other threads. Bounded: if enough are waiting, the item runs its own.
pub(crate) struct Pool<'env> {
    state: Mutex<State<'env>>,
    changed: Condvar,
    max_jobs: usize,
}

struct State<'env> {
    next: usize,
    busy: usize,
    jobs: VecDeque<Job<'env>>,
    error: Option<Failure>,
}

struct Failure {
    /// The item that failed; none for a job.
    item: Option<usize>,
    error: Error,
}

/// Calls `work` for each number below `items`, in ascending order, on `threads` threads, and runs all jobs that were
/// left. Returns the error of the lowest item that failed, or of a job if that failed before any item: the same on every
/// run, whichever thread was faster. After an error no item is started, but jobs are still run: others may rely on what a
/// job has promised to store.
pub(crate) fn run<'env>(
    threads: usize,
    items: usize,
    work: impl Fn(usize, &Pool<'env>) -> Result<()> + Sync,
) -> Result<()> {
    let state = State { next: 0, busy: 0, jobs: VecDeque::new(), error: None };
    let pool = Pool { state: Mutex::new(state), changed: Condvar::new(), max_jobs: threads * 2 };
    let most = MOST.get();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                MOST.set(most);
                pool.work(items, &work);
            });
        }
    });
    match pool.state.into_inner().expect("no thread panicked").error {
        Some(failure) => Err(failure.error),
        None => Ok(()),
    }
}

thread_local! {
    /// The maximum number of threads that work for this one.
    static MOST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Calls `work` with at most `threads` threads at a time, instead of one for each processor.
pub fn with_threads<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    let before = MOST.replace(Some(threads.max(1)));
    let done = work();
    MOST.set(before);
    done
}

/// Like [`with_threads`], for work whose threads mostly wait for answers. A number that is set already is kept.
pub(crate) fn with_waiting_threads<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    match MOST.get() {
        Some(_) => work(),
        None => with_threads(threads, work),
    }
}

/// Returns the number of threads for long work: one for each processor, unless [`with_threads`] sets another.
pub(crate) fn processors() -> usize {
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    MOST.get().unwrap_or_else(processors)
}

/// Runs `work` once on each processor, in parallel, so that each thread sets up its buffers only once. `work` loops
/// over a shared queue until that is empty or its callback returns true, which means that another thread has failed.
/// Returns the first error.
pub(crate) fn on_all_processors(work: impl Fn(&dyn Fn() -> bool) -> Result<()> + Sync) -> Result<()> {
    let failed = AtomicBool::new(false);
    let threads = processors();
    run(threads, threads, |_, _| {
        work(&|| failed.load(Ordering::Relaxed)).inspect_err(|_| failed.store(true, Ordering::Relaxed))
    })
}

/// Calls `work` for each item on all processors. Returns the results in order, or the first error.
pub(crate) fn in_parallel<'i, I: Sync, T: Send + Sync>(
    items: &'i [I],
    progress: &dyn Progress,
    work: impl Fn(&'i I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if let [only] = items {
        return Ok(vec![work(only)?]);
    }
    let done: Vec<OnceLock<T>> = items.iter().map(|_| OnceLock::new()).collect();
    run(processors().min(items.len()), items.len(), |i, _| {
        progress::check(progress)?;
        let _ = done[i].set(work(&items[i])?);
        Ok(())
    })?;
    Ok(done.into_iter().filter_map(OnceLock::into_inner).collect())
}

/// Calls `work` for each item on all processors, and `each` with the results, in order. Few results exist at a time.
pub(crate) fn in_order<'i, I: Sync, T: Send + Sync>(
    items: &'i [I],
    progress: &dyn Progress,
    work: impl Fn(&'i I) -> Result<T> + Sync,
    mut each: impl FnMut(&'i I, T) -> Result<()>,
) -> Result<()> {
    const BATCH: usize = 64;
    for items in items.chunks(BATCH) {
        let done = in_parallel(items, progress, &work)?;
        items.iter().zip(done).try_for_each(|(item, done)| each(item, done))?;
    }
    Ok(())
}

impl<'env> Pool<'env> {
    /// Leaves a job for a free thread, or runs it now if many are already waiting.
    pub(crate) fn leave(&self, job: impl FnOnce() -> Result<()> + Send + 'env) -> Result<()> {
        let mut state = self.lock();
        if state.jobs.len() >= self.max_jobs {
            drop(state);
            return job();
        }
        state.jobs.push_back(Box::new(job));
        self.changed.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<'env>> {
        self.state.lock().expect("no thread panics while it holds this")
    }

    fn work(&self, items: usize, work: &impl Fn(usize, &Pool<'env>) -> Result<()>) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state = self.busy(state, None, job);
            } else if state.error.is_some() {
                return;
            } else if state.next < items {
                let item = state.next;
                state.next += 1;
                state = self.busy(state, Some(item), || work(item, self));
            } else if state.busy > 0 {
                state = self.changed.wait(state).expect("not poisoned");
            } else {
                return;
            }
        }
    }

    fn busy<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<'env>>,
        item: Option<usize>,
        work: impl FnOnce() -> Result<()>,
    ) -> MutexGuard<'a, State<'env>> {
        state.busy += 1;
        drop(state);
        let done = Done(self);
        let result = work();
        drop(done);
        let mut state = self.lock();
        if let Err(error) = result {
            // Items start in order, so all below this one have begun and will say whether they fail too.
            let earlier =
                |known: &Failure| known.item.is_none_or(|known| item.is_none_or(|item| known < item));
            if !state.error.as_ref().is_some_and(earlier) {
                state.error = Some(Failure { item, error });
            }
        }
        state
    }
}

/// Counts its thread as free when dropped, even by a panic: other threads must not wait for it.
struct Done<'a, 'env>(&'a Pool<'env>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn every_item_and_every_job_is_done_once() {
        let done = AtomicUsize::new(0);
        let count = &done;
        run(4, 100, |item, pool| {
            for _ in 0..item {
                pool.leave(move || {
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })?;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 4950);
    }

    #[test]
    fn jobs_that_were_left_are_done_also_after_an_error() {
        let done = AtomicUsize::new(0);
        let count = &done;
        let result = run(1, 5, |item, pool| {
            pool.leave(move || {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })?;
            if item == 0 { Err(Error::input("zero")) } else { Ok(()) }
        });
        assert!(result.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_error_of_an_item_or_a_job_comes_out() {
        assert!(run(2, 10, |item, _| if item == 3 { Err(Error::input("three")) } else { Ok(()) }).is_err());
        assert!(run(2, 10, |_, pool| pool.leave(|| Err(Error::input("job")))).is_err());
    }
    #[test]
    fn of_two_failures_the_lower_item_is_reported_although_it_failed_later() {
        let second_failed = Barrier::new(2);
        let result = run(2, 2, |item, _| {
            if item == 1 {
                second_failed.wait();
                return Err(Error::input("one"));
            }
            second_failed.wait();
            thread::sleep(Duration::from_millis(50));
            Err(Error::input("zero"))
        });
        assert!(result.unwrap_err().to_string().contains("zero"));
    }
}
