//! XML of strangers: in UTF-8, without document types and so without entities, and of a limited size.

use roxmltree::{Document, ParsingOptions};

use crate::error::{Result, at};

/// Parses the XML of `what`, of at most `nodes` nodes. A byte order mark and NULs at the end are skipped.
pub(crate) fn parse<'a>(what: &'static str, bytes: &'a [u8], nodes: u32) -> Result<Document<'a>> {
    let text = std::str::from_utf8(bytes).map_err(|e| at(what).corrupt(format!("is not UTF-8: {e}")))?;
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    let options = ParsingOptions { allow_dtd: false, nodes_limit: nodes, ..Default::default() };
    Document::parse_with_options(text, options)
        .map_err(|e| at(what).corrupt(format!("is not valid XML: {e}")))
}
