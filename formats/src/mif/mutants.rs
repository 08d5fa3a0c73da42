//! Damaged files of a store: none may make a reader panic, run for long, or use memory out of proportion to the file.
//! Their digests are correct, because an attacker can compute those too.

use parquet::basic::Compression;

use super::manifest;
use super::manifest::columns::{self, Column, Columns};
use super::manifest::tests::row;
use super::packages::{self, Package};
use super::{ObjectId, chunks, digests, layout, pack};
use crate::codec::{self, Codec};
use crate::fs::Xattr;
use crate::testing::Dice;

/// Returns damaged copies of `good`; half of the damage is in its last `tail` bytes, and some copies are truncated.
fn mutants(good: &[u8], tail: usize, count: u64) -> impl Iterator<Item = (Dice, Vec<u8>)> {
    (0..count).map(move |seed| {
        let mut dice = Dice::new(seed);
        let mut bad = good.to_vec();
        dice.mutate(&mut bad, &[0..good.len(), good.len() - tail..good.len()]);
        if dice.roll(20) == 0 {
            bad.truncate(dice.roll(bad.len()));
        }
        (dice, bad)
    })
}

/// Returns `body` as a store keeps it, preceded by its digest.
fn sealed(head: &[u8], body: &[u8]) -> Vec<u8> {
    [head, blake3::hash(body).as_bytes(), body].concat()
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_manifests_do_no_harm() {
    let rows: Vec<_> = (0..300)
        .map(|i| {
            let mut row = row(format!("/folder {:02}/file {i:03}", i / 20).as_bytes());
            row.node.uid = (i % 3 > 0).then_some(i / 50);
            row.node.link_target = (i % 7 == 0).then(|| format!("target {}", i % 4).into_bytes());
            let xattr = |name: &str| Xattr { name: name.into(), value: vec![i as u8; i as usize % 30] };
            row.node.xattrs = ["user.a", "user.b"][..i as usize % 3].iter().map(|name| xattr(name)).collect();
            row
        })
        .collect();
    let mut good = Vec::new();
    manifest::write_with(Compression::UNCOMPRESSED, &mut good, &rows).unwrap();
    assert_eq!(manifest::read(bytes::Bytes::from(good.clone())).unwrap(), rows);
    let mut whole = 0;
    for (mut dice, bad) in mutants(&good, 5000, 10_000) {
        let Ok(columns) = Columns::open(bytes::Bytes::from(bad.clone())) else { continue };
        whole += usize::from(manifest::read(bytes::Bytes::from(bad)).is_ok());
        for group in columns.groups() {
            let some: Vec<usize> = (0..group.rows).filter(|_| dice.roll(10) == 0).collect();
            let _ = columns::xattrs(&group);
            let _ = group.each_text(Column::Path, |_| {});
            let _ = group.texts_at(Column::Path, &some);
            let _ = group.texts_at(Column::Volume, &some);
            let _ = group.numbers_at(Column::Mode, &some);
            let _ = group.blobs_at(Column::LinkTarget, &some);
            let _ = group.digests_at::<32>(Column::Blake3, &some);
        }
    }
    assert!((1000..9000).contains(&whole), "{whole}");
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_package_tables_do_no_harm() {
    let package = |i: usize| Package {
        volume: "p1".into(),
        manager: "dpkg".into(),
        name: format!("package {i}"),
        version: "1.2".into(),
        architecture: i.is_multiple_of(2).then(|| "amd64".into()),
        status: "installed".into(),
        source: None,
        files: (0..i % 5).map(|file| format!("/usr/{file}")).collect(),
    };
    let all: Vec<_> = (0..50).map(package).collect();
    let good = packages::write_with(Compression::UNCOMPRESSED, &all).unwrap();
    assert_eq!(packages::read(good.clone().into()).unwrap(), all);
    let whole =
        mutants(&good, good.len() - 4, 10_000).filter(|(_, bad)| packages::read(bad.clone().into()).is_ok());
    let whole = whole.count();
    assert!((500..9000).contains(&whole), "{whole}");
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_layouts_do_no_harm() {
    let mut builder = layout::Builder::new();
    for i in 0..200_u64 {
        builder.content(4096 * (i % 7 + 1), ObjectId::content([i as u8 % 20; 32]), i << 20);
        builder.zero(i % 3 * 512);
        builder.residue(512, ObjectId::content([i as u8 % 9 + 100; 32]), 0);
    }
    let good = builder.finish().encode_body();
    let mut whole = 0;
    for (_, bad) in mutants(&good, 1000, 20_000) {
        let Ok(read) = layout::Layout::decode_body(&bad) else { continue };
        whole += 1;
        let mut end = 0;
        for segment in read.segments() {
            assert!(segment.range.start == end && segment.range.end > end);
            end = segment.range.end;
        }
        assert_eq!(end, read.disk_size());
    }
    assert!((500..19_000).contains(&whole), "{whole}");
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_packs_do_no_harm() {
    let mut writer = pack::PackWriter::new(Vec::new(), super::PackId([7; 32])).unwrap();
    for i in 0..20 {
        writer.add(ObjectId::content([i; 32]), pack::Encoding::Zstd, &[i; 30], 600).unwrap();
    }
    let (file, _, index, _) = writer.finish().unwrap();
    let mut whole = 0;
    for (_, mut bad) in mutants(&index, 60, 20_000) {
        // The last 40 bytes are the digest of everything before them, and the magic.
        if let Some(end) = bad.len().checked_sub(40) {
            let digest = blake3::hash(&bad[..end]);
            bad[end..end + 32].copy_from_slice(digest.as_bytes());
        }
        whole += usize::from(pack::decode_index(&bad).is_ok());
        if let Some(trailer) = bad.last_chunk() {
            let len = pack::index_len(trailer, file.len() as u64);
            assert!(len.is_err() || len.unwrap() <= file.len() as u64);
        }
    }
    assert!((5000..19_500).contains(&whole), "{whole}");
    let chunks: Vec<_> = (0..9)
        .map(|i| chunks::Chunk {
            id: (i > 3).then_some(ObjectId::content([i; 32])),
            len: 1 << 20,
            decode: None,
        })
        .collect();
    let list = chunks::encode_list(&chunks);
    for (_, bad) in mutants(&list[32..], 40, 10_000) {
        if let Ok(chunks) = chunks::decode_list(pack::Encoding::List, &sealed(b"", &bad), 9 << 20) {
            assert_eq!(chunks.iter().map(|chunk| chunk.len).sum::<u64>(), 9 << 20);
        }
    }
    let decode = chunks::Decode { codec: Codec::BtrfsLzo { sector: 4096 }, decoded: 2 << 20, from: 77 };
    let mut chunks = chunks;
    chunks[6].decode = Some(decode);
    let list = chunks::encode_decoding_list(&chunks);
    for (_, bad) in mutants(&list[32..], 56, 10_000) {
        let digest = blake3::derive_key(chunks::DECODING_CONTEXT, &bad);
        let bad = [&digest[..], &bad].concat();
        for chunk in chunks::decode_list(pack::Encoding::DecodingList, &bad, 9 << 20).unwrap_or_default() {
            let Some(chunks::Decode { decoded, from, .. }) = chunk.decode else { continue };
            assert!(u64::from(from) + chunk.len <= u64::from(decoded) && decoded <= codec::MAX);
        }
    }
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_digests_do_no_harm() {
    let rows: Vec<_> = (0..40).map(|i| row(format!("/{i}").as_bytes())).collect();
    let good = digests::encode(&rows);
    let (magic, body) = (&good[..8], &good[40..]);
    for (_, bad) in mutants(body, 300, 10_000) {
        let bad = sealed(magic, &bad);
        let Some(header) = bad.get(..digests::HEADER) else { continue };
        let Ok(sections) = digests::sections(header, bad.len() as u64) else { continue };
        for range in [sections.blake3, sections.sha1] {
            let entries = &bad[range.start as usize..range.end as usize];
            assert!(digests::find(entries, &[3; 32]).count() <= rows.len() * 2);
        }
    }
}
