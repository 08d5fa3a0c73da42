//! Whole columns of any table: what code needs that copies rows from table to table, whatever their columns are.

use std::io::Write;

use parquet::basic::Type;
use parquet::data_type::{
    ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescriptor;

use super::{GroupWriter, write_column};

/// The values of a leaf column in a row group.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mif) enum Values {
    /// No row has one.
    None,
    /// Of type `int32` or `int64`.
    Numbers(Vec<Option<i64>>),
    /// Texts, bytes and digests.
    Bytes(Vec<Option<ByteArray>>),
    /// Lists of texts or bytes.
    Lists(Vec<Vec<ByteArray>>),
}

impl Values {
    /// Returns no values, of the kind that a column has.
    pub(in crate::mif) fn empty(column: &ColumnDescriptor) -> Self {
        match column.physical_type() {
            _ if column.max_rep_level() > 0 => Values::Lists(Vec::new()),
            Type::INT32 | Type::INT64 => Values::Numbers(Vec::new()),
            _ => Values::Bytes(Vec::new()),
        }
    }

    /// Returns the number of rows, unless no row has a value.
    pub(in crate::mif) fn len(&self) -> Option<usize> {
        match self {
            Values::None => None,
            Values::Numbers(numbers) => Some(numbers.len()),
            Values::Bytes(bytes) => Some(bytes.len()),
            Values::Lists(lists) => Some(lists.len()),
        }
    }
}

/// Writes the next column of a group, of `rows` rows. Every kind of column is written by the levels that it has.
pub(in crate::mif) fn write_values<W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    column: &ColumnDescriptor,
    values: &Values,
    rows: usize,
) -> Result<(), ParquetError> {
    let (is_optional, kind) = (column.max_def_level() > 0, column.physical_type());
    let levels = |has: &mut dyn Iterator<Item = bool>| has.map(i16::from).collect::<Vec<_>>();
    match values {
        Values::Lists(lists) => {
            let (mut def, mut rep) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
            for list in lists {
                if list.is_empty() {
                    def.push(0);
                    rep.push(0);
                }
                for place in 0..list.len() {
                    def.push(1);
                    rep.push(i16::from(place > 0));
                }
            }
            let values: Vec<ByteArray> = lists.iter().flatten().cloned().collect();
            write_column::<ByteArrayType, W>(group, &values, Some(&def), Some(&rep))
        }
        Values::Numbers(numbers) => {
            let def = is_optional.then(|| levels(&mut numbers.iter().map(Option::is_some)));
            let present = numbers.iter().flatten();
            if kind == Type::INT32 {
                let values: Vec<i32> = present.map(|number| *number as i32).collect();
                return write_column::<Int32Type, W>(group, &values, def.as_deref(), None);
            }
            let values: Vec<i64> = present.copied().collect();
            write_column::<Int64Type, W>(group, &values, def.as_deref(), None)
        }
        Values::Bytes(bytes) => {
            let def = is_optional.then(|| levels(&mut bytes.iter().map(Option::is_some)));
            let present = bytes.iter().flatten().cloned();
            if kind == Type::FIXED_LEN_BYTE_ARRAY {
                let values: Vec<FixedLenByteArray> = present.map(FixedLenByteArray::from).collect();
                return write_column::<FixedLenByteArrayType, W>(group, &values, def.as_deref(), None);
            }
            write_column::<ByteArrayType, W>(group, &present.collect::<Vec<_>>(), def.as_deref(), None)
        }
        Values::None => {
            let def = vec![0; rows];
            match kind {
                Type::INT32 => write_column::<Int32Type, W>(group, &[], Some(&def), None),
                Type::INT64 => write_column::<Int64Type, W>(group, &[], Some(&def), None),
                Type::FIXED_LEN_BYTE_ARRAY => {
                    write_column::<FixedLenByteArrayType, W>(group, &[], Some(&def), None)
                }
                _ => write_column::<ByteArrayType, W>(group, &[], Some(&def), None),
            }
        }
    }
}
