//! The progress bar, and being told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mif::Progress;
use mif_formats::container::Observer;

/// Progress on the terminal, if standard error is one.
pub(super) struct Bar {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Bar {
    /// A bar for `label`; never drawn if `quiet` or standard error is no terminal.
    pub(super) fn new(label: &str, quiet: bool, stop: Arc<AtomicBool>) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(super::text::printable(label));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, stop }
    }
}

impl Observer for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Progress for Bar {
    fn stage(&self, what: &str, bytes: u64) {
        let template = if bytes == 0 {
            "{prefix}: {msg} {spinner} {elapsed}"
        } else {
            "{prefix}: {msg} {wide_bar} {bytes} of {total_bytes} ({binary_bytes_per_sec}, {eta} left)"
        };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is constant"));
        self.bar.set_message(what.to_owned());
        self.bar.set_length(bytes);
        self.bar.reset();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A flag that is set when the user asks to stop. A second time ends the program at once.
pub(super) fn stop_flag() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Without a handler the program still works: the signal then simply ends it.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone());
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    stop
}
