//! How reports write times and modes, RFC 3339 in UTC and octal as `chmod` takes it; and how users write sizes.
//!
//! The functions that take a serializer are for serde's `serialize_with`.

use chrono::{DateTime, Datelike};
use mif_formats::fs::Timestamp;
use serde::Serializer;

use crate::error::{Error, Result};

/// Returns a time as RFC 3339, with as many digits of a second as it has: three, six or nine. RFC 3339 has years of four
/// digits; other times are `@` and seconds since 1970.
pub(crate) fn time_text(time: Timestamp) -> String {
    let known =
        DateTime::from_timestamp(time.secs, time.nanos).filter(|time| (0..=9999).contains(&time.year()));
    match known {
        Some(known) => known.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string(),
        None if time.nanos == 0 => format!("@{}", time.secs),
        None => format!("@{}.{:09}", time.secs, time.nanos),
    }
}

/// Returns a time in seconds since 1970 as RFC 3339.
pub(crate) fn seconds_text(secs: u64) -> String {
    time_text(Timestamp { secs: i64::try_from(secs).unwrap_or(i64::MAX), nanos: 0 })
}

#[allow(clippy::ref_option)]
pub(crate) fn time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&time_text(*time)),
        None => serializer.serialize_none(),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn seconds<S: Serializer>(secs: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&seconds_text(*secs))
}

#[allow(clippy::ref_option)]
pub(crate) fn some_seconds<S: Serializer>(secs: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match secs {
        Some(secs) => seconds(secs, serializer),
        None => serializer.serialize_none(),
    }
}

#[allow(clippy::ref_option)]
pub(crate) fn mode<S: Serializer>(mode: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
    match mode {
        Some(mode) => serializer.collect_str(&format_args!("{mode:04o}")),
        None => serializer.serialize_none(),
    }
}

/// Parses a number of bytes with a unit: `512`, `64K`, `10G`, `1.5T`; units are powers of 1024.
pub(crate) fn size_in_bytes(text: &str) -> Result<u64> {
    let usage = || {
        Error::usage(format!("invalid size \"{text}\""))
            .advise("Write a size such as 10G, 512M or 1.5T; units are powers of 1024")
    };
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        _ => return Err(usage()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) {
        return Err(usage());
    }
    let scale = 10_u128.pow(part.len() as u32);
    let number: u128 = format!("{whole}{part}").parse().map_err(|_| usage())?;
    u64::try_from((number << unit) / scale).map_err(|_| usage())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        let text = |secs, nanos| time_text(Timestamp { secs, nanos });
        assert_eq!(text(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(text(-1, 500_000_000), "1969-12-31T23:59:59.500Z");
        assert_eq!(text(1_700_000_000, 1), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(text(253_402_300_799, 0), "9999-12-31T23:59:59Z");
        assert_eq!(text(253_402_300_800, 0), "@253402300800");
        assert_eq!(text(-62_167_219_201, 7), "@-62167219201.000000007");
        assert_eq!(text(i64::MAX, 0), "@9223372036854775807");
        assert_eq!(seconds_text(u64::MAX), "@9223372036854775807");
    }

    #[test]
    fn modes_are_octal_with_four_digits() {
        let json = |mode: Option<u16>| {
            let mut out = Vec::new();
            super::mode(&mode, &mut serde_json::Serializer::new(&mut out)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!([json(Some(0o644)), json(Some(0o4755)), json(None)], ["\"0644\"", "\"4755\"", "null"]);
    }
}
