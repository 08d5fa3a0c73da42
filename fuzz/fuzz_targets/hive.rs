//! Registry hives of Windows, and their logs: the hive's size is in its base block, and a log follows.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::Result;
use mif_formats::hive::{Hive, Key, recover};
use mif_fuzz::Bases;

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("hive"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, file)) = BASES.decode(input) else { return Corpus::Reject };
    let file = file.bytes();
    let size = file.get(40..44).map_or(0, |size| u32::from_le_bytes(size.try_into().expect("four bytes")));
    let (hive, log) = file.split_at((4096 + size as usize).min(file.len()));
    let mut recovered = hive.to_vec();
    let _ = recover(&mut recovered, &[log]);
    assert!(recovered.len() <= file.len());
    for hive in [hive, &recovered] {
        let _ = Hive::parse(hive).and_then(|hive| read(&hive.root()?, 0));
    }
    Corpus::Keep
});

/// Reads a key and what is below it, except what cannot be read.
fn read(key: &Key<'_>, depth: u32) -> Result<()> {
    for value in key.values()?.flatten() {
        let _ = (value.name(), value.text(), value.number(), value.data());
    }
    for subkey in key.subkeys()?.flatten().take(if depth < 10 { 100 } else { 0 }) {
        let _ = read(&subkey, depth + 1);
    }
    Ok(())
}
