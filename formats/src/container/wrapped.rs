//! Disks in wrappers: opens compressed files and archives, layer by layer, down to the file of a container.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Archive, Stop, folder_of};
use super::file::ImageFile;
use super::opener::Opener;
use super::parallels::DESCRIPTOR;
use super::survey::{Survey, holds_disk, suffix_of};
use super::{FORMATS, Observer, OpenOptions, has_written_suffix};
use crate::error::{Error, ErrorKind, Result, at};
use crate::source::Source;
use crate::wrapper::{
    ArchiveKind, Digests, Forward, Index, Kind, Member, Workshop, decoded_head, index, vma_disks,
};

/// The most wrappers around a disk: a disk in gzip, in a tar, in xz.
const MAX_LAYERS: usize = 3;

/// The most names that an error lists.
const LISTED: usize = 10;

/// Splits `FILE//MEMBER`: the path of a file, and the name of a member in it. A path without a member is returned
/// unchanged; so is one with two slashes after a directory, where they mean one.
#[must_use]
pub fn split_member(path: &Path) -> (PathBuf, Option<String>) {
    let bytes = path.as_os_str().as_bytes();
    let places = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == b"//").map(|(place, _)| place);
    for place in places {
        let file = Path::new(std::ffi::OsStr::from_bytes(&bytes[..place]));
        let member = bytes[place + 2..].trim_ascii_start();
        if !member.is_empty() && file.is_file() {
            return (file.to_owned(), Some(String::from_utf8_lossy(member).into_owned()));
        }
    }
    (path.to_owned(), None)
}

/// Suffixes of compressed files.
const PACKED: [&str; 8] = ["xz", "gz", "zst", "bz2", "lz4", "lzo", "lzma", "zstd"];

/// Returns the name of a file without its suffix, and without that of what is compressed in it: `web` for `web.qcow2`,
/// `web.qcow2.xz` and `web.tar.gz`.
#[must_use]
pub fn stem(path: &Path) -> String {
    // The directory of a bundle names the disk.
    if path.file_name().is_some_and(|name| name == DESCRIPTOR)
        && let Some(bundle) = path.parent().filter(|bundle| bundle.file_name().is_some())
    {
        return stem(bundle);
    }
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let suffix = suffix_of(&text(path.file_name()));
    let stem = text(path.file_stem());
    let inner = suffix_of(&stem);
    let is_known = has_written_suffix(Path::new(&stem))
        || ["tar", "vma", "ova", "zip", "box", "dd", "qed", "hdd", "hds"].contains(&&*inner)
        || PACKED.contains(&&*inner);
    match PACKED.contains(&&*suffix) && is_known {
        true => self::stem(Path::new(&stem)),
        false => stem,
    }
}

/// What is in a wrapper, or the file itself if it is none.
pub(super) struct Unwrapped {
    pub(super) file: ImageFile,
    /// The archive that the file is a member of.
    pub(super) archive: Option<Arc<Archive>>,
    pub(super) details: Vec<(String, String)>,
    pub(super) warnings: Vec<String>,
}

/// Opens the wrappers of a file down to `member`, or to the only disk in it.
pub(super) fn unwrap(
    file: ImageFile,
    member: Option<&str>,
    options: &OpenOptions,
    observer: &dyn Observer,
) -> Result<Unwrapped> {
    let stop = Stop(observer);
    let mut found = Unwrapped { file, archive: None, details: Vec::new(), warnings: Vec::new() };
    let mut left = member;
    let (stamp, mut was_decoded) = (found.file.stamp()?, false);
    let workshop = Workshop::new(&options.unpack, found.file.len(), &stop);
    let is_raw = options.format.as_deref() == Some("raw");
    for layer in 0.. {
        let Some(kind) = kind_of(&found.file)? else { break };
        // The user wants these bytes as they are.
        if is_raw && left.is_none() && (layer == 0 || member.is_some()) {
            break;
        }
        let path = found.file.path().to_owned();
        let in_file = |e: Error| e.in_file(&path);
        if layer == MAX_LAYERS {
            return Err(at("")
                .file(&path)
                .limit(format!("the file has more than {MAX_LAYERS} wrappers around each other")));
        }
        found.details.push(("wrapper".to_owned(), kind.name().trim_start_matches("a ").to_owned()));
        let source: Arc<dyn Source> = Arc::new(found.file.clone());
        match kind {
            Kind::Compressed(codec) => {
                let unpack = || workshop.unpack(codec, &source).map_err(in_file);
                let unpacked = match &options.shelf {
                    Some(shelf) if layer == 0 => shelf.get((found.file.identity()?, stamp), unpack)?,
                    _ => unpack()?,
                };
                was_decoded = true;
                if unpacked.garbage > 0 {
                    found.warnings.push(format!(
                        "{} bytes after the end of the {} are ignored",
                        unpacked.garbage,
                        codec.name()
                    ));
                }
                found.file = found.file.unwrapped(unpacked.source);
            }
            Kind::Archive(kind) => {
                let mut survey = Survey::new(kind);
                let index =
                    index(kind, &source, &mut |member| survey.see(&source, member)).map_err(in_file)?;
                let (number, rest) = choose(&found.file, &index, &survey, left)?;
                left = rest;
                let member = &index.members[number];
                let bytes = match member.in_place(&source).map_err(in_file)? {
                    Some(bytes) => bytes,
                    None => member.unpack(&source, &workshop).map_err(in_file)?.source,
                };
                check_digest(&survey, &index, &source, member, &bytes, observer, &mut found.warnings)
                    .map_err(in_file)?;
                found.details.push(("member".to_owned(), member.name.clone()));
                for name in &index.configurations {
                    found.details.push(("configuration".to_owned(), name.clone()));
                }
                let archive = found.file.clone();
                found.file = archive.member(&member.name, number, bytes);
                let members = index.members;
                found.archive = Some(Arc::new(Archive {
                    file: archive,
                    source,
                    members,
                    limits: options.unpack.clone(),
                }));
            }
        }
    }
    // The file's times are recorded after this. Then they have to be those of what was decoded.
    if was_decoded && found.file.stamp()? != stamp {
        return Err(at("")
            .file(found.file.path())
            .corrupt("the file was changed while it was being unpacked; try again"));
    }
    match left {
        None => Ok(found),
        Some(left) => {
            let path = found.file.path();
            Err(at("").file(path).not_found(format!("has no member {left:?}, because it is not an archive")))
        }
    }
}

/// Recognises a wrapper. A container that is recognised by its end may begin like one.
fn kind_of(file: &ImageFile) -> Result<Option<Kind>> {
    let head = file.read_up_to(0, 4096)?;
    let tail = file.read_up_to(file.len().saturating_sub(1024), 1024)?;
    if FORMATS.iter().any(|format| format.probe(&head, &tail, file.len())) {
        return Ok(None);
    }
    Ok(Kind::of(&head, file.len()))
}

/// Returns the number of the member to open, and the name of the member to look for in it.
fn choose<'n>(
    file: &ImageFile,
    index: &Index,
    survey: &Survey,
    wanted: Option<&'n str>,
) -> Result<(usize, Option<&'n str>)> {
    let place = || at("").file(file.path());
    let names = |numbers: &[usize]| {
        let shown = numbers.iter().take(LISTED).map(|number| index.members[*number].name.as_str());
        let more = if numbers.len() > LISTED { ", …" } else { "" };
        format!("{}{more}", shown.collect::<Vec<_>>().join(", "))
    };
    let disks = survey.disks(index);
    if let Some(wanted) = wanted {
        // Of members with one name, the last counts, as when they are extracted.
        let number = |name: &str| index.members.iter().rposition(|member| member.name == name);
        if let Some(number) = number(wanted) {
            return Ok((number, None));
        }
        for (place, _) in wanted.match_indices("//") {
            if let Some(number) = number(&wanted[..place]) {
                return Ok((number, Some(&wanted[place + 2..])));
            }
        }
        let there = match disks.as_deref().unwrap_or_default() {
            [] => String::new(),
            disks => format!("; its disks are {}", names(disks)),
        };
        return Err(place().not_found(format!("has no member {wanted:?}{there}")));
    }
    match &disks.map_err(|e| e.in_file(file.path()))?[..] {
        [disk] => Ok((*disk, None)),
        [] => Err(place().unsupported(format!(
            "this is {} without a disk image in it that mif recognises; name a member as {}//MEMBER, or pass --format \
             raw to read the archive itself as a raw disk",
            survey.kind_name(),
            file.path().display()
        ))),
        disks => Err(place().ambiguous(format!(
            "has {} disks: {}; name one, as in {}//{}",
            disks.len(),
            names(disks),
            file.path().display(),
            index.members[disks[0]].name
        ))),
    }
}

/// Checks the digests of a manifest (`.mf`): those of the descriptor, and of the member that is opened. Warns of a wrong
/// length in the descriptor.
fn check_digest(
    survey: &Survey,
    index: &Index,
    archive: &Arc<dyn Source>,
    member: &Member,
    bytes: &Arc<dyn Source>,
    observer: &dyn Observer,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if let Some(stated) = survey.stated_size(&member.name).filter(|stated| *stated != member.len) {
        warnings.push(format!(
            "the OVF descriptor says that {} has {stated} bytes, but it has {}",
            member.name, member.len
        ));
    }
    let Some((manifest, text)) = &survey.digests else { return Ok(()) };
    let digests = Digests::parse(text)?;
    let folder = folder_of(manifest);
    let check =
        |name: &str, source: &dyn Source| match name.strip_prefix(folder).and_then(|name| digests.of(name)) {
            Some(digest) if digest.fits(source, &|| observer.interrupted())? => Ok(true),
            Some(_) => Err(at("").corrupt(format!(
                "{name}: its digest differs from that in {manifest}: the file is damaged or was changed"
            ))),
            None => Ok(false),
        };
    if let Some((descriptor, _)) = &survey.descriptor
        && let Some(member) = index.members.iter().rfind(|member| member.name == *descriptor)
        && let Some(source) = member.in_place(archive)?
    {
        check(descriptor, &source)?;
    }
    if !check(&member.name, bytes)? && survey.descriptor.is_some() {
        warnings.push(format!("{manifest} has no digest of {}", member.name));
    }
    Ok(())
}

/// The disks in a wrapper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrapped {
    /// It is no archive, and holds one disk.
    Disk,
    /// The names of the disks in an archive, to be named after `//`. None if there are no disks.
    Members(Vec<String>),
    /// It is compressed, and holds nothing that is known to be a disk. The text says what it is.
    Nothing(&'static str),
}

/// Lists the disks in the wrapper at `path`; `None` if it is no wrapper. A compressed archive is decoded, but nothing of
/// it is stored.
pub fn wrapped(path: &Path, options: &OpenOptions, observer: &dyn Observer) -> Result<Option<Wrapped>> {
    let file = Opener::new(path, options)?.open_image(path)?;
    let Some(kind) = kind_of(&file)? else { return Ok(None) };
    let limit = options.unpack.of(file.len());
    let source: Arc<dyn Source> = Arc::new(file);
    let path_of = |e: Error| e.in_file(path);
    let (kind, source) = match kind {
        Kind::Archive(kind) => (kind, source),
        Kind::Compressed(codec) => {
            let head = decoded_head(codec, &source, crate::wrapper::HEAD);
            match Kind::of(&head, u64::MAX >> 1) {
                Some(Kind::Archive(kind @ (ArchiveKind::Tar | ArchiveKind::Vma))) => {
                    let forward: Arc<dyn Source> =
                        Arc::new(Forward::new(codec, source, limit).map_err(path_of)?);
                    (kind, forward)
                }
                Some(Kind::Archive(ArchiveKind::Zip) | Kind::Compressed(_)) => {
                    return Ok(Some(Wrapped::Nothing(codec.name())));
                }
                None => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    return Ok(Some(match holds_disk(codec, &source, &name) {
                        true => Wrapped::Disk,
                        false => Wrapped::Nothing(codec.name()),
                    }));
                }
            }
        }
    };
    if kind == ArchiveKind::Vma {
        let disks = vma_disks(&*source).map_err(path_of)?;
        return Ok(Some(Wrapped::Members(disks.into_iter().map(|(name, _)| name).collect())));
    }
    let mut survey = Survey::new(kind);
    let found = index(kind, &source, &mut |member| match observer.interrupted() {
        true => Err(at("").io(std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted"))),
        false => survey.see(&source, member),
    });
    match found {
        Ok(_) => Ok(Some(Wrapped::Members(survey.names().map_err(path_of)?))),
        // An archive that breaks off before any disk is not worth an error in a directory of files.
        Err(e) if survey.disks.is_empty() && e.kind() == ErrorKind::Corrupt => {
            Ok(Some(Wrapped::Nothing(Kind::Archive(kind).name())))
        }
        Err(e) => Err(path_of(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_names_its_disk() {
        assert_eq!(stem(Path::new("vm.pvm/web.hdd/DiskDescriptor.xml")), "web");
        assert_eq!(stem(Path::new("web.hdd")), "web");
        assert_eq!(stem(Path::new("DiskDescriptor.xml")), "DiskDescriptor");
    }

    #[test]
    fn a_member_is_named_after_two_slashes_behind_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ova");
        std::fs::write(&file, "x").unwrap();
        let split = |text: &str| split_member(&dir.path().join(text));
        assert_eq!(split("a.ova"), (file.clone(), None));
        assert_eq!(split("a.ova//b/c.vmdk"), (file.clone(), Some("b/c.vmdk".into())));
        assert_eq!(split("a.ova//b.ova//c.vmdk"), (file.clone(), Some("b.ova//c.vmdk".into())));
        let plain = PathBuf::from(format!("{}//a.ova", dir.path().display()));
        assert_eq!(split_member(&plain), (plain.clone(), None));
        let both = PathBuf::from(format!("{}//a.ova//c", dir.path().display()));
        assert_eq!(split_member(&both), (plain, Some("c".into())));
    }
}
