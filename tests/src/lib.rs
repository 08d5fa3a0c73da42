//! Common code of the tests: running the program and the tools it is compared with, and directories to work in.

#![forbid(unsafe_code)]

pub mod bucket;
pub mod debian;
pub mod disk;
pub mod dissect;
pub mod fault;
pub mod guest;
pub mod listing;
pub mod oracle;
pub mod proxy;
#[path = "../../formats/src/testing/random.rs"]
pub mod random;
pub mod registry;
#[path = "../../formats/src/testing/tools.rs"]
#[allow(unreachable_pub)]
mod skipping;
pub mod synthetic;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use self::skipping::are_unwanted;
use self::skipping::search_path;
pub use self::skipping::{find, have, have_at, skip};

/// Returns the top directory of the repository.
#[must_use]
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

/// Returns the directory that keeps large fixtures between runs: `MIF_CACHE`, otherwise `fixtures/cache`.
#[must_use]
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("MIF_CACHE").map_or_else(|| repo().join("fixtures/cache"), PathBuf::from);
    std::fs::create_dir_all(&cache).expect("the cache can be created");
    cache
}

/// Creates an empty directory that is removed at the end of the test. It is on the cache's filesystem, which has room.
#[must_use]
pub fn work_folder() -> WorkFolder {
    WorkFolder(tempfile::tempdir_in(cache()).expect("the cache is writable"))
}

/// A test's directory. If the test passes, the second reader regenerates every disk of every whole store in it.
pub struct WorkFolder(TempDir);

impl WorkFolder {
    /// Returns the directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns a path in the directory.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Returns the program, to be run in the directory, on the store `store` in it.
    #[must_use]
    pub fn mif(&self, words: &[&str]) -> Command {
        let mut command = mif(&self.at("store"));
        command.current_dir(self.path()).args(words);
        command
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Without tools, what passed without this check counts as passed.
        if !std::thread::panicking() && !are_unwanted() {
            stores(self.path(), 3).iter().for_each(|store| assert_second_reader_agrees(store));
        }
    }
}

/// Returns the whole stores in a directory and its subdirectories, down to a depth.
fn stores(folder: &Path, depth: u32) -> Vec<PathBuf> {
    if folder.join("store.json").exists() {
        let whole =
            mif(folder).args(["verify", "--all"]).output().is_ok_and(|output| output.status.success());
        return if whole { vec![folder.to_owned()] } else { Vec::new() };
    }
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = folders.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|entry| stores(&entry.path(), depth - 1)).collect()
}

/// Returns true if the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    run(tool("id").arg("-u")).trim() == "0"
}

/// Returns a command for a tool that the program is compared with.
#[must_use]
pub fn tool(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", search_path()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Returns the path of the program, beside the tests that were built with it.
#[must_use]
pub fn mif_path() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows itself");
    let mif = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps").join("mif");
    assert!(
        mif.is_file(),
        "{} is not there: build it first (cargo build -p mif, with the same profile)",
        mif.display()
    );
    mif
}

/// Returns the program, to be run on a store.
#[must_use]
pub fn mif(store: &Path) -> Command {
    let mut command = Command::new(mif_path());
    command.env("MIF_STORE", store).stdin(Stdio::null());
    command
}

/// Returns the verbs of the program, as its help lists them, each with the words that lead to it, followed by its own
/// verbs.
#[must_use]
pub fn verbs() -> Vec<Vec<String>> {
    fn add(verb: &[String], verbs: &mut Vec<Vec<String>>) {
        let help = run(Command::new(mif_path()).args(verb).arg("--help").env("COLUMNS", "200"));
        let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        for line in list.unwrap_or_default().lines() {
            let name = line.split_whitespace().next().expect("a verb");
            let verb = [verb, &[name.to_owned()]].concat();
            verbs.push(verb.clone());
            add(&verb, verbs);
        }
    }
    let mut verbs = Vec::new();
    add(&[], &mut verbs);
    assert!(verbs.len() > 20, "the help lists verbs: {verbs:?}");
    verbs
}

/// Runs a command that must succeed; returns its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must end with this exit code; returns its standard error.
pub fn run_failing(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}\n{}", output.status, text(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a verb that must succeed with `--json`; returns its answer.
#[must_use]
pub fn json(store: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run(mif(store).arg("--json").args(arguments))).expect("JSON")
}

/// Returns the files under a directory whose names have this suffix.
#[must_use]
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let all = snapshot(folder).into_iter().map(|(path, _)| path);
    all.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

/// Reads every image of a store with the second reader, a program in Python written from docs/format.md alone, which
/// checks every digest on the way; each disk must equal the one that `mif export` writes.
pub fn assert_second_reader_agrees(store: &Path) {
    let work = work_folder();
    let images = json(store, &["images"]);
    // A larger disk cannot be a file on every filesystem.
    let has_room = |image: &&serde_json::Value| image["disk_size"].as_u64().expect("a size") <= 1 << 40;
    let images: Vec<_> = images.as_array().expect("a list of images").iter().filter(has_room).collect();
    if images.is_empty() || !have_second_reader() {
        return;
    }
    let id = |image: &serde_json::Value| {
        format!("{}@{}", image["name"].as_str().expect("a name"), image["version"])
    };
    // Several at once, because it reads each pack once; not all, because the disks take space.
    for images in images.chunks(8) {
        let disks: Vec<_> = images.iter().map(|image| (id(image), work.path().join(id(image)))).collect();
        let mut reader = second_reader();
        reader.arg(store);
        for (id, disk) in &disks {
            reader.arg(id).arg(disk);
        }
        run(&mut reader);
        for (id, disk) in disks {
            run(mif(store).args(["verify", "--format", "raw"]).arg(id).arg(&disk));
            std::fs::remove_file(disk).expect("it was written");
        }
    }
}

/// Returns the second reader: `second-reader STORE IMAGE OUT [IMAGE OUT]...`.
#[must_use]
pub fn second_reader() -> Command {
    let mut command = tool(python());
    command.arg(repo().join("tests/second-reader"));
    command
}

/// Returns true if the second reader can run here.
#[must_use]
pub fn have_second_reader() -> bool {
    have_python("blake3, duckdb, zstandard")
}

/// Returns the Python whose packages `tests/install-tools` installs.
#[must_use]
pub fn python() -> PathBuf {
    cache().join("venv/bin/python")
}

/// Returns true if that Python has these modules, which are separated by commas. Otherwise the caller returns, and the
/// test counts as skipped.
#[must_use]
pub fn have_python(modules: &str) -> bool {
    let import = || tool(python()).args(["-c", &format!("import {modules}")]).output();
    have_at(&python())
        && (import().is_ok_and(|output| output.status.success())
            || skip(&format!("Python has no modules {modules}: tests/install-tools")))
}

/// Parses a time in a report, RFC 3339 or `@` and seconds: returns seconds since 1970, and nanoseconds.
///
/// # Panics
///
/// Panics if it is neither.
#[must_use]
pub fn moment(time: &serde_json::Value) -> Option<(i64, u32)> {
    let text = time.as_str()?;
    let nanos = |digits: &str| format!("{digits:0<9}").parse().expect("nanoseconds");
    if let Some(seconds) = text.strip_prefix('@') {
        let (secs, digits) = seconds.split_once('.').unwrap_or((seconds, "0"));
        return Some((secs.parse().expect("seconds"), nanos(digits)));
    }
    let (whole, digits) =
        text.strip_suffix('Z').expect("UTC").split_once('.').unwrap_or((text.trim_end_matches('Z'), "0"));
    let numbers: Vec<i64> =
        whole.split(['-', 'T', ':']).map(|number| number.parse().expect("a number")).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{text}") };
    // Days since 1970 in the Gregorian calendar, whose years begin in March here.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second, nanos(digits)))
}

/// Parses a mode in a report.
///
/// # Panics
///
/// Panics if it is not one.
#[must_use]
pub fn mode(mode: &serde_json::Value) -> Option<u64> {
    Some(u64::from_str_radix(mode.as_str()?, 8).expect("an octal number"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns all files under a directory with their lengths, for checking that nothing has changed.
#[must_use]
pub fn snapshot(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let entry = entry.expect("the folder can be read");
            let meta = entry.metadata().expect("the entry can be read");
            if meta.is_dir() { folders.push(entry.path()) } else { files.push((entry.path(), meta.len())) }
        }
    }
    files.sort();
    files
}
