//! Every container: header, map, and the disk inside. The file is in memory, in a directory of its own.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::container::{self, OpenOptions};
use mif_fuzz::{Bases, read_all};

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("container"));
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/mif-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("/dev/shm takes a folder");
    folder
});

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((name, file)) = BASES.decode(input) else { return Corpus::Reject };
    let path = FOLDER.join(name);
    std::fs::write(&path, file.bytes()).expect("/dev/shm has room");
    for snapshot in [None, Some("1".to_owned())] {
        if let Ok(disk) = container::open(&path, &OpenOptions { snapshot, ..OpenOptions::default() }) {
            read_all(&*disk.source);
        }
    }
    Corpus::Keep
});
