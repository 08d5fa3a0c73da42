//! Runs outside programs with a line of words.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An outside program that a test compares ours with.
pub struct Tool(PathBuf);

/// Returns the program `name`; `None` if it is not installed: the test is then skipped, or fails if it may not be.
pub fn tool(name: &str) -> Option<Tool> {
    crate::have(&[name]).then(|| Tool(crate::find(name).expect("it is installed")))
}

impl Tool {
    /// Runs it with the words of `line`, in `folder`, and returns its output. Panics if it fails.
    pub fn run(&self, folder: &Path, line: &str) -> String {
        let output = self.try_run(folder, line);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{} {line}: {}\n{out}{err}", self.0.display(), output.status);
        out
    }

    /// Runs it with arguments that may contain spaces. Panics if it fails.
    pub fn run_args(&self, folder: &Path, arguments: &[&str]) {
        let output = Command::new(&self.0).args(arguments).current_dir(folder).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {text}", self.0.display());
    }

    /// Runs it with the words of `line`, in `folder`.
    pub fn try_run(&self, folder: &Path, line: &str) -> Output {
        let output = Command::new(&self.0).args(line.split_whitespace()).current_dir(folder).output();
        output.unwrap_or_else(|e| panic!("{} {line}: {e}", self.0.display()))
    }
}
