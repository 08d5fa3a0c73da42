//! QED: the QEMU Enhanced Disk format (QEMU's `docs/interop/qed_spec`), read-only. All numbers are little-endian.
//!
//! ```text
//! header │ L1 table: a u64 a table │ L2 tables: a u64 a cluster │ clusters
//! ```

mod header;

use std::sync::Arc;

use self::header::{Header, MAGIC, feature};
use super::mapped::{Map, Mapped, Place, Run, entries_to_look_at};
use super::opener::advise_parent;
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::bytes::le64;
use crate::cache::Cache;
use crate::error::{Result, at};
use crate::source::Source;

/// An L2 entry of a cluster of zeros.
const ZERO: u64 = 1;

/// L2 tables are read in parts of this many entries.
const PART: u64 = 4096;

/// The size of the cache of L2 tables in bytes.
const L2_CACHE: usize = 8 << 20;

pub(super) struct Qed;

impl Format for Qed {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.starts_with(&MAGIC)
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let header = Header::parse(&file.read_up_to(0, header::LEN)?)?;
        let mut details = vec![("cluster size".to_owned(), human(header.cluster_size.into()))];
        let mut decrypted = Vec::new();
        let mut warnings = Vec::new();
        if header.has(feature::NEED_CHECK) {
            warnings.push(
                "the image was not closed properly (need-check bit): clusters that were being written may have leaked, but \
                 mif does not use them to read"
                    .to_owned(),
            );
        }
        let mut files = vec![file.opened()];
        let mut backing = None;
        if header.has(feature::BACKING_FILE) {
            let name = header.backing_name(&file)?;
            details.push(("backing file".to_owned(), String::from_utf8_lossy(&name).into_owned()));
            let parent = match opener.parent_file()? {
                Some(parent) => parent,
                None => opener.open_named(file.path(), &name).map_err(advise_parent)?,
            };
            let format = header.has(feature::BACKING_FORMAT_NO_PROBE).then_some("raw");
            let below = opener.open_backing(&file, parent, format)?;
            files.extend(below.files);
            warnings.extend(below.warnings);
            decrypted.extend(below.decrypted);
            backing = Some(below.source);
        }
        let source = Arc::new(Mapped::new(Clusters::new(header, file)?, backing));
        Ok(Disk { source, format: "qed", details, files, own_files: 1, warnings, decrypted })
    }

    fn create(&self, _: &dyn Source, output: &mut Output, _: &CreateOptions, _: &dyn Observer) -> Result<()> {
        Err(at("").file(output.target()).unsupported("mif reads QED images but does not write them"))
    }
}

/// The tables of an image.
struct Clusters {
    file: ImageFile,
    header: Header,
    /// The offsets of the L2 tables; 0 if there is none.
    l1: Vec<u64>,
    /// Parts of L2 tables, by their offset in the file.
    l2: Cache<Vec<u64>>,
}

impl Clusters {
    fn new(header: Header, file: ImageFile) -> Result<Self> {
        let needed = header.image_size.div_ceil(header.bytes_per_table());
        let place = || at("QED L1 table").byte(header.l1_table_offset);
        let end = header.l1_table_offset.checked_add(needed * 8);
        if end.is_none_or(|end| end > file.len()) {
            return Err(place().corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                file.len()
            )));
        }
        let bytes = file.read_vec(header.l1_table_offset, (needed * 8) as usize)?;
        let l1: Vec<u64> = bytes.chunks_exact(8).map(|entry| le64(entry, 0)).collect();
        Ok(Clusters { file, header, l1, l2: Cache::new(L2_CACHE) })
    }

    /// Fails unless `offset` is that of a cluster after the header, in the file.
    fn check_offset(&self, what: &str, offset: u64, needed: u64) -> Result<()> {
        let place = || at(what).file(self.file.path()).byte(offset);
        let cluster = u64::from(self.header.cluster_size);
        if !offset.is_multiple_of(cluster) || offset < cluster * u64::from(self.header.header_size) {
            return Err(place().corrupt("is not the offset of a cluster"));
        }
        if offset.checked_add(needed).is_none_or(|end| end > self.file.len()) {
            return Err(place().corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                self.file.len()
            )));
        }
        Ok(())
    }

    /// Returns the L2 entries from `index` on, of the table at `table`, to the end of the part that has the first.
    fn entries(&self, table: u64, index: u64) -> Result<(Arc<Vec<u64>>, usize)> {
        let first = index / PART * PART;
        let count = PART.min(self.header.entries() - first);
        let offset = table + first * 8;
        let part = self.l2.get(offset, count as usize * 8, || {
            let bytes = self.file.read_vec(offset, count as usize * 8)?;
            Ok(bytes.chunks_exact(8).map(|entry| le64(entry, 0)).collect())
        })?;
        Ok((part, (index - first) as usize))
    }
}

impl Map for Clusters {
    fn len(&self) -> u64 {
        self.header.image_size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let (cluster, reach) = (u64::from(self.header.cluster_size), self.header.bytes_per_table());
        let table = self.l1[(offset / reach) as usize];
        if table == 0 {
            return Ok(Run { len: reach - offset % reach, place: Place::Backing });
        }
        self.check_offset("QED L2 table", table, self.header.entries() * 8)?;
        let (part, index) = self.entries(table, offset % reach / cluster)?;
        let first = part[index];
        let follows = |(i, entry): &(usize, &u64)| match first {
            0 | ZERO => **entry == first,
            _ => **entry == first.saturating_add(*i as u64 * cluster),
        };
        let rest = part[index..].iter().enumerate().take(entries_to_look_at(wanted, cluster));
        let count = rest.take_while(follows).count() as u64;
        let within = offset % cluster;
        let len = count * cluster - within;
        let place = match first {
            0 => Place::Backing,
            ZERO => Place::Zero,
            _ => {
                // The last cluster of the file may be partial, if the disk ends in it.
                let needed = cluster.min(self.header.image_size - (offset - within));
                self.check_offset("QED cluster", first, needed)?;
                // Clusters past the end of the file are refused when they are read.
                let there = (self.file.len() - first) / cluster * cluster;
                let len = len.min(there.max(needed) - within);
                return Ok(Run { len, place: Place::Stored { file: 0, offset: first + within } });
            }
        };
        Ok(Run { len, place })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }
}
