//! JSON that is safe to print on a terminal: control and invisible characters ([`is_hidden`]) are written as `\u…`,
//! which means the same value.

use std::io::{self, Write};

use mif_formats::text::is_hidden;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

/// Writes `report` as one line, without a newline.
pub(super) fn write(out: &mut dyn Write, report: &impl Serialize) -> serde_json::Result<()> {
    report.serialize(&mut Serializer::with_formatter(out, Escaping))
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            CompactFormatter.write_string_fragment(out, &rest[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(out, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_escaped_in_the_bytes_and_the_same_in_the_value() {
        let text = "a\u{9b}b\u{202e}\u{7f}\u{e0041}ü\n\"\u{1b}";
        let mut out = Vec::new();
        write(&mut out, &[text]).unwrap();
        let written = String::from_utf8(out).unwrap();
        assert_eq!(written, "[\"a\\u009bb\\u202e\\u007f\\udb40\\udc41ü\\n\\\"\\u001b\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&written).unwrap(), [text]);
    }
}
