//! The trailer of a DMG image ("koly").

use crate::bytes::{be32, be64};
use crate::error::{Result, at};

/// The signature, version 4, and the length of the trailer.
pub(super) const MAGIC: [u8; 12] = *b"koly\0\0\0\x04\0\0\x02\0";

/// The length of the trailer in bytes.
pub(super) const LEN: usize = 512;

/// The largest property list that is read, in bytes: the tables of a disk of some hundred GiB.
const MAX_XML: u64 = 64 << 20;

/// Where the parts of the file are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// The start of the chunks, in bytes.
    pub(super) data_fork: u64,
    /// The start of the property list, and its length, in bytes.
    pub(super) xml: u64,
    pub(super) xml_len: u64,
    /// The size of the disk, in sectors; 0 if it is not stated.
    pub(super) sectors: u64,
}

impl Trailer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let place = || at("DMG trailer");
        if !bytes.starts_with(&MAGIC) {
            return Err(place().corrupt("is not there"));
        }
        let segments = be32(bytes, 60);
        if segments > 1 {
            return Err(
                place().unsupported(format!("the image is one of {segments} segments; join them first"))
            );
        }
        let (xml, xml_len) = (be64(bytes, 216), be64(bytes, 224));
        if xml_len == 0 {
            return Err(place().unsupported("has no property list: an image of before Mac OS X 10.2"));
        }
        if xml_len > MAX_XML {
            return Err(
                place().limit(format!("the property list has {xml_len} bytes, over the limit of {MAX_XML}"))
            );
        }
        Ok(Trailer { data_fork: be64(bytes, 24), xml, xml_len, sectors: be64(bytes, 492) })
    }
}
