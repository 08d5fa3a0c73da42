use super::*;
use crate::error::ErrorKind;

/// Returns a version 3 header of a 1 GiB disk with 64 KiB clusters, in a whole cluster.
fn header() -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    bytes[..4].copy_from_slice(&MAGIC);
    for (at, value) in [(4, 3), (20, 16), (36, 2), (56, 1), (96, 4), (100, 112u32)] {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    for (at, value) in [(24, 1u64 << 30), (40, 3 << 16), (48, 1 << 16)] {
        bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Returns the error for a good header after the given changes.
fn poked(pokes: &[(usize, &[u8])]) -> (ErrorKind, String) {
    let mut bytes = header();
    for (at, poke) in pokes {
        bytes[*at..at + poke.len()].copy_from_slice(poke);
    }
    let error = Header::parse(&bytes).expect_err("a poked header must be refused");
    (error.kind(), error.to_string())
}

#[test]
fn a_good_header_is_read() {
    let header = Header::parse(&header()).unwrap();
    assert_eq!((header.version, header.cluster_size(), header.size), (3, 65536, 1 << 30));
    assert_eq!((header.l1_size, header.l1_table_offset, header.l2_bits()), (2, 3 << 16, 13));
}

#[test]
fn each_bad_field_is_named() {
    type Case = (&'static [(usize, &'static [u8])], ErrorKind, &'static str);
    let cases: &[Case] = &[
        (&[(3, b"x")], ErrorKind::Corrupt, "magic"),
        (&[(7, &[1])], ErrorKind::Unsupported, "version"),
        (&[(7, &[4])], ErrorKind::Unsupported, "version"),
        (&[(23, &[8])], ErrorKind::Corrupt, "cluster_bits"),
        (&[(23, &[22])], ErrorKind::Corrupt, "cluster_bits"),
        (&[(35, &[1])], ErrorKind::Unsupported, "AES"),
        (&[(35, &[3])], ErrorKind::Unsupported, "unknown method 3"),
        (&[(36, &[255])], ErrorKind::Limit, "l1_size"),
        (&[(39, &[1])], ErrorKind::Corrupt, "l1_size"),
        (&[(24, &[255])], ErrorKind::Corrupt, "l1_size"),
        (&[(47, &[1])], ErrorKind::Corrupt, "l1_table_offset"),
        (&[(60, &[1])], ErrorKind::Limit, "nb_snapshots"),
        (&[(79, &[32])], ErrorKind::Unsupported, "bit 5"),
        (&[(79, &[8])], ErrorKind::Corrupt, "compression_type"),
        (&[(104, &[1])], ErrorKind::Corrupt, "compression_type"),
        (&[(79, &[8]), (104, &[2])], ErrorKind::Unsupported, "compression_type"),
        (&[(79, &[16]), (23, &[13]), (39, &[255])], ErrorKind::Corrupt, "extended L2"),
        (&[(99, &[7])], ErrorKind::Corrupt, "refcount_order"),
        (&[(103, &[113])], ErrorKind::Corrupt, "header_length"),
        (&[(103, &[96])], ErrorKind::Corrupt, "header_length"),
        (&[(100, &[255])], ErrorKind::Corrupt, "header_length"),
        (&[(8, &[255]), (19, &[1])], ErrorKind::Corrupt, "backing_file_offset"),
        (&[(14, &[255, 255]), (19, &[9])], ErrorKind::Corrupt, "backing_file_offset"),
        (&[(14, &[1]), (18, &[4])], ErrorKind::Limit, "backing_file_size"),
        (&[(112, &[1, 1, 1, 1, 255])], ErrorKind::Corrupt, "length"),
    ];
    for (pokes, kind, words) in cases {
        let (found, text) = poked(pokes);
        assert_eq!((found, text.contains(words)), (*kind, true), "{pokes:?}: {text}");
    }
}

#[test]
fn the_place_of_a_luks_header_is_read_and_has_to_be_there() {
    let with = |pointer: Option<(u64, u64)>| {
        let mut bytes = header();
        bytes[35] = 2;
        if let Some((offset, len)) = pointer {
            bytes[112..116].copy_from_slice(&extension::ENCRYPTION.to_be_bytes());
            bytes[119] = 16;
            bytes[120..128].copy_from_slice(&offset.to_be_bytes());
            bytes[128..136].copy_from_slice(&len.to_be_bytes());
        }
        Header::parse(&bytes).and_then(|header| header.encryption())
    };
    assert_eq!(with(Some((1 << 18, 5000))).unwrap(), Some(1 << 18..(1 << 18) + 5000));
    for pointer in [None, Some((u64::MAX, 1))] {
        let error = with(pointer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("encrypt"), "{error}");
    }
    assert_eq!(Header::parse(&header()).unwrap().encryption().unwrap(), None);
}

#[test]
fn an_unknown_feature_is_called_by_its_name() {
    let mut table = [0; 8 + 48];
    table[..4].copy_from_slice(&extension::FEATURE_NAMES.to_be_bytes());
    table[7] = 48;
    table[9] = 6;
    table[10..16].copy_from_slice(b"wobble");
    assert!(poked(&[(79, &[64]), (112, &table)]).1.contains("\"wobble\""));
}

#[test]
fn a_header_cut_anywhere_is_an_error() {
    let bytes = header();
    for len in 0..112 {
        assert!(Header::parse(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn snapshots_are_read_and_a_cut_table_is_an_error() {
    let mut table = vec![0; 40];
    table[0..8].copy_from_slice(&0x50000u64.to_be_bytes());
    (table[11], table[13], table[15], table[39]) = (2, 1, 4, 16);
    table.extend([0; 8]);
    table.extend((1u64 << 30).to_be_bytes());
    table.extend(b"1base\0\0\0");
    let snapshots = Snapshot::parse_table(&table, 1).unwrap();
    let expected = Snapshot {
        l1_table_offset: 0x50000,
        l1_size: 2,
        id: "1".into(),
        name: "base".into(),
        disk_size: Some(1 << 30),
    };
    assert_eq!(snapshots, [expected]);
    for len in 0..61 {
        assert!(Snapshot::parse_table(&table[..len], 1).is_err(), "{len}");
    }
    table[38] = 5;
    assert_eq!(Snapshot::parse_table(&table, 1).unwrap_err().kind(), ErrorKind::Limit);
}
