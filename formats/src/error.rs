//! The error type of this crate: what kind of error occurred, where, what was found and what was expected.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error. Small and stable, because callers decide by it (exit codes, "skip this inode").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system could not read or write.
    Io,
    /// The bytes break their format's rules.
    Corrupt,
    /// Well-formed, but using something that this program does not do (encryption, an unknown feature).
    Unsupported,
    /// A claimed count, depth or size is over a named limit.
    Limit,
    /// The image names a file that it may not make us open.
    Denied,
    /// Something that was asked for or is needed is not there.
    NotFound,
}

/// The place of an error. Built by [`at`] and turned into an [`Error`] by one of its verbs:
///
/// ```
/// use mif_formats::at;
/// let error = at("qcow2 header").field("cluster_bits").byte(20).corrupt("is 5, expected 9 to 21");
/// assert_eq!(error.to_string(), "qcow2 header, cluster_bits, at byte 20: is 5, expected 9 to 21");
/// ```
#[derive(Debug, Clone, Default)]
pub struct At {
    file: Option<PathBuf>,
    structure: String,
    field: Option<&'static str>,
    byte: Option<u64>,
}

/// Starts the place of an error with a structure ("qcow2 header", "inode 12").
pub fn at(structure: impl Into<String>) -> At {
    At { structure: structure.into(), ..At::default() }
}

impl At {
    /// The field, by its name in the specification.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// The offset in bytes, in the file for a container, on the volume or disk for what lies inside.
    #[must_use]
    pub fn byte(mut self, byte: u64) -> Self {
        self.byte = Some(byte);
        self
    }

    /// The file.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    fn error(self, kind: ErrorKind, problem: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, at: self, problem: problem.into(), source: None }))
    }

    /// The bytes break the format's rules: what was found, and what was expected.
    #[must_use]
    pub fn corrupt(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Corrupt, problem)
    }

    /// The bytes are well-formed, but mif does not support them.
    #[must_use]
    pub fn unsupported(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Unsupported, problem)
    }

    /// A named limit is exceeded.
    #[must_use]
    pub fn limit(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Limit, problem)
    }

    /// A file that the image may not make us open.
    #[must_use]
    pub fn denied(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Denied, problem)
    }

    /// Something does not exist.
    #[must_use]
    pub fn not_found(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::NotFound, problem)
    }

    /// An error of the operating system.
    #[must_use]
    pub fn io(self, source: io::Error) -> Error {
        Error(Box::new(Inner {
            kind: ErrorKind::Io,
            at: self,
            problem: source.to_string(),
            source: Some(source),
        }))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            gap = ": ";
        }
        if !self.structure.is_empty() {
            write!(f, "{gap}{}", self.structure)?;
            gap = ", ";
        }
        if let Some(field) = self.field {
            write!(f, "{gap}{field}")?;
            gap = ", ";
        }
        if let Some(byte) = self.byte {
            write!(f, "{gap}at byte {byte}")?;
        }
        Ok(())
    }
}

/// An error of the formats layer.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    at: At,
    problem: String,
    source: Option<io::Error>,
}

impl Error {
    /// The kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> &At {
        &self.0.at
    }

    /// The problem, without the place.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// The same error in `file`, unless it already names a file.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.0.at.file.get_or_insert_with(|| file.to_owned());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.0.at.to_string();
        let gap = if place.is_empty() { "" } else { ": " };
        write!(f, "{place}{gap}{}", self.0.problem)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}
