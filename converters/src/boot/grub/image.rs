//! Makes GRUB's core image for a BIOS anew: one that a disk has with another prefix and more modules, or one from the files
//! that GRUB is installed from.
//!
//! ```text
//! diskboot.img (a sector: the block list) · lzma_decompress.img · LZMA( kernel · "mimg" · objects )
//! ```
//!
//! The objects are modules, each after those that it needs, and the prefix (include/grub/kernel.h, util/mkimage.c).

use std::ops::Range;

use memchr::memmem;
use mif_formats::wrapper::encode_lzma;
use mif_formats::{Result, Source, at};

use super::core::{
    self, BLOCK_LIST, BLOCK_LIST_ENTRY, COMPRESSED_SIZE, CONFIG, Core, ELF, MAX_CORE, MAX_SECTORS, PREFIX,
    SECTOR, UNCOMPRESSED_SIZE, module_name,
};

/// The first bytes of the objects, which follow the kernel.
const MAGIC: &[u8] = b"mimg";
/// The magic bytes, the offset of the first object, and the length of all.
const INFO: usize = 12;
/// The type of an object and its length.
const OBJECT: usize = 8;
/// Objects begin at multiples of this many bytes.
const ALIGN: usize = 4;

/// In the part that decodes the rest: how many bytes of Reed-Solomon code follow the image. A new image has none.
const REDUNDANCY: usize = 0x10;

/// The segment that the rest of the image is loaded to, in the block list.
const LOAD_SEGMENT: u16 = 0x0820;

/// Where the kernel is linked to run (GRUB_KERNEL_I386_PC_LINK_ADDR).
const LINK_ADDRESS: u32 = 0x9000;

/// The type of each object, and its bytes.
type Objects = Vec<(u32, Vec<u8>)>;

/// A core image for a BIOS, decoded.
pub(crate) struct Image {
    /// The sector that loads the others.
    head: Vec<u8>,
    /// The program that decodes the rest.
    decoder: Vec<u8>,
    kernel: Vec<u8>,
    objects: Objects,
    /// What it holds.
    pub(crate) core: Core,
    /// The ranges of bytes of the disk that it was read from.
    pub(crate) places: Vec<Range<u64>>,
}

impl Image {
    /// Reads the core image that the boot sector `boot` of `disk` loads.
    pub(crate) fn of_disk(disk: &dyn Source, boot: &[u8]) -> Result<Self> {
        let chain = core::chain(disk, boot)?;
        let core::Decoded { start, bytes, core } = core::of_compressed(&chain.rest)?;
        let cut = || at("GRUB's core image").corrupt("its modules cannot be told from its kernel");
        let (kernel, objects) = split(&bytes).ok_or_else(cut)?;
        let decoder = chain.rest[..start].to_vec();
        Ok(Image { head: chain.head, decoder, kernel, objects, core, places: chain.places })
    }

    /// Makes one without modules from the files `diskboot.img`, `lzma_decompress.img` and `kernel.img` of a GRUB.
    pub(crate) fn from_files(diskboot: &[u8], decompress: &[u8], kernel: &[u8]) -> Result<Self> {
        let wrong = |file: &str, problem: &str| at(format!("GRUB's {file}")).corrupt(problem.to_owned());
        let list = &diskboot.get(BLOCK_LIST + 10..BLOCK_LIST + 12);
        if diskboot.len() as u64 != SECTOR || list.is_none_or(|list| list != LOAD_SEGMENT.to_le_bytes()) {
            return Err(wrong("diskboot.img", "is not a sector with an empty block list"));
        }
        if !(REDUNDANCY + 8..=64 << 10).contains(&decompress.len()) {
            return Err(wrong("lzma_decompress.img", "has an unusual length"));
        }
        let kernel = loaded(kernel).ok_or_else(|| wrong("kernel.img", "is not a program for its address"))?;
        Ok(Image {
            head: diskboot.to_vec(),
            decoder: decompress.to_vec(),
            kernel,
            objects: Vec::new(),
            core: Core::default(),
            places: Vec::new(),
        })
    }

    /// Returns true if it has the module.
    pub(crate) fn has(&self, module: &str) -> bool {
        self.core.modules.iter().any(|name| name == module)
    }

    /// Adds a module, which must be an object file of its name.
    pub(crate) fn add(&mut self, name: &str, module: &[u8]) -> Result<()> {
        if module_name(module).as_deref() != Some(name) {
            return Err(at(format!("GRUB's module {name}")).corrupt("is not a module of that name"));
        }
        // Modules come before the prefix, and those that were there may need none that are added.
        let end = self.objects.iter().rposition(|(kind, _)| *kind == ELF).map_or(0, |last| last + 1);
        self.objects.insert(end, (ELF, module.to_vec()));
        self.core.modules.push(name.to_owned());
        Ok(())
    }

    /// Sets the directory with GRUB's files.
    pub(crate) fn set_prefix(&mut self, prefix: &str) {
        let bytes = [prefix.as_bytes(), b"\0"].concat();
        match self.objects.iter_mut().find(|(kind, _)| *kind == PREFIX) {
            Some(object) => object.1 = bytes,
            None => self.objects.push((PREFIX, bytes)),
        }
        prefix.clone_into(&mut self.core.prefix);
    }

    /// Replaces its configuration by what `change` returns, if that is something.
    pub(crate) fn change_config(&mut self, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        for (_, bytes) in self.objects.iter_mut().filter(|(kind, _)| *kind == CONFIG) {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            if let Some(mut new) = change(&bytes[..end]) {
                new.push(0);
                *bytes = new;
            }
        }
    }

    /// Returns the image for a place that begins at sector `first` and has room for `room` bytes.
    pub(crate) fn encode(&self, first: u64, room: u64) -> Result<Vec<u8>> {
        let mut content = self.kernel.clone();
        let len: usize = self.objects.iter().map(|(_, bytes)| OBJECT + padded(bytes.len())).sum();
        content.extend(MAGIC);
        content.extend((INFO as u32).to_le_bytes());
        content.extend(((INFO + len) as u32).to_le_bytes());
        for (kind, bytes) in &self.objects {
            content.extend(kind.to_le_bytes());
            content.extend(((OBJECT + padded(bytes.len())) as u32).to_le_bytes());
            content.extend(bytes);
            content.resize(content.len() + padded(bytes.len()) - bytes.len(), 0);
        }
        let packed = encode_lzma(&content)?;
        let mut image = [&self.head[..], &self.decoder, &packed].concat();
        let decoder = &mut image[SECTOR as usize..];
        decoder[COMPRESSED_SIZE..COMPRESSED_SIZE + 4].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        decoder[UNCOMPRESSED_SIZE..UNCOMPRESSED_SIZE + 4]
            .copy_from_slice(&(content.len() as u32).to_le_bytes());
        decoder[REDUNDANCY..REDUNDANCY + 4].fill(0);
        let sectors = (image.len() as u64).div_ceil(SECTOR);
        if sectors > MAX_SECTORS || content.len() as u64 > u64::from(MAX_CORE) {
            return Err(at("GRUB's core image").limit("is larger than fits into memory"));
        }
        if sectors * SECTOR > room {
            return Err(at("GRUB's core image")
                .limit(format!("needs {} bytes, but its place has {room}", sectors * SECTOR)));
        }
        image.resize((sectors * SECTOR) as usize, 0);
        // One entry, and an empty one that ends the list.
        image[BLOCK_LIST - BLOCK_LIST_ENTRY..BLOCK_LIST].fill(0);
        image[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
        image[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&(sectors as u16 - 1).to_le_bytes());
        image[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());
        Ok(image)
    }
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Splits a decoded image into the kernel and the objects, which extend to its end.
fn split(bytes: &[u8]) -> Option<(Vec<u8>, Objects)> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    for start in memmem::find_iter(bytes, MAGIC) {
        let (Some(offset), Some(size)) = (u32_at(start + 4), u32_at(start + 8)) else { continue };
        if offset as usize != INFO || start.checked_add(size as usize) != Some(bytes.len()) {
            continue;
        }
        let mut objects = Vec::new();
        let mut next = start + INFO;
        while next < bytes.len() {
            let (kind, len) = (u32_at(next)?, u32_at(next + 4)? as usize);
            let end = next.checked_add(len).filter(|end| len >= OBJECT && *end <= bytes.len())?;
            objects.push((kind, bytes[next + OBJECT..end].to_vec()));
            next = end;
        }
        return Some((bytes[..start].to_vec(), objects));
    }
    None
}

/// Returns the bytes that a kernel, a 32-bit ELF program, has in memory from its address on, without those that are zero
/// at first; `None` if it is linked to another address.
fn loaded(elf: &[u8]) -> Option<Vec<u8>> {
    /// The type of a segment that is loaded.
    const LOAD: u32 = 1;
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x01\x01" {
        return None;
    }
    let (table, entry, count) = (number(28, 4)? as usize, number(42, 2)? as usize, number(44, 2)? as usize);
    let mut kernel = Vec::new();
    for index in 0..count.min(16) {
        let header = table.checked_add(index.checked_mul(entry)?)?;
        if number(header, 4)? != LOAD {
            continue;
        }
        let (offset, address, len) =
            (number(header + 4, 4)? as usize, number(header + 8, 4)?, number(header + 16, 4)? as usize);
        let place = address.checked_sub(LINK_ADDRESS)? as usize;
        let bytes = elf.get(offset..offset.checked_add(len)?)?;
        let end = place.checked_add(len).filter(|end| *end <= MAX_CORE as usize)?;
        kernel.resize(kernel.len().max(end), 0);
        kernel[place..end].copy_from_slice(bytes);
    }
    (!kernel.is_empty()).then_some(kernel)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const FILES: &str = "/usr/lib/grub/i386-pc";
    const MODULES: [&str; 4] = ["biosdisk", "part_msdos", "fshelp", "ext2"];

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{FILES}/{name}")).unwrap()
    }

    fn made() -> Image {
        let mut image =
            Image::from_files(&file("diskboot.img"), &file("lzma_decompress.img"), &file("kernel.img"))
                .unwrap();
        for module in MODULES {
            image.add(module, &file(&format!("{module}.mod"))).unwrap();
        }
        image.set_prefix("(,msdos1)/boot/grub");
        image
    }

    /// What grub-mkimage makes of the same, decoded by the program xz.
    fn judged(core: &[u8], decoder: usize) -> Vec<u8> {
        let packed = &core[512 + decoder..];
        let number = |at: usize| u32::from_le_bytes(core[512 + at..512 + at + 4].try_into().unwrap());
        let mut alone = vec![0x5d];
        alone.extend((1_u32 << 16).to_le_bytes());
        alone.extend(u64::from(number(UNCOMPRESSED_SIZE)).to_le_bytes());
        alone.extend(&packed[..number(COMPRESSED_SIZE) as usize]);
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("core.lzma");
        std::fs::write(&path, alone).unwrap();
        let output = Command::new("xz").args(["-dc", "--format=lzma"]).arg(&path).output().unwrap();
        output.stdout
    }

    #[test]
    fn an_image_from_files_is_what_grub_mkimage_makes_of_them() {
        if !crate::testing::tools::have(&["grub-mkimage", "xz"]) {
            return;
        }
        let work = tempfile::tempdir().unwrap();
        let out = work.path().join("core");
        let mkimage = Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o"])
            .arg(&out)
            .args(["biosdisk", "part_msdos", "ext2"])
            .status();
        assert!(mkimage.unwrap().success());
        let (theirs, decoder) = (std::fs::read(&out).unwrap(), file("lzma_decompress.img").len());
        let ours = made().encode(1, 1 << 20).unwrap();
        let (theirs, ours) = (judged(&theirs, decoder), judged(&ours, decoder));
        assert!(!ours.is_empty() && theirs.len() == ours.len());
        // The order of the modules is free.
        let names = |bytes: &[u8]| {
            let (kernel, mut objects) = split(bytes).unwrap();
            objects.sort();
            (kernel, objects)
        };
        assert!(names(&theirs) == names(&ours));
    }

    #[test]
    fn an_image_of_a_disk_is_read_changed_and_read_again() {
        if !crate::testing::tools::have(&["grub-mkimage"]) {
            return;
        }
        let mut disk = vec![0; 1 << 20];
        disk[..440].copy_from_slice(&file("boot.img")[..440]);
        let put = |disk: &mut Vec<u8>, image: &Image, first: u64| {
            let core = image.encode(first, 500 << 10).unwrap();
            disk[core::KERNEL_SECTOR..core::KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
            disk[(first * SECTOR) as usize..][..core.len()].copy_from_slice(&core);
        };
        put(&mut disk, &made(), 1);
        let read =
            |disk: &[u8]| Image::of_disk(&mif_formats::MemSource(disk.to_vec()), &disk[..512]).unwrap();
        let mut image = read(&disk);
        assert_eq!(
            (&image.core.prefix[..], &image.core.modules[..]),
            ("(,msdos1)/boot/grub", &MODULES.map(str::to_owned)[..])
        );
        assert_eq!(image.places[0], 512..1024);
        image.add("part_gpt", &file("part_gpt.mod")).unwrap();
        image.set_prefix("(,gpt1)/boot/grub");
        put(&mut disk, &image, 100);
        let again = read(&disk);
        assert_eq!(again.core.prefix, "(,gpt1)/boot/grub");
        assert!(again.has("part_gpt") && again.has("ext2"));
        assert_eq!(again.kernel, image.kernel);
        assert!(image.add("part_apple", &file("part_gpt.mod")).is_err());
        assert!(image.encode(1, 10 << 10).unwrap_err().to_string().contains("its place has 10240"));
    }

    #[test]
    fn hostile_files_make_no_image() {
        let good = vec![0; 512];
        assert!(Image::from_files(&good, &[0; 100], b"\x7fELF\x01\x01").is_err());
        assert_eq!(loaded(b"\x7fELF"), None);
        let mut elf = b"\x7fELF\x01\x01".to_vec();
        elf.resize(200, 0xff);
        assert_eq!(loaded(&elf), None);
        assert!(split(b"mimg\x0c\0\0\0\x14\0\0\0\0\0\0\0\x07\0\0\0").is_none());
    }
}
