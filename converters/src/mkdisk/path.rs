//! Paths in a tree to build from.

use mif_formats::mif::manifest::escape;

/// A path from the root of a tree. Paths are ordered by components, so a directory comes before its entries.
///
/// The components are joined with a zero byte, which no component contains and which sorts before all other bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TreePath(Vec<u8>);

impl TreePath {
    /// Returns the root.
    pub(super) fn root() -> Self {
        TreePath(Vec::new())
    }

    /// Parses a path relative to the root. Returns `None` if it contains `..`.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut path = TreePath::root();
        for part in text.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")) {
            if part == b".." || part.contains(&0) {
                return None;
            }
            path.push(part);
        }
        Some(path)
    }

    /// Returns its bytes, starting with `/`.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.0.len());
        bytes.push(b'/');
        bytes.extend(self.0.iter().map(|b| if *b == 0 { b'/' } else { *b }));
        bytes
    }

    /// Formats it for a message. A long path is cut off.
    pub(super) fn shown(&self) -> String {
        shown(&self.bytes())
    }

    /// Returns its length as text, in bytes.
    pub(super) fn len(&self) -> usize {
        1 + self.0.len()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path of the entry `name` in this directory.
    pub(super) fn child(&self, name: &[u8]) -> Self {
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// Returns its parent directory; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let mut path = self.clone();
        path.pop().map(|_| path)
    }

    /// Returns the rest of the path after `prefix`, if it is `prefix` or lies under it.
    pub(super) fn below(&self, prefix: &TreePath) -> Option<TreePath> {
        let rest = self.0.strip_prefix(&prefix.0[..])?;
        match rest {
            _ if prefix.is_root() => Some(self.clone()),
            [] => Some(TreePath::root()),
            [0, rest @ ..] => Some(TreePath(rest.to_vec())),
            _ => None,
        }
    }

    /// Returns its components, starting at the root.
    pub(super) fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == 0).filter(|part| !part.is_empty())
    }

    pub(super) fn push(&mut self, name: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(0);
        }
        self.0.extend_from_slice(name);
    }

    /// Removes and returns the last component.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self.0.iter().rposition(|b| *b == 0);
        let name = self.0.split_off(cut.map_or(0, |cut| cut + 1));
        self.0.truncate(cut.unwrap_or(0));
        Some(name)
    }
}

/// Formats a name for a message. A long name is cut off.
pub(super) fn shown(name: &[u8]) -> String {
    const MOST: usize = 256;
    match name.get(..MOST) {
        Some(start) if name.len() > MOST => format!("{}…", escape(start)),
        _ => escape(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_directory_comes_before_what_it_holds_and_its_neighbours_after() {
        let mut paths: Vec<TreePath> = ["a.b", "a/b", "a", "a/b/c", "/", "a-"].map(path).into();
        paths.sort();
        let texts: Vec<String> = paths.iter().map(|p| String::from_utf8(p.bytes()).unwrap()).collect();
        assert_eq!(texts, ["/", "/a", "/a/b", "/a/b/c", "/a-", "/a.b"]);
    }

    #[test]
    fn a_path_knows_its_parent_and_what_is_below_another() {
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!((path("a").parent(), path("/").parent()), (Some(TreePath::root()), None));
        assert_eq!(path("a/b/c").below(&path("a")), Some(path("b/c")));
        assert_eq!(path("a").below(&path("a")), Some(TreePath::root()));
        assert_eq!(path("ab/c").below(&path("a")), None);
        assert_eq!((TreePath::parse(b"a/../b"), path("a/b").len()), (None, 4));
    }
}
