//! `mif` as a library: the store, and each verb of the program as a function that takes plain arguments, reports its
//! progress through a trait, and returns a serialisable report.
//!
//! A disk goes into a store, and comes out again with every bit intact:
//!
//! ```
//! use mif::store::Store;
//! use mif::{ExportOptions, ImportOptions, OpenImage, Silent, export, import};
//!
//! # fn main() -> mif::Result<()> {
//! # let work = tempfile::tempdir().unwrap();
//! # let (disk, back) = (work.path().join("disk.raw"), work.path().join("back.qcow2"));
//! # std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
//! let store = Store::open_or_create(&work.path().join("store"), &Silent)?;
//! let report = import(&store, &disk, &ImportOptions::default(), &Silent)?;
//! assert_eq!((report.image.as_str(), report.result), ("disk@1", "imported"));
//!
//! let image = OpenImage::stored(&store, &report.image.parse()?)?;
//! let options = ExportOptions { verify: true, ..ExportOptions::default() };
//! export(&image, &back, &options, &Silent)?;
//! # let back = OpenImage::open(back.to_str().unwrap(), work.path(), &Default::default(), &Silent)?;
//! # assert!(mif::verify(&image, &back, &Silent)?.same_bits);
//! # Ok(())
//! # }
//! ```
//!
//! A failure is an [`Error`] with a [`Code`] to match on, a message, and usually a sentence that says what to do.
//! `examples/` contains programs that list an image, import and export, and edit files.
//!
//! Features, all on by default: `cli` (the program `mif`), `independent` (comparison with independent readers) and
//! `rpm-sqlite` (package databases that need SQLite).

#![forbid(unsafe_code)]

mod boot;
mod care;
mod catalog;
mod compose;
mod deliver;
mod disk;
mod edit;
mod error;
mod extract;
mod guest;
mod host;
mod image;
#[cfg(feature = "independent")]
pub mod independent;
mod ingest;
mod merge;
mod mkdisk;
mod notation;
mod rebuild;
pub mod store;
mod task;
#[cfg(test)]
mod testing;
mod tree;
mod verbs;

pub use boot::machine::{Card, Controller, Firmware, HARDWARE, Hardware};
pub use boot::{Affects, Finding, Judgement, Subject};
pub use care::fsck::fsck;
pub use care::gc::{GcOptions, GcReport, Period, gc};
pub use care::report::{FsckOptions, FsckReport, LostImage, Verdict};
pub use catalog::{CatalogOptions, CatalogReport, CatalogRows};
pub use deliver::platform::{Form, Machine, PLATFORMS, Platform, Rule, Wrapper};
pub use disk::scan::{Scan, ScannedVolume};
pub use disk::volume::{DiskOffset, VolumeExtent, VolumeOffset};
pub use edit::{
    CustomizeOptions, CustomizeReport, Customized, PLACEHOLDER, Recipe, Variables, customize, is_secret_file,
    read_instances,
};
pub use error::{Code, Error, Result};
pub use extract::{ExtractReport, NotSet, Target, extract};
pub use guest::boot::Boot;
pub use guest::os::Os;
pub use guest::probe::Kernel;
pub use guest::system::{OtherRoot, System};
pub use guest::versions::{compare_versions, version_key};
pub use image::{OpenImage, Origin, is_path};
pub use merge::{
    Conflict, ImageResult, Left, UpdateCounts, UpdateOptions, UpdateReport, UpdatedImage, Winner, update,
};
pub use mif_formats::mif::packages::Package;
pub use mkdisk::{BuildOptions, BuildReport, BuiltVolume, build};
pub use rebuild::{
    BootBy, IdChange, IdsReport, NewIds, RebuildOptions, RebuildReport, Reshape, Size, rebuild,
};
pub use store::volume_name;
pub use task::pool::with_threads;
pub use task::progress::{Progress, Silent};
pub use tree::path::VolumePath;
pub use tree::view::Tree;
pub use verbs::batch::{
    BatchExportOptions, BatchImportOptions, Comparison, Division, ExportEvent, ExportSummary, ImageCheck,
    ImportEvent, ImportSummary, LibraryReport, NamePattern, PassedOver, RereadEvent, RereadSummary,
    VerifyAllOptions, Watch, disk_images, export_all, import_all, reread_all, verify_all,
};
pub use verbs::change::replace::replace;
pub use verbs::check::{
    CheckOptions, CheckReport, FixOptions, FixReport, Verdict as BootVerdict, check, check_and_fix,
};
pub use verbs::choose::{ChosenImages, ImageFilter, Versions};
pub use verbs::inspect::bom::{Bom, BomFormat, Document, bom};
pub use verbs::inspect::cat::cat;
pub use verbs::inspect::diff::{
    Cause, Change, ChangeKind, DiffCounts, DiffOptions, DiffReport, FieldChange, Group, Grouping, diff,
};
pub use verbs::inspect::groups::{group_hits, group_packages};
pub use verbs::inspect::info::{ImageInfo, ToldImage, info};
pub use verbs::inspect::ls::{LsEntry, LsOptions, LsReport, ls};
pub use verbs::inspect::map::{DiskMap, MapCell, MapPart, map};
pub use verbs::inspect::packages::{ImagePackage, PackageGroup, PackageQuery, PackagesReport, packages};
pub use verbs::inspect::search::{Hit, HitGroup, PathGlob, Query, SearchReport, WantedContents, search};
pub use verbs::library::catalog::{CatalogRemoval, catalog, remove_catalog};
pub use verbs::library::log::{LogEntry, LogReport, log, tag, untag};
pub use verbs::library::page::{DirectoryBytes, LargeContent, PageReport, page};
pub use verbs::library::rm::{RmOptions, RmReport, rm};
pub use verbs::library::stats::{FileBytes, Growth, ImageShare, Similarity, StatsReport, stats};
pub use verbs::library::status::{CatalogStatus, Checked, StatusReport, status};
#[cfg(feature = "remote")]
pub use verbs::transfer::container_disk::{ContainerDiskReport, pull_foreign, push_for_kubevirt};
pub use verbs::transfer::copy::{CopiedImage, CopyReport, copy, named_images};
pub use verbs::transfer::export::{ExportOptions, ExportReport, export};
pub use verbs::transfer::import::{ImportOptions, ImportReport, import};
pub use verbs::transfer::reread::{RereadOptions, RereadReport, reread};
pub use verbs::transfer::verify::{BitsReport, FilesReport, PlaceReport, VerifyReport, verify};
