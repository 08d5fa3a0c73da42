//! A filesystem that exists only for the tests: shows what a new one needs to work in the whole program.
//!
//! A volume begins with `SYNTHFS1` and the length of a table as a 32-bit little-endian number. The table, in JSON, is
//! at byte 4096: a list of paths, each with the number of its file, and for regular files the location of their bytes.
//! Names ignore case, files may share bytes, there are owners but no real modes, and it cannot be planned.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};

use mif_formats::fs::{
    Capabilities, Content, DirEntry, Driver, FileType, Filesystem, Info, Node, NodeId, Piece, Timestamp,
    add_driver,
};
use mif_formats::{Error, Result, Source, at};
use serde_json::{Value, json};

const MAGIC: &[u8] = b"SYNTHFS1";
/// Offset of the table, in bytes.
const TABLE: usize = 4096;
/// The longest table, in bytes.
const TABLE_MAX: u32 = 1 << 20;

static CAPABILITIES: Capabilities = Capabilities {
    name: "synthetic",
    is_posix: true,
    ignores_case: true,
    times: (0, i64::MAX),
    time_step: 100,
    shares_extents: true,
    has_subvolumes: true,
    is_planned: false,
    ..Capabilities::UNKNOWN
};

struct Synthetic;

/// Registers the filesystem in this process.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| add_driver(&Synthetic).expect("nobody else has this kind"));
}

impl Driver for Synthetic {
    fn name(&self) -> &'static str {
        "the tests' own"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["synthetic"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        let corrupt = |problem: String| at("synthetic volume").field("table").corrupt(problem);
        let head = volume.read_vec(0, 12)?;
        let len = u32::from_le_bytes(head[8..].try_into().expect("four bytes"));
        if len > TABLE_MAX {
            return Err(corrupt(format!("has {len} bytes, at most {TABLE_MAX}")));
        }
        let table = volume.read_vec(TABLE as u64, len as usize)?;
        let table: Vec<Value> = serde_json::from_slice(&table).map_err(|e| corrupt(e.to_string()))?;
        let info = Info {
            kind: "synthetic".into(),
            label: Some("synth".into()),
            uuid: Some("5359-4e54".into()),
            block_size: 512,
            size: volume.len(),
            free: None,
            features: Vec::new(),
            warnings: Vec::new(),
            default_subvolume: None,
        };
        let files = table.iter().map(|entry| (number(entry, "file"), entry.clone())).collect();
        Ok(Box::new(Volume { info, table, files }))
    }

    fn label(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn id(&self, _: &str) -> Option<[u8; 16]> {
        None
    }

    fn id_text(&self, _: &[u8; 16]) -> String {
        String::new()
    }
}

struct Volume {
    info: Info,
    table: Vec<Value>,
    /// One entry of each file.
    files: BTreeMap<NodeId, Value>,
}

fn number(entry: &Value, field: &str) -> u64 {
    entry[field].as_u64().unwrap_or(0)
}

impl Volume {
    fn file(&self, id: NodeId) -> Result<&Value> {
        self.files.get(&id).ok_or_else(|| at("synthetic volume").not_found(format!("no file {id}")))
    }
}

impl Filesystem for Volume {
    fn info(&self) -> &Info {
        &self.info
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn root(&self) -> NodeId {
        number(&self.table[0], "file")
    }

    fn node(&self, id: NodeId, _: &mut dyn FnMut(Error)) -> Result<Node> {
        let entry = self.file(id)?;
        let is_dir = entry["offset"].is_null();
        Ok(Node {
            mode: Some(if is_dir { 0o755 } else { 0o640 }),
            uid: Some(7),
            gid: Some(8),
            // Two files may have the same number, in different subvolumes.
            inode: Some(number(entry, "inode")),
            subvolume: Some(number(entry, "subvolume")),
            size: number(entry, "len"),
            mtime: Some(Timestamp { secs: 1_700_000_000, nanos: 100 }),
            ..Node::bare(if is_dir { FileType::Dir } else { FileType::File })
        })
    }

    fn read_dir(&self, id: NodeId, _: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let of = self.file(id)?["path"].as_str().unwrap_or_default().trim_end_matches('/').to_owned();
        let names = self.table.iter().filter_map(|entry| {
            let name = entry["path"].as_str()?.strip_prefix(&of)?.strip_prefix('/')?;
            let node = number(entry, "file");
            let is_child = !name.is_empty() && !name.contains('/');
            is_child.then(|| DirEntry { name: name.into(), short_name: None, dos_name: None, node })
        });
        Ok(names.collect())
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        let entry = self.file(id)?;
        let (offset, len) = (number(entry, "offset"), number(entry, "len"));
        let on_volume = len.min(self.info.size.saturating_sub(offset));
        let pieces = vec![Piece::Volume { offset, len: on_volume }];
        Ok(Content { size: on_volume, pieces })
    }
}

/// Returns an unpartitioned volume of 4 MiB: `/shared` and `/again` have the same bytes of the disk, `/link` is
/// `/data`, and `/snap/data` has `/data`'s inode number in another subvolume. `seed` decides their contents.
#[must_use]
pub fn volume(seed: u8) -> Vec<u8> {
    let mut disk = vec![0; 4 << 20];
    let data = crate::disk::noise(seed, 300_000);
    let shared = crate::disk::noise(77, 100_000);
    disk[1 << 20..][..data.len()].copy_from_slice(&data);
    disk[2 << 20..][..shared.len()].copy_from_slice(&shared);
    // Bytes that belong to no file.
    disk[3 << 20..][..9].copy_from_slice(b"left over");
    let file = |path: &str, file: u64, inode: u64, subvolume: u64, offset: usize, len: usize| json!({"path": path, "file": file, "inode": inode, "subvolume": subvolume, "offset": offset, "len": len});
    let folder =
        |path: &str, number: u64| json!({"path": path, "file": number, "inode": number, "subvolume": 5});
    let table = json!([
        folder("/", 1_000_000_007),
        file("/data", 90, 257, 5, 1 << 20, data.len()),
        file("/link", 90, 257, 5, 1 << 20, data.len()),
        file("/shared", 3, 258, 5, 2 << 20, shared.len()),
        file("/again", 2, 259, 5, 2 << 20, shared.len()),
        file("/empty", 4, 260, 5, 2 << 20, 0),
        folder("/snap", 5),
        file("/snap/data", u64::MAX, 257, 256, (1 << 20) + 4096, 8192),
    ])
    .to_string();
    disk[..8].copy_from_slice(MAGIC);
    disk[8..12].copy_from_slice(&(table.len() as u32).to_le_bytes());
    disk[TABLE..][..table.len()].copy_from_slice(table.as_bytes());
    disk
}
