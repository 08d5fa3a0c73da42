//! Files of the local machine: those that the user names, temporary ones, and the form of their ACLs.

pub(crate) mod acl;
pub(crate) mod named;
pub(crate) mod temporary;
