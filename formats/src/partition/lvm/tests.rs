//! Tests with a physical volume that LVM wrote, intact and damaged.

use super::*;
use crate::source::{Extent, MemSource};
use crate::testing::Dice;

const MIB: u64 = 1 << 20;

/// The UUID of `fixtures/lvm`'s physical volume.
const PHYSICAL_ID: &str = "IegECo-HA9o-fHYd-R7ik-rU2g-fuNf-jl4AhK";

/// Returns the physical volume of `fixtures/lvm`; each MiB of its data area is filled with its number.
fn volume() -> Vec<u8> {
    let mut bytes = include_bytes!("../../../../fixtures/lvm/pv-head.bin").to_vec();
    bytes.resize(MIB as usize, 0);
    for mib in 1..24 {
        bytes.extend(vec![mib; MIB as usize]);
    }
    bytes
}

fn sources(bytes: Vec<u8>) -> Vec<Arc<dyn Source>> {
    // Another volume comes first, so that a wrong index shows.
    vec![Arc::new(MemSource(vec![0; 4096])), Arc::new(MemSource(bytes))]
}

fn segment(start: u64, len: u64) -> Segment {
    Segment { physical: 1, start: start * MIB, len: len * MIB }
}

#[test]
fn volumes_lie_where_lvs_says() {
    let groups = read(&sources(volume())).unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].name.as_str(), groups[0].warnings.len()), ("vg0", 0));
    assert_eq!(groups[0].id, "A2xfGD-xLUI-BvLc-ySd0-nGsC-Gd2S-YvVvpk");
    let volumes: Vec<_> =
        groups[0].volumes.iter().map(|v| (v.name.as_str(), v.segments.as_slice())).collect();
    // The extents of LVM start at 1 MiB.
    let expected: [(&str, &[Segment]); 3] = [
        ("odd.name_x", &[segment(10, 3)]),
        ("root", &[segment(1, 4), segment(7, 3)]),
        ("swap-1", &[segment(5, 2)]),
    ];
    assert_eq!(volumes, expected);
    assert_eq!(groups[0].volumes[1].id, "6dgSve-Mv8D-qi22-rTFy-ADuL-M4z0-n4aysP");
}

#[test]
fn a_logical_volume_reads_across_its_segments() {
    let sources = sources(volume());
    let groups = read(&sources).unwrap();
    let root = groups[0].volumes[1].open(&sources);
    assert_eq!(root.len(), 7 * MIB);
    let bytes = root.read_vec(0, 7 * MIB as usize).unwrap();
    let mibs: Vec<_> = bytes.chunks(MIB as usize).map(|mib| mib[0]).collect();
    assert_eq!(mibs, [1, 2, 3, 4, 7, 8, 9]);
    assert_eq!(root.read_vec(4 * MIB - 1, 2).unwrap(), [4, 7]);
    assert!(root.read_vec(7 * MIB - 1, 2).is_err());
    assert_eq!(root.extent_at(MIB).unwrap(), Extent::data(MIB, 3 * MIB));
    assert_eq!(root.extent_at(4 * MIB).unwrap(), Extent::data(4 * MIB, 3 * MIB));
    assert!(root.extent_at(7 * MIB).is_err());
}

#[test]
fn a_volume_without_a_label_is_none() {
    assert_eq!(read(&sources(vec![0; 4096])).unwrap(), []);
    assert_eq!(read(&sources(Vec::new())).unwrap(), []);
    for at in [512, 520, 528, 532, 536, 544, 1000] {
        let mut bytes = volume();
        bytes[at] ^= 1;
        assert_eq!(read(&sources(bytes)).unwrap(), [], "{at}");
    }
}

#[test]
fn damaged_metadata_is_said() {
    for (at, said) in [(4096 + 4, "checksum"), (4096 + 300, "checksum"), (11_000, "checksum")] {
        let mut bytes = volume();
        bytes[at] ^= 1;
        let groups = read(&sources(bytes)).unwrap();
        assert!(groups[0].volumes.is_empty());
        assert!(groups[0].warnings[0].contains(said), "{:?}", groups[0].warnings);
    }
    // The warning names the physical volume.
    let mut bytes = volume();
    bytes[4096 + 4] ^= 1;
    let warnings = read(&sources(bytes)).unwrap().remove(0).warnings;
    assert!(warnings[0].contains(PHYSICAL_ID), "{warnings:?}");
    // Truncated in the middle of a volume.
    let mut bytes = volume();
    bytes.truncate(9 * MIB as usize);
    let groups = read(&sources(bytes)).unwrap();
    assert_eq!(groups[0].volumes.len(), 1, "swap-1 is whole");
    assert!(groups[0].warnings.iter().all(|w| w.contains("extend past its end")), "{:?}", groups[0].warnings);
}

#[test]
fn of_physical_volumes_with_one_uuid_the_first_counts_and_the_other_is_said() {
    let twice: Vec<Arc<dyn Source>> = vec![Arc::new(MemSource(volume())), Arc::new(MemSource(volume()))];
    let groups = read(&twice).unwrap();
    assert_eq!(groups[0].warnings.len(), 1, "{:?}", groups[0].warnings);
    assert!(groups[0].warnings[0].contains(PHYSICAL_ID), "{:?}", groups[0].warnings);
    assert_eq!(groups[0].volumes.len(), 3);
    assert!(
        groups[0].volumes.iter().flat_map(|volume| &volume.segments).all(|segment| segment.physical == 0)
    );
}

#[test]
fn of_logical_volumes_with_one_name_the_first_counts_and_the_others_are_said() {
    let logical = |id: &str| LogicalVolume { name: "lv".to_owned(), id: id.to_owned(), segments: Vec::new() };
    let group = |id: &str, ids: &[&str]| Group {
        name: "vg".to_owned(),
        id: id.to_owned(),
        volumes: ids.iter().map(|id| logical(id)).collect(),
        warnings: Vec::new(),
    };
    let mut groups = [group("g1", &["a", "b"]), group("g2", &["c"])];
    leave_out_namesakes(&mut groups);
    assert_eq!(groups[0].volumes, [logical("a")]);
    assert!(groups[1].volumes.is_empty());
    for (group, id) in groups.iter().zip(["UUID b", "UUID c"]) {
        assert!(group.warnings[0].contains(id), "{:?}", group.warnings);
    }
}

/// Returns the group of `metadata`, on one physical volume of 24 MiB.
fn group(metadata: &str) -> Group {
    let section = text::parse(metadata.as_bytes()).unwrap();
    let physical = BTreeMap::from([("AAAA".to_owned(), 1)]);
    Metadata::of(&section).unwrap().resolve(&physical, &sources(volume()))
}

fn metadata(segments: &str) -> String {
    let segment = |i: usize, s: &str| format!("segment{i} {{ {s} }}\n");
    let segments: String = segments.split('|').enumerate().map(|(i, s)| segment(i + 1, s)).collect();
    format!(
        "vg {{ id = \"g\" seqno = 1 extent_size = 2048
        physical_volumes {{ pv0 {{ id = \"AA-AA\" pe_start = 2048 }} pv1 {{ id = \"BBBB\" pe_start = 0 }} }}
        logical_volumes {{ lv {{ id = \"l\" status = [\"READ\", \"VISIBLE\"] {segments} }} }} }}"
    )
}

#[test]
fn volumes_that_are_not_linear_or_not_all_there_are_said() {
    let linear = |start: u64, count: u64, pv: &str, first: u64| {
        format!(
            "start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 \
             stripes = [\"{pv}\", {first}]"
        )
    };
    assert_eq!(group(&metadata(&linear(0, 2, "pv0", 3))).volumes[0].segments, [segment(4, 2)]);
    let cases = [
        ("start_extent = 0 extent_count = 2 type = \"raid1\"".to_owned(), "its type is raid1"),
        (
            "start_extent = 0 extent_count = 2 type = \"striped\" stripe_count = 2".to_owned(),
            "it has 2 stripes",
        ),
        (linear(1, 2, "pv0", 3), "a gap or overlap at extent 0"),
        (linear(0, 0, "pv0", 3), "a gap or overlap at extent 0"),
        (linear(0, 2, "pv0", 0) + "|" + &linear(3, 1, "pv0", 5), "a gap or overlap at extent 2"),
        (linear(0, 2, "pv1", 0), "pv1 is not on this disk"),
        (linear(0, 2, "pv9", 0), "pv9 does not exist"),
        (linear(0, 2, "pv0", 22), "extend past its end"),
        (linear(0, 2, "pv0", u64::MAX), "extend past its end"),
        (linear(0, u64::MAX, "pv0", 0), "its length is too large"),
    ];
    for (segments, reason) in cases {
        let group = group(&metadata(&segments));
        assert!(group.volumes.is_empty());
        assert!(group.warnings[0].contains(reason), "{:?}", group.warnings);
    }
}

/// Damaged metadata with correct CRCs causes no panic, and no segment outside its volume.
#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_lvm_metadata_stay_within_the_volume() {
    let whole = metadata(
        "start_extent = 0 extent_count = 4 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 0]|\
         start_extent = 4 extent_count = 3 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 6]",
    );
    let sources = sources(volume());
    let physical = BTreeMap::from([("AAAA".to_owned(), 1)]);
    let mut read = 0;
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let mut text = whole.clone().into_bytes();
        for _ in 0..1 + dice.roll(3) {
            let at = dice.roll(text.len());
            match dice.roll(4) {
                0 => text[at] = dice.roll(256) as u8,
                1 => text[at] = b"0123456789{}[]\"=#,\\ "[dice.roll(20)],
                2 => drop(text.remove(at)),
                _ => text.insert(at, b"0123456789{}[]\"=#,\\ "[dice.roll(20)]),
            }
        }
        let Ok(metadata) = text::parse(&text).and_then(|section| Metadata::of(&section)) else { continue };
        for volume in metadata.resolve(&physical, &sources).volumes {
            read += 1;
            for segment in &volume.segments {
                assert!(segment.len > 0 && segment.start + segment.len <= 24 * MIB, "seed {seed}");
            }
        }
    }
    assert!(read > 500, "{read}");
}
