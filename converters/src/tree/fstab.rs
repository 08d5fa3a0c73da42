//! The lines of `/etc/fstab` (fstab(5)).

/// The maximum number of lines that mount something. Real systems have some tens.
const MAX_LINES: usize = 1000;

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The device, as fstab names it.
    pub(crate) what: Vec<u8>,
    /// The absolute directory on which it is mounted, without a trailing slash; empty for the root filesystem.
    pub(crate) point: Vec<u8>,
    /// The subvolume that is mounted, if an option names one (btrfs(5)).
    pub(crate) subvolume: Option<Subvolume>,
}

/// A subvolume as a mount option names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subvolume {
    /// `subvol=PATH`: a path from the top level of the volume.
    Path(Vec<u8>),
    /// `subvolid=N`.
    Id(u64),
}

/// The fields of a line, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// The device, as fstab names it.
    pub(crate) what: Vec<u8>,
    /// The mount point; `none` for swap.
    pub(crate) point: Vec<u8>,
    /// The type of the filesystem.
    pub(crate) kind: Vec<u8>,
    /// The options, separated by commas.
    pub(crate) options: Vec<u8>,
}

/// Returns the fields of all lines of an fstab that are no comments.
pub(crate) fn fields(fstab: &[u8]) -> impl Iterator<Item = Fields> + '_ {
    let lines = fstab.split(|b| *b == b'\n');
    lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (what, point) = (unescape(fields.next()?), unescape(fields.next()?));
        let (kind, options) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let found = Fields { what, point, kind: kind.to_vec(), options: options.to_vec() };
        (!found.what.starts_with(b"#")).then_some(found)
    })
}

/// Returns the lines of an fstab that mount something on a directory; swap is on none.
pub(crate) fn parse(fstab: &[u8]) -> Vec<Line> {
    let lines = fields(fstab).filter(|fields| fields.point.first() == Some(&b'/')).map(|fields| {
        let Fields { what, point, options, .. } = fields;
        let parts: Vec<&[u8]> = point.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let point: Vec<u8> = parts.iter().flat_map(|part| [b"/", *part].concat()).collect();
        Line { what, point, subvolume: subvolume(&options) }
    });
    lines.take(MAX_LINES).collect()
}

/// Returns the subvolume that mount options name. As in the kernel, the last one counts; but a path counts before a
/// number, with which it must agree.
fn subvolume(options: &[u8]) -> Option<Subvolume> {
    let value = |key: &str| {
        let mut values = options.split(|b| *b == b',').rev().map(unescape);
        values.find_map(|option| option.strip_prefix(key.as_bytes()).map(<[u8]>::to_vec))
    };
    let id = || std::str::from_utf8(&value("subvolid=")?).ok()?.parse().ok().map(Subvolume::Id);
    value("subvol=").map(Subvolume::Path).or_else(id)
}

/// Decodes a field, in which `\040` stands for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    unescaped(field, b"\\", 3, 8)
}

/// Decodes text in which `start` and a number of `digits` digits stand for a byte.
pub(super) fn unescaped(text: &[u8], start: &[u8], digits: usize, radix: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let number = rest.strip_prefix(start).and_then(|rest| std::str::from_utf8(rest.get(..digits)?).ok());
        match number
            .filter(|number| !number.starts_with('+'))
            .and_then(|number| u8::from_str_radix(number, radix).ok())
        {
            Some(byte) => {
                out.push(byte);
                rest = &rest[start.len() + digits..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_swap_and_comments_are_not() {
        let fstab = "# a comment\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1 //my\\040data/ ext4 x 0 0\nUUID=2 none swap sw 0 0\nshort\n";
        let line = |what: &str, point: &str| Line { what: what.into(), point: point.into(), subvolume: None };
        assert_eq!(parse(fstab.as_bytes()), [line("UUID=1", ""), line("/dev/sdb1", "/my data")]);
    }

    #[test]
    fn options_name_a_subvolume_by_path_or_number() {
        let path = |path: &str| Some(Subvolume::Path(path.into()));
        for (options, expected) in [
            ("defaults", None),
            ("rw,subvol=@home,compress=zstd:1", path("@home")),
            ("subvol=/@/var", path("/@/var")),
            ("subvolid=256", Some(Subvolume::Id(256))),
            ("subvolid=256,subvol=/root", path("/root")),
            ("subvol=a,subvol=b", path("b")),
            ("subvol=a\\054b", path("a,b")),
            ("subvol=a\\040b", path("a b")),
            ("subvol=", path("")),
            ("subvolid=x", None),
            ("subvolid=-5", None),
            ("subvolid=99999999999999999999", None),
            ("nosubvol=x", None),
        ] {
            assert_eq!(subvolume(options.as_bytes()), expected, "{options}");
        }
    }
}
