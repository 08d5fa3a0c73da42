//! What decides the values of a column: equal columns of many tables need to be read only once.

use super::group::Group;
use super::limits::CHUNK_BYTES_MAX;

/// A digest of everything that decides the values of a column in a row group: its pages, and what the footer says about
/// them. Equal columns of two row groups of the same schema have the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnId([u8; 32]);

impl ColumnId {
    /// Returns the identity of several columns together.
    #[must_use]
    pub fn of_all(ids: &[ColumnId]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&id.0);
        }
        ColumnId(*hasher.finalize().as_bytes())
    }
}

impl Group<'_> {
    /// Returns the identity of a column. Reads its pages, but decodes nothing. Returns `None` if the table does not have the
    /// column, or if it cannot be read: then reading its values says why.
    #[must_use]
    pub fn identity(&self, column: impl Into<usize>) -> Option<ColumnId> {
        let leaf = self.find(column)?;
        let column = self.metadata.column(leaf);
        let data = u64::try_from(column.data_page_offset()).ok()?;
        let dictionary = column.dictionary_page_offset().map(u64::try_from).transpose().ok()?;
        let start = dictionary.unwrap_or(data);
        let len = usize::try_from(column.compressed_size()).ok().filter(|len| *len <= CHUNK_BYTES_MAX)?;
        let nulls = column.statistics().and_then(parquet::file::statistics::Statistics::null_count_opt);
        let mut hasher = blake3::Hasher::new();
        for number in [
            leaf as u64,
            self.rows as u64,
            u64::try_from(column.num_values()).ok()?,
            u64::try_from(column.uncompressed_size()).ok()?,
            data.wrapping_sub(start),
            u64::from(dictionary.is_some()),
            nulls.unwrap_or(u64::MAX),
            len as u64,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        let encodings: Vec<_> = column.encodings().collect();
        let words = format!("{:?} {encodings:?} {:?}", column.compression(), column.column_type());
        hasher.update(&(words.len() as u64).to_le_bytes());
        hasher.update(words.as_bytes());
        hasher.update(&self.file.bytes(start, len).ok()?);
        Some(ColumnId(*hasher.finalize().as_bytes()))
    }
}
