//! The error of the program: what went wrong, in words, what to do, and the exit code for it.

use std::path::Path;
use std::{fmt, io};

use mif_formats::ErrorKind;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure, which is also the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// The request makes no sense as it stands.
    Usage = 2,
    /// The input is missing, damaged or refused.
    Input = 3,
    /// The input is well-formed, but this program does not do it.
    Unsupported = 4,
    /// The store is damaged, or the operating system failed to read or write.
    Store = 5,
    /// The [`Progress`](crate::Progress) that the verb was given asked for the end. The program ends with the number of the
    /// signal that it got, which is this for SIGINT.
    Interrupted = 130,
}

/// A failure.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    advice: Option<String>,
    unreadable: bool,
}

impl Error {
    /// A failure with its code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), advice: None, unreadable: false }
    }

    /// The request makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The input is missing, damaged or refused.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Code::Input, message)
    }

    /// Not done by this program.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, message)
    }

    /// The store is damaged.
    pub fn store(message: impl Into<String>) -> Self {
        Self::new(Code::Store, message)
    }

    /// The operating system failed at `path`.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        Self::file(&path.display().to_string(), error)
    }

    /// The operating system failed at the file called `name`, or the file is damaged.
    pub(crate) fn file(name: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, NotFound, UnexpectedEof};
        let damaged = matches!(error.kind(), NotFound | UnexpectedEof | FileTooLarge | InvalidData);
        Error { unreadable: !damaged, ..Self::store(format!("{name}: {error}")) }
    }

    /// The same, with a sentence of what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same, said of a volume, an edit, or whatever else it happened in.
    #[must_use]
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same, of a file that this program cannot judge: it may be whole.
    #[must_use]
    pub(crate) fn unjudged(mut self) -> Self {
        self.unreadable = true;
        self
    }

    /// Whether a file could not be read (permissions, an I/O error, too few descriptors, a feature that this program does not
    /// know). It may be whole or damaged.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// The same with another exit code.
    #[must_use]
    pub(crate) fn coded(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What went wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do.
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

/// An error of reading an image. (Of the store's own files it is made by `damaged`.)
impl From<mif_formats::Error> for Error {
    fn from(error: mif_formats::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Io => Code::Store,
            ErrorKind::Corrupt | ErrorKind::Limit | ErrorKind::Denied | ErrorKind::NotFound => Code::Input,
            ErrorKind::Unsupported => Code::Unsupported,
        };
        Error::new(code, error.to_string())
    }
}

/// Separates damage from failure to read: the inner error is damage, the outer one means that the file could not be read and
/// may be whole.
pub(crate) fn readable<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(e) if e.is_unreadable() => Err(e),
        result => Ok(result),
    }
}

/// An error of a file of the store, at `place` in it.
pub(crate) fn damaged(place: &str, error: &mif_formats::Error) -> Error {
    Error::store(format!("store: {place}: {error}"))
}
