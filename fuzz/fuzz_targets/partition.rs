//! Partition tables (MBR, GPT), LVM2, and recognising the contents of volumes by name.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::{Slice, Source, fs, partition};
use mif_fuzz::{Bases, read_all};

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("partition"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, disk)) = BASES.decode(input) else { return Corpus::Reject };
    let disk: Arc<dyn Source> = Arc::new(disk);
    let Ok(table) = partition::read(&*disk) else { return Corpus::Keep };
    let mut volumes: Vec<Arc<dyn Source>> = vec![Arc::clone(&disk)];
    for partition in table.partitions.iter().take(256) {
        let end = partition.start.checked_add(partition.len).expect("past the end of numbers");
        let slice = Slice::new(Arc::clone(&disk), partition.start..end).expect("past the end of the disk");
        volumes.push(Arc::new(slice));
    }
    for volume in volumes.iter().take(16) {
        let _ = fs::open(Arc::clone(volume));
    }
    for group in partition::lvm::read(&volumes).unwrap_or_default() {
        for logical in group.volumes.iter().take(16) {
            read_all(&logical.open(&volumes));
        }
    }
    Corpus::Keep
});
