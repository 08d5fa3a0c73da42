//! Verbs on many images: prints progress bars while they run and then a table, or a line of JSON for each event.

mod reread;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mif::store::{ImageName, Store};
use mif::{
    BatchExportOptions, BatchImportOptions, Division, ExportEvent, ImageCheck, ImportEvent, Progress,
    RereadEvent, RereadOptions, VerifyAllOptions, Watch,
};
use serde::Serialize;

use super::bar::Bars;
use super::context::{Answer, Context};
use super::print::{complain_of, json_line, print};

impl Context {
    pub(super) fn import_all(&self, paths: &[PathBuf], options: &BatchImportOptions) -> Answer {
        let store = Store::open_or_create(&self.global.store, &self.bar("store"))?;
        let table = Mutex::new(text::ImportTable::default());
        // Errors and warnings are printed as they occur, everything else in the table.
        let watcher = self.watcher(|event: &ImportEvent| {
            if let ImportEvent::Failed { error, .. } = event {
                complain_of(error);
            }
            if let ImportEvent::Finished(report) = event {
                let named = |warning: &String| format!("{}: {warning}", report.image);
                self.warn(&report.warnings.iter().map(named).collect::<Vec<_>>());
            }
            table.lock().expect("not poisoned").add(event)
        });
        let done = mif::import_all(&store, paths, options, &watcher);
        drop(watcher);
        if !self.global.json && !self.quiet {
            print(&table.into_inner().expect("not poisoned").finish())?;
        }
        let done = done?;
        if done.damage_left {
            complain_of(
                "the store still has damaged copies of some objects; remove them with `mif fsck --repair`",
            );
        }
        Ok(done.failed == 0 && !done.damage_left)
    }

    pub(super) fn export_all(&self, folder: &Path, options: &BatchExportOptions) -> Answer {
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let table = Mutex::new(text::ExportTable::default());
        let watcher = self.watcher(|event: &ExportEvent| {
            match event {
                ExportEvent::Failed { error, .. } => complain_of(error),
                ExportEvent::Finished(report) => self.warn(&report.warnings),
                ExportEvent::Started { .. } | ExportEvent::Elsewhere { .. } | ExportEvent::Summary(_) => {}
            }
            table.lock().expect("not poisoned").add(event)
        });
        let done = mif::export_all(&store, folder, options, &watcher);
        drop(watcher);
        if !self.global.json && !self.quiet {
            print(&table.into_inner().expect("not poisoned").finish())?;
        }
        Ok(done?.failed == 0)
    }

    pub(super) fn reread_all(&self, store: &Store, names: &[ImageName], options: &RereadOptions) -> Answer {
        let table = Mutex::new(reread::RereadTable::default());
        let watcher = self.watcher(|event: &RereadEvent| {
            match event {
                RereadEvent::Failed { error, .. } => complain_of(error),
                RereadEvent::Finished(report) => {
                    let named = |warning: &String| format!("{}: {warning}", report.image);
                    self.warn(&report.warnings.iter().map(named).collect::<Vec<_>>());
                }
                _ => {}
            }
            table.lock().expect("not poisoned").add(event)
        });
        let done = mif::reread_all(store, names, options, &watcher);
        drop(watcher);
        if !self.global.json && !self.quiet {
            print(&table.into_inner().expect("not poisoned").finish())?;
        }
        Ok(done?.failed == 0)
    }

    pub(super) fn verify_all(&self, options: &VerifyAllOptions) -> Answer {
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let report = {
            // There is a single report at the end.
            let watcher = Watcher { json: false, bars: self.bars(), tell: |_: &ImageCheck| true };
            mif::verify_all(&store, options, &watcher)?
        };
        // What --against found is about the originals.
        let whole = report.problems.is_empty() && report.images.iter().all(|image| image.whole);
        if options.division == Division::Alone {
            store.note_check("verify --all", if whole { "whole" } else { "damaged" });
        }
        self.report(&report, text::library)?;
        Ok(report.good)
    }

    /// Returns what shows the events of a batch: as lines of JSON if requested, and with `tell`.
    fn watcher<E, F: Fn(&E) -> bool + Sync>(&self, tell: F) -> Watcher<F> {
        Watcher { json: self.global.json, bars: self.bars(), tell }
    }

    fn bars(&self) -> Bars {
        Bars::new(self.drawing.clone())
    }
}

/// Shows the events of work on many images.
struct Watcher<F> {
    /// True to print each event as a line of JSON when it occurs.
    json: bool,
    bars: Bars,
    /// Called with every event while the bars are hidden. Returns true if it was the last event of an image.
    tell: F,
}

impl<E: Serialize, F: Fn(&E) -> bool + Sync> Watch<E> for Watcher<F> {
    fn total(&self, images: usize) {
        self.bars.total(images);
    }

    fn begin<'w>(&'w self, label: &str) -> Box<dyn Progress + 'w> {
        Box::new(self.bars.begin(label))
    }

    fn event(&self, event: E) {
        let last = self.bars.aside(|| {
            if self.json {
                // If standard output is closed or full, the work goes on.
                let _ = std::io::stdout().write_all(json_line(&event).as_bytes());
            }
            (self.tell)(&event)
        });
        if last {
            self.bars.done();
        }
    }
}
