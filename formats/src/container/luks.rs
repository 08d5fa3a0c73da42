//! A raw file that is a LUKS volume, as plaintext: qemu-img's format `luks`.
//!
//! The format is never detected, because such a file is a raw disk as well, whose bytes can be kept as they are. It is
//! opened if the user or an overlay names it.

use std::sync::Arc;

use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output};
use crate::error::{Result, at};
use crate::luks::{Budget, Header};
use crate::source::Source;

pub(super) struct Luks;

impl Format for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn probe(&self, _: &[u8], _: &[u8], _: u64) -> bool {
        false
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let files = vec![file.opened()];
        let name = file.name();
        let header = Header::read(&file)?
            .ok_or_else(|| at("LUKS header").field("magic").byte(0).corrupt("this is not a LUKS volume"))?;
        let (what, warnings) = (header.info.describe(), header.warnings.clone());
        let plain = header.open(Arc::new(file), &opener.options().passphrases, &mut Budget::default())?;
        Ok(Disk {
            source: Arc::new(plain),
            format: "luks",
            details: vec![("encryption".to_owned(), what.clone())],
            files,
            own_files: 1,
            warnings,
            decrypted: vec![format!("{name}: {what}")],
        })
    }

    fn create(&self, _: &dyn Source, output: &mut Output, _: &CreateOptions, _: &dyn Observer) -> Result<()> {
        Err(at("").file(output.target()).unsupported("mif reads LUKS volumes but does not write them"))
    }
}
