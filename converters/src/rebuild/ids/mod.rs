//! New identities: UUIDs of filesystems and swap, serial numbers of FATs, GUIDs and the signature of the partition
//! table; and the files of the disk that refer to the old ones.
//!
//! References are rewritten: in text files of `/etc`, of
//! `/boot`, of the EFI system partition and of vendors' directories in `/usr`, in unsigned boot programs, and in the
//! names of systemd units.

mod references;
mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mif_formats::fs::FileType;
use mif_formats::fs::plan::Planner;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::{Body, Row};
use mif_formats::partition::{Table, TableKind};
use mif_formats::{Source, uuid};

use self::references::References;
pub use self::report::{IdChange, IdsReport};
use super::reshape::NewIds;
use crate::compose::planner::driver_of;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::disk::volume::VolumeOffset;
use crate::error::Result;
use crate::store::{FilesystemRecord, Objects};
use crate::tree::new_content::{ContentLookup, NewContent, NewContents, Patched};
use crate::tree::subvolumes::Subvolumes;

/// Rewritten rows by their number.
pub(super) type Rewritten = BTreeMap<usize, Row>;

/// The header of a program is within this many bytes.
const PROGRAM_HEAD: u64 = 64 << 10;
/// The offset of `sws_uuid` in a swap space, and how many bytes of its head are read.
const SWAP_UUID: u64 = 1036;
const SWAP_HEAD: u64 = 64 << 10;
/// The largest text whose length may change.
const MAX_TEXT: u64 = 4 << 20;
/// How many bytes at the start of a disk are searched for references.
const BOOT_AREA: u64 = 2 << 20;

/// New identities and their places.
#[derive(Default)]
pub(super) struct Identities {
    pub(super) report: IdsReport,
    /// New identities of filesystems by volume.
    volumes: HashMap<String, [u8; 16]>,
    /// Bytes to write at an offset of a volume.
    pub(super) patches: Vec<(String, u64, Vec<u8>)>,
    pub(super) table_id: Option<String>,
    /// True if the boot code for a BIOS is made anew, and so has no old identity.
    pub(super) is_boot_code_new: bool,
    /// New partition identities by slot.
    pub(super) partition_ids: HashMap<u32, String>,
}

impl Identities {
    /// Makes new identities for all volumes of a disk that have one.
    pub(super) fn of_volumes(scan: &Scan, ids: &NewIds) -> Result<Self> {
        let mut new = Identities::default();
        for volume in &scan.volumes {
            new.name_volume(scan, volume, ids)?;
        }
        Ok(new)
    }

    /// Adds the identities that a table of another kind has.
    pub(super) fn add_table(&mut self, changes: &[IdChange]) {
        self.report.changed.splice(0..0, changes.iter().cloned());
        self.is_boot_code_new = true;
    }

    /// Returns a text with the new identities of volumes; `None` if it has no old one.
    pub(super) fn replaced(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut new = text.to_vec();
        (References::new(&self.report.changed).replace(&mut new) > 0).then_some(new)
    }

    /// Returns the volumes that must be planned.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.keys().map(String::as_str)
    }

    /// Sets a volume's new identity in its parameters.
    pub(super) fn apply(&self, volume: &str, params: &mut dyn Planner) {
        if let Some(id) = self.volumes.get(volume) {
            params.set_id(id);
        }
    }

    fn change(&mut self, of: String, old: &str, new: String) {
        self.report.changed.push(IdChange { of, old: old.to_owned(), new });
    }

    /// Gives a table and its partitions new identities. In the report, they come before those of volumes.
    pub(super) fn name_table(&mut self, table: &Table, ids: &NewIds) {
        let volumes = std::mem::take(&mut self.report.changed);
        self.name_partitions(table, ids);
        self.report.changed.extend(volumes);
    }

    fn name_partitions(&mut self, table: &Table, ids: &NewIds) {
        let Some(old) = &table.id else { return };
        let new = match table.kind {
            TableKind::Gpt => uuid::text(&ids.uuid("disk")),
            TableKind::Mbr => format!("{:08x}", ids.id32("disk")),
            TableKind::None => return,
        };
        self.change("disk".into(), old, new.clone());
        for partition in &table.partitions {
            let Some(old) = &partition.id else { continue };
            let slot = partition.slot;
            let new = match table.kind {
                TableKind::Gpt => uuid::text(&ids.uuid(&format!("partition {slot}"))),
                _ => format!("{new}-{slot:02x}"),
            };
            self.change(format!("partition {slot}"), old, new.clone());
            self.partition_ids.insert(slot, new);
        }
        self.table_id = Some(new);
    }

    fn name_volume(&mut self, scan: &Scan, volume: &ScannedVolume, ids: &NewIds) -> Result<()> {
        let name = &volume.name;
        if let Some(filesystem) = volume.planned() {
            let Some(old) = &filesystem.info().uuid else { return Ok(()) };
            let id = ids.uuid(name);
            let new = driver_of(filesystem)?.id_text(&id);
            self.change(name.clone(), old, new);
            self.volumes.insert(name.clone(), id);
            return Ok(());
        }
        let kind = match volume.record().content {
            FilesystemRecord::Filesystem(info) => info.kind,
            FilesystemRecord::Other(Some(kind)) => kind,
            FilesystemRecord::Other(None) => return Ok(()),
        };
        if kind != "swap" {
            self.report.left.push(format!("{name}: {kind} keeps its identity"));
            return Ok(());
        }
        let head = volume.on_disk(VolumeOffset(0), SWAP_HEAD).next().map_or(0, |(_, len)| len.min(SWAP_HEAD));
        let head = scan.volume(volume).read_vec(0, head as usize)?;
        let uuid = head.get(SWAP_UUID as usize..SWAP_UUID as usize + 16);
        let is_new_kind = [4096, 8192, 16_384, 32_768, 65_536]
            .iter()
            .any(|page| head.get(page - 10..*page).is_some_and(|mark| mark == b"SWAPSPACE2"));
        if let (true, Some(old)) = (is_new_kind, uuid.and_then(|b| <[u8; 16]>::try_from(b).ok())) {
            let id = ids.uuid(name);
            self.change(name.clone(), &uuid::text(&old), uuid::text(&id));
            self.patches.push((name.clone(), SWAP_UUID, id.to_vec()));
        }
        Ok(())
    }

    /// Replaces old identities in the files of `rows`, in symlinks, and in the names of systemd units. Returns the
    /// changed rows and their contents. `objects` are the store's; firmware reads the volume `added`, which the disk does
    /// not have yet.
    pub(super) fn rewrite(
        &mut self,
        rows: &[&Row],
        scan: &Scan,
        added: Option<&str>,
        contents: ContentLookup<'_>,
        objects: &Arc<Objects>,
    ) -> Result<(Rewritten, NewContents)> {
        let pairs = References::new(&self.report.changed);
        let (mut rewritten, mut new) = (Rewritten::new(), NewContents::new());
        // The new body of each content, if it changed: hard links share it.
        let mut known: HashMap<ObjectId, Option<(Body, u64)>> = HashMap::new();
        let mut wanted = Wanted::of(rows, scan);
        wanted.boots.extend(added.map(str::to_owned));
        let is_fixed = |volume: &&ScannedVolume| volume.filesystem().is_some() && volume.planned().is_none();
        let fixed: HashSet<&str> = scan.volumes.iter().filter(is_fixed).map(|volume| &*volume.name).collect();
        let mut has_initrd = false;
        for (number, row) in rows.iter().copied().enumerate() {
            if !wanted.is_wanted(row) {
                continue;
            }
            let place = format!("{}:{}", row.volume, row.path_text());
            let mut changed = row.clone();
            if is_unit(&row.path) {
                pairs.replace(&mut changed.path);
            }
            if let Some(target) = &mut changed.node.link_target {
                pairs.replace(target);
            }
            if row.node.file_type == FileType::File && row.node.size > 0 {
                let name = row.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
                has_initrd |= name.starts_with(b"initr") || name.starts_with(b"initramfs");
                let Some(object) = row.object() else { continue };
                let became = match known.get(&object) {
                    Some(became) => *became,
                    None => {
                        let source = contents.source(&object, objects)?;
                        let content = self.rewritten(&place, source, &pairs)?;
                        let became = content.as_ref().map(|it| (it.body(), it.source.len()));
                        new.extend(content.map(|content| (content.id, content)));
                        known.insert(object, became);
                        became
                    }
                };
                if let Some((body, size)) = became {
                    (changed.body, changed.node.size) = (Some(body), size);
                }
            }
            if changed != *row && fixed.contains(&*row.volume) {
                let why = "contains an old identity, but was not changed because mif cannot write its volume";
                self.report.left.push(format!("{place}: {why}"));
            } else if changed != *row {
                self.report.rewritten.push(match changed.path == row.path {
                    true => place,
                    false => format!("{place} (now {})", changed.path_text()),
                });
                rewritten.insert(number, changed);
            }
        }
        if !self.is_boot_code_new {
            self.look_at_boot_code(scan, &pairs)?;
        }
        if has_initrd && !self.patches.is_empty() {
            self.report.left.push(
                "initramfs images were not searched: if one names the UUID of a swap volume to resume from, regenerate it (update-initramfs -u)"
                    .into(),
            );
        }
        Ok((rewritten, new))
    }

    /// Returns a file's content with new references, if it contains old ones and may be changed.
    fn rewritten(
        &mut self,
        place: &str,
        source: Arc<dyn Source>,
        pairs: &References,
    ) -> Result<Option<NewContent>> {
        let (patches, is_text) = pairs.find_in(&*source)?;
        if patches.is_empty() {
            return Ok(None);
        }
        if !is_text {
            let head = source.read_vec(0, source.len().min(PROGRAM_HEAD) as usize)?;
            let why = match signature(&head) {
                Signature::Unsigned => None,
                Signature::Signed => Some("it is signed"),
                Signature::NoProgram => Some("it is neither text nor a UEFI program"),
            };
            if let Some(why) = why {
                self.report
                    .left
                    .push(format!("{place}: contains an old identity, but was not changed because {why}"));
                return Ok(None);
            }
        }
        if patches.iter().all(|it| it.len == it.text.len()) {
            let patches = patches.into_iter().map(|it| (it.at, it.text)).collect();
            let patched = Patched { source, patches };
            return NewContent::of_source(Arc::new(patched), place.to_owned()).map(Some);
        }
        // Identities of another length.
        if !is_text || source.len() > MAX_TEXT {
            let why = if is_text { "it is too long" } else { "it is a program" };
            self.report
                .left
                .push(format!("{place}: contains an old identity, but was not changed because {why}"));
            return Ok(None);
        }
        let mut text = source.read_vec(0, source.len() as usize)?;
        pairs.replace(&mut text);
        if place.ends_with("/grubenv") {
            pad_environment(&mut text, source.len() as usize);
        }
        Ok(Some(NewContent::of_bytes(text)))
    }

    /// Checks boot code outside of filesystems for old identities. Its compressed parts cannot be searched.
    fn look_at_boot_code(&mut self, scan: &Scan, pairs: &References) -> Result<()> {
        let partitions = &scan.table.partitions;
        let gap = partitions.iter().map(|p| p.start).min().unwrap_or(0).min(BOOT_AREA);
        let bios = partitions.iter().filter(|p| p.type_id == mif_formats::partition::types::BIOS_BOOT);
        let mut areas: Vec<(u64, u64)> = vec![(0, gap)];
        areas.extend(bios.map(|p| (p.start, p.len.min(BOOT_AREA))));
        let mut is_grub = false;
        for (start, len) in areas {
            let mut bytes = scan.disk.read_vec(start, len as usize)?;
            is_grub |=
                start == 0 && bytes.get(..512).is_some_and(|sector| sector.windows(5).any(|w| w == b"GRUB "));
            // The table itself never contains identities as text.
            if pairs.replace(&mut bytes) > 0 {
                self.report.left.push(format!("the boot code at byte {start} contains an old identity"));
            }
        }
        if is_grub {
            self.report.left.push(
                "GRUB's core image for BIOS is compressed and was not searched: it still works if it finds its directory by partition, as is usual; if it searches for a UUID, run grub-install"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Gives GRUB's environment block the length that it had, by which GRUB knows it: `#` fill it.
fn pad_environment(text: &mut Vec<u8>, len: usize) {
    let content = text.iter().rposition(|b| *b != b'#').map_or(0, |last| last + 1);
    text.truncate(content.max(len.min(text.len())));
    text.resize(text.len().max(len), b'#');
}

/// Selects the files to search for old identities: those that control mounting and booting.
struct Wanted<'a> {
    subvolumes: Subvolumes,
    /// Volumes and subvolumes with an `/etc`.
    roots: HashSet<(&'a str, Option<u64>)>,
    /// Volumes that firmware reads.
    boots: Vec<String>,
}

/// Vendors' directories for units, kernel command lines and rules, without `/usr`, which may be a volume of its own.
const VENDOR: [&[u8]; 8] = [
    b"/lib/systemd/",
    b"/local/lib/systemd/",
    b"/lib/kernel/",
    b"/lib/bootc/",
    b"/lib/kargs.d/",
    b"/lib/dracut/",
    b"/lib/udev/rules.d/",
    b"/lib/repart.d/",
];

impl<'a> Wanted<'a> {
    fn of(rows: &[&'a Row], scan: &Scan) -> Self {
        let subvolumes = Subvolumes::of(rows.iter().copied());
        let roots = rows.iter().filter(|row| subvolumes.inside(row) == b"/etc");
        let roots = roots.map(|row| (&*row.volume, row.node.subvolume)).collect();
        // Firmware reads only filesystems without owners.
        let is_boot =
            |volume: &&ScannedVolume| volume.filesystem().is_some_and(|fs| !fs.capabilities().is_posix);
        let boots = scan.volumes.iter().filter(is_boot).map(|volume| volume.name.clone()).collect();
        Wanted { subvolumes, roots, boots }
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let path = self.subvolumes.inside(row);
        let below = |folders: &[&[u8]]| folders.iter().any(|folder| path.starts_with(folder));
        if self.boots.contains(&row.volume) || is_vendors(path) {
            return true;
        }
        // On ostree, each deployment has an `/etc` and a `/usr`.
        if let Some(deployed) = path.strip_prefix(b"/ostree/deploy/") {
            let parts: Vec<&[u8]> = deployed.splitn(5, |b| *b == b'/').collect();
            if let [_, b"deploy", _, top, rest] = parts[..] {
                return top == b"etc" || top == b"usr" && is_vendors(&[b"/", rest].concat());
            }
        }
        if self.roots.contains(&(&*row.volume, row.node.subvolume)) {
            return below(&[b"/etc/", b"/boot/", b"/efi/"]);
        }
        // A volume that is mounted at `/boot`.
        below(&[b"/grub/", b"/grub2/", b"/loader/", b"/extlinux/", b"/syslinux/", b"/boot/"])
            || path.iter().filter(|b| **b == b'/').count() == 1
    }
}

/// Returns true if a path is in one of the vendors' directories.
fn is_vendors(path: &[u8]) -> bool {
    let path = path.strip_prefix(b"/usr").unwrap_or(path);
    VENDOR.iter().any(|folder| path.starts_with(folder))
}

/// Returns true if a path is in a directory of units, whose names may contain identities.
fn is_unit(path: &[u8]) -> bool {
    memchr::memmem::find(path, b"/systemd/").is_some()
}

/// The kind of a file: a UEFI program, signed or not, or another file. A change would break a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    Unsigned,
    Signed,
    NoProgram,
}

/// Determines the signature from the first bytes of a file (PE format, "Optional Header Data Directories").
fn signature(bytes: &[u8]) -> Signature {
    let u32_at = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let certificates = || {
        let header = u32_at(0x3C)?;
        if !bytes.starts_with(b"MZ") || bytes.get(header..header.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        let directories = match bytes.get(header + 24..header + 26)? {
            [0x0B, 0x02] => header + 24 + 112,
            [0x0B, 0x01] => header + 24 + 96,
            _ => return None,
        };
        // The fifth directory contains the place and size of the certificates.
        u32_at(directories + 4 * 8 + 4)
    };
    match certificates() {
        Some(0) => Signature::Unsigned,
        Some(_) => Signature::Signed,
        None => Signature::NoProgram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_block_keeps_its_length() {
        let mut text = b"a=1234\n####".to_vec();
        pad_environment(&mut text, 9);
        assert_eq!(text, b"a=1234\n##");
        let mut text = b"a=1\n####".to_vec();
        pad_environment(&mut text, 12);
        assert_eq!(text, b"a=1\n########");
        let mut text = b"a=123456\n".to_vec();
        pad_environment(&mut text, 4);
        assert_eq!(text, b"a=123456\n");
    }

    #[test]
    fn a_program_is_told_by_its_header_and_its_certificates() {
        let mut program = vec![0; 0x200];
        program[..2].copy_from_slice(b"MZ");
        program[0x3C] = 0x80;
        program[0x80..0x84].copy_from_slice(b"PE\0\0");
        program[0x98..0x9A].copy_from_slice(&[0x0B, 0x02]);
        assert_eq!(signature(&program), Signature::Unsigned);
        program[0x98 + 112 + 36] = 8;
        assert_eq!(signature(&program), Signature::Signed);
        program[0x3C..0x40].fill(0xFF);
        assert_eq!(signature(&program), Signature::NoProgram);
        assert_eq!(signature(b"MZ"), Signature::NoProgram);
    }
}
