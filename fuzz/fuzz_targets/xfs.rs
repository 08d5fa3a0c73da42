//! XFS: superblock, inodes, directories, attributes, trees of extents, and the log.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_fuzz::{Bases, read_volume};

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("xfs"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, volume)) = BASES.decode(input) else { return Corpus::Reject };
    read_volume(Arc::new(volume));
    Corpus::Keep
});
