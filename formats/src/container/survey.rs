//! Decides which members of an archive are disks.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::archive::folder_of;
use super::{FORMATS, foreign, has_written_suffix, parallels};
use crate::error::{Result, at};
use crate::source::Source;
use crate::wrapper::{
    ArchiveKind, Codec, Descriptor, Index, Kind, MAX_DESCRIPTOR, MAX_DIGESTS, Member, decoded_head,
};

/// The first bytes of a member that decide whether it is a disk: enough for the descriptor of an ISO 9660 volume.
const HEAD: usize = 36 << 10;

/// Facts about an archive, collected while its index is read.
pub(super) struct Survey {
    kind: ArchiveKind,
    /// The members that look like disks, by name.
    pub(super) disks: Vec<String>,
    /// The members that the descriptor of a disk in several files names.
    extents: Vec<String>,
    /// The OVF descriptor, by name.
    pub(super) descriptor: Option<(String, Result<Descriptor, String>)>,
    /// The manifest with digests, by name.
    pub(super) digests: Option<(String, Vec<u8>)>,
}

impl Survey {
    pub(super) fn new(kind: ArchiveKind) -> Self {
        Survey { kind, disks: Vec::new(), extents: Vec::new(), descriptor: None, digests: None }
    }

    pub(super) fn kind_name(&self) -> &'static str {
        Kind::Archive(self.kind).name()
    }

    /// Looks at a member.
    pub(super) fn see(&mut self, archive: &Arc<dyn Source>, member: &Member) -> Result<()> {
        if self.kind == ArchiveKind::Vma {
            self.disks.push(member.name.clone());
            return Ok(());
        }
        let suffix = suffix_of(&member.name);
        let text = |limit: u64| -> Result<Vec<u8>> {
            match member.len > limit {
                true => Err(at("")
                    .limit(format!("{:?} has {} bytes, over the limit of {limit}", member.name, member.len))),
                false => member.head(archive, member.len as usize),
            }
        };
        // macOS puts a file with attributes beside each file.
        let base = member.name.rsplit('/').next().unwrap_or_default();
        if base.starts_with("._") {
            return Ok(());
        }
        let is_first_or_again = |there: Option<&String>| there.is_none_or(|name| *name == member.name);
        if suffix == "ovf" && is_first_or_again(self.descriptor.as_ref().map(|(name, _)| name)) {
            let descriptor = text(MAX_DESCRIPTOR).and_then(|text| Descriptor::parse(&text));
            self.descriptor = Some((member.name.clone(), descriptor.map_err(|e| e.to_string())));
            return Ok(());
        }
        if suffix == "mf" && is_first_or_again(self.digests.as_ref().map(|(name, _)| name)) {
            self.digests = Some((member.name.clone(), text(MAX_DIGESTS)?));
            return Ok(());
        }
        // A member that cannot be read is reported when it is opened.
        let Ok(head) = member.head(archive, HEAD) else { return Ok(()) };
        let is_disk = match Kind::of(&head, member.len) {
            None => looks_like_disk(&member.name, &head, member.len),
            Some(Kind::Compressed(codec)) => match member.in_place(archive) {
                Ok(Some(source)) => holds_disk(codec, &source, &member.name),
                _ => false,
            },
            Some(Kind::Archive(ArchiveKind::Vma)) => true,
            Some(Kind::Archive(_)) => matches!(suffix.as_str(), "ova" | "box"),
        };
        if is_disk {
            self.disks.push(member.name.clone());
        }
        if head.starts_with(b"# Disk DescriptorFile") {
            let folder = folder_of(&member.name);
            self.extents.extend(extents_in(&head).map(|name| format!("{folder}{name}")));
        }
        let is_descriptor = base == parallels::DESCRIPTOR;
        if is_descriptor && let Ok(text) = text(parallels::MAX_DESCRIPTOR) {
            let folder = folder_of(&member.name);
            let descriptor = parallels::Descriptor::parse(&text, None);
            let files = descriptor.iter().flat_map(parallels::Descriptor::files);
            // The path may be that of another machine.
            let beside = |name: &str| format!("{folder}{}", name.rsplit('/').next().unwrap_or_default());
            self.extents.extend(files.flat_map(|name| [format!("{folder}{name}"), beside(name)]));
        }
        Ok(())
    }

    /// Returns the names of the disks: those of the OVF descriptor, if there is one.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        match &self.descriptor {
            Some((name, Ok(descriptor))) if !descriptor.disks.is_empty() => {
                let folder = folder_of(name);
                let entries = descriptor.disks.iter();
                entries
                    .map(|disk| match disk.is_chunked {
                        true => Err(at(name.clone())
                            .unsupported(format!("the disk {:?} is in chunks; join them first", disk.href))),
                        false => Ok(format!("{folder}{}", disk.href)),
                    })
                    .collect()
            }
            Some((name, Err(problem))) => {
                Err(at("")
                    .corrupt(format!("{name}: {problem}; to open a disk all the same, name it after //")))
            }
            _ => {
                // A member that was appended again is listed once.
                let mut seen: HashSet<&String> = self.extents.iter().collect();
                Ok(self.disks.iter().filter(|name| seen.insert(name)).cloned().collect())
            }
        }
    }

    /// Returns the numbers of the members that are disks.
    pub(super) fn disks(&self, index: &Index) -> Result<Vec<usize>> {
        let names = self.names()?;
        let by_name: HashMap<&str, usize> =
            index.members.iter().enumerate().map(|(number, member)| (member.name.as_str(), number)).collect();
        let number = |name: &String| {
            by_name.get(name.as_str()).copied().ok_or_else(|| {
                at("").corrupt(format!(
                    "the OVF descriptor names the disk {name:?}, which is not in the archive"
                ))
            })
        };
        names.iter().map(number).collect()
    }

    pub(super) fn stated_size(&self, name: &str) -> Option<u64> {
        let (descriptor, parsed) = self.descriptor.as_ref()?;
        let href = name.strip_prefix(folder_of(descriptor))?;
        parsed.as_ref().ok()?.disks.iter().find(|disk| disk.href == href)?.size
    }
}

/// Returns the names in the extent lines of a VMDK descriptor.
fn extents_in(descriptor: &[u8]) -> impl Iterator<Item = String> + '_ {
    let lines = descriptor.split(|byte| *byte == b'\n');
    let lines = lines
        .filter(|line| [&b"RW "[..], b"RDONLY ", b"NOACCESS "].iter().any(|word| line.starts_with(word)));
    lines.filter_map(|line| {
        let mut parts = line.split(|byte| *byte == b'"');
        parts.nth(1).map(|name| String::from_utf8_lossy(name).into_owned())
    })
}

pub(super) fn suffix_of(name: &str) -> String {
    Path::new(name).extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Returns true if a file of `len` bytes with this head may be a disk image: it has the header of a container or a
/// partition table, or the suffix of an image and no other content.
fn looks_like_disk(name: &str, head: &[u8], len: u64) -> bool {
    let start = &head[..head.len().min(4096)];
    if FORMATS.iter().any(|format| format.probe(start, &[], len)) {
        return true;
    }
    let is_other = len < 512
        || foreign::name(start, &[], len).is_some()
        || head.starts_with(b"hsqs")
        || head.get(0x8001..0x8006) == Some(b"CD001");
    if is_other {
        return false;
    }
    let has_gpt = [512, 4096].iter().any(|place| head.get(*place..*place + 8) == Some(b"EFI PART"));
    // Boot sectors in archives of sources end in the same two bytes, but are small.
    let has_mbr = head.get(510..512) == Some(b"\x55\xaa") && len >= 1 << 20;
    has_gpt || has_mbr || has_written_suffix(Path::new(name)) || suffix_of(name) == "dd"
}

/// Returns true if a compressed file may hold a disk image; `name` is its name.
pub(super) fn holds_disk(codec: Codec, file: &Arc<dyn Source>, name: &str) -> bool {
    let head = decoded_head(codec, file, HEAD);
    let within = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    // Its length is not known, and only a lower limit matters.
    let len = if head.len() < HEAD { head.len() as u64 } else { u64::MAX >> 1 };
    Kind::of(&head, len).is_none() && looks_like_disk(within, &head, len)
}
