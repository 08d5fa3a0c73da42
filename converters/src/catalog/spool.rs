//! Sorts records in bounded memory: sorted runs in temporary files, which are merged as they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use mif_formats::mif::catalog::Record;

use crate::error::{Error, Result};

/// The most runs of a sorter: each takes half a mebibyte while they are merged.
const MAX_RUNS: usize = 48;

/// The window of the compression of runs, as a power of two in bytes.
const WINDOW: u32 = 18;

/// Records in ascending order.
pub(crate) trait Source {
    /// Goes to the next record; false if there is none.
    fn advance(&mut self) -> Result<bool>;

    /// Returns the current record.
    fn record(&self) -> &[u8];
}

/// Sorts records.
pub(crate) struct Sorter {
    /// The most bytes of records in memory.
    most: usize,
    batch: Batch,
    runs: Vec<File>,
}

/// Records in memory, each with its place.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    places: Vec<(usize, usize)>,
    next: usize,
}

impl Batch {
    fn sort(&mut self) -> Result<()> {
        let mut keyed = Vec::with_capacity(self.places.len());
        for place in &self.places {
            keyed.push((Record::parse(&self.bytes[place.0..place.1])?.key, *place));
        }
        keyed.sort_unstable_by_key(|(key, _)| *key);
        self.places = keyed.into_iter().map(|(_, place)| place).collect();
        Ok(())
    }
}

impl Source for Batch {
    fn advance(&mut self) -> Result<bool> {
        self.next += 1;
        Ok(self.next <= self.places.len())
    }

    fn record(&self) -> &[u8] {
        let (start, end) = self.places[self.next - 1];
        &self.bytes[start..end]
    }
}

impl Sorter {
    /// Creates a sorter that keeps at most `most` bytes of records in memory, and the others in files without names, which end
    /// with the process.
    pub(crate) fn new(most: usize) -> Self {
        Sorter { most, batch: Batch::default(), runs: Vec::new() }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<()> {
        const PLACE: usize = size_of::<(usize, usize)>() * 3;
        let used = self.batch.bytes.len() + self.batch.places.len() * PLACE;
        if used + record.len() > self.most && !self.batch.places.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            batch.sort()?;
            self.spool(vec![Box::new(batch)])?;
            if self.runs.len() >= MAX_RUNS {
                let runs = std::mem::take(&mut self.runs);
                self.spool(runs.into_iter().map(open).collect::<Result<Vec<_>>>()?)?;
            }
        }
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(record);
        self.batch.places.push((start, self.batch.bytes.len()));
        Ok(())
    }

    /// Writes a run.
    fn spool(&mut self, sources: Vec<Box<dyn Source + '_>>) -> Result<()> {
        let file = BufWriter::new(tempfile::tempfile().map_err(failed)?);
        let mut out = zstd::Encoder::new(file, 1).map_err(failed)?;
        out.window_log(WINDOW).map_err(failed)?;
        merge(sources, |record| {
            let len = u32::try_from(record.len()).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
            out.write_all(&len.to_le_bytes()).and_then(|()| out.write_all(record)).map_err(failed)
        })?;
        let file = out.finish().map_err(failed)?;
        self.runs.push(file.into_inner().map_err(|e| failed(e.into_error()))?);
        Ok(())
    }

    /// Returns all records, as sources to merge.
    pub(crate) fn finish(mut self) -> Result<Vec<Box<dyn Source>>> {
        self.batch.sort()?;
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(self.batch)];
        for run in self.runs {
            sources.push(open(run)?);
        }
        Ok(sources)
    }
}

fn failed(error: io::Error) -> Error {
    Error::io(&std::env::temp_dir(), &error)
}

fn open(mut file: File) -> Result<Box<dyn Source>> {
    file.rewind().map_err(failed)?;
    let input = zstd::Decoder::with_buffer(BufReader::new(file)).map_err(failed)?;
    Ok(Box::new(Run { input, record: Vec::new() }))
}

/// A run in a file.
struct Run {
    input: zstd::Decoder<'static, BufReader<File>>,
    record: Vec<u8>,
}

impl Source for Run {
    fn advance(&mut self) -> Result<bool> {
        let mut len = Vec::new();
        (&mut self.input).take(4).read_to_end(&mut len).map_err(failed)?;
        if len.is_empty() {
            return Ok(false);
        }
        let len = <[u8; 4]>::try_from(len).map_err(|_| failed(io::ErrorKind::UnexpectedEof.into()))?;
        self.record.resize(u32::from_le_bytes(len) as usize, 0);
        self.input.read_exact(&mut self.record).map_err(failed)?;
        Ok(true)
    }

    fn record(&self) -> &[u8] {
        &self.record
    }
}

/// Calls `each` with the records of all sources, in ascending order of their keys.
pub(crate) fn merge(
    mut sources: Vec<Box<dyn Source + '_>>,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut heads = BinaryHeap::new();
    for (number, source) in sources.iter_mut().enumerate() {
        if source.advance()? {
            heads.push(Reverse((Record::parse(source.record())?.key.to_vec(), number)));
        }
    }
    while let Some(Reverse((mut key, number))) = heads.pop() {
        let source = &mut sources[number];
        each(source.record())?;
        if source.advance()? {
            key.clear();
            key.extend_from_slice(Record::parse(source.record())?.key);
            heads.push(Reverse((key, number)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a record with this key and a cell that tells where it came from.
    fn record(key: &str, cell: u8) -> Vec<u8> {
        [&[key.len() as u8], key.as_bytes(), &[cell]].concat()
    }

    #[test]
    fn records_are_sorted_whatever_the_memory_is() {
        let keys: Vec<String> = (0..3000_u64).map(|i| format!("{:05}", i * 7919 % 3001)).collect();
        let mut expected = keys.clone();
        expected.sort();
        for most in [1, 900, 20_000, 1 << 20] {
            let mut sorter = Sorter::new(most);
            keys.iter().for_each(|key| sorter.push(&record(key, 1)).unwrap());
            let mut found = Vec::new();
            let sources = sorter.finish().unwrap().into_iter().map(|source| source as Box<dyn Source>);
            merge(sources.collect(), |bytes| {
                found.push(String::from_utf8(Record::parse(bytes)?.key.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
            assert_eq!(found, expected, "with {most} bytes");
        }
    }
}
