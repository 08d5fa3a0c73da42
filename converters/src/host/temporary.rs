//! Temporary directories for content of images: only their owner may access them, whatever the umask.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// Creates a directory that is removed when the result is dropped.
pub(crate) fn directory() -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("mif-").permissions(Permissions::from_mode(0o700)).tempdir();
    made.map_err(|e| Error::io(&std::env::temp_dir(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_look_into_a_temporary_directory() {
        let mode = directory().unwrap().path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
