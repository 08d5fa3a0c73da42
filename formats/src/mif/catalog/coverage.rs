//! `images.parquet`: which images the catalog has, and in which segments. It is replaced as a whole, and with it a change of
//! the catalog takes effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at};
use crate::mif::table::{self, GROUP_ROWS_MAX, GroupWriter, Table, optional, required};

/// The version of the catalog.
pub const FORMAT: u32 = 1;

/// The key of the note with the segments.
const NOTE: &str = "mif.catalog";

const SCHEMA: &str = "message mif_images {
    required binary name (UTF8);
    required int64 version;
    required binary segment (UTF8);
    required binary manifest_digest (UTF8);
    required int64 disk_size;
    required int64 time;
    required int64 paths;
    required int64 packages;
    required int64 record_bytes;
    required int64 manifest_bytes;
    optional int64 digests_bytes;
    optional int64 packages_bytes;
    optional binary mounts (UTF8);
}";

/// A version of an image in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// The image's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The segment that has its rows.
    pub segment: String,
    /// BLAKE3 of its manifest, in hex.
    pub manifest_digest: String,
    /// The size of the disk in bytes.
    pub disk_size: u64,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// The number of its rows in `files`.
    pub paths: u64,
    /// The number of its rows in `packages`.
    pub packages: u64,
    /// The length of its record in bytes.
    pub record_bytes: u64,
    /// The length of its manifest in bytes.
    pub manifest_bytes: u64,
    /// The length of its file of digests in bytes, if it has one.
    pub digests_bytes: Option<u64>,
    /// The length of its table of packages in bytes, if it has one.
    pub packages_bytes: Option<u64>,
    /// Where its system shows directories of its volumes, as JSON: for each volume, pairs of a directory and a path. `None` if
    /// that could not be read.
    pub mounts: Option<String>,
}

/// A set of files that has the rows of some images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its files, by the table that they are of: `files`, `digests`, `packages`. Those of a table are sorted one after the other.
    pub files: BTreeMap<String, Vec<DataFile>>,
}

/// A file of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its length in bytes.
    pub bytes: u64,
    /// The number of its rows.
    pub rows: u64,
}

/// The images and the segments of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Names this state of the segments.
    pub generation: String,
    /// The images, by name and version.
    pub images: Vec<Covered>,
    /// The segments, by their names.
    pub segments: BTreeMap<String, Segment>,
}

/// The note in the footer.
#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    generation: String,
    segments: BTreeMap<String, Segment>,
    /// BLAKE3 of all that and of the rows, as JSON, in hex: a footer has no checksum.
    digest: String,
}

fn digest(coverage: &Coverage) -> String {
    let all = (FORMAT, &coverage.generation, &coverage.segments, &coverage.images);
    blake3::hash(&serde_json::to_vec(&all).expect("texts and numbers are JSON")).to_hex().to_string()
}

fn broken(error: ParquetError) -> Error {
    table::broken("catalog", error)
}

/// Encodes the table.
///
/// # Errors
/// `Limit` if there is too much of it.
pub fn encode(coverage: &Coverage) -> Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is constant"));
    let Coverage { generation, segments, images } = coverage;
    let note = Note {
        format: FORMAT,
        generation: generation.clone(),
        segments: segments.clone(),
        digest: digest(coverage),
    };
    let note = serde_json::to_string(&note).expect("texts and numbers are JSON");
    let properties = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(table::compression())
        .set_key_value_metadata(Some(vec![KeyValue::new(NOTE.to_owned(), note)]))
        .build();
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).map_err(broken)?;
    for rows in images.chunks(GROUP_ROWS_MAX) {
        let mut group = file.next_row_group().map_err(broken)?;
        write_columns(&mut group, rows).map_err(broken)?;
        group.close().map_err(broken)?;
    }
    file.close().map_err(broken)?;
    Ok(out)
}

fn write_columns<W: std::io::Write + Send>(
    group: &mut GroupWriter<'_, W>,
    rows: &[Covered],
) -> Result<(), ParquetError> {
    let text = |text: &String| ByteArray::from(text.as_str());
    required::<ByteArrayType, _>(group, rows.iter().map(|row| text(&row.name)))?;
    required::<Int64Type, _>(group, rows.iter().map(|row| row.version.into()))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|row| text(&row.segment)))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|row| text(&row.manifest_digest)))?;
    let numbers = [
        |row: &Covered| row.disk_size,
        |row: &Covered| row.time,
        |row: &Covered| row.paths,
        |row: &Covered| row.packages,
        |row: &Covered| row.record_bytes,
        |row: &Covered| row.manifest_bytes,
    ];
    for number in numbers {
        required::<Int64Type, _>(group, rows.iter().map(|row| number(row) as i64))?;
    }
    for number in [|row: &Covered| row.digests_bytes, |row: &Covered| row.packages_bytes] {
        optional::<Int64Type, _>(group, rows.iter().map(|row| number(row).map(|n| n as i64)))?;
    }
    optional::<ByteArrayType, _>(group, rows.iter().map(|row| row.mounts.as_ref().map(text)))
}

/// Decodes the table.
///
/// # Errors
/// `Unsupported` if a newer version has written it, `Corrupt` if it is damaged.
pub fn decode(file: Bytes) -> Result<Coverage> {
    let corrupt = |problem: &str| at("catalog").corrupt(problem);
    let table = Table::any("catalog", file)?;
    let note = table.note(NOTE).ok_or_else(|| corrupt("lacks the note about its segments"))?;
    let format = serde_json::from_str::<serde_json::Value>(note).ok();
    let format = format.and_then(|note| note["format"].as_u64()).ok_or_else(|| corrupt("has no format"))?;
    if format > FORMAT.into() {
        return Err(at("catalog")
            .field("format")
            .unsupported(format!("is {format}, and this version knows {FORMAT}")));
    }
    let note: Note = serde_json::from_str(note).map_err(|e| corrupt(&e.to_string()))?;
    let schema = parse_message_type(SCHEMA).expect("the schema is constant");
    let table = table.with_columns(&schema, &[]).map_err(|e| corrupt(&e.to_string()))?;
    let mut images = Vec::new();
    for group in table.groups() {
        let text = |column: usize| -> Result<Vec<String>> {
            let texts = group.texts(column)?;
            let text = |text: &parquet::data_type::ByteArray| String::from_utf8(text.data().to_vec());
            texts.iter().map(|t| text(t).map_err(|_| corrupt("has text that is not UTF-8"))).collect()
        };
        let [name, segment, manifest] = [text(0)?, text(2)?, text(3)?];
        let numbers: Vec<Vec<Option<i64>>> = [1_usize, 4, 5, 6, 7, 8, 9, 10, 11]
            .into_iter()
            .map(|column| group.numbers(column))
            .collect::<Result<_>>()?;
        let mounts = group.blobs(12_usize)?;
        let texts = name.into_iter().zip(segment).zip(manifest);
        for (row, ((name, segment), manifest_digest)) in texts.enumerate() {
            let number = |column: usize| numbers[column].get(row).copied().flatten().unwrap_or(0) as u64;
            let some = |column: usize| numbers[column].get(row).copied().flatten().map(|n| n as u64);
            let mounts = mounts.get(row).cloned().flatten();
            let mounts = mounts.map(|text| String::from_utf8_lossy(text.data()).into_owned());
            images.push(Covered {
                name,
                version: u32::try_from(number(0)).map_err(|_| corrupt("has a version over 2³² − 1"))?,
                segment,
                manifest_digest,
                disk_size: number(1),
                time: number(2),
                paths: number(3),
                packages: number(4),
                record_bytes: number(5),
                manifest_bytes: number(6),
                digests_bytes: some(7),
                packages_bytes: some(8),
                mounts,
            });
        }
    }
    let Note { generation, segments, digest: said, .. } = note;
    let coverage = Coverage { generation, images, segments };
    if digest(&coverage) != said {
        return Err(corrupt("does not match its digest"));
    }
    Ok(coverage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sample() -> Coverage {
        let image = |version: u32| Covered {
            name: "web".into(),
            version,
            segment: "1-ab".into(),
            manifest_digest: "00".repeat(32),
            disk_size: 1 << 40,
            time: 1_700_000_000,
            paths: 7,
            packages: 0,
            record_bytes: 3,
            manifest_bytes: 4,
            digests_bytes: (version > 1).then_some(5),
            packages_bytes: None,
            mounts: (version > 1).then(|| "{}".into()),
        };
        let files = [("files".to_owned(), vec![DataFile { bytes: 9, rows: 14 }])];
        let segment = Segment { files: files.into_iter().collect() };
        Coverage {
            generation: "g".into(),
            images: vec![image(1), image(2)],
            segments: [("1-ab".to_owned(), segment)].into_iter().collect(),
        }
    }

    #[test]
    fn a_coverage_comes_back() {
        for coverage in [Coverage::default(), sample()] {
            assert_eq!(decode(encode(&coverage).unwrap().into()).unwrap(), coverage);
        }
    }

    #[test]
    fn no_changed_byte_goes_unnoticed_or_makes_reading_panic() {
        let (coverage, file) = (sample(), encode(&sample()).unwrap());
        for at in 0..file.len() {
            for value in [file[at] ^ 1, 0, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                if let Ok(read) = decode(bad.into()) {
                    assert_eq!(read, coverage, "byte {at} as {value}");
                }
            }
            assert!(decode(file.slice(at)).is_err(), "cut at {at}");
        }
    }

    trait Slice {
        fn slice(&self, end: usize) -> Bytes;
    }

    impl Slice for Vec<u8> {
        fn slice(&self, end: usize) -> Bytes {
            Bytes::copy_from_slice(&self[..end])
        }
    }

    #[test]
    fn a_newer_format_is_not_called_damaged() {
        let file = encode(&sample()).unwrap();
        let at = file.windows(10).position(|bytes| bytes == b"\"format\":1").unwrap() + 9;
        let mut newer = file.clone();
        newer[at] = b'2';
        assert_eq!(decode(newer.into()).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
