//! Writes a VMDK: chooses its files, and writes the descriptor that names them.

use std::path::Path;

use super::sparse::SECTOR;
use super::write_sparse::{DESCRIPTOR, GRAIN, write_sparse};
use super::write_stream::write_stream;
use crate::container::identity::{self, Digester, Identity, Wanted};
use crate::container::options::Options;
use crate::container::pull::{Pull, pull_data};
use crate::container::{CreateOptions, Observer, Output};
use crate::disk_digest::DiskDigest;
use crate::error::{Result, at};
use crate::source::{Slice, Source};

const KNOWN: &[&str] = &[
    "subformat",
    "adapter_type",
    "hwversion",
    "toolsversion",
    "compression_level",
    identity::UUID,
    identity::SEED,
];
/// `ddb.toolsVersion` for guest tools of unknown version, as qemu-img and open-vmdk write it. Without the key vSphere
/// does not customise guests.
const UNKNOWN_TOOLS: &str = "2147483647";
const SUBFORMATS: &[&str] =
    &["monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
/// The sectors of the disk that a piece of the "2 GiB" subformats holds: whole grains below 2 GiB.
const PIECE: u64 = 0x7fff_0000 / SECTOR;
/// libdeflate's level for grains: a Debian disk becomes 1.2 % larger than with zlib's default, which qemu-img uses, in
/// a quarter of the time.
const DEFLATE_LEVEL: i32 = 4;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let options = Options::new("vmdk", KNOWN, options)?;
    let subformat = options.choice("subformat", SUBFORMATS)?;
    let level = options.number("compression_level")?;
    if level.is_some() && subformat != "streamOptimized" {
        return Err(
            options.bad("compression_level", "no compression_level: only streamOptimized is compressed")
        );
    }
    let level = level.unwrap_or(DEFLATE_LEVEL);
    let sectors = source.len().div_ceil(SECTOR);
    let wanted = Wanted::new(&options)?;
    let digester = Digester::new(source.len());
    let pull = Pull { digest: Some((&digester, 0)), ..Pull::new(source, observer) };
    let descriptor =
        |extents: &str, identity: &Identity| descriptor_text(&options, subformat, sectors, extents, identity);
    match subformat {
        "monolithicSparse" | "streamOptimized" => {
            // The name is informational here: readers use the file that they opened.
            let name = output.name().filter(|n| is_plain(n)).unwrap_or("disk.vmdk");
            let line = format!("RW {sectors} SPARSE \"{name}\"\n");
            // A placeholder of the same length: the final descriptor needs the digest of the disk.
            let first = descriptor(&line, &wanted.identity(&DiskDigest([0; 32])))?;
            let file = output.create()?;
            match subformat {
                "streamOptimized" => write_stream(&pull, file, sectors, &first, level)?,
                _ => write_sparse(&pull, file, sectors, &first)?,
            }
            let text = descriptor(&line, &wanted.identity(&digester.finish()))?;
            debug_assert_eq!(text.len(), first.len());
            file.write_at(DESCRIPTOR.0 * SECTOR, text.as_bytes())
        }
        _ => {
            let (piece, kind) = match subformat {
                "monolithicFlat" => (sectors.max(1), "FLAT"),
                "twoGbMaxExtentFlat" => (PIECE, "FLAT"),
                _ => (PIECE, "SPARSE"),
            };
            debug_assert!(PIECE.is_multiple_of(GRAIN));
            let stem = stem(output.target())?;
            let mut lines = String::new();
            for (i, start) in (0..sectors).step_by(piece as usize).enumerate() {
                let count = piece.min(sectors - start);
                let (name, offset) = match (subformat, kind) {
                    ("monolithicFlat", _) => (format!("{stem}-flat.vmdk"), " 0"),
                    (_, "FLAT") => (format!("{stem}-f{:03}.vmdk", i + 1), " 0"),
                    _ => (format!("{stem}-s{:03}.vmdk", i + 1), ""),
                };
                lines += &format!("RW {count} {kind} \"{}\"{offset}\n", as_path(&name));
                let end = ((start + count) * SECTOR).min(source.len());
                let part = Slice::new(source, start * SECTOR..end)?;
                let pull = Pull { source: &part, digest: Some((&digester, start * SECTOR)), ..pull };
                let file = output.create_beside(Path::new(&name))?;
                if kind == "FLAT" {
                    file.set_len(count * SECTOR)?;
                    pull_data(&pull, |offset, bytes| file.write_at(offset, bytes))?;
                } else {
                    write_sparse(&pull, file, count, "")?;
                }
            }
            let text = descriptor(&lines, &wanted.identity(&digester.finish()))?;
            output.create()?.write_at(0, text.as_bytes())
        }
    }
}

/// Returns the target's name without its suffix, with which the extents' names begin.
fn stem(target: &Path) -> Result<String> {
    let stem = target.file_stem().and_then(|s| s.to_str()).filter(|s| is_plain(s));
    stem.map(str::to_owned).ok_or_else(|| {
        at("writing")
            .file(target)
            .unsupported("the descriptor names the extents, and this name cannot be written there")
    })
}

/// Returns a file's name as a descriptor gives it. QEMU takes the part before a colon for a protocol, unless a slash
/// comes first, and would open `nbd:host:1-flat.vmdk` elsewhere.
fn as_path(name: &str) -> String {
    if name.contains(':') { format!("./{name}") } else { name.to_owned() }
}

/// Returns true if a descriptor can quote the name.
fn is_plain(name: &str) -> bool {
    !name.contains(|c: char| c == '"' || c.is_control())
}

/// Returns the descriptor of a disk of `sectors` sectors with the given extent lines.
fn descriptor_text(
    options: &Options<'_>,
    kind: &str,
    sectors: u64,
    extents: &str,
    identity: &Identity,
) -> Result<String> {
    let adapter = options.choice("adapter_type", &["lsilogic", "ide", "buslogic", "legacyESX"])?;
    let hardware = options.text("hwversion").unwrap_or("4");
    if hardware.is_empty() || hardware.len() > 3 || !hardware.bytes().all(|b| b.is_ascii_digit()) {
        return Err(options.bad("hwversion", "a number such as 4 or 13"));
    }
    let tools = options.text("toolsversion").unwrap_or(UNKNOWN_TOOLS);
    if tools.is_empty() || tools.len() > 10 || !tools.bytes().all(|b| b.is_ascii_digit()) {
        return Err(options.bad("toolsversion", "a number such as 2147483647"));
    }
    let (cid, uuid) = (identity.content_id(), crate::uuid::text(&identity.disk_uuid()));
    let heads = if adapter == "ide" { 16 } else { 255 };
    let cylinders = sectors / (63 * heads);
    Ok(format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"{hardware}\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"{adapter}\"\nddb.toolsVersion = \"{tools}\"\n\
         ddb.uuid.image=\"{uuid}\"\n"
    ))
}
