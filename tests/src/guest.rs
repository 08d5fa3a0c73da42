//! A small system on one volume, in a store of its own: made of a few files, edited, and extracted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{WorkFolder, have, run, run_failing, tool, work_folder};

/// A system whose image is named `guest`.
pub struct Guest {
    work: WorkFolder,
}

impl Guest {
    /// Makes a system of these files and a fstab. `None`, with a loud notice, if mke2fs is missing.
    #[must_use]
    pub fn new(files: &[(&str, &str)]) -> Option<Self> {
        Self::with(files, |_| {})
    }

    /// As [`Guest::new`], after `change` has changed the directory from which the volume is made.
    #[must_use]
    pub fn with(files: &[(&str, &str)], change: impl FnOnce(&Path)) -> Option<Self> {
        if !have(&["mke2fs"]) {
            return None;
        }
        let guest = Guest { work: work_folder() };
        let tree = guest.at("tree");
        for (path, text) in [("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n")].iter().chain(files) {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        change(&tree);
        run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(guest.at("guest.raw")).arg("32M"));
        run(&mut guest.mif(&["import", "--name", "guest", "guest.raw"]));
        Some(guest)
    }

    /// Returns a path in its working directory.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.work.at(name)
    }

    /// Returns the program, on its store.
    #[must_use]
    pub fn mif(&self, words: &[&str]) -> Command {
        self.work.mif(words)
    }

    /// Edits `guest` into the image `new`; returns all output.
    pub fn edit(&self, edits: &[&str]) -> String {
        self.edit_as("guest", "new", edits)
    }

    /// Edits one image into another; returns all output.
    pub fn edit_as(&self, image: &str, new: &str, edits: &[&str]) -> String {
        let output = self.mif(&["customize", image, "--as", new]).args(edits).output().expect("mif runs");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{edits:?}: {said}");
        said
    }

    /// Asserts that edits are refused with this exit code; returns the reason.
    pub fn refuses(&self, edits: &[&str], code: i32) -> String {
        run_failing(self.mif(&["customize", "guest", "--as", "bad"]).args(edits), code)
    }

    /// Returns the text of a file in an image.
    #[must_use]
    pub fn cat(&self, image: &str, path: &str) -> String {
        run(&mut self.mif(&["cat", image, path]))
    }

    /// Returns true if an image has a path.
    #[must_use]
    pub fn has(&self, image: &str, path: &str) -> bool {
        let output = self.mif(&["ls", image, path]).output().expect("mif runs");
        output.status.success()
    }

    /// Extracts an image's files to a new directory.
    #[must_use]
    pub fn extract(&self, image: &str) -> PathBuf {
        let out = self.at(&format!("{image}.files"));
        let _ = fs::remove_dir_all(&out);
        let output =
            self.mif(&["extract", image, "/", "--privileged", "-o"]).arg(&out).output().expect("mif runs");
        assert!(output.status.success(), "{output:?}");
        out
    }

    /// Exports an image as a raw disk.
    #[must_use]
    pub fn export(&self, image: &str) -> PathBuf {
        let out = self.at(&format!("{image}.exported"));
        run(self.mif(&["export", image, "--force", "--format", "raw"]).arg(&out));
        out
    }
}
