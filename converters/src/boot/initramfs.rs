//! An initramfs as the kernel unpacks it (Linux, init/initramfs.c): cpio archives one after another, each plain or
//! compressed, with zeros between them. A later member replaces an earlier one of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mif_formats::wrapper::{Codec, HEAD, Kind, Single};
use mif_formats::{Result, Source, at};

use super::cpio::{self, FILE, HEADER, Header, SYMLINK};
use super::modules::module_name;

/// The most bytes that all archives unpack to.
const MAX_UNPACKED: u64 = 2 << 30;

/// The most members.
const MAX_MEMBERS: usize = 300_000;

/// The largest file that is kept, and the most bytes of all that are kept.
const MAX_FILE: u32 = 8 << 20;
const MAX_KEPT: usize = 64 << 20;

/// The most archives.
const MAX_SEGMENTS: usize = 64;

/// One of its archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its offset in the file, in bytes.
    pub(super) start: u64,
    /// How it is compressed.
    pub(super) codec: Option<Codec>,
    /// True if it is LZ4 of the first version, which has no mark at its end.
    pub(super) is_endless: bool,
    /// The number of members.
    pub(super) members: usize,
}

/// What an initramfs holds.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    /// The archives.
    pub(super) segments: Vec<Segment>,
    /// All paths, without a slash at the start.
    names: BTreeSet<String>,
    /// The content of the files that say what is loaded.
    texts: BTreeMap<String, Vec<u8>>,
    /// The targets of symlinks.
    links: BTreeMap<String, String>,
    /// The paths of the kernel's modules, by release and name.
    modules: BTreeMap<(String, String), String>,
    unpacked: u64,
    kept: usize,
}

/// The bytes of an archive, read forward.
enum Bytes {
    Plain { file: Arc<dyn Source>, next: u64 },
    Decoded(Box<Single>),
}

impl Bytes {
    /// Fills the beginning of `buf`; returns the number of bytes, 0 only at the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self {
            Bytes::Plain { file, next } => {
                let len = file.len().saturating_sub(*next).min(buf.len() as u64) as usize;
                file.read_at(*next, &mut buf[..len])?;
                *next += len as u64;
                Ok(len)
            }
            Bytes::Decoded(single) => single.read(buf),
        }
    }
}

/// A reader of archives that counts.
struct Reader {
    bytes: Bytes,
    position: u64,
}

impl Reader {
    /// Fills `buf`, or returns false if there are no more bytes at all.
    fn fill(&mut self, buf: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < buf.len() {
            match self.bytes.read(&mut buf[done..])? {
                0 if done == 0 => return Ok(false),
                0 => return Err(self.ends_early()),
                len => done += len,
            }
        }
        self.position += buf.len() as u64;
        Ok(true)
    }

    fn exactly(&mut self, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() || self.fill(buf)? { Ok(()) } else { Err(self.ends_early()) }
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        let mut buf = vec![0; len.min(256 << 10) as usize];
        while len > 0 {
            let step = len.min(buf.len() as u64) as usize;
            self.exactly(&mut buf[..step])?;
            len -= step as u64;
        }
        Ok(())
    }

    fn ends_early(&self) -> mif_formats::Error {
        at("cpio archive").byte(self.position).corrupt("the archive ends early: the file is truncated")
    }
}

impl Initramfs {
    /// Reads an initramfs. Fails if the kernel could not unpack all of it.
    pub(crate) fn read(file: &Arc<dyn Source>) -> Result<Self> {
        let mut all = Initramfs::default();
        let mut next = 0;
        while let Some(start) = first_byte(&**file, next)? {
            if all.segments.len() == MAX_SEGMENTS {
                return Err(at("initramfs").limit(format!("it has more than {MAX_SEGMENTS} archives")));
            }
            next = all.segment(file, start)?;
        }
        if all.segments.is_empty() {
            return Err(at("initramfs").corrupt("it is empty"));
        }
        Ok(all)
    }

    /// Adds the archive at `start`; returns the offset after it.
    fn segment(&mut self, file: &Arc<dyn Source>, start: u64) -> Result<u64> {
        let len = file.len();
        let head = file.read_vec(start, (len - start).min(HEAD as u64) as usize)?;
        let mut segment = Segment { start, codec: None, is_endless: false, members: self.names.len() };
        let before = self.names.len();
        let end = if head.starts_with(b"07070") {
            if !start.is_multiple_of(4) {
                // The kernel takes a plain archive only at a multiple of four.
                return Err(at("initramfs")
                    .byte(start)
                    .corrupt("a plain archive is not at a multiple of four bytes"));
            }
            let mut reader =
                Reader { bytes: Bytes::Plain { file: file.clone(), next: start }, position: start };
            self.archive(&mut reader)?;
            reader.position
        } else {
            let codec = match Kind::of(&head, len - start) {
                Some(Kind::Compressed(codec)) => codec,
                _ => {
                    let problem = "expected a cpio archive, plain or compressed";
                    return Err(at("initramfs").byte(start).corrupt(problem));
                }
            };
            segment.codec = Some(codec);
            let mut end = len;
            if head.starts_with(b"\x02\x21\x4c\x18") {
                segment.is_endless = true;
                end = legacy_end(&**file, start)?;
            }
            let single = Single::new(codec, file.clone(), start..end)?;
            let mut reader = Reader { bytes: Bytes::Decoded(Box::new(single)), position: 0 };
            while self.archive(&mut reader)? {}
            match reader.bytes {
                Bytes::Decoded(single) if !segment.is_endless => single.end(),
                _ => end,
            }
        };
        segment.members = self.names.len() - before;
        self.segments.push(segment);
        Ok(end)
    }

    /// Adds the members of an archive up to its trailer. Returns false if there is none.
    fn archive(&mut self, reader: &mut Reader) -> Result<bool> {
        let mut header = [0; HEADER];
        // Zeros between archives.
        loop {
            if !reader.fill(&mut header[..4])? {
                return Ok(false);
            }
            self.count(4)?;
            if header[..4] != [0; 4] {
                break;
            }
        }
        reader.exactly(&mut header[4..])?;
        loop {
            let member = Header::parse(&header, reader.position - HEADER as u64)?;
            let mut name = vec![0; member.name_size as usize];
            reader.exactly(&mut name)?;
            reader.skip(member.name_padding() as u64)?;
            name.pop();
            self.count(HEADER as u64 + u64::from(member.name_size) + u64::from(member.size))?;
            if name == cpio::TRAILER {
                return Ok(true);
            }
            self.member(&name, member, reader)?;
            reader.skip(member.padding() as u64)?;
            if !reader.fill(&mut header)? {
                // The kernel does not ask for a trailer.
                return Ok(false);
            }
        }
    }

    fn member(&mut self, name: &[u8], member: Header, reader: &mut Reader) -> Result<()> {
        let name = String::from_utf8_lossy(name).into_owned();
        let name = name.trim_start_matches("./").trim_matches('/').to_owned();
        let kind = member.mode & 0o170_000;
        let keeps = (kind == FILE && member.size <= MAX_FILE && is_kept(&name))
            || (kind == SYMLINK && member.size <= 4096);
        if !keeps {
            reader.skip(u64::from(member.size))?;
        }
        self.kept += name.len() + if keeps { member.size as usize } else { 0 };
        if self.kept > MAX_KEPT || self.names.len() >= MAX_MEMBERS {
            return Err(at("initramfs")
                .limit(format!("it has more than {MAX_MEMBERS} members, or names without end")));
        }
        if keeps {
            let mut content = vec![0; member.size as usize];
            reader.exactly(&mut content)?;
            if kind == SYMLINK {
                self.links.insert(name.clone(), String::from_utf8_lossy(&content).into_owned());
            } else {
                self.texts.insert(name.clone(), content);
            }
        }
        if kind == FILE
            && let Some((release, module)) = module_of(&name)
        {
            self.modules.insert((release.to_owned(), module), name.clone());
        }
        self.names.insert(name);
        Ok(())
    }

    fn count(&mut self, len: u64) -> Result<()> {
        self.unpacked += len;
        match self.unpacked > MAX_UNPACKED {
            true => Err(at("initramfs").limit(format!("it unpacks to more than {MAX_UNPACKED} bytes"))),
            false => Ok(()),
        }
    }

    /// Adds what another file holds, which the boot loader puts after this one.
    pub(super) fn extend(&mut self, other: Initramfs) {
        self.segments.extend(other.segments);
        self.names.extend(other.names);
        self.texts.extend(other.texts);
        self.links.extend(other.links);
        self.modules.extend(other.modules);
    }

    /// Returns true if it has a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.names.contains(path)
            || path.strip_prefix("usr/").is_some_and(|path| self.names.contains(path))
            || self.names.contains(&format!("usr/{path}"))
    }

    /// Returns true if it has a path that begins so.
    pub(super) fn has_below(&self, start: &str) -> bool {
        self.names.range(start.to_owned()..).next().is_some_and(|name| name.starts_with(start))
    }

    /// Returns the paths that begin so, with or without `usr/` before it.
    pub(super) fn below<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        let names = self.names.iter().map(String::as_str);
        names.filter(move |name| name.strip_prefix("usr/").unwrap_or(name).starts_with(start))
    }

    /// Returns the content of a file, with or without `usr/` before it.
    pub(super) fn text(&self, path: &str) -> Option<&[u8]> {
        self.texts.get(path).or_else(|| self.texts.get(&format!("usr/{path}"))).map(Vec::as_slice)
    }

    /// Returns the files that are kept below a directory, with or without `usr/` before it.
    pub(super) fn texts_below(&self, folder: &str) -> impl Iterator<Item = (&str, &[u8])> {
        let folder = format!("{folder}/");
        let texts = self
            .texts
            .iter()
            .filter(move |(name, _)| name.strip_prefix("usr/").unwrap_or(name).starts_with(&folder));
        texts.map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    /// Returns the path of a module for a release, if it has it.
    pub(super) fn module(&self, release: &str, name: &str) -> Option<&str> {
        self.modules.get(&(release.to_owned(), name.to_owned())).map(String::as_str)
    }

    /// Returns the releases that it has modules for.
    pub(super) fn releases(&self) -> BTreeSet<&str> {
        self.modules.keys().map(|(release, _)| release.as_str()).collect()
    }

    /// Returns the directory that its modules are below, as new members must name it: `lib`, or `usr/lib` if `lib` is a
    /// symlink to that.
    pub(super) fn library(&self) -> &'static str {
        let has_modules = |start: &str| {
            self.names.range(start.to_owned()..).next().is_some_and(|name| name.starts_with(start))
        };
        if has_modules("usr/lib/modules/")
            || self.links.get("lib").is_some_and(|to| to.trim_start_matches('/') == "usr/lib")
        {
            "usr/lib"
        } else {
            "lib"
        }
    }
}

/// Returns true if the content of a file says what is loaded.
fn is_kept(name: &str) -> bool {
    let name = name.strip_prefix("usr/").unwrap_or(name);
    let in_folder = |folder: &str| name.strip_prefix(folder).is_some_and(|rest| !rest.contains('/'));
    let index = || {
        let (_, file) = name.strip_prefix("lib/modules/")?.split_once('/')?;
        Some(matches!(file, "modules.dep" | "modules.builtin" | "modules.softdep" | "modules.alias"))
    };
    matches!(name, "conf/modules" | "conf/initramfs.conf" | "etc/fstab" | "etc/crypttab" | "config" | "init")
        || ["etc/modprobe.d/", "lib/modprobe.d/", "etc/cmdline.d/", "etc/modules-load.d/", "conf/conf.d/"]
            .iter()
            .any(|folder| in_folder(folder))
        || index().unwrap_or(false)
}

/// Returns the release and the name of a module by its path.
fn module_of(path: &str) -> Option<(&str, String)> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    let (release, rest) = path.strip_prefix("lib/modules/")?.split_once('/')?;
    Some((release, module_name(rest)?))
}

/// Returns the offset of the first byte from `start` on that is not zero.
fn first_byte(file: &dyn Source, start: u64) -> Result<Option<u64>> {
    let mut next = start;
    while next < file.len() {
        let extent = file.extent_at(next)?;
        if extent.is_zero() {
            next = extent.range.end;
            continue;
        }
        let bytes = file.read_vec(next, (file.len() - next).min(64 << 10) as usize)?;
        if let Some(at) = bytes.iter().position(|b| *b != 0) {
            return Ok(Some(next + at as u64));
        }
        next += bytes.len() as u64;
    }
    Ok(None)
}

/// Returns the offset after LZ4 data of the first version: blocks with their length, up to a length of zero, as in
/// Linux, lib/decompress_unlz4.c.
fn legacy_end(file: &dyn Source, start: u64) -> Result<u64> {
    const MAGIC: u32 = 0x184c_2102;
    let mut next = start + 4;
    while next + 4 <= file.len() {
        let mut length = [0; 4];
        file.read_at(next, &mut length)?;
        match u32::from_le_bytes(length) {
            0 => return Ok(next),
            MAGIC => next += 4,
            length => next += 4 + u64::from(length),
        }
    }
    Ok(next.min(file.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use mif_formats::source::MemSource;

    use super::cpio::Writer;
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer::default();
        for (name, content) in files {
            writer.add(name, FILE | 0o644, content.as_bytes());
        }
        writer.finish()
    }

    fn read(bytes: Vec<u8>) -> Result<Initramfs> {
        Initramfs::read(&(Arc::new(MemSource(bytes)) as Arc<dyn Source>))
    }

    /// What a command makes of bytes.
    fn through(command: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
        let mut input = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    const MODULE: &str = "usr/lib/modules/6.1.0-1/kernel/drivers/nvme/host/nvme-core.ko.xz";

    #[test]
    fn every_compression_of_the_kernel_is_read_between_plain_archives() {
        if !crate::testing::tools::have(&["gzip", "bzip2", "xz", "zstd", "lz4"]) {
            return;
        }
        let early = archive(&[("kernel/x86/microcode/GenuineIntel.bin", "microcode")]);
        let main = archive(&[(MODULE, "module"), ("init", "#!/bin/sh"), ("conf/modules", "first\n")]);
        let last = archive(&[("conf/modules", "second\n")]);
        let commands: &[&[&str]] = &[
            &["cat"],
            &["gzip", "-9"],
            &["bzip2"],
            &["xz", "--check=crc32"],
            &["xz", "--format=lzma"],
            &["zstd", "-q", "-19"],
            &["lz4", "-q"],
            &["lz4", "-q", "-l"],
        ];
        for command in commands {
            let mut all = early.clone();
            all.extend(through(command, &main));
            all.resize(all.len().next_multiple_of(512) + 512, 0);
            all.extend(&last);
            let found = read(all).unwrap_or_else(|e| panic!("{command:?}: {e}"));
            assert_eq!(found.segments.len(), 3, "{command:?}");
            assert_eq!(found.segments[1].codec.is_none(), command == &["cat"]);
            assert_eq!(found.module("6.1.0-1", "nvme_core"), Some(MODULE));
            assert_eq!(found.text("conf/modules"), Some(&b"second\n"[..]), "{command:?}");
            assert!(found.has("init") && found.has("kernel/x86/microcode/GenuineIntel.bin"));
        }
    }

    #[test]
    fn an_archive_of_the_real_cpio_is_read() {
        if !crate::testing::tools::have(&["cpio"]) {
            return;
        }
        let work = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(work.path().join("usr/lib/modules/5.0/kernel")).unwrap();
        std::fs::write(work.path().join("usr/lib/modules/5.0/kernel/a-b.ko"), "x").unwrap();
        std::os::unix::fs::symlink("usr/lib", work.path().join("lib")).unwrap();
        let output = Command::new("sh")
            .args(["-c", "find . | cpio -o -H newc --quiet"])
            .current_dir(work.path())
            .output()
            .unwrap();
        let found = read(output.stdout).unwrap();
        assert_eq!(found.module("5.0", "a_b"), Some("usr/lib/modules/5.0/kernel/a-b.ko"));
        assert_eq!((found.library(), found.releases().len()), ("usr/lib", 1));
    }

    #[test]
    fn what_the_kernel_could_not_unpack_is_refused() {
        if !crate::testing::tools::have(&["gzip"]) {
            return;
        }
        let good = archive(&[("init", "x")]);
        let refused = |bytes: Vec<u8>, why: &str| {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(Vec::new(), "empty");
        refused(vec![0; 4096], "empty");
        refused(b"#!/bin/sh\n".to_vec(), "expected a cpio archive");
        refused(good[..130].to_vec(), "ends early");
        let gzip = through(&["gzip"], &good);
        refused(gzip[..gzip.len() - 12].to_vec(), "truncated");
        refused([&good[..], b"rubbish!"].concat(), "expected a cpio archive");
        // A plain archive at an odd place is taken for rubbish by the kernel.
        refused([&gzip[..], &vec![0; 5 - gzip.len() % 4], &good].concat(), "multiple of four");
        // A name or a size that is only claimed costs nothing.
        let mut claim = good.clone();
        claim[54..62].copy_from_slice(b"10000000");
        refused(claim, "ends early");
    }

    #[test]
    fn a_bomb_is_stopped() {
        if !crate::testing::tools::have(&["zstd"]) {
            return;
        }
        let mut writer = Writer::default();
        writer.add("big", FILE, &vec![0; 64 << 20]);
        let one = through(&["zstd", "-q"], &writer.finish());
        let error = read(one.repeat(40)).unwrap_err().to_string();
        assert!(error.contains("unpacks to more"), "{error}");
    }
}
