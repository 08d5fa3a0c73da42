//! Extracts into a tar archive. A pax header before each member contains what does not fit into the old header, in the
//! form that GNU tar and libarchive read: long and non-ASCII names, nanoseconds, large numbers, xattrs
//! (`SCHILY.xattr.*`), ACLs (`SCHILY.acl.*`), SELinux labels (`RHT.security.selinux`), and holes (GNU's sparse format
//! 1.0).

use std::io::{self, Write};
use std::ops::Range;

use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::manifest::escape_apart;
use tar::{Builder, EntryType, Header};

use super::{ExtractReport, Item, copy, data_parts};
use crate::error::{Error, Result};
use crate::host::acl;
use crate::task::progress::Progress;
use crate::tree::view::Tree;

/// The maximum length of a name, and the maximum numbers, in the old header.
const MAX_NAME: usize = 100;
const MAX_ID: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_TIME: i64 = 0o77_777_777_777;
const BLOCK: usize = 512;

pub(super) fn extract(
    tree: &Tree,
    items: &[Item<'_>],
    out: &mut dyn Write,
    report: &mut ExtractReport,
    progress: &dyn Progress,
) -> Result<()> {
    let mut builder = Builder::new(out);
    for item in items {
        crate::task::progress::check(progress)?;
        member(tree, items, item, &mut builder, report, progress)?;
    }
    builder.finish().map_err(failed)?;
    builder.get_mut().flush().map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::store(format!("cannot write the tar archive: {error}"))
}

fn member(
    tree: &Tree,
    items: &[Item<'_>],
    item: &Item<'_>,
    out: &mut Builder<&mut dyn Write>,
    report: &mut ExtractReport,
    progress: &dyn Progress,
) -> Result<()> {
    let row = item.row;
    if row.node.file_type == FileType::Socket {
        report.not_set("socket", &row.path, "tar cannot store sockets");
        return Ok(());
    }
    let mut header = Header::new_ustar();
    let mut pax = Pax::default();
    let name = member_name(item);
    let is_folder = row.node.file_type == FileType::Dir;
    header.set_mode(row.node.mode.map_or(if is_folder { 0o755 } else { 0o644 }, u32::from));
    let (uid, gid) = (row.node.uid.unwrap_or(0), row.node.gid.unwrap_or(0));
    header.set_uid(uid.min(MAX_ID).into());
    header.set_gid(gid.min(MAX_ID).into());
    if uid > MAX_ID {
        pax.add("uid", uid.to_string());
    }
    if gid > MAX_ID {
        pax.add("gid", gid.to_string());
    }
    if let Some(mtime) = row.node.mtime {
        header.set_mtime(mtime.secs.clamp(0, MAX_TIME) as u64);
        if mtime.nanos != 0 || !(0..=MAX_TIME).contains(&mtime.secs) {
            pax.add("mtime", decimal(mtime));
        }
    }
    if let Some(atime) = row.node.atime.filter(|atime| Some(*atime) != row.node.mtime) {
        pax.add("atime", decimal(atime));
    }
    for xattr in &row.node.xattrs {
        if xattr.name.contains(&0) {
            let what = format!("xattr {}", escape_apart(&xattr.name));
            report.not_set(&what, &row.path, "its name contains a NUL byte");
            continue;
        }
        pax.add([b"SCHILY.xattr.", &encoded(&xattr.name)[..]].concat(), &*xattr.value);
        // `tar --acls` and `--selinux` restore these.
        match std::str::from_utf8(&xattr.name).unwrap_or_default() {
            acl::ACCESS => pax.add_some("SCHILY.acl.access", acl::text(&xattr.value)),
            acl::DEFAULT => pax.add_some("SCHILY.acl.default", acl::text(&xattr.value)),
            "security.selinux" => {
                pax.add("RHT.security.selinux", xattr.value.strip_suffix(b"\0").unwrap_or(&xattr.value));
            }
            _ => {}
        }
    }
    let link = match item.link_to {
        Some(first) => Some(member_name(&items[first])),
        None => row.node.link_target.clone(),
    };
    if let Some(link) = &link {
        set_name(&mut header.as_old_mut().linkname, link, "linkpath", &mut pax);
    }
    header.set_entry_type(match row.node.file_type {
        _ if item.link_to.is_some() => EntryType::Link,
        FileType::Dir => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::Char => EntryType::Char,
        FileType::Block => EntryType::Block,
        FileType::Fifo => EntryType::Fifo,
        FileType::File | FileType::Socket => EntryType::Regular,
    });
    if matches!(row.node.file_type, FileType::Char | FileType::Block) {
        let (major, minor) = row.node.rdev.unwrap_or_default();
        let fits = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
        if major > MAX_ID || minor > MAX_ID || fits.is_err() {
            report.not_set("device", &row.path, "its number is too large for tar");
            return Ok(());
        }
    }
    header.set_size(0);
    if row.node.file_type == FileType::File && item.link_to.is_none() {
        let damaged = |e: Error| format!("{}: cannot read its content: {e}", escape_apart(&row.path));
        let opened = tree.content(item.number).and_then(|source| Ok((data_parts(&*source)?, source)));
        let (parts, source) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                report.failed.push(damaged(error));
                return Ok(());
            }
        };
        let data: u64 = parts.iter().map(|part| part.end - part.start).sum();
        let map = if data < source.len() { sparse_map(&parts, source.len()) } else { Vec::new() };
        let size = data + map.len() as u64;
        if map.is_empty() {
            set_name(&mut header.as_old_mut().name, &name, "path", &mut pax);
        } else {
            pax.add("GNU.sparse.major", "1");
            pax.add("GNU.sparse.minor", "0");
            pax.add("GNU.sparse.name", &*name);
            pax.add("GNU.sparse.realsize", source.len().to_string());
            // A reader without sparse support extracts the map and the data under this name.
            let plain = [b"GNUSparseFile.0/", &name[..]].concat();
            put_name(&mut header.as_old_mut().name, &plain);
        }
        header.set_size(size.min(MAX_SIZE));
        if size > MAX_SIZE {
            pax.add("size", size.to_string());
        }
        pax.write(out)?;
        header.set_cksum();
        let to = out.get_mut();
        to.write_all(header.as_bytes()).and_then(|()| to.write_all(&map)).map_err(failed)?;
        // Half a member cannot be taken back, so a read error ends the tar.
        copy(&*source, &parts, progress, |_, bytes| to.write_all(bytes).map_err(failed))?;
        to.write_all(&[0; BLOCK][..(BLOCK - size as usize % BLOCK) % BLOCK]).map_err(failed)?;
        report.files += 1;
        report.bytes += source.len();
    } else {
        set_name(&mut header.as_old_mut().name, &name, "path", &mut pax);
        pax.write(out)?;
        header.set_cksum();
        out.get_mut().write_all(header.as_bytes()).map_err(failed)?;
    }
    report.paths += 1;
    Ok(())
}

/// Returns the name of a member: a relative path, with a trailing slash for a directory.
fn member_name(item: &Item<'_>) -> Vec<u8> {
    let mut name = [b"./", &item.path[..]].concat();
    if item.row.node.file_type == FileType::Dir && !item.path.is_empty() {
        name.push(b'/');
    }
    name
}

fn set_name(field: &mut [u8; MAX_NAME], name: &[u8], key: &str, pax: &mut Pax) {
    if name.len() > MAX_NAME || !name.is_ascii() {
        pax.add(key, name);
    }
    put_name(field, name);
}

/// Writes as much of `name` as fits, in ASCII.
fn put_name(field: &mut [u8; MAX_NAME], name: &[u8]) {
    field.fill(0);
    for (to, from) in field.iter_mut().zip(name) {
        *to = if from.is_ascii() { *from } else { b'_' };
    }
}

/// Returns the map of GNU's sparse format 1.0: decimal numbers, one per line, padded with zeros to a block.
fn sparse_map(parts: &[Range<u64>], size: u64) -> Vec<u8> {
    // A hole at the end is marked by an empty part there.
    let end = (parts.last().is_none_or(|last| last.end < size)).then_some(size..size);
    let parts: Vec<_> = parts.iter().cloned().chain(end).collect();
    let mut map = format!("{}\n", parts.len());
    for part in parts {
        map += &format!("{}\n{}\n", part.start, part.end - part.start);
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Formats seconds with nine decimals. Before 1970, the fraction counts away from zero.
fn decimal(time: Timestamp) -> String {
    match (time.secs, time.nanos) {
        (secs, nanos) if secs >= 0 || nanos == 0 => format!("{secs}.{nanos:09}"),
        (-1, nanos) => format!("-0.{:09}", 1_000_000_000 - nanos),
        (secs, nanos) => format!("{}.{:09}", secs + 1, 1_000_000_000 - nanos),
    }
}

/// Encodes the name of an attribute as GNU tar does: an equals sign would end the record's key. Other bytes are
/// unchanged.
fn encoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            other => out.push(*other),
        }
    }
    out
}

/// The records of a pax header.
#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    fn add(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        // The length of a record includes its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(format!("{len} ").as_bytes());
        self.0.extend([key, b"=", value, b"\n"].concat());
    }

    fn add_some(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn write(&self, out: &mut Builder<&mut dyn Write>) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_size(self.0.len() as u64);
        header.set_entry_type(EntryType::XHeader);
        header.set_cksum();
        out.append(&header, &self.0[..]).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for len in 0..2000 {
            let mut pax = Pax::default();
            pax.add("key", vec![b'v'; len]);
            let text = String::from_utf8(pax.0.clone()).unwrap();
            let (said, rest) = text.split_once(' ').unwrap();
            assert_eq!(said.parse::<usize>().unwrap(), pax.0.len());
            assert!(rest.starts_with("key=") && rest.ends_with('\n'));
        }
    }
}
