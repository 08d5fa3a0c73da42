//! LVM's text format: `name = value` and `name { ... }`, where a value is a number, a string or a list, and `#` begins
//! a comment.

use crate::error::{Error, Result, at};

/// The deepest nesting of sections and lists. A group needs five levels.
const MAX_DEPTH: usize = 16;

/// A section: the entries between its braces, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    entries: Vec<(String, Node)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Value(Value),
    Section(Section),
}

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A whole, non-negative number.
    Number(u64),
    /// A string, or any other number.
    String(String),
    /// Values in brackets.
    List(Vec<Value>),
}

impl Value {
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Value::String(s) = self { Some(s) } else { None }
    }

    pub(super) fn as_number(&self) -> Option<u64> {
        if let Value::Number(n) = self { Some(*n) } else { None }
    }
}

/// Returns an error about the meaning of the text.
pub(super) fn error(problem: impl Into<String>) -> Error {
    at("LVM metadata").corrupt(problem)
}

impl Section {
    fn get(&self, name: &str) -> Option<&Node> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, node)| node)
    }

    pub(super) fn number(&self, name: &str) -> Result<u64> {
        match self.get(name) {
            Some(Node::Value(Value::Number(n))) => Ok(*n),
            _ => Err(error(format!("{name} is missing or not a number"))),
        }
    }

    pub(super) fn string(&self, name: &str) -> Result<&str> {
        match self.get(name) {
            Some(Node::Value(Value::String(s))) => Ok(s),
            _ => Err(error(format!("{name} is missing or not a string"))),
        }
    }

    /// Returns the list with this name; empty if there is none.
    pub(super) fn list(&self, name: &str) -> &[Value] {
        match self.get(name) {
            Some(Node::Value(Value::List(list))) => list,
            _ => &[],
        }
    }

    /// Returns the nested section with this name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        match self.get(name) {
            Some(Node::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// Returns all nested sections with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((name.as_str(), section)),
            Node::Value(_) => None,
        })
    }
}

/// Parses a whole text, up to a NUL.
pub(super) fn parse(text: &[u8]) -> Result<Section> {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let mut parser = Parser { text: &text[..end], at: 0 };
    let root = parser.section(0)?;
    if parser.at < end { Err(parser.error("unexpected }")) } else { Ok(root) }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, problem: impl Into<String>) -> Error {
        at("LVM metadata").byte(self.at as u64).corrupt(problem)
    }

    /// Returns the next byte that is neither space nor comment, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                b if b.is_ascii_whitespace() => self.at += 1,
                b => return Some(b),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.error(format!("expected {}", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a name or a number, which may be empty.
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || b"_.+-".contains(b);
        let len = rest.iter().position(|b| !is_word(b)).unwrap_or(rest.len());
        self.at += len;
        std::str::from_utf8(&rest[..len]).expect("ASCII")
    }

    /// Parses up to the closing brace or the end of the text, which is not consumed.
    fn section(&mut self, depth: usize) -> Result<Section> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("sections are nested more than {MAX_DEPTH} deep")));
        }
        let mut section = Section::default();
        while let Some(byte) = self.peek() {
            if byte == b'}' {
                break;
            }
            let name = self.word().to_owned();
            if name.is_empty() {
                return Err(self.error("expected a name"));
            }
            let node = match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    let inner = self.section(depth + 1)?;
                    self.expect(b'}')?;
                    Node::Section(inner)
                }
                _ => {
                    self.expect(b'=')?;
                    Node::Value(self.value(depth)?)
                }
            };
            section.entries.push((name, node));
        }
        Ok(section)
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'[') => self.list(depth + 1),
            Some(_) => {
                let word = self.word();
                if word.is_empty() {
                    return Err(self.error("expected a value"));
                }
                Ok(word.parse().map_or_else(|_| Value::String(word.to_owned()), Value::Number))
            }
            None => Err(self.error("ends where a value is expected")),
        }
    }

    fn string(&mut self) -> Result<Value> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') if self.at + 1 < self.text.len() => {
                    bytes.push(self.text[self.at + 1]);
                    self.at += 2;
                }
                Some(byte) => {
                    bytes.push(*byte);
                    self.at += 1;
                }
                None => return Err(self.error("ends within a string")),
            }
        }
        self.at += 1;
        String::from_utf8(bytes).map(Value::String).map_err(|_| self.error("has a string that is not UTF-8"))
    }

    fn list(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("lists are nested more than {MAX_DEPTH} deep")));
        }
        self.at += 1;
        let mut values = Vec::new();
        while self.peek() != Some(b']') {
            values.push(self.value(depth)?);
            if self.peek() == Some(b',') {
                self.at += 1;
            } else if self.peek() != Some(b']') {
                return Err(self.error("expected , or ] in a list"));
            }
        }
        self.at += 1;
        Ok(Value::List(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_sections_and_comments_are_read() {
        let text = b"a = 1 # one\nb = \"x # \\\"y\\\"\" c{d=[\"p\",0,]e=[]}\nf-g.h = -1\n\0rest";
        let root = parse(text).unwrap();
        assert_eq!(root.number("a").unwrap(), 1);
        assert_eq!(root.string("b").unwrap(), "x # \"y\"");
        assert_eq!(root.string("f-g.h").unwrap(), "-1");
        let c = root.section("c").unwrap();
        assert_eq!(c.list("d"), [Value::String("p".to_owned()), Value::Number(0)]);
        assert!(c.list("e").is_empty() && c.list("none").is_empty());
        assert!(root.number("b").is_err() && root.string("a").is_err());
    }

    #[test]
    fn what_is_no_such_text_is_refused_with_its_place() {
        for (text, place, problem) in [
            ("a = ", 4, "ends where"),
            ("a = \"x", 6, "ends within"),
            ("a { b = 1", 9, "expected }"),
            ("a = 1 }", 6, "unexpected }"),
            ("= 1", 0, "expected a name"),
            ("a 1", 2, "expected ="),
            ("a = [1 2]", 7, "expected , or ]"),
            ("a = {", 4, "expected a value"),
            ("a = [", 5, "ends where"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("LVM metadata, at byte {place}: {problem}")),
                "{text}: {error}"
            );
        }
        assert!(parse("a{".repeat(1000).as_bytes()).unwrap_err().problem().contains("16 deep"));
        assert!(
            parse(("a=".to_owned() + &"[".repeat(1000)).as_bytes())
                .unwrap_err()
                .problem()
                .contains("16 deep")
        );
    }
}
