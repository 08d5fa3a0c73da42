//! Local files that a flag or a recipe names: regular files, with a size limit for each kind.
//!
//! A device has no end, and nobody may ever write to a FIFO, so neither is accepted. But a file that was already open
//! when the program started (`/dev/stdin`, `/dev/fd/3`, as in a shell's `<(…)`) may be a pipe: the user put it there.
//! The size limits apply to it too.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mif_formats::beneath::open_regular;

use crate::error::{Error, Result};

/// The maximum length of a recipe, template, key, password file, description, table of instances and the like, in
/// bytes.
pub(crate) const MAX_TEXT: u64 = 16 << 20;
/// The maximum length of a file that becomes a file of an image, is searched for, or lists digests, in bytes.
pub(crate) const MAX_CONTENT: u64 = 64 << 30;

/// Opens the file at `path`. Reading fails after `limit` bytes.
pub(crate) fn open(path: &Path, limit: u64) -> Result<Limited> {
    let failed = |e: io::Error| Error::io(path, &e);
    let opened = if is_inherited(path) { File::open(path) } else { open_regular(path) };
    let file = opened.map_err(|e| match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            Error::input(format!("{}: not a regular file", path.display()))
                .advise("Pass a regular file, not a device or a named pipe")
        }
        _ if e.kind() == io::ErrorKind::NotFound => Error::input(format!("{}: no such file", path.display())),
        _ => failed(e),
    })?;
    let len = file.metadata().map_err(failed)?.len();
    if len > limit {
        return Err(too_long(path, len, limit));
    }
    Ok(Limited { file: file.take(limit + 1), limit })
}

/// Reads the whole file at `path`, at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, limit)?.read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    Ok(bytes)
}

/// Reads the text file at `path`, at most [`MAX_TEXT`] bytes of UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path, MAX_TEXT)?)
        .map_err(|_| Error::input(format!("{}: not UTF-8", path.display())))
}

/// A file whose reads fail if it is too long.
pub(crate) struct Limited {
    file: io::Take<File>,
    limit: u64,
}

impl Read for Limited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buf)?;
        if self.file.limit() == 0 {
            return Err(io::Error::other(format!(
                "the file is longer than the limit of {} bytes",
                self.limit
            )));
        }
        Ok(read)
    }
}

fn too_long(path: &Path, len: u64, limit: u64) -> Error {
    Error::input(format!("{}: the file has {len} bytes, over the limit of {limit}", path.display()))
}

/// Returns true if a path names a file that was open when the program started.
fn is_inherited(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// Returns in one line where and how a file in TOML is wrong: `line 3, column 1: unknown field …`.
pub(crate) fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read_and_nothing_waits() {
        let work = tempfile::tempdir().unwrap();
        let at = |name: &str| work.path().join(name);
        std::fs::write(at("good"), "text").unwrap();
        std::fs::write(at("latin"), b"\xe9").unwrap();
        File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), kind, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read_text(&at("good")).unwrap(), "text");
        assert_eq!(read(&at("good"), 4).unwrap(), b"text");
        let error = |path: &Path, limit| read(path, limit).unwrap_err().to_string();
        assert!(error(&at("good"), 3).contains("4 bytes"));
        assert!(error(&at("sparse"), MAX_CONTENT).contains("1099511627776 bytes"));
        assert!(error(&at("fifo"), 9).contains("not a regular file"));
        assert!(error(Path::new("/dev/zero"), 9).contains("not a regular file"));
        assert!(error(work.path(), 9).contains("directory"));
        assert!(read_text(&at("latin")).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn a_file_without_end_stops_at_the_limit() {
        let mut file = Limited { file: File::open("/dev/zero").unwrap().take(10), limit: 9 };
        let mut bytes = Vec::new();
        assert!(file.read_to_end(&mut bytes).unwrap_err().to_string().contains("the limit of 9 bytes"));
    }
}
