//! Filesystems on a volume: what is in them, and where on the volume each file's bytes lie.
//!
//! A filesystem is a directory here with a [`Driver`], and a line in [`DRIVERS`]; a program that
//! has one of its own gives it to [`add_driver`]. Code outside its directory does not
//! test which filesystem it has; it asks the [`Capabilities`]. [`open`] finds the right one for a volume;
//! [`walk`](walk::walk) lists a whole volume.

mod capabilities;
pub mod driver;
pub mod ext4;
pub mod fat;
mod filesystem;
mod node;
pub mod plan;
pub mod recognize;
mod registry;
pub mod walk;
pub mod xfs;

pub use self::capabilities::Capabilities;
pub use self::driver::Driver;
pub use self::filesystem::{Content, DirEntry, Filesystem, Info, NodeId, Piece};
pub use self::node::{FileId, FileType, Node, NtfsNode, Timestamp, Xattr};
pub use self::registry::{DRIVERS, Recognized, add_driver, driver, drivers, is_filesystem, is_known, open};
