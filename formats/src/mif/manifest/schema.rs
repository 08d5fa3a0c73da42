//! The columns of a manifest as a Parquet schema.

/// The columns, in Parquet's schema language. `docs/manifest.md` documents them for users.
pub(in crate::mif) const SCHEMA: &str = "message mif {
    required binary volume (UTF8);
    required binary path (UTF8);
    required binary type (UTF8);
    optional int32 mode;
    optional int64 uid;
    optional int64 gid;
    optional int64 nlink;
    optional int64 file;
    optional int64 inode;
    optional int64 subvolume;
    required int64 size;
    optional int64 mtime;
    optional int32 mtime_ns;
    optional int64 atime;
    optional int32 atime_ns;
    optional int64 ctime;
    optional int32 ctime_ns;
    optional int64 crtime;
    optional int32 crtime_ns;
    optional binary link_target (UTF8);
    optional int64 rdev;
    required group xattrs (MAP) {
        repeated group key_value {
            required binary key (UTF8);
            required binary value;
        }
    }
    required int64 flags;
    optional int64 generation;
    optional int64 project;
    optional fixed_len_byte_array(20) sha1;
    optional fixed_len_byte_array(32) blake3;
    optional fixed_len_byte_array(32) content;
    optional binary path_bytes;
    optional binary link_target_bytes;
    optional binary short_name;
    optional binary dos_name (UTF8);
    optional binary stream (UTF8);
    optional binary member (UTF8);
    optional binary owner_sid (UTF8);
    optional binary group_sid (UTF8);
    optional binary reparse;
}";

/// Reverses [`escape_apart`](super::escape_apart).
pub(super) fn unescape(key: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                name.push(b'\\');
                rest = tail;
            }
            (b'\\', [b'x', hi, lo, tail @ ..]) => {
                let hex = [*hi, *lo];
                name.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
                rest = tail;
            }
            (b'\\', _) => return None,
            (other, _) => name.push(*other),
        }
    }
    Some(name)
}
