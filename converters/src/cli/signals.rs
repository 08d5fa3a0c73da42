//! Stops a verb on SIGINT, SIGTERM and SIGHUP.
//!
//! A running verb polls [`Observer::interrupted`]. Once it has seen the signal, it removes its temporary files and
//! returns. A verb that waits for a pipe or for the reader of standard output does not poll, and neither does one that
//! only computes. Such a verb has no named temporary file, so a thread ends the program after a moment. A verb that
//! writes files may be in an fsync, which can take seconds on a slow disk and cannot be interrupted; it gets more time,
//! so that it can remove the file afterwards. A second signal removes the progress bars from the terminal and ends any verb
//! at once; a third ends it even if the terminal takes no more output. SIGUSR1, and SIGINFO where there is one (Ctrl-T), only
//! ask how far the work is.
//!
//! [`Observer::interrupted`]: mif_formats::container::Observer::interrupted

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use signal_hook::iterator::{Signals, SignalsInfo};

use super::progress::Board;

/// How long a verb may go without polling before the program ends. A verb that writes its file polls far more often.
const GRACE: Duration = Duration::from_millis(700);
/// The same for a verb that may be in an fsync.
const SYNC_GRACE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(50);
/// How long the removal of progress bars may take when the program ends: the terminal may be stopped.
const WIPE: Duration = Duration::from_millis(200);
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
    /// Knows the progress bars, which are removed from the terminal should the program end without returning from its verb.
    board: Option<Arc<Board>>,
}

/// The signals that ask how far the work is.
#[cfg(not(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "macos"
)))]
const QUESTIONS: &[i32] = &[SIGUSR1];
#[cfg(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "macos"
))]
const QUESTIONS: &[i32] = &[SIGUSR1, signal_hook::consts::SIGINFO];

/// Makes sure that a question does not end the program, even one that arrives before it can be answered.
pub(super) fn survive_questions() {
    for &signal in QUESTIONS {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
}

impl Stop {
    /// Installs the signal handlers. `writes` is true if the verb writes files.
    pub(super) fn listen(writes: bool, board: Arc<Board>) -> Arc<Self> {
        answer_questions(board.clone());
        let syncs = writes && !names_a_pipe();
        let stop = Arc::new(Stop { syncs, board: Some(board), ..Stop::default() });
        // With any handler, the write fails with an error that names the file, instead of the signal ending the
        // program.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        let hangs_up = !is_ignored(SIGHUP);
        let signals = [SIGINT, SIGTERM].into_iter().chain(hangs_up.then_some(SIGHUP));
        let signals: Vec<i32> = signals.collect();
        let ending = Arc::new(AtomicBool::new(false));
        for &signal in &signals {
            // Without a handler the program still works: then the signal simply ends it.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, ending.clone());
            let _ = signal_hook::flag::register(signal, stop.asked.clone());
        }
        // This kind counts signals that arrive at once.
        if let Ok(mut signals) = SignalsInfo::<WithRawSiginfo>::new(&signals) {
            let watched = stop.clone();
            std::thread::spawn(move || {
                loop {
                    let mut arrived =
                        signals.wait().map(|info| info.si_signo).collect::<Vec<_>>().into_iter();
                    let Some(signal) = arrived.next() else { continue };
                    if signal == SIGINT && watched.paging.load(Ordering::Relaxed) {
                        watched.asked.store(false, Ordering::Relaxed);
                        continue;
                    }
                    watched.signal.store(signal, Ordering::Relaxed);
                    let is_again = || arrived.next().is_some() || signals.pending().next().is_some();
                    watched.wait_unless_heard(is_again);
                    ending.store(true, Ordering::Relaxed);
                    watched.end(128 + signal);
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

    /// Waits until the verb has not polled for too long, or until the signal arrives again.
    fn wait_unless_heard(&self, mut is_again: impl FnMut() -> bool) {
        let mut unheard = Duration::ZERO;
        loop {
            let to_pipe = self.to_pipe.load(Ordering::Relaxed);
            if is_again() || unheard >= if self.syncs && !to_pipe { SYNC_GRACE } else { GRACE } {
                return;
            }
            std::thread::sleep(STEP);
            let heard = self.heard.load(Ordering::Relaxed) && !to_pipe;
            unheard = if heard { Duration::ZERO } else { unheard + STEP };
        }
    }

    /// Ends the program.
    fn end(&self, code: i32) {
        if let Some(board) = self.board.clone() {
            // Another thread may hold the bars while it waits for the terminal.
            let (done, is_done) = mpsc::channel();
            std::thread::spawn(move || {
                board.wipe();
                let _ = done.send(());
            });
            let _ = is_done.recv_timeout(WIPE);
        }
        // Runs no destructors, because they would wait for locks held by other threads.
        signal_hook::low_level::exit(code);
    }
}

/// Starts a thread that answers how far the work is.
fn answer_questions(board: Arc<Board>) {
    if let Ok(mut signals) = Signals::new(QUESTIONS) {
        std::thread::spawn(move || signals.forever().for_each(|_| board.tell()));
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
