//! The files of an image as rows: where paths lead, what is mounted where, where content lies; to look at and to edit.

pub(crate) mod content;
pub(crate) mod edit;
pub(crate) mod mounts;
pub(crate) mod new_content;
pub(crate) mod path;
pub(crate) mod rows;
pub(crate) mod view;
