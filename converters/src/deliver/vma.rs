//! What `qmrestore` of Proxmox VE restores: a backup with the disk and the configuration of a machine
//! (pve-qemu, `vma_spec.txt`). Numbers are big-endian, except for the lengths of blobs.
//!
//! Each window of the disk is an extent: a header that lists its clusters of 64 KiB, and their blocks of 4 KiB that are not
//! zeros. Every cluster of the disk is listed. A compressed backup has a zstd frame for the header and for each extent;
//! frames that follow each other are one stream (RFC 8878, section 3).

use std::ops::Range;

use md5::{Digest, Md5};
use mif_formats::container::{CreateOptions, Output, Pull};

use super::delivery::Delivery;
use super::settings::Settings;
use super::stream::{Stream, in_order};
use crate::error::{Error, Result};
use crate::guest::system::System;
use crate::task::progress::{self, Progress};

/// The lengths of a cluster and of a block, in bytes.
const CLUSTER: u64 = 64 << 10;
const BLOCK: usize = 4 << 10;
/// The number of clusters that an extent can list.
const CLUSTERS: usize = 59;
/// The length of the header before its blobs, in bytes.
const FIXED: usize = 12288;
/// Where the header and the header of an extent have their MD5, in bytes.
const HEADER_SUM: usize = 32;
const EXTENT_SUM: usize = 24;
/// The number of the disk.
const DEVICE: u8 = 1;
/// How many clusters of zeros are listed at once, in extents that are compressed together.
const ZEROS: usize = 256 * CLUSTERS;
/// zstd's level, as `vzdump` uses.
const LEVEL: i32 = 1;

/// Writes the backup.
pub(super) fn write(
    delivery: &Delivery<'_>,
    is_compressed: bool,
    settings: &CreateOptions,
    output: &mut Output,
    progress: &dyn Progress,
) -> Result<()> {
    let disk = delivery.disk;
    let clusters = u32::try_from(disk.len().div_ceil(CLUSTER))
        .map_err(|_| Error::unsupported("a backup of Proxmox VE holds disks of up to 256 TiB"))?;
    let settings = Settings::new(settings, delivery.system)?;
    let backup = Backup { id: id(delivery), is_compressed };
    let mut stream = Stream::new(output.around()?);
    stream.write(&backup.packed(backup.header(delivery, &settings))?)?;
    let mut next = 0;
    let observer: &dyn mif_formats::container::Observer = progress;
    Pull::new(disk, observer).run(
        |window| {
            let first = (window.start / CLUSTER) as u32;
            let listed = first..first + (window.bytes.len() as u64).div_ceil(CLUSTER) as u32;
            Ok((listed.clone(), backup.packed(backup.extent(listed, &window.bytes))))
        },
        |(listed, extent): (Range<u32>, Result<Vec<u8>>)| {
            let written =
                backup.zeros(next..listed.start, &mut stream, progress).and_then(|()| stream.write(&extent?));
            next = listed.end;
            in_order(written)
        },
    )?;
    backup.zeros(next..clusters, &mut stream, progress)?;
    stream.finish()
}

/// A backup that is written.
struct Backup {
    id: [u8; 16],
    is_compressed: bool,
}

impl Backup {
    fn packed(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        match self.is_compressed {
            true => zstd::bulk::compress(&bytes, LEVEL).map_err(|e| Error::store(e.to_string())),
            false => Ok(bytes),
        }
    }

    /// Returns the header: the names and lengths of disks, and the configuration.
    fn header(&self, delivery: &Delivery<'_>, settings: &Settings) -> Vec<u8> {
        let mut header = vec![0; FIXED];
        // Offset zero means no blob.
        let mut blobs = vec![0];
        let mut blob = |content: &[u8]| {
            let at = blobs.len() as u32;
            let len = u16::try_from(content.len()).expect("names and configurations are short");
            blobs.extend(len.to_le_bytes());
            blobs.extend(content);
            at.to_be_bytes()
        };
        let machine = Machine::of(delivery.system);
        let name = blob(b"qemu-server.conf\0");
        let configuration = blob(machine.configuration(delivery, settings).as_bytes());
        let device = blob(format!("drive-{}\0", machine.device).as_bytes());
        let blobs_len = blobs.len().next_multiple_of(512);
        blobs.resize(blobs_len, 0);
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"VMA\0");
        put(4, &1_u32.to_be_bytes());
        put(8, &self.id);
        put(48, &(FIXED as u32).to_be_bytes());
        put(52, &(blobs_len as u32).to_be_bytes());
        put(56, &((FIXED + blobs_len) as u32).to_be_bytes());
        put(2044, &name);
        put(3068, &configuration);
        let at = 4096 + 32 * usize::from(DEVICE);
        put(at, &device);
        put(at + 8, &delivery.disk.len().to_be_bytes());
        header.extend(blobs);
        summed(header, HEADER_SUM)
    }

    /// Returns the extent with these clusters, whose bytes follow each other.
    fn extent(&self, listed: Range<u32>, bytes: &[u8]) -> Vec<u8> {
        let mut masks = Vec::new();
        let mut data = Vec::with_capacity(bytes.len());
        for cluster in bytes.chunks(CLUSTER as usize) {
            let mut mask = 0_u16;
            for (number, block) in cluster.chunks(BLOCK).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    mask |= 1 << number;
                    data.extend(block);
                    data.resize(data.len().next_multiple_of(BLOCK), 0);
                }
            }
            masks.push(mask);
        }
        let mut extent = self.list(listed.zip(masks), (data.len() / BLOCK) as u16);
        extent.extend(data);
        extent
    }

    /// Returns the header of an extent: clusters, each with a bit for each block that is stored, and the number of blocks.
    fn list(&self, clusters: impl Iterator<Item = (u32, u16)>, blocks: u16) -> Vec<u8> {
        let mut header = b"VMAE\0\0".to_vec();
        header.extend(blocks.to_be_bytes());
        header.extend(self.id);
        header.extend([0; 16]);
        for (number, mask) in clusters.take(CLUSTERS) {
            header.extend(mask.to_be_bytes());
            header.extend([0, DEVICE]);
            header.extend(number.to_be_bytes());
        }
        header.resize(512, 0);
        summed(header, EXTENT_SUM)
    }

    /// Writes extents for clusters of zeros.
    fn zeros(&self, clusters: Range<u32>, stream: &mut Stream<'_>, progress: &dyn Progress) -> Result<()> {
        let mut left = clusters;
        while !left.is_empty() {
            progress::check(progress)?;
            let end = left.end.min(left.start.saturating_add(ZEROS as u32));
            let numbers: Vec<u32> = (left.start..end).collect();
            let extents =
                numbers.chunks(CLUSTERS).flat_map(|some| self.list(some.iter().map(|n| (*n, 0)), 0));
            stream.write(&self.packed(extents.collect())?)?;
            left.start = end;
        }
        Ok(())
    }
}

/// Puts the MD5 of the bytes, in which its place is zeros, to `at`.
fn summed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = Md5::digest(&bytes);
    bytes[at..at + 16].copy_from_slice(&sum);
    bytes
}

/// Returns the id of the backup: the same for the same name and length.
fn id(delivery: &Delivery<'_>) -> [u8; 16] {
    let seed = Md5::new_with_prefix(delivery.name).chain_update(delivery.disk.len().to_be_bytes());
    mif_formats::uuid::random(seed.finalize().into())
}

/// What a machine needs for its system.
struct Machine {
    device: &'static str,
    controller: Option<&'static str>,
    network: &'static str,
    system: &'static str,
}

impl Machine {
    fn of(system: &System) -> Self {
        let id = system.os.as_ref().map_or("", |os| &os.id);
        let paravirtual = |system| Machine {
            device: "scsi0",
            controller: Some("virtio-scsi-single"),
            network: "virtio",
            system,
        };
        match id {
            // It has no drivers for virtio of its own.
            "windows" => Machine { device: "sata0", controller: None, network: "e1000", system: "win10" },
            "" | "freebsd" => paravirtual("other"),
            _ => paravirtual("l26"),
        }
    }

    /// Returns the configuration: lines of `qm.conf(5)`, and the comment by which `qmrestore` knows the disk. It puts the
    /// disk on the storage that the user names.
    fn configuration(&self, delivery: &Delivery<'_>, settings: &Settings) -> String {
        let Machine { device, controller, network, system } = self;
        let Settings { cpus, memory, is_efi } = settings;
        let size = match delivery.disk.len() {
            len if len.is_multiple_of(1 << 30) => format!("{}G", len >> 30),
            len if len.is_multiple_of(1 << 20) => format!("{}M", len >> 20),
            len => format!("{}K", len.div_ceil(1 << 10)),
        };
        let mut lines = vec![format!("boot: order={device}"), format!("cores: {cpus}")];
        if *is_efi {
            lines.insert(0, "bios: ovmf".to_owned());
        }
        lines.push(format!("memory: {memory}"));
        lines.push(format!("name: {}", dns_name(delivery.name)));
        lines.push(format!("net0: {network},bridge=vmbr0"));
        lines.push(format!("ostype: {system}"));
        lines.push(format!("{device}: local:vm-100-disk-0,size={size}"));
        lines.extend(controller.map(|controller| format!("scsihw: {controller}")));
        // Comments before the settings are the machine's notes.
        lines.insert(0, format!("#{}", encoded(&delivery.origin())));
        lines.push(format!("#qmdump#map:{device}:drive-{device}::raw:"));
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

/// Returns a text as Proxmox VE keeps it in notes: `%` and what is not plain ASCII as the hex digits of bytes.
fn encoded(text: &str) -> String {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'%';
    let encode =
        |byte: u8| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// Returns a name as DNS allows it.
fn dns_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().take(63).map(plain).collect();
    match name.trim_matches('-') {
        "" => "image".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_stores_the_blocks_that_are_not_zeros() {
        let backup = Backup { id: [7; 16], is_compressed: false };
        let mut bytes = vec![0; (2 * CLUSTER) as usize + 5000];
        bytes[BLOCK] = 1;
        bytes[2 * CLUSTER as usize + 4999] = 2;
        let extent = backup.extent(3..6, &bytes);
        assert_eq!(extent.len(), 512 + 2 * BLOCK);
        assert_eq!((&extent[..8], &extent[8..24]), (&b"VMAE\0\0\0\x02"[..], &[7; 16][..]));
        assert_eq!(extent[40..48], [0, 2, 0, 1, 0, 0, 0, 3]);
        assert_eq!(extent[48..56], [0, 0, 0, 1, 0, 0, 0, 4]);
        assert_eq!(extent[56..64], [0, 2, 0, 1, 0, 0, 0, 5]);
        assert_eq!((extent[512], extent[512 + BLOCK + 4999 - 4096]), (1, 2));
    }

    #[test]
    fn notes_are_encoded() {
        assert_eq!(encoded("from web@1 (50%)\né"), "from web@1 (50%25)%0A%C3%A9");
    }

    #[test]
    fn names_are_made_fit_for_dns() {
        assert_eq!(dns_name("web_1.two"), "web-1-two");
        assert_eq!(dns_name("--Straße--"), "Stra-e");
        assert_eq!(dns_name("…"), "image");
    }
}
