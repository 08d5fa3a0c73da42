//! Resolves paths through symlinks and mounts.

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::{Row, escape};

use crate::error::{Error, Result};

/// The maximum number of symlinks on a path, as on Linux.
const MAX_SYMLINKS: u32 = 40;

/// A path as the user writes it: `/etc/passwd` on the root filesystem, `p15:/EFI` on a partition,
/// `vg/home:/ada` on a logical volume; on a disk with Windows, `C:\Windows` too.
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
        // No volume has a name of one letter. Windows calls the one that it is on C, whatever its letter was in Setup.
        if let [b'C' | b'c', b':', rest @ ..] = text
            && matches!(rest, [b'\\' | b'/', ..])
        {
            let path = rest.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte });
            return VolumePath { volume: None, path: path.collect() };
        }
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

    /// Returns a row whose path differs at most in case, if names on the volume do not differ by case.
    fn row_ignoring_case(&self, _volume: &str, _path: &[u8]) -> Option<&Row> {
        None
    }

    /// Returns true if a directory has entries.
    fn has_entries(&self, place: &Place) -> bool;

    /// Returns the place that is mounted on the directory `here`, which is at the path `seen`.
    fn mounted(&self, _seen: &[u8], _here: &Place) -> Result<Option<Place>> {
        Ok(None)
    }

    /// Returns the place of a path without symlinks, as seen from a volume.
    fn place(&self, volume: &str, seen: &[u8]) -> Place {
        Place { volume: volume.to_owned(), path: seen.to_vec() }
    }

    /// Fails if `..` must not be used in the topmost directory, where it leads nowhere.
    fn above(&self, _volume: &str) -> Result<()> {
        Ok(())
    }
}

/// Returns true if a directory looks like a root filesystem.
pub(super) fn has_root_marks(paths: &impl Paths, place: &Place) -> bool {
    let marks: [&[u8]; 4] = [b"/etc/fstab", b"/etc/os-release", b"/usr/lib/os-release", b"/etc/passwd"];
    let windows = place.join(b"/Windows/System32/config/SOFTWARE");
    marks.iter().map(|mark| place.join(mark)).any(|mark| paths.row(&mark.volume, &mark.path).is_some())
        || paths.row_ignoring_case(&windows.volume, &windows.path).is_some()
}

/// A resolved path: a volume, and a path on it without symlinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) volume: String,
    pub(crate) path: Vec<u8>,
}

impl Place {
    /// Returns the path as text.
    pub(crate) fn path_text(&self) -> String {
        escape(&self.path)
    }

    /// Returns the place at `rest` from here, which is empty or begins with a slash.
    pub(crate) fn join(&self, rest: &[u8]) -> Place {
        let path = [inner(&self.path), inner(rest)].concat();
        Place { volume: self.volume.clone(), path: if path.is_empty() { b"/".to_vec() } else { path } }
    }

    /// Returns the rest of the path of a place that is here or below, for [`join`](Self::join); `None` if it is
    /// elsewhere.
    pub(crate) fn rest_of<'p>(&self, place: &'p Place) -> Option<&'p [u8]> {
        let rest =
            inner(&place.path).strip_prefix(inner(&self.path)).filter(|_| place.volume == self.volume)?;
        rest.first().is_none_or(|b| *b == b'/').then_some(rest)
    }
}

/// Returns a path without the slash of the topmost directory.
fn inner(path: &[u8]) -> &[u8] {
    if path == b"/" { b"" } else { path }
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
    // The path walked so far, without symlinks, and the place where it leads.
    let mut seen: Vec<u8> = Vec::new();
    let mut here = paths.place(volume, b"/");
    let mut todo: Vec<Vec<u8>> = parts(path).collect();
    todo.reverse();
    while let Some(part) = todo.pop() {
        let folder = paths.row(&here.volume, &here.path).ok_or_else(|| missing(&here.volume, &here.path))?;
        if folder.node.file_type != FileType::Dir {
            return Err(Error::input(format!("{}:{}: not a directory", here.volume, escape(&here.path))));
        }
        if part == b".." {
            if seen.is_empty() {
                paths.above(volume)?;
            }
            seen.truncate(seen.iter().rposition(|b| *b == b'/').unwrap_or(0));
            here = paths.place(volume, if seen.is_empty() { b"/" } else { &seen });
            continue;
        }
        let mut child = here.join(&[b"/", &part[..]].concat());
        let exact = paths.row(&child.volume, &child.path);
        let Some(found) = exact.or_else(|| paths.row_ignoring_case(&child.volume, &child.path)) else {
            if todo.is_empty() {
                here = child;
                continue;
            }
            return Err(missing(&child.volume, &child.path));
        };
        child.path = found.full_path().into_owned();
        let target = found.node.link_target.as_ref().filter(|_| follow || !todo.is_empty());
        let Some(target) = target.filter(|_| found.node.file_type == FileType::Symlink) else {
            let slash = child.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
            seen.extend(&child.path[slash..]);
            here = paths.mounted(&seen, &child)?.unwrap_or(child);
            continue;
        };
        links += 1;
        if links > MAX_SYMLINKS {
            return Err(Error::input(format!(
                "{}:{}: too many levels of symbolic links",
                child.volume,
                escape(&child.path)
            )));
        }
        if target.first() == Some(&b'/') {
            seen.clear();
            here = paths.place(volume, b"/");
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
        assert_eq!(
            of(r"C:\Windows\win.ini"),
            VolumePath { volume: None, path: b"/Windows/win.ini".to_vec() }
        );
        assert_eq!(of(r"c:/Users").path, b"/Users");
        assert_eq!(of(r"C:").path, b"C:");
        assert_eq!(of(r"D:/x").volume, Some("D".into()));
    }
}
