//! Makes untrusted text (names, labels, errors about them) safe for a terminal, and formats bytes as text.
//!
//! Two kinds of characters are escaped: those that control a terminal (C0, C1 and DEL), and those that are invisible or
//! move the text around them, so that two names look alike or a line reads as another (bidirectional controls,
//! zero-width and tag characters, variation selectors, line and paragraph separators).

/// Returns true if a character is escaped: a control character, a default-ignorable code point of Unicode, U+2028 or
/// U+2029, or an interlinear annotation character.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Returns `text` on one line, with hidden characters written as `
/// `, `\u{1b}`. Escaping it again changes nothing.
#[must_use]
pub fn printable(text: &str) -> String {
    escaped(text, is_hidden)
}

/// As [`printable`], but keeps line breaks and tabs.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    escaped(text, |c| is_hidden(c) && !matches!(c, '\n' | '\t'))
}

/// Returns `bytes` in hex, two digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Returns the bytes of a name in hex, if they are not UTF-8.
#[must_use]
pub fn hex_unless_text(name: &[u8]) -> Option<String> {
    std::str::from_utf8(name).is_err().then(|| hex(name))
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_and_what_hides_or_reorders_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}ü"), "a\\u{1b}[2Jb\\n\\u{202e}ü");
        let hidden = "\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\u{202a}\u{2060}\u{2066}\
                      \u{2069}\u{fe0f}\u{feff}\u{fff9}\u{e0041}\u{e0100}";
        for c in hidden.chars() {
            assert!(is_hidden(c), "U+{:04X}", c as u32);
        }
        let shown = "ü ß 漢字 é\u{301} — “x” 🙂 \u{a0}";
        assert_eq!(printable(shown), shown);
    }

    #[test]
    fn lines_stay_lines_and_escaping_again_changes_nothing() {
        assert_eq!(printable_lines("a\tb\n\r\u{1b}\n"), "a\tb\n\\r\\u{1b}\n");
        let once = printable("\u{1b}\\\n");
        assert_eq!(printable(&once), once);
    }
}
