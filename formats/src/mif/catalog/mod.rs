//! The catalog of a store: the manifests and packages of many images in a few Parquet files, sorted so that a query
//! reads little of them. It is derived from the images, and never the truth.
//!
//! ```text
//! files-<segment>-<part>.parquet      rows of manifests, by path, BLAKE3, image
//! digests-<segment>-<part>.parquet    rows of manifests that have digests, by BLAKE3, path, image
//! packages-<segment>-<part>.parquet   packages, by name, version, image
//! images.parquet                      the images in the catalog, each with its segment
//! ```
//!
//! Each table has the columns of the files that it was made from (of `digests`: those that a search by content shows), and
//! then `name`, `version`, `place` (the number of the row in the image's own file) and `segment`. A row counts only if
//! `images.parquet` has its image with this segment.

mod coverage;
mod reader;
mod records;
mod sums;
mod writer;

use std::sync::{Arc, OnceLock};

use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type};

pub use self::coverage::{Coverage, Covered, DataFile, FORMAT, Segment, decode, encode};
pub use self::reader::{ImageColumn, Part};
pub use self::records::{Record, of_manifest, of_packages};
pub use self::sums::{BLOCK, BlockSums, Summer};
pub use self::writer::PartWriter;
use super::manifest::schema::SCHEMA as MANIFEST;
use super::packages::SCHEMA as PACKAGES;

/// The tables of the catalog that have a row for each row of images' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The rows of manifests, sorted by path.
    Files,
    /// The rows of manifests that have digests, sorted by BLAKE3.
    Digests,
    /// The packages, sorted by name.
    Packages,
}

/// The columns that follow those of the original.
const OF_IMAGE: &str = "message of_image {
    required binary name (UTF8);
    required int64 version;
    required int64 place;
    required binary segment (UTF8);
}";

/// The columns of manifests that the table of digests has.
const DIGESTS: [&str; 14] = [
    "volume",
    "path",
    "type",
    "mode",
    "uid",
    "gid",
    "size",
    "mtime",
    "mtime_ns",
    "sha1",
    "blake3",
    "path_bytes",
    "stream",
    "member",
];

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Files, Kind::Digests, Kind::Packages];

    /// Returns its name, with which the names of its files begin.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Digests => "digests",
            Kind::Packages => "packages",
        }
    }

    /// Returns the columns by which it is sorted before `name`, `version` and `place`.
    fn sorted_by(self) -> &'static [&'static str] {
        match self {
            Kind::Files => &["path", "blake3"],
            Kind::Digests => &["blake3", "path"],
            Kind::Packages => &["package", "package_version"],
        }
    }

    fn columns(self) -> &'static Columns {
        static ALL: [OnceLock<Columns>; 3] = [const { OnceLock::new() }; 3];
        ALL[self as usize].get_or_init(|| Columns::new(self))
    }
}

/// The columns of a table.
struct Columns {
    schema: Arc<Type>,
    /// The leaves that come from the original, and then name, version, row and segment.
    leaves: Vec<ColumnDescPtr>,
    /// For each leaf that comes from the original, its place there.
    from: Vec<usize>,
    /// The names of the leaves of the original, and then those of [`OF_IMAGE`]: columns are addressed by their places here.
    numbers: Vec<String>,
}

impl Columns {
    fn new(kind: Kind) -> Self {
        let parse = |text: &str| parse_message_type(text).expect("the schema is constant");
        let original = parse(if kind == Kind::Packages { PACKAGES } else { MANIFEST });
        let is_wanted = |field: &&Arc<Type>| kind != Kind::Digests || DIGESTS.contains(&field.name());
        let more = parse(OF_IMAGE);
        let fields = original.get_fields().iter().filter(is_wanted).chain(more.get_fields()).cloned();
        let name = format!("mif_{}", kind.name());
        let schema = Type::group_type_builder(&name).with_fields(fields.collect()).build();
        let schema = Arc::new(schema.expect("a group of fields"));
        let names = |schema: Type| -> Vec<String> {
            let leaves = SchemaDescriptor::new(Arc::new(schema));
            leaves.columns().iter().map(|leaf| leaf.path().string()).collect()
        };
        let (original, more) = (names(original), names(more));
        let leaves = SchemaDescriptor::new(schema.clone()).columns().to_vec();
        let place = |leaf: &ColumnDescPtr| original.iter().position(|name| *name == leaf.path().string());
        let from = leaves.iter().filter_map(place).collect();
        Columns { schema, leaves, from, numbers: [original, more].concat() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_the_columns_of_their_originals() {
        for kind in Kind::ALL {
            let columns = kind.columns();
            assert_eq!(columns.leaves.len(), columns.from.len() + 4, "{kind:?}");
            for (leaf, from) in columns.leaves.iter().zip(&columns.from) {
                assert_eq!(leaf.path().string(), columns.numbers[*from]);
            }
            for name in kind.sorted_by() {
                assert!(columns.numbers.iter().any(|known| known == name), "{name}");
            }
        }
        assert_eq!(Kind::Digests.columns().from.len(), DIGESTS.len());
    }
}
