//! The store's other files: the index of a pack, lists of chunks, the digests beside a manifest.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::mif::pack::Encoding;
use mif_formats::mif::{chunks, digests, pack};
use mif_fuzz::Bases;

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("pack"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, file)) = BASES.decode(input) else { return Corpus::Reject };
    let file = file.bytes();
    let len = file.len() as u64;
    let _ = pack::decode_index(&file);
    if let Some(trailer) = file.last_chunk::<{ pack::TRAILER }>()
        && let Ok(index) = pack::index_len(trailer, len)
    {
        let _ = pack::decode_index(&file[(len - index) as usize..]);
    }
    for claimed in [0, 5 << 20, len] {
        if let Ok(chunks) = chunks::decode_list(Encoding::List, &file, claimed) {
            assert_eq!(chunks::encode_list(&chunks)[32..], file[32..]);
        }
        if let Ok(chunks) = chunks::decode_list(Encoding::DecodingList, &file, claimed) {
            assert_eq!(chunks::encode_decoding_list(&chunks)[32..], file[32..]);
        }
    }
    if let Some(header) = file.get(..digests::HEADER)
        && let Ok(sections) = digests::sections(header, len)
    {
        for range in [sections.blake3, sections.sha1] {
            let entries = &file[range.start as usize..range.end as usize];
            assert!(digests::find(entries, &file[..32]).count() <= entries.len());
        }
    }
    Corpus::Keep
});
