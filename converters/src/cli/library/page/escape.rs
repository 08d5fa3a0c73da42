//! Text from images in HTML.

use mif_formats::text::printable;

/// Escapes text for HTML, in elements and in quoted attributes; control characters become visible.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_element_or_attribute() {
        let hostile = "</title><script>alert(1)</script>\"'&\u{1b}\u{202e}";
        let harmless = escaped(hostile);
        assert!(!harmless.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}']), "{harmless}");
        assert!(harmless.starts_with("&lt;/title&gt;&lt;script&gt;alert(1)"), "{harmless}");
    }
}
