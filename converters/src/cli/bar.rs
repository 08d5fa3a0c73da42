//! The progress bars.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mif::Progress;
use mif_formats::container::Observer;

use super::print;
use super::progress::{Board, Gauge};
use super::signals::Stop;

/// What all bars of a run share.
#[derive(Clone)]
pub(super) struct Drawing {
    /// True if bars are drawn.
    pub(super) is_on: bool,
    /// True if no warnings are printed.
    pub(super) is_quiet: bool,
    pub(super) board: Arc<Board>,
    pub(super) stop: Arc<Stop>,
}

/// The progress of some work. It keeps the numbers, and draws them if bars are drawn.
pub(super) struct Bar {
    bar: ProgressBar,
    key: u64,
    /// The group to which it belongs, if any.
    among: Option<MultiProgress>,
    drawing: Drawing,
}

impl Bar {
    /// Returns a bar for work that is called `label`. That is an image if `is_image`.
    pub(super) fn new(label: &str, is_image: bool, drawing: Drawing) -> Self {
        let bar = ProgressBar::with_draw_target(None, drawing.target());
        let gauge = Gauge { image: is_image.then(|| label.to_owned()), bar: bar.clone() };
        let key = drawing.board.begin(gauge);
        Self::start(bar, key, None, label, drawing)
    }

    fn start(
        bar: ProgressBar,
        key: u64,
        among: Option<MultiProgress>,
        label: &str,
        drawing: Drawing,
    ) -> Self {
        let bar = bar.with_prefix(super::text::printable(label));
        bar.enable_steady_tick(TICK);
        Bar { bar, key, among, drawing }
    }
}

/// How often bars are redrawn.
const TICK: Duration = Duration::from_millis(200);

impl Drawing {
    fn target(&self) -> ProgressDrawTarget {
        if self.is_on { super::terminal::progress() } else { ProgressDrawTarget::hidden() }
    }
}

/// A bar for each image in progress, and a total below them.
pub(super) struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    key: u64,
    drawing: Drawing,
}

impl Bars {
    pub(super) fn new(drawing: Drawing) -> Self {
        let multi = MultiProgress::with_draw_target(drawing.target());
        let style = ProgressStyle::with_template("{pos} of {len} images {wide_bar} {elapsed}, {eta} left");
        let all = multi.add(ProgressBar::new(0).with_style(style.expect("the template is constant")));
        let key = drawing.board.begin_many(all.clone(), multi.clone());
        Bars { multi, all, key, drawing }
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
        let gauge = Gauge { image: Some(label.to_owned()), bar: bar.clone() };
        let key = self.drawing.board.begin_image(gauge);
        Bar::start(bar, key, Some(self.multi.clone()), label, self.drawing.clone())
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
        self.drawing.board.end(self.key);
        self.all.finish_and_clear();
    }
}

impl Observer for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn interrupted(&self) -> bool {
        self.drawing.stop.interrupted()
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
        if !self.drawing.is_quiet {
            self.bar.suspend(|| print::warn(warning));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.drawing.board.end(self.key);
        self.bar.finish_and_clear();
        if let Some(others) = &self.among {
            others.remove(&self.bar);
        }
    }
}
