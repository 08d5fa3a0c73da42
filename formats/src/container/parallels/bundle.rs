//! A bundle: a directory such as `web.hdd` with a descriptor, `DiskDescriptor.xml`, and the files that it names (QEMU's
//! `docs/interop/prl-xml`). Sectors have 512 bytes.
//!
//! The disk consists of one or more parts, each with a file for every snapshot. A snapshot has the clusters that differ from
//! its parent; the state of the disk is the one that the descriptor calls its top.

use std::sync::Arc;

use super::{Clusters, Header};
use crate::container::mapped::Mapped;
use crate::container::opener::{MAX_CHAIN, find_named};
use crate::container::{Disk, ImageFile, MAX_DISK, Opener, human};
use crate::error::{Result, at};
use crate::source::{Joined, Slice, Source};
use crate::xml;

/// The name of the descriptor.
pub(in crate::container) const DESCRIPTOR: &str = "DiskDescriptor.xml";
/// The name of its root element.
const ROOT: &str = "Parallels_disk_image";
/// The largest descriptor that is read, in bytes, and its most nodes.
pub(in crate::container) const MAX_DESCRIPTOR: u64 = 4 << 20;
const MAX_NODES: u32 = 100_000;
const SECTOR: u64 = 512;
/// The top of a disk whose descriptor does not name it.
const USUAL_TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
/// The parent of a snapshot that has none; the encryption of a disk that is not encrypted.
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";

/// Returns true if a file that begins with `head` is a descriptor.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let is_root = |window: &[u8]| window[0] == b'<' && window[1..] == *ROOT.as_bytes();
    text.starts_with(b"<") && text.windows(1 + ROOT.len()).any(is_root)
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::container) struct Descriptor {
    /// The parts of the disk, in its order, without gaps.
    parts: Vec<Part>,
    /// The snapshots to read, by their GUIDs: from the one without a parent to the state of the disk.
    chain: Vec<String>,
    /// The number of all snapshots, with the state of the disk.
    snapshots: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// Its first byte on the disk, and the one after it.
    start: u64,
    end: u64,
    images: Vec<Image>,
}

#[derive(Debug, PartialEq, Eq)]
struct Image {
    /// The snapshot that it belongs to.
    guid: String,
    /// True if the file has the bytes of the part; else it is an expanding image.
    is_plain: bool,
    file: String,
}

type Node<'a> = roxmltree::Node<'a, 'a>;

impl Descriptor {
    /// Parses a descriptor. The disk is as it was at `snapshot`, or as it is.
    pub(in crate::container) fn parse(bytes: &[u8], snapshot: Option<&str>) -> Result<Self> {
        let place = || at("Parallels descriptor");
        let document = xml::parse("Parallels descriptor", bytes, MAX_NODES)?;
        let root = document.root_element();
        if !root.has_tag_name(ROOT) {
            return Err(place().corrupt(format!("its root is not {ROOT}")));
        }
        let parameters = child(root, "Disk_Parameters")?;
        let size = bytes_of(parameters, "Disk_size")?;
        if size > MAX_DISK {
            return Err(place().limit(format!(
                "Disk_size is {}, over the limit of {}",
                human(size),
                human(MAX_DISK)
            )));
        }
        if text_of(parameters, "Padding").is_some_and(|padding| padding != "0") {
            return Err(place().field("Padding").unsupported("is set, and its meaning is not published"));
        }
        let engine = parameters.children().find(|node| node.has_tag_name("Encryption"));
        let engine = engine.and_then(|node| text_of(node, "Engine"));
        if engine.is_some_and(|engine| !engine.is_empty() && !engine.eq_ignore_ascii_case(NONE)) {
            return Err(place().unsupported("the disk is encrypted, and mif does not decrypt it"));
        }
        let mut parts = Vec::new();
        for node in child(root, "StorageData")?.children().filter(|node| node.has_tag_name("Storage")) {
            parts.push(Part::parse(node)?);
        }
        parts.sort_by_key(|part| part.start);
        let mut end = 0;
        for part in &parts {
            if part.start != end || part.end <= part.start {
                return Err(place().corrupt(format!(
                    "a part of the disk starts at byte {} and ends at {}, but the part before it ends at {end}",
                    part.start, part.end
                )));
            }
            end = part.end;
        }
        if end != size {
            return Err(
                place().corrupt(format!("the parts end at byte {end}, but Disk_size is {size} bytes"))
            );
        }
        let (chain, snapshots) = chain(child(root, "Snapshots")?, snapshot)?;
        Ok(Descriptor { parts, chain, snapshots })
    }

    /// Returns the names of all files that it names.
    pub(in crate::container) fn files(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| &part.images).map(|image| image.file.as_str())
    }
}

impl Part {
    fn parse(node: Node<'_>) -> Result<Self> {
        let (start, end) = (bytes_of(node, "Start")?, bytes_of(node, "End")?);
        let images = node.children().filter(|node| node.has_tag_name("Image"));
        let images = images.map(Image::parse).collect::<Result<_>>()?;
        Ok(Part { start, end, images })
    }
}

impl Image {
    fn parse(node: Node<'_>) -> Result<Self> {
        let place = || at("Parallels descriptor");
        let text =
            |name| text_of(node, name).ok_or_else(|| place().corrupt(format!("an Image has no {name}")));
        let is_plain = match text("Type")? {
            "Plain" => true,
            "Compressed" => false,
            other => return Err(place().field("Type").unsupported(format!("{other:?} is not known"))),
        };
        Ok(Image { guid: text("GUID")?.to_ascii_lowercase(), is_plain, file: text("File")?.to_owned() })
    }
}

/// Returns the GUIDs from the first snapshot to `wanted`, or to the top; and the number of all snapshots.
fn chain(node: Node<'_>, wanted: Option<&str>) -> Result<(Vec<String>, usize)> {
    let place = || at("Parallels descriptor");
    let mut shots: Vec<(String, String)> = Vec::new();
    for shot in node.children().filter(|node| node.has_tag_name("Shot")) {
        let text = |name| text_of(shot, name).ok_or_else(|| place().corrupt(format!("a Shot has no {name}")));
        shots.push((text("GUID")?.to_ascii_lowercase(), text("ParentGUID")?.to_ascii_lowercase()));
    }
    let top =
        text_of(node, "TopGUID").filter(|top| !top.is_empty()).unwrap_or(USUAL_TOP).to_ascii_lowercase();
    let mut next = match wanted {
        Some(wanted) => {
            let wanted = format!("{{{}}}", wanted.trim_matches(['{', '}']).to_ascii_lowercase());
            if !shots.iter().any(|(guid, _)| *guid == wanted) {
                let known: Vec<&str> = shots.iter().map(|(guid, _)| guid.as_str()).collect();
                return Err(at("").not_found(format!("no snapshot {wanted}; there are {}", known.join(", "))));
            }
            wanted
        }
        None => top,
    };
    let mut chain = Vec::new();
    while next != NONE {
        if chain.len() >= MAX_CHAIN {
            return Err(
                place().limit(format!("more than {MAX_CHAIN} snapshots follow each other, or in a circle"))
            );
        }
        let Some((_, parent)) = shots.iter().find(|(guid, _)| *guid == next) else {
            return Err(place().corrupt(format!("the snapshot {next} is not among its Shots")));
        };
        chain.push(std::mem::replace(&mut next, parent.clone()));
    }
    if chain.is_empty() {
        return Err(place().corrupt("names no snapshot"));
    }
    chain.reverse();
    Ok((chain, shots.len()))
}

fn child<'a>(node: Node<'a>, name: &str) -> Result<Node<'a>> {
    let found = node.children().find(|node| node.has_tag_name(name));
    found.ok_or_else(|| at("Parallels descriptor").corrupt(format!("has no {name}")))
}

fn text_of<'a>(node: Node<'a>, name: &str) -> Option<&'a str> {
    let found = node.children().find(|node| node.has_tag_name(name))?;
    Some(found.text().unwrap_or_default().trim())
}

/// Returns a number of sectors in bytes.
fn bytes_of(node: Node<'_>, name: &'static str) -> Result<u64> {
    let text = text_of(node, name);
    let bytes =
        text.and_then(|text| text.parse::<u64>().ok()).and_then(|sectors| sectors.checked_mul(SECTOR));
    bytes.ok_or_else(|| {
        at("Parallels descriptor")
            .field(name)
            .corrupt(format!("is {:?}, expected a number of sectors", text.unwrap_or("missing")))
    })
}

/// Opens the disk that the descriptor in `file` describes.
pub(super) fn open(file: &ImageFile, opener: &Opener<'_>) -> Result<Disk> {
    if file.len() > MAX_DESCRIPTOR {
        return Err(
            at("Parallels descriptor").limit(format!("has {} bytes, over {MAX_DESCRIPTOR}", file.len()))
        );
    }
    let text = file.read_vec(0, file.len() as usize)?;
    let descriptor = Descriptor::parse(&text, opener.options().snapshot.as_deref())?;
    let (mut files, mut warnings, mut parts) = (vec![file.opened()], Vec::new(), Vec::new());
    for part in &descriptor.parts {
        let len = part.end - part.start;
        let mut below: Option<Arc<dyn Source>> = None;
        for guid in &descriptor.chain {
            let image = part.images.iter().find(|image| image.guid == *guid).ok_or_else(|| {
                at("Parallels descriptor")
                    .corrupt(format!("the part at byte {} has no image of the snapshot {guid}", part.start))
            })?;
            // A descriptor may have the path on another machine.
            let names = [image.file.clone().into_bytes()];
            let (_, opened) = find_named(&names, |name| opener.open_named(file.path(), name))?;
            let path = opened.path().to_owned();
            files.push(opened.opened());
            let source: Arc<dyn Source> = match image.is_plain {
                true => Arc::new(opened),
                false => {
                    let header = Header::parse(&opened.read_up_to(0, super::HEADER)?);
                    let header = header.map_err(|e| e.in_file(&path))?;
                    warnings.extend(header.warning().map(|warning| format!("{}: {warning}", path.display())));
                    let clusters = Clusters::new(opened, header, below.is_some());
                    Arc::new(Mapped::new(clusters.map_err(|e| e.in_file(&path))?, below.take()))
                }
            };
            if source.len() < len {
                return Err(at("").file(&path).corrupt(format!(
                    "has {} bytes of the disk, but the descriptor says {len}: it is truncated",
                    source.len()
                )));
            }
            below = Some(Arc::new(Slice::new(source, 0..len)?));
        }
        parts.push((0..len, below.expect("there is at least one snapshot")));
    }
    let mut details = vec![("parts".to_owned(), parts.len().to_string())];
    if descriptor.snapshots > 1 {
        details.push(("snapshots".to_owned(), format!("{}, with the current state", descriptor.snapshots)));
        details.push(("snapshot".to_owned(), descriptor.chain.last().expect("not empty").clone()));
    }
    let (source, own_files) = (Arc::new(Joined::new("Parallels disk", parts)), files.len());
    Ok(Disk { source, format: "parallels", details, files, own_files, warnings, decrypted: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const TOP: &str = "{11111111-0000-0000-0000-000000000001}";
    const OLD: &str = "{11111111-0000-0000-0000-000000000002}";

    fn text(size: u64, parts: &[(u64, u64)], more: &str, shots: &str) -> String {
        let parts: String = parts
            .iter()
            .map(|(start, end)| {
                format!(
                    "<Storage><Start>{start}</Start><End>{end}</End><Image><GUID>{TOP}</GUID>\
                     <Type>Compressed</Type><File>{start}.hds</File></Image></Storage>"
                )
            })
            .collect();
        format!(
            "<?xml version='1.0'?>\n<Parallels_disk_image Version=\"1.0\"><Disk_Parameters><Disk_size>{size}\
             </Disk_size>{more}</Disk_Parameters><StorageData>{parts}</StorageData>\
             <Snapshots>{shots}</Snapshots></Parallels_disk_image>"
        )
    }

    fn parse(text: &str) -> Result<Descriptor> {
        Descriptor::parse(text.as_bytes(), None)
    }

    fn shots(pairs: &[(&str, &str)]) -> String {
        let shot = |(guid, parent): &(&str, &str)| {
            format!("<Shot><GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>")
        };
        format!("<TopGUID>{TOP}</TopGUID>{}", pairs.iter().map(shot).collect::<String>())
    }

    #[test]
    fn parts_are_read_in_the_order_of_the_disk_and_snapshots_from_the_oldest() {
        let whole = text(20, &[(8, 20), (0, 8)], "<Padding>0</Padding>", &shots(&[(TOP, OLD), (OLD, NONE)]));
        assert!(is_descriptor(whole.as_bytes()) && !is_descriptor(b"<plist/>"));
        let found = parse(&whole).unwrap();
        assert_eq!((found.parts[0].end, found.parts[1].end), (4096, 10_240));
        assert_eq!(found.chain, [OLD, TOP]);
        assert_eq!(found.files().collect::<Vec<_>>(), ["0.hds", "8.hds"]);
        let old = Descriptor::parse(whole.as_bytes(), Some(OLD.trim_matches(['{', '}']))).unwrap();
        assert_eq!(old.chain, [OLD]);
        let missing = Descriptor::parse(whole.as_bytes(), Some("5")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = shots(&[(TOP, NONE)]);
        assert!(parse(&text(8, &[(0, 8)], "", &good)).is_ok());
        for (bad, words) in [
            (text(9, &[(0, 8)], "", &good), "Disk_size is"),
            (text(8, &[(0, 4), (5, 8)], "", &good), "the part before it ends at 2048"),
            (text(8, &[(0, 5), (4, 8)], "", &good), "the part before it ends at"),
            (text(8, &[], "", &good), "the parts end at byte 0"),
            (text(u64::MAX, &[(0, 8)], "", &good), "a number of sectors"),
            (text(1 << 50, &[(0, 1 << 50)], "", &good), "over the limit"),
            (text(8, &[(0, 8)], "<Padding>1</Padding>", &good), "not published"),
            (
                text(8, &[(0, 8)], &format!("<Encryption><Engine>{OLD}</Engine></Encryption>"), &good),
                "encrypted",
            ),
            (text(8, &[(0, 8)], "", ""), "is not among its Shots"),
            (text(8, &[(0, 8)], "", &shots(&[(TOP, OLD)])), "is not among its Shots"),
            (text(8, &[(0, 8)], "", &shots(&[(TOP, TOP)])), "in a circle"),
            (text(8, &[(0, 8)], "", &shots(&[(OLD, NONE)])), "is not among its Shots"),
            (text(8, &[(0, 8)], "", &good).replace("Compressed", "Deflated"), "is not known"),
            (text(8, &[(0, 8)], "", &good).replace("Snapshots", "Shots"), "has no Snapshots"),
            (format!("<!DOCTYPE x [<!ENTITY a \"b\">]>{}", "<x/>"), "not valid XML"),
            ("<plist/>".to_owned(), "its root is not"),
        ] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
