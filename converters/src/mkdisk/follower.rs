//! Resolves the paths of members that go through symlinks.

use mif_formats::fs::FileType;

use super::member::{Member, Members};
use super::path::TreePath;

/// Resolves the paths of members through the symlinks before them, as when tar extracts one member after the other. An
/// absolute target starts at the root of the tree, so no path leaves the tree.
#[derive(Default)]
pub(super) struct Follower {
    /// True if there has been any symlink.
    has_symlinks: bool,
    /// The last directory that was looked up, and its place: most members are beside the previous one.
    last: Option<(TreePath, TreePath)>,
}

impl Follower {
    /// The maximum number of symlinks in one path, as on Linux.
    const MAX_SYMLINKS: u32 = 40;
    /// The maximum number of components of a path through symlinks.
    const MAX_PARTS: usize = 4096;

    /// Records that `member` is about to be added at `path`.
    pub(super) fn changes(&mut self, path: &TreePath, members: &Members, member: &Member) {
        let is_symlink = |member: &Member| member.node.file_type == FileType::Symlink;
        if is_symlink(member) || members.get(path).is_some_and(is_symlink) {
            (self.has_symlinks, self.last) = (true, None);
        }
    }

    /// Resolves the symlinks in `path`, except one at its end. Returns `None` if there are too many.
    pub(super) fn follow(&mut self, mut path: TreePath, members: &Members) -> Option<TreePath> {
        if !self.has_symlinks {
            return Some(path);
        }
        let Some(name) = path.pop() else { return Some(path) };
        if self.last.as_ref().is_none_or(|(asked, _)| *asked != path) {
            let found = Self::resolve(&path, members)?;
            self.last = Some((path, found));
        }
        Some(self.last.as_ref()?.1.child(&name))
    }

    fn resolve(folder: &TreePath, members: &Members) -> Option<TreePath> {
        let mut here = TreePath::root();
        let mut depth = 0_usize;
        let mut todo: Vec<Vec<u8>> = folder.parts().rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                depth -= usize::from(here.pop().is_some());
                continue;
            }
            here.push(&part);
            depth += 1;
            let target = members.get(&here).and_then(|member| member.node.link_target.as_ref());
            let Some(target) = target else { continue };
            here.pop();
            depth -= 1;
            if target.first() == Some(&b'/') {
                (here, depth) = (TreePath::root(), 0);
            }
            links += 1;
            let parts = target.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
            todo.extend(parts.rev().take(Self::MAX_PARTS + 1).map(<[u8]>::to_vec));
            if links > Self::MAX_SYMLINKS || depth + todo.len() > Self::MAX_PARTS {
                return None;
            }
        }
        Some(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mif_formats::fs::Node;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn tree(items: &[(&str, Option<&str>)]) -> (Members, Follower) {
        let (mut members, mut follower) = (Members::new(), Follower::default());
        for (at, target) in items {
            let mut node = Node::bare(if target.is_some() { FileType::Symlink } else { FileType::Dir });
            node.link_target = target.map(|target| target.as_bytes().to_vec());
            let member = Member { node, content: None, file: None, acls: Vec::new() };
            follower.changes(&path(at), &members, &member);
            members.insert(path(at), member);
        }
        (members, follower)
    }

    #[test]
    fn a_path_below_a_symlink_lies_where_the_symlink_leads_and_never_outside() {
        let items = [
            ("usr/bin", None),
            ("bin", Some("usr/bin")),
            ("a", Some("/bin/../lib")),
            ("up", Some("../../x")),
        ];
        let (members, mut follower) = tree(&items);
        let mut at = |text: &str| follower.follow(path(text), &members).unwrap();
        assert_eq!(at("bin/hello"), path("usr/bin/hello"));
        assert_eq!(at("bin/deep/er"), path("usr/bin/deep/er"));
        assert_eq!(at("a/x"), path("usr/lib/x"));
        assert_eq!(at("up/y"), path("x/y"));
        // The last component stays: a symlink itself, or what replaces it.
        assert_eq!(at("bin"), path("bin"));
    }

    #[test]
    fn a_directory_that_takes_a_symlinks_place_is_followed_no_more() {
        let (mut members, mut follower) = tree(&[("bin", Some("usr/bin"))]);
        assert_eq!(follower.follow(path("bin/a"), &members), Some(path("usr/bin/a")));
        let folder = Member { node: Node::bare(FileType::Dir), content: None, file: None, acls: Vec::new() };
        follower.changes(&path("bin"), &members, &folder);
        members.insert(path("bin"), folder);
        assert_eq!(follower.follow(path("bin/a"), &members), Some(path("bin/a")));
    }

    #[test]
    fn symlinks_in_a_circle_and_targets_without_end_are_refused() {
        let (members, mut follower) = tree(&[("a", Some("b")), ("b", Some("a/a"))]);
        assert_eq!(follower.follow(path("a/x"), &members), None);
        let long = "x/".repeat(1 << 20);
        let (members, mut follower) = tree(&[("a", Some(&long))]);
        assert_eq!(follower.follow(path("a/x"), &members), None);
    }
}
