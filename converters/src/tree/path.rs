//! Resolves paths through symlinks and mounts.

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::{Row, escape};

use crate::error::{Error, Result};

/// The maximum number of symlinks on a path, as on Linux.
const MAX_SYMLINKS: u32 = 40;

/// A path as the user writes it: `/etc/passwd` on the root filesystem, `p15:/EFI` on a partition,
/// `vg/home:/ada` on a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePath {
    /// The volume; `None` for the root filesystem's.
    pub volume: Option<String>,
    /// The path on it.
    pub path: Vec<u8>,
}

impl VolumePath {
    /// Parses a path as the user writes it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let colon = text.windows(2).position(|pair| pair == b":/");
        match colon.map(|i| (std::str::from_utf8(&text[..i]), &text[i + 1..])) {
            Some((Ok(volume), path)) if !volume.is_empty() && !volume.starts_with('/') => {
                VolumePath { volume: Some(volume.to_owned()), path: path.to_vec() }
            }
            _ => VolumePath { volume: None, path: text.to_vec() },
        }
    }
}

/// The rows and mounts among which paths are resolved.
pub(crate) trait Paths {
    /// Returns the row of a path, without resolving anything.
    fn row(&self, volume: &str, path: &[u8]) -> Option<&Row>;

    /// Returns the volume that is mounted on a directory.
    fn mounted(&self, _volume: &str, _path: &[u8]) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns the parent of a volume's root, for `..`.
    fn above(&self, volume: &str) -> Result<Place> {
        Ok(self.root(volume))
    }

    /// Returns the directory that `/` means in a symlink on a volume.
    fn root(&self, volume: &str) -> Place {
        Place { volume: volume.to_owned(), path: b"/".to_vec() }
    }
}

/// Returns the volume with the root filesystem: the one that looks like it, or else the only one.
pub(crate) fn root_volume<'v>(paths: &impl Paths, volumes: &[&'v str]) -> Option<&'v str> {
    match (volumes.iter().find(|volume| has_root_marks(paths, volume)), volumes) {
        (Some(root), _) => Some(root),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// Returns true if a volume looks like a root filesystem.
pub(super) fn has_root_marks(paths: &impl Paths, volume: &str) -> bool {
    let marks: [&[u8]; 4] = [b"/etc/fstab", b"/etc/os-release", b"/usr/lib/os-release", b"/etc/passwd"];
    marks.iter().any(|mark| paths.row(volume, mark).is_some())
}

/// A resolved path: a volume, and a path on it without symlinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) volume: String,
    pub(crate) path: Vec<u8>,
}

/// Returns the error for a path that does not exist.
pub(crate) fn missing(volume: &str, path: &[u8]) -> Error {
    Error::input(format!("{volume}:{}: no such file or directory", escape(path)))
        .advise("List the image with `mif ls`")
}

/// Resolves `path` from the root of `volume`. Follows symlinks on the way, and one at the end if `follow`. Everything
/// on the way must exist, but the end need not.
pub(crate) fn resolve(paths: &impl Paths, volume: &str, path: &[u8], follow: bool) -> Result<Place> {
    let mut links = 0;
    let mut here = Place { volume: volume.to_owned(), path: b"/".to_vec() };
    let mut todo: Vec<Vec<u8>> = parts(path).collect();
    todo.reverse();
    while let Some(part) = todo.pop() {
        let folder = paths.row(&here.volume, &here.path).ok_or_else(|| missing(&here.volume, &here.path))?;
        if folder.node.file_type != FileType::Dir {
            return Err(Error::input(format!("{}:{}: not a directory", here.volume, escape(&here.path))));
        }
        if part == b".." {
            if here.path == b"/" {
                here = paths.above(&here.volume)?;
            }
            here.path.truncate(here.path.iter().rposition(|b| *b == b'/').unwrap_or(0).max(1));
            continue;
        }
        let mut child = if here.path == b"/" { Vec::new() } else { here.path.clone() };
        child.push(b'/');
        child.extend_from_slice(&part);
        let Some(found) = paths.row(&here.volume, &child) else {
            if todo.is_empty() {
                here.path = child;
                continue;
            }
            return Err(missing(&here.volume, &child));
        };
        let target = found.node.link_target.as_ref().filter(|_| follow || !todo.is_empty());
        let Some(target) = target.filter(|_| found.node.file_type == FileType::Symlink) else {
            here = match paths.mounted(&here.volume, &child)? {
                Some(volume) => Place { volume, path: b"/".to_vec() },
                None => Place { path: child, ..here },
            };
            continue;
        };
        links += 1;
        if links > MAX_SYMLINKS {
            return Err(Error::input(format!(
                "{}:{}: too many levels of symbolic links",
                here.volume,
                escape(&child)
            )));
        }
        if target.first() == Some(&b'/') {
            here = paths.root(&here.volume);
        }
        let target: Vec<Vec<u8>> = parts(target).collect();
        todo.extend(target.into_iter().rev());
    }
    Ok(here)
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_name_its_volume() {
        let of = |text: &str| VolumePath::parse(text.as_bytes());
        assert_eq!(of("p15:/EFI"), VolumePath { volume: Some("p15".into()), path: b"/EFI".to_vec() });
        assert_eq!(of("/p1:/x").volume, None);
        assert_eq!(of("vg/root:/x").volume, Some("vg/root".into()));
        assert_eq!(of("a:b").volume, None);
        assert_eq!(of("/etc/a:b").path, b"/etc/a:b");
    }
}
