//! The readers of dissect (XFS, Btrfs, NTFS), run as a program and compared with a stored image.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::{have_python, json, python, repo, run, tool};

/// A path's type as a letter, and its size, SHA-1 and target, where it has them.
type Seen = (char, Option<u64>, Option<String>, Option<String>);

/// Returns true if dissect can run here.
#[must_use]
pub fn have_dissect() -> bool {
    have_python("dissect.btrfs, dissect.ntfs, dissect.xfs, backports.zstd")
}

fn theirs(kind: &str, disk: &Path, offset: u64) -> BTreeMap<String, Seen> {
    let mut list = tool(python());
    let list = run(list.arg(repo().join("tests/dissect-list")).arg(kind).arg(disk).arg(offset.to_string()));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entry = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("a line of JSON");
        let letter = row["type"].as_str().expect("a type").chars().next().expect("a letter");
        let seen = (letter, row["size"].as_u64(), text(&row["sha1"]), text(&row["target"]));
        (text(&row["path"]).expect("a path"), seen)
    };
    list.lines().map(entry).filter(|(path, _)| path != "/").collect()
}

fn ours(store: &Path, image: &str, volume: &str) -> BTreeMap<String, Seen> {
    let listed = json(store, &["ls", "--recursive", image, &format!("{volume}:/")]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entry = |row: &Value| {
        let letter = match row["type"].as_str().expect("a type") {
            "dir" => 'd',
            "file" => 'f',
            "symlink" => 'l',
            _ => '-',
        };
        let of_file = |value: Option<u64>| value.filter(|_| letter == 'f');
        let sha1 = text(&row["sha1"]).filter(|_| letter == 'f');
        let target = text(&row["link_target"]).filter(|_| letter == 'l');
        (text(&row["path"]).expect("a path"), (letter, of_file(row["size"].as_u64()), sha1, target))
    };
    let rows = listed["entries"].as_array().expect("a list");
    rows.iter().filter(|row| row["type"] != "stream").map(entry).collect()
}

/// Asserts that dissect reads every path of a volume as the stored image lists it, but for paths that start with one of
/// `unlike`. `kind` is `xfs`, `btrfs` or `ntfs`; the volume begins at this offset of the raw file `disk`. Returns the
/// number of paths.
///
/// # Panics
///
/// If something differs.
pub fn assert_dissect_agrees(
    store: &Path,
    (image, volume): (&str, &str),
    kind: &str,
    (disk, offset): (&Path, u64),
    unlike: &[&str],
) -> usize {
    let (mut ours, mut theirs) = (ours(store, image, volume), theirs(kind, disk, offset));
    for prefix in unlike {
        let take = |tree: &mut BTreeMap<String, Seen>| {
            let paths: Vec<_> = tree.keys().filter(|path| path.starts_with(prefix)).cloned().collect();
            paths.iter().map(|path| tree.remove(path)).collect::<Vec<_>>()
        };
        assert_ne!(take(&mut ours), take(&mut theirs), "{prefix}: dissect agrees by now");
    }
    for path in ours.keys().chain(theirs.keys()) {
        assert_eq!(ours.get(path), theirs.get(path), "{image}: {path}");
    }
    ours.len()
}
