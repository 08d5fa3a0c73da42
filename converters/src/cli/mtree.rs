//! A listing in the format of mtree(5), which bsdtar and the mtree of NetBSD and FreeBSD read.

use std::fmt::Write as _;

use mif::{LsEntry, LsReport};

/// Formats the listing as a specification, with paths relative to the listed directory.
pub(super) fn listing(listing: &LsReport) -> String {
    let mut out = String::from("#mtree\n");
    // A specification begins with its directory, even if only a file in it was listed.
    if listing.entries().next().is_some_and(|first| first.file_type != "dir") {
        out.push_str(". type=dir\n");
    }
    // The format has no alternate streams.
    for entry in listing.entries().filter(|entry| entry.file_type != "stream") {
        let below = entry.path_bytes.strip_prefix(&listing.folder[..]).unwrap_or(&entry.path_bytes);
        let below = below.strip_prefix(b"/").unwrap_or(below);
        // The directory itself is a dot. Every other path contains a slash, so that readers take it for a path and not
        // for a name.
        let path = if below.is_empty() { ".".to_owned() } else { format!("./{}", vis(below)) };
        out.push_str(&path);
        line(&mut out, &entry);
        out.push('\n');
    }
    out
}

fn line(out: &mut String, entry: &LsEntry) {
    // The manual page lists sockets among the types, though not all readers know them.
    let kind = match entry.file_type {
        "symlink" => "link",
        other => other,
    };
    let _ = write!(out, " type={kind}");
    let mut number = |key: &str, value: Option<u32>| {
        if let Some(value) = value {
            let _ = write!(out, " {key}={value}");
        }
    };
    number("uid", entry.uid);
    number("gid", entry.gid);
    number("nlink", entry.nlink);
    if let Some(mode) = entry.mode {
        let _ = write!(out, " mode={mode:04o}");
    }
    if entry.file_type == "file" {
        let _ = write!(out, " size={}", entry.size);
    }
    if let Some(time) = entry.mtime {
        let _ = write!(out, " time={}.{:09}", time.secs, time.nanos);
    }
    if let Some(target) = &entry.link_bytes {
        let _ = write!(out, " link={}", vis(target));
    }
    if let Some((major, minor)) = entry.rdev.filter(|_| ["char", "block"].contains(&kind)) {
        let _ = write!(out, " device=linux,{major},{minor}");
    }
    if let Some(sha1) = &entry.sha1 {
        let _ = write!(out, " sha1digest={sha1}");
    }
}

/// Escapes bytes as `\` and three octal digits, like vis(3) with `VIS_OCTAL`: unprintable ones, and those that some
/// readers interpret as patterns.
fn vis(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && !b"\\#=*?[".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_octal() {
        assert_eq!(vis("a b\\c#é".as_bytes()), "a\\040b\\134c\\043\\303\\251");
        assert_eq!(vis(b"/usr/lib"), "/usr/lib");
    }
}
