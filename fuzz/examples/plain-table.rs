//! Rewrites a table of a store with uncompressed pages, so that a fuzzer can change their contents: `plain-table IN
//! OUT`.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &arguments[..] else { panic!("usage: plain-table IN OUT") };
    let table = SerializedFileReader::new(File::open(from).unwrap()).unwrap();
    let schema = Arc::new(table.metadata().file_metadata().schema().clone());
    let properties = Arc::new(properties(table.metadata().row_group(0)));
    let mut out = SerializedFileWriter::new(File::create(to).unwrap(), schema, properties).unwrap();
    for number in 0..table.num_row_groups() {
        let group = table.get_row_group(number).unwrap();
        let rows = usize::try_from(group.metadata().num_rows()).unwrap();
        let mut written = out.next_row_group().unwrap();
        for column in 0..group.num_columns() {
            copy(group.get_column_reader(column).unwrap(), rows, written.next_column().unwrap().unwrap());
        }
        written.close().unwrap();
    }
    out.close().unwrap();
}

/// Returns the encodings of the input table, without compression.
fn properties(group: &RowGroupMetaData) -> WriterProperties {
    let mut builder = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED);
    for column in group.columns() {
        let has = |wanted| column.encodings().any(|encoding| encoding == wanted);
        let path = column.column_path().clone();
        builder = builder.set_column_dictionary_enabled(path.clone(), has(Encoding::RLE_DICTIONARY));
        if has(Encoding::DELTA_BYTE_ARRAY) {
            builder = builder.set_column_encoding(path, Encoding::DELTA_BYTE_ARRAY);
        }
    }
    builder.build()
}

fn copy(reader: ColumnReader, rows: usize, writer: SerializedColumnWriter<'_>) {
    match reader {
        ColumnReader::Int32ColumnReader(reader) => copy_values(reader, rows, writer),
        ColumnReader::Int64ColumnReader(reader) => copy_values(reader, rows, writer),
        ColumnReader::ByteArrayColumnReader(reader) => copy_values(reader, rows, writer),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => copy_values(reader, rows, writer),
        _ => panic!("no table has a column of this type"),
    }
}

fn copy_values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    rows: usize,
    mut writer: SerializedColumnWriter<'_>,
) {
    let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
    while reader.read_records(rows, Some(&mut def), Some(&mut rep), &mut values).unwrap().0 > 0 {}
    let levels = |levels: Vec<i16>| (!levels.is_empty()).then_some(levels);
    let (def, rep) = (levels(def), levels(rep));
    writer.typed::<T>().write_batch(&values, def.as_deref(), rep.as_deref()).unwrap();
    writer.close().unwrap();
}
