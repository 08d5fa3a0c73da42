//! Lists a whole volume: every path, and every node once.

use std::collections::{HashMap, HashSet};

use super::listing::{Complaint, Entry, Listing, MAX_PATH, Nodes};
use super::{DirEntry, FileId, FileType, Filesystem, Node, NodeId};
use crate::error::{Error, ErrorKind, Result, at};

/// The most bytes of all paths of a volume together: about eight million files.
pub const MAX_ALL_PATHS: usize = 512 << 20;

/// Lists the volume level by level, so that nodes are read in ascending order, which is their order on the disk.
///
/// Damaged parts become complaints and the rest is listed; only a failed read is an error.
pub fn walk(fs: &dyn Filesystem) -> Result<Listing> {
    walk_up_to(MAX_ALL_PATHS, fs)
}

fn walk_up_to(all_paths: usize, fs: &dyn Filesystem) -> Result<Listing> {
    let mut walk = Walk {
        fs,
        entries: Vec::new(),
        nodes: HashMap::new(),
        streams: HashMap::new(),
        list: Vec::new(),
        seen_folders: HashSet::from([fs.root()]),
        complaints: Vec::new(),
        room: Room { used: 0, all_paths },
    };
    let complaints = &mut walk.complaints;
    let mut complain = |error| complaints.push(Complaint { path: b"/".to_vec(), error });
    let root = fs.node(fs.root(), &mut complain)?;
    if root.file_type != FileType::Dir {
        return Err(
            at("root directory").corrupt(format!("is of type {:?}, expected a directory", root.file_type))
        );
    }
    walk.insert(fs.root(), root);
    walk.read_streams(fs.root(), b"/")?;
    walk.entries.push(Met { path: b"/".to_vec(), node: fs.root(), ..Met::default() });
    walk.add_streams(0);
    let mut level = vec![0];
    while !level.is_empty() {
        let found = walk.read_folders(&mut level)?;
        walk.read_nodes(&found)?;
        level = walk.keep_readable(found);
    }
    Ok(walk.finish())
}

/// A path with the filesystem's handle, as it is found.
#[derive(Default)]
struct Met {
    path: Vec<u8>,
    node: NodeId,
    stream: Option<Box<[u8]>>,
    short_name: Option<[u8; 11]>,
    dos_name: Option<Box<str>>,
}

/// A volume that is being listed.
struct Walk<'a> {
    fs: &'a dyn Filesystem,
    entries: Vec<Met>,
    /// The index in `list` of each node.
    nodes: HashMap<NodeId, u32>,
    /// The streams of the nodes that have some.
    streams: HashMap<NodeId, Vec<(Vec<u8>, NodeId)>>,
    /// The nodes so far, in the order in which they were found.
    list: Vec<(NodeId, Node)>,
    seen_folders: HashSet<NodeId>,
    complaints: Vec<Complaint>,
    room: Room,
}

/// The space for paths, in bytes.
struct Room {
    used: usize,
    all_paths: usize,
}

impl Walk<'_> {
    fn insert(&mut self, id: NodeId, node: Node) {
        let number = u32::try_from(self.list.len()).expect("paths take less than 4 GiB");
        self.nodes.insert(id, number);
        self.list.push((id, node));
    }

    /// Reads the directories of one level, given as indexes into the entries, and returns the entries in them.
    fn read_folders(&mut self, level: &mut [usize]) -> Result<Vec<Met>> {
        level.sort_unstable_by_key(|&i| self.entries[i].node);
        let mut found = Vec::new();
        for &i in level.iter() {
            let Met { path, node, .. } = &self.entries[i];
            let complaints = &mut self.complaints;
            let mut complain = |error| complaints.push(Complaint { path: path.clone(), error });
            let children = match self.fs.read_dir(*node, &mut complain) {
                Ok(children) => children,
                Err(error) => {
                    complain(fatal_or_not(error)?);
                    continue;
                }
            };
            let room = &mut self.room;
            for DirEntry { name, short_name, dos_name, node } in children {
                let child = join(path, &name);
                if child.len() > MAX_PATH || room.used + child.len() > room.all_paths {
                    complain(at("directory").limit(format!(
                        "entries from \"{}\" on were left out: over {MAX_PATH} bytes in a path or {} in all paths",
                        name.escape_ascii(),
                        room.all_paths
                    )));
                    break;
                }
                room.used += child.len();
                found.push(Met { path: child, node, short_name, dos_name, ..Met::default() });
            }
        }
        Ok(found)
    }

    fn read_nodes(&mut self, found: &[Met]) -> Result<()> {
        let mut wanted: Vec<(NodeId, usize)> = found.iter().enumerate().map(|(i, e)| (e.node, i)).collect();
        wanted.sort_unstable();
        wanted.dedup_by_key(|(node, _)| *node);
        for (node, i) in wanted {
            if self.nodes.contains_key(&node) {
                continue;
            }
            let complaints = &mut self.complaints;
            let mut complain = |error| complaints.push(Complaint { path: found[i].path.clone(), error });
            match self.fs.node(node, &mut complain) {
                Ok(read) => {
                    self.insert(node, read);
                    self.read_streams(node, &found[i].path)?;
                }
                Err(error) => complain(fatal_or_not(error)?),
            }
        }
        Ok(())
    }

    /// Reads the streams of a node, which is at `path`, and their nodes.
    fn read_streams(&mut self, node: NodeId, path: &[u8]) -> Result<()> {
        if !self.fs.capabilities().has_streams {
            return Ok(());
        }
        let mut complaints = Vec::new();
        let mut complain = |error| complaints.push(Complaint { path: path.to_vec(), error });
        let streams = self.fs.streams(node).or_else(|error| {
            complain(fatal_or_not(error)?);
            Ok(Vec::new())
        })?;
        let mut read = Vec::new();
        for (name, stream) in streams {
            match self.fs.node(stream, &mut complain) {
                Ok(node) => {
                    self.insert(stream, node);
                    read.push((name, stream));
                }
                Err(error) => complain(fatal_or_not(error)?),
            }
        }
        if !read.is_empty() {
            self.streams.insert(node, read);
        }
        self.complaints.append(&mut complaints);
        Ok(())
    }

    /// Adds entries for the streams of the entry at `place`.
    fn add_streams(&mut self, place: usize) {
        let Some(streams) = self.streams.get(&self.entries[place].node) else { return };
        let path = self.entries[place].path.clone();
        for (name, node) in streams {
            let (room, needed) = (&mut self.room, path.len() + name.len());
            if room.used + needed > room.all_paths {
                let problem = format!("were left out: over {} bytes in all paths", room.all_paths);
                return self.complaints.push(Complaint { path, error: at("streams").limit(problem) });
            }
            room.used += needed;
            let stream = Some(name.as_slice().into());
            self.entries.push(Met { path: path.clone(), node: *node, stream, ..Met::default() });
        }
    }

    /// Keeps the entries that have a node; returns the directories among them that are new.
    fn keep_readable(&mut self, found: Vec<Met>) -> Vec<usize> {
        let mut folders = Vec::new();
        for entry in found {
            let Some(number) = self.nodes.get(&entry.node) else { continue };
            if self.list[*number as usize].1.file_type == FileType::Dir {
                if !self.seen_folders.insert(entry.node) {
                    let error =
                        at("directory").corrupt("is hard-linked or its own ancestor; it is listed once");
                    self.complaints.push(Complaint { path: entry.path, error });
                    continue;
                }
                folders.push(self.entries.len());
            }
            self.entries.push(entry);
            self.add_streams(self.entries.len() - 1);
        }
        folders
    }

    /// Numbers the files in the order of their handles, and sorts the paths.
    fn finish(self) -> Listing {
        let Walk { entries, nodes: mut numbers, mut list, complaints, .. } = self;
        // Each level of directories is already in order.
        list.sort_by_key(|(id, _)| *id);
        for (number, (id, _)) in (0..).zip(&list) {
            numbers.insert(*id, number);
        }
        let entry = |Met { path, node, stream, short_name, dos_name }| Entry {
            path,
            stream,
            file: FileId(numbers[&node]),
            short_name,
            dos_name,
        };
        let mut entries: Vec<Entry> = entries.into_iter().map(entry).collect();
        entries.sort_unstable();
        let mut listing = Listing { entries, nodes: Nodes(list), complaints };
        say_doubled(&mut listing);
        listing
    }
}

/// Adds a complaint for each path that occurs more than once. All are listed, and looking the path up finds one of
/// them.
fn say_doubled(listing: &mut Listing) {
    let doubled = listing
        .entries
        .chunk_by(|a, b| (&a.path, &a.stream) == (&b.path, &b.stream))
        .filter(|same| same.len() > 1);
    let complaints = doubled.map(|same| Complaint {
        path: same[0].path.clone(),
        error: at("directory").corrupt(format!("has {} entries of this name", same.len())),
    });
    listing.complaints.extend(complaints);
}

/// Returns the error for complaining, unless it is a failed read, which ends the listing.
fn fatal_or_not(error: Error) -> Result<Error> {
    if error.kind() == ErrorKind::Io { Err(error) } else { Ok(error) }
}

/// Joins `folder` and `name` with a slash.
fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if folder != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Returns the node at an absolute path, without following symlinks. `NotFound` names the first missing component.
pub fn lookup(fs: &dyn Filesystem, path: &[u8]) -> Result<NodeId> {
    let mut node = fs.root();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let found = fs.read_dir(node, &mut |_| ())?.into_iter().find(|entry| entry.name == name);
        node = match found {
            Some(entry) => entry.node,
            None => {
                let whole = String::from_utf8_lossy(path);
                let name = String::from_utf8_lossy(name);
                return Err(at(format!("path {whole}")).not_found(format!("\"{name}\" does not exist")));
            }
        };
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Content, Info};

    /// An endless chain of nested directories, each with a file.
    struct Endless {
        info: Info,
        /// The subdirectory that every directory has, instead of a new one.
        again: Option<NodeId>,
    }

    impl Filesystem for Endless {
        fn info(&self) -> &Info {
            &self.info
        }

        fn capabilities(&self) -> &'static crate::fs::Capabilities {
            crate::fs::driver("ext4").unwrap().capabilities()
        }
        fn root(&self) -> NodeId {
            2
        }

        fn node(&self, id: NodeId, _: &mut dyn FnMut(Error)) -> Result<Node> {
            Ok(Node::bare(if id.is_multiple_of(2) { FileType::Dir } else { FileType::File }))
        }

        fn read_dir(&self, id: NodeId, _: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
            let entry =
                |name: &[u8], node| DirEntry { name: name.to_vec(), short_name: None, dos_name: None, node };
            Ok(vec![entry(b"file", id + 1), entry(&[b'd'; 255], self.again.unwrap_or(id + 2))])
        }

        fn content(&self, _: NodeId) -> Result<Content> {
            Ok(Content { size: 0, pieces: Vec::new() })
        }
    }

    fn endless(again: Option<NodeId>) -> Endless {
        let info = Info {
            kind: "endless".to_owned(),
            label: None,
            uuid: None,
            block_size: 1,
            size: 0,
            free: None,
            features: Vec::new(),
            warnings: Vec::new(),
            default_subvolume: None,
        };
        Endless { info, again }
    }

    #[test]
    fn folders_without_an_end_are_listed_up_to_the_longest_path() {
        let listing = walk(&endless(None)).unwrap();
        let longest = listing.entries.iter().map(|entry| entry.path.len()).max().unwrap();
        assert!(longest <= MAX_PATH && longest > MAX_PATH - 256 - 5, "{longest}");
        assert_eq!(listing.entries.len(), 2 * (MAX_PATH / 256) + 1);
        let [Complaint { path, error }] = &listing.complaints[..] else { panic!("{:?}", listing.complaints) };
        assert_eq!((path.len(), error.kind()), (MAX_PATH / 256 * 256, ErrorKind::Limit));
    }

    #[test]
    fn paths_over_the_limit_for_all_of_them_are_left_out_and_said() {
        // "/file" and "/ddd…", 5 and 256 bytes, and then "/ddd…/file" of 261.
        for (all_paths, entries) in [(4, 1), (5, 2), (5 + 256, 3), (5 + 256 + 260, 3), (5 + 256 + 261, 4)] {
            let listing = walk_up_to(all_paths, &endless(None)).unwrap();
            assert_eq!(listing.entries.len(), entries, "{all_paths}");
            let [Complaint { error, .. }] = &listing.complaints[..] else {
                panic!("{:?}", listing.complaints)
            };
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains(&format!("or {all_paths} in all paths")), "{error}");
        }
    }

    #[test]
    fn a_name_that_a_folder_has_twice_is_said_once() {
        let entry = |path: &[u8], file| Entry {
            path: path.to_vec(),
            stream: None,
            file: FileId(file),
            short_name: None,
            dos_name: None,
        };
        let entries = [entry(b"/", 0), entry(b"/a", 1), entry(b"/a", 2), entry(b"/a", 3), entry(b"/b", 3)];
        let mut listing = Listing { entries: entries.to_vec(), ..Listing::default() };
        say_doubled(&mut listing);
        assert_eq!(listing.entries.len(), 5);
        let [Complaint { path, error }] = &listing.complaints[..] else { panic!("{:?}", listing.complaints) };
        assert_eq!((path.as_slice(), error.kind()), (&b"/a"[..], ErrorKind::Corrupt));
        assert!(error.to_string().contains("3 entries of this name"), "{error}");
    }

    #[test]
    fn a_folder_that_is_its_own_ancestor_is_listed_once() {
        let listing = walk(&endless(Some(2))).unwrap();
        assert_eq!(listing.entries.len(), 2);
        assert_eq!(listing.complaints.len(), 1);
        assert_eq!(listing.complaints[0].error.kind(), ErrorKind::Corrupt);
    }
}
