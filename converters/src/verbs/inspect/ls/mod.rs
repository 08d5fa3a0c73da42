//! `ls`: lists the files of an image.

use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::manifest::{Row, escape, escape_apart};
use mif_formats::text::{hex, hex_unless_text};
use serde::{Serialize, Serializer};

use crate::error::Result;
use crate::image::OpenImage;
use crate::notation;
use crate::task::progress::Progress;
use crate::tree::path::{Place, VolumePath};

mod hash;

/// The report of `ls`.
#[derive(Debug, Clone, Serialize)]
pub struct LsReport {
    /// The path of the listed directory, without a trailing slash.
    #[serde(skip)]
    pub folder: Vec<u8>,
    /// The directory of the listed paths on their volume, and the path at which the image's system sees it, if the path
    /// was given without a volume; both without a trailing slash.
    #[serde(skip)]
    seen: Option<(String, String)>,
    /// The rows of the entries, each with the SHA-1 computed for it. Entries are made on demand, because there may be
    /// millions.
    #[serde(rename = "entries", serialize_with = "as_entries")]
    rows: Vec<Listed>,
    /// Warnings about what could not be read, as sentences.
    pub warnings: Vec<String>,
}

impl LsReport {
    /// Returns the entries, by volume and path.
    pub fn entries(&self) -> impl Iterator<Item = LsEntry> + '_ {
        self.rows.iter().map(LsEntry::new)
    }

    /// Returns the path of an entry as the image's system sees it, which can be passed back without a volume.
    #[must_use]
    pub fn seen(&self, entry: &LsEntry) -> String {
        let seen = self.seen.as_ref();
        let seen = seen.and_then(|(folder, seen)| Some((seen, entry.path.strip_prefix(&folder[..])?)));
        match seen {
            Some((seen, rest)) if seen.is_empty() && rest.is_empty() => "/".to_owned(),
            Some((seen, rest)) => format!("{seen}{rest}"),
            None => entry.path.clone(),
        }
    }
}

/// A row, and the SHA-1 of its content if that was computed now.
type Listed = (Row, Option<[u8; 20]>);

fn as_entries<S: Serializer>(rows: &[Listed], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(LsEntry::new))
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct LsEntry {
    pub volume: String,
    pub path: String,
    /// The path's bytes in hex, if they are not UTF-8: then `path` contains an escape for each byte, which may also be
    /// the text of another path.
    #[serde(rename = "path_bytes", skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// The path as it is on the disk, UTF-8 or not.
    #[serde(skip)]
    pub path_bytes: Vec<u8>,
    #[serde(rename = "type")]
    pub file_type: &'static str,
    #[serde(serialize_with = "notation::mode")]
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub nlink: Option<u32>,
    pub inode: Option<u64>,
    pub size: u64,
    #[serde(serialize_with = "notation::time")]
    pub mtime: Option<Timestamp>,
    #[serde(serialize_with = "notation::time")]
    pub atime: Option<Timestamp>,
    #[serde(serialize_with = "notation::time")]
    pub ctime: Option<Timestamp>,
    #[serde(serialize_with = "notation::time")]
    pub crtime: Option<Timestamp>,
    pub link_target: Option<String>,
    /// The target's bytes in hex, if they are not UTF-8.
    #[serde(rename = "link_target_bytes", skip_serializing_if = "Option::is_none")]
    pub link_target_hex: Option<String>,
    /// The target as it is on the disk.
    #[serde(skip)]
    pub link_bytes: Option<Vec<u8>>,
    pub rdev: Option<(u32, u32)>,
    /// Names, and values in hex.
    pub xattrs: Vec<(String, String)>,
    pub flags: u32,
    pub sha1: Option<String>,
    pub blake3: Option<String>,
}

impl LsEntry {
    fn new((row, sha1): &Listed) -> Self {
        LsEntry {
            volume: row.volume.clone(),
            path: row.full_path_text(),
            path_hex: hex_unless_text(&row.full_path()),
            path_bytes: row.full_path().into_owned(),
            file_type: row.type_name(),
            mode: row.node.mode,
            uid: row.node.uid,
            gid: row.node.gid,
            nlink: row.node.nlink,
            inode: row.node.inode,
            size: row.node.size,
            mtime: row.node.mtime,
            atime: row.node.atime,
            ctime: row.node.ctime,
            crtime: row.node.crtime,
            link_target: row.node.link_target.as_deref().map(escape),
            link_target_hex: row.node.link_target.as_deref().and_then(hex_unless_text),
            link_bytes: row.node.link_target.clone(),
            rdev: row.node.rdev,
            xattrs: row.node.xattrs.iter().map(|x| (escape_apart(&x.name), hex(&x.value))).collect(),
            flags: row.node.flags,
            sha1: sha1.or(row.sha1()).map(|digest| hex(&digest)),
            blake3: row.blake3().map(|digest| hex(&digest)),
        }
    }
}

/// Options of `ls`.
#[derive(Debug, Clone, Default)]
pub struct LsOptions {
    /// The directory whose entries are listed, or a file. Without a path: the root filesystem's root, or with
    /// `recursive` every volume.
    pub path: Option<VolumePath>,
    /// List directories recursively.
    pub recursive: bool,
    /// List the directory itself too.
    pub itself: bool,
    /// Compute the SHA-1 of files in a disk image file; files of stored images always have it.
    pub hashed: bool,
}

/// Lists files of an image.
pub fn ls(image: &OpenImage, options: &LsOptions, progress: &dyn Progress) -> Result<LsReport> {
    let root = VolumePath { volume: None, path: b"/".to_vec() };
    let tree = match options.recursive {
        true => image.tree()?,
        false => image.tree_around(std::slice::from_ref(options.path.as_ref().unwrap_or(&root)), true)?,
    };
    let encrypted = tree.encrypted_text();
    let rows = tree.rows();
    let all = 0..rows.len();
    let (mut folder, mut seen) = (Vec::new(), None);
    let picked: Vec<usize> = match &options.path {
        None if options.recursive || tree.root_volume().is_none() => {
            all.filter(|i| options.recursive || rows[*i].path == b"/").collect()
        }
        path => {
            let found = tree.find(path.as_ref().unwrap_or(&root), true)?;
            let start = &rows[found];
            let root =
                tree.roots().first().filter(|_| path.as_ref().is_none_or(|path| path.volume.is_none()));
            let seen_at = |path: &[u8]| {
                let path = if path.is_empty() { b"/" } else { path };
                let place = Place { volume: start.volume.clone(), path: path.to_vec() };
                let seen = root?.path_of(&place)?;
                let text = |path: &[u8]| escape(path.strip_suffix(b"/").unwrap_or(path));
                Some((text(path), text(&seen)))
            };
            let is_dir = start.node.file_type == FileType::Dir;
            folder = match is_dir {
                true => start.path.strip_suffix(b"/").unwrap_or(&start.path).to_vec(),
                false => start.path[..start.path.iter().rposition(|b| *b == b'/').unwrap_or(0)].to_vec(),
            };
            seen = seen_at(&folder);
            if is_dir {
                let below = |row: &Row| {
                    row.volume == start.volume && is_below(&row.path, &start.path, options.recursive)
                };
                all.filter(|i| options.itself && *i == found || below(&rows[*i])).collect()
            } else {
                vec![found]
            }
        }
    };
    let hashes = options.hashed.then(|| hash::all(&tree, &picked, progress)).transpose()?;
    let (mut rows, mut warnings) = tree.into_rows();
    let mut picked = picked.into_iter().peekable();
    let mut number = 0;
    rows.retain(|_| {
        number += 1;
        picked.next_if_eq(&(number - 1)).is_some()
    });
    // Of a question about one volume, others are not worth a word.
    if options.path.as_ref().is_none_or(|path| path.volume.is_none()) && !encrypted.is_empty() {
        warnings.push(encrypted);
    }
    let mut digests = Vec::new();
    if let Some(hashes) = hashes {
        digests = hashes.digests;
        warnings.extend(hashes.complaints);
    }
    digests.resize(rows.len(), None);
    let rows = rows.into_iter().zip(digests).collect();
    Ok(LsReport { folder, seen, rows, warnings })
}

/// Returns true if `path` is under `folder`: at any depth if `deep`, otherwise directly in it.
fn is_below(path: &[u8], folder: &[u8], deep: bool) -> bool {
    let folder = if folder == b"/" { b"" } else { folder };
    match path.strip_prefix(folder) {
        Some([b'/', name @ ..]) => !name.is_empty() && (deep || !name.contains(&b'/')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_means_in_the_folder_and_not_beside_it() {
        assert!(is_below(b"/etc/passwd", b"/etc", false));
        assert!(!is_below(b"/etc2/passwd", b"/etc", true));
        assert!(!is_below(b"/etc", b"/etc", true));
        assert!(is_below(b"/etc", b"/", false));
        assert!(!is_below(b"/", b"/", true));
        assert!(is_below(b"/etc/a/b", b"/etc", true));
        assert!(!is_below(b"/etc/a/b", b"/etc", false));
    }
}
