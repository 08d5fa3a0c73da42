//! Checks each page of a column before the Parquet crate decodes it.
//!
//! The crate allocates as many values as a page claims, and in some encodings a few bytes stand for gigabytes. So only
//! the encodings that `mif` writes are accepted, with no more values and bytes than a row group may have.

use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescriptor;

use super::limits::{CHUNK_BYTES_MAX, GROUP_BYTES_MAX, VALUE_COST};

/// Encodings that the Parquet crate decodes: plain values, and indexes into a dictionary.
pub(super) const BY_THE_CRATE: &[Encoding] = &[Encoding::PLAIN, Encoding::RLE_DICTIONARY];

/// The pages of a column in one row group.
pub(super) struct Pages {
    pages: Box<dyn PageReader>,
    encodings: &'static [Encoding],
    /// Size of the smallest possible dictionary value in bytes.
    value_bytes: usize,
    /// How many more bytes and values are allowed.
    bytes_left: usize,
    values_left: usize,
}

impl Pages {
    /// Wraps the pages of a column with `rows` rows; only `encodings` are accepted.
    pub(super) fn new(
        pages: Box<dyn PageReader>,
        column: &ColumnDescriptor,
        rows: usize,
        encodings: &'static [Encoding],
    ) -> Self {
        let value_bytes = match column.physical_type() {
            Type::INT64 => 8,
            Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or(0).max(1),
            // BYTE_ARRAY: the length before the bytes.
            _ => 4,
        };
        let lists = if column.max_rep_level() > 0 { GROUP_BYTES_MAX / VALUE_COST } else { 0 };
        Pages { pages, encodings, value_bytes, bytes_left: CHUNK_BYTES_MAX, values_left: rows + lists }
    }

    fn check(&mut self, page: Page) -> Result<Page, ParquetError> {
        let wrong = |problem: String| Err(ParquetError::General(problem));
        let (len, values) = (page.buffer().len(), page.num_values() as usize);
        let Some(bytes_left) = self.bytes_left.checked_sub(len) else {
            return wrong(format!("a column has over {CHUNK_BYTES_MAX} bytes in one row group"));
        };
        self.bytes_left = bytes_left;
        if page.is_data_page() {
            if !self.encodings.contains(&page.encoding()) {
                return wrong(format!("a page has the unsupported encoding {}", page.encoding()));
            }
            let Some(values_left) = self.values_left.checked_sub(values) else {
                return wrong("a column has more values than there are rows".to_owned());
            };
            self.values_left = values_left;
        } else if values.saturating_mul(self.value_bytes) > len {
            return wrong(format!("a dictionary claims {values} values in {len} bytes"));
        }
        Ok(page)
    }
}

impl Iterator for Pages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        self.pages.get_next_page()?.map(|page| self.check(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>, ParquetError> {
        self.pages.take_deferred_dictionary()?.map(|page| self.check(page)).transpose()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}
