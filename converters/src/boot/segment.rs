//! Adds modules to an initramfs: an archive that is appended to it, with the modules, all that they depend on, and the
//! indexes by which they are found and loaded.
//!
//! The program that loads modules (kmod) finds them by `modules.dep.bin` and `modules.alias.bin`. So the image's own
//! indexes replace those of the initramfs, and `modules.dep` names the files as they lie in the initramfs. What an index
//! names beyond that is not found, as if it had not been asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::source::MemSource;
use mif_formats::wrapper::{HEAD, Kind, Single};

use super::cpio::{DIRECTORY, FILE, Writer};
use super::initramfs::Initramfs;
use super::modules::{Modules, normal};
use crate::error::{Error, Result};

/// The largest module, in bytes, unpacked.
const MAX_MODULE: usize = 64 << 20;

/// The indexes that are copied as they are.
const INDEXES: &[&str] = &[
    "modules.alias",
    "modules.alias.bin",
    "modules.builtin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.modinfo",
    "modules.devname",
    "modules.order",
    "modules.softdep",
    "modules.symbols",
    "modules.symbols.bin",
];

/// Returns the bytes to append to an initramfs so that it has modules for a release of Linux. `read` reads a file in the
/// directory of the release. Returns `None` if the initramfs has all of them.
pub(crate) fn segment(
    file: &Arc<dyn Source>,
    release: &str,
    wanted: &[String],
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Option<Vec<u8>>> {
    let initramfs = Initramfs::read(file)?;
    let mut indexes: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for name in INDEXES.iter().chain(&["modules.dep"]) {
        indexes.extend(read(name)?.map(|bytes| (*name, bytes)));
    }
    let modules = Modules::parse(|name| indexes.get(name).map(|bytes| bytes.as_slice().into()));
    if modules.is_empty() {
        return Err(Error::input(format!("the image has no modules.dep for Linux {release}"))
            .advise("Name a release that is in /lib/modules of the image, after depmod has run there"));
    }
    let mut new: Vec<String> = Vec::new();
    let mut add = |name: &str| -> Result<()> {
        let all = modules.with_dependencies(&normal(name)).map_err(|lacks| {
            let of = if normal(name) == lacks { String::new() } else { format!(", on which {name} depends") };
            Error::input(format!("Linux {release} has no module {lacks}{of}"))
        })?;
        for module in all {
            if initramfs.module(release, &module).is_none() && !new.contains(&module) {
                new.push(module);
            }
        }
        Ok(())
    };
    for name in wanted {
        for (_, providers) in modules.wanted_before(&normal(name)) {
            for provider in providers.iter().filter(|it| modules.path(it).is_some()) {
                add(provider)?;
            }
        }
        add(name)?;
    }
    if new.is_empty() {
        return Ok(None);
    }
    let folder = format!("{}/modules/{release}", initramfs.library());
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in &new {
        let path = modules.path(name).expect("it is one of the modules");
        let bytes = read(path)?.ok_or_else(|| {
            Error::input(format!("modules.dep names {path}, which the image does not have"))
        })?;
        files.push((format!("{folder}/{}", plain(path)), unpacked(path, bytes)?));
    }
    // Each module as it lies in the initramfs.
    let place = |name: &str, path: &str| match initramfs.module(release, name) {
        Some(path) => {
            path.split_once(&format!("modules/{release}/")).map_or(path, |(_, rest)| rest).to_owned()
        }
        None if new.iter().any(|it| it == name) => plain(path),
        None => path.to_owned(),
    };
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for (name, path, needs) in modules.all() {
        let mut line = format!("{}:", place(name, path));
        for need in needs {
            if let Some(path) = modules.path(need) {
                let _ = write!(line, " {}", place(need, path));
            }
        }
        lines.insert(name.to_owned(), line);
    }
    let text: String = lines.values().flat_map(|line| [line.as_str(), "\n"]).collect();
    files.push((format!("{folder}/modules.dep"), text.into_bytes()));
    files.push((format!("{folder}/modules.dep.bin"), index(&lines)));
    for (name, bytes) in indexes.into_iter().filter(|(name, _)| *name != "modules.dep") {
        files.push((format!("{folder}/{name}"), bytes));
    }
    files.extend(list(&initramfs, wanted));

    let mut writer = Writer::default();
    let mut folders = BTreeSet::new();
    for (path, _) in &files {
        folders.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    folders.iter().for_each(|path| writer.add(path, DIRECTORY | 0o755, b""));
    files.iter().for_each(|(path, content)| writer.add(path, FILE | 0o644, content));
    // LZ4 of the first version ends at a block of length zero.
    let len = file.len() as usize;
    let padding = len.next_multiple_of(512) - len;
    let more = if initramfs.segments.last().is_some_and(|last| last.is_endless) { 512 } else { 0 };
    let mut bytes = vec![0; padding + more];
    bytes.extend(writer.finish());
    Ok(Some(bytes))
}

/// Returns the file that lists modules to load, of the program that made the initramfs, with more of them.
fn list(initramfs: &Initramfs, wanted: &[String]) -> Option<(String, Vec<u8>)> {
    let path =
        if initramfs.has("conf/initramfs.conf") { "conf/modules" } else { "etc/modules-load.d/mif.conf" };
    let mut text = String::from_utf8_lossy(initramfs.text(path).unwrap_or_default()).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let there: BTreeSet<String> = text.lines().map(|line| normal(line.trim())).collect();
    for name in wanted.iter().map(|name| normal(name)).filter(|name| !there.contains(name)) {
        text += &name;
        text.push('\n');
    }
    Some((path.to_owned(), text.into_bytes()))
}

/// Returns the path of a module without the suffix of its compression.
fn plain(path: &str) -> String {
    let end = [".gz", ".xz", ".zst"].iter().find_map(|end| path.strip_suffix(end));
    end.unwrap_or(path).to_owned()
}

fn unpacked(path: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if plain(path) == path {
        return Ok(bytes);
    }
    let Some(Kind::Compressed(codec)) = Kind::of(&bytes[..bytes.len().min(HEAD)], bytes.len() as u64) else {
        return Err(Error::input(format!("{path}: expected a compressed module")));
    };
    let len = bytes.len() as u64;
    let mut single = Single::new(codec, Arc::new(MemSource(bytes)), 0..len)?;
    let mut out = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match single.read(&mut buffer)? {
            0 => return Ok(out),
            more => out.extend(&buffer[..more]),
        }
        if out.len() > MAX_MODULE {
            return Err(Error::input(format!("{path}: unpacks to more than {MAX_MODULE} bytes")));
        }
    }
}

/// An index as kmod reads it (kmod, libkmod/libkmod-index.h): a tree of common prefixes.
fn index(lines: &BTreeMap<String, String>) -> Vec<u8> {
    let entries: Vec<(&[u8], &str)> =
        lines.iter().map(|(name, line)| (name.as_bytes(), line.as_str())).collect();
    let mut out = Vec::new();
    for number in [0xb007_f457_u32, 0x0002_0001, 0] {
        out.extend(number.to_be_bytes());
    }
    let root = node(&entries, 0, &mut out);
    out[8..12].copy_from_slice(&root.to_be_bytes());
    out
}

/// Writes the node of entries, whose keys are sorted and have their first `depth` bytes in common; returns its offset with
/// the flags for what it has.
fn node(entries: &[(&[u8], &str)], depth: usize, out: &mut Vec<u8>) -> u32 {
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
        return out.len() as u32;
    };
    // Of sorted keys, what the first and the last have in common all have.
    let common = first[depth..].iter().zip(&last[depth..]).take_while(|(a, b)| a == b).count();
    let prefix = &first[depth..depth + common];
    let end = depth + common;
    let (values, rest): (Vec<_>, Vec<_>) = entries.iter().copied().partition(|(key, _)| key.len() == end);
    let mut children: BTreeMap<u8, u32> = BTreeMap::new();
    for group in rest.chunk_by(|(a, _), (b, _)| a[end] == b[end]) {
        let offset = node(group, end + 1, out);
        children.insert(group[0].0[end], offset);
    }
    let mut offset = out.len() as u32;
    if !prefix.is_empty() {
        out.extend(prefix);
        out.push(0);
        offset |= 0x8000_0000;
    }
    if let (Some((first, _)), Some((last, _))) = (children.first_key_value(), children.last_key_value()) {
        let (first, last) = (*first, *last);
        out.extend([first, last]);
        for byte in first..=last {
            out.extend(children.get(&byte).copied().unwrap_or(0).to_be_bytes());
        }
        offset |= 0x2000_0000;
    }
    if !values.is_empty() {
        out.extend((values.len() as u32).to_be_bytes());
        for (_, value) in values {
            out.extend(0_u32.to_be_bytes());
            out.extend(value.bytes());
            out.push(0);
        }
        offset |= 0x4000_0000;
    }
    offset
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A directory of modules without content, as `depmod` would index it.
    fn read(name: &str) -> Result<Option<Vec<u8>>> {
        let text: &[u8] = match name {
            "modules.dep" => {
                b"kernel/a-x.ko.xz: kernel/b.ko.xz kernel/c.ko.xz\nkernel/b.ko.xz: kernel/c.ko.xz\nkernel/c.ko.xz:\nkernel/ab.ko.xz:\n"
            }
            "modules.builtin" => b"kernel/in.ko\n",
            "modules.alias.bin" => b"aliases",
            "kernel/a-x.ko.xz" | "kernel/b.ko.xz" | "kernel/c.ko.xz" => return Ok(Some(xz(name))),
            _ => return Ok(None),
        };
        Ok(Some(text.to_vec()))
    }

    fn xz(name: &str) -> Vec<u8> {
        let output = Command::new("sh").args(["-c", &format!("printf '%s' '{name}' | xz")]).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn initramfs() -> Arc<dyn Source> {
        let mut writer = Writer::default();
        writer.add("conf/initramfs.conf", FILE | 0o644, b"");
        writer.add("conf/modules", FILE | 0o644, b"first");
        writer.add("usr/lib/modules/6.1/kernel/c.ko", FILE | 0o644, b"c");
        let mut bytes = writer.finish();
        bytes.truncate(bytes.len() - 100);
        Arc::new(MemSource(bytes))
    }

    fn with(names: &[&str]) -> Result<Option<Vec<u8>>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        segment(&initramfs(), "6.1", &names, &read)
    }

    #[test]
    fn modules_come_unpacked_with_what_they_depend_on_and_an_index_that_fits() {
        if !crate::testing::tools::have(&["xz"]) {
            return;
        }
        let old = initramfs();
        let mut bytes = old.read_vec(0, old.len() as usize).unwrap();
        bytes.extend(with(&["a-x"]).unwrap().unwrap());
        let all = Initramfs::read(&(Arc::new(MemSource(bytes)) as Arc<dyn Source>)).unwrap();
        assert_eq!(all.module("6.1", "a_x"), Some("usr/lib/modules/6.1/kernel/a-x.ko"));
        assert_eq!(all.module("6.1", "b"), Some("usr/lib/modules/6.1/kernel/b.ko"));
        let dep = String::from_utf8(all.text("lib/modules/6.1/modules.dep").unwrap().to_vec()).unwrap();
        assert!(dep.contains("kernel/a-x.ko: kernel/b.ko kernel/c.ko\n"), "{dep}");
        assert!(dep.contains("kernel/ab.ko.xz:\n"), "{dep}");
        assert_eq!(all.text("conf/modules"), Some(&b"first\na_x\n"[..]));
        assert!(all.has("usr/lib/modules/6.1/modules.alias.bin"));
        assert_eq!(with(&["c"]).unwrap(), None);
        assert!(with(&["gone"]).unwrap_err().to_string().contains("no module gone"));
    }

    #[test]
    fn kmod_finds_modules_by_the_index() {
        if !crate::testing::tools::have(&["modprobe"]) {
            return;
        }
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().join("lib/modules/6.1");
        std::fs::create_dir_all(folder.join("kernel")).unwrap();
        let names = ["a", "ab", "abc", "b_c", "virtio", "virtio_blk", "virtio_ring", "zz"];
        let mut lines = BTreeMap::new();
        for name in names {
            std::fs::write(folder.join(format!("kernel/{name}.ko")), name).unwrap();
            let needs = if name == "abc" { " kernel/zz.ko kernel/virtio_ring.ko" } else { "" };
            lines.insert(name.to_owned(), format!("kernel/{name}.ko:{needs}"));
        }
        std::fs::write(folder.join("modules.dep.bin"), index(&lines)).unwrap();
        let ask = |name: &str| {
            let output = Command::new(crate::testing::tools::find("modprobe").expect("it was found"))
                .args(["-S", "6.1", "--show-depends", name, "-d"])
                .arg(work.path())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let lines = text.lines().filter_map(|line| line.rsplit('/').next());
            lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        for name in names.iter().filter(|name| **name != "abc") {
            assert_eq!(ask(name), [format!("{name}.ko")], "{name}");
        }
        assert_eq!(ask("abc"), ["virtio_ring.ko", "zz.ko", "abc.ko"]);
        assert!(ask("virt").is_empty());
    }
}
