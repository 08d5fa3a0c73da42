//! Opening a volume: its superblock, chunks, subvolumes and their logs.

use std::sync::Arc;

use super::block::Pointer;
use super::chunks::Chunks;
use super::items::{Key, id, kind};
use super::log;
use super::subvolumes::{Subvolumes, root_of};
use super::superblock::Superblock;
use super::tree::Trees;
use crate::bytes::le64;
use crate::error::{ErrorKind, Result, at};
use crate::fs::Info;
use crate::source::Source;
use crate::uuid;

/// An opened volume.
pub(super) struct Opened {
    pub(super) trees: Trees,
    pub(super) subvolumes: Subvolumes,
    pub(super) info: Info,
}

/// Opens the filesystem on `volume`.
pub(super) fn open(volume: Arc<dyn Source>) -> Result<Opened> {
    let sb = Superblock::read(&*volume)?;
    let unsupported = |problem: String| Err(at("Btrfs superblock").unsupported(problem));
    if sb.devid == 0 {
        return unsupported("the device is the target of a replacement that was not finished".to_owned());
    }
    let chunks = Chunks::of_superblock(&sb.sys_chunks, sb.devid)?;
    let mut trees = Trees::new(volume, sb, chunks);
    let mut warnings = trees.sb.warnings.clone();
    let devices = read_chunks(&mut trees, &mut warnings)?;
    check_devices(&trees.sb, devices, &mut warnings)?;
    let mut subvolumes = Subvolumes::read(&trees, &mut warnings)?;
    if let Err(error) = warn_of_replacement(&trees, &mut warnings) {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        warnings.push(format!("the device tree cannot be read: {error}"));
    }
    if let Some((bytenr, level)) = trees.sb.log_root {
        log::replay(&trees, &mut subvolumes, bytenr, level, &mut warnings)?;
    }
    let (sb, len) = (&trees.sb, trees.volume_len());
    if len < sb.total_bytes {
        let size = sb.total_bytes;
        warnings.push(format!(
            "the volume ends at byte {len}, but its filesystem at {size}; the rest cannot be read"
        ));
    }
    warnings.extend(trees.take_damaged().iter().map(ToString::to_string));
    let info = Info {
        kind: "btrfs".to_owned(),
        label: (!sb.label.is_empty()).then(|| String::from_utf8_lossy(&sb.label).into_owned()),
        uuid: Some(uuid::text(&sb.fsid)),
        block_size: sb.sectorsize,
        size: sb.total_bytes,
        free: Some(sb.total_bytes.saturating_sub(sb.bytes_used)),
        features: sb.features.names(),
        warnings,
        default_subvolume: subvolumes.default,
    };
    Ok(Opened { trees, subvolumes, info })
}

/// Fails if the filesystem spans several devices, given how many the chunk tree lists, as far as it can be read. If
/// only the superblock says so, the superblock is wrong, as the kernel also concludes.
fn check_devices(sb: &Superblock, listed: u64, warnings: &mut Vec<String>) -> Result<()> {
    if listed > 1 || (listed == 0 && sb.num_devices > 1) {
        return Err(at("Btrfs superblock").unsupported(format!(
            "the filesystem lies on {} devices, of which this is number {}; mif reads those on one device",
            sb.num_devices.max(listed),
            sb.devid
        )));
    }
    if sb.num_devices != 1 {
        warnings
            .push(format!("the superblock counts {} devices, but the chunk tree lists one", sb.num_devices));
    }
    Ok(())
}

/// Reads the chunk tree. Returns the number of devices it lists.
fn read_chunks(trees: &mut Trees, warnings: &mut Vec<String>) -> Result<u64> {
    let sb = &trees.sb;
    let root = Pointer {
        bytenr: sb.chunk_root.0,
        generation: sb.chunk_root_generation,
        level: sb.chunk_root.1,
        tree: id::CHUNK_TREE,
        first: None,
    };
    let mut chunks = trees.chunks.clone();
    let mut devices = 0_u64;
    let (mut problems, mut lost) = (Vec::new(), Vec::new());
    let (all, devid) = (Key::MIN..=Key::MAX, sb.devid);
    let mut lose = |error| {
        lost.push(error);
        Ok(())
    };
    trees.walk(&root, all, &mut lose, &mut |key, bytes| {
        match key.kind {
            kind::CHUNK_ITEM => {
                if let Err(error) = chunks.add(key, bytes, devid) {
                    problems.push(error);
                }
            }
            kind::DEV_ITEM if key.objectid == id::DEV_ITEMS => devices += 1,
            _ => {}
        }
        Ok(true)
    })?;
    problems.append(&mut lost);
    problems.truncate(10);
    warnings.extend(problems.iter().map(|error| format!("the chunk tree: {error}")));
    warnings.extend(chunks.warnings());
    trees.chunks = chunks;
    Ok(devices)
}

/// Adds a warning if this device is being replaced.
fn warn_of_replacement(trees: &Trees, warnings: &mut Vec<String>) -> Result<()> {
    const STARTED: u64 = 1;
    const SUSPENDED: u64 = 4;
    let Some(root) = root_of(trees, id::DEV_TREE)? else { return Ok(()) };
    let item = trees.get(&root, Key::new(0, kind::DEV_REPLACE, 0))?;
    let state = item.filter(|item| item.len() >= 40).map(|item| le64(&item, 32));
    if matches!(state, Some(STARTED | SUSPENDED)) {
        warnings.push("the device is being replaced by another one, which was not finished".to_owned());
    }
    Ok(())
}
