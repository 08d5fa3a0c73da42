//! Makes a store with many manifests, for measuring what takes a large library.
//!
//! `make-library STORE [IMAGES [FILES [OWN]]]`, by default 1,000 images of 15,000 files. One file in OWN, by default ten,
//! belongs to its image only, and all images share the others. With OWN, the contents are stored too, and packages: eight
//! tables of them, which the images share. The same arguments make the same manifests.

use std::collections::BTreeSet;
use std::path::Path;

use mif::store::{Counts, Image, ObjectWriter, Store};
use mif_formats::fs::{FileId, FileType, Node, Timestamp};
use mif_formats::mif::layout::Builder;
use mif_formats::mif::manifest::{self, Body, Row};
use mif_formats::mif::packages::{self, Package};
use mif_formats::mif::{ObjectId, digests};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let store = arguments.first().expect("usage: make-library STORE [IMAGES [FILES]]");
    let number = |i: usize, other| arguments.get(i).map_or(other, |n| n.parse().expect("a number"));
    let (images, files, own) = (number(1, 1000), number(2, 15_000), number(3, 10));
    let is_filled = arguments.len() > 3;
    let store = Store::open_or_create(Path::new(store), &mif::Silent).expect("the store can be made");
    let mut builder = Builder::new();
    builder.zero(1 << 30);
    let (layout, digest) = builder.finish().encode();
    if is_filled {
        let writer = ObjectWriter::new(&store).expect("the store can be written to");
        for (image, i) in (0..images).flat_map(|image| (0..files).map(move |i| (image, i))) {
            if image == 0 || is_own(i, own) {
                writer.put(&content(i, owner(image, i, own))).expect("the content can be stored");
            }
        }
        writer.finish().expect("the contents can be stored");
    }
    for image in 0..images {
        let rows = rows(image, files, own);
        let packages = if is_filled { packages_of(&rows, image % 8) } else { Vec::new() };
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
            ("packages.parquet", &packages::write(&packages).expect("a small table")),
        ];
        store.publish(record, &manifest, &layout, &more).expect("the image can be published");
    }
}

/// Returns the rows of an image: directories of forty files, with names as long as those of a Debian tree.
fn rows(image: usize, files: usize, own: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..files).map(|i| row(image, i, own)).collect();
    let mut folders = BTreeSet::from([b"/".to_vec()]);
    for row in &rows {
        let slashes = (1..row.path.len()).filter(|at| row.path[*at] == b'/');
        folders.extend(slashes.map(|at| row.path[..at].to_vec()));
    }
    rows.extend(folders.into_iter().enumerate().map(|(i, path)| {
        let node = Node { mode: Some(0o755), uid: Some(0), gid: Some(0), ..Node::bare(FileType::Dir) };
        Row::new("p1", path, Some(FileId((files + i) as u32)), node)
    }));
    rows.sort_by_key(Row::path_text);
    rows
}

/// Returns true if the file belongs to its image only.
fn is_own(i: usize, own: usize) -> bool {
    i % own == own - 1
}

/// Returns the number of the image that a file belongs to, from 1; 0 if it belongs to all.
fn owner(image: usize, i: usize, own: usize) -> u64 {
    if is_own(i, own) { image as u64 + 1 } else { 0 }
}

fn content(i: usize, owner: u64) -> Vec<u8> {
    [(i as u64).to_le_bytes(), owner.to_le_bytes()].concat()
}

/// Returns a package for each directory of files. One of them is of another version in each of eight kinds of images.
fn packages_of(rows: &[Row], kind: usize) -> Vec<Package> {
    let folder = |row: &Row| row.path_text().rsplit_once('/').expect("an absolute path").0.to_owned();
    let files: Vec<&Row> = rows.iter().filter(|row| row.body.is_some()).collect();
    files
        .chunk_by(|a, b| folder(a) == folder(b))
        .enumerate()
        .map(|(number, files)| Package {
            volume: "p1".into(),
            manager: "dpkg".into(),
            name: format!("package-{number:04}"),
            version: format!("1:{}.{}-1", number % 13, if number == 7 { kind } else { number % 5 }),
            architecture: Some("amd64".into()),
            status: "installed".into(),
            source: number.is_multiple_of(3).then(|| format!("source-{:04}", number / 3)),
            files: files.iter().map(|row| row.path_text()).collect(),
        })
        .collect()
}

fn row(image: usize, i: usize, own: usize) -> Row {
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
    let own = owner(image, i, own);
    let id = ObjectId::of(&content(i, own));
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
