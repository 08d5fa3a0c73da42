//! Makes a store with many manifests and no content, for measuring searches over a large library, and 400 packages an image.
//!
//! `make-library STORE [IMAGES [FILES]]`, by default 1,000 images of 15,000 files. Nine of ten files of an image are
//! shared by all images; the same arguments make the same manifests.

use std::path::Path;

use mif::store::{Counts, Image, Store};
use mif_formats::fs::{FileId, FileType, Node, Timestamp};
use mif_formats::mif::layout::Builder;
use mif_formats::mif::manifest::{self, Body, Row};
use mif_formats::mif::{ObjectId, digests, packages};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let store = arguments.first().expect("usage: make-library STORE [IMAGES [FILES]]");
    let number = |i: usize, other| arguments.get(i).map_or(other, |n| n.parse().expect("a number"));
    let (images, files) = (number(1, 1000), number(2, 15_000));
    let store = Store::open_or_create(Path::new(store), &mif::Silent).expect("the store can be made");
    let mut builder = Builder::new();
    builder.zero(1 << 30);
    let (layout, digest) = builder.finish().encode();
    for image in 0..images {
        let rows = rows(image, files);
        let mut manifest = Vec::new();
        manifest::write(&mut manifest, &rows).expect("into memory");
        let record = Image {
            disk_size: 1 << 30,
            layout_digest: ObjectId::content(digest).to_string(),
            manifest_digest: ObjectId::of(&manifest).to_string(),
            counts: Counts { paths: rows.len() as u64, ..Counts::default() },
            ..Image::empty(&format!("image{image:04}"), 0, "import")
        };
        let more: [(&str, &[u8]); 2] = [
            ("digests", &digests::encode(&rows)),
            ("packages.parquet", &packages::write(&packages_of(image)).expect("they fit")),
        ];
        store.publish(record, &manifest, &layout, &more).expect("the image can be published");
    }
}

/// Returns 400 packages of 30 paths, one in ten with a version of its own.
fn packages_of(image: usize) -> Vec<packages::Package> {
    let package = |i: usize| packages::Package {
        volume: "p1".into(),
        manager: "dpkg".into(),
        name: format!("package-{i:04}"),
        version: format!("1.{}-{}", i % 7, if i % 10 == 9 { image } else { 0 }),
        architecture: Some("amd64".into()),
        status: "installed".into(),
        source: i.is_multiple_of(3).then(|| format!("source-{}", i / 3)),
        files: (0..30).map(|file| format!("/usr/share/package-{i:04}/file-{file:02}")).collect(),
    };
    (0..400).map(package).collect()
}

/// Returns the rows of an image: directories of forty files, with names as long as those of a Debian tree.
fn rows(image: usize, files: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..files).map(|i| row(image, i)).collect();
    rows.sort_by_key(Row::path_text);
    rows
}

fn row(image: usize, i: usize) -> Row {
    const PLACES: [&str; 6] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/share/doc",
        "/usr/share/zoneinfo",
        "/usr/lib/python3/dist-packages",
        "/var/lib/dpkg/info",
        "/etc",
    ];
    let folder = i / 40;
    let place = PLACES[folder % PLACES.len()];
    let path = match i {
        0 => "/etc/passwd".to_owned(),
        1 => "/usr/bin/sudo".to_owned(),
        _ => format!("{place}/package-{folder:04}/module_{:05}.so", i * 7919 % 100_000),
    };
    // One file in ten belongs to this image only.
    let own = if i % 10 == 9 { image as u64 + 1 } else { 0 };
    let content = [&(i as u64).to_le_bytes()[..], &own.to_le_bytes()].concat();
    let id = ObjectId::of(&content);
    let time = Timestamp { secs: 1_600_000_000 + (i as i64 * 131 + own as i64) % 100_000_000, nanos: 0 };
    let node = Node {
        mode: Some(if i == 1 { 0o4755 } else { 0o644 }),
        uid: Some(if i % 100 == 7 { 33 } else { 0 }),
        gid: Some(0),
        nlink: Some(1),
        inode: Some(12 + i as u64),
        size: u64::from(id.digest[0]) << (id.digest[1] % 12),
        mtime: Some(time),
        atime: Some(time),
        ctime: Some(time),
        crtime: Some(time),
        flags: 0x8_0000,
        generation: Some(u32::from_le_bytes(id.digest[..4].try_into().expect("four bytes"))),
        ..Node::bare(FileType::File)
    };
    let sha1 = id.digest[..20].try_into().expect("twenty bytes");
    Row {
        body: Some(Body::Digested { sha1, blake3: id.digest }),
        ..Row::new("p1", path.into_bytes(), Some(FileId(i as u32)), node)
    }
}
