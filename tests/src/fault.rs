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
        let (name, value) = match fault {
            Fault::ReadAt(at) => ("FAULT_READ_AT", at),
            Fault::WriteAfter(bytes) => ("FAULT_WRITE_AFTER", bytes),
            Fault::SyncAt(number) => ("FAULT_SYNC_AT", number),
            Fault::SlowSync(milliseconds) => ("FAULT_SLOW_SYNC", milliseconds),
        };
        let mut command = mif(store);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        command.env("LD_PRELOAD", &self.0).env("FAULT_PATH", path).env(name, value.to_string());
        command
    }
}
