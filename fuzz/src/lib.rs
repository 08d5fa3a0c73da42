//! Common code of the fuzz targets: inputs that are small although disks are large, and the invariants of every source
//! and filesystem.
//!
//! An input is the number of a base, one byte, followed by patches of it: offset (4 bytes, little-endian), length (2
//! bytes), and the bytes. An empty patch truncates the base there. `make-seeds` makes the bases, in `bases/TARGET/`,
//! and seeds that contain a block of a base's own metadata, for the fuzzer to change.

use std::path::Path;
use std::sync::{Arc, Once};

use mif_formats::fs::{Content, FileType, Filesystem, Piece, Recognized, walk};
use mif_formats::guard::{catch, is_catching};
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source};

/// The longest patch, in bytes.
const PATCH_MAX: usize = 4096;
/// The most bytes of all files and of one source, and the most extents, that are read per input.
pub const READ_MAX: u64 = 4 << 20;
pub const EXTENTS_MAX: usize = 4096;

/// Whole disks, volumes or files, of which inputs change a few bytes.
pub struct Bases(Vec<(String, Arc<Vec<u8>>)>);

impl Bases {
    /// Returns the bases of a target, sorted by name, as `make-seeds` numbers them.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn of(target: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bases").join(target);
        let files = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}: run make-seeds", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty: run make-seeds", folder.display());
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        Bases(paths.iter().map(|path| (name(path), Arc::new(std::fs::read(path).unwrap()))).collect())
    }

    /// Returns the name of an input's base, and the patched base; `None` if the input is empty.
    #[must_use]
    pub fn decode(&self, input: &[u8]) -> Option<(&str, Patched)> {
        let (number, mut rest) = input.split_first()?;
        let (name, base) = &self.0[usize::from(*number) % self.0.len()];
        let mut patched = Patched { base: Arc::clone(base), len: base.len(), patches: Vec::new() };
        while let Some((head, after)) = rest.split_first_chunk::<6>() {
            let at = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize % (base.len() + 1);
            let len = usize::from(u16::from_le_bytes([head[4], head[5]])) % (PATCH_MAX + 1);
            let (bytes, after) = after.split_at(len.min(after.len()).min(base.len() - at));
            rest = after;
            match len {
                0 => patched.len = at,
                _ => patched.patches.push((at, bytes.to_vec())),
            }
        }
        Some((name, patched))
    }
}

/// A base with some bytes changed, possibly truncated.
pub struct Patched {
    base: Arc<Vec<u8>>,
    len: usize,
    patches: Vec<(usize, Vec<u8>)>,
}

impl Patched {
    /// Returns all its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.base[..self.len].to_vec();
        self.patch(0, &mut bytes);
        bytes
    }

    fn patch(&self, offset: usize, buf: &mut [u8]) {
        let end = offset + buf.len();
        for (at, bytes) in &self.patches {
            let (from, to) = (offset.max(*at), end.min(at + bytes.len()));
            if from < to {
                buf[from - offset..to - offset].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
    }
}

impl Source for Patched {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("fuzzed bytes", self.len(), offset, buf.len() as u64)?;
        let offset = offset as usize;
        buf.copy_from_slice(&self.base[offset..offset + buf.len()]);
        self.patch(offset, buf);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Reads a source as import does, extent by extent, and also at odd offsets.
///
/// # Panics
/// If an extent is empty, does not start at the requested offset, or ends after the source.
pub fn read_all(source: &dyn Source) {
    let len = source.len();
    let (mut offset, mut read, mut buf) = (0, 0, vec![0; 64 << 10]);
    for _ in 0..EXTENTS_MAX {
        if offset >= len {
            break;
        }
        let Ok(extent) = source.extent_at(offset) else { break };
        assert!(
            extent.range.start == offset && extent.range.end > offset && extent.range.end <= len,
            "{extent:?}"
        );
        let part = extent.len().min(buf.len() as u64) as usize;
        if read < READ_MAX && source.read_at(offset, &mut buf[..part]).is_ok() {
            assert!(!extent.is_zero() || buf[..part].iter().all(|b| *b == 0), "a hole at {offset} has bytes");
        }
        read += part as u64;
        offset = extent.range.end;
    }
    for offset in [1, 511, len / 2, len.saturating_sub(1), len, u64::MAX] {
        let read = source.read_at(offset, &mut buf[..1000]);
        assert!(read.is_err() || offset + 1000 <= len, "{offset} lies past the end, {len}");
    }
}

/// Opens the filesystem on a volume and reads all of it: names, metadata and locations of files; and some of their
/// bytes.
///
/// # Panics
/// If a file is located outside the volume, or a name is invalid.
pub fn read_volume(volume: Arc<dyn Source>) {
    let Ok(Recognized::Known(fs)) = mif_formats::fs::open(Arc::clone(&volume)) else { return };
    let Ok(listing) = walk::walk(&*fs) else { return };
    for entry in &listing.entries {
        let name = entry.path.rsplit(|b| *b == b'/').next().unwrap();
        assert!(!name.contains(&0) && name != b"." && name != b"..", "{}", entry.path.escape_ascii());
        assert!(entry.path == b"/" || !name.is_empty());
        assert!(entry.file.index() < listing.nodes.len());
    }
    let mut left = READ_MAX;
    for (_, id, node) in listing.nodes.iter() {
        if let Ok(content) = fs.content(id) {
            read_content(&*volume, &content, &mut left);
            assert!(node.file_type != FileType::File || node.size == content.size, "node {id}");
        }
    }
    // Also reads nodes that no directory contains: other inodes, other positions.
    let named: Vec<u64> = listing.nodes.iter().map(|(_, id, _)| id).collect();
    for id in (0..32).filter(|id| named.binary_search(id).is_err()) {
        read_node(&*fs, id);
    }
}

fn read_node(fs: &dyn Filesystem, id: u64) {
    let _ = fs.content(id);
    if fs.node(id, &mut |_| ()).is_ok() {
        let _ = fs.read_dir(id, &mut |_| ());
    }
}

fn read_content(volume: &dyn Source, content: &Content, left: &mut u64) {
    let mut total = 0_u64;
    for piece in &content.pieces {
        assert!(!piece.is_empty());
        total = total.checked_add(piece.len()).expect("more than any file has");
        if let Piece::Volume { offset, len } = piece {
            assert!(offset.checked_add(*len).is_some_and(|end| end <= volume.len()), "{piece:?}");
            let part = (*len).min(*left).min(64 << 10);
            volume.read_vec(*offset, part as usize).unwrap();
            *left -= part;
        }
        if let Piece::Encoded(encoded) = piece {
            assert!(encoded.runs.iter().all(|run| run.start <= run.end && run.end <= volume.len()), "{piece:?}");
            assert!(encoded.from + encoded.len <= encoded.decoded, "{piece:?}");
            if let Some(rest) = left.checked_sub(u64::from(encoded.decoded)) {
                *left = rest;
                let _ = encoded.read(volume).and_then(|bytes| encoded.decode(&bytes));
            }
        }
    }
    assert_eq!(total, content.size);
}

/// Calls third-party code, which may panic on damaged bytes: this returns `None`, and is not a finding. Other panics
/// are.
pub fn others<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The fuzzer's own hook ends the process before a panic can be caught.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_catching() {
                hook(info);
            }
        }));
    });
    catch(call)
}
