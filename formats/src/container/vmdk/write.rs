//! Writing a VMDK.
//!
//! ```text
//! header │ descriptor │ directory and tables, twice │ grains, in guest order
//! ```

use super::sparse::{HOSTED_MAGIC, SECTOR};
use crate::container::options::Options;
use crate::container::output::OutputFile;
use crate::container::pull::{Pull, WINDOW, Window, data_runs};
use crate::container::{CreateOptions, Observer, Output};
use crate::{Result, Source, at};

const KNOWN: &[&str] = &["subformat", "adapter_type", "hwversion"];
/// In sectors: 64 KiB.
const GRAIN: u64 = 128;
/// Entries in a grain table.
const TABLE: u64 = 512;
/// Where the embedded descriptor lies, and how much room it has, in sectors.
const DESCRIPTOR: (u64, u64) = (1, 20);
/// Sectors are counted in 32 bits.
const MAX_SECTORS: u64 = 1 << 32;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let options = Options::new("vmdk", KNOWN, options)?;
    options.choice("subformat", &["monolithicSparse"])?;
    let sectors = source.len().div_ceil(SECTOR);
    let name = output.target().file_name().and_then(|n| n.to_str()).unwrap_or("disk.vmdk").to_owned();
    // The name is a remark here: readers take the file that they have.
    let name = if name.contains(['"', '\n', '\r']) { "disk.vmdk".to_owned() } else { name };
    let line = format!("RW {sectors} SPARSE \"{name}\"\n");
    let text = descriptor_text(&options, "monolithicSparse", sectors, &line)?;
    let mut writer = SparseWriter::new(output.create()?, sectors, &text)?;
    let pull = Pull { source, observer, window: WINDOW };
    let find_runs = |window: Window| {
        let runs = data_runs(&window.bytes, (GRAIN * SECTOR) as usize);
        Ok((window, runs))
    };
    let write = |(window, runs): (Window, Vec<std::ops::Range<usize>>)| {
        writer.write(&window, &runs)?;
        Ok(Some(window.bytes))
    };
    pull.run(find_runs, write)?;
    writer.finish()
}

/// The descriptor of a disk of `sectors` sectors with the given extent lines.
fn descriptor_text(options: &Options<'_>, kind: &str, sectors: u64, extents: &str) -> Result<String> {
    let adapter = options.choice("adapter_type", &["lsilogic", "ide", "buslogic", "legacyESX"])?;
    let hardware = options.text("hwversion").unwrap_or("4");
    if hardware.is_empty() || hardware.len() > 3 || !hardware.bytes().all(|b| b.is_ascii_digit()) {
        return Err(options.bad("hwversion", "a number such as 4 or 13"));
    }
    let heads = if adapter == "ide" { 16 } else { 255 };
    let cylinders = sectors / (63 * heads);
    Ok(format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"{hardware}\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"{adapter}\"\n"
    ))
}

/// Writes a hosted sparse extent.
struct SparseWriter<'a> {
    file: &'a OutputFile,
    /// Where the first grain tables are (the redundant ones, then the others), in sectors.
    tables_at: [u64; 2],
    /// The grain table being filled: which, and its entries.
    table_index: u64,
    table: Vec<u32>,
    /// The first free sector.
    end: u64,
}

impl<'a> SparseWriter<'a> {
    /// Writes the header, the descriptor and the directories.
    fn new(file: &'a OutputFile, sectors: u64, descriptor: &str) -> Result<Self> {
        let tables = sectors.div_ceil(GRAIN * TABLE);
        let table_sectors = TABLE * 4 / SECTOR;
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let rgd = DESCRIPTOR.0 + DESCRIPTOR.1;
        let gd = rgd + directory_sectors + tables * table_sectors;
        let overhead = (gd + directory_sectors + tables * table_sectors).next_multiple_of(GRAIN);
        if sectors.saturating_add(overhead) >= MAX_SECTORS {
            return Err(at("writing").file(file.path()).limit("a sparse VMDK holds less than 2 TiB"));
        }
        if descriptor.len() as u64 > DESCRIPTOR.1 * SECTOR {
            return Err(at("writing").file(file.path()).limit("the descriptor does not fit"));
        }
        let mut head = vec![0; ((DESCRIPTOR.0 + DESCRIPTOR.1) * SECTOR) as usize];
        head[..4].copy_from_slice(&HOSTED_MAGIC);
        // flags: the newline test below is valid, and there is a redundant directory.
        for (at, value) in [(4, 1), (8, 3), (44, TABLE as u32)] {
            head[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [
            (12, sectors),
            (20, GRAIN),
            (28, DESCRIPTOR.0),
            (36, DESCRIPTOR.1),
            (48, rgd),
            (56, gd),
            (64, overhead),
        ] {
            head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        // Shows whether the file was transferred as text.
        head[73..77].copy_from_slice(b"\n \r\n");
        head[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
        file.write_at(0, &head)?;
        let tables_at = [rgd, gd].map(|directory| directory + directory_sectors);
        for (directory, first) in [rgd, gd].into_iter().zip(tables_at) {
            let entries: Vec<u8> =
                (0..tables).flat_map(|i| ((first + i * table_sectors) as u32).to_le_bytes()).collect();
            file.write_at(directory * SECTOR, &entries)?;
        }
        file.set_len(overhead * SECTOR)?;
        Ok(SparseWriter { file, tables_at, table_index: 0, table: Vec::new(), end: overhead })
    }

    /// Writes runs of whole grains (the disk's last may be short), one after the other.
    fn write(&mut self, window: &Window, runs: &[std::ops::Range<usize>]) -> Result<()> {
        let start = self.end;
        let mut slices = Vec::new();
        for run in runs {
            slices.push(std::io::IoSlice::new(&window.bytes[run.clone()]));
            let first = (window.start + run.start as u64) / (GRAIN * SECTOR);
            for number in first..first + (run.len() as u64).div_ceil(GRAIN * SECTOR) {
                if number / TABLE != self.table_index {
                    self.finish_table()?;
                    self.table_index = number / TABLE;
                }
                self.table.resize(TABLE as usize, 0);
                self.table[(number % TABLE) as usize] = self.end as u32;
                self.end += GRAIN;
            }
        }
        if self.end >= MAX_SECTORS {
            return Err(at("writing").file(self.file.path()).limit("a sparse VMDK holds less than 2 TiB"));
        }
        self.file.write_slices_at(start * SECTOR, &mut slices)
    }

    fn finish_table(&mut self) -> Result<()> {
        let bytes: Vec<u8> = self.table.drain(..).flat_map(u32::to_le_bytes).collect();
        for first in self.tables_at {
            self.file.write_at(first * SECTOR + self.table_index * TABLE * 4, &bytes)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.finish_table()?;
        // The last grain is whole, even where the disk ends within it.
        self.file.set_len(self.end * SECTOR)
    }
}
