//! The part of YAML 1.2 that netplan's files use: mappings, lists and scalars, for reading, changing and writing.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// The maximum length of a file, in bytes.
const MAX_FILE: usize = 1 << 20;
/// The maximum depth of mappings and lists.
const MAX_DEPTH: usize = 64;

/// A node of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Yaml {
    Scalar {
        text: String,
        /// True if it is written without quotes.
        plain: bool,
    },
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// Parses a file of one document; an empty file is an empty mapping. Fails with the reason if the file is
    /// malformed, or uses features that are not supported here (anchors, several documents).
    pub(super) fn parse(text: &str) -> Result<Yaml, String> {
        if text.len() > MAX_FILE {
            return Err(format!("the file is longer than {MAX_FILE} bytes"));
        }
        let mut open: Vec<Open> = Vec::new();
        let mut root = None;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|e| e.to_string())?;
            let failed = |problem: &str| format!("line {}: {problem}", span.start.line());
            let done = match event {
                Event::Scalar(text, style, 0, _) => {
                    Yaml::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
                }
                Event::SequenceStart(0, _) => {
                    open.push(Open::List(Vec::new()));
                    continue;
                }
                Event::MappingStart(0, _) => {
                    open.push(Open::Map(Vec::new(), None));
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    Some(Open::List(list)) => Yaml::List(list),
                    Some(Open::Map(map, _)) => Yaml::Map(map),
                    None => return Err(failed("unexpected end of a collection")),
                },
                Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                    return Err(failed("anchors, aliases and tags are not supported"));
                }
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(failed("a second document is not supported"));
                }
                _ => continue,
            };
            if open.len() > MAX_DEPTH {
                return Err(failed("nested too deeply"));
            }
            match open.last_mut() {
                None => root = Some(done),
                Some(Open::List(list)) => list.push(done),
                Some(Open::Map(map, key)) => match (key.take(), done) {
                    (Some(key), value) => map.push((key, value)),
                    (None, Yaml::Scalar { text, .. }) => *key = Some(text),
                    (None, _) => return Err(failed("a key is not a string")),
                },
            }
        }
        match root {
            Some(Yaml::Scalar { text, plain: true }) if text.is_empty() || text == "~" => {
                Ok(Yaml::Map(Vec::new()))
            }
            root => Ok(root.unwrap_or(Yaml::Map(Vec::new()))),
        }
    }

    /// Returns the value of a key, if this is a mapping that contains it.
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        let Yaml::Map(map) = self else { return None };
        map.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Like `get`, but mutable.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Yaml> {
        let Yaml::Map(map) = self else { return None };
        map.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Returns the entries of a mapping; none for other nodes.
    pub(super) fn entries(&self) -> &[(String, Yaml)] {
        match self {
            Yaml::Map(map) => map,
            _ => &[],
        }
    }

    /// Removes keys from a mapping; returns true if there were any.
    pub(super) fn remove(&mut self, gone: impl Fn(&str) -> bool) -> bool {
        let Yaml::Map(map) = self else { return false };
        let before = map.len();
        map.retain(|(key, _)| !gone(key));
        map.len() < before
    }

    /// Returns the text of a scalar, or the texts of a list of scalars.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Yaml::Scalar { text, .. } => vec![text],
            Yaml::List(list) => list.iter().flat_map(Yaml::texts).collect(),
            Yaml::Map(_) => Vec::new(),
        }
    }

    /// Writes the file, with each entry on its own line.
    pub(super) fn write(&self) -> String {
        let mut out = String::new();
        self.block(0, &mut out);
        out
    }

    fn block(&self, indent: usize, out: &mut String) {
        match self {
            Yaml::Map(map) => {
                for (key, value) in map {
                    out.push_str(&" ".repeat(indent));
                    out.push_str(&scalar(key, is_plain(key)));
                    out.push(':');
                    value.behind(indent, out);
                }
            }
            Yaml::List(list) => {
                for value in list {
                    let start = out.len();
                    out.push_str(&" ".repeat(indent));
                    out.push('-');
                    match value {
                        Yaml::Map(map) if !map.is_empty() => {
                            out.truncate(start);
                            value.block(indent + 2, out);
                            out.replace_range(start + indent..=start + indent, "-");
                        }
                        _ => value.behind(indent, out),
                    }
                }
            }
            Yaml::Scalar { text, plain } => {
                out.push_str(&scalar(text, *plain));
                out.push('\n');
            }
        }
    }

    /// Writes a value behind its key or dash.
    fn behind(&self, indent: usize, out: &mut String) {
        match self {
            Yaml::Map(map) if map.is_empty() => out.push_str(" {}\n"),
            Yaml::List(list) if list.is_empty() => out.push_str(" []\n"),
            Yaml::Scalar { text, plain: true } if text.is_empty() => out.push('\n'),
            Yaml::Scalar { text, plain } => {
                out.push(' ');
                out.push_str(&scalar(text, *plain));
                out.push('\n');
            }
            _ => {
                out.push('\n');
                self.block(indent + 2, out);
            }
        }
    }
}

/// A list or map whose end has not been read yet.
enum Open {
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>, Option<String>),
}

/// Returns true if a key can be written without quotes.
fn is_plain(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    key.starts_with(|c: char| c.is_ascii_alphanumeric()) && key.chars().all(plain)
}

fn scalar(text: &str, plain: bool) -> String {
    if plain && !text.contains('\n') {
        return text.to_owned();
    }
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_as_it_was_read() {
        let text = "network:\n  version: 2\n  ethernets:\n    \"en*:0\":\n      dhcp4: yes\n      addresses:\n        - \"10.0.0.5/24\"\n      \
            routes:\n        - to: default\n          via: 10.0.0.1\n        - to: 1.0.0.0/8\n      match: {}\n      empty:\n      password: \"a\\\"b\\\\\"\n";
        let yaml = Yaml::parse(text).unwrap();
        assert_eq!(yaml.write(), text);
        let flow = "# c\nnetwork: {version: 2, ethernets: {\"en*:0\": {dhcp4: yes, addresses: [\"10.0.0.5/24\"]}}}\n";
        let written = Yaml::parse(flow).unwrap().write();
        assert_eq!(Yaml::parse(&written).unwrap(), Yaml::parse(flow).unwrap());
        assert_eq!(Yaml::parse("# nothing\n").unwrap(), Yaml::Map(Vec::new()));
    }

    #[test]
    fn what_is_not_read_is_refused() {
        for (text, says) in [
            ("a: &x 1\nb: *x\n", "anchor"),
            ("a: 1\n--- \nb: 2\n", "second document"),
            ("a: [1\n", "line"),
            ("{[a]: 1}\n", "key"),
            (&"[".repeat(10_000), ""),
            (&"- ".repeat(10_000), ""),
        ] {
            let error = Yaml::parse(text).unwrap_err();
            assert!(error.contains(says), "{text:.20}: {error}");
        }
    }
}
