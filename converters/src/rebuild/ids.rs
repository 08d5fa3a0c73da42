//! Fresh identities: UUIDs of filesystems and swap, serial numbers of FATs, GUIDs and signature of the partition
//! table; and the files of the disk that name the old ones.
//!
//! An identity and its successor have one length, so a reference is rewritten in place, in text files of `/etc`,
//! of `/boot` and of the EFI system partition, and in boot programs that are not signed.

use std::collections::HashMap;

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::{Table, TableKind};
use mif_formats::uuid;
use serde::Serialize;

use super::Rewritten;
use super::contents::{Contents, NewContent, NewContents};
use super::reshape::NewIds;
use crate::Result;
use crate::rebuild::params::Params;
use crate::scan::{Scan, ScannedVolume};

/// Files larger than this are not looked into.
const MAX_FILE: u64 = 8 << 20;
/// `sws_uuid` of a swap space, and how many bytes of its head are read.
const SWAP_UUID: u64 = 1036;
const SWAP_HEAD: u64 = 64 << 10;
/// How much of a disk's beginning is searched for references, in bytes.
const BOOT_AREA: u64 = 2 << 20;

/// What fresh identities did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IdsReport {
    /// Each identity that changed.
    pub changed: Vec<IdChange>,
    /// The files in which references were rewritten, as `volume:/path`.
    pub rewritten: Vec<String>,
    /// What still names an old identity, or may, each a sentence.
    pub left: Vec<String>,
}

/// An identity that changed.
#[derive(Debug, Clone, Serialize)]
pub struct IdChange {
    /// Whose: `disk`, `partition 1`, `p1`.
    pub of: String,
    /// What it was, as `blkid` prints it.
    pub old: String,
    /// What it is.
    pub new: String,
}

/// Fresh identities, and where they go.
#[derive(Default)]
pub(super) struct Identities {
    pub(super) report: IdsReport,
    /// By volume: those of filesystems.
    volumes: HashMap<String, [u8; 16]>,
    /// Bytes at a place of a volume.
    pub(super) patches: Vec<(String, u64, Vec<u8>)>,
    pub(super) table_id: Option<String>,
    /// By slot.
    pub(super) partition_ids: HashMap<u32, String>,
}

impl Identities {
    /// Makes identities for all that has one on a disk.
    pub(super) fn new(scan: &Scan, ids: &NewIds) -> Result<Self> {
        let mut new = Identities::default();
        new.name_table(&scan.table, ids);
        for volume in &scan.volumes {
            new.name_volume(scan, volume, ids)?;
        }
        Ok(new)
    }

    /// The volumes that have to be planned.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.keys().map(String::as_str)
    }

    /// Gives a volume's parameters its new identity.
    pub(super) fn apply(&self, volume: &str, params: &mut Params) {
        let Some(id) = self.volumes.get(volume) else { return };
        match params {
            Params::Ext(params) => params.uuid = *id,
            Params::Fat(params) => params.volume_id = fat_id(id),
        }
    }

    fn change(&mut self, of: String, old: &str, new: String) {
        self.report.changed.push(IdChange { of, old: old.to_owned(), new });
    }

    fn name_table(&mut self, table: &Table, ids: &NewIds) {
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
        if let Some(filesystem) = volume.filesystem() {
            let Some(old) = &filesystem.info().uuid else { return Ok(()) };
            let id = ids.uuid(name);
            let new = if filesystem.info().kind.starts_with("ext") {
                uuid::text(&id)
            } else {
                let id = fat_id(&id);
                format!("{:04X}-{:04X}", id >> 16, id & 0xFFFF)
            };
            self.change(name.clone(), old, new);
            self.volumes.insert(name.clone(), id);
            return Ok(());
        }
        let record = volume.record();
        let crate::store::FilesystemRecord::Other(Some(kind)) = record.content else { return Ok(()) };
        if kind != "swap" {
            self.report.left.push(format!("{name}: {kind} keeps its identity"));
            return Ok(());
        }
        let head = volume.on_disk(0, SWAP_HEAD).next().map_or(0, |(_, len)| len.min(SWAP_HEAD));
        let head = VolumeHead { scan, volume }.read(head)?;
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

    /// Rewrites what names old identities in the files of `rows`: gives the rows that change, and their contents.
    pub(super) fn rewrite(
        &mut self,
        rows: &[&Row],
        scan: &Scan,
        contents: Contents<'_>,
    ) -> Result<(Rewritten, NewContents)> {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = self
            .report
            .changed
            .iter()
            .filter(|change| change.of != "disk" || change.old.len() > 8)
            .map(|change| (change.old.to_ascii_lowercase().into_bytes(), change.new.clone().into_bytes()))
            .collect();
        let (mut rewritten, mut new) = (Rewritten::new(), NewContents::new());
        // Hard links have one content: what it became, if anything.
        let mut known: HashMap<ObjectId, Option<(ObjectId, [u8; 20])>> = HashMap::new();
        let wanted = Wanted::of(rows, scan);
        let mut has_initrd = false;
        for (number, row) in rows.iter().copied().enumerate() {
            if row.file_type != FileType::File || row.size == 0 || !wanted.is_wanted(row) {
                continue;
            }
            let name = row.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            has_initrd |= name.starts_with(b"initr") || name.starts_with(b"initramfs");
            let Some(object) = row.object().filter(|_| row.size <= MAX_FILE) else { continue };
            let place = format!("{}:{}", row.volume, row.path_text());
            let became = match known.get(&object) {
                Some(became) => *became,
                None => {
                    let mut bytes = vec![0; row.size as usize];
                    contents.read_at(&object, 0, &mut bytes)?;
                    let became = if replace(&mut bytes, &pairs) == 0 {
                        None
                    } else if bytes.contains(&0) && !is_unsigned_program(&bytes) {
                        self.report.left.push(format!("{place}: names an old identity, and is no text"));
                        None
                    } else {
                        let content = NewContent::of_bytes(bytes);
                        let became = (content.id, content.sha1);
                        new.insert(content.id, content);
                        Some(became)
                    };
                    known.insert(object, became);
                    became
                }
            };
            if let Some((id, sha1)) = became {
                let row = Row { blake3: Some(id), sha1: Some(sha1), content: None, ..row.clone() };
                rewritten.insert(number, row);
                self.report.rewritten.push(place);
            }
        }
        self.look_at_boot_code(scan, &pairs)?;
        if has_initrd && !self.patches.is_empty() {
            self.report.left.push(
                "an initramfs was not looked into: if it resumes from the swap by its UUID, make it anew (update-initramfs -u)"
                    .into(),
            );
        }
        Ok((rewritten, new))
    }

    /// Boot code outside of filesystems is compressed, so that it can hide what it names.
    fn look_at_boot_code(&mut self, scan: &Scan, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let partitions = &scan.table.partitions;
        let gap = partitions.iter().map(|p| p.start).min().unwrap_or(0).min(BOOT_AREA);
        let bios = partitions.iter().filter(|p| p.type_id == super::arrange::BIOS_BOOT);
        let mut areas: Vec<(u64, u64)> = vec![(0, gap)];
        areas.extend(bios.map(|p| (p.start, p.len.min(BOOT_AREA))));
        let mut is_grub = false;
        for (start, len) in areas {
            let mut bytes = scan.disk.read_vec(start, len as usize)?;
            is_grub |=
                start == 0 && bytes.get(..512).is_some_and(|sector| sector.windows(5).any(|w| w == b"GRUB "));
            // The table itself is text nowhere.
            if replace(&mut bytes, pairs) > 0 {
                self.report.left.push(format!("the boot code at byte {start} names an old identity"));
            }
        }
        if is_grub {
            self.report.left.push(
                "GRUB's core image for BIOS is compressed and was not looked into: one that finds its folder by partition, as is usual, still does; one that searches for a UUID needs grub-install"
                    .into(),
            );
        }
        Ok(())
    }
}

fn fat_id(id: &[u8; 16]) -> u32 {
    u32::from_le_bytes([id[0], id[1], id[2], id[3]]).max(1)
}

/// The beginning of a volume.
struct VolumeHead<'a> {
    scan: &'a Scan,
    volume: &'a ScannedVolume,
}

impl VolumeHead<'_> {
    fn read(&self, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (disk, len) in self.volume.on_disk(0, len) {
            bytes.extend(self.scan.disk.read_vec(disk, len as usize)?);
        }
        Ok(bytes)
    }
}

/// Which files are looked into: those that say what is mounted and booted.
struct Wanted {
    /// Volumes with an `/etc`, and those that are FAT.
    roots: Vec<String>,
    fats: Vec<String>,
}

impl Wanted {
    fn of(rows: &[&Row], scan: &Scan) -> Self {
        let roots = rows.iter().filter(|row| row.path == b"/etc").map(|row| row.volume.clone()).collect();
        let is_fat =
            |volume: &&ScannedVolume| volume.filesystem().is_some_and(|fs| fs.info().kind.starts_with("fat"));
        let fats = scan.volumes.iter().filter(is_fat).map(|volume| volume.name.clone()).collect();
        Wanted { roots, fats }
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let below = |folders: &[&[u8]]| folders.iter().any(|folder| row.path.starts_with(folder));
        if self.fats.contains(&row.volume) {
            return true;
        }
        if self.roots.contains(&row.volume) {
            return below(&[b"/etc/", b"/boot/", b"/efi/"]);
        }
        // A volume that is mounted at /boot.
        below(&[b"/grub/", b"/grub2/", b"/loader/", b"/extlinux/", b"/syslinux/", b"/boot/"])
            || row.path.iter().filter(|b| **b == b'/').count() == 1
    }
}

/// Puts new identities in place of old ones, which are in lower case here; gives how many.
fn replace(bytes: &mut [u8], pairs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let mut count = 0;
    for (old, new) in pairs.iter().filter(|(old, new)| old.len() == new.len()) {
        // A UUID is found by its last dash, which few other things have.
        let dash = old.iter().rposition(|b| *b == b'-');
        let Some(dash) = dash else { continue };
        let at: Vec<usize> = memchr::memchr_iter(b'-', bytes).collect();
        for at in at {
            let Some(start) = at.checked_sub(dash) else { continue };
            let end = start + old.len();
            let Some(here) = bytes.get(start..end) else { continue };
            if !here.eq_ignore_ascii_case(old) {
                continue;
            }
            let is_part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'-');
            let before = start.checked_sub(1).and_then(|i| bytes.get(i));
            if is_part(before) || is_part(bytes.get(end)) {
                continue;
            }
            let upper = here.iter().any(u8::is_ascii_uppercase);
            let lower = here.iter().any(u8::is_ascii_lowercase);
            let mut text = new.clone();
            match (upper, lower) {
                (true, false) => text.make_ascii_uppercase(),
                (false, true) => text.make_ascii_lowercase(),
                // Digits alone say nothing: as the tools print it.
                _ => {}
            }
            bytes[start..end].copy_from_slice(&text);
            count += 1;
        }
    }
    count
}

/// Whether it is a program for UEFI without a signature, which a change would break.
fn is_unsigned_program(bytes: &[u8]) -> bool {
    let u32_at = |at: usize| {
        bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")) as usize)
    };
    let signed = || {
        let header = u32_at(0x3C)?;
        let is_pe = bytes.get(header..header + 4)? == b"PE\0\0";
        let directories = match bytes.get(header + 24..header + 26)? {
            [0x0B, 0x02] => header + 24 + 112,
            [0x0B, 0x01] => header + 24 + 96,
            _ => return None,
        };
        // The fifth directory is of certificates: its place and size.
        is_pe.then_some(u32_at(directories + 4 * 8 + 4)? > 0)
    };
    bytes.starts_with(b"MZ") && signed() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_rewritten_in_the_case_they_have_and_only_whole() {
        let pairs = [
            (b"4d49-4603".to_vec(), b"AB12-34CD".to_vec()),
            (
                b"6d69662d-6465-6269-616e-000000000001".to_vec(),
                b"11111111-2222-4333-8444-abcdefabcdef".to_vec(),
            ),
        ];
        let mut text = b"UUID=4D49-4603 /boot/efi\nroot=UUID=6d69662d-6465-6269-616e-000000000001 ro\n\
            x-4d49-4603 4d49-46030 PARTUUID=6D69662D-6465-6269-616E-000000000001\n"
            .to_vec();
        assert_eq!(replace(&mut text, &pairs), 3);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "UUID=AB12-34CD /boot/efi\nroot=UUID=11111111-2222-4333-8444-abcdefabcdef ro\n\
            x-4d49-4603 4d49-46030 PARTUUID=11111111-2222-4333-8444-ABCDEFABCDEF\n"
        );
    }
}
