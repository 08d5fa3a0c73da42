//! qcow2 with our reader and the crate imago: if both open an image, its size and its bytes must be the same.
//!
//! Not compared:
//!
//! - An image that only one of them opens, or a range that only one of them reads. They check different things: imago
//!   supports neither zstd nor extended L2 entries, and reads zeros past the end of the file where we report
//!   truncation.
//! - Sizes that are not a multiple of 512 bytes. Like qemu, mif counts in sectors; imago returns the size in the
//!   header.
//! - Backing files and external data files: imago may open only the image itself.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Storage, StorageOpenOptions};
use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::Source;
use mif_formats::container::{self, OpenOptions};
use mif_fuzz::{Bases, EXTENTS_MAX, READ_MAX, others};

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("qcow2_imago"));
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/mif-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("/dev/shm takes a directory");
    folder.join("image")
});

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, file)) = BASES.decode(input) else { return Corpus::Reject };
    std::fs::write(&*IMAGE, file.bytes()).expect("/dev/shm has room");
    let options = OpenOptions { format: Some("qcow2".to_owned()), ..OpenOptions::default() };
    // imago gets no image that we refuse, because it would allocate what the header claims.
    if let Ok(ours) = container::open(&IMAGE, &options)
        && let Some(Some(theirs)) = others(open_theirs)
    {
        compare(&*ours.source, &theirs);
    }
    Corpus::Keep
});

fn open_theirs() -> Option<FormatAccess<File>> {
    let file = File::open(StorageOpenOptions::new().filename(&*IMAGE)).ok()?;
    let image = Qcow2::<File>::builder(file).open(DenyImplicitOpenGate::default()).ok()?;
    Some(FormatAccess::new(image))
}

fn compare(ours: &dyn Source, theirs: &FormatAccess<File>) {
    let len = ours.len();
    assert_eq!(len, theirs.size() / 512 * 512, "the size");
    let (mut offset, mut read) = (0, 0);
    for _ in 0..EXTENTS_MAX {
        if offset >= len || read >= READ_MAX {
            break;
        }
        let Ok(extent) = ours.extent_at(offset) else { break };
        let part = extent.len().min(64 << 10);
        compare_range(ours, theirs, offset, part);
        // The end of an extent too, next to the following one.
        let last = extent.len().min(1000);
        compare_range(ours, theirs, extent.range.end - last, last);
        read += part + last;
        offset = extent.range.end;
    }
    for offset in [1, 511, len / 2, len.saturating_sub(1)].into_iter().filter(|offset| *offset < len) {
        compare_range(ours, theirs, offset, (len - offset).min(1000));
    }
}

fn compare_range(ours: &dyn Source, theirs: &FormatAccess<File>, offset: u64, len: u64) {
    let [mut a, mut b] = [vec![0xaa; len as usize], vec![0x55; len as usize]];
    if ours.read_at(offset, &mut a).is_ok()
        && let Some(Ok(())) = others(|| theirs.read(&mut b[..], offset))
    {
        let differs = a.iter().zip(&b).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs, of {len} from {offset} on");
    }
}
