//! Stops a verb on SIGINT, SIGTERM and SIGHUP.
//!
//! A running verb polls [`Observer::interrupted`]. Once it has seen the signal, it removes its temporary files and
//! returns. A verb that waits for a pipe or for the reader of standard output does not poll, and neither does one that
//! only computes. Such a verb has no named temporary file, so a thread ends the program after a moment. A verb that
//! writes files may be in an fsync, which can take seconds on a slow disk and cannot be interrupted; it gets more time,
//! so that it can remove the file afterwards. A second signal ends any verb at once.
//!
//! [`Observer::interrupted`]: mif_formats::container::Observer::interrupted

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a verb may go without polling before the program ends. A verb that writes its file polls far more often.
const GRACE: Duration = Duration::from_millis(700);
/// The same for a verb that may be in an fsync.
const SYNC_GRACE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(50);
/// The number of the signal for a file that grows past `ulimit -f`. It is the same on all Linux and BSD targets of
/// Rust.
const SIGXFSZ: i32 = 25;

/// A request to stop, and whether the verb has noticed it.
#[derive(Default)]
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    /// The number of the signal; 0 if there was none.
    signal: AtomicI32,
    heard: AtomicBool,
    /// True if the verb may be in an fsync and does not wait for a pipe.
    syncs: bool,
    /// True if the verb may wait for the reader of standard output even after it has noticed.
    to_pipe: AtomicBool,
    /// True while a pager shows the answer: Ctrl-C is meant for it.
    paging: AtomicBool,
    /// Removes what the progress bars have drawn, if there are any.
    wipe: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Stop {
    /// Installs the signal handlers. `writes` is true if the verb writes files.
    pub(super) fn listen(writes: bool) -> Arc<Self> {
        let stop = Arc::new(Stop { syncs: writes && !names_a_pipe(), ..Stop::default() });
        // With any handler, the write fails with an error that names the file, instead of the signal ending the
        // program.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        let hangs_up = !is_ignored(SIGHUP);
        let signals = [SIGINT, SIGTERM].into_iter().chain(hangs_up.then_some(SIGHUP));
        let signals: Vec<i32> = signals.collect();
        for &signal in &signals {
            // Without a handler the program still works: then the signal simply ends it.
            let asked = stop.asked.clone();
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, asked.clone());
            let _ = signal_hook::flag::register(signal, asked);
        }
        if let Ok(mut signals) = Signals::new(&signals) {
            let watched = stop.clone();
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    if signal == SIGINT && watched.paging.load(Ordering::Relaxed) {
                        watched.asked.store(false, Ordering::Relaxed);
                        continue;
                    }
                    watched.signal.store(signal, Ordering::Relaxed);
                    watched.end_unless_heard(128 + signal);
                }
            });
        }
        stop
    }

    /// Returns true if the verb must clean up and return.
    pub(super) fn interrupted(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked {
            self.heard.store(true, Ordering::Relaxed);
        }
        asked
    }

    /// Records that the verb writes its result to standard output, where a write may block forever, and not to a file.
    pub(super) fn writes_to_pipe(&self) {
        self.to_pipe.store(true, Ordering::Relaxed);
    }

    /// Records whether a pager shows the answer.
    pub(super) fn set_paging(&self, paging: bool) {
        self.paging.store(paging, Ordering::Relaxed);
    }

    /// Sets what removes the progress bars from the terminal, should the program end without returning from its verb.
    pub(super) fn set_wipe(&self, wipe: impl Fn() + Send + 'static) {
        *self.wipe.lock().expect("not poisoned") = Some(Box::new(wipe));
    }

    /// Records that the verb has returned and removed its files.
    pub(super) fn returned(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// Returns the exit code after a signal; `None` if there was no signal.
    pub(super) fn exit_code(&self) -> Option<ExitCode> {
        if !self.asked.load(Ordering::Relaxed) {
            return None;
        }
        // The handler sets the flag; the thread that it wakes stores the number.
        for _ in 0..GRACE.as_millis() / STEP.as_millis() {
            match self.signal.load(Ordering::Relaxed) {
                0 => std::thread::sleep(STEP),
                signal => return Some(ExitCode::from(128 + signal as u8)),
            }
        }
        None
    }

    fn end_unless_heard(&self, code: i32) {
        let mut unheard = Duration::ZERO;
        loop {
            let to_pipe = self.to_pipe.load(Ordering::Relaxed);
            if unheard >= if self.syncs && !to_pipe { SYNC_GRACE } else { GRACE } {
                break;
            }
            std::thread::sleep(STEP);
            let heard = self.heard.load(Ordering::Relaxed) && !to_pipe;
            unheard = if heard { Duration::ZERO } else { unheard + STEP };
        }
        if let Ok(wipe) = self.wipe.try_lock()
            && let Some(wipe) = &*wipe
        {
            wipe();
        }
        // Runs no destructors, because they would wait for locks held by other threads.
        signal_hook::low_level::exit(code);
    }
}

/// Returns true if a word of the command line names a pipe, or an inherited descriptor that may be one.
fn names_a_pipe() -> bool {
    std::env::args_os().skip(1).any(|word| {
        let text = word.to_string_lossy();
        let inherited = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/"].iter().any(|path| text.contains(path));
        let waits = |kind: FileType| kind.is_fifo() || kind.is_char_device() || kind.is_socket();
        text == "-" || inherited || std::fs::metadata(&word).is_ok_and(|meta| waits(meta.file_type()))
    })
}

/// Returns true if the program was started with this signal ignored, as by nohup(1). Then it stays ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
