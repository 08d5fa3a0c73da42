//! GRUB's core image: where a BIOS finds it (grub-core/boot/i386/pc/boot.S, diskboot.S), and the prefix, configuration and
//! modules in it (include/grub/kernel.h).

use std::ops::Range;
use std::sync::Arc;

use memchr::memmem;
use mif_formats::source::MemSource;
use mif_formats::wrapper::{Codec, Single};
use mif_formats::{Result, Source, at};

use crate::guest::pe::{Program, machine_name, uefi_machine};

/// The size of a sector that a BIOS reads.
pub(super) const SECTOR: u64 = 512;

/// In `boot.img`: the first sector of the core image.
pub(crate) const KERNEL_SECTOR: usize = 0x5c;

/// In the first sector of the core image: the first entry of the block list, which grows downwards.
pub(crate) const BLOCK_LIST: usize = 0x1f4;
pub(super) const BLOCK_LIST_ENTRY: usize = 12;

/// The most sectors of a core image: it must fit into the memory below 640 KiB.
pub(super) const MAX_SECTORS: u64 = 1280;

/// The most bytes that a core image decodes to.
pub(super) const MAX_CORE: u32 = 4 << 20;

/// The most places that are tried as the start of its compressed part.
const MAX_TRIES: usize = 64;

/// In the part of the core image that decodes the rest (grub-core/boot/i386/pc/startup_raw.S), from the second sector.
pub(super) const COMPRESSED_SIZE: usize = 0x08;
pub(super) const UNCOMPRESSED_SIZE: usize = 0x0c;

/// The types of the objects in a core image.
pub(super) const ELF: u32 = 0;
const MEMDISK: u32 = 1;
pub(super) const CONFIG: u32 = 2;
pub(super) const PREFIX: u32 = 3;

/// What a core image holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Core {
    /// The directory with GRUB's files: `(hd0,gpt1)/boot/grub`, or without a device.
    pub(crate) prefix: String,
    /// The configuration that it runs first.
    pub(crate) config: Option<String>,
    /// A disk in memory, `(memdisk)`.
    pub(crate) memdisk: Option<Vec<u8>>,
    /// The names of its modules.
    pub(crate) modules: Vec<String>,
    /// The machine that it is for, as GRUB names it; empty for that of a BIOS.
    pub(crate) cpu: &'static str,
    /// Its version, such as 2.12, if the module that prints it is inside.
    pub(crate) version: Option<(u32, u32)>,
}

/// Returns true if a boot sector is GRUB's.
pub(crate) fn is_boot_sector(sector: &[u8]) -> bool {
    memmem::find(sector, b"GRUB \0Geom\0Hard Disk\0Read\0 Error").is_some()
}

/// Reads the core image that GRUB's boot sector loads. The error says where the chain breaks.
pub(crate) fn of_disk(disk: &dyn Source, boot: &[u8]) -> Result<(u64, Core)> {
    let chain = chain(disk, boot)?;
    Ok((chain.first, of_compressed(&chain.rest)?.core))
}

/// A core image as its block list joins it.
pub(super) struct Chain {
    /// The number of its first sector.
    pub(super) first: u64,
    /// The first sector.
    pub(super) head: Vec<u8>,
    /// The other sectors.
    pub(super) rest: Vec<u8>,
    /// The ranges of bytes of the disk that it occupies.
    pub(super) places: Vec<Range<u64>>,
}

/// Reads the sectors of the core image that GRUB's boot sector loads.
pub(super) fn chain(disk: &dyn Source, boot: &[u8]) -> Result<Chain> {
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let first = number(boot, KERNEL_SECTOR);
    let read = |sector: u64, count: u64| -> Result<Vec<u8>> {
        let end = sector.checked_add(count).and_then(|end| end.checked_mul(SECTOR));
        if end.is_none_or(|end| end > disk.len()) {
            return Err(
                at("GRUB's core image").corrupt(format!("sector {sector} is past the end of the disk"))
            );
        }
        disk.read_vec(sector * SECTOR, (count * SECTOR) as usize)
    };
    let head = read(first, 1)?;
    if memmem::find(&head, b"loading\0.\0\r\n\0Geom\0Read\0 Error").is_none() {
        return Err(at("GRUB's core image").byte(first * SECTOR).corrupt(
            "the boot sector loads this sector, which does not begin GRUB's core image: it was moved or overwritten",
        ));
    }
    let mut image = Vec::new();
    let mut places = Vec::new();
    let mut entry = BLOCK_LIST;
    places.push(first * SECTOR..(first + 1) * SECTOR);
    loop {
        let sectors = u64::from(u16::from_le_bytes([head[entry + 8], head[entry + 9]]));
        if sectors == 0 {
            break;
        }
        if image.len() as u64 / SECTOR + sectors > MAX_SECTORS {
            return Err(at("GRUB's core image").limit("its block list has more sectors than fit into memory"));
        }
        let from = number(&head, entry);
        image.extend(read(from, sectors)?);
        places.push(from * SECTOR..(from + sectors) * SECTOR);
        if entry < BLOCK_LIST_ENTRY + 0x100 {
            break;
        }
        entry -= BLOCK_LIST_ENTRY;
    }
    Ok(Chain { first, head, rest: image, places })
}

/// A decoded core image.
pub(super) struct Decoded {
    /// How many bytes before the compressed part there are, which decode it.
    pub(super) start: usize,
    /// The kernel and the objects.
    pub(super) bytes: Vec<u8>,
    pub(super) core: Core,
}

/// Reads a core image for a BIOS without its first sector.
pub(super) fn of_compressed(image: &[u8]) -> Result<Decoded> {
    let place = || at("GRUB's core image");
    let field = |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(packed), Some(unpacked)) = (field(COMPRESSED_SIZE), field(UNCOMPRESSED_SIZE)) else {
        return Err(place().corrupt("it is truncated: its block list is empty"));
    };
    if packed as usize > image.len() || unpacked > MAX_CORE || packed == 0 {
        return Err(place().corrupt(format!(
            "it claims {packed} compressed bytes, but its block list has {}",
            image.len()
        )));
    }
    // The compressed part ends in the last sector. Its stream has no header, and begins with a zero byte.
    let latest = image.len() - packed as usize;
    let starts = (latest.saturating_sub(SECTOR as usize - 1)..=latest)
        .rev()
        .filter(|at| image[*at] == 0)
        .take(MAX_TRIES);
    for start in starts {
        let bytes = unpack(&image[start..start + packed as usize], unpacked);
        if let Some((bytes, core)) =
            bytes.and_then(|bytes| of_objects(&bytes, false).map(|core| (bytes, core)))
        {
            return Ok(Decoded { start, bytes, core });
        }
    }
    Err(place().corrupt("it cannot be decoded: it was overwritten, or is of a GRUB that mif does not know"))
}

/// Decodes LZMA with the parameters of grub-mkimage, for which the usual header is put before it.
fn unpack(packed: &[u8], len: u32) -> Option<Vec<u8>> {
    let mut file = vec![0x5d];
    file.extend((1_u32 << 16).to_le_bytes());
    file.extend(u64::from(len).to_le_bytes());
    file.extend(packed);
    let end = file.len() as u64;
    let mut single = Single::new(Codec::Lzma, Arc::new(MemSource(file)), 0..end).ok()?;
    let mut core = vec![0; len as usize];
    let mut done = 0;
    while done < core.len() {
        match single.read(&mut core[done..]).ok()? {
            0 => return None,
            more => done += more,
        }
    }
    Some(core)
}

/// Returns GRUB's name of a machine for which UEFI programs have this suffix.
pub(crate) fn cpu(suffix: &str) -> &'static str {
    match suffix {
        "x64" => "x86_64",
        "ia32" => "i386",
        "aa64" => "arm64",
        "arm" => "arm",
        "riscv64" => "riscv64",
        _ => "loongarch64",
    }
}

/// Reads the core image of GRUB's program for UEFI; `None` if the program is none. The objects are in a section.
pub(crate) fn of_program(program: &Program<'_>) -> Option<Core> {
    let (suffix, _) = uefi_machine(machine_name(program.machine)?)?;
    let core = of_objects(program.section("mods")?, !matches!(suffix, "ia32" | "arm"))?;
    Some(Core { cpu: cpu(suffix), ..core })
}

/// Reads the objects of a core image: those of 64-bit UEFI have a wider header.
fn of_objects(core: &[u8], is_wide: bool) -> Option<Core> {
    let u32_at =
        |at: usize| core.get(at..at.checked_add(4)?).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let u64_at = |at: usize| Some(u64::from(u32_at(at)?) | u64::from(u32_at(at + 4)?) << 32);
    for start in memmem::find_iter(core, b"mimg") {
        let header = match is_wide {
            true => u64_at(start + 8).zip(u64_at(start + 16)),
            false => u32_at(start + 4).zip(u32_at(start + 8)).map(|(a, b)| (u64::from(a), u64::from(b))),
        };
        let Some((offset, size)) = header else { continue };
        let end = (start as u64).checked_add(size).filter(|end| *end <= core.len() as u64);
        let Some(end) = end.filter(|_| (8..=64).contains(&offset)) else { continue };
        let mut found = Core::default();
        let (mut next, mut has_prefix) = (start + offset as usize, false);
        while next + 8 <= end as usize {
            let (Some(kind), Some(len)) = (u32_at(next), u32_at(next + 4)) else { break };
            let len = len as usize;
            if len < 8 || next + len > end as usize {
                break;
            }
            let bytes = &core[next + 8..next + len];
            let text = || {
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                String::from_utf8_lossy(&bytes[..end]).into_owned()
            };
            match kind {
                ELF => {
                    let name = module_name(bytes);
                    if name.as_deref() == Some("normal") {
                        found.version = version(bytes);
                    }
                    found.modules.extend(name);
                }
                MEMDISK => found.memdisk = Some(bytes.to_vec()),
                CONFIG => found.config = Some(text()),
                PREFIX => {
                    found.prefix = text();
                    has_prefix = true;
                }
                _ => {}
            }
            next += len;
        }
        if has_prefix {
            return Some(found);
        }
    }
    None
}

/// Returns the version that GRUB's module `normal` prints: `2.06-13+deb12u1` is 2.6.
pub(crate) fn version(normal: &[u8]) -> Option<(u32, u32)> {
    memmem::find_iter(normal, b"\x002.").find_map(|at| {
        let text = normal.get(at + 1..)?.split(|b| *b == 0).next()?;
        let (major, rest) = std::str::from_utf8(text).ok()?.split_once('.')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some((major.parse().ok()?, rest[..end].parse().ok()?))
    })
}

/// Returns the name in the section `.modname` of a module (ELF, "Section Header"; include/grub/dl.h).
pub(super) fn module_name(elf: &[u8]) -> Option<String> {
    if elf.get(..4)? != b"\x7fELF" {
        return None;
    }
    let is_wide = elf.get(4)? == &2;
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0_u64, |all, b| all << 8 | u64::from(*b)))
    };
    let (table, entry, count, names) = match is_wide {
        true => (number(40, 8)?, number(58, 2)?, number(60, 2)?, number(62, 2)?),
        false => (number(32, 4)?, number(46, 2)?, number(48, 2)?, number(50, 2)?),
    };
    let section = |number_of: u64| -> Option<(u64, &[u8])> {
        let at = usize::try_from(table.checked_add(number_of.checked_mul(entry)?)?).ok()?;
        if at > elf.len() {
            return None;
        }
        let (start, len) = match is_wide {
            true => (number(at + 24, 8)?, number(at + 32, 8)?),
            false => (number(at + 16, 4)?, number(at + 20, 4)?),
        };
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        Some((number(at, 4)?, elf.get(start..end).unwrap_or_default()))
    };
    let text = |bytes: &[u8], at: u64| {
        let bytes = bytes.get(usize::try_from(at).ok()?..)?;
        let end = bytes.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    };
    let (_, strings) = section(names)?;
    (0..count.min(256)).find_map(|number_of| {
        let (name, bytes) = section(number_of)?;
        (text(strings, name)? == ".modname").then(|| text(bytes, 0))?
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const MODULES: &str = "/usr/lib/grub/i386-pc";

    /// A disk of 2 MiB with GRUB's boot code, whose core image has this prefix and configuration and lies at a sector.
    fn disk(prefix: &str, config: &str, first: u64) -> Vec<u8> {
        let work = tempfile::tempdir().unwrap();
        let at = |name: &str| work.path().join(name);
        std::fs::write(at("config"), config).unwrap();
        let made = Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", prefix, "-c"])
            .arg(at("config"))
            .arg("-o")
            .arg(at("core"))
            .args(["biosdisk", "part_gpt", "ext2", "normal"])
            .status();
        assert!(made.expect("grub-mkimage is installed").success());
        let core = std::fs::read(at("core")).unwrap();
        let boot = std::fs::read(Path::new(MODULES).join("boot.img")).unwrap();
        let mut disk = vec![0; 2 << 20];
        disk[..440].copy_from_slice(&boot[..440]);
        disk[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
        let start = (first * SECTOR) as usize;
        disk[start..start + core.len()].copy_from_slice(&core);
        let sectors = (core.len() as u64).div_ceil(SECTOR) as u16 - 1;
        disk[start + BLOCK_LIST..start + BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
        disk[start + BLOCK_LIST + 8..start + BLOCK_LIST + 10].copy_from_slice(&sectors.to_le_bytes());
        disk
    }

    #[test]
    fn the_prefix_and_the_modules_of_a_real_core_image_are_read() {
        if !crate::testing::tools::have(&["grub-mkimage"]) {
            return;
        }
        let bytes = disk("(,gpt1)/boot/grub", "search.fs_uuid abc root\n", 34);
        assert!(is_boot_sector(&bytes[..512]));
        let boot = bytes[..512].to_vec();
        let (first, core) = of_disk(&MemSource(bytes.clone()), &boot).unwrap();
        assert_eq!((first, &core.prefix[..]), (34, "(,gpt1)/boot/grub"));
        assert_eq!(core.config.as_deref().map(str::trim_end), Some("search.fs_uuid abc root"));
        for module in ["biosdisk", "part_gpt", "ext2", "normal"] {
            assert!(core.modules.iter().any(|name| name == module), "{module}: {:?}", core.modules);
        }
        assert!(core.version.is_some_and(|version| version >= (2, 2)), "{:?}", core.version);
        // A core image that was moved, or partly overwritten.
        let broken = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            let boot = bytes[..512].to_vec();
            of_disk(&MemSource(bytes), &boot).unwrap_err().to_string()
        };
        assert!(broken(&|bytes| bytes[KERNEL_SECTOR] = 35).contains("moved or overwritten"));
        assert!(broken(&|bytes| bytes[KERNEL_SECTOR + 6] = 1).contains("past the end"));
        assert!(
            broken(&|bytes| bytes[35 * 512 + 4096..35 * 512 + 8192].fill(0)).contains("cannot be decoded")
        );
        assert!(broken(&|bytes| bytes[34 * 512 + BLOCK_LIST + 8] = 1).contains("block list"));
        assert!(broken(&|bytes| bytes[34 * 512 + BLOCK_LIST + 9] = 255).contains("more sectors"));
    }

    #[test]
    fn the_prefix_of_a_uefi_program_is_read() {
        if !crate::testing::tools::have(&["grub-mkimage"]) {
            return;
        }
        let work = tempfile::tempdir().unwrap();
        let out = work.path().join("grub.efi");
        let made = Command::new("grub-mkimage")
            .args(["-O", "x86_64-efi", "-p", "/EFI/debian", "-o"])
            .arg(&out)
            .args(["part_gpt", "fat", "normal"])
            .status();
        assert!(made.expect("grub-mkimage is installed").success());
        let bytes = std::fs::read(out).unwrap();
        let program = crate::guest::pe::Program::parse(&bytes).unwrap();
        let core = of_objects(program.section("mods").unwrap(), true).unwrap();
        assert_eq!((&core.prefix[..], core.config), ("/EFI/debian", None));
        assert!(core.modules.iter().any(|name| name == "fat"));
    }

    #[test]
    fn hostile_objects_are_refused() {
        for bytes in
            [&b"mimg"[..], b"mimg\xff\xff\xff\xff\xff\xff\xff\xff", &[b"mimg".as_slice(), &[0; 64]].concat()]
        {
            assert_eq!(of_objects(bytes, false), None);
            assert_eq!(of_objects(bytes, true), None);
        }
        let elf = [b"\x7fELF\x02".as_slice(), &[0xff; 100]].concat();
        assert_eq!(module_name(&elf), None);
    }
}
