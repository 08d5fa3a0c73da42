//! Attributes of files, whole: those in one record, and those spread over several.

use super::mapped::Mapped;
use super::record::{Form, RawAttribute, Sizes, kind};
use super::runs::{self, Bounds};
use super::volume::Volume;
use crate::error::{At, Result, at};

/// Flags of attributes.
const COMPRESSION: u16 = 0x00FF;

/// An attribute of a file.
pub(super) struct Attribute {
    /// The number of the file's first record, for errors.
    pub(super) file: u64,
    pub(super) kind: u32,
    /// In UTF-16.
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    pub(super) body: Body,
}

/// Where the value of an attribute is.
pub(super) enum Body {
    /// Here.
    Resident(Vec<u8>),
    /// In clusters.
    Extents(Vec<Part>),
}

/// Some of an attribute's clusters.
pub(super) struct Part {
    /// The first and the last of them.
    lowest: u64,
    highest: u64,
    /// The encoded runs.
    pairs: Vec<u8>,
    /// The sizes of the attribute, if this is the first part.
    sizes: Sizes,
}

impl Attribute {
    /// Starts an attribute from what a record has of it.
    pub(super) fn new(file: u64, raw: RawAttribute<'_>) -> Self {
        let body = match raw.form {
            Form::Resident(value) => Body::Resident(value.to_vec()),
            Form::Extents { lowest, highest, pairs, sizes } => {
                Body::Extents(vec![Part { lowest, highest, pairs: pairs.to_vec(), sizes }])
            }
        };
        Attribute { file, kind: raw.kind, name: raw.name, flags: raw.flags, body }
    }

    /// Adds clusters from another record.
    pub(super) fn extend(&mut self, raw: RawAttribute<'_>) {
        if let (Body::Extents(parts), Form::Extents { lowest, highest, pairs, sizes }) =
            (&mut self.body, raw.form)
        {
            parts.push(Part { lowest, highest, pairs: pairs.to_vec(), sizes });
        }
    }

    /// Returns true if this is the unnamed attribute of this type.
    pub(super) fn is(&self, kind: u32) -> bool {
        self.kind == kind && self.name.is_empty()
    }

    /// Returns true if its clusters are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSION != 0
    }

    /// Starts the place of an error.
    pub(super) fn place(&self) -> At {
        let kind = kind::name(self.kind);
        let name = match &self.name[..] {
            [] => String::new(),
            name => format!(" \"{}\"", String::from_utf16_lossy(name)),
        };
        at(format!("MFT record {}, {kind}{name}", self.file))
    }

    /// Returns the sizes of a value in clusters.
    fn sizes(&self, parts: &[Part]) -> Result<Sizes> {
        let first = parts.iter().find(|part| part.lowest == 0);
        Ok(first.ok_or_else(|| self.place().corrupt("lacks its first part"))?.sizes)
    }

    /// Returns the size in bytes.
    pub(super) fn size(&self) -> Result<u64> {
        match &self.body {
            Body::Resident(value) => Ok(value.len() as u64),
            Body::Extents(parts) => Ok(self.sizes(parts)?.data),
        }
    }

    /// Returns where the clusters lie; `None` if the value is resident.
    pub(super) fn mapped(&self, volume: &Volume) -> Result<Option<Mapped>> {
        let Body::Extents(parts) = &self.body else { return Ok(None) };
        let sizes = self.sizes(parts)?;
        let mut parts: Vec<&Part> = parts.iter().collect();
        parts.sort_by_key(|part| part.lowest);
        let mut mapped = Mapped::new(sizes, volume);
        for part in parts {
            self.map(&mut mapped, volume, part)?;
        }
        Ok(Some(mapped))
    }

    /// Adds the clusters of a part to those before it.
    fn map(&self, mapped: &mut Mapped, volume: &Volume, part: &Part) -> Result<()> {
        let end = mapped.end();
        if part.lowest != end {
            let problem = if part.lowest < end { "again" } else { "and none between" };
            return Err(self.place().corrupt(format!(
                "has clusters up to {end}, and in another record those from {} on {problem}",
                part.lowest
            )));
        }
        // Without clusters the runs mean nothing.
        if part.lowest == 0 && part.highest == u64::MAX {
            return Ok(());
        }
        let clusters = volume.boot.clusters();
        let bounds = Bounds { lcns: clusters, vcns: (i64::MAX as u64) / volume.cluster_size() };
        let end = runs::decode(&part.pairs, part.lowest, bounds, &mut mapped.runs)
            .map_err(|problem| self.place().corrupt(problem))?;
        if end != part.highest.wrapping_add(1) {
            return Err(self
                .place()
                .corrupt(format!("has runs up to cluster {end}, but its last cluster is {}", part.highest)));
        }
        Ok(())
    }

    /// Adds the clusters of another record of the MFT to those that are mapped.
    pub(super) fn map_more(&self, mapped: &mut Mapped, volume: &Volume) -> Result<()> {
        let Body::Extents(parts) = &self.body else {
            return Err(self.place().corrupt("is continued by a resident part"));
        };
        parts.iter().try_for_each(|part| self.map(mapped, volume, part))
    }

    /// Reads the whole value, of at most `max` bytes.
    pub(super) fn value(&self, volume: &Volume, max: usize) -> Result<Vec<u8>> {
        let size = self.size()?;
        if size > max as u64 {
            return Err(self.place().limit(format!("has {size} bytes, over the limit of {max}")));
        }
        match (&self.body, self.mapped(volume)?) {
            (Body::Resident(value), _) => Ok(value.clone()),
            (_, Some(_)) if self.is_compressed() => Err(self.place().unsupported("is compressed")),
            (_, Some(mapped)) => {
                let mut bytes = vec![0; size as usize];
                mapped.read(volume, &|| self.place(), 0, &mut bytes)?;
                Ok(bytes)
            }
            _ => Ok(Vec::new()),
        }
    }
}
