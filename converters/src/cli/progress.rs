//! Progress for programs, as lines of JSON, and for whoever asks with a signal, as a line of text.
//!
//! A [`Board`] knows the work that is under way, whether or not bars are drawn for it ([`super::bar`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::print::{json_line, say};
use super::text::{printable, size};

/// How progress is shown on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Manner {
    Auto,
    Bar,
    Json,
    None,
}

/// The shortest time between two lines of JSON about the same work.
const INTERVAL: Duration = Duration::from_millis(500);

/// The work under way.
pub(super) struct Board {
    verb: String,
    started: Instant,
    as_json: bool,
    /// What the verb does now is the last one: it may have begun others first.
    works: Mutex<Vec<Work>>,
    /// The key of the next work or image.
    next: AtomicU64,
}

/// Work that has a bar of its own, or one for each image and one for their number.
#[derive(Clone)]
struct Work {
    key: u64,
    gauge: Gauge,
    images: Option<Images>,
}

/// The images that a verb on many images works on now.
#[derive(Clone)]
struct Images {
    bars: MultiProgress,
    gauges: Vec<(u64, Gauge)>,
}

/// How far some work is. The bar keeps the numbers even if it is not drawn.
#[derive(Clone)]
pub(super) struct Gauge {
    /// The image, if the work is about one.
    pub(super) image: Option<String>,
    pub(super) bar: ProgressBar,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    verb: &'a str,
    /// How long the program has been running.
    seconds: f64,
    #[serde(flatten)]
    reading: Reading,
    /// The images in progress, if the verb works on many.
    current: Vec<Reading>,
}

/// The numbers of some work at a moment.
#[derive(Serialize)]
struct Reading {
    image: Option<String>,
    phase: Option<String>,
    /// What is counted: `bytes`, `images`, or nothing.
    unit: Option<&'static str>,
    done: u64,
    total: Option<u64>,
    /// In units a second.
    rate: Option<f64>,
    seconds_left: Option<f64>,
}

impl Board {
    /// Returns the board of a run of `verb`. If `as_json`, a thread prints lines while there is work.
    pub(super) fn new(verb: &str, as_json: bool) -> Arc<Self> {
        let (verb, works, next) = (verb.to_owned(), Mutex::default(), AtomicU64::new(0));
        let board = Arc::new(Board { verb, started: Instant::now(), as_json, works, next });
        if as_json {
            let board = board.clone();
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(INTERVAL);
                    // Under the lock, so that no such line follows the last one of its work.
                    let works = board.works();
                    if let Some(work) = works.last().filter(|work| work.has_begun()) {
                        say(&board.json(Some(work)));
                    }
                }
            });
        }
        board
    }

    fn works(&self) -> MutexGuard<'_, Vec<Work>> {
        self.works.lock().expect("not poisoned")
    }

    fn key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds work that has a bar of its own; returns its key.
    pub(super) fn begin(&self, gauge: Gauge) -> u64 {
        let key = self.key();
        self.works().push(Work { key, gauge, images: None });
        key
    }

    /// Adds work on images that each get a bar among `bars`, and whose number `all` counts; returns its key.
    pub(super) fn begin_many(&self, all: ProgressBar, bars: MultiProgress) -> u64 {
        let (key, images) = (self.key(), Some(Images { bars, gauges: Vec::new() }));
        self.works().push(Work { key, gauge: Gauge { image: None, bar: all }, images });
        key
    }

    /// Adds an image to the work on many; returns its key.
    pub(super) fn begin_image(&self, gauge: Gauge) -> u64 {
        let key = self.key();
        if let Some(images) = self.works().iter_mut().rev().find_map(|work| work.images.as_mut()) {
            images.gauges.push((key, gauge));
        }
        key
    }

    /// Removes work, or an image of the work on many. The last line about work has its final numbers.
    pub(super) fn end(&self, key: u64) {
        let mut works = self.works();
        for images in works.iter_mut().filter_map(|work| work.images.as_mut()) {
            images.gauges.retain(|(other, _)| *other != key);
        }
        let Some(at) = works.iter().position(|work| work.key == key) else { return };
        let work = works.remove(at);
        if self.as_json && work.has_begun() {
            say(&self.json(Some(&work)));
        }
    }

    /// Prints how far the work is, now: as text, or as JSON if progress is.
    pub(super) fn tell(&self) {
        let work = self.works().last().cloned();
        if self.as_json {
            return say(&self.json(work.as_ref()));
        }
        let line = self.text(work.as_ref());
        let print = || say(&line);
        match work {
            Some(Work { images: Some(images), .. }) => images.bars.suspend(print),
            Some(work) => work.gauge.bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bars from the terminal for good.
    pub(super) fn wipe(&self) {
        let works = self.works().clone();
        for Work { gauge, images, .. } in works {
            match images {
                Some(Images { bars, .. }) => {
                    let _ = bars.clear();
                    bars.set_draw_target(ProgressDrawTarget::hidden());
                }
                None => {
                    gauge.bar.finish_and_clear();
                    gauge.bar.set_draw_target(ProgressDrawTarget::hidden());
                }
            }
        }
    }

    fn json(&self, work: Option<&Work>) -> String {
        let seconds = rounded(self.started.elapsed());
        let reading = work.map_or_else(Reading::none, Work::reading);
        let current = work.map_or_else(Vec::new, Work::current);
        json_line(&Line { event: "progress", verb: &self.verb, seconds, reading, current })
    }

    fn text(&self, work: Option<&Work>) -> String {
        let mut parts = Vec::new();
        if let Some(work) = work {
            parts.push(work.reading().text());
            parts.extend(work.current().iter().map(Reading::text));
        }
        parts.retain(|part| !part.is_empty());
        let run = format!("running for {}", span(self.started.elapsed().as_secs()));
        parts.push(run);
        format!("mif {}: {}\n", self.verb, printable(&parts.join("; ")))
    }
}

impl Work {
    /// Returns true if there is something to tell.
    fn has_begun(&self) -> bool {
        self.images.is_some() || !self.gauge.bar.message().is_empty()
    }

    fn reading(&self) -> Reading {
        match self.images {
            Some(_) => Reading { phase: None, unit: Some("images"), ..self.gauge.read() },
            None => self.gauge.read(),
        }
    }

    fn current(&self) -> Vec<Reading> {
        self.images.iter().flat_map(|images| &images.gauges).map(|(_, gauge)| gauge.read()).collect()
    }
}

impl Gauge {
    fn read(&self) -> Reading {
        let phase = Some(self.bar.message()).filter(|phase| !phase.is_empty());
        let total = self.bar.length().filter(|total| *total > 0);
        let done = self.bar.position().min(total.unwrap_or(u64::MAX));
        let is_counted = total.is_some() || done > 0;
        let rate = Some(self.bar.per_sec()).filter(|rate| is_counted && rate.is_finite()).map(tenths);
        let left =
            total.zip(rate.filter(|rate| *rate > 0.0)).map(|(total, rate)| (total - done) as f64 / rate);
        let seconds_left = left.and_then(|left| Duration::try_from_secs_f64(left).ok()).map(rounded);
        let unit = is_counted.then_some("bytes");
        Reading { image: self.image.clone(), phase, unit, done, total, rate, seconds_left }
    }
}

impl Reading {
    fn none() -> Self {
        Reading { image: None, phase: None, unit: None, done: 0, total: None, rate: None, seconds_left: None }
    }

    fn text(&self) -> String {
        let mut facts = Vec::new();
        facts.extend(self.phase.clone());
        let amount = |n| if self.unit == Some("bytes") { size(n) } else { format!("{n}") };
        match (self.unit, self.total) {
            (Some("images"), total) => facts.push(format!("{} of {} images", self.done, total.unwrap_or(0))),
            (Some(_), Some(total)) => {
                let percent = u128::from(self.done) * 100 / u128::from(total);
                facts.push(format!("{} of {} ({percent} %)", amount(self.done), amount(total)));
                let rate = self.rate.filter(|rate| *rate >= 1.0);
                facts.extend(rate.map(|rate| format!("{}/s", amount(rate as u64))));
            }
            (Some(_), None) => facts.push(amount(self.done)),
            (None, _) => {}
        }
        facts.extend(self.seconds_left.map(|left| format!("{} left", span(left.round() as u64))));
        let facts = facts.join(", ");
        match &self.image {
            Some(image) if facts.is_empty() => image.clone(),
            Some(image) => format!("{image}: {facts}"),
            None => facts,
        }
    }
}

/// Returns seconds to a tenth.
fn rounded(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64())
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Formats a number of seconds for people.
fn span(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(image: Option<&str>, phase: &str, done: u64, total: u64) -> Gauge {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_message(phase.to_owned());
        bar.set_position(done);
        Gauge { image: image.map(str::to_owned), bar }
    }

    fn value(line: &str) -> serde_json::Value {
        assert!(line.ends_with('\n') && line.lines().count() == 1, "{line}");
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn work_of_a_known_size_has_a_total_and_other_work_has_none() {
        let board = Board::new("import", false);
        board.begin(gauge(Some("a\u{1b}b"), "importing", 512, 2048));
        let work = board.works().last().cloned();
        let line = value(&board.json(work.as_ref()));
        assert_eq!((&line["verb"], &line["image"]), (&"import".into(), &"a\u{1b}b".into()));
        assert_eq!(
            (&line["unit"], &line["done"], &line["total"]),
            (&"bytes".into(), &512.into(), &2048.into())
        );
        let text = board.text(work.as_ref());
        assert!(text.contains("importing, 512 B of 2.00 KiB (25 %)") && !text.contains('\u{1b}'), "{text}");
        board.begin(gauge(None, "planning", 0, 0));
        let work = board.works().last().cloned();
        let line = value(&board.json(work.as_ref()));
        assert_eq!(
            (&line["phase"], &line["unit"], &line["total"]),
            (&"planning".into(), &().into(), &().into())
        );
        assert_eq!(board.text(work.as_ref()), "mif import: planning; running for 0 s\n");
    }

    #[test]
    fn work_on_many_images_counts_them_and_names_those_in_progress() {
        let board = Board::new("import", false);
        let all = ProgressBar::with_draw_target(Some(3), ProgressDrawTarget::hidden());
        let key =
            board.begin_many(all.clone(), MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        let one = board.begin_image(gauge(Some("one"), "opening", 0, 0));
        board.begin_image(gauge(Some("two"), "importing", 1, 4));
        all.inc(1);
        let line = value(&board.json(board.works().last()));
        assert_eq!((&line["unit"], &line["done"], &line["total"]), (&"images".into(), &1.into(), &3.into()));
        let names: Vec<_> = line["current"].as_array().unwrap().iter().map(|work| &work["image"]).collect();
        assert_eq!(names, ["one", "two"]);
        board.end(one);
        let text = board.text(board.works().last());
        assert!(
            text.starts_with("mif import: 1 of 3 images")
                && text.contains("; two: importing, 1 B of 4 B (25 %)")
        );
        assert!(!text.contains("one"), "{text}");
        board.end(key);
        assert!(board.works().is_empty());
    }

    #[test]
    fn times_are_told_in_the_largest_units() {
        assert_eq!(
            [0, 59, 60, 3599, 3660].map(span),
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 1 min"]
        );
    }
}
