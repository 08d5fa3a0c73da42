//! Reads the rows of a manifest, and checks that they can be read.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use parquet::file::reader::ChunkReader;

use super::columns::{self, Column, ColumnId, Columns};
use super::{Body, Part, Row, STREAM, schema, splitdev, type_from};
use crate::error::{Error, Result, at};
use crate::fs::{FileId, FileType, Node, NtfsNode, Timestamp, Xattr};
use crate::mif::ObjectId;
use crate::mif::table::Group;

/// Reads a manifest; the rows keep the order of the file.
pub fn read<R: ChunkReader + 'static>(file: R) -> Result<Vec<Row>> {
    let columns = Columns::new(file)?;
    let mut rows = Vec::new();
    for group in columns.groups() {
        read_group(&group, &mut rows)?;
    }
    Ok(rows)
}

/// Reads some rows of a group of a manifest, by their ascending numbers in the group.
pub fn read_rows(group: &Group<'_>, numbers: &[usize]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if !numbers.is_empty() {
        read_group(&group.only(numbers), &mut rows)?;
    }
    Ok(rows)
}

/// Columns of manifests whose values were read and are valid. The manifests of clones have most columns in common, so each
/// is read once.
#[derive(Debug, Default)]
pub struct ValidColumns(Mutex<HashSet<(Unit, ColumnId)>>);

impl ValidColumns {
    fn known(&self) -> MutexGuard<'_, HashSet<(Unit, ColumnId)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the bodies of all rows of a manifest, in order.
    ///
    /// # Errors
    /// Those of [`read`], if that fails for this file.
    pub fn bodies(&self, file: Bytes) -> Result<Vec<Option<Body>>> {
        let table = Columns::open(file)?;
        let mut all = Vec::new();
        for group in table.groups() {
            all.extend(bodies(&group)?);
            for unit in UNITS {
                let ids: Option<Vec<ColumnId>> = unit.columns().iter().map(|c| group.identity(*c)).collect();
                let id = ids.map(|ids| (unit, ColumnId::of_all(&ids)));
                if id.is_some_and(|id| self.known().contains(&id)) {
                    continue;
                }
                unit.check(&group)?;
                self.known().extend(id);
            }
        }
        Ok(all)
    }
}

/// Columns that are valid or not whatever the others have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Text(Column),
    Number(Column),
    Size,
    Flags,
    U32(Column, &'static str),
    File,
    Time(Column, Column),
    Bytes(Column),
    ShortName,
    OptionalText(Column, &'static str),
    Xattrs,
    Kind,
}

/// All columns but those of the bodies.
const UNITS: [Unit; 28] = [
    Unit::Text(Column::Volume),
    Unit::Text(Column::Path),
    Unit::Kind,
    Unit::Number(Column::Mode),
    Unit::U32(Column::Uid, "uid"),
    Unit::U32(Column::Gid, "gid"),
    Unit::U32(Column::Nlink, "nlink"),
    Unit::File,
    Unit::Number(Column::Inode),
    Unit::Number(Column::Subvolume),
    Unit::Size,
    Unit::Time(Column::Mtime, Column::MtimeNs),
    Unit::Time(Column::Atime, Column::AtimeNs),
    Unit::Time(Column::Ctime, Column::CtimeNs),
    Unit::Time(Column::Crtime, Column::CrtimeNs),
    Unit::Bytes(Column::LinkTarget),
    Unit::Number(Column::Rdev),
    Unit::Xattrs,
    Unit::Flags,
    Unit::U32(Column::Generation, "generation"),
    Unit::U32(Column::Project, "project"),
    Unit::Bytes(Column::PathBytes),
    Unit::Bytes(Column::LinkTargetBytes),
    Unit::ShortName,
    Unit::OptionalText(Column::DosName, "dos_name"),
    Unit::OptionalText(Column::OwnerSid, "owner_sid"),
    Unit::OptionalText(Column::GroupSid, "group_sid"),
    Unit::Bytes(Column::Reparse),
];

impl Unit {
    fn columns(self) -> Vec<Column> {
        match self {
            Unit::Text(column)
            | Unit::Number(column)
            | Unit::U32(column, _)
            | Unit::Bytes(column)
            | Unit::OptionalText(column, _) => vec![column],
            Unit::Time(secs, nanos) => vec![secs, nanos],
            Unit::Size => vec![Column::Size],
            Unit::Flags => vec![Column::Flags],
            Unit::File => vec![Column::File],
            Unit::ShortName => vec![Column::ShortName],
            Unit::Xattrs => vec![Column::XattrNames, Column::XattrValues],
            Unit::Kind => vec![Column::Type, Column::Stream, Column::Member],
        }
    }

    /// Fails if [`read_group`] would fail because of these columns.
    fn check(self, group: &Group<'_>) -> Result<()> {
        match self {
            Unit::Text(column) => group.each_text(column, |_| {}),
            Unit::Number(column) => numbers(group, column).map(drop),
            Unit::U32(column, name) => u32s(group, column, name).map(drop),
            Unit::Time(secs, nanos) => times(group, secs, nanos).map(drop),
            Unit::Bytes(column) => bytes(group, column).map(drop),
            Unit::OptionalText(column, name) => texts(group, column, name).map(drop),
            Unit::Size => sizes(group).map(drop),
            Unit::Flags => flags(group).map(drop),
            Unit::File => files(group).map(drop),
            Unit::ShortName => short_names(group).map(drop),
            Unit::Xattrs => columns::xattrs(group).map(drop),
            Unit::Kind => kinds(group).map(drop),
        }
    }
}

fn wrong(column: &'static str, problem: &'static str) -> Error {
    at("manifest").field(column).corrupt(problem)
}

/// Reads a column of numbers; empty if no row has one, because many columns are null throughout.
fn numbers(group: &Group<'_>, column: Column) -> Result<Vec<Option<i64>>> {
    if group.all_null(column) { Ok(Vec::new()) } else { group.numbers(column) }
}

/// Returns the value of a row, of a column that is empty if no row has one.
fn of_row<T: Copy>(column: &[Option<T>], row: usize) -> Option<T> {
    column.get(row).copied().flatten()
}

/// Takes the value of a row out of such a column.
fn take<T>(column: &mut [Option<T>], row: usize) -> Option<T> {
    column.get_mut(row)?.take()
}

fn u32s(group: &Group<'_>, column: Column, name: &'static str) -> Result<Vec<Option<u32>>> {
    let number = |n: i64| u32::try_from(n).map_err(|_| wrong(name, "is negative or over 2³² − 1"));
    numbers(group, column)?.into_iter().map(|n| n.map(number).transpose()).collect()
}

fn sizes(group: &Group<'_>) -> Result<Vec<u64>> {
    let sizes = group.numbers(Column::Size)?.into_iter();
    sizes.map(|size| size.map(|size| size as u64).ok_or_else(|| wrong("size", "is missing"))).collect()
}

fn flags(group: &Group<'_>) -> Result<Vec<u32>> {
    let flags = u32s(group, Column::Flags, "flags")?;
    (0..group.rows).map(|i| of_row(&flags, i).ok_or_else(|| wrong("flags", "is missing"))).collect()
}

fn files(group: &Group<'_>) -> Result<Vec<Option<FileId>>> {
    let files = u32s(group, Column::File, "file")?;
    if files.iter().flatten().any(|file| *file > FileId::MAX.0) {
        return Err(wrong("file", "is over 2³¹ − 1"));
    }
    Ok(files.into_iter().map(|file| file.map(FileId)).collect())
}

fn times(group: &Group<'_>, secs: Column, nanos: Column) -> Result<Vec<Option<Timestamp>>> {
    if group.all_null(secs) {
        return Ok(Vec::new());
    }
    let both = group.numbers(secs)?.into_iter().zip(group.numbers(nanos)?);
    Ok(both.map(|(secs, nanos)| Some(Timestamp { secs: secs?, nanos: nanos? as u32 })).collect())
}

fn bytes(group: &Group<'_>, column: Column) -> Result<Vec<Option<Vec<u8>>>> {
    if group.all_null(column) {
        return Ok(Vec::new());
    }
    Ok(group.blobs(column)?.into_iter().map(|b| b.map(|b| b.data().to_vec())).collect())
}

fn texts(group: &Group<'_>, column: Column, name: &'static str) -> Result<Vec<Option<String>>> {
    let text = |b: Vec<u8>| String::from_utf8(b).map_err(|_| wrong(name, "is not UTF-8"));
    bytes(group, column)?.into_iter().map(|b| b.map(text).transpose()).collect()
}

fn names(group: &Group<'_>, column: Column, name: &'static str) -> Result<Vec<Option<Vec<u8>>>> {
    let parsed = |b: Vec<u8>| schema::unescape(&b).ok_or_else(|| wrong(name, "is not a valid escaped name"));
    bytes(group, column)?.into_iter().map(|b| b.map(parsed).transpose()).collect()
}

fn short_names(group: &Group<'_>) -> Result<Vec<Option<[u8; 11]>>> {
    let name =
        |b: Vec<u8>| <[u8; 11]>::try_from(b).map_err(|_| wrong("short_name", "does not have 11 bytes"));
    bytes(group, Column::ShortName)?.into_iter().map(|b| b.map(name).transpose()).collect()
}

/// Reads what each row describes: the type of the file, and the part of it.
fn kinds(group: &Group<'_>) -> Result<Vec<(FileType, Option<Part>)>> {
    let types = group.texts(Column::Type)?;
    let mut streams = names(group, Column::Stream, "stream")?;
    let mut members = names(group, Column::Member, "member")?;
    let kind = |i: usize| {
        let part = match (take(&mut streams, i), take(&mut members, i)) {
            (Some(name), None) => Some(Part::Stream(name)),
            (None, Some(path)) => Some(Part::Member(path)),
            (None, None) => None,
            _ => return Err(wrong("member", "is set together with a stream")),
        };
        let text = types[i].data();
        let file_type = match part {
            Some(Part::Stream(_)) if text == STREAM.as_bytes() => FileType::File,
            _ => type_from(text).ok_or_else(|| wrong("type", "is not a file type"))?,
        };
        Ok((file_type, part))
    };
    (0..group.rows).map(kind).collect()
}

/// Reads the contents of the rows.
fn bodies(group: &Group<'_>) -> Result<Vec<Option<Body>>> {
    let sha1 = group.digests::<20>(Column::Sha1)?;
    let (blake3, content) = (group.digests::<32>(Column::Blake3)?, group.digests::<32>(Column::Content)?);
    let body = |i: usize| match (sha1[i], blake3[i], content[i]) {
        (Some(sha1), Some(blake3), None) => Ok(Some(Body::Digested { sha1, blake3 })),
        (None, None, Some(list)) => Ok(Some(Body::Opaque { object: ObjectId::chunk_list(list) })),
        (None, None, None) => Ok(None),
        _ => Err(wrong("content", "is set together with a digest, or only one digest is set")),
    };
    (0..group.rows).map(body).collect()
}

fn read_group(group: &Group<'_>, rows: &mut Vec<Row>) -> Result<()> {
    let volume = group.texts(Column::Volume)?;
    let path = group.texts(Column::Path)?;
    let mut kinds = kinds(group)?.into_iter();
    let mode = numbers(group, Column::Mode)?;
    let (uid, gid) = (u32s(group, Column::Uid, "uid")?, u32s(group, Column::Gid, "gid")?);
    let (nlink, file) = (u32s(group, Column::Nlink, "nlink")?, files(group)?);
    let (inode, subvolume) = (numbers(group, Column::Inode)?, numbers(group, Column::Subvolume)?);
    let size = sizes(group)?;
    let mtime = times(group, Column::Mtime, Column::MtimeNs)?;
    let atime = times(group, Column::Atime, Column::AtimeNs)?;
    let ctime = times(group, Column::Ctime, Column::CtimeNs)?;
    let crtime = times(group, Column::Crtime, Column::CrtimeNs)?;
    let mut link_target = bytes(group, Column::LinkTarget)?;
    let rdev = numbers(group, Column::Rdev)?;
    let mut xattrs: Vec<Vec<Xattr>> = columns::xattrs(group)?;
    let flags = flags(group)?;
    let generation = u32s(group, Column::Generation, "generation")?;
    let project = u32s(group, Column::Project, "project")?;
    let body = bodies(group)?;
    let mut path_bytes = bytes(group, Column::PathBytes)?;
    let mut link_bytes = bytes(group, Column::LinkTargetBytes)?;
    let short_name = short_names(group)?;
    let mut dos_name = texts(group, Column::DosName, "dos_name")?;
    let mut owner_sid = texts(group, Column::OwnerSid, "owner_sid")?;
    let mut group_sid = texts(group, Column::GroupSid, "group_sid")?;
    let mut reparse = bytes(group, Column::Reparse)?;
    rows.reserve(group.rows);
    for i in 0..group.rows {
        let (file_type, part) = kinds.next().expect("a kind for each row");
        let ntfs = NtfsNode {
            owner_sid: take(&mut owner_sid, i),
            group_sid: take(&mut group_sid, i),
            reparse: take(&mut reparse, i),
        };
        let node = Node {
            file_type,
            mode: of_row(&mode, i).map(|mode| mode as u16),
            uid: of_row(&uid, i),
            gid: of_row(&gid, i),
            nlink: of_row(&nlink, i),
            inode: of_row(&inode, i).map(|inode| inode as u64),
            subvolume: of_row(&subvolume, i).map(|subvolume| subvolume as u64),
            size: size[i],
            mtime: of_row(&mtime, i),
            atime: of_row(&atime, i),
            ctime: of_row(&ctime, i),
            crtime: of_row(&crtime, i),
            rdev: of_row(&rdev, i).map(splitdev),
            flags: flags[i],
            generation: of_row(&generation, i),
            project: of_row(&project, i),
            link_target: take(&mut link_bytes, i).or_else(|| take(&mut link_target, i)),
            xattrs: std::mem::take(&mut xattrs[i]),
            ntfs: (ntfs != NtfsNode::default()).then(|| Box::new(ntfs)),
        };
        rows.push(Row {
            volume: String::from_utf8_lossy(volume[i].data()).into_owned(),
            path: take(&mut path_bytes, i).unwrap_or_else(|| path[i].data().to_vec()),
            part: part.map(Box::new),
            file: of_row(&file, i),
            node,
            body: body[i],
            short_name: of_row(&short_name, i),
            dos_name: take(&mut dos_name, i).map(String::into_boxed_str),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mif::manifest::tests::row;
    use crate::mif::manifest::write;

    /// Returns the file of rows that have something in each column.
    fn file(sha1: u8) -> Vec<u8> {
        let mut rows = vec![row(b"/"), row(b"/a"), row(b"/b\xff"), row(b"/c"), row(b"/d")];
        for (i, row) in rows.iter_mut().enumerate() {
            row.body = Some(Body::Digested { sha1: [sha1; 20], blake3: [i as u8; 32] });
        }
        rows[0].body = None;
        rows[1].body = Some(Body::Opaque { object: ObjectId::chunk_list([7; 32]) });
        rows[2].node.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }];
        rows[2].short_name = Some(*b"A       TXT");
        rows[3].part = Some(Box::new(Part::Stream(b"s".to_vec())));
        rows[3].node.file_type = FileType::File;
        rows[3].dos_name = Some("D".into());
        rows[4].node.ntfs = Some(Box::new(NtfsNode {
            owner_sid: Some("S-1".into()),
            group_sid: None,
            reparse: Some(vec![1, 2]),
        }));
        let mut file = Vec::new();
        write(&mut file, &rows).unwrap();
        file
    }

    #[test]
    fn every_column_is_in_one_unit_or_a_body() {
        let mut numbers: Vec<usize> =
            UNITS.iter().flat_map(|unit| unit.columns()).map(|column| column as usize).collect();
        numbers.extend([Column::Sha1, Column::Blake3, Column::Content].map(|column| column as usize));
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..=Column::Reparse as usize));
    }

    #[test]
    fn some_rows_are_those_of_all() {
        let file = Bytes::from(file(1));
        let (all, columns) = (read(file.clone()).unwrap(), Columns::open(file).unwrap());
        let group = columns.groups().next().unwrap();
        for chosen in 0..1 << all.len() {
            let numbers: Vec<usize> = (0..all.len()).filter(|i| chosen >> i & 1 == 1).collect();
            let expected: Vec<Row> = numbers.iter().map(|i| all[*i].clone()).collect();
            assert_eq!(read_rows(&group, &numbers).unwrap(), expected, "{numbers:?}");
        }
        assert!(read_rows(&group, &[all.len()]).is_err());
    }

    #[test]
    fn columns_that_are_known_are_not_read_again_and_hide_no_damage() {
        let known = ValidColumns::default();
        let (first, second) = (file(1), file(2));
        let bodies = |file: &[u8]| known.bodies(Bytes::copy_from_slice(file));
        let of_rows = |file: &[u8]| {
            let rows = read(Bytes::copy_from_slice(file));
            rows.map(|rows| rows.into_iter().map(|row| row.body).collect::<Vec<_>>())
        };
        assert_eq!(bodies(&first).unwrap(), of_rows(&first).unwrap());
        let count = known.known().len();
        assert_eq!(count, UNITS.len());
        assert_eq!(bodies(&second).unwrap(), of_rows(&second).unwrap());
        assert_eq!(known.known().len(), count, "the files differ only in bodies");
        // Each damaged file is read after intact ones, and after other damaged ones.
        for at in 0..second.len() {
            let mut bad = second.clone();
            bad[at] = [0, 0x7f, 0x80, 0xff, second[at] ^ 1][at % 5];
            assert_eq!(bodies(&bad).ok(), of_rows(&bad).ok(), "byte {at}");
        }
    }
}
