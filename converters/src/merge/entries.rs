//! Text databases merged entry by entry, such as a package's paragraph or an account's line.

use std::collections::{HashMap, HashSet};

use mif_formats::mif::manifest::escape;

use super::report::Winner;

/// The format of a database's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Paragraphs separated by empty lines, identified by the values of these fields (deb-control(5)).
    Paragraphs(&'static [&'static str]),
    /// Entries of this many lines, identified by their whole text.
    Lines(usize),
    /// Lines of fields separated by colons, identified by the first field (passwd(5)). The third may be a unique
    /// number.
    Accounts {
        /// True if the third field is a unique number.
        numbered: bool,
    },
}

/// The result of merging a database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) bytes: Vec<u8>,
    /// Entries that both sides changed, each a sentence. The bytes contain the winner's.
    pub(super) clashes: Vec<String>,
}

/// An entry: its key and its lines.
type DatabaseEntry = (Vec<u8>, Vec<u8>);

/// Merges the changes from `base` to `theirs` into `ours`. Fails with a sentence if one of them is not such a database.
pub(super) fn merge(
    format: Format,
    [base, theirs, ours]: [&[u8]; 3],
    winner: Option<Winner>,
) -> Result<Merged, String> {
    let (base, theirs, ours) = (entries(format, base)?, entries(format, theirs)?, entries(format, ours)?);
    let [in_base, in_theirs, in_ours] = [&base, &theirs, &ours]
        .map(|entries| entries.iter().map(|(key, lines)| (&key[..], &lines[..])).collect::<HashMap<_, _>>());
    let mut clashes = Vec::new();
    // The new lines of each entry that is taken from the update.
    let mut taken: HashMap<&[u8], Option<&[u8]>> = HashMap::new();
    let gone =
        base.iter().filter(|(key, _)| !in_theirs.contains_key(&key[..])).map(|(key, _)| (&key[..], None));
    let changes = theirs.iter().map(|(key, lines)| (&key[..], Some(&lines[..]))).chain(gone);
    for (key, after) in changes {
        let (before, here) = (in_base.get(key).copied(), in_ours.get(key).copied());
        if after == before || after == here {
            continue;
        }
        let clash = if here != before {
            Some(format!("both changed {}", name(key)))
        } else if here.is_none() && matches!(format, Format::Accounts { numbered: true }) {
            let number = number(after.unwrap_or_default());
            let other = |(key, lines): &&DatabaseEntry| {
                self::number(lines) == number
                    && in_theirs.get(&key[..]).is_none_or(|l| self::number(l) != number)
            };
            let other = ours.iter().find(other).filter(|_| number.is_some());
            other.map(|(other, _)| format!("{} has the ID that {} has in the image", name(key), name(other)))
        } else {
            None
        };
        if clash.is_none() || winner == Some(Winner::Update) {
            taken.insert(key, after);
        }
        clashes.extend(clash);
    }
    // dpkg and apt keep paragraphs sorted.
    let sorted = matches!(format, Format::Paragraphs(_)) && ours.is_sorted();
    let kept = ours.iter().filter_map(|(key, lines)| match taken.get(&key[..]) {
        Some(after) => after.map(|after| (&key[..], after)),
        None => Some((&key[..], &lines[..])),
    });
    let mut merged: Vec<(&[u8], &[u8])> = kept.collect();
    let new =
        theirs.iter().filter(|(key, _)| taken.contains_key(&key[..]) && !in_ours.contains_key(&key[..]));
    merged.extend(new.map(|(key, lines)| (&key[..], &lines[..])));
    if sorted {
        merged.sort();
    }
    let end: &[u8] = if matches!(format, Format::Paragraphs(_)) { b"\n" } else { b"" };
    let bytes = merged.iter().flat_map(|(_, lines)| [lines, end]).flatten().copied().collect();
    Ok(Merged { bytes, clashes })
}

/// Parses the entries of a database, in order.
fn entries(format: Format, bytes: &[u8]) -> Result<Vec<DatabaseEntry>, String> {
    let mut entries: Vec<DatabaseEntry> = Vec::new();
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|b| *b == b'\n');
    let lines = lines.filter(|_| !bytes.is_empty());
    let ended = |line: &[u8]| [line, b"\n"].concat();
    match format {
        Format::Paragraphs(fields) => {
            let lines: Vec<&[u8]> = lines.collect();
            for paragraph in
                lines.split(|line| line.trim_ascii().is_empty()).filter(|lines| !lines.is_empty())
            {
                let value = |field: &&str| {
                    let mut values = paragraph.iter().filter_map(|line| {
                        Some(line.strip_prefix(field.as_bytes())?.strip_prefix(b":")?.trim_ascii())
                    });
                    values.next().unwrap_or_default()
                };
                let values: Vec<&[u8]> = fields.iter().map(value).collect();
                if values[0].is_empty() {
                    return Err(format!("a paragraph has no {} field", fields[0]));
                }
                let lines = paragraph.iter().flat_map(|line| ended(line)).collect();
                entries.push((values.join(&b' '), lines));
            }
        }
        Format::Lines(count) => {
            let lines: Vec<&[u8]> = lines.collect();
            for lines in lines.chunks(count) {
                let lines: Vec<u8> = lines.iter().flat_map(|line| ended(line)).collect();
                entries.push((lines.clone(), lines));
            }
        }
        Format::Accounts { .. } => {
            let key = |line: &[u8]| line.split(|b| *b == b':').next().unwrap_or_default().to_vec();
            entries.extend(lines.map(|line| (key(line), ended(line))));
        }
    }
    let mut seen = HashSet::new();
    match entries.iter().find(|(key, _)| !seen.insert(key)) {
        Some((twice, _)) => Err(format!("it contains {} twice", name(twice))),
        None => Ok(entries),
    }
}

/// Returns the number of an account.
fn number(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line.split(|b| *b == b':').nth(2)?).ok()?.parse().ok()
}

/// Formats the name of an entry for sentences.
fn name(key: &[u8]) -> String {
    format!("\"{}\"", escape(key.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: Format = Format::Paragraphs(&["Package", "Architecture"]);

    fn package(name: &str, version: &str) -> String {
        format!("Package: {name}\nArchitecture: all\nVersion: {version}\nDescription: x\n y\n .\n\n")
    }

    fn texts(format: Format, sides: [&str; 3], winner: Option<Winner>) -> (String, Vec<String>) {
        let merged = merge(format, sides.map(str::as_bytes), winner).unwrap();
        (String::from_utf8(merged.bytes).unwrap(), merged.clashes)
    }

    #[test]
    fn packages_of_both_sides_come_together_in_order() {
        let all = |packages: &[(&str, &str)]| packages.iter().map(|(n, v)| package(n, v)).collect::<String>();
        let base = all(&[("a", "1"), ("c", "1"), ("e", "1")]);
        let theirs = all(&[("a", "2"), ("b", "1"), ("e", "1")]);
        let ours = all(&[("a", "1"), ("c", "1"), ("d", "1"), ("e", "1")]);
        let expected = all(&[("a", "2"), ("b", "1"), ("d", "1"), ("e", "1")]);
        assert_eq!(texts(STATUS, [&base, &theirs, &ours], None), (expected, vec![]));
    }

    #[test]
    fn a_package_that_both_changed_clashes_and_the_winner_has_it() {
        let (base, theirs, ours) = (package("a", "1"), package("a", "2"), package("a", "3"));
        let clash = vec!["both changed \"a all\"".to_owned()];
        let sides = [&base[..], &theirs, &ours];
        assert_eq!(texts(STATUS, sides, Some(Winner::Image)), (ours.clone(), clash.clone()));
        assert_eq!(texts(STATUS, sides, Some(Winner::Update)), (theirs.clone(), clash.clone()));
        assert_eq!(texts(STATUS, [&base, "", &ours], None), (ours.clone(), clash));
        assert_eq!(texts(STATUS, [&base, &theirs, &theirs], None), (theirs.clone(), vec![]));
    }

    #[test]
    fn a_number_is_nobody_elses() {
        let format = Format::Accounts { numbered: true };
        let (base, ours) = ("root:x:0:0::/:\n", "root:x:0:0::/:\nown:x:101:1::/:\n");
        let merged = texts(format, [base, "root:x:0:0::/:\nnew:x:102:1::/:\n", ours], None);
        assert_eq!(merged, (format!("{ours}new:x:102:1::/:\n"), vec![]));
        let (text, clashes) = texts(format, [base, "root:x:0:0::/:\nnew:x:101:1::/:\n", ours], None);
        assert_eq!(text, ours);
        assert_eq!(clashes, ["\"new\" has the ID that \"own\" has in the image"]);
        // The update itself uses a number twice.
        let theirs = "root:x:0:0::/:\ntoor:x:0:0::/:\n";
        assert_eq!(texts(format, [base, theirs, base], None), (theirs.to_owned(), vec![]));
    }

    #[test]
    fn lines_come_and_go() {
        let merged = texts(Format::Lines(1), ["# x\na\nb\n", "# x\nb\nc\n", "# x\na\nb\nown"], None);
        assert_eq!(merged, ("# x\nb\nown\nc\n".to_owned(), vec![]));
        assert_eq!(texts(Format::Lines(3), ["", "a\nb\nc\n", "d\ne\nf\n"], None).0, "d\ne\nf\na\nb\nc\n");
    }

    #[test]
    fn what_is_no_such_database_is_said() {
        for bad in ["Nothing: x\n", "Package: a\n\nPackage: a\n", "\u{0}"] {
            assert!(merge(STATUS, [b"", bad.as_bytes(), b""], None).is_err(), "{bad}");
        }
        assert_eq!(merge(STATUS, [b"", b"\n\n", b""], None).unwrap().bytes, b"");
    }
}
