use super::*;
use crate::{ErrorKind, MemSource};

struct Quiet;
impl Observer for Quiet {
    fn advance(&self, _: u64) {}
}

fn write(format: &str, path: &Path, source: &dyn Source, options: &[(&str, &str)]) -> Result<()> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut output = Output::new(path, true)?;
    by_name(format)?.create(source, &mut output, &options, &Quiet)?;
    output.commit()
}

/// A disk of `len` bytes: data, zeros and more data, the same every time.
fn disk(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = vec![0; len];
    for (i, block) in bytes.chunks_mut(4096).enumerate() {
        if i % 7 < 3 || i % 1000 < 40 {
            continue;
        }
        for byte in block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 60) as u8;
        }
    }
    bytes
}

#[test]
fn every_writer_is_read_back_by_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    for len in [512, 65536, 3 << 20, (5 << 20) + 512, (37 << 20) + 65536 + 1024] {
        let bytes = disk(len);
        for (format, options) in [
            ("raw", &[][..]),
            ("qcow2", &[]),
            ("qcow2", &[("cluster_size", "512")]),
            ("qcow2", &[("cluster_size", "4k"), ("compat", "0.10")]),
            ("qcow2", &[("cluster_size", "2M")]),
            ("vmdk", &[]),
        ] {
            let path = dir.path().join(format!("disk.{format}"));
            write(format, &path, &MemSource(bytes.clone()), options).unwrap();
            let disk = open(
                &path,
                &OpenOptions { format: (format == "raw").then(|| "raw".into()), ..Default::default() },
            )
            .unwrap();
            assert_eq!((disk.format, disk.source.len()), (format, len as u64), "{options:?}");
            assert!(disk.source.read_vec(0, len).unwrap() == bytes, "{format} {options:?} {len}");
            check_extents(&*disk.source, &bytes);
        }
    }
}

/// Extents are without gaps, and what they call zeros is.
fn check_extents(source: &dyn Source, bytes: &[u8]) {
    let mut position = 0;
    while position < source.len() {
        let extent = source.extent_at(position).unwrap();
        assert!(extent.range.start == position && extent.range.end > position);
        assert!(extent.range.end <= source.len());
        let range = extent.range.start as usize..extent.range.end as usize;
        assert!(!extent.is_zero() || crate::source::is_zero(&bytes[range]));
        position = extent.range.end;
    }
}

#[test]
fn what_cannot_be_an_image_is_refused_with_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("empty"), "").unwrap();
    let kind = |path: &Path, options: &OpenOptions| open(path, options).err().unwrap().kind();
    assert_eq!(kind(&path("empty"), &OpenOptions::default()), ErrorKind::Corrupt);
    assert_eq!(kind(&path("missing"), &OpenOptions::default()), ErrorKind::NotFound);
    assert_eq!(kind(dir.path(), &OpenOptions::default()), ErrorKind::Corrupt);
    std::fs::write(path("raw"), "some bytes").unwrap();
    let options = OpenOptions { format: Some("nope".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Unsupported);
    let options = OpenOptions { format: Some("qcow2".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Corrupt);
    let options = OpenOptions { snapshot: Some("s".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Unsupported);
    let disk = open(&path("raw"), &OpenOptions::default()).unwrap();
    assert_eq!((disk.format, disk.source.len()), ("raw", 10));
}

#[test]
fn the_format_to_write_is_named_or_told_by_the_suffix() {
    let name = |name, path: &str| format_for_output(name, Path::new(path)).map(super::Format::name);
    assert_eq!(name(None, "a.qcow2").unwrap(), "qcow2");
    assert_eq!(name(None, "a.IMG").unwrap(), "raw");
    assert_eq!(name(Some("vmdk"), "a.img").unwrap(), "vmdk");
    assert!(name(None, "a.tar").unwrap_err().to_string().contains("qcow2, vmdk"));
    assert!(name(Some("tar"), "a").is_err());
}

#[test]
fn sizes_are_told_as_people_do() {
    assert_eq!([0, 1000, 65536, 3 << 29].map(human), ["0 bytes", "1000 bytes", "64 KiB", "1.5 GiB"]);
}
