//! A model of the store: actors import, read, remove, collect garbage, check and repair on a storage in memory, one
//! storage operation at a time, in an order that a seed decides. Operations fail, replies are lost, actors die, and
//! files rot. The state of the store is then compared with a plain map from images to the bytes of their disks.
//!
//! `MIF_MODEL_SECONDS` sets the duration (default 30), `MIF_MODEL_SEED` replays one seed and prints the operations.
//!
//! Invariants, checked whenever no actor is active:
//!
//! - an image that was published, and not removed, exists, and its disk has the bytes that were imported, unless every
//!   good copy of something that it needs has rotted; no verb drops the last good copy;
//! - `fsck` reports a whole store only if every image can be read;
//! - an image can be read as long as its files are intact and an index finds a good copy of all that it needs;
//! - after a repair, every image is whole if the store still has all its parts;
//! - an image is not removed while somebody reads it;
//! - every verb ends.

mod bucket;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Write};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mif::store::{Entries, Lock, Memory, Storage, Store, Upload};
use mif::{FsckOptions, GcOptions, ImportOptions, OpenImage, Silent, Verdict, fsck, gc, import, rm};
use mif_formats::Source;
use mif_formats::container::Access;
use mif_formats::mif::chunks::decode_list;
use mif_formats::mif::pack::{Encoding, IndexEntry, TRAILER, decode_index};
use mif_formats::mif::{ObjectId, layout::Layout};
use mif_tests::random::Random;

use self::bucket::{Planted, SeenBlobs, Sim};

/// Removes tagged versions too.
const FORCED: mif::RmOptions = mif::RmOptions { force: true, dry_run: false };

/// The default duration of a model in seconds.
const SECONDS: u64 = 30;
/// The same for a store in a bucket.
const BUCKET_SECONDS: u64 = 10;
/// How long the model may look for a fault that was planted.
const PLANTED: Duration = Duration::from_secs(120);
/// The number of residue windows per disk, each of which is an object, and their size in bytes.
const WINDOWS: usize = 4;
const WINDOW: usize = 256 << 10;
/// The size of a disk in bytes.
const DISK: usize = WINDOWS * WINDOW;
/// The number of different disks, and of different parts that they are made of.
const DISKS: usize = 8;
const PARTS: usize = 9;
/// The current time, in seconds since 1970.
const NOW: u64 = 1_800_000_000;
/// The names of images.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The scheduler of the actors.
#[derive(Default)]
struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnState {
    /// Actors that wait for an operation.
    waiting: BTreeSet<usize>,
    alive: usize,
    running: Option<usize>,
    operations: u64,
    trace: Vec<String>,
    /// A digest of all operations: the same seed gives the same digest.
    digest: u64,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until this actor may do an operation.
    fn wait(&self, actor: usize, what: &str, key: &str) {
        let mut state = self.state();
        state.waiting.insert(actor);
        if state.running == Some(actor) {
            state.running = None;
        }
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.running != Some(actor)).unwrap();
        state.waiting.remove(&actor);
        state.operations += 1;
        let line = format!("{actor} {what} {key}");
        let hash = line
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        state.digest = state.digest.rotate_left(7) ^ hash;
        if VERBOSE.get().is_some() {
            state.trace.push(line);
        }
    }

    fn end(&self, actor: usize) {
        let mut state = self.state();
        state.alive -= 1;
        if state.running == Some(actor) {
            state.running = None;
        }
        self.changed.notify_all();
    }

    /// Runs the actors' operations in an order that `random` decides, until all have ended. Up to two actors make a
    /// long pause before one of their operations, while others continue.
    fn run(&self, random: &mut Random) {
        let mut pauses: Vec<Pause> = (0..random.index(3))
            .map(|_| Pause { actor: random.index(4), before: random.index(35), left: random.index(150) })
            .collect();
        let mut done = [0; 8];
        loop {
            let mut state = self.state();
            while state.running.is_some() || state.waiting.len() < state.alive {
                let (next, timeout) = self.changed.wait_timeout(state, Duration::from_secs(60)).unwrap();
                state = next;
                assert!(!timeout.timed_out(), "an actor neither ends nor does an operation for a minute");
            }
            if state.alive == 0 {
                return;
            }
            let mut ready: Vec<usize> = state.waiting.iter().copied().collect();
            for pause in pauses.iter_mut().filter(|pause| pause.left > 0 && done[pause.actor] == pause.before)
            {
                if ready.len() > 1 && ready.contains(&pause.actor) {
                    pause.left -= 1;
                    ready.retain(|actor| *actor != pause.actor);
                }
            }
            let next = *random.pick(&ready);
            done[next] += 1;
            state.running = Some(next);
            self.changed.notify_all();
        }
    }
}

/// A pause of an actor.
struct Pause {
    actor: usize,
    /// The number of the operation before which it pauses.
    before: usize,
    /// The number of operations that others do meanwhile.
    left: usize,
}

static VERBOSE: std::sync::OnceLock<()> = std::sync::OnceLock::new();

/// A fault of an actor's operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The operation does nothing and fails.
    Fails,
    /// The operation is done, but reports a failure.
    LosesReply,
    /// The actor ends there, like a killed process.
    Dies,
    /// The actor ends there, after the operation.
    DiesAfter,
}

/// The storage as seen by one actor.
#[derive(Clone)]
struct Seen {
    actor: usize,
    memory: Memory,
    turns: Arc<Turns>,
    plan: Arc<Mutex<Plan>>,
}

/// The fault that is planned for an actor.
struct Plan {
    /// The number of operations before the fault, and the fault.
    after: Option<(usize, Fault)>,
    is_dead: bool,
    /// True once a fault has happened.
    happened: bool,
}

impl Seen {
    /// Does an operation when it is the actor's turn, unless a fault happens.
    fn step<T>(&self, what: &str, key: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.plan.lock().unwrap().is_dead {
            return Err(io::Error::other("killed"));
        }
        self.turns.wait(self.actor, what, key);
        let mut plan = self.plan.lock().unwrap();
        let fault = match &mut plan.after {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let Some(fault) = fault else { return work() };
        plan.after = None;
        plan.happened = true;
        plan.is_dead = matches!(fault, Fault::Dies | Fault::DiesAfter);
        if VERBOSE.get().is_some() {
            self.turns.state().trace.push(format!("{} {fault:?}", self.actor));
        }
        if matches!(fault, Fault::LosesReply | Fault::DiesAfter) {
            let _ = work();
        }
        Err(io::Error::other("injected"))
    }
}

impl Storage for Seen {
    fn place(&self) -> String {
        self.memory.place()
    }

    fn access(&self) -> Access {
        self.memory.access()
    }

    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.step("read", key, || self.memory.read(key, range))
    }

    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        self.step("read all", key, || self.memory.read_all(key))
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        self.step("len", key, || self.memory.len(key))
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        let to = self.step("upload", "", || self.memory.upload(key))?;
        Ok(Box::new(SeenUpload { of: self.clone(), key: key.to_owned(), to }))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.step("replace", key, || self.memory.replace(key, bytes))
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        self.step("publish", folder, || self.memory.publish(folder, files))
    }

    fn entries(&self, folder: &str) -> io::Result<Entries> {
        self.step("entries", folder, || self.memory.entries(folder))
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.step("delete", key, || self.memory.delete(key))
    }

    fn rename(&self, key: &str, to: &str) -> io::Result<bool> {
        self.step("rename", key, || self.memory.rename(key, to))
    }

    fn prepare(&self, group: Option<u32>) -> io::Result<()> {
        self.memory.prepare(group)
    }

    fn clear(&self, with_directory: bool) -> io::Result<()> {
        self.memory.clear(with_directory)
    }

    fn enter(&self) -> io::Result<Option<Lock>> {
        self.step("enter", "", || self.memory.enter())
    }

    fn epoch(&self) -> io::Result<u64> {
        self.step("epoch", "", || self.memory.epoch())
    }

    fn advance(&self) -> io::Result<u64> {
        self.step("advance", "", || self.memory.advance())
    }

    fn oldest(&self) -> io::Result<u64> {
        self.step("oldest", "", || self.memory.oldest())
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        self.step("lock", "", || self.memory.lock())
    }

    fn alone(&self) -> io::Result<Option<Lock>> {
        self.step("alone", "", || self.memory.alone())
    }

    fn pause(&self) {}

    fn now(&self) -> u64 {
        NOW
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        self.memory.random()
    }
}

struct SeenUpload {
    of: Seen,
    key: String,
    to: Box<dyn Upload>,
}

impl Write for SeenUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Upload for SeenUpload {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        let SeenUpload { of, key, to } = *self;
        of.step("finish", &key, || to.finish())
    }
}

/// The task of an actor.
#[derive(Debug, Clone)]
enum Task {
    Import { name: &'static str, disk: usize, verify: bool },
    Read { name: &'static str, newest: bool },
    Remove { name: &'static str },
    Collect,
    Check,
    Repair,
}

/// A finished task.
struct Done {
    task: Task,
    /// The result, or its error; `None` if the actor died.
    result: Option<Result<Outcome, String>>,
    /// True if a fault disturbed its operations.
    disturbed: bool,
}

enum Outcome {
    Imported(String),
    Read(Option<(String, Vec<u8>)>),
    Removed(Vec<String>),
    Collected,
    Checked(Verdict),
}

type Key = (String, u32);

fn key(id: &str) -> Key {
    let (name, version) = id.split_once('@').expect("name@version");
    (name.to_owned(), version.parse().expect("a number"))
}

/// What the store is in.
#[derive(Clone, Copy)]
enum Kind {
    /// Something with renames and locks.
    Directory,
    /// A bucket, with a fault in the protocol or without.
    Bucket(Option<Planted>),
}

/// The expected state of the store.
struct World {
    memory: Memory,
    /// The object store whose objects are the files of `memory`, if the store is in a bucket.
    sim: Option<Arc<Sim>>,
    /// Disks of imports that failed, by name. In a bucket, a later removal may complete one.
    attempted: BTreeMap<String, BTreeSet<usize>>,
    planted: Option<Planted>,
    disks: Vec<(PathBuf, Vec<u8>)>,
    /// The disk of each image.
    images: BTreeMap<Key, Vec<u8>>,
    /// Everything that each image needed when it was published: objects, and the contents of its files.
    needs: BTreeMap<Key, Needs>,
    /// Versions that were removed: their numbers are never reused.
    gone: BTreeSet<Key>,
    /// Disks whose images were removed. The store may still have packs of them that no image needs.
    left_over: Vec<usize>,
    /// True if anything has rotted since the store was last whole.
    is_rotten: bool,
}

#[derive(Clone)]
struct Needs {
    objects: BTreeSet<ObjectId>,
    /// The contents of the files that every reader needs, by name.
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Needs {
    fn layout(&self) -> Option<Layout> {
        Layout::decode(&self.files["layout"]).ok().map(|(layout, _)| layout)
    }
}

impl World {
    fn new(disks: &[(PathBuf, Vec<u8>)], kind: Kind) -> Self {
        let memory = Memory::new();
        let (sim, planted) = match kind {
            Kind::Directory => (None, None),
            Kind::Bucket(planted) => (Some(Sim::new(memory.clone())), planted),
        };
        let world = World {
            memory,
            sim,
            attempted: BTreeMap::new(),
            planted,
            disks: disks.to_vec(),
            images: BTreeMap::new(),
            needs: BTreeMap::new(),
            gone: BTreeSet::new(),
            left_over: Vec::new(),
            is_rotten: false,
        };
        drop(Store::create(world.storage(), &Silent).unwrap());
        world
    }

    /// Returns the storage without failures and delays, for use while no actor runs.
    fn storage(&self) -> Arc<dyn Storage> {
        match &self.sim {
            Some(sim) => sim.storage(),
            None => Arc::new(self.memory.clone()),
        }
    }

    fn store(&self) -> Store {
        Store::open(self.storage(), &Silent).unwrap()
    }

    /// Returns the objects of which a repair finds a good copy in a pack, by the pack's own index.
    fn good(&self) -> HashSet<ObjectId> {
        self.copies(|own, beside| index_of(own).or_else(|| decoded(beside?)))
    }

    /// Returns the objects of which a reader finds a good copy in a pack, by the pack's index file.
    fn good_and_indexed(&self) -> HashSet<ObjectId> {
        self.copies(|own, beside| decoded(beside?).or_else(|| index_of(own)))
    }

    /// Returns the objects with a good copy in a pack, by an index that `choose` takes from the pack and its index
    /// file.
    fn copies(&self, choose: impl Fn(&[u8], Option<&[u8]>) -> Option<Vec<IndexEntry>>) -> HashSet<ObjectId> {
        let mut good = HashSet::new();
        let files = self.memory.files();
        for (key, bytes) in &files {
            if !key.starts_with("packs/") {
                continue;
            }
            let name = key.rsplit('/').next().unwrap().trim_end_matches(".pack");
            let beside = files.get(&format!("index/{name}.idx")).map(|bytes| &bytes[..]);
            for entry in choose(bytes, beside).unwrap_or_default() {
                let range = entry.offset as usize..(entry.offset + entry.stored_len) as usize;
                let Some(stored) = bytes.get(range) else { continue };
                let is_good = match entry.encoding {
                    Encoding::Raw => ObjectId::of(stored) == entry.id,
                    Encoding::Zstd => zstd::bulk::decompress(stored, entry.len as usize)
                        .is_ok_and(|bytes| ObjectId::of(&bytes) == entry.id),
                    Encoding::List | Encoding::DecodingList => {
                        decode_list(entry.encoding, stored, entry.len).is_ok()
                    }
                };
                if is_good {
                    good.insert(entry.id);
                }
            }
        }
        good
    }

    fn read(&self, store: &Store, (name, version): &Key) -> Result<Vec<u8>, String> {
        let id = format!("{name}@{version}").parse().map_err(|e: mif::Error| e.to_string())?;
        let image = OpenImage::stored(store, &id).map_err(|e| e.to_string())?;
        image.tree().map_err(|e| e.to_string())?;
        let disk = image.disk().map_err(|e| e.to_string())?;
        disk.read_vec(0, disk.len() as usize).map_err(|e| e.to_string())
    }

    fn needs_of(&self, store: &Store, (name, version): &Key) -> Result<Needs, mif::Error> {
        let stored = store.version(name, *version)?;
        let layout = stored.layout()?;
        let mut objects: BTreeSet<ObjectId> = layout.objects().iter().copied().collect();
        objects.extend(stored.manifest()?.iter().filter_map(mif_formats::mif::manifest::Row::object));
        let reader = store.objects()?;
        for id in objects.clone() {
            objects.extend(reader.chunks(&id)?);
        }
        let files = self.memory.files();
        let file = |file| Some((file, files.get(&file_key(name, *version, file))?.to_vec()));
        let files = ["image.json", "layout", "manifest.parquet"].into_iter().filter_map(file).collect();
        Ok(Needs { objects, files })
    }

    /// Returns true if a reader finds all that an image needs, without a repair.
    fn can_be_read(&self, key: &Key, good_and_indexed: &HashSet<ObjectId>) -> bool {
        let Some(needs) = self.needs.get(key) else { return false };
        let files = self.memory.files();
        let is_intact = |(file, bytes): (&&str, &Vec<u8>)| {
            files.get(&file_key(&key.0, key.1, file)).is_some_and(|now| **now == *bytes)
        };
        needs.files.iter().all(is_intact) && needs.objects.iter().all(|id| good_and_indexed.contains(id))
    }

    /// Returns true if the store still has all that a repair needs to make an image whole.
    fn can_be_whole(&self, key: &Key, good: &HashSet<ObjectId>) -> bool {
        let Some(needs) = self.needs.get(key) else { return false };
        let files = self.memory.files();
        let layout = files.get(&file_key(&key.0, key.1, "layout"));
        let is_layout = |bytes: &Arc<Vec<u8>>| match (Layout::decode(bytes), needs.layout()) {
            (Ok((a, _)), Some(b)) => a == b,
            _ => false,
        };
        layout.is_some_and(is_layout) && needs.objects.iter().all(|id| good.contains(id))
    }
}

/// Returns the key of a file of an image.
fn file_key(name: &str, version: u32, file: &str) -> String {
    format!("images/name={name}/version={version}/{file}")
}

/// Decodes an index file, unless it is damaged.
fn decoded(index: &[u8]) -> Option<Vec<IndexEntry>> {
    decode_index(index).ok().map(|contents| contents.entries)
}

/// Returns the index at the end of a pack.
fn index_of(pack: &[u8]) -> Option<Vec<IndexEntry>> {
    let trailer = pack.len().checked_sub(TRAILER)?;
    let count = u64::from_le_bytes(pack.get(trailer..trailer + 8)?.try_into().ok()?);
    let start = trailer.checked_sub(usize::try_from(count).ok()?.checked_mul(58)?)?;
    decoded(&pack[start..])
}

/// Performs a task on a storage.
fn perform(task: &Task, storage: Arc<dyn Storage>, disks: &[(PathBuf, Vec<u8>)]) -> Result<Outcome, String> {
    let text = |e: mif::Error| e.to_string();
    match task {
        Task::Import { name, disk, verify } => {
            let store = Store::open(storage, &Silent).map_err(text)?;
            let options = ImportOptions {
                name: Some((*name).to_owned()),
                new_version: true,
                verify: *verify,
                threads: Some(1),
                ..ImportOptions::default()
            };
            let report = import(&store, &disks[*disk].0, &options, &Silent).map_err(text)?;
            Ok(Outcome::Imported(report.image))
        }
        Task::Read { name, newest } => {
            let store = Store::open(storage, &Silent).map_err(text)?;
            let versions = store.versions(name).map_err(text)?;
            let version = if *newest { versions.last() } else { versions.first() };
            let Some(version) = version else {
                return Ok(Outcome::Read(None));
            };
            let id = format!("{name}@{version}");
            let image = match OpenImage::stored(&store, &id.parse().unwrap()) {
                // Somebody removed it before it was opened.
                Err(e) if e.to_string().contains("no such image") => return Ok(Outcome::Read(None)),
                image => image.map_err(text)?,
            };
            let disk = image.disk().map_err(text)?;
            drop(store);
            let mut bytes = Vec::new();
            // Piece by piece, so that others get their turns in between.
            for at in (0..disk.len()).step_by(WINDOW) {
                let len = (disk.len() - at).min(WINDOW as u64) as usize;
                bytes.extend(disk.read_vec(at, len).map_err(|e| e.to_string())?);
            }
            Ok(Outcome::Read(Some((id, bytes))))
        }
        Task::Remove { name } => {
            let store = Store::open_to_remove(storage, &Silent).map_err(text)?;
            match store.versions(name).map_err(text)?.first() {
                Some(version) => {
                    let id = format!("{name}@{version}").parse().unwrap();
                    Ok(Outcome::Removed(rm(&store, &[id], FORCED).map_err(text)?.removed))
                }
                None => Ok(Outcome::Removed(Vec::new())),
            }
        }
        Task::Collect => {
            let store = Store::open_to_remove(storage, &Silent).map_err(text)?;
            gc(&store, &GcOptions::default(), &Silent).map_err(text)?;
            Ok(Outcome::Collected)
        }
        Task::Check => {
            let store = Store::open(storage, &Silent).map_err(text)?;
            let report = fsck(&store, &FsckOptions::default(), &Silent).map_err(text)?;
            Ok(Outcome::Checked(report.verdict))
        }
        Task::Repair => {
            let store = Store::open_to_repair(storage, &Silent).map_err(text)?;
            let options = FsckOptions { repair: true, ..FsckOptions::default() };
            let report = fsck(&store, &options, &Silent).map_err(text)?;
            Ok(Outcome::Checked(report.verdict))
        }
    }
}

fn task(random: &mut Random) -> Task {
    let name = *random.pick(&NAMES);
    match random.index(12) {
        0..=4 => Task::Import { name, disk: random.index(DISKS), verify: random.once_in(4) },
        5 | 6 => Task::Read { name, newest: random.once_in(2) },
        7 | 8 => Task::Remove { name },
        9 | 10 => Task::Collect,
        _ if random.once_in(3) => Task::Repair,
        _ => Task::Check,
    }
}

/// Makes disks from a few parts, so that they share most of their contents.
fn disks(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut random = Random(7);
    let parts: Vec<Vec<u8>> =
        (0..PARTS).map(|i| mif_tests::disk::noise(i as u8 + 1, 20_000 + 1000 * i)).collect();
    (0..DISKS)
        .map(|i| {
            let mut disk = vec![0; DISK];
            for window in disk.chunks_mut(WINDOW) {
                let part = random.pick(&parts);
                window[..part.len()].copy_from_slice(part);
            }
            let path = folder.join(format!("{i}.raw"));
            std::fs::write(&path, &disk).unwrap();
            (path, disk)
        })
        .collect()
}

struct Tally {
    steps: u64,
    rounds: u64,
    images: u64,
    faults: u64,
    rot: u64,
    digest: u64,
}

/// Plays one seed. Panics if an invariant is broken.
fn play(seed: u64, kind: Kind, disks: &[(PathBuf, Vec<u8>)], tally: &mut Tally) {
    let mut random = Random(seed);
    let mut world = World::new(disks, kind);
    for _ in 0..8 {
        round(&mut world, &mut random, tally);
    }
}

fn round(world: &mut World, random: &mut Random, tally: &mut Tally) {
    tally.rounds += 1;
    let good_before = world.good();
    let turns = Arc::new(Turns::default());
    let mut work: Vec<Task> = (0..1 + random.index(4)).map(|_| task(random)).collect();
    // Sometimes two import the same disk at a time, which makes two copies of each object.
    if let (Some(Task::Import { disk, .. }), true) = (work.first().cloned(), random.once_in(3)) {
        let name: &'static str = NAMES[random.index(NAMES.len())];
        work.push(Task::Import { name, disk, verify: false });
    }
    // An import that finds objects which gc is about to remove; or a reader of an image that is being removed.
    let name = *random.pick(&NAMES);
    match random.index(6) {
        0 | 1 if !world.left_over.is_empty() => {
            let disk = *random.pick(&world.left_over);
            work = vec![Task::Import { name, disk, verify: false }, Task::Collect, task(random)];
        }
        2 => {
            let read = Task::Read { name, newest: false };
            work = vec![Task::Remove { name }, read.clone(), read, Task::Collect];
        }
        _ => {}
    }
    let tasks: Vec<(Task, Option<(usize, Fault)>)> = work
        .into_iter()
        .map(|task| {
            let fault = *random.pick(&[Fault::Fails, Fault::LosesReply, Fault::Dies, Fault::DiesAfter]);
            (task, random.once_in(3).then(|| (random.index(60), fault)))
        })
        .collect();
    turns.state().alive = tasks.len();
    let done: Vec<Done> = std::thread::scope(|scope| {
        let actors: Vec<_> = tasks
            .into_iter()
            .enumerate()
            .map(|(actor, (task, after))| {
                let plan = Arc::new(Mutex::new(Plan { after, is_dead: false, happened: false }));
                let seen =
                    Seen { actor, memory: world.memory.clone(), turns: turns.clone(), plan: plan.clone() };
                let (turns, disks, slept) = (turns.clone(), &world.disks, Arc::new(AtomicBool::new(false)));
                let (sim, planted) = (world.sim.clone(), world.planted);
                scope.spawn(move || {
                    turns.wait(actor, "begins", &format!("{task:?}"));
                    let storage: Arc<dyn Storage> = match &sim {
                        Some(sim) => SeenBlobs::bucket(seen, sim, slept.clone(), planted),
                        None => Arc::new(seen),
                    };
                    let work = AssertUnwindSafe(|| mif::with_threads(1, || perform(&task, storage, disks)));
                    let result = std::panic::catch_unwind(work);
                    turns.end(actor);
                    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    let plan = plan.lock().unwrap();
                    let result = (!plan.is_dead).then_some(result);
                    Done { task, result, disturbed: plan.happened || slept.load(Ordering::Relaxed) }
                })
            })
            .collect();
        turns.run(random);
        actors.into_iter().map(|actor| actor.join().expect("no actor panics")).collect()
    });
    {
        let state = turns.state();
        tally.steps += state.operations;
        tally.digest = tally.digest.rotate_left(9) ^ state.digest;
        for line in &state.trace {
            println!("    {line}");
        }
    }
    tally.faults += done.iter().filter(|done| done.disturbed).count() as u64;
    settle(world, &done, &good_before);
    check(world);
    if random.once_in(4) {
        let only_gone = rot(world, random);
        tally.rot += 1;
        if only_gone && random.once_in(2) {
            import_into_rotten(world, random.index(DISKS));
        }
        check_rotten(world, random.once_in(2));
    }
    tally.images = tally.images.max(world.images.len() as u64);
}

/// Applies the actors' results to the expected state.
fn settle(world: &mut World, done: &[Done], good_before: &HashSet<ObjectId>) {
    let mut uncertain_removals = BTreeSet::new();
    let mut attempted = world.attempted.clone();
    let mut published: BTreeMap<Key, usize> = BTreeMap::new();
    let mut removed = BTreeSet::new();
    for done in done {
        match (&done.task, &done.result) {
            (Task::Import { name, disk, .. }, Some(Ok(Outcome::Imported(id)))) => {
                published.insert(key(id), *disk);
                attempted.entry((*name).to_owned()).or_default().insert(*disk);
            }
            (Task::Import { name, disk, .. }, result) => {
                attempted.entry((*name).to_owned()).or_default().insert(*disk);
                if world.sim.is_some() {
                    world.attempted.entry((*name).to_owned()).or_default().insert(*disk);
                }
                assert!(
                    done.disturbed || world.is_rotten,
                    "an import failed and nothing was wrong: {:?}",
                    result.as_ref().map(|r| r.as_ref().err())
                );
            }
            (Task::Remove { .. }, Some(Ok(Outcome::Removed(ids)))) => {
                removed.extend(ids.iter().map(|id| key(id)));
            }
            (Task::Remove { name }, _) => {
                uncertain_removals.insert(*name);
            }
            (Task::Check | Task::Repair, Some(Ok(Outcome::Checked(verdict)))) => {
                let is_sound = match verdict {
                    Verdict::Whole => true,
                    // Unreadable files are not reported as damaged.
                    Verdict::Unreadable => done.disturbed,
                    _ => false,
                };
                assert!(is_sound || world.is_rotten, "fsck finds damage: {verdict:?}");
            }
            (task, Some(Err(error))) => {
                assert!(done.disturbed || world.is_rotten, "{task:?} failed and nothing was wrong: {error}");
            }
            _ => {}
        }
    }
    for done in done {
        if let Some(Ok(Outcome::Read(Some((id, bytes))))) = &done.result {
            let id = key(id);
            let is_known = world.images.get(&id).is_some_and(|known| known == bytes);
            let is_new = attempted
                .get(&*id.0)
                .is_some_and(|disks| disks.iter().any(|disk| world.disks[*disk].1 == *bytes));
            assert!(is_known || is_new, "{id:?} was read with bytes that nobody imported");
        }
    }
    for (id, disk) in &published {
        assert!(!world.gone.contains(id), "{id:?} was removed, and its number is given again");
        world.images.insert(id.clone(), world.disks[*disk].1.clone());
    }
    for id in removed {
        let bytes = world.images.remove(&id);
        if let Some(disk) = world.disks.iter().position(|(_, disk)| bytes.as_ref() == Some(disk)) {
            world.left_over.retain(|other| *other != disk);
            world.left_over.push(disk);
            let old = world.left_over.len().saturating_sub(3);
            world.left_over.drain(..old);
        }
        world.needs.remove(&id);
        world.gone.insert(id);
    }
    let store = world.store();
    let there: BTreeSet<Key> = NAMES
        .iter()
        .flat_map(|name| {
            store.versions(name).unwrap().into_iter().map(|version| ((*name).to_owned(), version))
        })
        .collect();
    // A failed removal may or may not have removed them.
    world.images.retain(|id, _| there.contains(id) || !uncertain_removals.contains(&*id.0));
    // A failed import may have published them nevertheless.
    for id in &there {
        if !world.images.contains_key(id) {
            let bytes = world.read(&store, id).expect("a published image can be read");
            let disks = attempted.get(&*id.0).into_iter().flatten();
            let is_one = disks.into_iter().any(|disk| world.disks[*disk].1 == bytes);
            assert!(is_one || uncertain_removals.contains(&*id.0), "{id:?} is there, and nobody made it");
            world.images.insert(id.clone(), bytes);
        }
    }
    // No verb drops the last good copy of an object that an image needs.
    let good = world.good();
    for (id, needs) in &world.needs {
        if !world.images.contains_key(id) {
            continue;
        }
        for object in &needs.objects {
            assert!(
                !good_before.contains(object) || good.contains(object),
                "{id:?} needs {object}, of which the last good copy is gone"
            );
        }
    }
    let ids: Vec<Key> = world.images.keys().cloned().collect();
    for id in ids {
        if !world.needs.contains_key(&id)
            && let Ok(needs) = world.needs_of(&store, &id)
        {
            world.needs.insert(id, needs);
        }
    }
    world.needs.retain(|id, _| world.images.contains_key(id));
}

/// Checks the invariants while no actor is active.
fn check(world: &mut World) {
    let storage = world.storage();
    let verdict = mif::with_threads(1, || {
        let store = Store::open(storage, &Silent).unwrap();
        fsck(&store, &FsckOptions::default(), &Silent).unwrap()
    });
    let store = world.store();
    let mut whole = true;
    for (id, bytes) in &world.images {
        match world.read(&store, id) {
            Ok(read) => assert!(read == *bytes, "{id:?} has other bytes"),
            Err(error) => {
                assert!(world.is_rotten, "{id:?} cannot be read, and nothing has rotted: {error}");
                whole = false;
            }
        }
    }
    if verdict.verdict == Verdict::Whole {
        assert!(whole, "fsck says whole, and not every image can be read");
    } else {
        assert!(
            world.is_rotten,
            "fsck finds damage, and nothing has rotted: {:?} {:?}",
            verdict.problems, verdict.lost
        );
    }
}

/// Imports a disk into a store with missing or truncated files. An import that succeeds must not depend on any of
/// these.
fn import_into_rotten(world: &mut World, disk: usize) {
    let options =
        ImportOptions { name: Some(NAMES[0].to_owned()), new_version: true, ..ImportOptions::default() };
    let imported = mif::with_threads(1, || {
        import(&Store::open(world.storage(), &Silent)?, &world.disks[disk].0, &options, &Silent)
    });
    let Ok(report) = imported else { return };
    let (id, store) = (key(&report.image), world.store());
    let bytes = world.disks[disk].1.clone();
    assert!(world.read(&store, &id).as_ref() == Ok(&bytes), "{id:?} was imported, and cannot be read");
    if let Ok(needs) = world.needs_of(&store, &id) {
        world.needs.insert(id.clone(), needs);
    }
    world.images.insert(id, bytes);
}

/// Damages a file or two behind the store's back; returns true if they are only missing or truncated.
fn rot(world: &mut World, random: &mut Random) -> bool {
    let mut only_gone = true;
    for _ in 0..1 + random.index(2) {
        // Packs are chosen more often than their number suggests: they cannot be rebuilt.
        let only_packs = random.once_in(2);
        let files: Vec<(String, Arc<Vec<u8>>)> = world
            .memory
            .files()
            .into_iter()
            .filter(|(key, _)| !only_packs || key.starts_with("packs/"))
            .collect();
        if files.is_empty() {
            break;
        }
        let (key, bytes) = random.pick(&files).clone();
        let mut spoilt = bytes.to_vec();
        let bytes = match random.index(4) {
            0 => None,
            1 => {
                spoilt.truncate(random.index(spoilt.len().max(1)));
                Some(spoilt)
            }
            _ => {
                only_gone = false;
                if let Some(byte) = (!spoilt.is_empty()).then(|| random.index(spoilt.len())) {
                    spoilt[byte] ^= 1 << random.index(8);
                }
                Some(spoilt)
            }
        };
        if VERBOSE.get().is_some() {
            println!("    rot {key}");
        }
        world.memory.set(&key, bytes);
    }
    world.is_rotten = true;
    // A removed number is remembered only as long as its record exists.
    let files = world.memory.files();
    world
        .gone
        .retain(|(name, version)| files.contains_key(&format!("removed/name={name}/version={version}")));
    only_gone
}

/// Checks the invariants after rot: fsck notices it, gc loses nothing, and a repair restores everything that it can.
fn check_rotten(world: &mut World, collect: bool) {
    // A valid header with other contents may be a newer program's, so nobody overwrites it.
    let header = world.memory.files().get("store.json").cloned();
    let is_header = |bytes: &Arc<Vec<u8>>| {
        let json = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
        json["kind"].is_string() && json["format"].is_u64() && json["features"].is_array()
    };
    if header.as_ref().is_some_and(is_header) {
        world.memory.set("store.json", Some(header_of_an_empty_store()));
    }
    let good = world.good();
    let mendable: Vec<Key> =
        world.images.keys().filter(|id| world.can_be_whole(id, &good)).cloned().collect();
    let check = |store: &Store| fsck(store, &FsckOptions::default(), &Silent).unwrap();
    let before = match Store::open(world.storage(), &Silent) {
        Ok(store) => {
            let report = mif::with_threads(1, || check(&store));
            let findable = world.good_and_indexed();
            let unread = world.images.iter().find(|(id, bytes)| match world.read(&store, id) {
                Ok(read) => {
                    assert!(read == **bytes, "{id:?} has other bytes, and no error");
                    false
                }
                Err(error) => {
                    let readable = world.can_be_read(id, &findable);
                    assert!(!readable, "{id:?} has all that it needs, and cannot be read: {error}");
                    true
                }
            });
            assert!(
                report.verdict != Verdict::Whole || unread.is_none(),
                "fsck says whole, and {:?} cannot be read",
                unread.map(|(id, _)| id)
            );
            Some(report.verdict)
        }
        Err(_) => None,
    };
    if collect && let Ok(store) = Store::open_to_remove(world.storage(), &Silent) {
        // It may refuse, because it cannot read what images need; but it removes nothing of value.
        let _ = mif::with_threads(1, || gc(&store, &GcOptions::default(), &Silent));
        drop(store);
        let left = world.good();
        for (id, needs) in &world.needs {
            for object in needs.objects.iter().filter(|object| good.contains(*object)) {
                assert!(left.contains(object), "{id:?} needs {object}, and gc dropped its last good copy");
            }
        }
    }
    let repaired = mif::with_threads(1, || {
        let store = Store::open_to_repair(world.storage(), &Silent).ok()?;
        let options = FsckOptions { repair: true, ..FsckOptions::default() };
        Some(fsck(&store, &options, &Silent).unwrap())
    });
    let Some(repaired) = repaired else {
        // Without packs or images a store cannot be recognised.
        let files = world.memory.files();
        let has = |top: &str| files.keys().any(|key| key.starts_with(top));
        assert!(!has("packs/") || !has("images/"), "a store without a header is not repaired");
        let header = header_of_an_empty_store();
        world.memory.set("store.json", Some(header));
        return forget_lost(world);
    };
    let store = world.store();
    for id in &mendable {
        let read = world.read(&store, id);
        assert!(
            read.as_ref() == Ok(&world.images[id]),
            "{id:?} could be made whole, and was not ({before:?}, {:?}): {:?}; {:?}",
            repaired.verdict,
            read.err(),
            repaired.problems
        );
    }
    drop(store);
    forget_lost(world);
}

/// Returns the header of an empty store.
fn header_of_an_empty_store() -> Vec<u8> {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    drop(Store::create(storage, &Silent).unwrap());
    memory.files()["store.json"].to_vec()
}

/// Removes what is permanently lost, so that the store is whole again.
fn forget_lost(world: &mut World) {
    let store = world.store();
    let lost: Vec<Key> = world
        .images
        .iter()
        .filter(|(id, _)| world.read(&store, id).is_err())
        .map(|(id, _)| id.clone())
        .collect();
    drop(store);
    let store = Store::open_to_remove(world.storage(), &Silent).unwrap();
    let vanished = NAMES.iter().flat_map(|name| {
        let store = &store;
        let known = world.images.keys().filter(move |(of, _)| of == name);
        known.map(|(_, version)| (*name, *version)).filter(move |(name, version)| {
            store.versions(name).is_ok_and(|versions| !versions.contains(version))
        })
    });
    let vanished: Vec<Key> = vanished.map(|(name, version)| (name.to_owned(), version)).collect();
    for (name, version) in lost.into_iter().chain(vanished).collect::<BTreeSet<_>>() {
        let _ = rm(&store, &[format!("{name}@{version}").parse().unwrap()], FORCED);
        world.images.remove(&(name.clone(), version));
        world.needs.remove(&(name, version));
    }
    drop(store);
    let report = mif::with_threads(1, || {
        let store = Store::open_to_repair(world.storage(), &Silent).unwrap();
        let report = fsck(&store, &FsckOptions { repair: true, ..FsckOptions::default() }, &Silent).unwrap();
        gc(&store, &GcOptions::default(), &Silent).unwrap();
        report
    });
    if report.verdict == Verdict::Whole {
        world.is_rotten = false;
    } else {
        // An image that is only known from a record.
        let store = Store::open_to_remove(world.storage(), &Silent).unwrap();
        for lost in &report.lost {
            let _ = rm(&store, &[lost.image.parse().unwrap()], FORCED);
            world.images.remove(&key(&lost.image));
        }
        drop(store);
        let store = Store::open_to_repair(world.storage(), &Silent).unwrap();
        let again = fsck(&store, &FsckOptions { repair: true, ..FsckOptions::default() }, &Silent).unwrap();
        assert!(
            again.verdict == Verdict::Whole,
            "what is lost was removed, and the store is not whole: {:?} {:?}",
            again.problems,
            again.lost
        );
        world.is_rotten = false;
    }
}

/// Plays seeds for so many seconds, or the one that `MIF_MODEL_SEED` names.
fn play_for(seconds: u64, kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let disks = disks(folder.path());
    let mut tally = Tally { steps: 0, rounds: 0, images: 0, faults: 0, rot: 0, digest: 0 };
    if let Some(seed) = std::env::var_os("MIF_MODEL_SEED") {
        VERBOSE.set(()).unwrap();
        return play(seed.to_string_lossy().parse().unwrap(), kind, &disks, &mut tally);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (seconds, first) =
        (number("MIF_MODEL_SECONDS").unwrap_or(seconds), number("MIF_MODEL_FIRST").unwrap_or(1));
    let started = Instant::now();
    let mut seed = first;
    while started.elapsed() < Duration::from_secs(seconds) {
        let play = AssertUnwindSafe(|| play(seed, kind, &disks, &mut tally));
        if let Err(panic) = std::panic::catch_unwind(play) {
            eprintln!("seed {seed}: MIF_MODEL_SEED={seed} replays it");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
    println!(
        "{} seeds, {} rounds, {} steps, {} faults, {} times rot",
        seed - first,
        tally.rounds,
        tally.steps,
        tally.faults,
        tally.rot
    );
}

#[test]
fn no_order_of_events_loses_what_was_published() {
    play_for(SECONDS, Kind::Directory);
}

#[test]
fn no_order_of_events_loses_what_was_published_in_a_bucket() {
    play_for(BUCKET_SECONDS, Kind::Bucket(None));
}

/// Plays seeds with a fault in the protocol until one of them breaks an invariant.
fn finds(planted: Planted) {
    let folder = tempfile::tempdir().unwrap();
    let disks = disks(folder.path());
    let started = Instant::now();
    for seed in 1.. {
        assert!(started.elapsed() < PLANTED, "the model does not find {planted:?}");
        let mut tally = Tally { steps: 0, rounds: 0, images: 0, faults: 0, rot: 0, digest: 0 };
        let play = AssertUnwindSafe(|| play(seed, Kind::Bucket(Some(planted)), &disks, &mut tally));
        if std::panic::catch_unwind(play).is_err() {
            println!("{planted:?}: found by seed {seed}");
            return;
        }
    }
}

#[test]
fn the_model_finds_the_clock_of_a_machine_in_the_protocol_of_buckets() {
    finds(Planted::MachineClock);
}

#[test]
fn the_model_finds_a_publisher_that_does_not_look_at_its_lease() {
    finds(Planted::NoRenewal);
}

#[test]
fn the_model_finds_a_removal_that_does_not_list_images_again() {
    finds(Planted::NoListing);
}

#[test]
fn a_seed_gives_the_same_events_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let disks = disks(folder.path());
    let digest = |seed, kind| {
        let mut tally = Tally { steps: 0, rounds: 0, images: 0, faults: 0, rot: 0, digest: 0 };
        play(seed, kind, &disks, &mut tally);
        (tally.steps, tally.digest)
    };
    for seed in [3, 4, 5] {
        for kind in [Kind::Directory, Kind::Bucket(None)] {
            assert_eq!(digest(seed, kind), digest(seed, kind), "seed {seed}");
        }
    }
}
