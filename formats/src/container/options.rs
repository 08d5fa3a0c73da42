//! The options of a writer, as `key=value`; unknown keys are refused.

use crate::error::{Result, at};

/// Options of a writer, as `key=value`, with qemu-img's names where it has one.
pub type CreateOptions = Vec<(String, String)>;

/// The options of a writer, read by key.
pub(super) struct Options<'a> {
    given: &'a CreateOptions,
    known: &'static [&'static str],
    format: &'static str,
}

impl<'a> Options<'a> {
    /// Wraps the options for the writer of `format`, which knows the keys `known`. Fails on any other, listing the
    /// known ones.
    pub(super) fn new(
        format: &'static str,
        known: &'static [&'static str],
        given: &'a CreateOptions,
    ) -> Result<Self> {
        for (key, _) in given {
            if !known.contains(&key.as_str()) {
                let known = match known {
                    [] => "it has no options".to_owned(),
                    _ => format!("the options are {}", known.join(", ")),
                };
                return Err(at(format.to_string()).unsupported(format!("unknown option {key:?}; {known}")));
            }
        }
        Ok(Options { given, known, format })
    }

    /// Returns the value of `key`; the last one given counts.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        debug_assert!(self.known.contains(&key));
        self.given.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Reads `on` or `off`, by default off.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        match self.text(key) {
            Some("on" | "true" | "yes") => Ok(true),
            None | Some("off" | "false" | "no") => Ok(false),
            Some(_) => Err(self.bad(key, "on or off")),
        }
    }

    /// Reads a whole number.
    pub(super) fn number(&self, key: &str) -> Result<Option<i32>> {
        let parse = |text: &str| text.parse().map_err(|_| self.bad(key, "a number"));
        self.text(key).map(parse).transpose()
    }

    /// Reads a number of bytes: `65536`, `64k`, `2M`, `1G`.
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err(self.bad(key, "a size such as 64k or 1M")),
        };
        let size = digits.parse().ok().and_then(|n: u64| n.checked_mul(1 << shift));
        size.map(Some).ok_or_else(|| self.bad(key, "a size such as 64k or 1M"))
    }

    /// Reads one of `choices`, by default the first.
    pub(super) fn choice(&self, key: &str, choices: &[&'static str]) -> Result<&'static str> {
        match self.text(key) {
            None => Ok(choices[0]),
            Some(text) => choices
                .iter()
                .find(|c| c.eq_ignore_ascii_case(text))
                .copied()
                .ok_or_else(|| self.bad(key, &choices.join(", "))),
        }
    }

    /// Returns the error for a wrong value of `key`.
    pub(super) fn bad(&self, key: &str, expected: &str) -> crate::error::Error {
        let value = self.text(key).unwrap_or_default();
        at(format!("{} option {key}", self.format)).unsupported(format!("is {value:?}, expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_option_lists_the_known_ones() {
        let given = vec![("colour".to_owned(), "red".to_owned())];
        let error = Options::new("qcow2", &["cluster_size", "compat"], &given).err().unwrap().to_string();
        assert_eq!(error, "qcow2: unknown option \"colour\"; the options are cluster_size, compat");
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, size) in [("512", Some(512)), ("64k", Some(65536)), ("2MiB", Some(2 << 20)), ("2x", None)]
        {
            let given = vec![("size".to_owned(), text.to_owned())];
            let options = Options::new("f", &["size"], &given).unwrap();
            assert_eq!(options.size("size").ok().flatten(), size, "{text}");
        }
        let given = vec![("size".to_owned(), "99999999999T".to_owned())];
        assert!(Options::new("f", &["size"], &given).unwrap().size("size").is_err());
    }
}
