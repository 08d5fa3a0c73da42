//! `push --as kubevirt` and `kubevirt-disk`, and `pull` of what other programs have put into a registry.

use mif::store::{DiskForm, ForeignImage, Store, StorePlace};
use mif::{ExportOptions, ImportOptions, Platform, Result};
use mif_formats::container::OpenOptions;

use super::common::command_line;
use super::context::{Answer, Context};
use super::text::{self, printable, size};

impl Context {
    /// Pushes one image as a disk for KubeVirt.
    pub(super) fn push_for_kubevirt(&self, to: &StorePlace, images: &[String], form: DiskForm) -> Answer {
        let (option, what) = match form {
            DiskForm::Container => ("kubevirt", "a containerDisk"),
            DiskForm::Artifact => ("kubevirt-disk", "an artifact"),
        };
        let ([image], StorePlace::Registry(place)) = (images, to) else {
            return Err(mif::Error::usage(format!(
                "--as {option} takes one image and a registry: oci://HOST/REPOSITORY:TAG"
            )));
        };
        let image = self.open(image, &OpenOptions::default())?;
        let options = ExportOptions {
            target: Some(Platform::find("kubevirt")?),
            verify: true,
            ..ExportOptions::default()
        };
        let report = {
            let bar = self.image_bar(&image.label);
            mif::push_for_kubevirt(&image, place, form, &options, &bar)?
        };
        self.report(&report, |report| {
            format!(
                "{}: {} as {what}, {} disk; {} sent; {:.1} s\n",
                report.to,
                printable(&report.image),
                size(report.disk_size),
                size(report.bytes_sent),
                report.seconds
            )
        })?;
        Ok(true)
    }

    /// Imports what a tag names if another program has put it there. Returns `None` if it is an image of mif.
    pub(super) fn pull_foreign(&self, from: &StorePlace, name: Option<&str>) -> Result<Option<bool>> {
        let StorePlace::Registry(place) = from else { return Ok(None) };
        let Some(image) = ForeignImage::find(place)? else { return Ok(None) };
        let name = name.map(str::to_owned);
        let options = ImportOptions { name, command: command_line(), ..ImportOptions::default() };
        let _fresh = self.fresh_store();
        let report = {
            let bar = self.bar("pull");
            let store = Store::open_or_create(&self.global.store, &bar)?;
            mif::pull_foreign(&store, place, &image, &options, &bar)?
        };
        self.report(&report, text::import)?;
        self.warn(&report.warnings);
        Ok(Some(true))
    }
}
