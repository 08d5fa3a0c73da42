//! Every wrapper: the index of an archive and its members, and what a compressed file decodes to.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mif_formats::wrapper::{Descriptor, Digests, Forward, Kind, index};
use mif_formats::{MemSource, Source};
use mif_fuzz::read_all;

fuzz_target!(|input: &[u8]| {
    let source: Arc<dyn Source> = Arc::new(MemSource(input.to_vec()));
    match Kind::of(&input[..input.len().min(4096)], source.len()) {
        Some(Kind::Compressed(codec)) => {
            let Ok(forward) = Forward::new(codec, source, 1 << 20) else { return };
            let _ = forward.read_vec(0, 1 << 16);
        }
        Some(Kind::Archive(kind)) => {
            let Ok(index) = index(kind, &source, &mut |_| Ok(())) else { return };
            for member in &index.members {
                let _ = member.head(&source, 4096);
                if let Ok(Some(bytes)) = member.in_place(&source) {
                    read_all(&*bytes);
                }
            }
        }
        None => {
            let _ = Descriptor::parse(input);
            let _ = Digests::parse(input);
        }
    }
});
