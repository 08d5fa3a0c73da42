//! `build`: makes a disk from a tree of files and a description.
//!
//! ```text
//! folder or tar → members → rows for each volume → trees → plans ─┐
//! description   → places of partitions → table, boot code         ┴→ Splicer → layout
//! ```
//!
//! It is a rebuild without a parent: the same planners, the same layout, the same verification.
//!
//! `customize` reads directories and archives with the same readers ([`Input`]).

mod description;
mod follower;
mod input;
mod limits;
mod member;
mod members;
mod path;
mod spool;
mod tar;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mif_formats::fs::driver::NewVolume;
use mif_formats::fs::plan::{Planner, Tree, TreeNode};
use mif_formats::fs::{FileId, FileType, Node, Timestamp};
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::Builder;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::{Partition, Table, TableKind, write};
use mif_formats::{ErrorKind, Source, uuid};
use serde::Serialize;

use self::description::{Description, VolumeDescription, VolumeSize};
pub(crate) use self::input::Input;
use self::limits::Room;
use self::member::Members;
pub(crate) use self::member::{Content, Member};
use self::path::TreePath;
use crate::boot::grub::core::{BLOCK_LIST, KERNEL_SECTOR};
use crate::compose::made::Made;
use crate::compose::splice::{Known, Splicer};
use crate::compose::staging::Bench;
use crate::disk::volume::VolumeExtent;
use crate::error::{Error, Result};
use crate::guest::boot::BOOT_CODE;
use crate::guest::packages;
use crate::ingest::store_files;
use crate::rebuild::NewIds;
use crate::store::{Counts, Provenance, Store, StoredDisk, WriterStats, check_name, volume_name};
use crate::task::progress::{self, Progress};
use crate::tree::new_content::{ContentLookup, NewContent, NewContents};

const SECTOR: u64 = 512;
/// In GRUB's boot.img: a jump that is taken if the BIOS's drive number cannot be trusted.
const GRUB_DRIVE_CHECK: usize = 0x66;
/// In the block list of GRUB's core image, after the place and length of the rest: the segment it is loaded to.
const GRUB_SEGMENT: u16 = 0x0820;
/// The maximum length of a swap label, in bytes.
const SWAP_LABEL_MAX: usize = 16;

/// Options of `build`.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The name of the new image; it becomes its next version.
    pub name: String,
    /// The seed of UUIDs that the description does not specify.
    pub ids: NewIds,
    /// The creation time, in seconds since 1970.
    pub time: u32,
    /// The logical sector size of the disk in bytes, instead of that in the description.
    pub sector_size: Option<u32>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// The report of `build`.
#[derive(Debug, Clone, Serialize)]
pub struct BuildReport {
    /// The image, as `name@version`.
    pub image: String,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// Its volumes, in disk order.
    pub volumes: Vec<BuiltVolume>,
    /// How the disk is divided.
    pub counts: Counts,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// Notes for the user, as sentences.
    pub notes: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// A volume that was built.
#[derive(Debug, Clone, Serialize)]
pub struct BuiltVolume {
    /// Its name: `p1`.
    pub volume: String,
    /// Its size in bytes.
    pub size: u64,
    /// The filesystem.
    pub filesystem: Option<String>,
    /// The directory of the tree whose files it contains.
    pub mount: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
    /// The number of paths on it.
    pub paths: u64,
}

/// Builds the disk described by the file `description`, with the files of `tree` (a directory, a tar, or `-` for a tar
/// on standard input), and publishes it as an image.
pub fn build(
    store: &Store,
    description: &Path,
    tree: &Path,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuildReport> {
    let started = Instant::now();
    check_name(&options.name)?;
    let description = Description::read(description, options.sector_size)?;
    let boot = BootCode::read(&description)?;
    progress.stage("listing", 0);
    let Input { members, tar, mut notes } = Input::open(tree)?;
    let mut volumes = split(&description, members, options)?;
    // Everything that can be refused is refused before any content is read.
    progress.stage("planning", 0);
    let drafts: Vec<Option<Draft>> = volumes
        .iter()
        .map(|volume| volume.draft(tar.as_ref()).map_err(|e| e.within(&volume.name)))
        .collect::<Result<_>>()?;
    let (table, size) = place(&description, &volumes, &drafts, options)?;
    let table_bytes = boot.place(write::write(None, &table, size)?, &description, &table)?;
    let mut plans = Vec::new();
    for (volume, draft) in volumes.iter().zip(&drafts) {
        progress::check(progress)?;
        let partition = table.partitions.iter().find(|p| volume_name(p.slot) == volume.name);
        let partition = partition.expect("each volume has one");
        let len = partition.len;
        let params = match draft {
            Some(draft) => {
                let params = volume.planner(len, draft, options).map_err(|e| e.within(&volume.name))?;
                params.plan(&draft.tree).map_err(|e| Error::from(e).within(&volume.name))?;
                Some(params)
            }
            None => None,
        };
        let head = match volume.description.fs.as_deref() {
            Some("swap") => swap_head(len, volume, options)?,
            _ => Vec::new(),
        };
        plans.push((VolumeExtent::whole(partition), params, head));
    }
    let bench = Bench::Store(store);
    let (stored, contents) = store_contents(&bench, &mut volumes, &drafts, tar.as_ref(), progress)?;
    let objects = bench.objects()?;
    progress.stage("assembling", 0);
    let empty = Builder::new().finish();
    let (known, new) = (Known::new(&empty), NewContents::new());
    let places = ContentLookup { objects: &objects, new: &new };
    let writer = bench.writer()?;
    let mut splicer = Splicer::new(&empty, size, Vec::new(), places, &known, &writer);
    for (i, (extent, params, head)) in plans.into_iter().enumerate() {
        progress::check(progress)?;
        let name = &volumes[i].name;
        if let (Some(params), Some(draft)) = (params, &drafts[i]) {
            let plan = params.plan(&draft.tree).map_err(|e| Error::from(e).within(name))?;
            notes.extend(plan.notes().iter().map(|note| format!("{name}: {note}")));
            splicer.volume(&[extent], &*plan, &contents[i]).map_err(|e| e.within(name))?;
        }
        splicer.bytes(extent.disk.0, &head)?;
    }
    for (at, bytes) in table_bytes {
        splicer.bytes(at, &bytes)?;
    }
    let mut layout = Arc::new(splicer.finish()?);
    let added = bench.finish(writer, &objects, [&mut layout])?;
    let rows: Vec<&Row> = volumes.iter().flat_map(|volume| &volume.rows).collect();
    let planned: Vec<String> =
        volumes.iter().zip(&drafts).filter(|(_, d)| d.is_some()).map(|(v, _)| v.name.clone()).collect();
    let disk = StoredDisk::new(layout.clone(), objects.clone()).with_sectors_of(table.sector_size);
    let made = Made::read_back(disk, &rows, &planned)?;
    let (packages_file, unread) = packages::table(&made.rows, &objects, made.devices())?;
    notes.extend(unread);
    let source = Some(tree.display().to_string());
    let command = options.command.clone();
    let provenance = Provenance { source, command, ..Provenance::of("build") };
    let image = made.publish(store, &options.name, &packages_file, provenance)?;
    let built = volumes.iter().map(|volume| {
        let partition = made.table.partitions.iter().find(|p| volume_name(p.slot) == volume.name);
        let record = made.records.iter().find(|record| record.volume == volume.name);
        let info = record.and_then(|record| match &record.content {
            crate::store::FilesystemRecord::Filesystem(info) => Some(info),
            crate::store::FilesystemRecord::Other(_) => None,
        });
        BuiltVolume {
            volume: volume.name.clone(),
            size: partition.map_or(0, |p| p.len),
            filesystem: info.map(|info| info.kind.clone()).or(volume.description.fs.clone()),
            mount: volume.description.mount.clone(),
            uuid: info.and_then(|info| info.uuid.clone()),
            paths: volume.rows.len() as u64,
        }
    });
    Ok(BuildReport {
        image: image.id(),
        disk_size: image.disk_size,
        volumes: built.collect(),
        counts: image.counts,
        added: stored.with(added),
        notes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A volume with its files.
struct MadeVolume<'d> {
    name: String,
    /// The logical sector size of the disk in bytes.
    sector_size: u32,
    description: &'d VolumeDescription,
    rows: Vec<Row>,
    /// The place of each row's content.
    contents: Vec<Option<Content>>,
}

/// A volume's tree.
struct Draft {
    tree: Tree,
    /// The row of each file with content, by its key in the tree.
    files: Vec<usize>,
}

/// Distributes the members to volumes by mount point: each goes to the volume with the deepest one above it.
fn split<'d>(
    description: &'d Description,
    mut members: Members,
    options: &BuildOptions,
) -> Result<Vec<MadeVolume<'d>>> {
    let folder = || {
        let mut node = Node::bare(FileType::Dir);
        (node.mode, node.uid, node.gid) = (Some(0o755), Some(0), Some(0));
        node.mtime = Some(Timestamp { secs: options.time.into(), nanos: 0 });
        Member { node, content: None, file: None, acls: Vec::new() }
    };
    let mounts: Vec<Option<TreePath>> = description
        .volumes
        .iter()
        .map(|volume| volume.mount.as_ref().and_then(|mount| TreePath::parse(mount.as_bytes())))
        .collect();
    // Directories that no member names, and mount points.
    let wanted: Vec<TreePath> = members.keys().chain(mounts.iter().flatten()).cloned().collect();
    let mut room = Room::default();
    for path in wanted {
        // The parents of an existing directory are handled in their own turn.
        let mut missing = if members.contains_key(&path) { path.parent() } else { Some(path) };
        while let Some(path) = missing.filter(|path| !members.contains_key(path)) {
            room.take_implied(&path)
                .map_err(|problem| Error::input(format!("{}: {problem}", path.shown())))?;
            missing = path.parent();
            members.insert(path, folder());
        }
    }
    let mut volumes: Vec<MadeVolume<'_>> = description
        .volumes
        .iter()
        .map(|volume| MadeVolume {
            name: volume_name(volume.slot.expect("each has one")),
            sector_size: description.sector_size,
            description: volume,
            rows: Vec::new(),
            contents: Vec::new(),
        })
        .collect();
    let mut homeless = 0;
    let mut ids: HashMap<(usize, u64), FileId> = HashMap::new();
    for (path, member) in members {
        let here = |mount: &TreePath| path.below(mount).is_some();
        let closest = (0..mounts.len()).filter(|i| mounts[*i].as_ref().is_some_and(here));
        let closest = closest.max_by_key(|i| mounts[*i].as_ref().map_or(0, TreePath::len));
        let Some(home) = closest else {
            homeless += usize::from(member.node.file_type != FileType::Dir);
            continue;
        };
        let mount = mounts[home].clone().unwrap_or(TreePath::root());
        // A mount point is also a directory of the outer volume.
        let around = |i: &usize| {
            let mount = mounts[*i].as_ref();
            mount.is_some_and(|other| *i != home && path.below(other).is_some())
        };
        if path == mount
            && let Some(outer) =
                (0..mounts.len()).filter(around).max_by_key(|i| mounts[*i].as_ref().map(TreePath::len))
        {
            let within = mounts[outer].as_ref().and_then(|mount| path.below(mount));
            volumes[outer].add(&within.expect("it is around this one"), folder(), None);
        }
        if path == mount && member.node.file_type != FileType::Dir {
            let path = String::from_utf8_lossy(&path.bytes()).into_owned();
            return Err(Error::input(format!("{path}: a mount point must be a directory in the tree")));
        }
        let next = FileId(u32::try_from(ids.len()).expect("paths take less than 4 GiB"));
        let id = member.file.map(|file| *ids.entry((home, file)).or_insert(next));
        volumes[home].add(&path.below(&mount).expect("it is mounted here"), member, id);
    }
    if homeless > 0 {
        return Err(Error::usage(format!("{homeless} files of the tree belong to no volume"))
            .advise("Add mount = \"/\" to a volume"));
    }
    for volume in &mut volumes {
        volume.complete(options);
    }
    Ok(volumes)
}

impl MadeVolume<'_> {
    fn add(&mut self, path: &TreePath, member: Member, file: Option<FileId>) {
        let mut node = member.node;
        if self.description.driver().is_some_and(|driver| !driver.capabilities().is_posix) {
            (node.mode, node.uid, node.gid, node.xattrs) = (None, None, None, Vec::new());
        }
        self.rows.push(Row::new(&self.name, path.bytes(), file, node));
        self.contents.push(member.content);
    }

    /// Adds what every volume with files has: a root directory, and the directories created with its filesystem.
    fn complete(&mut self, options: &BuildOptions) {
        let Some(driver) = self.description.driver() else { return };
        let mut folder = Node::bare(FileType::Dir);
        folder.mtime = Some(Timestamp { secs: options.time.into(), nanos: 0 });
        (folder.mode, folder.uid, folder.gid) = (Some(0o755), Some(0), Some(0));
        for (name, mode) in [("/", 0o755)].iter().chain(driver.capabilities().made_with) {
            let path = TreePath::parse(name.as_bytes()).expect("a constant");
            if !self.rows.iter().any(|row| row.path == name.as_bytes()) {
                let node = Node { mode: Some(*mode), ..folder.clone() };
                self.add(&path, Member { node, content: None, file: None, acls: Vec::new() }, None);
            }
        }
    }

    /// Returns its tree, or `None` if it has no filesystem for files. `tar` is the archive of the members.
    fn draft(&self, tar: Option<&Arc<dyn Source>>) -> Result<Option<Draft>> {
        let _ = (self.uuid_bytes()?, self.label()?);
        if self.description.driver().is_none() {
            return Ok(None);
        }
        let root = self.rows.iter().find(|row| row.path == b"/").expect("it was completed");
        let mut tree = Tree::new(root.node.clone());
        let mut files = Vec::new();
        let mut links: HashMap<FileId, usize> = HashMap::new();
        for (i, (row, content)) in self.rows.iter().zip(&self.contents).enumerate() {
            if row.path == b"/" {
                continue;
            }
            if let Some(first) = row.file.and_then(|file| links.get(&file)) {
                tree.link(&row.path, None, *first)?;
                continue;
            }
            let new = match content {
                Some(content) if row.node.size > 0 => {
                    // Holes stay holes and data stays data, because a swap file must not have holes.
                    let mut data: Vec<std::ops::Range<u64>> = Vec::new();
                    for (part, _) in content.open(row.node.size, tar)?.parts {
                        match data.last_mut() {
                            Some(last) if last.end == part.start => last.end = part.end,
                            _ => data.push(part),
                        }
                    }
                    files.push(i);
                    TreeNode::file(row.node.clone(), files.len() as u64 - 1, data)
                }
                _ => TreeNode::new(row.node.clone()),
            };
            let index = tree.add(&row.path, None, new)?;
            if let Some(file) = row.file {
                links.insert(file, index);
            }
        }
        tree.finish()?;
        Ok(Some(Draft { tree, files }))
    }

    /// Returns the parameters for a size in bytes: those that mke2fs and mkfs.fat would choose, unless the description
    /// sets them.
    fn planner(&self, size: u64, draft: &Draft, options: &BuildOptions) -> Result<Box<dyn Planner>> {
        let VolumeDescription { fs, features, block_size, inodes, .. } = self.description;
        let driver = self.description.driver().expect("it has files");
        let new = NewVolume {
            kind: fs.as_deref().unwrap_or_default(),
            size,
            id: self.id(options)?,
            hash_seed: options.ids.uuid(&format!("{} hash seed", self.name)),
            label: &self.label()?,
            time: options.time,
            nodes: draft.tree.nodes().len() as u64,
            sector_size: self.sector_size,
            block_size: *block_size,
            inodes: *inodes,
            features,
        };
        Ok(driver.new_planner(&new)?)
    }

    /// Returns the UUID, or for FAT the number in the first four bytes.
    fn id(&self, options: &BuildOptions) -> Result<[u8; 16]> {
        Ok(self.uuid_bytes()?.unwrap_or_else(|| options.ids.uuid(&self.name)))
    }

    fn uuid_bytes(&self) -> Result<Option<[u8; 16]>> {
        let Some(uuid) = &self.description.uuid else { return Ok(None) };
        // Swap has a UUID, but no files.
        let bytes = self.description.driver().map_or_else(|| uuid::bytes(uuid), |driver| driver.id(uuid));
        let bad = || {
            Error::usage(format!(
                "invalid uuid = \"{uuid}\" for {}",
                self.description.fs.as_deref().unwrap_or("volume")
            ))
        };
        bytes.ok_or_else(bad).map(Some)
    }

    fn label(&self) -> Result<Vec<u8>> {
        let label = self.description.label.clone().unwrap_or_default();
        let (stored, most) = match self.description.driver() {
            Some(driver) => (driver.label(&label), driver.capabilities().label_max),
            None => {
                let fits = label.len() <= SWAP_LABEL_MAX && !label.contains('\0');
                (fits.then(|| label.clone().into_bytes()), SWAP_LABEL_MAX)
            }
        };
        stored.ok_or_else(|| {
            Error::usage(format!(
                "invalid label = \"{label}\": it has over {most} bytes, or characters that labels cannot have"
            ))
        })
    }

    /// Returns the minimum size in bytes at which everything fits, rounded up to 1 MiB.
    fn least(&self, draft: &Draft, options: &BuildOptions) -> Result<u64> {
        const UNIT: u64 = 1 << 20;
        let fits = |units: u64| -> Result<bool> {
            match self.planner(units * UNIT, draft, options)?.plan(&draft.tree).err() {
                None => Ok(true),
                Some(error) if error.kind() == ErrorKind::Limit => Ok(false),
                Some(error) if units < 8 && error.kind() == ErrorKind::Unsupported => {
                    // It may be too small to be a volume at all. A problem that no size solves reappears at the next
                    // size.
                    Ok(false)
                }
                Some(error) => Err(error.into()),
            }
        };
        let data: u64 =
            draft.tree.nodes().iter().flat_map(|node| &node.data).map(|part| part.end - part.start).sum();
        let (mut low, mut high) = (data / UNIT, (data / UNIT).max(1));
        while !fits(high)? {
            low = high;
            high += high / 4 + 1;
            if high > 1 << 30 {
                return Err(Error::input("the files do not fit on a volume of any size"));
            }
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle)? { high = middle } else { low = middle }
        }
        Ok(high * UNIT)
    }
}

/// Stores the content of all files, and sets the bodies of their rows. Returns the objects of the files for each
/// volume.
fn store_contents(
    bench: &Bench<'_>,
    volumes: &mut [MadeVolume<'_>],
    drafts: &[Option<Draft>],
    tar: Option<&Arc<dyn Source>>,
    progress: &dyn Progress,
) -> Result<(WriterStats, Vec<Vec<ObjectId>>)> {
    let of_volume = |(i, draft): (usize, &Option<Draft>)| -> Vec<(usize, usize)> {
        draft.iter().flat_map(|draft| &draft.files).map(|row| (i, *row)).collect()
    };
    let files: Vec<(usize, usize)> = drafts.iter().enumerate().flat_map(of_volume).collect();
    let sizes = files.iter().map(|(volume, row)| volumes[*volume].rows[*row].node.size);
    progress.stage("storing files", sizes.fold(0, u64::saturating_add));
    let writer = bench.writer()?;
    let stored = store_files(files.len(), &writer, progress, |i| {
        let (volume, row) = files[i];
        let MadeVolume { rows, contents, .. } = &volumes[volume];
        contents[row].as_ref().expect("a file with content").open(rows[row].node.size, tar)
    })?;
    let mut objects = vec![Vec::new(); volumes.len()];
    let mut by_file = HashMap::new();
    for ((volume, row), body) in files.into_iter().zip(stored) {
        objects[volume].push(body.object());
        let row = &mut volumes[volume].rows[row];
        row.body = Some(body);
        if let Some(file) = row.file {
            by_file.insert((volume, file), body);
        }
    }
    let empty = NewContent::of_bytes(Vec::new()).body();
    for (i, volume) in volumes.iter_mut().enumerate() {
        for row in volume.rows.iter_mut().filter(|row| row.node.file_type == FileType::File) {
            if let Some(body) = row.file.and_then(|file| by_file.get(&(i, file))) {
                row.body = Some(*body);
            } else if row.node.size == 0 {
                row.body = Some(empty);
            }
        }
    }
    writer.put(&[])?;
    Ok((writer.finish()?, objects))
}

/// Places all volumes: returns the table and the size of the disk.
fn place(
    description: &Description,
    volumes: &[MadeVolume<'_>],
    drafts: &[Option<Draft>],
    options: &BuildOptions,
) -> Result<(Table, u64)> {
    let align = description.align.0;
    let kind = description.table;
    let id = match (kind, &description.id) {
        (TableKind::None, _) => None,
        (_, Some(id)) => Some(id.to_ascii_lowercase()),
        (TableKind::Gpt, None) => Some(uuid::text(&options.ids.uuid("disk"))),
        (TableKind::Mbr, None) => Some(format!("{:08x}", options.ids.id32("disk"))),
    };
    let sector_size = description.sector_size;
    let mut table = Table { kind, sector_size, id, partitions: Vec::new(), warnings: Vec::new() };
    let tail = write::tail(None, &table)?;
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut rest = None;
    for (i, (volume, draft)) in volumes.iter().zip(drafts).enumerate() {
        let least = || match draft {
            Some(draft) => volume.least(draft, options).map_err(|e| e.within(&volume.name)),
            None => Ok(align),
        };
        let size = match volume.description.size {
            VolumeSize::Bytes(size) => size,
            VolumeSize::Least(more) => least()?.saturating_add(more),
            VolumeSize::Rest if description.size.is_none() => {
                let least = least()?;
                least + least / 4
            }
            VolumeSize::Rest => {
                rest = Some(i);
                0
            }
        };
        sizes.insert(
            i,
            size.next_multiple_of(if kind == TableKind::None { 4096 } else { align.min(1 << 20) }),
        );
    }
    let head = write::head(&table).next_multiple_of(align);
    let used = sizes.values().fold(head, |at, size| at.next_multiple_of(align.max(1)).saturating_add(*size));
    let size = match description.size {
        Some(size) => size.0.next_multiple_of(sector_size.into()),
        None => {
            used.saturating_add(tail).next_multiple_of(if kind == TableKind::None { 4096 } else { 1 << 20 })
        }
    };
    if let Some(rest) = rest {
        let left = size.saturating_sub(tail).saturating_sub(used);
        let left = if kind == TableKind::None { left / 4096 * 4096 } else { left / align * align };
        sizes.insert(rest, left);
    }
    let needed = sizes.values().fold(head, |at, size| at.next_multiple_of(align).saturating_add(*size));
    if needed.saturating_add(tail) > size || sizes.values().any(|size| *size == 0) {
        return Err(Error::input(format!(
            "no room: the disk has {size} bytes, but its volumes need {}",
            needed.saturating_add(tail)
        )));
    }
    let mut at = head;
    for (i, volume) in volumes.iter().enumerate() {
        at = at.next_multiple_of(align);
        let VolumeDescription { slot, type_id, name, id, active, .. } = volume.description;
        let slot = slot.expect("each has one");
        let id = match (kind, id) {
            (TableKind::Gpt, None) => Some(uuid::text(&options.ids.uuid(&format!("partition {slot}")))),
            (_, id) => id.clone(),
        };
        table.partitions.push(Partition {
            slot,
            start: at,
            len: sizes[&i],
            type_id: type_id.clone().unwrap_or_default(),
            id,
            name: name.clone(),
            attributes: if *active { 0x80 } else { 0 },
        });
        at += sizes[&i];
    }
    Ok((table, size))
}

/// Returns the head of a swap space: its version, last page, UUID and label (`union swap_header`).
fn swap_head(len: u64, volume: &MadeVolume<'_>, options: &BuildOptions) -> Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let pages = len / PAGE as u64;
    let last = u32::try_from(pages.saturating_sub(1)).ok().filter(|last| *last >= 9);
    let last = last.ok_or_else(|| {
        Error::input(format!("{}: {len} bytes are too few or too many for swap", volume.name))
    })?;
    let mut head = vec![0; PAGE];
    head[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    head[1028..1032].copy_from_slice(&last.to_le_bytes());
    head[1036..1052].copy_from_slice(&volume.id(options)?);
    let label = volume.label()?;
    head[1052..1052 + label.len()].copy_from_slice(&label);
    head[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    Ok(head)
}

/// Boot code outside the filesystems.
struct BootCode {
    mbr: Option<Vec<u8>>,
    core: Option<Vec<u8>>,
}

impl BootCode {
    fn read(description: &Description) -> Result<Self> {
        // As large as any gap or BIOS boot partition.
        const MAX: u64 = 16 << 20;
        let read = |path: &Option<std::path::PathBuf>| -> Result<Option<Vec<u8>>> {
            let Some(path) = path else { return Ok(None) };
            crate::host::named::read(path, MAX).map(Some)
        };
        Ok(BootCode { mbr: read(&description.boot.mbr)?, core: read(&description.boot.core)? })
    }

    /// Adds the boot code to the bytes of the table, which begin with sector 0. As grub-install does, tells GRUB's code
    /// where it is placed.
    fn place(
        self,
        mut patches: Vec<write::Patch>,
        description: &Description,
        table: &Table,
    ) -> Result<Vec<write::Patch>> {
        let mut core_sector = None;
        if let Some(mut core) = self.core {
            let bios = description.bios_boot();
            let bios = table.partitions.iter().find(|p| Some(p.slot) == bios);
            let (at, room) = match (bios, table.kind) {
                (Some(partition), _) => (partition.start, partition.len),
                (None, TableKind::Mbr) => {
                    let first = table.partitions.iter().map(|p| p.start).min().unwrap_or(0);
                    (SECTOR, first.saturating_sub(SECTOR))
                }
                _ => return Err(Error::usage("boot.core needs a partition table to go into")),
            };
            if core.len() as u64 > room {
                return Err(Error::input(format!(
                    "no room: boot.core has {} bytes, but there is room for {room}",
                    core.len()
                )));
            }
            core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
            let sector = at / SECTOR;
            let segment = core.get(BLOCK_LIST + 10..BLOCK_LIST + 12);
            if segment.is_some_and(|bytes| bytes == GRUB_SEGMENT.to_le_bytes()) {
                let more = u16::try_from(core.len() / SECTOR as usize - 1)
                    .map_err(|_| Error::input("boot.core is larger than GRUB can load"))?;
                core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(sector + 1).to_le_bytes());
                core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&more.to_le_bytes());
            }
            core_sector = Some(sector);
            patches.push((at, core));
        }
        if let Some(mbr) = self.mbr {
            if table.kind == TableKind::None {
                return Err(Error::usage("boot.mbr needs a partition table to go into"));
            }
            let code = &mbr[..mbr.len().min(BOOT_CODE)];
            let sector0 = &mut patches[0].1;
            sector0[..code.len()].copy_from_slice(code);
            let is_grub = code.windows(5).any(|word| word == b"GRUB ");
            if let (Some(sector), true, BOOT_CODE) = (core_sector, is_grub, code.len()) {
                sector0[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
                sector0[GRUB_DRIVE_CHECK..GRUB_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
            }
        }
        Ok(patches)
    }
}
