//! The JSON of a LUKS2 header ("LUKS2 On-Disk Format Specification", 3). Numbers of 64 bits are strings of digits.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::cipher::Spec;
use super::hash::{Hash, Kdf};
use super::locked::{Digest, Locked, Slot};
use super::payload::Payload;
use crate::error::{Error, Result, at};

/// The most key slots, segments and digests each: cryptsetup's limit.
const MAX_OBJECTS: usize = 32;

/// The most bytes of a salt or a digest.
const MAX_BYTES: usize = 1024;

/// An object of the JSON, with its name for errors.
struct Object<'a> {
    name: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    fn of(name: impl Into<String>, value: Option<&'a Value>) -> Result<Self> {
        let name = name.into();
        match value.and_then(Value::as_object) {
            Some(fields) => Ok(Object { name, fields }),
            None => Err(corrupt(format!("{name}: is missing, or no object"))),
        }
    }

    fn object(&self, field: &str) -> Result<Object<'a>> {
        Object::of(format!("{}.{field}", self.name), self.fields.get(field))
    }

    /// Returns the objects in it that have numbers for names, in the order of these.
    fn numbered(&self) -> Result<Vec<(u32, Object<'a>)>> {
        if self.fields.len() > MAX_OBJECTS {
            let problem =
                format!("{}: has {} objects, more than {MAX_OBJECTS}", self.name, self.fields.len());
            return Err(at("LUKS2 header").limit(problem));
        }
        let mut all = Vec::new();
        for (key, value) in self.fields {
            let name = format!("{}.{key}", self.name);
            let number = key.parse().map_err(|_| corrupt(format!("{name}: the name is not a number")))?;
            all.push((number, Object::of(name, Some(value))?));
        }
        all.sort_by_key(|(number, _)| *number);
        Ok(all)
    }

    fn wrong(&self, field: &str, expected: &str) -> Error {
        corrupt(format!("{}.{field}: expected {expected}", self.name))
    }

    fn text(&self, field: &str) -> Result<&'a str> {
        self.fields.get(field).and_then(Value::as_str).ok_or_else(|| self.wrong(field, "a string"))
    }

    /// Returns a number of 64 bits, which is a string.
    fn long(&self, field: &str) -> Result<u64> {
        let text = self.text(field)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| self.wrong(field, "a string of digits below 2^64"))
    }

    fn int(&self, field: &str) -> Result<u32> {
        let number = self.fields.get(field).and_then(Value::as_u64).and_then(|number| number.try_into().ok());
        number.ok_or_else(|| self.wrong(field, "a number below 2^32"))
    }

    fn bytes(&self, field: &str) -> Result<Vec<u8>> {
        let text = self.text(field)?;
        let bytes = (text.len() <= MAX_BYTES * 2).then(|| BASE64_STANDARD.decode(text).ok()).flatten();
        bytes
            .filter(|bytes| bytes.len() <= MAX_BYTES)
            .ok_or_else(|| self.wrong(field, "base64 of 1024 bytes at most"))
    }

    /// Returns the strings of an array; an empty list if the field is missing.
    fn texts(&self, field: &str) -> Vec<&'a str> {
        let list = self.fields.get(field).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn corrupt(problem: String) -> Error {
    at("LUKS2 header").corrupt(problem)
}

fn unsupported(problem: impl Into<String>) -> Error {
    at("LUKS2 header").unsupported(problem)
}

/// Returns the name of the first segment's cipher; empty if there is none.
pub(super) fn cipher(json: &Value) -> String {
    let segments = json.get("segments").and_then(Value::as_object);
    let mut names =
        segments.into_iter().flat_map(Map::values).filter_map(|segment| segment.get("encryption")?.as_str());
    names.next().unwrap_or_default().to_owned()
}

/// Returns what opens the volume. `size` is the length of a copy of the header in bytes.
pub(super) fn locked(json: &Value, size: u64) -> Result<Locked> {
    let root = Object::of("the JSON", Some(json))?;
    check_requirements(&root)?;
    let keyslots = root.object("keyslots")?.numbered()?;
    if keyslots.iter().any(|(_, slot)| slot.text("type").is_ok_and(|kind| kind == "reencrypt")) {
        return Err(reencrypting());
    }
    let (number, segment) = only_segment(&root)?;
    let payload = payload(&segment, size)?;
    let digests = root.object("digests")?.numbered()?;
    let of_segment = |digest: &&(u32, Object<'_>)| digest.1.texts("segments").contains(&&*number.to_string());
    let (_, digest) = digests
        .iter()
        .find(of_segment)
        .ok_or_else(|| corrupt(format!("{}: no digest tells the key of this segment", segment.name)))?;
    let takes: Vec<&str> = digest.texts("keyslots");
    let mut slots = Vec::new();
    for (number, keyslot) in keyslots.iter().filter(|(number, _)| takes.contains(&&*number.to_string())) {
        let slot = slot(keyslot).and_then(|slot| slot.check(2 * size..payload.offset));
        // 2 is tried first; cryptsetup uses 0 only if it is named.
        let priority = keyslot.int("priority").unwrap_or(1);
        slots.push((std::cmp::Reverse(priority), (*number, slot)));
    }
    slots.sort_by_key(|(priority, (number, _))| (*priority, *number));
    let slots = slots.into_iter().map(|(_, slot)| slot).collect();
    Ok(Locked { slots, digest: digest_of(digest)?, payload })
}

/// Fails if the volume needs what mif does not have.
fn check_requirements(root: &Object<'_>) -> Result<()> {
    let config = root.object("config")?;
    let Ok(requirements) = config.object("requirements") else { return Ok(()) };
    match requirements.texts("mandatory").first() {
        None => Ok(()),
        Some(name) if name.contains("reencrypt") => Err(reencrypting()),
        Some(name) => Err(unsupported(format!("the volume requires {name:?}, which mif does not know"))),
    }
}

fn reencrypting() -> Error {
    unsupported(
        "the volume is being encrypted, decrypted or given another key; let cryptsetup end that with `cryptsetup reencrypt`",
    )
}

/// Returns the one segment of the volume, with its number.
fn only_segment<'a>(root: &Object<'a>) -> Result<(u32, Object<'a>)> {
    let mut segments = root.object("segments")?.numbered()?;
    if segments.iter().any(|(_, segment)| !segment.texts("flags").is_empty()) {
        return Err(reencrypting());
    }
    match (segments.pop(), segments.len()) {
        (Some(segment), 0) => Ok(segment),
        (None, _) => Err(corrupt("segments: there is none".to_owned())),
        (Some(_), others) => {
            Err(unsupported(format!("the payload has {} segments, and mif reads one", others + 1)))
        }
    }
}

fn payload(segment: &Object<'_>, size: u64) -> Result<Payload> {
    match segment.text("type")? {
        "crypt" => {}
        "linear" => return Err(unsupported("the payload is not encrypted (a linear segment)")),
        kind if kind.contains("opal") => {
            return Err(unsupported(format!(
                "the drive encrypts the payload itself ({kind}), and has its key"
            )));
        }
        kind => {
            return Err(unsupported(format!("the payload is of the type {kind:?}, which mif does not know")));
        }
    }
    if let Some(integrity) = segment.fields.get("integrity") {
        let kind = integrity.get("type").and_then(Value::as_str).unwrap_or("unknown");
        return Err(unsupported(format!(
            "the payload is authenticated (dm-integrity, {kind}), which mif does not read"
        )));
    }
    let offset = segment.long("offset")?;
    if offset == 0 {
        return Err(unsupported("the header is detached, and mif does not read a payload that is elsewhere"));
    }
    if offset < 2 * size || offset % 512 != 0 {
        return Err(segment.wrong("offset", "a multiple of 512 after both copies of the header"));
    }
    let sector = segment.int("sector_size")?;
    if !matches!(sector, 512 | 1024 | 2048 | 4096) {
        return Err(segment.wrong("sector_size", "512, 1024, 2048 or 4096"));
    }
    let len = match segment.text("size")? {
        "dynamic" => None,
        _ => Some(segment.long("size")?),
    };
    if len.is_some_and(|len| len == 0 || len % u64::from(sector) != 0 || len > u64::MAX - offset) {
        return Err(segment.wrong("size", "\"dynamic\", or a multiple of the sector size"));
    }
    let spec = Spec::named(segment.text("encryption")?, "encryption")?;
    Ok(Payload { offset, len, spec, sector: sector as usize, first: segment.long("iv_tweak")? })
}

fn digest_of(digest: &Object<'_>) -> Result<Digest> {
    let kind = digest.text("type")?;
    if kind != "pbkdf2" {
        return Err(unsupported(format!(
            "{}: the digest is of the type {kind:?}, which mif does not know",
            digest.name
        )));
    }
    let bytes = digest.bytes("digest")?;
    if bytes.is_empty() {
        return Err(digest.wrong("digest", "a digest"));
    }
    Ok(Digest {
        hash: Hash::named(digest.text("hash")?, "digest")?,
        iterations: digest.int("iterations")?,
        salt: digest.bytes("salt")?,
        digest: bytes,
    })
}

fn slot(keyslot: &Object<'_>) -> Result<Slot> {
    let kind = keyslot.text("type")?;
    if kind != "luks2" {
        return Err(unsupported(format!(
            "{}: is of the type {kind:?}, which mif does not know",
            keyslot.name
        )));
    }
    let (area, af) = (keyslot.object("area")?, keyslot.object("af")?);
    let (area_kind, af_kind) = (area.text("type")?, af.text("type")?);
    if (area_kind, af_kind) != ("raw", "luks1") {
        return Err(unsupported(format!(
            "{}: its area and split are of the types {area_kind:?} and {af_kind:?}, expected \"raw\" and \"luks1\"",
            keyslot.name
        )));
    }
    let slot = Slot {
        key_len: keyslot.int("key_size")? as usize,
        kdf: kdf(&keyslot.object("kdf")?)?,
        start: area.long("offset")?,
        spec: Spec::named(area.text("encryption")?, "area")?,
        spec_key_len: area.int("key_size")? as usize,
        stripes: af.int("stripes")?,
        hash: Hash::named(af.text("hash")?, "af")?,
    };
    let needed = slot.key_len as u64 * u64::from(slot.stripes);
    if area.long("size")? < needed {
        return Err(area.wrong("size", &format!("{needed} bytes at least")));
    }
    Ok(slot)
}

fn kdf(kdf: &Object<'_>) -> Result<Kdf> {
    let salt = kdf.bytes("salt")?;
    Ok(match kdf.text("type")? {
        "pbkdf2" => Kdf::Pbkdf2 {
            hash: Hash::named(kdf.text("hash")?, "kdf")?,
            iterations: kdf.int("iterations")?,
            salt,
        },
        kind @ ("argon2i" | "argon2id") => Kdf::Argon2 {
            is_id: kind == "argon2id",
            time: kdf.int("time")?,
            memory: kdf.int("memory")?,
            lanes: kdf.int("cpus")?,
            salt,
        },
        kind => {
            return Err(unsupported(format!(
                "{}: is of the type {kind:?}, which mif does not know",
                kdf.name
            )));
        }
    })
}
