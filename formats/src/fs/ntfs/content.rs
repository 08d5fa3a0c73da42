//! The locations of an attribute's bytes, for reading it as content.

use super::attribute::{Attribute, Body};
use super::mapped::Mapped;
use super::runs::Run;
use super::volume::Volume;
use crate::codec::{self, Codec};
use crate::error::Result;
use crate::fs::filesystem::{Content, Encoded, Piece};
use crate::fs::pieces::Pieces;

/// The number of an attribute's compression.
const LZNT1: u16 = 1;

/// Returns the content of an attribute.
pub(super) fn of(volume: &Volume, attribute: &Attribute) -> Result<Content> {
    let mapped = match (&attribute.body, attribute.mapped(volume)?) {
        (Body::Resident(value), _) => return Ok(Content::in_memory(value.clone())),
        (_, Some(mapped)) => mapped,
        _ => return Ok(Content::in_memory(Vec::new())),
    };
    mapped.check_size(|| attribute.place())?;
    let mut pieces = Pieces::new(attribute.file, mapped.sizes.data);
    if attribute.is_compressed() {
        compressed(volume, attribute, &mapped, &mut pieces)?;
    } else {
        plain(volume, &mapped, &mut pieces)?;
    }
    pieces.finish()
}

/// Adds the bytes that were written.
fn plain(volume: &Volume, mapped: &Mapped, pieces: &mut Pieces) -> Result<()> {
    mapped.locate(0, mapped.initialized(), &mut |offset, len| add(volume, pieces, offset, len))
}

/// Adds bytes on the volume, or a hole.
fn add(volume: &Volume, pieces: &mut Pieces, offset: Option<u64>, len: u64) -> Result<()> {
    let Some(offset) = offset else { return pieces.push(Piece::Zero { len }) };
    volume.check("file", offset, len)?;
    pieces.push(Piece::Volume { offset, len })
}

/// Adds the bytes of a compressed attribute: its clusters form units of one size. A unit without a hole is stored as it is,
/// one that is only a hole is zeros, and any other is compressed into the clusters before its hole.
fn compressed(volume: &Volume, attribute: &Attribute, mapped: &Mapped, pieces: &mut Pieces) -> Result<()> {
    let size = volume.cluster_size();
    let method = attribute.flags & 0xFF;
    if method != LZNT1 {
        return Err(attribute.place().unsupported(format!("is compressed by method {method}, not by LZNT1")));
    }
    let unit = 1_u64.checked_shl(u32::from(mapped.sizes.unit)).unwrap_or(u64::MAX);
    if unit.saturating_mul(size) > u64::from(codec::MAX) {
        return Err(attribute
            .place()
            .limit(format!("is compressed in units of 2^{} clusters", mapped.sizes.unit)));
    }
    let written = mapped.initialized();
    let mut rest = Rest { runs: &mapped.runs, used: 0 };
    while pieces.done() < written {
        let wanted = written - pieces.done();
        // Whole units of one run.
        if let Some(run) = rest.take(|left| left / unit * unit) {
            add(volume, pieces, run.lcn.map(|lcn| lcn * size), (run.count * size).min(wanted))?;
            continue;
        }
        // A unit of several runs.
        let (mut stored, mut holes, mut missing) = (Vec::new(), 0, unit);
        while missing > 0 {
            let Some(run) = rest.take(|left| left.min(missing)) else { break };
            missing -= run.count;
            match run.lcn {
                None => holes += run.count,
                Some(_) if holes > 0 => {
                    return Err(attribute
                        .place()
                        .corrupt("has a compressed unit with clusters after its hole"));
                }
                Some(lcn) => stored.push(lcn * size..(lcn + run.count) * size),
            }
        }
        if stored.is_empty() {
            pieces.push(Piece::Zero { len: (unit * size).min(wanted) })?;
        } else if holes + missing == 0 {
            let mut wanted = (unit * size).min(wanted);
            for range in stored {
                let len = (range.end - range.start).min(wanted);
                if len > 0 {
                    add(volume, pieces, Some(range.start), len)?;
                }
                wanted -= len;
            }
        } else {
            for range in &stored {
                volume.check("file", range.start, range.end - range.start)?;
            }
            let len = (unit * size).min(wanted) as u32;
            let encoded = Encoded { runs: stored, codec: Codec::Lznt1, decoded: len, from: 0, len };
            pieces.push(Piece::Encoded(Box::new(encoded)))?;
        }
    }
    Ok(())
}

/// The runs that have not been taken.
struct Rest<'a> {
    runs: &'a [Run],
    /// How many clusters of the first run have been taken.
    used: u64,
}

impl Rest<'_> {
    /// Takes as many clusters of the first run as `wanted` makes of those that are left of it. `None` if that is none, or no
    /// runs are left.
    fn take(&mut self, wanted: impl Fn(u64) -> u64) -> Option<Run> {
        let run = self.runs.first()?;
        let count = Some(wanted(run.count - self.used)).filter(|count| *count > 0)?;
        let taken = Run { vcn: run.vcn + self.used, count, lcn: run.lcn.map(|lcn| lcn + self.used) };
        self.used += count;
        if self.used == run.count {
            (self.runs, self.used) = (&self.runs[1..], 0);
        }
        Some(taken)
    }
}
