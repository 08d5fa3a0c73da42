//! The context that all verbs share: global arguments, and how to report an answer.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use mif::store::{DamagedImage, Store, StorePlace};
use mif::{Error, OpenImage, Result};
use mif_formats::container::OpenOptions;
use mif_formats::text::printable_lines;
use serde::Serialize;

use super::bar::{Bar, Drawing};
use super::common::{Global, NewStore, group_number};
use super::pager::print_paged;
use super::print::{complain_of, print, print_exactly, print_json, warn};
use super::signals::Stop;

/// The answer of a verb: true for exit code 0, false for 1.
pub(super) type Answer = Result<bool>;

/// A run of the program.
pub(super) struct Context {
    pub(super) global: Global,
    /// True if reports are not printed either, because the verb was not asked a question.
    pub(super) quiet: bool,
    pub(super) drawing: Drawing,
    pub(super) stop: Arc<Stop>,
}

/// A store that this run may create. If the run leaves no image in a store that was new, the store is removed again.
pub(super) struct FreshStore<'a> {
    place: &'a StorePlace,
    is_new: bool,
    is_new_directory: bool,
}

impl Drop for FreshStore<'_> {
    fn drop(&mut self) {
        if self.is_new && Store::exists(self.place).is_ok_and(|there| there) {
            // A store without images is harmless.
            let _ = Store::discard_unused(self.place, self.is_new_directory);
        }
    }
}

impl Context {
    /// Must be called before the store is created, and the result dropped after the store is closed.
    pub(super) fn fresh_store(&self) -> FreshStore<'_> {
        let place = &self.global.store;
        let is_missing = |path: &Path| path.symlink_metadata().is_err();
        match place.directory() {
            Some(path) => {
                let is_new = is_missing(&path.join("store.json"));
                FreshStore { place, is_new, is_new_directory: is_missing(path) }
            }
            None => {
                let is_new = Store::exists(place).is_ok_and(|there| !there);
                FreshStore { place, is_new, is_new_directory: false }
            }
        }
    }

    /// Creates the store if `--shared` is given.
    pub(super) fn make_shared(&self, new: &NewStore) -> Result<()> {
        let Some(group) = &new.shared else { return Ok(()) };
        let store = &self.global.store;
        if Store::exists(store)? {
            return Err(Error::usage(format!("{store}: --shared works only for a new store, and this one already exists"))
                .advise("Change its group and modes with chgrp and chmod; new files get the permissions of its directory"));
        }
        Store::make(store, Some(group_number(group)?))
    }

    pub(super) fn open(&self, image: &str, options: &OpenOptions) -> Result<OpenImage> {
        OpenImage::open(image, &self.global.store, options, &self.image_bar(image))
    }

    /// Returns the progress of work that is not about one image.
    pub(super) fn bar(&self, label: &str) -> Bar {
        Bar::new(label, false, self.drawing.clone())
    }

    /// Returns the progress of work on an image.
    pub(super) fn image_bar(&self, image: &str) -> Bar {
        Bar::new(image, true, self.drawing.clone())
    }

    pub(super) fn report<R: Serialize>(&self, report: &R, text: impl Fn(&R) -> String) -> Result<()> {
        match (self.global.json, self.quiet) {
            (true, _) => print_json(report),
            (false, true) => Ok(()),
            (false, false) => print(&text(report)),
        }
    }

    /// Prints a report through a pager, if it goes to a terminal.
    pub(super) fn report_paged<R: Serialize>(
        &self,
        report: &R,
        no_pager: bool,
        text: impl Fn(&R) -> String,
    ) -> Result<()> {
        if self.global.json || self.quiet {
            return self.report(report, text);
        }
        print_paged(&printable_lines(&text(report)), no_pager, &self.stop)
    }

    /// Prints a report as a table for programs: byte for byte, unless standard output is a terminal.
    pub(super) fn table<R: Serialize>(&self, report: &R, table: impl Fn(&R) -> String) -> Result<()> {
        match self.global.json || io::stdout().is_terminal() {
            true => self.report(report, table),
            false => print_exactly(&table(report)),
        }
    }

    /// Prints the damaged images that a verb skipped; returns true if there are none.
    pub(super) fn none_damaged(&self, images: &[DamagedImage]) -> bool {
        for DamagedImage { image, problem } in images {
            complain_of(&format!("{image}: {problem}"));
        }
        if !images.is_empty() {
            complain_of("run `mif fsck` to check the store; it prints the command that repairs it");
        }
        images.is_empty()
    }

    /// Prints warnings on standard error, so that standard output contains only the answer. JSON reports include them.
    pub(super) fn warn(&self, warnings: &[String]) {
        if !self.global.json && !self.global.quiet {
            warnings.iter().for_each(|warning| warn(warning));
        }
    }
}
