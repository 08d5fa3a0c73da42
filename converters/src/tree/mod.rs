//! The files of an image as rows, for reading and editing: path resolution, mounts, and the place of content.

pub(crate) mod content;
pub(crate) mod discover;
pub(crate) mod edit;
pub(crate) mod fstab;
pub(crate) mod mounts;
pub(crate) mod new_content;
pub(crate) mod partial;
pub(crate) mod path;
pub(crate) mod roots;
pub(crate) mod rows;
pub(crate) mod subvolumes;
pub(crate) mod view;
