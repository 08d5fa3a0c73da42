//! Reads a disk on several threads and passes it on in order, for all writers, those of other modules included.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use super::Observer;
use super::identity::Digester;
use crate::disk_digest::BlockDigest;
use crate::error::{Result, at};
use crate::source::Source;

/// The parameters of a pull.
pub struct Pull<'a> {
    /// The disk.
    pub(super) source: &'a dyn Source,
    /// The observer, which can also stop the pull.
    pub(super) observer: &'a dyn Observer,
    /// The number of bytes per read: windows start at its multiples.
    pub(super) window: u64,
    /// Optionally the digester, and the start of `source` on the disk that is digested.
    pub(super) digest: Option<(&'a Digester, u64)>,
}

impl<'a> Pull<'a> {
    /// Pulls windows of the usual size, without a digest.
    #[must_use]
    pub fn new(source: &'a dyn Source, observer: &'a dyn Observer) -> Self {
        Pull { source, observer, window: WINDOW, digest: None }
    }
}

/// The usual size of a read in bytes.
pub(super) const WINDOW: u64 = 1 << 20;

/// The most windows per thread that may wait for `emit`.
const AHEAD: usize = 3;

/// A part of the disk and its bytes, as passed to `work`. Known zeros around it are not read.
pub struct Window {
    /// Its position on the disk, in bytes: a multiple of the window size.
    pub start: u64,
    /// Its bytes; known holes in it are zeros.
    pub bytes: Vec<u8>,
}

/// The result for a window, and the digests of its blocks.
type Worked<T> = (T, Vec<BlockDigest>);

struct State<T> {
    /// The end of the windows handed out so far.
    position: u64,
    /// The known extent at `position`: its end, and whether it is zero.
    known: Option<(u64, bool)>,
    next: usize,
    handed: usize,
    done: BTreeMap<usize, (Range<u64>, Result<Worked<T>>)>,
    /// The number of windows, once known or after a failure.
    end: Option<usize>,
    error: Option<crate::error::Error>,
    spare: Vec<Vec<u8>>,
}

/// A window to be read: its range, and the parts of it that are not known to be zeros.
struct Task {
    number: usize,
    range: Range<u64>,
    data: Vec<Range<u64>>,
}

impl Pull<'_> {
    /// Reads all windows that are not known to be zeros, passes each through `work` on one of several threads, and
    /// hands the results to `emit` in order, on the calling thread. `emit` may return a buffer for reuse. Memory is
    /// bounded, and the first error ends the pull.
    pub fn run<T: Send>(
        &self,
        work: impl Fn(Window) -> Result<T> + Sync,
        mut emit: impl FnMut(T) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(32);
        let state = Mutex::new(State {
            position: 0,
            known: None,
            next: 0,
            handed: 0,
            done: BTreeMap::new(),
            end: None,
            error: None,
            spare: Vec::new(),
        });
        let changed = Condvar::new();
        // The workers must not wait, whichever way this function ends.
        let stop = || {
            let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.end.get_or_insert(0);
            changed.notify_all();
        };
        std::thread::scope(|scope| {
            let _stop = Defer(&stop);
            for _ in 0..threads {
                scope.spawn(|| {
                    let _stop = OnPanic(&stop);
                    self.worker(&state, &changed, threads * AHEAD, &work);
                });
            }
            let mut told = 0;
            loop {
                let mut guard = state.lock().expect("no panic while locked");
                let (range, result) = loop {
                    let number = guard.handed;
                    if let Some(done) = guard.done.remove(&number) {
                        break done;
                    }
                    if guard.end.is_some_and(|end| number >= end) {
                        if let Some(error) = guard.error.take() {
                            return Err(error);
                        }
                        self.observer.advance(self.source.len() - told);
                        return Ok(());
                    }
                    guard = changed.wait(guard).expect("no panic while locked");
                };
                drop(guard);
                if self.observer.interrupted() {
                    let stopped = std::io::Error::from(std::io::ErrorKind::Interrupted);
                    return Err(at("").io(stopped));
                }
                let (work, digests) = result?;
                if let Some((digester, _)) = self.digest {
                    digester.push(&digests);
                }
                let spare = emit(work)?;
                self.observer.advance(range.end - told);
                told = range.end;
                let mut guard = state.lock().expect("no panic while locked");
                guard.handed += 1;
                guard.spare.extend(spare);
                changed.notify_all();
            }
        })
    }

    fn worker<T>(
        &self,
        state: &Mutex<State<T>>,
        changed: &Condvar,
        ahead: usize,
        work: &(impl Fn(Window) -> Result<T> + Sync),
    ) {
        loop {
            let mut guard = state.lock().expect("no panic while locked");
            while guard.end.is_none() && guard.next >= guard.handed + ahead {
                guard = changed.wait(guard).expect("no panic while locked");
            }
            if guard.end.is_some() {
                return;
            }
            let task = match self.next_task(&mut guard) {
                Ok(Some(task)) => task,
                ended => {
                    guard.error = ended.err();
                    guard.end = Some(guard.next);
                    changed.notify_all();
                    return;
                }
            };
            let mut bytes = guard.spare.pop().unwrap_or_default();
            drop(guard);
            let result = self.read(&task, &mut bytes).and_then(|()| {
                let start = task.range.start;
                let digests = self.digest.map(|(digester, base)| digester.blocks(base + start, &bytes));
                Ok((work(Window { start, bytes })?, digests.unwrap_or_default()))
            });
            let mut guard = state.lock().expect("no panic while locked");
            guard.done.insert(task.number, (task.range, result));
            changed.notify_all();
        }
    }

    /// Returns the next window that is not all zeros.
    fn next_task<T>(&self, state: &mut State<T>) -> Result<Option<Task>> {
        let len = self.source.len();
        let mut data: Vec<Range<u64>> = Vec::new();
        let mut window: Option<Range<u64>> = None;
        while state.position < len {
            if window.as_ref().is_some_and(|w| state.position >= w.end) {
                break;
            }
            let (end, zero) = match state.known {
                Some(known) if known.0 > state.position => known,
                _ => {
                    let extent = self.source.extent_at(state.position)?;
                    *state.known.insert((extent.range.end, extent.is_zero()))
                }
            };
            let window_end = window.as_ref().map_or(u64::MAX, |w| w.end);
            if zero {
                state.position = end.min(window_end);
                continue;
            }
            let window = window.get_or_insert_with(|| {
                let start = state.position - state.position % self.window;
                start..start.saturating_add(self.window).min(len)
            });
            let end = end.min(window.end);
            match data.last_mut() {
                Some(last) if last.end == state.position => last.end = end,
                _ => data.push(state.position..end),
            }
            state.position = end;
        }
        let Some(range) = window else { return Ok(None) };
        state.next += 1;
        Ok(Some(Task { number: state.next - 1, range, data }))
    }

    fn read(&self, task: &Task, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.resize((task.range.end - task.range.start) as usize, 0);
        let mut zeroed = task.range.start;
        let within = |range: Range<u64>| {
            (range.start - task.range.start) as usize..(range.end - task.range.start) as usize
        };
        for data in &task.data {
            bytes[within(zeroed..data.start)].fill(0);
            self.source.read_at(data.start, &mut bytes[within(data.clone())])?;
            zeroed = data.end;
        }
        bytes[within(zeroed..task.range.end)].fill(0);
        Ok(())
    }
}

/// Pulls a whole disk and passes each run of data to `emit` in order, with its position on the disk. Blocks of 4 KiB
/// that are all zeros are left out, and no run crosses a window.
pub(super) fn pull_data(pull: &Pull<'_>, mut emit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let find_runs = |window: Window| {
        let runs = data_runs(&window.bytes, 4096);
        Ok((window, runs))
    };
    pull.run(find_runs, |(window, runs)| {
        for run in runs {
            emit(window.start + run.start as u64, &window.bytes[run])?;
        }
        Ok(Some(window.bytes))
    })
}

struct Defer<F: Fn()>(F);

impl<F: Fn()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

struct OnPanic<F: Fn()>(F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// Returns the runs of blocks of `size` bytes in `bytes` that are not all zeros, as byte ranges; the last block may be
/// short.
pub(super) fn data_runs(bytes: &[u8], size: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, block) in bytes.chunks(size).enumerate() {
        if crate::source::is_zero(block) {
            continue;
        }
        let start = i * size;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += block.len(),
            _ => runs.push(start..start + block.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Extent, MemSource};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// 100,000 bytes: 1,000 bytes of 7 at 10,000 and at 90,000, and holes elsewhere.
    struct Holey;
    impl Source for Holey {
        fn len(&self) -> u64 {
            100_000
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            assert!(!self.extent_at(offset)?.is_zero(), "a hole is read at {offset}");
            assert!(offset + buf.len() as u64 <= self.extent_at(offset)?.range.end, "a hole is read");
            buf.fill(7);
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> Result<Extent> {
            Ok(match offset {
                0..10_000 => Extent::zero(offset, 10_000 - offset),
                10_000..11_000 => Extent::data(offset, 11_000 - offset),
                11_000..90_000 => Extent::zero(offset, 90_000 - offset),
                90_000..91_000 => Extent::data(offset, 91_000 - offset),
                _ => Extent::zero(offset, 100_000 - offset),
            })
        }
    }

    #[derive(Default)]
    struct Count(AtomicU64);
    impl Observer for Count {
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn windows_come_in_order_and_holes_are_not_read() {
        for window in [512, 4096, 10_000, 1 << 20] {
            let (mut disk, count) = (vec![0; 100_000], Count::default());
            let mut last = None;
            let pull = Pull { window, ..Pull::new(&Holey, &count) };
            pull.run(Ok, |w: Window| {
                assert!(last < Some(w.start) && w.start.is_multiple_of(window));
                last = Some(w.start);
                disk[w.start as usize..][..w.bytes.len()].copy_from_slice(&w.bytes);
                // A buffer full of garbage, which must not show.
                Ok(Some(vec![9; 100]))
            })
            .unwrap();
            let expected: Vec<u8> =
                (0..100_000).map(|i| if matches!(i / 1000, 10 | 90) { 7 } else { 0 }).collect();
            assert!(disk == expected, "{window}");
            assert_eq!(count.0.into_inner(), 100_000);
        }
    }

    #[test]
    fn the_first_error_in_order_is_the_one_told() {
        let source = MemSource(vec![1; 100_000]);
        let pull = Pull { window: 1000, ..Pull::new(&source, &()) };
        let fail = |w: Window| match w.start {
            0..50_000 => Ok(w),
            start => Err(at("work").byte(start).corrupt("fails")),
        };
        let error = pull.run(fail, |_| Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "work, at byte 50000: fails");
    }

    #[test]
    fn a_failing_emit_ends_it() {
        let source = MemSource(vec![1; 1 << 20]);
        let pull = Pull { window: 1000, ..Pull::new(&source, &()) };
        assert!(pull.run(Ok, |_: Window| Err(at("disk").corrupt("full"))).is_err());
    }

    #[test]
    fn an_interrupted_pull_errs() {
        struct Stop;
        impl Observer for Stop {
            fn advance(&self, _: u64) {}
            fn interrupted(&self) -> bool {
                true
            }
        }
        let source = MemSource(vec![1; 1000]);
        let pull = Pull { window: 1000, ..Pull::new(&source, &Stop) };
        assert_eq!(pull.run(Ok, |_: Window| Ok(None)).unwrap_err().kind(), crate::error::ErrorKind::Io);
    }

    #[test]
    fn data_runs_are_what_is_not_zero() {
        let mut bytes = vec![0; 1050];
        assert_eq!(data_runs(&bytes, 100), []);
        (bytes[100], bytes[250], bytes[1049]) = (1, 1, 1);
        assert_eq!(data_runs(&bytes, 100), [100..300, 1000..1050]);
    }
}
