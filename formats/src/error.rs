//! The error type of this crate. An error has a kind, a place, and a sentence with the found and the expected value.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error. Small and stable, because callers base decisions on it (exit codes, "skip this inode").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system could not read or write.
    Io,
    /// The bytes break their format's rules.
    Corrupt,
    /// The bytes are well-formed, but use something that this program does not support (encryption, an unknown
    /// feature).
    Unsupported,
    /// A claimed count, depth or size exceeds a named limit.
    Limit,
    /// The image refers to a file that it may not make us open, or no key that was given opens what is encrypted.
    Denied,
    /// Something that was requested or is needed does not exist.
    NotFound,
    /// Several things fit, and the user has to choose one: a file with several disks.
    Ambiguous,
}

/// The place of an error. Built by [`at`] and turned into an [`Error`] by one of its methods:
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
    /// Adds the field, by its name in the specification.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// Adds the offset in bytes: in the file for a container, otherwise on the volume or disk.
    #[must_use]
    pub fn byte(mut self, byte: u64) -> Self {
        self.byte = Some(byte);
        self
    }

    /// Adds the file.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    fn error(self, kind: ErrorKind, problem: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, at: self, problem: problem.into(), source: None }))
    }

    /// Creates an error for bytes that break the format's rules: what was found, and what was expected.
    #[must_use]
    pub fn corrupt(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Corrupt, problem)
    }

    /// Creates an error for well-formed bytes that mif does not support.
    #[must_use]
    pub fn unsupported(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Unsupported, problem)
    }

    /// Creates an error for exceeding a named limit.
    #[must_use]
    pub fn limit(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Limit, problem)
    }

    /// Creates an error for a file that the image may not make us open.
    #[must_use]
    pub fn denied(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Denied, problem)
    }

    /// Creates an error for something that does not exist.
    #[must_use]
    pub fn not_found(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::NotFound, problem)
    }

    /// Creates an error for several things of which the user has to choose one.
    #[must_use]
    pub fn ambiguous(self, problem: impl Into<String>) -> Error {
        self.error(ErrorKind::Ambiguous, problem)
    }

    /// Creates an error of the operating system.
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
    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the place of this error.
    #[must_use]
    pub fn at(&self) -> &At {
        &self.0.at
    }

    /// Returns the problem, without the place.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// Returns the same error in `file`, unless it already names a file.
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
