//! A small system on one volume, in a store of its own: made of a few files, edited, and looked at as files again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{WorkFolder, have, run, run_failing, tool, work_folder};

/// A system whose image is `guest`.
pub struct Guest {
    work: WorkFolder,
}

impl Guest {
    /// A system of these files, and a fstab. None, said loudly, if mke2fs is missing.
    #[must_use]
    pub fn new(files: &[(&str, &str)]) -> Option<Self> {
        Self::with(files, |_| {})
    }

    /// The same, after `change` has changed the directory that the volume is made of.
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

    /// A path in its working directory.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.work.at(name)
    }

    /// The program, on its store.
    #[must_use]
    pub fn mif(&self, words: &[&str]) -> Command {
        self.work.mif(words)
    }

    /// Edits it into the image `new`; gives all that was said.
    pub fn edit(&self, edits: &[&str]) -> String {
        self.edit_as("guest", "new", edits)
    }

    /// Edits one image into another; gives all that was said.
    pub fn edit_as(&self, image: &str, new: &str, edits: &[&str]) -> String {
        let output = self.mif(&["customize", image, "--as", new]).args(edits).output().expect("mif runs");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{edits:?}: {said}");
        said
    }

    /// Edits that must be refused with this exit code; gives the reason.
    pub fn refuses(&self, edits: &[&str], code: i32) -> String {
        run_failing(self.mif(&["customize", "guest", "--as", "bad"]).args(edits), code)
    }

    /// The text of a file of an image.
    #[must_use]
    pub fn cat(&self, image: &str, path: &str) -> String {
        run(&mut self.mif(&["cat", image, path]))
    }

    /// Whether an image has a path.
    #[must_use]
    pub fn has(&self, image: &str, path: &str) -> bool {
        let output = self.mif(&["ls", image, path]).output().expect("mif runs");
        output.status.success()
    }

    /// An image's files in a new directory.
    #[must_use]
    pub fn extract(&self, image: &str) -> PathBuf {
        let out = self.at(&format!("{image}.files"));
        let _ = fs::remove_dir_all(&out);
        let output =
            self.mif(&["extract", image, "/", "--privileged", "-o"]).arg(&out).output().expect("mif runs");
        assert!(output.status.success(), "{output:?}");
        out
    }

    /// An image as a raw disk.
    #[must_use]
    pub fn export(&self, image: &str) -> PathBuf {
        let out = self.at(&format!("{image}.exported"));
        run(self.mif(&["export", image, "--force", "--format", "raw"]).arg(&out));
        out
    }
}
