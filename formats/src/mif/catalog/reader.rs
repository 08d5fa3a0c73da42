//! Reads the files of the catalog: some columns of some groups for a query, or all rows for a merge.

use parquet::file::reader::ChunkReader;

use super::Kind;
use super::records::{bytes_at, encode_again, number_at};
use crate::error::{Result, at};
use crate::mif::table::{Group, Table, Values};

/// A file of the catalog, open for reading.
pub struct Part<R: ChunkReader + 'static> {
    kind: Kind,
    table: Table<R>,
}

/// The columns that tell which row of which image a row is. Columns of the original are addressed as there: a group of
/// `files` or `digests` by `manifest::columns::Column`, where `digests` has the columns of a search only, and the others count as
/// null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageColumn(usize);

impl From<ImageColumn> for usize {
    fn from(column: ImageColumn) -> usize {
        column.0
    }
}

impl Kind {
    /// Returns the column of the image's name.
    #[must_use]
    pub fn name_column(self) -> ImageColumn {
        self.of_image(0)
    }

    /// Returns the column of the image's version.
    #[must_use]
    pub fn version_column(self) -> ImageColumn {
        self.of_image(1)
    }

    /// Returns the column of the row's place in the image's own file.
    #[must_use]
    pub fn row_column(self) -> ImageColumn {
        self.of_image(2)
    }

    fn of_image(self, place: usize) -> ImageColumn {
        ImageColumn(self.columns().numbers.len() - 4 + place)
    }
}

impl<R: ChunkReader + 'static> Part<R> {
    /// Reads the footer of a file.
    ///
    /// # Errors
    /// `Io` if it cannot be read, `Corrupt` or `Unsupported` if it is not a file of this table.
    pub fn open(kind: Kind, file: R) -> Result<Self> {
        let columns = kind.columns();
        let table = Table::any("catalog", file)?.with_columns(&columns.schema, &columns.numbers)?;
        Ok(Part { kind, table })
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.table.rows()
    }

    /// Returns the number of row groups.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.table.group_count()
    }

    /// Returns the row groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.table.groups()
    }

    /// Calls `each` with the bytes of the record of every row of a group, in order, whose image `is_wanted` by name and
    /// version.
    ///
    /// # Errors
    /// `Corrupt` or `Limit` if the group cannot be read, and those of `each`.
    pub fn records(
        &self,
        group: usize,
        is_wanted: &dyn Fn(&[u8], u32) -> bool,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let lacking = || at("catalog").field("row group").corrupt("is missing");
        let group = self.groups().nth(group).ok_or_else(lacking)?;
        let of_image = self.kind.columns().from.len();
        let values = (0..of_image + 3).map(|leaf| group.raw_values(leaf)).collect::<Result<Vec<Values>>>()?;
        let mut record = Vec::new();
        for row in 0..group.rows {
            let name = bytes_at(&values[of_image], row);
            let version = number_at(&values[of_image + 1], row).and_then(|n| u32::try_from(n).ok());
            if let (Some(name), Some(version)) = (name, version)
                && is_wanted(name.data(), version)
            {
                encode_again(self.kind, &values, row, &mut record);
                each(&record)?;
            }
        }
        Ok(())
    }
}
