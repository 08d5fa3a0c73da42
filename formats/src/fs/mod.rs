//! Filesystems on a volume: their contents, and the location of each file's bytes.
//!
//! A filesystem is a directory here with a [`Driver`], and a line in [`DRIVERS`]; a program can add its own with
//! [`add_driver`]. Code outside that directory does not test which filesystem it has; it asks the [`Capabilities`].
//! [`open`] finds the driver for a volume; [`walk`](walk::walk) lists a whole volume.

pub mod btrfs;
mod capabilities;
pub mod driver;
pub mod ext4;
pub mod fat;
mod filesystem;
pub mod listing;
mod node;
pub mod ntfs;
mod pieces;
pub mod plan;
mod ranges;
pub mod recognize;
mod registry;
mod utf16;
pub mod walk;
pub mod xfs;

pub use self::capabilities::Capabilities;
pub use self::driver::Driver;
pub use self::filesystem::{Content, DirEntry, Encoded, Field, FieldValue, Filesystem, Info, NodeId, Piece};
pub use self::node::{FileId, FileType, Node, NtfsNode, Timestamp, Xattr};
pub use self::registry::{DRIVERS, Recognized, add_driver, driver, drivers, is_filesystem, is_known, open};
