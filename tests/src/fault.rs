//! Runs the program with failing system calls.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{mif, repo, run, tool};

/// The tools that this needs.
pub const TOOLS: &[&str] = &["cc"];

/// A library to preload.
pub struct Faults(PathBuf);

/// The call that fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Reading this byte of a file fails with EIO.
    ReadAt(u64),
    /// Each read takes this many milliseconds.
    SlowRead(u64),
    /// After this many written bytes, the device is full.
    WriteAfter(u64),
    /// This sync, counted from 1, and all later ones fail with EIO.
    SyncAt(u64),
    /// Each sync takes this many milliseconds.
    SlowSync(u64),
}

impl Faults {
    /// Compiles the library in the directory `work`.
    #[must_use]
    pub fn new(work: &Path) -> Self {
        let library = work.join("fault.so");
        run(tool("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(repo().join("tests/src/fault.c"))
            .arg("-ldl"));
        Faults(library)
    }

    /// Returns the program on a store, with `fault` applied to files whose path begins with `path`.
    #[must_use]
    pub fn mif(&self, store: &Path, path: &Path, fault: Fault) -> Command {
        let mut command = mif(store);
        command.envs(self.variables(path, fault));
        command
    }

    /// Returns the variables by which a program has `fault` for files whose path begins with `path`.
    #[must_use]
    pub fn variables(&self, path: &Path, fault: Fault) -> [(&'static str, String); 3] {
        let (name, value) = match fault {
            Fault::ReadAt(at) => ("FAULT_READ_AT", at),
            Fault::SlowRead(milliseconds) => ("FAULT_SLOW_READ", milliseconds),
            Fault::WriteAfter(bytes) => ("FAULT_WRITE_AFTER", bytes),
            Fault::SyncAt(number) => ("FAULT_SYNC_AT", number),
            Fault::SlowSync(milliseconds) => ("FAULT_SLOW_SYNC", milliseconds),
        };
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD", text(&self.0)), ("FAULT_PATH", text(&path)), (name, value.to_string())]
    }
}
