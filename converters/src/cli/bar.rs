//! The progress bars.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mif::Progress;
use mif_formats::container::Observer;

use super::signals::Stop;

/// Progress on the terminal, if standard error is one.
pub(super) struct Bar {
    bar: ProgressBar,
    /// The group to which it belongs, if any.
    among: Option<MultiProgress>,
    quiet: bool,
    stop: Arc<Stop>,
}

impl Bar {
    /// Returns a bar for `label`. It is never drawn if `quiet`, or if standard error is not a terminal.
    pub(super) fn new(label: &str, quiet: bool, stop: Arc<Stop>) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(quiet));
        Self::start(bar, None, label, quiet, stop)
    }

    fn start(
        bar: ProgressBar,
        among: Option<MultiProgress>,
        label: &str,
        quiet: bool,
        stop: Arc<Stop>,
    ) -> Self {
        let bar = bar.with_prefix(super::text::printable(label));
        if among.is_none() {
            let drawn = bar.clone();
            stop.set_wipe(move || drawn.finish_and_clear());
        }
        bar.enable_steady_tick(TICK);
        Bar { bar, among, quiet, stop }
    }
}

/// How often bars are redrawn.
const TICK: Duration = Duration::from_millis(200);

fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { super::terminal::progress() }
}

/// A bar for each image in progress, and a total below them.
pub(super) struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    quiet: bool,
    stop: Arc<Stop>,
}

impl Bars {
    /// Returns bars that are never drawn if `quiet`, or if standard error is not a terminal.
    pub(super) fn new(quiet: bool, stop: Arc<Stop>) -> Self {
        let multi = MultiProgress::with_draw_target(target(quiet));
        let drawn = multi.clone();
        stop.set_wipe(move || {
            // Nothing is drawn after that.
            let _ = drawn.clear();
            drawn.set_draw_target(ProgressDrawTarget::hidden());
        });
        let style = ProgressStyle::with_template("{pos} of {len} images {wide_bar} {elapsed}, {eta} left");
        let all = multi.add(ProgressBar::new(0).with_style(style.expect("the template is constant")));
        Bars { multi, all, quiet, stop }
    }

    /// Sets the number of images, and starts the bar of the total.
    pub(super) fn total(&self, images: usize) {
        self.all.set_length(images as u64);
        self.all.reset();
        self.all.enable_steady_tick(TICK);
    }

    /// Adds a bar for an image.
    pub(super) fn begin(&self, label: &str) -> Bar {
        let bar = self.multi.insert_before(&self.all, ProgressBar::no_length());
        Bar::start(bar, Some(self.multi.clone()), label, self.quiet, self.stop.clone())
    }

    /// Counts one more image as done.
    pub(super) fn done(&self) {
        self.all.inc(1);
    }

    /// Runs `print` while the bars are hidden.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.multi.suspend(print)
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.all.finish_and_clear();
    }
}

impl Observer for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn interrupted(&self) -> bool {
        self.stop.interrupted()
    }
}

impl Progress for Bar {
    fn stage(&self, what: &str, bytes: u64) {
        // In a group, each bar gets one line however long its label is.
        let template = match (self.among.is_some(), bytes == 0) {
            (false, true) => "{prefix}: {msg} {spinner} {elapsed}",
            (false, false) => {
                "{prefix}: {msg} {wide_bar} {bytes} of {total_bytes} ({binary_bytes_per_sec}, {eta} left)"
            }
            (true, true) => "{prefix:20!} {msg} {spinner} {elapsed}",
            (true, false) => {
                "{prefix:20!} {msg:10!} {wide_bar} {bytes:>10} of {total_bytes}, {binary_bytes_per_sec}, {eta} left"
            }
        };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is constant"));
        self.bar.set_message(super::text::printable(what));
        self.bar.set_length(bytes);
        self.bar.reset();
    }

    fn warn(&self, warning: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("mif: warning: {}", super::text::printable(warning)));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(others) = &self.among {
            others.remove(&self.bar);
        }
    }
}
