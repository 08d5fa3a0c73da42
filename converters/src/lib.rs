//! `mif` as a library: the store, and each verb of the program as a function that takes plain arguments,
//! reports its progress through a trait, and returns a report that serialises.

#![forbid(unsafe_code)]

mod acl;
mod batch;
mod build;
mod cat;
mod customize;
mod diff;
mod error;
mod export;
mod extract;
mod files;
mod fsck;
mod gc;
mod image;
mod import;
pub mod independent;
mod info;
mod log;
mod ls;
mod mounts;
mod named;
mod packages;
mod progress;
mod rebuild;
mod rm;
mod rows;
mod scan;
mod search;
mod stats;
pub mod store;
mod temporary;
mod tree;
mod update;
pub mod verify;

pub use batch::{
    BatchExportOptions, BatchImportOptions, Comparison, ExportEvent, ExportSummary, ImageCheck, ImportEvent,
    ImportSummary, LibraryReport, NamePattern, PassedOver, VerifyAllOptions, Watch, disk_images, export_all,
    import_all, verify_all,
};
pub use build::{BuildOptions, BuildReport, BuiltVolume, build};
pub use cat::cat;
pub use customize::{
    CustomizeOptions, CustomizeReport, Customized, PLACEHOLDER, Recipe, Variables, customize, is_secret_file,
    read_instances,
};
pub use diff::{Change, ChangeKind, DiffCounts, DiffOptions, DiffReport, FieldChange, Group, Grouping, diff};
pub use error::{Code, Error, Result};
pub use export::{ExportOptions, ExportReport, export};
pub use extract::{ExtractReport, NotSet, Target, extract};
pub use fsck::{FsckOptions, FsckReport, LostImage, Verdict, fsck};
pub use gc::{GcOptions, GcReport, gc};
pub use image::{OpenImage, Origin, is_path};
pub use import::{ImportOptions, ImportReport, import};
pub use info::{Boot, ImageInfo, Kernel, Os, OtherRoot, System, info};
pub use log::{LogEntry, LogReport, log, tag, untag};
pub use ls::{Listing, LsEntry, LsOptions, ls};
pub use packages::{ImagePackage, Package, PackagesReport, packages};
pub use progress::{Progress, Silent};
pub use rebuild::{IdChange, IdsReport, NewIds, RebuildOptions, RebuildReport, Reshape, Size, rebuild};
pub use rm::{RmReport, rm};
pub use scan::{Scan, ScannedVolume, VolumeExtent};
pub use search::{Contents, Hit, PathGlob, Query, SearchReport, search};
pub use stats::{FileBytes, ImageShare, Similarity, StatsReport, stats};
pub use tree::{Tree, VolumePath};
pub use update::{
    Conflict, ImageResult, Left, UpdateCounts, UpdateOptions, UpdateReport, UpdatedImage, Winner, replace,
    update,
};

/// The name of the volume on a partition: `p` and its slot.
#[must_use]
pub fn volume_name(slot: u32) -> String {
    format!("p{slot}")
}
