//! POSIX ACLs in their two forms: the text of tar headers (acl(5), "ACL text forms") and the value of the attributes
//! `system.posix_acl_access` and `system.posix_acl_default` (Linux, `include/uapi/linux/posix_acl_xattr.h`).

/// The attribute with a file's ACL.
pub(crate) const ACCESS: &str = "system.posix_acl_access";
/// The attribute with the ACL that new files in a directory inherit.
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of entries without a qualifier.
const NO_ID: u32 = u32::MAX;

/// The kind of name in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Principal {
    User,
    Group,
}

/// Parses the text of an ACL and returns the attribute's value. `id_of` looks up the number of a name, and is called
/// only where the text has no number.
///
/// Fails with the reason if an entry is malformed, an entry occurs twice, a required entry is missing, or a name has no
/// number.
pub(crate) fn parse(
    text: &[u8],
    id_of: &mut dyn FnMut(Principal, &str) -> Option<u32>,
) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the ACL is not UTF-8".to_owned())?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for line in text.split('\n') {
        let line = line.split('#').next().unwrap_or_default();
        for entry in line.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            entries.push(parse_entry(entry, id_of)?);
        }
    }
    entries.sort_unstable();
    if let Some(pair) = entries.windows(2).find(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
        return Err(format!("the ACL has two entries with tag {} and ID {}", pair[0].0, pair[0].1));
    }
    for (tag, name) in [(USER_OBJ, "user::"), (GROUP_OBJ, "group::"), (OTHER, "other::")] {
        if !entries.iter().any(|entry| entry.0 == tag) {
            return Err(format!("the ACL has no {name} entry"));
        }
    }
    let has_names = entries.iter().any(|entry| matches!(entry.0, USER | GROUP));
    if has_names && !entries.iter().any(|entry| entry.0 == MASK) {
        let of_group = entries.iter().filter(|entry| matches!(entry.0, USER | GROUP | GROUP_OBJ));
        let mask = of_group.fold(0, |mask, entry| mask | entry.2);
        entries.push((MASK, NO_ID, mask));
        entries.sort_unstable();
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Ok(value)
}

/// Parses `[default:]tag:qualifier:permissions[:number]` into tag, id and permissions.
fn parse_entry(
    entry: &str,
    id_of: &mut dyn FnMut(Principal, &str) -> Option<u32>,
) -> Result<(u16, u32, u16), String> {
    let malformed = || format!("invalid ACL entry \"{entry}\"");
    let mut fields: Vec<&str> = entry.split(':').map(str::trim).collect();
    if matches!(fields[0], "default" | "d") {
        fields.remove(0);
    }
    let kind = *fields.first().ok_or_else(malformed)?;
    // Some programs omit the empty qualifier of these two.
    if matches!(kind, "mask" | "m" | "other" | "o") && fields.len() == 2 {
        fields.insert(1, "");
    }
    let (qualifier, permissions, number) = match fields[1..] {
        [qualifier, permissions] => (qualifier, permissions, None),
        [qualifier, permissions, number] => (qualifier, permissions, number.parse::<u32>().ok()),
        _ => return Err(malformed()),
    };
    let (tag, principal) = match (kind, qualifier.is_empty()) {
        ("user" | "u", true) => (USER_OBJ, None),
        ("user" | "u", false) => (USER, Some(Principal::User)),
        ("group" | "g", true) => (GROUP_OBJ, None),
        ("group" | "g", false) => (GROUP, Some(Principal::Group)),
        ("mask" | "m", true) => (MASK, None),
        ("other" | "o", true) => (OTHER, None),
        _ => return Err(malformed()),
    };
    let id = match principal {
        None => NO_ID,
        Some(principal) => {
            let known = number.or_else(|| qualifier.parse().ok()).or_else(|| id_of(principal, qualifier));
            let kind = if principal == Principal::User { "user" } else { "group" };
            known
                .filter(|id| *id != NO_ID)
                .ok_or_else(|| format!("the ACL names the unknown {kind} \"{qualifier}\""))?
        }
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(malformed()),
        };
    }
    if permissions.is_empty() { Err(malformed()) } else { Ok((tag, id, bits)) }
}

/// Formats an attribute's value as text, with numbers for names, one entry per line. Returns `None` if it is not an
/// ACL.
pub(crate) fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let mut lines = String::new();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let subject = match tag {
            USER_OBJ => "user:".to_owned(),
            USER => format!("user:{id}"),
            GROUP_OBJ => "group:".to_owned(),
            GROUP => format!("group:{id}"),
            MASK => "mask:".to_owned(),
            OTHER => "other:".to_owned(),
            _ => return None,
        };
        let letter = |bit: u16, letter: char| if bits & bit != 0 { letter } else { '-' };
        let permissions: String = [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')].iter().collect();
        lines += &format!("{subject}:{permissions}\n");
    }
    (bits_fit(entries)).then_some(lines)
}

/// Returns the permission bits of a file with this access ACL: those of the group are the ACL's mask, if it has one.
/// Returns `None` if the value is not an ACL.
pub(crate) fn mode_of(value: &[u8]) -> Option<u16> {
    text(value)?;
    let bits = |tag| {
        let mut entries = value[4..].as_chunks::<8>().0.iter();
        let entry = entries.find(|entry| entry[..2] == u16::to_le_bytes(tag));
        entry.map(|entry| u16::from(entry[2]))
    };
    Some(bits(USER_OBJ)? << 6 | bits(MASK).or(bits(GROUP_OBJ))? << 3 | bits(OTHER)?)
}

/// Sets the permission bits of an access ACL to `mode`, as chmod(2) does. Returns `None` if the value is not an ACL.
pub(crate) fn with_mode(value: &[u8], mode: u16) -> Option<Vec<u8>> {
    text(value)?;
    let mut value = value.to_vec();
    let has_mask = value[4..].as_chunks::<8>().0.iter().any(|entry| entry[..2] == MASK.to_le_bytes());
    for entry in value[4..].as_chunks_mut::<8>().0 {
        entry[2] = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER_OBJ => (mode >> 6 & 7) as u8,
            MASK => (mode >> 3 & 7) as u8,
            GROUP_OBJ if !has_mask => (mode >> 3 & 7) as u8,
            OTHER => (mode & 7) as u8,
            _ => entry[2],
        };
    }
    Some(value)
}

/// Returns what a new file inherits from its directory's default ACL: its access ACL, if that says more than a mode
/// does, and its permission bits, limited to those of `mode`. Returns `None` if the value is not an ACL.
pub(crate) fn inherited(default: &[u8], mode: u16) -> Option<(Option<Vec<u8>>, u16)> {
    let mode = mode & mode_of(default)?;
    let access = with_mode(default, mode)?;
    let says_more = access.len() > 4 + 3 * 8;
    Some((says_more.then_some(access), mode))
}

fn bits_fit(entries: &[[u8; 8]]) -> bool {
    entries.iter().all(|entry| u16::from_le_bytes([entry[2], entry[3]]) <= 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(principal: Principal, name: &str) -> Option<u32> {
        match (principal, name) {
            (Principal::User, "ada") => Some(1000),
            (Principal::Group, "tty") => Some(5),
            _ => None,
        }
    }

    fn round(text: &str) -> Result<String, String> {
        parse(text.as_bytes(), &mut known).map(|value| super::text(&value).unwrap())
    }

    #[test]
    fn the_text_of_gnu_tar_and_of_libarchive_give_one_value() {
        let expected = "user::rw-\nuser:1000:rwx\ngroup::r--\ngroup:5:r--\nmask::rwx\nother::r--\n";
        let gnu = "user::rw-\nuser:ada:rwx\ngroup::r--\ngroup:tty:r--\nmask::rwx\nother::r--\n";
        assert_eq!(round(gnu).unwrap(), expected);
        // A number behind the permissions takes precedence over the name; the order of entries does not matter.
        let bsd = "other::r--,user::rw-,group::r--,user:nobody:rwx:1000,group:5:r--:5,mask::rwx";
        assert_eq!(round(bsd).unwrap(), expected);
        let short = "u::rw-, u:1000:rwx #effective:r-x\ng::r--\ng:tty:r--\nm:rwx\no:r--";
        assert_eq!(round(short).unwrap(), expected);
        assert_eq!(
            round("default:user::rwx\ndefault:group::r-x\ndefault:other::---").unwrap(),
            "user::rwx\ngroup::r-x\nother::---\n"
        );
    }

    #[test]
    fn a_missing_mask_is_what_the_entries_of_groups_and_names_allow() {
        let text = round("user::rw-\nuser:7:-w-\ngroup::r--\nother::---").unwrap();
        assert!(text.contains("mask::rw-"), "{text}");
    }

    #[test]
    fn a_mode_and_an_acl_say_the_same() {
        let value = |text: &str| parse(text.as_bytes(), &mut known).unwrap();
        let named = value("user::rw-\nuser:7:rwx\ngroup::r--\nmask::rwx\nother::---");
        assert_eq!(mode_of(&named), Some(0o670));
        let changed = super::text(&with_mode(&named, 0o4751).unwrap()).unwrap();
        assert_eq!(changed, "user::rwx\nuser:7:rwx\ngroup::r--\nmask::r-x\nother::--x\n");
        let plain = value("user::rwx\ngroup::r-x\nother::r-x");
        assert_eq!(mode_of(&plain), Some(0o755));
        assert_eq!(mode_of(&with_mode(&plain, 0o640).unwrap()), Some(0o640));
        assert_eq!(inherited(&plain, 0o666), Some((None, 0o644)));
        let (access, mode) = inherited(&named, 0o644).unwrap();
        assert_eq!(mode, 0o640);
        assert!(super::text(&access.unwrap()).unwrap().contains("user:7:rwx\ngroup::r--\nmask::r--"));
        assert_eq!(mode_of(b"\x02\0\0\0"), None);
    }

    #[test]
    fn what_is_no_acl_is_refused_with_the_reason() {
        for (text, says) in [
            ("user::rw-\ngroup::r--", "no other:: entry"),
            ("user::rw-\ngroup::r--\nother::r--\nuser:bob:rwx", "\"bob\""),
            ("user::rw-\ngroup::r--\nother::r--\nother::r--", "two entries"),
            ("user::rq-\ngroup::r--\nother::r--", "user::rq-"),
            ("owner@:rwx::allow", "owner@"),
            ("user::", "user::"),
        ] {
            let error = round(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!(super::text(b"\x02\0\0\0\x01\0\x07\0"), None);
        assert_eq!(super::text(b"\x01\0\0\0"), None);
    }
}
