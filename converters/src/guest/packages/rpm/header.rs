//! The header of a package in rpm's database (RPM's reference manual, "Header structure"): an index of tags, and the
//! data that they refer to. All numbers are big-endian.

/// Tags with their numbers in `rpmtag.h`.
pub(super) mod tag {
    pub(in crate::guest::packages::rpm) const NAME: u32 = 1000;
    pub(in crate::guest::packages::rpm) const VERSION: u32 = 1001;
    pub(in crate::guest::packages::rpm) const RELEASE: u32 = 1002;
    pub(in crate::guest::packages::rpm) const EPOCH: u32 = 1003;
    pub(in crate::guest::packages::rpm) const LICENSE: u32 = 1014;
    pub(in crate::guest::packages::rpm) const ARCH: u32 = 1022;
    pub(super) const OLD_FILE_NAMES: u32 = 1027;
    pub(in crate::guest::packages::rpm) const SOURCERPM: u32 = 1044;
    pub(super) const DIR_INDEXES: u32 = 1116;
    pub(super) const BASE_NAMES: u32 = 1117;
    pub(super) const DIR_NAMES: u32 = 1118;
}

const INT32: u32 = 4;
const STRING: u32 = 6;
const STRING_ARRAY: u32 = 8;
const I18N_STRING: u32 = 9;
/// The size of an index entry in bytes: tag, type, offset, count.
const ENTRY: usize = 16;

/// A header: its index and its data.
pub(super) struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Header<'a> {
    /// Parses a header without its magic, as in databases. Returns `None` if it does not fit its bytes.
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        let (entries, len) = (be32(blob, 0)? as usize, be32(blob, 4)? as usize);
        let middle = entries.checked_mul(ENTRY)?.checked_add(8)?;
        Some(Header { index: blob.get(8..middle)?, data: blob.get(middle..middle.checked_add(len)?)? })
    }

    /// Returns the type, count and data of a tag.
    fn find(&self, tag: u32) -> Option<(u32, usize, &'a [u8])> {
        let entry = self.index.chunks_exact(ENTRY).find(|entry| be32(entry, 0) == Some(tag))?;
        let (kind, offset, count) = (be32(entry, 4)?, be32(entry, 8)? as usize, be32(entry, 12)? as usize);
        Some((kind, count, self.data.get(offset..)?))
    }

    fn strings(&self, tag: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let found = self.find(tag).filter(|(kind, ..)| [STRING, STRING_ARRAY, I18N_STRING].contains(kind));
        let (count, data) = found.map_or((0, &[][..]), |(_, count, data)| (count, data));
        // A string without an end is ignored: the last piece of a split is not a string.
        let ends = data.iter().filter(|b| **b == 0).take(count).count();
        data.split(|b| *b == 0).take(ends)
    }

    fn numbers(&self, tag: u32) -> impl Iterator<Item = u32> + use<'a> {
        let found = self.find(tag).filter(|(kind, ..)| *kind == INT32);
        let (count, data) = found.map_or((0, &[][..]), |(_, count, data)| (count, data));
        data.chunks_exact(4).take(count).filter_map(|number| be32(number, 0))
    }

    /// Returns the string of a tag.
    pub(super) fn text(&self, tag: u32) -> Option<String> {
        self.strings(tag).next().map(crate::guest::packages::text)
    }

    /// Returns the number of a tag.
    pub(super) fn number(&self, tag: u32) -> Option<u32> {
        self.numbers(tag).next()
    }

    /// Returns the paths of the package's files.
    pub(super) fn paths(&self) -> Vec<Vec<u8>> {
        let folders: Vec<&[u8]> = self.strings(tag::DIR_NAMES).collect();
        let names = self.strings(tag::BASE_NAMES).zip(self.numbers(tag::DIR_INDEXES));
        let paths = names.filter_map(|(name, folder)| Some([folders.get(folder as usize)?, name].concat()));
        paths.chain(self.strings(tag::OLD_FILE_NAMES).map(<[u8]>::to_vec)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a header with these tags: tag, type, count and data.
    pub(in crate::guest::packages::rpm) fn make(tags: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let data: Vec<u8> = tags.iter().flat_map(|(.., data)| data.iter().copied()).collect();
        let mut blob = [(tags.len() as u32).to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
        let mut offset = 0u32;
        for (tag, kind, count, data) in tags {
            [*tag, *kind, offset, *count].iter().for_each(|number| blob.extend(number.to_be_bytes()));
            offset += data.len() as u32;
        }
        blob.extend(data);
        blob
    }

    #[test]
    fn tags_are_found_and_paths_put_together() {
        let blob = make(&[
            (tag::NAME, STRING, 1, b"bash\0"),
            (tag::EPOCH, INT32, 1, &[0, 0, 0, 2]),
            (tag::DIR_NAMES, STRING_ARRAY, 2, b"/usr/bin/\0/etc/\0"),
            (tag::BASE_NAMES, STRING_ARRAY, 3, b"bash\0sh\0bashrc\0"),
            (tag::DIR_INDEXES, INT32, 3, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ]);
        let header = Header::parse(&blob).unwrap();
        assert_eq!(header.text(tag::NAME).as_deref(), Some("bash"));
        assert_eq!(header.number(tag::EPOCH), Some(2));
        assert_eq!(header.text(tag::EPOCH), None);
        assert_eq!(header.paths(), [&b"/usr/bin/bash"[..], b"/usr/bin/sh", b"/etc/bashrc"]);
    }

    #[test]
    fn a_header_that_lies_is_cut_short() {
        let good = make(&[(tag::NAME, STRING, 9, b"bash\0rest")]);
        assert_eq!(Header::parse(&good).unwrap().strings(tag::NAME).count(), 1);
        assert!(Header::parse(&good[..good.len() - 1]).is_none());
        assert!(Header::parse(&[0xff; 64]).is_none());
        let far = make(&[(tag::NAME, STRING, 1, b"")]);
        assert_eq!(Header::parse(&far).unwrap().text(tag::NAME), None);
    }
}
