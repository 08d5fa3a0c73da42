use super::*;
use crate::error::ErrorKind;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_is_left_without_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = Output::new(&dir.path().join("a"), false).unwrap();
    output.create().unwrap().write_at(0, b"x").unwrap();
    output.create_beside(Path::new("a-flat")).unwrap();
    assert_eq!(names(dir.path()).len(), 2);
    drop(output);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_commit_names_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = Output::new(&dir.path().join("a"), false).unwrap();
    let mut slices = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
    output.create().unwrap().write_slices_at(1, &mut slices).unwrap();
    output.create_beside(Path::new("a-flat")).unwrap();
    output.commit().unwrap();
    assert_eq!(names(dir.path()), ["a", "a-flat"]);
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"\0hello");
}

#[test]
fn an_existing_file_needs_force_and_a_folder_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, "old").unwrap();
    assert_eq!(Output::new(&path, false).err().unwrap().kind(), ErrorKind::Denied);
    assert_eq!(Output::new(dir.path(), true).err().unwrap().kind(), ErrorKind::Unsupported);
    let mut output = Output::new(&path, true).unwrap();
    output.create().unwrap().write_at(0, b"new").unwrap();
    output.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_file_that_is_replaced_leaves_its_mode_and_a_link_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mode = |name: &str| std::fs::metadata(at(name)).unwrap().mode() & 0o7777;
    let write = |name: &str, force: bool| -> Result<()> {
        let mut output = Output::new(&at(name), force)?;
        output.create()?.write_at(0, b"new")?;
        let temporary = output.files[0].temporary.clone().unwrap();
        if at(name).exists() {
            assert_eq!(std::fs::metadata(temporary).unwrap().mode() & 0o077, 0, "not yet");
        }
        output.commit().map(|_| ())
    };
    std::fs::create_dir(at("folder")).unwrap();
    for mode in [0o600, 0o640, 0o444, 0o664] {
        std::fs::write(at("folder/old"), "old").unwrap();
        std::fs::set_permissions(at("folder/old"), Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::symlink("folder/old", at("link")).unwrap();
        assert_eq!(write("link", false).unwrap_err().kind(), ErrorKind::Denied);
        write("link", true).unwrap();
        assert_eq!(std::fs::metadata(at("folder/old")).unwrap().mode() & 0o7777, mode);
        assert_eq!(std::fs::read(at("folder/old")).unwrap(), b"new");
        assert_eq!(std::fs::read_link(at("link")).unwrap(), Path::new("folder/old"));
        std::fs::remove_file(at("link")).unwrap();
        std::fs::remove_file(at("folder/old")).unwrap();
    }
    // A dangling link creates the file that it names; a circle of links is an error.
    std::os::unix::fs::symlink("folder/new", at("link")).unwrap();
    write("link", false).unwrap();
    assert_eq!(std::fs::read(at("folder/new")).unwrap(), b"new");
    std::os::unix::fs::symlink("b", at("a")).unwrap();
    std::os::unix::fs::symlink("a", at("b")).unwrap();
    assert_eq!(Output::new(&at("a"), true).err().unwrap().kind(), ErrorKind::Io);
    let mut output = Output::new(&at("private"), false).unwrap();
    output.limit(Access::Owner);
    output.create().unwrap();
    output.commit().unwrap();
    assert_eq!(mode("private"), 0o600);
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut output = Output::new(&path, false).unwrap();
    output.create().unwrap();
    output.create_beside(Path::new("b")).unwrap();
    std::fs::write(&path, "other").unwrap();
    assert_eq!(output.commit().unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"other");
}
