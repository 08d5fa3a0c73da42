//! The names of the images of a batch.

use std::path::Path;
use std::str::FromStr;

use mif_formats::container::stem;

use super::find::FoundImage;
use super::resolved;
use crate::error::{Error, Result};
use crate::store::ImageName;

/// A pattern for image names: `{stem}`, `{name}` and `{parent}` stand for parts of a file's path, and `{member}` for the
/// member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Stem,
    Name,
    Parent,
    Member,
    /// The member after a hyphen if the file has several disks, otherwise nothing.
    MemberOfSeveral,
}

impl Default for NamePattern {
    /// Returns the pattern for the file's name without its suffix, with the name of the member if there are several.
    fn default() -> Self {
        NamePattern(vec![Part::Stem, Part::MemberOfSeveral])
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: String| {
            Error::usage(format!("invalid name \"{text}\": {what}"))
                .advise("A name may contain letters, digits, . _ + - and {stem}, {name}, {parent} and {member} for parts of the path")
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, more) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            if let Some(bad) = plain.chars().find(|c| !c.is_ascii_alphanumeric() && !"._+-".contains(*c)) {
                return Err(wrong(format!("{bad:?} is not allowed")));
            }
            if !plain.is_empty() {
                parts.push(Part::Text(plain.to_owned()));
            }
            let Some(more) = more.strip_prefix('{') else { break };
            let Some((what, after)) = more.split_once('}') else {
                return Err(wrong("{ without a matching }".into()));
            };
            parts.push(match what {
                "stem" => Part::Stem,
                "name" => Part::Name,
                "parent" => Part::Parent,
                "member" => Part::Member,
                _ => return Err(wrong(format!("{{{what}}} is unknown"))),
            });
            rest = after;
        }
        let pattern = NamePattern(parts);
        match &pattern.0[..] {
            [Part::Text(name)] if !ImageName::is_valid(name) => {
                Err(wrong("it cannot be an image name".into()))
            }
            [] => Err(wrong("it is empty".into())),
            _ => Ok(pattern),
        }
    }
}

impl NamePattern {
    /// Returns the name of the image in the file at `path` (or `FILE//MEMBER`), the only disk in it. Invalid characters
    /// become `_`.
    #[must_use]
    pub fn name_of(&self, path: &Path) -> String {
        self.name_of_disk(&FoundImage::file(path.to_owned()))
    }

    /// Returns the name of an image that was found.
    pub(super) fn name_of_disk(&self, found: &FoundImage) -> String {
        let path = &*found.file;
        let member = found.member.as_ref().map(|member| stem(Path::new(member)));
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let folder = || {
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            text(resolved(folder).file_name())
        };
        let parts = self.0.iter().map(|part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Stem => stem(path),
            Part::Member => member.clone().unwrap_or_else(|| stem(path)),
            Part::MemberOfSeveral => match &member {
                Some(member) if found.has_siblings => format!("-{member}"),
                _ => String::new(),
            },
            Part::Name => text(path.file_name()),
            Part::Parent => folder(),
        });
        ImageName::like(&parts.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_path_stand_in_a_name() {
        let name =
            |pattern: &str, path: &str| pattern.parse::<NamePattern>().unwrap().name_of(Path::new(path));
        assert_eq!(name("{stem}", "/vm/web/disk.qcow2"), "disk");
        assert_eq!(name("{parent}-{stem}", "/vm/web 1/disk.qcow2"), "web_1-disk");
        assert_eq!(name("old.{name}", "/vm/web/disk.qcow2"), "old.disk.qcow2");
        assert_eq!(name("golden", "/vm/web/disk.qcow2"), "golden");
        assert_eq!(name("{stem}", "/vm/.hidden"), "image.hidden");
        assert_eq!(name("{stem}", "/vm/web.qcow2.xz"), "web");
        assert_eq!(name("{member}", "/vm/web.tar.gz"), "web");
        let member = |pattern: NamePattern, has_siblings| {
            let member = Some("disks/a 1.vmdk".to_owned());
            pattern.name_of_disk(&FoundImage {
                member,
                has_siblings,
                ..FoundImage::file("/vm/web.ova".into())
            })
        };
        assert_eq!(member(NamePattern::default(), false), "web");
        assert_eq!(member(NamePattern::default(), true), "web-a_1");
        assert_eq!(member("x.{member}".parse().unwrap(), false), "x.a_1");
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for bad in ["", "a b", "{", "{stem", "{image}", "a/{stem}", "-x", ".x"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
    }
}
