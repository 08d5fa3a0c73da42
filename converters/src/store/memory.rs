//! A store in memory, which ends with the process: for tests, and for trial runs that leave no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::container::Access;

use super::storage::{Entries, Lock, Storage, Upload, check_len, is_given};

/// A store in memory. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    /// The number of users by the epoch in which they entered.
    users: BTreeMap<u64, usize>,
    epoch: u64,
    is_locked: bool,
    is_alone: bool,
    /// The keys of files that somebody holds.
    held: BTreeSet<String>,
    /// The number of calls to `random`.
    random: u64,
}

impl Memory {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the files by their keys.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Arc<Vec<u8>>> {
        self.state().files.clone()
    }

    /// Changes a file behind the store's back: `None` removes it.
    pub fn set(&self, key: &str, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => drop(self.state().files.insert(key.to_owned(), Arc::new(bytes))),
            None => drop(self.state().files.remove(key)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while it holds this")
    }

    fn held(&self, give_back: impl Fn(&mut State) + Send + Sync + 'static) -> Lock {
        Lock::new(Held { of: self.clone(), give_back })
    }

    fn file(&self, key: &str) -> io::Result<Arc<Vec<u8>>> {
        self.state().files.get(key).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl State {
    /// Returns the keys in a directory, each with its path relative to the directory.
    fn below<'s>(&'s self, folder: &str) -> impl Iterator<Item = (&'s String, &'s str)> {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let cut = start.len();
        let keys = self.files.range(start.clone()..).map(|(key, _)| key);
        keys.take_while(move |key| key.starts_with(&start)).map(move |key| (key, &key[cut..]))
    }
}

impl Storage for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn access(&self) -> Access {
        Access::Owner
    }

    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = self.file(key)?;
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = part.and_then(|(start, end)| file.get(start..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        let file = self.file(key)?;
        check_len(key, file.len() as u64)?;
        Ok(file.to_vec())
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        Ok(self.file(key)?.len() as u64)
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload { to: self.clone(), key: key.to_owned(), bytes: Vec::new() }))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.set(key, Some(bytes.to_vec()));
        Ok(())
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        let mut state = self.state();
        if state.below(folder).next().is_some() {
            return Ok(false);
        }
        let keyed = files.iter().map(|(name, bytes)| (format!("{folder}/{name}"), Arc::new(bytes.to_vec())));
        state.files.extend(keyed);
        Ok(true)
    }

    fn entries(&self, folder: &str) -> io::Result<Entries> {
        let state = self.state();
        let mut entries = Entries::default();
        let mut folders = BTreeSet::new();
        for (_, rest) in state.below(folder) {
            match rest.split_once('/') {
                Some((name, _)) => drop(folders.insert(name)),
                None => entries.files.push(rest.to_owned()),
            }
        }
        entries.folders = folders.into_iter().map(str::to_owned).collect();
        Ok(entries)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let mut state = self.state();
        let given = |(key, name): (&String, &str)| is_given(name).then(|| key.clone());
        let mut going: Vec<String> = state.below(key).filter_map(given).collect();
        going.push(key.to_owned());
        for key in going {
            state.files.remove(&key);
        }
        Ok(())
    }

    fn rename(&self, key: &str, to: &str) -> io::Result<bool> {
        let mut state = self.state();
        if state.files.contains_key(to) {
            return Ok(false);
        }
        let file = state.files.remove(key).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(true)
    }

    fn prepare(&self, _: Option<u32>) -> io::Result<()> {
        Ok(())
    }

    fn clear(&self, _: bool) -> io::Result<()> {
        self.state().files.clear();
        Ok(())
    }

    fn enter(&self) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        if state.is_alone {
            return Ok(None);
        }
        let epoch = state.epoch;
        *state.users.entry(epoch).or_default() += 1;
        drop(state);
        Ok(Some(self.held(move |state| {
            let users = state.users.get_mut(&epoch).expect("one of them leaves");
            *users -= 1;
            if *users == 0 {
                state.users.remove(&epoch);
            }
        })))
    }

    fn epoch(&self) -> io::Result<u64> {
        Ok(self.state().epoch)
    }

    fn advance(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.epoch += 1;
        Ok(state.epoch)
    }

    fn oldest(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.users.keys().next().copied().unwrap_or(state.epoch))
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        let is_taken = std::mem::replace(&mut self.state().is_locked, true);
        Ok((!is_taken).then(|| self.held(|state| state.is_locked = false)))
    }

    fn alone(&self) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        if state.is_alone || !state.users.is_empty() {
            return Ok(None);
        }
        state.is_alone = true;
        drop(state);
        Ok(Some(self.held(|state| state.is_alone = false)))
    }

    fn hold(&self, key: &str) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        if !state.held.insert(key.to_owned()) {
            return Ok(None);
        }
        state.files.insert(key.to_owned(), Arc::default());
        drop(state);
        let key = key.to_owned();
        Ok(Some(self.held(move |state| {
            state.held.remove(&key);
            state.files.remove(&key);
        })))
    }

    /// Hashes a counter: the same sequence of calls yields the same names, and no name repeats.
    fn random(&self) -> io::Result<[u8; 32]> {
        let mut state = self.state();
        state.random += 1;
        Ok(*blake3::hash(&state.random.to_le_bytes()).as_bytes())
    }
}

/// A lock that is released on drop.
struct Held<F: Fn(&mut State)> {
    of: Memory,
    give_back: F,
}

impl<F: Fn(&mut State)> Drop for Held<F> {
    fn drop(&mut self) {
        (self.give_back)(&mut self.of.state());
    }
}

struct MemoryUpload {
    to: Memory,
    key: String,
    bytes: Vec<u8>,
}

impl Write for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        let MemoryUpload { to, key, bytes } = *self;
        let mut state = to.state();
        if state.files.contains_key(&key) {
            return Ok(false);
        }
        state.files.insert(key, Arc::new(bytes));
        Ok(true)
    }
}
