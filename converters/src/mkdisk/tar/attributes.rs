//! Extended attributes, ACLs and SELinux labels of tar members, in the forms of GNU tar, star and libarchive (tar(5) of
//! libarchive, "Pax Interchange Format"; GNU tar's manual, "Extended File Attributes").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mif_formats::Source;
use mif_formats::fs::{FileType, Xattr};

use super::records::Records;
use crate::host::acl::{self, Principal};
use crate::mkdisk::member::{Content, Members};
use crate::mkdisk::path::TreePath;

/// The attribute with a file's SELinux label.
const SELINUX: &[u8] = b"security.selinux";
/// The maximum length of a database of names, in bytes. Longer ones are not read.
const MAX_NAMES: u64 = 4 << 20;

/// Returns the attributes in a member's pax records, sorted by name, and its ACLs in text form: the attribute of each,
/// and its text.
pub(super) fn read(pax: &Records) -> (Vec<Xattr>, Vec<(&'static str, Vec<u8>)>) {
    // An attribute may be present in several forms: the one that preserves every byte counts.
    let mut xattrs: BTreeMap<Vec<u8>, (u8, Vec<u8>)> = BTreeMap::new();
    let mut acls: BTreeMap<&'static str, Vec<u8>> = BTreeMap::new();
    // libarchive writes each attribute in both forms, and encodes more of the name than GNU tar and star do.
    let by_libarchive = pax.iter().any(|(key, _)| key.starts_with(b"LIBARCHIVE.xattr."));
    for (key, value) in pax.iter() {
        let (rank, name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (2, decode_percent(name, |hex| by_libarchive || matches!(hex, b"3D" | b"25")), value.to_vec())
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let Some(value) = decode_base64(value) else { continue };
            (1, decode_percent(name, |_| true), value)
        } else {
            match key {
                // The kernel stores a label with a trailing zero.
                b"RHT.security.selinux" if !value.is_empty() => {
                    let zero: &[u8] = if value.ends_with(b"\0") { b"" } else { b"\0" };
                    (0, SELINUX.to_vec(), [value, zero].concat())
                }
                b"SCHILY.acl.access" => {
                    acls.insert(acl::ACCESS, value.to_vec());
                    continue;
                }
                b"SCHILY.acl.default" => {
                    acls.insert(acl::DEFAULT, value.to_vec());
                    continue;
                }
                _ => continue,
            }
        };
        match xattrs.get(&name) {
            Some((known, _)) if *known > rank => {}
            _ => _ = xattrs.insert(name, (rank, value)),
        }
    }
    acls.retain(|name, text| !text.trim_ascii().is_empty() && !xattrs.contains_key(name.as_bytes()));
    let xattrs = xattrs.into_iter().map(|(name, (_, value))| Xattr { name, value }).collect();
    (xattrs, acls.into_iter().collect())
}

/// Decodes `%3D` and the like in an attribute's name, if `stands` says that the two digits stand for a byte.
fn decode_percent(name: &[u8], stands: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|digits| *first == b'%' && stands(digits));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Decodes base 64 (RFC 4648), with or without padding, which libarchive omits.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.trim_ascii().iter().take_while(|b| **b != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'\n' | b'\r' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// Converts the ACLs of all members to attributes. Returns notes on names that were looked up on the local machine.
///
/// Names get their numbers from the tree's own `/etc/passwd` and `/etc/group`, or else from the local machine's, as
/// when tar extracts the tree here. Fails with the member's path and the reason.
pub(super) fn resolve_acls(
    members: &mut Members,
    source: &dyn Source,
) -> Result<Vec<String>, (TreePath, String)> {
    if members.values().all(|member| member.acls.is_empty()) {
        return Ok(Vec::new());
    }
    let own = Names {
        users: database(&read_text(members, source, b"etc/passwd")),
        groups: database(&read_text(members, source, b"etc/group")),
    };
    let machine = Names {
        users: database(&std::fs::read(Path::new("/etc/passwd")).unwrap_or_default()),
        groups: database(&std::fs::read(Path::new("/etc/group")).unwrap_or_default()),
    };
    let mut foreign = BTreeSet::new();
    let mut id_of = |principal: Principal, name: &str| {
        own.id(principal, name).or_else(|| {
            let id = machine.id(principal, name)?;
            let kind = if principal == Principal::User { "user" } else { "group" };
            foreign.insert(format!("{kind} {name} ({id})"));
            Some(id)
        })
    };
    for (path, member) in members.iter_mut() {
        for (name, text) in std::mem::take(&mut member.acls) {
            if member.node.file_type == FileType::Symlink {
                continue;
            }
            let value = acl::parse(&text, &mut id_of).map_err(|problem| (path.clone(), problem))?;
            member.node.xattrs.push(Xattr { name: name.as_bytes().to_vec(), value });
            member.node.xattrs.sort();
        }
        // The group bits are the ACL's mask, which libarchive does not write to a header's mode.
        let access = member.node.xattrs.iter().find(|xattr| xattr.name == acl::ACCESS.as_bytes());
        if let (Some(bits), Some(mode)) = (access.and_then(|acl| acl::mode_of(&acl.value)), member.node.mode)
        {
            member.node.mode = Some(mode & !0o777 | bits);
        }
    }
    let names: Vec<String> = foreign.into_iter().collect();
    Ok(if names.is_empty() {
        Vec::new()
    } else {
        vec![format!(
            "ACLs name users or groups that the tree does not define; their IDs were taken from this machine: {}",
            names.join(", ")
        )]
    })
}

struct Names {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Names {
    fn id(&self, principal: Principal, name: &str) -> Option<u32> {
        let names = if principal == Principal::User { &self.users } else { &self.groups };
        names.get(name).copied()
    }
}

/// Parses the names and numbers of passwd(5) or group(5): both have the number in the third field.
fn database(text: &[u8]) -> BTreeMap<String, u32> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    });
    // The first line with a name counts.
    lines.collect::<Vec<_>>().into_iter().rev().collect()
}

/// Reads a regular member; returns nothing if it is missing, too long or unreadable.
fn read_text(members: &Members, source: &dyn Source, path: &[u8]) -> Vec<u8> {
    let member = TreePath::parse(path).and_then(|path| members.get(&path));
    let Some(member) = member.filter(|member| member.node.size <= MAX_NAMES) else { return Vec::new() };
    let Some(Content::InTar(parts)) = &member.content else { return Vec::new() };
    let mut bytes = vec![0; member.node.size as usize];
    for (range, at) in parts.iter() {
        let Some(part) = bytes.get_mut(range.start as usize..range.end as usize) else { return Vec::new() };
        if source.read_at(*at, part).is_err() {
            return Vec::new();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(own: Vec<(Vec<u8>, Vec<u8>)>) -> Records {
        let mut records = Records::default();
        records.extend(own);
        records
    }

    fn of(pairs: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
        let pax: Vec<_> = pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect();
        let (xattrs, _) = read(&records(pax));
        xattrs.into_iter().map(|x| (String::from_utf8(x.name).unwrap(), x.value)).collect()
    }

    #[test]
    fn each_spelling_of_an_attribute_is_read_and_the_exact_one_counts() {
        let label = b"system_u:object_r:etc_t:s0".to_vec();
        let stored = [&label[..], b"\0"].concat();
        assert_eq!(of(&[("RHT.security.selinux", &label)]), [("security.selinux".into(), stored.clone())]);
        let both = [("SCHILY.xattr.security.selinux", &label[..]), ("RHT.security.selinux", b"other")];
        assert_eq!(of(&both), [("security.selinux".into(), label)]);
        // libarchive: base 64 without padding, and a percent-encoded name.
        assert_eq!(
            of(&[("LIBARCHIVE.xattr.user.a%3Db%20c", b"AAECAw")]),
            [("user.a=b c".into(), vec![0, 1, 2, 3])]
        );
        let both = [("SCHILY.xattr.user.x", &b"raw"[..]), ("LIBARCHIVE.xattr.user.x", b"b3RoZXI")];
        assert_eq!(of(&both), [("user.x".into(), b"raw".to_vec())]);
        // As bsdtar 3.6 writes `user.sp ace`: the same encoded name in both forms.
        let both = [("LIBARCHIVE.xattr.user.sp%20ace", &b"eA"[..]), ("SCHILY.xattr.user.sp%20ace", b"x")];
        assert_eq!(of(&both), [("user.sp ace".into(), b"x".to_vec())]);
        // GNU tar encodes these two bytes of a name, and no other.
        assert_eq!(of(&[("SCHILY.xattr.user.a%3Db%25%20", b"")]), [("user.a=b%%20".into(), vec![])]);
    }

    #[test]
    fn an_acl_that_is_there_as_an_attribute_too_is_not_read_as_text() {
        let pax = [
            (b"SCHILY.acl.access".to_vec(), b"user::rwx".to_vec()),
            (b"SCHILY.xattr.system.posix_acl_access".to_vec(), b"\x02\0\0\0".to_vec()),
            (b"SCHILY.acl.default".to_vec(), b"\n".to_vec()),
        ];
        let (xattrs, acls) = read(&records(pax.into()));
        assert_eq!((xattrs.len(), acls.len()), (1, 0));
    }
}
