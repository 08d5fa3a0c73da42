//! Files: the attributes of a first record, and of the further records that its attribute list names.

use std::collections::HashMap;

use super::attribute::{Attribute, Body};
use super::record::{Form, RawAttribute, Record, Reference, kind, units};
use super::volume::Volume;
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, ErrorKind, Result, at};

/// The largest attribute list in bytes, which is Windows' limit.
pub(super) const LIST_MAX: usize = 256 << 10;
/// The most bytes of the further records of a file.
const RECORDS_MAX: usize = 64 << 20;
/// The bytes of an entry of an attribute list without its name.
const ENTRY: usize = 26;

/// A file with its attributes.
pub(super) struct File {
    pub(super) number: u64,
    /// How often the record was used anew.
    pub(super) sequence: u16,
    pub(super) is_dir: bool,
    pub(super) attributes: Vec<Attribute>,
    /// Attributes that could not be read.
    pub(super) lost: Vec<Error>,
}

/// An entry of an attribute list.
pub(super) struct Entry {
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    /// The first cluster that the record has of the attribute.
    pub(super) lowest: u64,
    pub(super) record: Reference,
    /// The attribute's number in the record.
    pub(super) id: u16,
}

impl File {
    /// Gathers the attributes of the file whose first record is `base`. `read` reads further ones.
    pub(super) fn gather(
        base: &Record,
        volume: &Volume,
        read: &dyn Fn(u64) -> Result<Record>,
    ) -> Result<Self> {
        if !base.is_used() {
            return Err(base.place().corrupt("is not in use"));
        }
        if base.base.0 != 0 {
            let problem = format!("is no file, but a part of record {}", base.base.number());
            return Err(base.place().corrupt(problem));
        }
        let mut file = File {
            number: base.number,
            sequence: base.sequence,
            is_dir: base.is_dir(),
            attributes: Vec::new(),
            lost: Vec::new(),
        };
        let mut own = Vec::new();
        base.attributes(&mut |error| file.lost.push(error), &mut |raw| own.push(raw));
        let Some(list) = own.iter().position(|raw| raw.kind == kind::ATTRIBUTE_LIST) else {
            file.attributes = own.into_iter().map(|raw| Attribute::new(base.number, raw)).collect();
            return Ok(file);
        };
        let list = Attribute::new(base.number, own.swap_remove(list));
        match entries(&list, volume) {
            Ok(entries) => file.collect(base, &entries, read)?,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                // What the first record has may be whole, or miss parts, which its clusters will show.
                file.lost.push(error);
                file.attributes = own.into_iter().map(|raw| Attribute::new(base.number, raw)).collect();
            }
        }
        Ok(file)
    }

    /// Collects the attributes that a list names.
    fn collect(
        &mut self,
        base: &Record,
        entries: &[Entry],
        read: &dyn Fn(u64) -> Result<Record>,
    ) -> Result<()> {
        let mut records: HashMap<u64, Result<Record>> = HashMap::new();
        let mut held = 0;
        for reference in entries.iter().map(|entry| entry.record) {
            if reference.number() != base.number && !records.contains_key(&reference.number()) {
                let record = match extension(base, reference, read) {
                    Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                    record => record,
                };
                held += record.as_ref().map_or(0, Record::len);
                if held > RECORDS_MAX {
                    let problem = format!("has more than {RECORDS_MAX} bytes in further records");
                    return Err(base.place().limit(problem));
                }
                records.insert(reference.number(), record);
            }
        }
        // What each record has, by type and number. Each part is used once.
        let mut parts: HashMap<u64, HashMap<(u32, u16), RawAttribute<'_>>> = HashMap::new();
        let readable = records.iter().filter_map(|(number, record)| Some((*number, record.as_ref().ok()?)));
        for (number, record) in readable.chain([(base.number, base)]) {
            let parts = parts.entry(number).or_default();
            record.attributes(&mut |_| (), &mut |raw| {
                parts.entry((raw.kind, raw.id)).or_insert(raw);
            });
        }
        // Where the parts of an attribute in clusters belong.
        let mut places: HashMap<(u32, Vec<u16>), usize> = HashMap::new();
        for entry in entries {
            let number = entry.record.number();
            if let Some(Err(error)) = records.get(&number) {
                self.lose(entry, &format!("is listed in a record that cannot be read: {error}"));
                continue;
            }
            let is_stale = number == base.number && !entry.record.fits(base.sequence);
            let raw = parts.get_mut(&number).and_then(|parts| parts.remove(&(entry.kind, entry.id)));
            let Some(raw) = raw.filter(|raw| !is_stale && raw.is(entry)) else {
                self.lose(entry, &format!("is listed in record {number}, but is not there"));
                continue;
            };
            if matches!(raw.form, Form::Extents { .. }) {
                let key = (raw.kind, raw.name.clone());
                if let Some(place) = places.get(&key) {
                    self.attributes[*place].extend(raw);
                    continue;
                }
                places.insert(key, self.attributes.len());
            }
            self.attributes.push(Attribute::new(self.number, raw));
        }
        Ok(())
    }

    fn lose(&mut self, entry: &Entry, problem: &str) {
        let place = at(format!("MFT record {}, {}", self.number, kind::name(entry.kind)));
        self.lost.push(place.corrupt(problem));
    }

    /// Returns the unnamed attribute of a type.
    pub(super) fn attribute(&self, kind: u32) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.is(kind))
    }

    /// Returns an attribute by its name.
    pub(super) fn named(&self, kind: u32, name: &str) -> Option<&Attribute> {
        let is = |attribute: &&Attribute| {
            attribute.kind == kind && attribute.name.iter().copied().eq(name.encode_utf16())
        };
        self.attributes.iter().find(is)
    }

    /// Returns the error for a missing attribute: the first thing that was lost, if any was.
    pub(super) fn missing(self, problem: &str) -> Error {
        let place = at(format!("MFT record {}", self.number));
        self.lost.into_iter().next().unwrap_or_else(|| place.corrupt(problem))
    }
}

/// Reads a further record of a file and checks that it belongs to it.
fn extension(base: &Record, reference: Reference, read: &dyn Fn(u64) -> Result<Record>) -> Result<Record> {
    let record = read(reference.number())?;
    let belongs = record.is_used()
        && reference.fits(record.sequence)
        && record.base.number() == base.number
        && record.base.fits(base.sequence);
    if !belongs {
        return Err(record.place().corrupt(format!("does not belong to record {}", base.number)));
    }
    Ok(record)
}

impl RawAttribute<'_> {
    /// Returns true if it is what a list names.
    fn is(&self, entry: &Entry) -> bool {
        let lowest = match self.form {
            Form::Resident(_) => 0,
            Form::Extents { lowest, .. } => lowest,
        };
        (self.kind, self.id, &self.name, lowest) == (entry.kind, entry.id, &entry.name, entry.lowest)
    }
}

/// Finds what a record has of a listed attribute.
pub(super) fn find<'a>(record: &'a Record, entry: &Entry) -> Option<RawAttribute<'a>> {
    let mut found = None;
    record.attributes(&mut |_| (), &mut |raw| {
        if found.is_none() && raw.is(entry) {
            found = Some(raw);
        }
    });
    found
}

/// Reads an attribute list.
pub(super) fn entries(list: &Attribute, volume: &Volume) -> Result<Vec<Entry>> {
    let bytes = match &list.body {
        Body::Resident(value) => value.clone(),
        Body::Extents(_) => list.value(volume, LIST_MAX)?,
    };
    let mut entries = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let place = || list.place();
        let len = if rest.len() < ENTRY { 0 } else { usize::from(le16(rest, 4)) };
        let entry = rest.get(..len).filter(|entry| entry.len() >= ENTRY);
        let entry = entry.ok_or_else(|| {
            place().corrupt(format!("has an entry of {len} bytes at byte {}", bytes.len() - rest.len()))
        })?;
        let (name_len, name_at) = (2 * usize::from(entry[6]), usize::from(entry[7]));
        let name = match name_len {
            0 => Vec::new(),
            _ => units(
                entry
                    .get(name_at..name_at + name_len)
                    .ok_or_else(|| place().corrupt("has a name outside of its entry"))?,
            ),
        };
        entries.push(Entry {
            kind: le32(entry, 0),
            name,
            lowest: le64(entry, 8),
            record: Reference(le64(entry, 16)),
            id: le16(entry, 24),
        });
        rest = &rest[len..];
    }
    Ok(entries)
}
