//! Backups of Proxmox VE (pve-qemu's `vma_spec.txt`): the disks of a machine in clusters of 64 KiB, in any order, without
//! blocks of zeros. Numbers are big-endian.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::pieces::Piece;
use super::{Index, Member, Stored};
use crate::bytes::{be16, be32, be64};
use crate::checksum;
use crate::error::{Result, at};
use crate::source::Source;

const CLUSTER: u64 = 65536;
const BLOCK: u64 = 4096;

/// The number of clusters that an extent describes.
const CLUSTERS: usize = 59;

/// The length of the header before its buffer of blobs, and the largest header, in bytes.
const FIXED: usize = 12288;
const MAX_HEADER: u64 = 64 << 20;

/// The length of the header of an extent in bytes.
const EXTENT: u64 = 512;

/// The stream of the memory of a machine, which is no disk.
const MEMORY: &str = "vmstate";

/// The header.
#[derive(Debug)]
struct Header {
    uuid: [u8; 16],
    len: u64,
    /// The devices by their number: name, and length in bytes.
    devices: Vec<Option<(String, u64)>>,
    configurations: Vec<String>,
}

/// Returns the names and lengths of the disks, from the header alone.
pub(super) fn disks(archive: &dyn Source) -> Result<Vec<(String, u64)>> {
    let devices = Header::read(archive)?.devices.into_iter().flatten();
    Ok(devices.filter(|(name, _)| name != MEMORY).collect())
}

/// Reads where the clusters of each disk are.
pub(super) fn index(archive: &Arc<dyn Source>, seen: &mut dyn FnMut(&Member) -> Result<()>) -> Result<Index> {
    let header = Header::read(&**archive)?;
    let mut clusters: Vec<Vec<Cluster>> = header.devices.iter().map(|_| Vec::new()).collect();
    let mut position = header.len;
    while position < archive.len() {
        position = read_extent(&**archive, position, &header, &mut clusters)?;
    }
    let mut index = Index { members: Vec::new(), configurations: header.configurations };
    for (device, mut clusters) in header.devices.into_iter().zip(clusters) {
        let Some((name, len)) = device.filter(|(name, _)| name != MEMORY) else { continue };
        clusters.sort_unstable_by_key(|cluster| cluster.number);
        let expected = len.div_ceil(CLUSTER);
        if let Some(twice) = clusters.windows(2).find(|pair| pair[0].number == pair[1].number) {
            return Err(
                at(format!("VMA device {name:?}")).corrupt(format!("has cluster {} twice", twice[0].number))
            );
        }
        if clusters.len() as u64 != expected
            || clusters.last().is_some_and(|c| u64::from(c.number) >= expected)
        {
            return Err(at(format!("VMA device {name:?}")).corrupt(format!(
                "has {} of its {expected} clusters: the backup is truncated or was aborted",
                clusters.len()
            )));
        }
        let stored = Stored::Plain(pieces(&clusters, len).into());
        index.members.push(Member { name, len, stored });
        seen(index.members.last().expect("just pushed"))?;
    }
    Ok(index)
}

impl Header {
    fn read(archive: &dyn Source) -> Result<Self> {
        let place = || at("VMA header");
        if archive.len() < FIXED as u64 {
            return Err(place().corrupt("the file is too short: it is truncated"));
        }
        let fixed = archive.read_vec(0, FIXED)?;
        let len = u64::from(be32(&fixed, 56));
        if !(FIXED as u64..=MAX_HEADER).contains(&len) || !len.is_multiple_of(512) {
            return Err(place().field("header_size").byte(56).corrupt(format!("is {len}")));
        }
        if len > archive.len() {
            return Err(place().corrupt("extends past the end of the file: it is truncated"));
        }
        Self::parse(&archive.read_vec(0, len as usize)?)
            .map_err(|(byte, problem)| place().byte(byte).corrupt(problem))
    }

    /// Parses a whole header. An error is a byte and a problem.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, (u64, String)> {
        if !bytes.starts_with(b"VMA\0") || be32(bytes, 4) != 1 {
            return Err((4, format!("the version is {}, expected 1", be32(bytes, 4))));
        }
        if !has_sum(bytes, 32) {
            return Err((32, "its MD5 is wrong".into()));
        }
        let (start, size) = (be32(bytes, 48) as usize, be32(bytes, 52) as usize);
        let blobs = start.checked_add(size).and_then(|end| bytes.get(start..end));
        let blobs =
            blobs.ok_or((48, format!("the buffer of {size} bytes at {start} is outside the header")))?;
        let text = |field: usize| -> std::result::Result<Option<String>, (u64, String)> {
            let offset = be32(bytes, field) as usize;
            if offset == 0 {
                return Ok(None);
            }
            let blob = blobs.get(offset..).filter(|rest| rest.len() >= 2).and_then(|rest| {
                // The size of a blob is the only number in little-endian order.
                rest.get(2..2 + usize::from(u16::from_le_bytes([rest[0], rest[1]])))
            });
            let blob = blob.ok_or((field as u64, format!("the blob at {offset} is outside the buffer")))?;
            let end = blob.iter().position(|byte| *byte == 0).unwrap_or(blob.len());
            Ok(Some(String::from_utf8_lossy(&blob[..end]).into_owned()))
        };
        let configurations = (0..256).map(|number| text(2044 + 4 * number));
        let configurations = configurations
            .filter_map(std::result::Result::transpose)
            .collect::<std::result::Result<_, _>>()?;
        let mut devices = Vec::new();
        for number in 0..256 {
            let field = 4096 + 32 * number;
            let size = be64(bytes, field + 8);
            devices.push(text(field)?.map(|name| (name, size)).filter(|_| size > 0));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[8..24]);
        Ok(Header { uuid, len: bytes.len() as u64, devices, configurations })
    }
}

/// Returns true if the 16 bytes at `at` are the MD5 of `bytes` with zeros in their place.
fn has_sum(bytes: &[u8], at: usize) -> bool {
    let sum = Md5::new_with_prefix(&bytes[..at]).chain_update([0; 16]).chain_update(&bytes[at + 16..]);
    checksum::fits(&bytes[at..at + 16], &sum.finalize()[..])
}

/// A cluster of a disk.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    number: u32,
    /// The blocks of the cluster that are stored, from the lowest bit.
    mask: u16,
    /// The offset of the first stored block in the archive, in bytes.
    at: u64,
}

/// Reads the header of the extent at `position`, and adds its clusters. Returns the end of the extent.
fn read_extent(
    archive: &dyn Source,
    position: u64,
    header: &Header,
    clusters: &mut [Vec<Cluster>],
) -> Result<u64> {
    let place = || at("VMA extent").byte(position);
    if position + EXTENT > archive.len() {
        return Err(place().corrupt("the file ends within its header: it is truncated"));
    }
    let bytes = archive.read_vec(position, EXTENT as usize)?;
    if !bytes.starts_with(b"VMAE") || bytes[8..24] != header.uuid {
        return Err(place().corrupt("expected the header of an extent of this backup"));
    }
    if !has_sum(&bytes, 24) {
        return Err(place().corrupt("its MD5 is wrong"));
    }
    let mut end = position + EXTENT;
    for number in 0..CLUSTERS {
        let info = be64(&bytes, 40 + 8 * number);
        let (mask, device, cluster) = ((info >> 48) as u16, (info >> 32) as u8, info as u32);
        // Numbers of devices begin at 1; an entry without one is not used.
        if device == 0 {
            continue;
        }
        let Some((name, len)) = &header.devices[usize::from(device)] else {
            return Err(place().corrupt(format!("names device {device}, which the header does not have")));
        };
        if name != MEMORY && u64::from(cluster) * CLUSTER >= *len {
            return Err(place().corrupt(format!("has cluster {cluster} of {name:?}, which has {len} bytes")));
        }
        if name != MEMORY {
            clusters[usize::from(device)].push(Cluster { number: cluster, mask, at: end });
        }
        end += u64::from(mask.count_ones()) * BLOCK;
    }
    let blocks = (end - position - EXTENT) / BLOCK;
    if blocks != u64::from(be16(&bytes, 6)) {
        return Err(place()
            .field("block_count")
            .corrupt(format!("is {}, but its masks have {blocks}", be16(&bytes, 6))));
    }
    if end > archive.len() {
        return Err(place().corrupt("extends past the end of the file: it is truncated"));
    }
    Ok(end)
}

/// Converts the sorted clusters of a disk of `len` bytes to pieces of the archive.
fn pieces(clusters: &[Cluster], len: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for cluster in clusters {
        let mut from = cluster.at;
        for block in 0..16 {
            if cluster.mask >> block & 1 == 0 {
                continue;
            }
            let start = u64::from(cluster.number) * CLUSTER + block * BLOCK;
            // The last block may extend past the end of the disk.
            let part = BLOCK.min(len.saturating_sub(start));
            match pieces.last_mut() {
                Some(last) if last.start + last.len == start && last.at + last.len == from => {
                    last.len += part
                }
                _ if part > 0 => pieces.push(Piece { start, len: part, at: from }),
                _ => {}
            }
            from += BLOCK;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    fn sum(bytes: &mut [u8], at: usize) {
        bytes[at..at + 16].fill(0);
        let sum = Md5::digest(&*bytes);
        bytes[at..at + 16].copy_from_slice(&sum);
    }

    /// Returns a backup with two disks, of 3 clusters and of 5 KiB, whose clusters are mixed.
    fn backup() -> Vec<u8> {
        let mut bytes = vec![0; 12288 + 512];
        bytes[..8].copy_from_slice(b"VMA\0\0\0\0\x01");
        bytes[8..24].fill(7);
        for (at, value) in [(48, 12288_u32), (52, 512), (56, 12800), (2044, 1), (3068, 21)] {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        for (at, blob) in
            [(1, "qemu-server.conf\0"), (21, "cores: 1\n"), (40, "drive-a\0"), (60, "drive-b\0")]
        {
            let at = 12288 + at;
            bytes[at] = blob.len() as u8;
            bytes[at + 2..at + 2 + blob.len()].copy_from_slice(blob.as_bytes());
        }
        for (device, name, size) in [(1, 40_u32, 3 * 65536_u64), (2, 60, 5 << 10)] {
            let at = 4096 + 32 * device;
            bytes[at..at + 4].copy_from_slice(&name.to_be_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&size.to_be_bytes());
        }
        sum(&mut bytes, 32);
        let mut extent = vec![0; 512];
        extent[..4].copy_from_slice(b"VMAE");
        extent[7] = 5;
        extent[8..24].fill(7);
        let infos: [(u16, u8, u32); 4] = [(0b101, 1, 2), (0b11, 2, 0), (0x8000, 1, 0), (0, 1, 1)];
        for (number, (mask, device, cluster)) in infos.into_iter().enumerate() {
            let info = u64::from(mask) << 48 | u64::from(device) << 32 | u64::from(cluster);
            extent[40 + 8 * number..48 + 8 * number].copy_from_slice(&info.to_be_bytes());
        }
        sum(&mut extent, 24);
        bytes.extend(extent);
        for fill in 1..=5 {
            bytes.extend([fill; 4096]);
        }
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<(String, Vec<u8>)>> {
        let archive: Arc<dyn Source> = Arc::new(MemSource(bytes));
        let index = index(&archive, &mut |_| Ok(()))?;
        assert_eq!(index.configurations, ["qemu-server.conf"]);
        let content = |member: &Member| {
            let source = member.in_place(&archive)?.expect("it lies plainly");
            Ok((member.name.clone(), source.read_vec(0, source.len() as usize)?))
        };
        index.members.iter().map(content).collect()
    }

    #[test]
    fn clusters_come_in_any_order_and_blocks_of_zeros_are_not_stored() {
        let mut a = vec![0; 3 * 65536];
        a[2 * 65536..][..4096].fill(1);
        a[2 * 65536 + 8192..][..4096].fill(2);
        a[15 * 4096..][..4096].fill(5);
        let b = [vec![3; 4096], vec![4; 1024]].concat();
        let found = read(backup()).unwrap();
        assert!(found == [("drive-a".to_owned(), a), ("drive-b".to_owned(), b)]);
    }

    #[test]
    fn damage_is_refused_in_words() {
        let says = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = backup();
            change(&mut bytes);
            read(bytes).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(says(&|b| b[9000] = 1).contains("MD5"));
        assert!(says(&|b| b[12800 + 50] ^= 1).contains("MD5"));
        assert!(says(&|b| b.truncate(100)).contains("truncated"));
        assert!(says(&|b| b.truncate(12800)).contains("0 of its 3 clusters"));
        assert!(says(&|b| b.truncate(12900)).contains("within its header"));
        assert!(says(&|b| b.truncate(20000)).contains("truncated"));
        assert!(says(&|b| b.extend([0; 512])).contains("expected the header"));
        let in_extent = |at: usize, value: u8| {
            says(&|b| {
                b[12800 + at] = value;
                sum(&mut b[12800..13312], 24);
            })
        };
        assert!(in_extent(7, 9).contains("block_count"));
        assert!(in_extent(43, 9).contains("device 9"));
        assert!(in_extent(47, 3).contains("cluster 3"));
        assert!(in_extent(47, 0).contains("twice"));
        let in_header = |at: usize, value: u8| {
            says(&|b| {
                b[at] = value;
                sum(&mut b[..12800], 32);
            })
        };
        assert!(in_header(7, 2).contains("version"));
        assert!(in_header(53, 9).contains("outside the header"));
        assert!(in_header(4096 + 32 + 2, 9).contains("outside the buffer"));
    }
}
