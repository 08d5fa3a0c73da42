//! The error type of the program: what went wrong, what to do, and the exit code.

use std::path::Path;
use std::{fmt, io};

use mif_formats::ErrorKind;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of failure, which is also the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// The request is invalid.
    Usage = 2,
    /// The input is missing, damaged or refused.
    Input = 3,
    /// The input is well-formed, but not supported.
    Unsupported = 4,
    /// The store is damaged, or the operating system failed to read or write.
    Store = 5,
    /// The [`Progress`](crate::Progress) passed to the verb requested an interrupt. The program exits with the code of
    /// the signal it received, which is this for SIGINT.
    Interrupted = 130,
}

/// A failure.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    advice: Option<String>,
    unreadable: bool,
    several: bool,
}

impl Error {
    /// Returns a failure with its code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), advice: None, unreadable: false, several: false }
    }

    /// Returns an error for an invalid request.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Returns an error for input that is missing, damaged or refused.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Code::Input, message)
    }

    /// Returns an error for input that is not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, message)
    }

    /// Returns an error for a damaged store.
    pub fn store(message: impl Into<String>) -> Self {
        Self::new(Code::Store, message)
    }

    /// Returns an error of the operating system at `path`.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        Self::file(&path.display().to_string(), error)
    }

    /// Returns an error of the operating system at the file called `name`, or of a damaged file.
    pub(crate) fn file(name: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, NotFound, UnexpectedEof};
        let damaged = matches!(error.kind(), NotFound | UnexpectedEof | FileTooLarge | InvalidData);
        Error { unreadable: !damaged, ..Self::store(format!("{name}: {error}")) }
    }

    /// Adds a sentence that says what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds the place of the failure, such as a volume or an edit.
    #[must_use]
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Adds the name of the image of many that the error is about.
    #[must_use]
    pub fn named(self, image: &str) -> Self {
        self.within(image)
    }

    /// Marks the error as one of a file that this program cannot judge: it may be intact.
    #[must_use]
    pub(crate) fn unjudged(mut self) -> Self {
        self.unreadable = true;
        self
    }

    /// Returns true if a file could not be read (permissions, an I/O error, too few descriptors, a feature that this
    /// program does not know). It may be intact or damaged.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Returns true if the file has several disks, and none was named.
    #[must_use]
    pub fn has_several_disks(&self) -> bool {
        self.several
    }

    /// Sets another exit code.
    #[must_use]
    pub(crate) fn coded(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Returns the exit code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns what went wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns what to do.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(advice) = &self.advice {
            write!(f, ". {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// An error in reading an image. (For the store's own files, `damaged` makes the error.)
impl From<mif_formats::Error> for Error {
    fn from(error: mif_formats::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Io => Code::Store,
            ErrorKind::Corrupt
            | ErrorKind::Limit
            | ErrorKind::Denied
            | ErrorKind::NotFound
            | ErrorKind::Ambiguous => Code::Input,
            ErrorKind::Unsupported => Code::Unsupported,
        };
        let several = error.kind() == ErrorKind::Ambiguous;
        Error { several, ..Error::new(code, error.to_string()) }
    }
}

/// Separates damage from failure to read: the inner error is damage, the outer one means that the file could not be
/// read and may be intact.
pub(crate) fn readable<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(e) if e.is_unreadable() => Err(e),
        result => Ok(result),
    }
}

/// Returns the error of a damaged file of the store, at `place` in it.
pub(crate) fn damaged(place: &str, error: &mif_formats::Error) -> Error {
    Error::store(format!("store: {place}: {error}"))
}
