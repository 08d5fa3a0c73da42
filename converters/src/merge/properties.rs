//! Properties of every merge, tested on random small trees, two of which are edits of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mif_formats::MemSource;
use mif_formats::fs::{FileId, FileType, Node, Timestamp};
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::{Body, Row};

use super::report::{ImageResult, UpdatedImage, Winner};
use super::rules::{Rule, rule};
use super::three_way::Change;
use super::update_image;
use crate::disk::scan::Scan;
use crate::store::{Memory, Objects, Storage, Store};
use crate::task::progress::Silent;
use crate::testing::random::{Random, each_seed};
use crate::tree::edit::{Files, below, parent};

const VOLUME: &str = "p1";
const WINNERS: [Option<Winner>; 3] = [None, Some(Winner::Image), Some(Winner::Update)];

/// Names of files without a rule. `a-b` sorts between `a` and the entries of `a`.
const PLAIN: [&str; 3] = ["a", "b", "a-b"];
/// Names that also form paths with rules: a machine-specific file and a cache.
const RULED: [&str; 3] = ["etc", "hostname", "ld.so.cache"];

type Path = Vec<u8>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Dir,
    File(u8),
    Symlink(u8),
}

/// A file, whatever its names.
#[derive(Clone)]
struct Inode {
    kind: Kind,
    mode: u16,
    mtime: i64,
}

/// A tree of files: the inode of each path.
#[derive(Clone)]
struct Tree {
    paths: BTreeMap<Path, usize>,
    inodes: Vec<Inode>,
}

impl Tree {
    fn random(random: &mut Random, names: &[&str]) -> Self {
        let root = Inode { kind: Kind::Dir, mode: 0o755, mtime: 0 };
        let mut tree = Tree { paths: [(b"/".to_vec(), 0)].into(), inodes: vec![root] };
        for _ in 0..random.below(14) {
            tree.add(random, names);
        }
        tree.edited(random, names)
    }

    /// Returns the same tree after some edits.
    fn edited(&self, random: &mut Random, names: &[&str]) -> Self {
        let mut tree = self.clone();
        for _ in 0..random.below(5) {
            tree.edit(random, names);
        }
        tree
    }

    fn edit(&mut self, random: &mut Random, names: &[&str]) {
        let path = self.any(random, |_| true);
        let number = self.paths[&path];
        match random.below(8) {
            0 | 1 => self.add(random, names),
            2 if self.inodes[number].kind != Kind::Dir => {
                self.inodes[number].kind = Kind::File(content(random))
            }
            2 | 3 => self.inodes[number].mode ^= 0o22,
            4 => self.inodes[number].mtime += 1,
            _ if path == b"/" => {}
            5 => self.remove(&path),
            6 => {
                // It becomes another type of file.
                let is_dir = self.inodes[number].kind == Kind::Dir;
                self.remove(&path);
                let kind = if is_dir { Kind::File(content(random)) } else { Kind::Dir };
                self.insert(path, Inode { kind, mode: 0o755, mtime: 1 });
            }
            _ => {
                let file = self.any(random, |inode| inode.kind != Kind::Dir);
                let number = self.paths[&file];
                let folder = self.any(random, |inode| inode.kind == Kind::Dir);
                if self.inodes[number].kind != Kind::Dir {
                    self.paths.entry(child(&folder, random.pick::<&str>(names))).or_insert(number);
                }
            }
        }
    }

    fn add(&mut self, random: &mut Random, names: &[&str]) {
        let folder = self.any(random, |inode| inode.kind == Kind::Dir);
        let path = child(&folder, random.pick::<&str>(names));
        if self.paths.contains_key(&path) || path.iter().filter(|b| **b == b'/').count() > 3 {
            return;
        }
        let kind = match random.below(5) {
            0 | 1 => Kind::Dir,
            2 => Kind::Symlink(content(random)),
            _ => Kind::File(content(random)),
        };
        self.insert(path, Inode { kind, mode: 0o755, mtime: 0 });
    }

    fn insert(&mut self, path: Path, inode: Inode) {
        self.inodes.push(inode);
        self.paths.insert(path, self.inodes.len() - 1);
    }

    fn remove(&mut self, path: &[u8]) {
        let inside = below(path);
        self.paths.retain(|other, _| other != path && !inside.contains(other));
    }

    /// Returns a random path of a wanted file, or else the root.
    fn any(&self, random: &mut Random, is_wanted: impl Fn(&Inode) -> bool) -> Path {
        let paths: Vec<&Path> = self
            .paths
            .iter()
            .filter(|(_, number)| is_wanted(&self.inodes[**number]))
            .map(|(path, _)| path)
            .collect();
        if paths.is_empty() { b"/".to_vec() } else { (*random.pick(&paths)).clone() }
    }

    /// Returns its rows in random order, with file ids of its own.
    fn rows(&self, random: &mut Random) -> Vec<Row> {
        let first = random.below(100) as u32;
        let mut rows: Vec<Row> =
            self.paths.iter().map(|(path, number)| self.row(path, *number, first)).collect();
        random.shuffle(&mut rows);
        rows
    }

    fn row(&self, path: &Path, number: usize, first: u32) -> Row {
        let Inode { kind, mode, mtime } = self.inodes[number];
        let file_type = match kind {
            Kind::Dir => FileType::Dir,
            Kind::File(_) => FileType::File,
            Kind::Symlink(_) => FileType::Symlink,
        };
        let links = self.paths.values().filter(|other| **other == number).count();
        let mut node = Node {
            mode: Some(mode),
            uid: Some(0),
            gid: Some(0),
            nlink: Some(links as u32),
            mtime: Some(Timestamp { secs: mtime, nanos: 0 }),
            ctime: Some(Timestamp::default()),
            ..Node::bare(file_type)
        };
        let mut body = None;
        match kind {
            Kind::Dir => {}
            Kind::File(content) => {
                node.size = u64::from(content);
                body = Some(Body::Digested { sha1: [content; 20], blake3: [content; 32] });
            }
            Kind::Symlink(target) => node.link_target = Some(vec![b'a' + target]),
        }
        let file = Some(FileId(first + number as u32));
        Row { body, ..Row::new(VOLUME, path.clone(), file, node) }
    }
}

/// Returns random content of a file, or target of a symlink; 0 is an empty file.
fn content(random: &mut Random) -> u8 {
    random.below(4) as u8
}

fn child(folder: &[u8], name: &str) -> Path {
    [folder.strip_suffix(b"/").unwrap_or(folder), b"/", name.as_bytes()].concat()
}

/// Makes files from rows.
struct Maker {
    scan: Scan,
    objects: Arc<Objects>,
}

impl Maker {
    fn new() -> Self {
        let memory: Arc<dyn Storage> = Arc::new(Memory::new());
        let objects = Arc::new(Store::create(memory, &Silent).unwrap().objects().unwrap());
        Maker { scan: Scan::new(Arc::new(MemSource(vec![0; 4096]))).unwrap(), objects }
    }

    fn files(&self, rows: &[Row]) -> Files {
        Files::new(rows, &self.scan, &self.objects, Timestamp { secs: 1000, nanos: 0 }).unwrap()
    }
}

/// What a user sees at a path, except times.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    file_type: FileType,
    mode: Option<u16>,
    content: Option<(u64, ObjectId)>,
    link_target: Option<Vec<u8>>,
    /// All paths of the same file.
    links: BTreeSet<Path>,
}

impl Seen {
    fn without_links(&self) -> Self {
        Seen { links: BTreeSet::new(), ..self.clone() }
    }
}

fn seen(files: &Files) -> BTreeMap<Path, Seen> {
    let mut links: BTreeMap<FileId, BTreeSet<Path>> = BTreeMap::new();
    for row in files.rows() {
        if let Some(file) = row.file.filter(|_| row.node.file_type != FileType::Dir) {
            links.entry(file).or_default().insert(row.path.clone());
        }
    }
    let of = |row: &Row| {
        let own = || [row.path.clone()].into();
        Seen {
            file_type: row.node.file_type,
            mode: row.node.mode,
            content: row.object().filter(|_| row.node.size > 0).map(|object| (row.node.size, object)),
            link_target: row.node.link_target.clone(),
            links: row.file.and_then(|file| links.get(&file).cloned()).unwrap_or_else(own),
        }
    };
    let all: BTreeMap<Path, Seen> = files.rows().into_iter().map(|row| (row.path.clone(), of(row))).collect();
    assert_eq!(all.len(), files.rows().len(), "a path is there twice");
    all
}

/// Returns the times of all files except directories.
fn times(files: &Files) -> BTreeMap<Path, Option<Timestamp>> {
    let rows = files.rows().into_iter().filter(|row| row.node.file_type != FileType::Dir);
    rows.map(|row| (row.path.clone(), row.node.mtime)).collect()
}

/// Applies the changes from `a` to `b`.
fn merged(a: &Files, b: &Files, image: &Files, winner: Option<Winner>) -> (Files, UpdatedImage) {
    let change = Change::new("/", [a, b], [VOLUME, VOLUME]);
    update_image(&[change], image, winner, UpdatedImage::of("x@1")).unwrap()
}

/// Returns the paths that a report names.
fn named<'r>(paths: impl Iterator<Item = &'r String>) -> BTreeSet<Path> {
    paths.map(|path| path.strip_prefix("p1:").unwrap().as_bytes().to_vec()).collect()
}

/// Returns true if one path is the other or lies in it.
fn is_on_the_way(a: &[u8], b: &[u8]) -> bool {
    a == b || below(a).contains(&b.to_vec()) || below(b).contains(&a.to_vec())
}

#[test]
fn an_update_that_changes_nothing_leaves_an_image_as_it_is() {
    let maker = Maker::new();
    each_seed(300, |seed| {
        let random = &mut Random(seed);
        let names = *random.pick(&[PLAIN, RULED]);
        let tree = Tree::random(random, &names);
        // File ids differ between images.
        let [a, b] = [0; 2].map(|_| maker.files(&tree.rows(random)));
        let image = maker.files(&tree.edited(random, &names).rows(random));
        for winner in WINNERS {
            let (result, said) = merged(&a, &b, &image, winner);
            assert_eq!(result.rows(), image.rows());
            assert_eq!((said.result, said.conflicts.len(), said.left.len()), (ImageResult::Unchanged, 0, 0));
        }
    });
}

#[test]
fn an_image_that_is_as_before_the_update_becomes_as_after_it() {
    let maker = Maker::new();
    each_seed(300, |seed| {
        let random = &mut Random(seed);
        let tree = Tree::random(random, &PLAIN);
        let [a, image] = [0; 2].map(|_| maker.files(&tree.rows(random)));
        let b = maker.files(&tree.edited(random, &PLAIN).rows(random));
        for winner in WINNERS {
            let (result, said) = merged(&a, &b, &image, winner);
            assert_eq!(seen(&result), seen(&b));
            assert_eq!(times(&result), times(&b));
            assert_eq!((said.conflicts.len(), said.left.len()), (0, 0));
        }
    });
}

#[test]
fn an_image_that_has_the_update_stays_as_it_is() {
    let maker = Maker::new();
    each_seed(300, |seed| {
        let random = &mut Random(seed);
        let names = *random.pick(&[PLAIN, RULED]);
        let tree = Tree::random(random, &names);
        let a = maker.files(&tree.rows(random));
        let tree = tree.edited(random, &names);
        let [b, image] = [0; 2].map(|_| maker.files(&tree.rows(random)));
        for winner in WINNERS {
            let (result, said) = merged(&a, &b, &image, winner);
            assert_eq!(result.rows(), image.rows());
            assert_eq!((said.result, said.conflicts.len()), (ImageResult::Unchanged, 0));
        }
    });
}

#[test]
fn a_merge_does_not_depend_on_the_order_of_rows_or_their_ids() {
    let maker = Maker::new();
    each_seed(200, |seed| {
        let random = &mut Random(seed);
        let names = *random.pick(&[PLAIN, RULED]);
        let tree = Tree::random(random, &names);
        let trees = [tree.clone(), tree.edited(random, &names), tree.edited(random, &names)];
        let winner = *random.pick(&WINNERS);
        let results = [0; 2].map(|_| {
            let [a, b, image] = trees.each_ref().map(|tree| maker.files(&tree.rows(random)));
            let (result, said) = merged(&a, &b, &image, winner);
            (seen(&result), times(&result), serde_json::to_string(&said).unwrap())
        });
        assert_eq!(results[0], results[1]);
    });
}

#[test]
fn each_path_becomes_what_the_side_that_changed_it_has() {
    let maker = Maker::new();
    each_seed(500, |seed| {
        let random = &mut Random(seed);
        let names = *random.pick(&[PLAIN, RULED]);
        let tree = Tree::random(random, &names);
        let trees = [tree.clone(), tree.edited(random, &names), tree.edited(random, &names)];
        let [a, b, image] = trees.map(|tree| maker.files(&tree.rows(random)));
        for winner in WINNERS {
            check(&a, &b, &image, winner);
        }
    });
}

#[test]
fn a_directory_that_goes_with_the_one_it_lies_in_is_not_said_to_stay() {
    let maker = Maker::new();
    each_seed(1, |seed| {
        let random = &mut Random(seed);
        let dir = || Inode { kind: Kind::Dir, mode: 0o755, mtime: 0 };
        let file = || Inode { kind: Kind::File(1), mode: 0o755, mtime: 0 };
        let mut b = Tree { paths: [(b"/".to_vec(), 0)].into(), inodes: vec![dir()] };
        let mut a = b.clone();
        b.insert(b"/a".to_vec(), file());
        a.insert(b"/a".to_vec(), dir());
        a.insert(b"/a/b".to_vec(), dir());
        let mut image = a.clone();
        image.insert(b"/a/b/own".to_vec(), file());
        let [a, b, image] = [a, b, image].map(|tree| maker.files(&tree.rows(random)));
        let (result, said) = merged(&a, &b, &image, Some(Winner::Update));
        assert_eq!(seen(&result), seen(&b));
        assert_eq!((said.conflicts.len(), said.left.len()), (1, 0), "{said:?}");
    });
}

/// Checks the result for every path.
fn check(a: &Files, b: &Files, image: &Files, winner: Option<Winner>) {
    let (result, said) = merged(a, b, image, winner);
    assert_eq!(said.result == ImageResult::Conflict, !said.conflicts.is_empty() && winner.is_none());
    let conflicts = named(said.conflicts.iter().map(|conflict| &conflict.path));
    let left = named(said.left.iter().map(|left| &left.path));
    let [a, b, ours, result] = [a, b, image, &result].map(seen);
    let paths: BTreeSet<&Path> = [&a, &b, &ours].into_iter().flat_map(BTreeMap::keys).collect();
    let is_named = |path: &Path| conflicts.contains(path) || left.contains(path);
    let links = |seen: Option<&Seen>| seen.map(|seen| seen.links.clone()).unwrap_or_default();
    let updated = |path: &Path| a.get(path) != b.get(path);
    let update_wins = winner == Some(Winner::Update);

    for (path, seen) in &result {
        assert!(paths.contains(path), "{} is from nowhere", path.escape_ascii());
        let folder = result.get(parent(path)).map(|folder| folder.file_type);
        assert_eq!(folder, Some(FileType::Dir), "{} has no directory: {seen:?}", path.escape_ascii());
    }
    for path in paths {
        let [before, after, here, found] = [&a, &b, &ours, &result].map(|side| side.get(path));
        let what =
            format!("{}: {before:?} → {after:?}, {here:?} became {found:?} ({said:?})", path.escape_ascii());
        let in_the_wake = conflicts.iter().any(|conflict| is_on_the_way(conflict, path));
        if before == after {
            // A winning update may replace a directory, or need one.
            if !(update_wins && in_the_wake) {
                let mates_stay = !update_wins || links(here).iter().all(|mate| !updated(mate));
                assert_same(found, here, mates_stay, &what);
            }
        } else if after == here {
            assert_same(found, here, true, &what);
        } else if before == here || update_wins {
            let is_left = is_named(path) && (!update_wins || left.contains(path));
            if is_left {
                assert_same(found, here, false, &what);
            } else if !(update_wins && in_the_wake && left.contains(path)) {
                let mates_come = links(after).iter().chain(&links(here)).all(|mate| !is_named(mate));
                assert_same(found, after, mates_come, &what);
            }
        } else {
            assert!(is_named(path), "{what}, and nothing is said");
            assert_same(found, here, true, &what);
        }
    }
    for conflict in &said.conflicts {
        let path = named([&conflict.path].into_iter()).pop_first().unwrap();
        let [before, after, here] = [&a, &b, &ours].map(|side| side.get(&path));
        if conflict.why.contains("directory") {
            // The image differs there: it changed something, or a rule keeps its own file.
            let all: BTreeSet<&Path> = [&a, &b, &ours].into_iter().flat_map(BTreeMap::keys).collect();
            let is_own = |other: &Path| a.get(other) != ours.get(other) || rule(other) != Rule::Plain;
            let has_own = all.into_iter().any(|other| is_on_the_way(other, &path) && is_own(other));
            assert!(before != after && has_own, "{conflict:?}");
        } else {
            assert!(before != after && before != here && after != here, "{conflict:?}");
        }
    }
}

fn assert_same(found: Option<&Seen>, expected: Option<&Seen>, with_links: bool, what: &str) {
    let seen =
        |seen: Option<&Seen>| seen.map(|seen| if with_links { seen.clone() } else { seen.without_links() });
    assert_eq!(seen(found), seen(expected), "{what}");
}
