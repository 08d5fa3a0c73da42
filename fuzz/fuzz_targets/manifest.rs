//! The manifest, as a whole and by single columns as searches read them; and the table of packages beside it.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::mif::manifest::columns::{self, Column, Columns};
use mif_formats::mif::{manifest, packages};
use mif_fuzz::Bases;

static BASES: LazyLock<Bases> = LazyLock::new(|| {
    // Panics in the Parquet crate are caught, but the fuzzer's own hook would end the process before that. Uncaught
    // panics still end it.
    std::panic::set_hook(Box::new(|_| {}));
    Bases::of("manifest")
});

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((name, file)) = BASES.decode(input) else { return Corpus::Reject };
    let file = Bytes::from(file.bytes());
    if name.starts_with("packages") {
        if let Ok(read) = packages::read(file) {
            packages::write(&read).expect("packages that were read can be written");
        }
        return Corpus::Keep;
    }
    if let Ok(rows) = manifest::read(file.clone()) {
        let mut again = Vec::new();
        manifest::write(&mut again, &rows).expect("rows that were read can be written");
    }
    let Ok(columns) = Columns::open(file) else { return Corpus::Keep };
    for group in columns.groups() {
        let _ = group.texts(Column::Path);
        let _ = group.blobs(Column::LinkTarget);
        let _ = group.numbers(Column::Size);
        let _ = group.digests::<20>(Column::Sha1);
        let _ = columns::xattrs(&group);
        let _ = group.bounds(Column::Path);
        let some: Vec<usize> = (0..group.rows.min(100)).step_by(3).collect();
        let _ = group.texts_at(Column::Path, &some);
        let _ = group.numbers_at(Column::Mode, &some);
        let _ = group.digests_at::<32>(Column::Blake3, &some);
        let _ = group.blobs_at(Column::PathBytes, &some);
    }
    Corpus::Keep
});
