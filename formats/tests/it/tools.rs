//! Runs outside tools, and skips tests, visibly, if they are not installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use mif_formats::fs::ext4::Ext4;
use mif_formats::{MemSource, Source};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};

pub(crate) use crate::skipping::{have, have_at, skip};

/// Runs the calling test again in a process of its own, where this returns true and no other test uses memory. The
/// caller must return if it gets false.
pub(crate) fn in_own_process() -> bool {
    const ALONE: &str = "MIF_TEST_ALONE";
    let thread = std::thread::current();
    let name = thread.name().expect("a test's thread bears its name");
    if std::env::var_os(ALONE).is_some_and(|alone| alone == name) {
        return true;
    }
    // Two threads: with one, the harness runs the test on the main thread, which is not named after the test.
    let mut test = Command::new(std::env::current_exe().expect("this program has a path"));
    test.args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads", "2"]).env(ALONE, name);
    let output = test.output().expect("this program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.lines().filter(|line| line.contains(" ... skipped, ")).for_each(|line| {
        let reason = line.split_once(" ... skipped, ").expect("as filtered").1;
        let _ = skip(reason);
    });
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "in a process of its own: {}\n{printed}{errors}", output.status);
    false
}

/// Runs a program and panics if it fails.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    let output = try_run(program, args);
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a program.
pub(crate) fn try_run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    Command::new(program)
        .args(args)
        .env("PATH", crate::skipping::search_path())
        .env("MKE2FS_DEVICE_SECTSIZE", "512")
        .output()
        .expect(program)
}

/// Creates a temporary directory.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Makes a million small files in a thousand directories.
pub(crate) fn make_a_million_files(root: &Path) {
    for i in 0..1_000_000 {
        let folder = root.join(format!("{}/{}", i % 10, i / 10 % 100));
        if i < 1000 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("file number {i}")), b"small").unwrap();
    }
}

/// Sets the times of last access and change of a file, or of a symlink itself.
pub(crate) fn set_times(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets an extended attribute of a file, or of a symlink itself.
pub(crate) fn attribute(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Makes an empty sparse file of `mib` MiB, and a filesystem in it.
pub(crate) fn mke2fs(image: &Path, mib: u64, options: &str) {
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&OsStr> = vec!["-q".as_ref(), "-F".as_ref()];
    args.extend(options.split_whitespace().map(OsStr::new));
    args.push(image.as_os_str());
    run("mke2fs", &args);
}

/// Runs a command of `debugfs -w`.
pub(crate) fn debugfs(image: &Path, command: &str) -> String {
    let output = run("debugfs", &["-w".as_ref(), "-R".as_ref(), command.as_ref(), image.as_os_str()]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A mounted image, unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
}

impl Mount {
    /// Mounts `image` at `path`; if this machine cannot, skips the test.
    pub(crate) fn new(image: &Path, path: &Path, options: &str) -> Option<Mount> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("loop,{options}");
        let output =
            try_run("mount", &["-o".as_ref(), options.as_ref(), image.as_os_str(), path.as_os_str()]);
        if !output.status.success() {
            let _ = skip(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Mount { path: path.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that another test has forked keeps our files open until it runs its program.
        for _ in 0..100 {
            let output = try_run("umount", &[&self.path]);
            if output.status.success() {
                return;
            }
            eprintln!("umount {}: {}", self.path.display(), String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Returns the bytes of an image.
pub(crate) fn load(image: &Path) -> Arc<dyn Source> {
    Arc::new(MemSource(std::fs::read(image).unwrap()))
}

/// Opens an image.
pub(crate) fn open(image: &Path) -> Ext4 {
    Ext4::open(load(image)).unwrap()
}

/// A file as a volume, read on demand.
pub(crate) struct FileVolume(std::fs::File, u64);

impl FileVolume {
    pub(crate) fn open(path: &Path) -> Arc<dyn Source> {
        let file = std::fs::File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Arc::new(FileVolume(file, len))
    }
}

impl Source for FileVolume {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        use std::os::unix::fs::FileExt;
        self.0.read_exact_at(buf, offset).map_err(|e| mif_formats::at("file").byte(offset).io(e))
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<mif_formats::Extent> {
        Ok(mif_formats::Extent::data(offset, self.1 - offset))
    }
}

/// Returns an access control list in the form of setxattr and getxattr: for the owner, user 1000, the group,
/// the mask and others.
pub(crate) fn acl() -> Vec<u8> {
    let mut list = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(perm.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}
