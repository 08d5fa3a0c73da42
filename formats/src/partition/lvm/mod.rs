//! LVM2: logical volumes, each in one or more segments on physical volumes (partitions, or whole disks).
//!
//! ```text
//! label │ metadata area: header, then a ring of texts, each the whole of the group │ extents ...
//! ```
//!
//! Only linear volumes are read: each segment of one is a part of a partition, so the disk's bytes map to files as
//! without LVM. Others (mirrors, RAID, thin pools, snapshots, caches) are left out with a warning, and so are volumes
//! that need a physical volume on another disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Result;
use crate::source::{Joined, Source};

mod label;
mod text;

use self::label::{PhysicalVolume, SECTOR};
use self::text::Section;

/// The part of a volume group that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// The group's UUID, as LVM prints it.
    pub id: String,
    /// The linear volumes that are entirely on the disk, by name.
    pub volumes: Vec<LogicalVolume>,
    /// Warnings about the group and about what was left out, as sentences.
    pub warnings: Vec<String>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogicalVolume {
    /// The volume's name, without the group's.
    pub name: String,
    /// The volume's UUID, as LVM prints it.
    pub id: String,
    /// The segments of the volume, in order and without gaps.
    pub segments: Vec<Segment>,
}

/// A piece of a logical volume: `len` bytes at byte `start` of a physical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// Index of the physical volume among the volumes given to [`read`].
    pub physical: usize,
    /// Offset on the physical volume, in bytes.
    pub start: u64,
    /// Length in bytes; never 0.
    pub len: u64,
}

impl LogicalVolume {
    /// Returns the volume's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Returns true if the volume has no segments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Returns the volume as a source; `volumes` are those that were passed to [`read`].
    #[must_use]
    pub fn open(&self, volumes: &[Arc<dyn Source>]) -> Joined {
        let part = |segment: &Segment| {
            let range = segment.start..segment.start + segment.len;
            (range, Arc::clone(&volumes[segment.physical]))
        };
        Joined::new("logical volume", self.segments.iter().map(part))
    }
}

/// Finds the physical volumes among `volumes`, which are the volumes of one disk, and returns their groups by name.
/// Unreadable parts of a group are warnings; only a failed read is an error.
pub fn read(volumes: &[Arc<dyn Source>]) -> Result<Vec<Group>> {
    let mut physical = BTreeMap::new();
    let mut groups = BTreeMap::new();
    let mut damage = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let Some(found) = PhysicalVolume::read(&**volume)? else { continue };
        if physical.contains_key(&found.uuid) {
            damage.push(format!("The physical volume {} exists twice; using the first one.", found.id()));
            continue;
        }
        let id = found.id();
        damage.extend(found.warnings);
        for text in found.texts {
            match text::parse(&text).and_then(|section| Metadata::of(&section)) {
                Ok(metadata) => {
                    // Every copy is complete; the newest counts.
                    let newest = groups.entry(metadata.id.clone()).or_insert_with(|| metadata.clone());
                    if metadata.seqno > newest.seqno {
                        *newest = metadata;
                    }
                }
                Err(error) => {
                    damage.push(format!("The LVM metadata of the physical volume {id} is damaged: {error}."));
                }
            }
        }
        physical.insert(found.uuid, index);
    }
    let mut groups: Vec<_> =
        groups.into_values().map(|metadata| metadata.resolve(&physical, volumes)).collect();
    groups.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    leave_out_namesakes(&mut groups);
    if let Some(group) = groups.first_mut() {
        group.warnings.extend(damage);
    } else if !damage.is_empty() {
        groups.push(Group { name: String::new(), id: String::new(), volumes: Vec::new(), warnings: damage });
    }
    Ok(groups)
}

/// Keeps one volume for each name: the one in the first group by UUID.
fn leave_out_namesakes(groups: &mut [Group]) {
    let mut names = BTreeSet::new();
    for Group { name: group, volumes, warnings, .. } in groups {
        volumes.retain(|volume| {
            let is_first = names.insert((group.clone(), volume.name.clone()));
            if !is_first {
                warnings.push(format!(
                    "The logical volume {group}/{} with UUID {} is not read, because another one has the same name.",
                    volume.name, volume.id
                ));
            }
            is_first
        });
    }
}

/// The metadata of a group.
#[derive(Debug, Clone)]
struct Metadata {
    name: String,
    id: String,
    seqno: u64,
    /// In bytes.
    extent_size: u64,
    /// Keyed by the name that segments use: UUID, and the offset of the first extent in bytes.
    physical_volumes: BTreeMap<String, (String, u64)>,
    logical_volumes: Vec<Claim>,
}

/// A visible logical volume.
#[derive(Debug, Clone)]
struct Claim {
    name: String,
    id: String,
    /// The segments in extents, or the reason why it cannot be read.
    segments: Result<Vec<Stripe>, String>,
}

/// `extent_count` extents of a volume from `start_extent`, at extent `first` of a physical volume.
#[derive(Debug, Clone)]
struct Stripe {
    start_extent: u64,
    extent_count: u64,
    physical: String,
    first: u64,
}

impl Metadata {
    fn of(root: &Section) -> Result<Self> {
        let (name, group) = root.sections().next().ok_or_else(|| text::error("has no volume group"))?;
        let extent_size = group.number("extent_size")?.checked_mul(SECTOR).filter(|size| *size > 0);
        let extent_size = extent_size.ok_or_else(|| text::error("extent_size is 0 or too large"))?;
        let mut physical_volumes = BTreeMap::new();
        for (name, section) in group.section("physical_volumes").into_iter().flat_map(Section::sections) {
            let start = section.number("pe_start")?.checked_mul(SECTOR);
            let start = start.ok_or_else(|| text::error("pe_start is too large"))?;
            physical_volumes.insert(name.to_owned(), (section.string("id")?.replace('-', ""), start));
        }
        let mut logical_volumes = Vec::new();
        for (name, section) in group.section("logical_volumes").into_iter().flat_map(Section::sections) {
            // The others are parts of a visible volume.
            if section.list("status").iter().any(|flag| flag.as_str() == Some("VISIBLE")) {
                let (name, id) = (name.to_owned(), section.string("id")?.to_owned());
                logical_volumes.push(Claim { name, id, segments: segments(section)? });
            }
        }
        logical_volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Metadata {
            name: name.to_owned(),
            id: group.string("id")?.to_owned(),
            seqno: group.number("seqno")?,
            extent_size,
            physical_volumes,
            logical_volumes,
        })
    }

    /// Locates each volume on `volumes`; `physical` maps UUIDs to their indexes.
    fn resolve(self, physical: &BTreeMap<String, usize>, volumes: &[Arc<dyn Source>]) -> Group {
        let mut group =
            Group { name: self.name.clone(), id: self.id.clone(), volumes: Vec::new(), warnings: Vec::new() };
        for claim in &self.logical_volumes {
            let segments = claim.segments.as_ref().map_err(Clone::clone).and_then(|stripes| {
                stripes.iter().map(|stripe| self.place(stripe, physical, volumes)).collect()
            });
            match segments {
                Ok(segments) => group.volumes.push(LogicalVolume {
                    name: claim.name.clone(),
                    id: claim.id.clone(),
                    segments,
                }),
                Err(reason) => group
                    .warnings
                    .push(format!("The logical volume {}/{} is not read: {reason}.", self.name, claim.name)),
            }
        }
        group
    }

    fn place(
        &self,
        stripe: &Stripe,
        physical: &BTreeMap<String, usize>,
        volumes: &[Arc<dyn Source>],
    ) -> Result<Segment, String> {
        let name = &stripe.physical;
        let (uuid, first) =
            self.physical_volumes.get(name).ok_or_else(|| format!("{name} does not exist"))?;
        let index = *physical.get(uuid).ok_or_else(|| format!("{name} is not on this disk"))?;
        let end = volumes[index].len();
        let start = stripe.first.checked_mul(self.extent_size).and_then(|offset| offset.checked_add(*first));
        let len = stripe.extent_count.checked_mul(self.extent_size);
        match (start, len) {
            (Some(start), Some(len)) if start.checked_add(len).is_some_and(|to| to <= end) => {
                Ok(Segment { physical: index, start, len })
            }
            _ => Err(format!("extent {} of {name} and later ones extend past its end", stripe.first)),
        }
    }
}

/// Returns the segments of a volume in order, if they are linear and without gaps; otherwise the reason.
fn segments(volume: &Section) -> Result<Result<Vec<Stripe>, String>> {
    let mut stripes = Vec::new();
    for (name, segment) in volume.sections() {
        if !name.starts_with("segment") {
            continue;
        }
        let kind = segment.string("type")?;
        if kind != "striped" {
            return Ok(Err(format!("its type is {kind}")));
        }
        let count = segment.number("stripe_count")?;
        if count != 1 {
            return Ok(Err(format!("it has {count} stripes")));
        }
        let [physical, first] = segment.list("stripes") else {
            return Err(text::error("stripes does not name a physical volume and an extent"));
        };
        let (Some(physical), Some(first)) = (physical.as_str(), first.as_number()) else {
            return Err(text::error("stripes does not name a physical volume and an extent"));
        };
        stripes.push(Stripe {
            start_extent: segment.number("start_extent")?,
            extent_count: segment.number("extent_count")?,
            physical: physical.to_owned(),
            first,
        });
    }
    stripes.sort_by_key(|stripe| stripe.start_extent);
    let mut next = 0u64;
    for stripe in &stripes {
        if stripe.start_extent != next || stripe.extent_count == 0 {
            return Ok(Err(format!("its segments leave a gap or overlap at extent {next}")));
        }
        let Some(end) = next.checked_add(stripe.extent_count).filter(|end| *end < 1 << 48) else {
            return Ok(Err("its length is too large".to_owned()));
        };
        next = end;
    }
    Ok(if stripes.is_empty() { Err("it has no segments".to_owned()) } else { Ok(stripes) })
}

#[cfg(test)]
mod tests;
