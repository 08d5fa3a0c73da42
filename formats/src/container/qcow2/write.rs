//! Writing a qcow2 image from front to back.
//!
//! ```text
//! header │ L1 table │ clusters and L2 tables, in guest order │ refcount blocks │ refcount table
//! ```
//!
//! An L2 table follows the clusters that it describes. What the front has to say of the back (the L1 table,
//! the header) is written last, so the clusters stream.

use super::header::MAGIC;
use crate::container::options::Options;
use crate::container::output::OutputFile;
use crate::container::pull::{Pull, WINDOW, Window, data_runs};
use crate::container::{CreateOptions, Observer, Output};
use crate::{Result, Source, at};

const KNOWN: &[&str] = &["compat", "cluster_size"];
const DEFAULT_CLUSTER: u64 = 65536;
const COPIED: u64 = 1 << 63;
/// Reference counts are 16 bits wide, in every version.
const REFCOUNT_ORDER: u32 = 4;
/// Offsets in the file are below this.
const MAX_FILE: u64 = 1 << 56;
const MAX_L1_BYTES: u64 = super::header::MAX_L1_BYTES;

struct Settings {
    version: u32,
    cluster_bits: u32,
}

impl Settings {
    fn parse(options: &CreateOptions) -> Result<Self> {
        let options = Options::new("qcow2", KNOWN, options)?;
        let version = match options.choice("compat", &["1.1", "v3", "0.10", "v2"])? {
            "0.10" | "v2" => 2,
            _ => 3,
        };
        let cluster = options.size("cluster_size")?.unwrap_or(DEFAULT_CLUSTER);
        if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
            return Err(options.bad("cluster_size", "a power of two from 512 to 2M"));
        }
        Ok(Settings { version, cluster_bits: cluster.trailing_zeros() })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let settings = Settings::parse(options)?;
    let target = output.target().to_owned();
    let mut writer =
        Writer::new(output.create()?, &settings, source.len()).map_err(|e| e.in_file(&target))?;
    let cluster = settings.cluster() as usize;
    let pull = Pull { source, observer, window: WINDOW.max(settings.cluster()) };
    let find_runs = |window: Window| {
        let runs = data_runs(&window.bytes, cluster);
        Ok((window, runs))
    };
    let write = |(window, runs): (Window, Vec<std::ops::Range<usize>>)| {
        writer.write_stored(&window, &runs)?;
        Ok(Some(window.bytes))
    };
    pull.run(find_runs, write)?;
    writer.finish()
}

struct Writer<'a> {
    file: &'a OutputFile,
    settings: &'a Settings,
    /// The disk's size in bytes: whole sectors, as qemu counts in them.
    size: u64,
    l1: Vec<u64>,
    /// The L2 table being filled: which, and its entries.
    l2_index: usize,
    l2: Vec<u64>,
    /// The first free byte of the file, a multiple of the cluster size.
    end: u64,
}

impl<'a> Writer<'a> {
    fn new(file: &'a OutputFile, settings: &'a Settings, len: u64) -> Result<Self> {
        let cluster = settings.cluster();
        let size = len.next_multiple_of(512);
        let entries = size.div_ceil(cluster * (cluster / 8));
        if entries * 8 > MAX_L1_BYTES {
            return Err(at("option cluster_size of qcow2")
                .limit(format!("{cluster} is too small for a disk of {size} bytes")));
        }
        let l1 = vec![0; entries.max(1) as usize];
        let end = cluster + (l1.len() as u64 * 8).next_multiple_of(cluster);
        Ok(Writer { file, settings, size, l1, l2_index: 0, l2: Vec::new(), end })
    }

    /// Writes runs of whole clusters (the disk's last may be short), one after the other.
    fn write_stored(&mut self, window: &Window, runs: &[std::ops::Range<usize>]) -> Result<()> {
        let cluster = self.settings.cluster();
        let mut slices = Vec::new();
        let mut start = self.end;
        for run in runs {
            let mut run = run.clone();
            while !run.is_empty() {
                // One L2 table at a time: finishing one takes a cluster of the file.
                let number = (window.start + run.start as u64) / cluster;
                let table_end = (number / (cluster / 8) + 1) * (cluster / 8) * cluster;
                let (before, l2_index) = (self.end, (number / (cluster / 8)) as usize);
                if l2_index != self.l2_index && !self.l2.is_empty() {
                    self.file.write_slices_at(start, &mut slices)?;
                    slices.clear();
                    self.finish_l2()?;
                    start = self.end;
                    debug_assert!(self.end == before + cluster);
                }
                self.l2_index = l2_index;
                let len = ((table_end - window.start) as usize - run.start).min(run.len());
                let part = &window.bytes[run.start..run.start + len];
                self.l2.resize((cluster / 8) as usize, 0);
                for i in 0..(len as u64).div_ceil(cluster) {
                    let index = ((number + i) % (cluster / 8)) as usize;
                    self.l2[index] = (self.end + i * cluster) | COPIED;
                }
                slices.push(std::io::IoSlice::new(part));
                self.end += (len as u64).next_multiple_of(cluster);
                run.start += len;
            }
        }
        if self.end > MAX_FILE {
            return Err(at("writing").file(self.file.path()).limit("is too large for qcow2"));
        }
        self.file.write_slices_at(start, &mut slices)
    }

    fn finish_l2(&mut self) -> Result<()> {
        let bytes: Vec<u8> = self.l2.drain(..).flat_map(u64::to_be_bytes).collect();
        if !bytes.is_empty() {
            self.l1[self.l2_index] = self.end | COPIED;
            self.file.write_at(self.end, &bytes)?;
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes the last L2 table, the reference counts, the L1 table and the header.
    fn finish(mut self) -> Result<()> {
        self.finish_l2()?;
        let cluster = self.settings.cluster();
        let counts_in_block = cluster / 2;
        // The blocks and the table count themselves too.
        let used = self.end / cluster;
        let (mut blocks, mut table) = (0, 0);
        loop {
            let total = used + blocks + table;
            let needed = total.div_ceil(counts_in_block);
            let needed_table = (needed * 8).div_ceil(cluster);
            if (needed, needed_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (needed, needed_table);
        }
        let (blocks_at, table_at) = (self.end, self.end + blocks * cluster);
        let total = used + blocks + table;
        for block in 0..blocks {
            let first = block * counts_in_block;
            let ones = (total - first).min(counts_in_block) as usize;
            let mut bytes = 1u16.to_be_bytes().repeat(ones);
            bytes.resize(cluster as usize, 0);
            self.file.write_at(blocks_at + block * cluster, &bytes)?;
        }
        let mut bytes: Vec<u8> = (0..blocks).flat_map(|b| (blocks_at + b * cluster).to_be_bytes()).collect();
        bytes.resize((table * cluster) as usize, 0);
        self.file.write_at(table_at, &bytes)?;
        let l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_at(cluster, &l1)?;
        self.file.set_len(total * cluster)?;
        self.file.write_at(0, &self.header(table_at, table))
    }

    fn header(&self, refcount_table: u64, refcount_table_clusters: u64) -> Vec<u8> {
        let mut bytes = vec![0; if self.settings.version == 2 { 72 } else { 112 }];
        let mut be32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        be32(0, u32::from_be_bytes(MAGIC));
        be32(4, self.settings.version);
        be32(20, self.settings.cluster_bits);
        be32(36, self.l1.len() as u32);
        be32(56, refcount_table_clusters as u32);
        if self.settings.version >= 3 {
            be32(96, REFCOUNT_ORDER);
            be32(100, 112);
        }
        let mut be64 = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        be64(24, self.size);
        be64(40, self.settings.cluster());
        be64(48, refcount_table);
        // The extension that ends the extensions.
        bytes.extend([0; 8]);
        bytes
    }
}
