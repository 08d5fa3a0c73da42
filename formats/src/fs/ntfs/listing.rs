//! The entries of a directory.

use std::collections::HashMap;

use super::file::File;
use super::index;
use super::mft::Mft;
use super::record::{Reference, units};
use super::volume::Volume;
use crate::bytes::le64;
use crate::error::{Error, Result, at};
use crate::fs::filesystem::DirEntry;
use crate::fs::utf16;

/// The most entries of one directory.
const ENTRIES_MAX: usize = 1 << 23;
/// Bytes of a key before its name.
const NAME: usize = 66;

/// The kinds of names.
pub(super) mod space {
    pub(in super::super) const WIN32: u8 = 1;
    pub(in super::super) const DOS: u8 = 2;
}

/// A name in the index of a directory.
struct Name {
    file: Reference,
    /// The kind of name.
    space: u8,
    units: Vec<u16>,
}

/// Returns the entries of the directory `dir`, except those of records below `first`.
pub(super) fn list(
    volume: &Volume,
    mft: &Mft,
    dir: &File,
    first: u64,
    complain: &mut dyn FnMut(Error),
) -> Result<Vec<DirEntry>> {
    let place = || at(format!("MFT record {}, directory", dir.number));
    let mut names = Vec::new();
    let mut bad = Vec::new();
    index::walk(volume, dir, index::NAMES, complain, &mut |entry| {
        let file = Reference(le64(entry.bytes, 0));
        let name = entry.key.get(64).and_then(|len| entry.key.get(NAME..NAME + 2 * usize::from(*len)));
        match name {
            Some(_) if names.len() == ENTRIES_MAX => {
                bad.push(place().limit(format!("has more than {ENTRIES_MAX} entries")));
                return false;
            }
            Some(name) if file.number() >= first => {
                names.push(Name { file, space: entry.key[65], units: units(name) });
            }
            Some(_) => {}
            None => bad.push(place().corrupt(format!("has a name of {} bytes", entry.key.len()))),
        }
        true
    })?;
    bad.into_iter().for_each(&mut *complain);
    // Records are read in their order.
    names.sort_by_key(|name| name.file.number());
    let names = without_stale(volume, mft, names, &mut |name, problem| {
        complain(place().corrupt(format!("\"{}\" {problem}", String::from_utf16_lossy(&name.units))));
    });
    Ok(joined(names, &mut |name, problem| {
        complain(place().corrupt(format!("\"{}\" {problem}", String::from_utf16_lossy(&name.units))));
    }))
}

/// Says what is wrong with a name.
type Bad<'a> = &'a mut dyn FnMut(&Name, &str);

/// Removes names of files that were deleted.
fn without_stale(volume: &Volume, mft: &Mft, mut names: Vec<Name>, bad: Bad<'_>) -> Vec<Name> {
    let numbers: Vec<u64> = names.iter().map(|name| name.file.number()).collect();
    let mut found = mft.sequences(volume, &numbers).into_iter();
    names.retain(|name| {
        let number = name.file.number();
        let problem = match found.next().flatten() {
            // Reading the record will show what is wrong with it.
            None => return true,
            Some((_, false)) => format!("leads to MFT record {number}, which is not in use"),
            Some((sequence, _)) if !name.file.fits(sequence) => {
                format!("leads to an earlier use of MFT record {number}")
            }
            Some(_) => return true,
        };
        bad(name, &problem);
        false
    });
    names
}

/// Makes entries of names: a file's DOS name goes with its long name.
fn joined(names: Vec<Name>, bad: Bad<'_>) -> Vec<DirEntry> {
    let mut dos: HashMap<u64, Name> = HashMap::new();
    let mut long = Vec::with_capacity(names.len());
    for name in names {
        if name.space != space::DOS {
            long.push(name);
        } else if let Some(second) = dos.insert(name.file.number(), name) {
            bad(&second, "is one of two DOS names of a file");
        }
    }
    let mut entries = Vec::with_capacity(long.len());
    let mut add = |name: &Name, dos_name: Option<&Name>, bad: Bad<'_>| {
        let bytes = utf16::wtf8(&name.units);
        if !utf16::is_valid(&bytes) {
            return bad(name, "is not a valid name");
        }
        let dos_name = dos_name.and_then(|dos| String::from_utf16(&dos.units).ok());
        entries.push(DirEntry {
            name: bytes,
            short_name: None,
            dos_name: dos_name.map(String::into_boxed_str),
            node: name.file.number() << 16,
        });
    };
    for name in &long {
        let dos_name = if name.space == space::WIN32 { dos.remove(&name.file.number()) } else { None };
        add(name, dos_name.as_ref(), bad);
    }
    let mut alone: Vec<Name> = dos.into_values().collect();
    alone.sort_by_key(|name| name.file.number());
    for name in &alone {
        bad(name, "is a DOS name without a long one");
        add(name, None, bad);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(file: u64, space: u8, text: &str) -> Name {
        Name { file: Reference(file), space, units: text.encode_utf16().collect() }
    }

    #[test]
    fn dos_names_go_with_the_long_name_of_their_file() {
        let names = vec![
            name(40, 1, "a long name"),
            name(40, 2, "ALONGN~1"),
            name(41, 3, "BOTH"),
            name(42, 0, "a link"),
            name(42, 1, "another long name"),
            name(42, 2, "ANOTHE~1"),
            name(43, 2, "ALONE~1"),
            name(44, 0, "a/b"),
        ];
        let mut bad = Vec::new();
        let entries = joined(names, &mut |name, problem| {
            bad.push(format!("{} {problem}", String::from_utf16_lossy(&name.units)));
        });
        let listed: Vec<_> = entries
            .iter()
            .map(|entry| {
                (entry.node >> 16, std::str::from_utf8(&entry.name).unwrap(), entry.dos_name.as_deref())
            })
            .collect();
        assert_eq!(
            listed,
            [
                (40, "a long name", Some("ALONGN~1")),
                (41, "BOTH", None),
                (42, "a link", None),
                (42, "another long name", Some("ANOTHE~1")),
                (43, "ALONE~1", None),
            ]
        );
        assert_eq!(bad, ["a/b is not a valid name", "ALONE~1 is a DOS name without a long one"]);
    }
}
