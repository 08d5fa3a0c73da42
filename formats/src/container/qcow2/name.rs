//! File names as QEMU writes them into an image: plain names, `file:` names, and `json:` descriptions of block devices,
//! of which only those that describe a plain file are accepted.

use serde_json::{Map, Value};

use crate::error::{Error, Result, at};

/// A file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The file's name, as bytes.
    pub(super) file: Vec<u8>,
    /// Its format, if the name states it.
    pub(super) format: Option<String>,
}

/// Drivers that read a file unchanged. (The opener refuses `host_device` names that are not regular files.)
const FILE_DRIVERS: [&str; 2] = ["file", "host_device"];
/// Formats that `json:` may name.
const FORMATS: [&str; 6] = ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"];
/// I/O settings of QEMU that do not change the data that is read.
const HARMLESS: [&str; 14] = [
    "aio",
    "auto-read-only",
    "cache",
    "cache-size",
    "detect-zeroes",
    "discard",
    "drop-cache",
    "l2-cache-size",
    "lazy-refcounts",
    "locking",
    "node-name",
    "read-only",
    "refcount-cache-size",
    "x-check-cache-dropped",
];
/// The deepest nesting of a description.
const MAX_DEPTH: usize = 8;

/// Parses the name of a file in an image. Fails for anything that is not a plain file, such as a URL.
pub(super) fn parse(name: &[u8]) -> Result<Named> {
    if let Some(name) = name.strip_prefix(b"file:") {
        return Ok(Named { file: name.to_vec(), format: None });
    }
    if let Some(json) = name.strip_prefix(b"json:") {
        let value: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|e| at("qcow2 header").corrupt(format!("{}: {e}", String::from_utf8_lossy(name))))?;
        return from_json(&nested(value, name)?, name, MAX_DEPTH);
    }
    let protocol = name.iter().position(|b| !b.is_ascii_alphanumeric() && !b"+-.".contains(b));
    match protocol.map(|at| name[at]) {
        Some(b':') => Err(no_file(name, "mif opens only files")),
        _ => Ok(Named { file: name.to_vec(), format: None }),
    }
}

fn no_file(name: &[u8], why: &str) -> Error {
    at("qcow2 header").unsupported(format!("the image needs {:?}, but {why}", String::from_utf8_lossy(name)))
}

/// Expands dotted keys: `{"file.driver": "file"}` means `{"file": {"driver": "file"}}`.
fn nested(flat: Map<String, Value>, name: &[u8]) -> Result<Map<String, Value>> {
    let mut whole = Map::new();
    for (key, value) in flat {
        let mut at = &mut whole;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                if at.insert(part.to_owned(), value).is_some() {
                    return Err(no_file(name, &format!("{key:?} is given twice")));
                }
                break;
            }
            let child = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            at = child.as_object_mut().ok_or_else(|| {
                no_file(name, &format!("{key:?} is inside something that is not an object"))
            })?;
        }
    }
    Ok(whole)
}

fn from_json(value: &Map<String, Value>, name: &[u8], depth: usize) -> Result<Named> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let (mut driver, mut file) = (text("driver"), None);
    let mut format = None;
    if let Some(below) = value.get("file") {
        let below = below.as_object().filter(|_| depth > 0);
        let below = below.ok_or_else(|| no_file(name, "\"file\" is not a file description"))?;
        let below = nested(below.clone(), name)?;
        let inner = from_json(&below, name, depth - 1)?;
        // A format inside a format would be a disk image inside a disk image.
        if inner.format.is_some() {
            return Err(no_file(name, "mif does not open a disk image inside a disk image"));
        }
        match driver.take() {
            Some(driver) if FORMATS.contains(&driver) => format = Some(driver.to_owned()),
            Some(driver) => return Err(no_file(name, &format!("the driver {driver:?} is unknown"))),
            None => {}
        }
        file = Some(inner.file);
    } else if let Some(filename) = text("filename") {
        let filename = filename.strip_prefix("file:").unwrap_or(filename);
        if let Some(driver) = driver.take()
            && !FILE_DRIVERS.contains(&driver)
        {
            return Err(no_file(name, &format!("the driver {driver:?} does not read a plain file")));
        }
        file = Some(filename.as_bytes().to_vec());
    }
    for key in value.keys() {
        let known = matches!(&**key, "driver" | "file" | "filename") || HARMLESS.contains(&&**key);
        if !known {
            return Err(no_file(name, &format!("the key {key:?} is unknown")));
        }
    }
    let file = file.ok_or_else(|| no_file(name, "it names no file"))?;
    Ok(Named { file, format })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_taken_for_files() {
        for (name, file) in [
            (&b"base.raw"[..], Some(&b"base.raw"[..])),
            (b"file:base.raw", Some(b"base.raw")),
            (b"./a:b", Some(b"./a:b")),
            (b"nbd://host/disk", None),
            (b"json:{}", None),
        ] {
            assert_eq!(
                parse(name).ok().map(|n| n.file).as_deref(),
                file,
                "{}",
                String::from_utf8_lossy(name)
            );
        }
    }

    #[test]
    fn a_description_of_a_plain_file_is_its_name() {
        let named = |json: &str| parse(format!("json:{json}").as_bytes());
        let (file, qcow2) = (b"b.img".to_vec(), Some("qcow2".to_owned()));
        for (json, format) in [
            (r#"{"driver":"qcow2","file":{"driver":"file","filename":"b.img"}}"#, qcow2.clone()),
            (r#"{"driver":"qcow2","file.driver":"file","file.filename":"b.img"}"#, qcow2.clone()),
            (r#"{"file":{"driver":"file","filename":"b.img"}}"#, None),
            (r#"{"file.filename":"b.img"}"#, None),
            (r#"{"driver":"file","filename":"b.img"}"#, None),
            (r#"{"filename":"file:b.img"}"#, None),
            (
                r#"{"driver":"qcow2","l2-cache-size":1,"file":{"driver":"file","cache.direct":true,"locking":"off","filename":"b.img"}}"#,
                qcow2,
            ),
        ] {
            assert_eq!(named(json).unwrap(), Named { file: file.clone(), format }, "{json}");
        }
        for json in [
            // These describe a part of the file, or another disk.
            r#"{"driver":"raw","offset":512,"file":{"driver":"file","filename":"b.img"}}"#,
            r#"{"driver":"raw","size":512,"file.filename":"b.img"}"#,
            r#"{"driver":"qcow2","backing":null,"file.filename":"b.img"}"#,
            r#"{"driver":"qcow2","file":{"driver":"qcow2","file":{"filename":"b.img"}}}"#,
            r#"{"driver":"nbd","host":"h"}"#,
            r#"{"driver":"https","filename":"b.img"}"#,
            r#"{"driver":"qcow2","file":"node0"}"#,
            r#"{"driver":"quorum","children":[]}"#,
            r#"{"filename":"b.img","filename.x":1}"#,
            r#"{"driver":"qcow2"}"#,
            "[]",
            "{",
        ] {
            assert!(named(json).is_err(), "{json}");
        }
        let deep = "{\"file\":".repeat(300) + "1" + &"}".repeat(300);
        assert!(named(&deep).is_err());
    }
}
