//! The verbs that keep a library of images: their arguments, and their reports as text.

mod args;
mod text;

use mif::store::{ImageName, Store};
use mif::{FsckOptions, GcOptions, Result};

pub(super) use self::args::Library;
use super::{Answer, Context, open_options};

impl Context {
    pub(super) fn library(&self, command: Library) -> Answer {
        let path = &self.global.store;
        match command {
            Library::Log { name } => {
                let name = name.map(|name| name.parse::<ImageName>()).transpose()?;
                let store = Store::open(path)?;
                self.report(&mif::log(&store, name.as_ref().map(|n| n.name.as_str()))?, text::log)?;
            }
            Library::Tag { image, tag, delete } => {
                let (store, image) = (Store::open(path)?, image.parse()?);
                let (tag, verb) = match tag {
                    Some(tag) if !delete => (mif::tag(&store, &image, &tag)?, "is"),
                    _ => (mif::untag(&store, &image)?, "is no longer"),
                };
                self.report(&tag, |tag| text::tag(tag, verb))?;
            }
            Library::Rm { images, force } => {
                let names = images.iter().map(|name| name.parse()).collect::<Result<Vec<ImageName>>>()?;
                let report = mif::rm(path, &names, force, &self.bar("rm"))?;
                self.report(&report, text::rm)?;
            }
            Library::Gc { keep_last, keep_within, dry_run } => {
                let options = GcOptions { keep_last, keep_within, dry_run };
                let report = mif::gc(path, &options, &self.bar("gc"))?;
                self.report(&report, text::gc)?;
                self.warn(&report.warnings);
            }
            Library::Fsck { repair, from, open } => {
                let options = FsckOptions { repair, from, open: open_options(open) };
                let report = mif::fsck(path, &options, &self.bar("fsck"))?;
                self.report(&report, text::fsck)?;
                return Ok(report.clean);
            }
            Library::Stats { similarity } => {
                let report = mif::stats(&Store::open(path)?, similarity, &self.bar("stats"))?;
                self.report(&report, text::stats)?;
            }
        }
        Ok(true)
    }
}
