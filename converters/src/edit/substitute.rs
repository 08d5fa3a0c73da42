//! `--edit`: replaces text in a file, line by line, as `sed` does: `s/PATTERN/REPLACEMENT/FLAGS`.

use regex::bytes::{Captures, Regex, RegexBuilder};

use crate::error::{Error, Result};

/// The largest compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Commands, one after the other.
#[derive(Clone)]
pub(super) struct Script(Vec<Command>);

#[derive(Clone)]
struct Command {
    pattern: Regex,
    replacement: Vec<Part>,
    /// Replace every match of a line, not only the first.
    all: bool,
}

/// A part of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    /// What a group matched; 0 is the whole match.
    Group(usize),
}

impl Script {
    /// Parses commands, which `;` or a new line separates.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut rest = text.trim_start();
        let mut commands = Vec::new();
        while !rest.is_empty() {
            let (command, after) = command(rest)?;
            commands.push(command);
            rest = after.trim_start_matches([' ', '\t', ';', '\n', '\r']);
        }
        if commands.is_empty() {
            return Err(malformed(text));
        }
        Ok(Script(commands))
    }

    /// Returns the text after the commands, and the number of lines that they changed.
    pub(super) fn apply(&self, text: &[u8]) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(text.len());
        let mut changed = 0;
        for line in text.split_inclusive(|b| *b == b'\n') {
            let (body, end) = match line.strip_suffix(b"\n") {
                Some(body) => (body, &b"\n"[..]),
                None => (line, &b""[..]),
            };
            let mut new = body.to_vec();
            for command in &self.0 {
                new = command.apply(&new);
            }
            changed += usize::from(new != body);
            out.extend(new);
            out.extend(end);
        }
        (out, changed)
    }
}

impl Command {
    fn apply(&self, line: &[u8]) -> Vec<u8> {
        let replace = |found: &Captures<'_>| {
            let mut out = Vec::new();
            for part in &self.replacement {
                match part {
                    Part::Text(text) => out.extend(text),
                    Part::Group(group) => out.extend(found.get(*group).map_or(&b""[..], |m| m.as_bytes())),
                }
            }
            out
        };
        self.pattern.replacen(line, usize::from(!self.all), replace).into_owned()
    }
}

/// Parses a command; returns it and what follows it.
fn command(text: &str) -> Result<(Command, &str)> {
    let mut chars = text.chars();
    let delimiter = chars.next().filter(|c| *c == 's').and_then(|_| chars.next());
    let is_fit = |c: &char| !c.is_alphanumeric() && !c.is_whitespace() && *c != '\\';
    let delimiter = delimiter.filter(is_fit).ok_or_else(|| malformed(text))?;
    let (pattern, rest) = until(chars.as_str(), delimiter).ok_or_else(|| malformed(text))?;
    let (replacement, rest) = until(rest, delimiter).ok_or_else(|| malformed(text))?;
    let end = rest.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(rest.len());
    let (flags, rest) = rest.split_at(end);
    if let Some(flag) = flags.chars().find(|flag| !matches!(flag, 'g' | 'i' | 'I')) {
        return Err(Error::usage(format!(
            "{text}: unknown flag {flag}: expected g (every match) or i (any case)"
        )));
    }
    let pattern = pattern.replace(&format!("\\{delimiter}"), &escaped(delimiter));
    let compiled = RegexBuilder::new(&pattern)
        .case_insensitive(flags.contains(['i', 'I']))
        .size_limit(MAX_PATTERN)
        .build()
        .map_err(|e| Error::usage(format!("invalid pattern \"{pattern}\": {e}")))?;
    let groups = compiled.captures_len();
    let replacement = parts(replacement, delimiter);
    if let Some(Part::Group(group)) =
        replacement.iter().find(|part| matches!(part, Part::Group(n) if *n >= groups))
    {
        return Err(Error::usage(format!("{text}: the pattern has no group \\{group}")));
    }
    Ok((Command { pattern: compiled, replacement, all: flags.contains('g') }, rest))
}

/// Splits at the next delimiter that no backslash precedes.
fn until(text: &str, delimiter: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == delimiter => return Some((&text[..at], &text[at + c.len_utf8()..])),
            _ => {}
        }
    }
    None
}

/// Returns the pattern for a delimiter that was written with a backslash: the character itself.
fn escaped(delimiter: char) -> String {
    regex::escape(&delimiter.to_string())
}

/// Parses a replacement: `\1` to `\9` are groups, `&` is the whole match, `\n` and `\t` are a line break and a tab;
/// a backslash makes any other character stand for itself.
fn parts(text: &str, delimiter: char) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut chars = text.chars();
    let mut push = |literal: &mut Vec<u8>, group: usize| {
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(literal)));
        }
        parts.push(Part::Group(group));
    };
    let text_of = |literal: &mut Vec<u8>, c: char| literal.extend(c.encode_utf8(&mut [0; 4]).bytes());
    while let Some(c) = chars.next() {
        match c {
            '&' if delimiter != '&' => push(&mut literal, 0),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => push(&mut literal, digit as usize - '0' as usize),
                Some('n') => literal.push(b'\n'),
                Some('t') => literal.push(b'\t'),
                Some(other) => text_of(&mut literal, other),
                None => literal.push(b'\\'),
            },
            c => text_of(&mut literal, c),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    parts
}

fn malformed(text: &str) -> Error {
    Error::usage(format!("{text}: expected s/PATTERN/REPLACEMENT/, with the flags g and i after it"))
        .advise("Any other character may stand for the slash, as in s|/bin/sh|/bin/bash|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(script: &str, text: &str) -> (String, usize) {
        let (out, changed) = Script::parse(script).unwrap().apply(text.as_bytes());
        (String::from_utf8(out).unwrap(), changed)
    }

    #[test]
    fn commands_are_those_of_sed() {
        assert_eq!(edit("s/a/b/", "aa\na\n"), ("ba\nb\n".into(), 2));
        assert_eq!(edit("s/a/b/g", "aa"), ("bb".into(), 1));
        assert_eq!(edit("s/A/b/gi", "aA\nc\n"), ("bb\nc\n".into(), 1));
        assert_eq!(edit("s|/bin/sh$|/bin/bash|", "x:/bin/sh\n"), ("x:/bin/bash\n".into(), 1));
        assert_eq!(edit(r"s/\/x\//\/y/", "/x/\n").0, "/y\n");
        assert_eq!(edit(r"s/(a+)(b*)/[\2\1&]/", "aab").0, "[baaaab]");
        assert_eq!(edit(r"s/x/\&\\\n$1/", "x").0, "&\\\n$1");
        assert_eq!(edit("s/^#?(Port) .*/\\1 2222/", "#Port 22\n#X\n").0, "Port 2222\n#X\n");
        assert_eq!(edit(" s/a/b/; s/b/c/ ;\n s/c/d/g\n", "a").0, "d");
        assert_eq!(edit("s.a\\.b.x.", "a.b").0, "x");
        assert_eq!(edit("s/ü/u/i", "Ü").0, "u");
        assert_eq!(edit("s/nothing/x/", "a\r\nb").1, 0);
    }

    #[test]
    fn text_that_is_not_utf_8_is_kept() {
        let (out, _) = Script::parse("s/a/b/").unwrap().apply(b"\xffa\xfe\n\0");
        assert_eq!(out, b"\xffb\xfe\n\0");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for bad in [
            "",
            "s",
            "s/a",
            "s/a/b",
            "s/a/b/x",
            "y/a/b/",
            "sxaxbx",
            "s/(/x/",
            r"s/a/\1/",
            "s/a/b/ d",
            "s\\a\\b\\",
        ] {
            assert!(Script::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Script::parse(&format!("s/{}/x/", "(a{1000}){1000}")).is_err(), "a pattern of a gigabyte");
    }
}
