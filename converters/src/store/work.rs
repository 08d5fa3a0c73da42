//! Work that many processes divide among themselves: by number, or by what each takes.
//!
//! ```text
//! work/<run>/workers/<id>    held by each process that takes part in the run
//! work/<run>/held/<item>     held by the process that works on the item
//! work/<run>/done/<item>     the item is done
//! ```
//!
//! Nothing here protects an image: two processes that work on the same item cost time and nothing else. So `gc` may
//! remove a run at any moment, and an item whose process died is simply taken again.

use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;
use std::sync::Arc;

use mif_formats::text::hex;

use super::Store;
use super::record::ImageName;
use super::storage::{Lock, Storage};
use crate::error::{Error, Result};
use crate::task::progress::{self, Progress};

const WORK: &str = "work";
const WORKERS: &str = "workers";
const HELD: &str = "held";
const DONE: &str = "done";

/// The directories of a run, in the order in which they are removed.
pub(super) const PARTS: [&str; 3] = [DONE, HELD, WORKERS];

/// One of several shards, written `INDEX/COUNT`: a fixed share of the items, chosen by a hash of each item's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The number of this shard, from 0.
    index: u64,
    /// How many there are.
    count: u64,
}

impl Shard {
    /// All items.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Returns shard `index` of `count`.
    pub(crate) fn new(index: u64, count: u64) -> Self {
        assert!(index < count, "a shard is one of them");
        Shard { index, count }
    }

    /// Returns the number of this shard, from 0.
    pub(crate) fn index(self) -> u64 {
        self.index
    }

    /// Returns true if an item with this name is in this shard. It is in exactly one of all shards, whatever other
    /// items there are.
    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        let hash = blake3::hash(name.as_bytes());
        let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        self.count == 1 || number % self.count == self.index
    }
}

impl Default for Shard {
    fn default() -> Self {
        Shard::WHOLE
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        /// More machines than anybody has.
        const MOST: u64 = 1 << 20;
        let wrong = |why: &str| {
            Error::usage(format!("invalid shard \"{text}\": {why}"))
                .advise("Pass INDEX/COUNT, such as 0/4 for the first of four; the last of four is 3/4")
        };
        let digits =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let numbers = text.split_once('/').and_then(|(index, count)| digits(index).zip(digits(count)));
        match numbers {
            None => Err(wrong("expected two numbers with a slash between them")),
            Some((_, count)) if count == 0 || count > MOST => {
                Err(wrong(&format!("there can be 1 to {MOST} shards")))
            }
            Some((index, count)) if index >= count => Err(wrong("shards are numbered from 0")),
            Some((index, count)) => Ok(Shard { index, count }),
        }
    }
}

/// A part in work that several processes do together. Ends when it is dropped.
pub(crate) struct Run {
    storage: Arc<dyn Storage>,
    folder: String,
    random: u64,
    _worker: Lock,
}

/// The result of taking an item.
pub(crate) enum Taken {
    /// This process works on it.
    Mine(Item),
    /// Another process works on it.
    Busy,
    /// It is done.
    Done,
}

/// Fails unless `name` can be that of a run. An empty one is that of a variable that is not set, whose run would be another
/// one each time.
fn check_run(name: &str) -> Result<()> {
    if ImageName::is_valid(name) {
        return Ok(());
    }
    Err(Error::usage(format!("invalid name of a run \"{name}\""))
        .advise("It may contain letters, digits and . _ + -. For a run without a name, pass --claim alone"))
}

/// An item that this process works on, until this is dropped.
pub(crate) struct Item {
    storage: Arc<dyn Storage>,
    done: String,
    _held: Lock,
}

impl Store {
    /// Takes part in work of this `kind`. Processes that give the same `name` work together, and an item that was done
    /// under a name is not done again. Without a name, all who do such work at the same time work together, and the
    /// work begins anew if nobody is at it.
    pub(crate) fn join(&self, kind: &str, name: Option<&str>, progress: &dyn Progress) -> Result<Run> {
        let folder = match name {
            Some(name) => {
                check_run(name)?;
                format!("{WORK}/{kind}.{name}")
            }
            None => format!("{WORK}/{kind}"),
        };
        let failed = |e: std::io::Error| self.storage.error(&folder, &e);
        let start = format!("{folder}/{HELD}/.start");
        let _start = loop {
            if let Some(start) = self.storage.hold(&start).map_err(failed)? {
                break start;
            }
            progress::check(progress)?;
            self.storage.pause();
        };
        if name.is_none() && !is_worked_on(&*self.storage, &folder).map_err(failed)? {
            let done = format!("{folder}/{DONE}");
            for item in self.storage.list(&done).map_err(failed)? {
                self.storage.delete(&format!("{done}/{item}")).map_err(failed)?;
            }
        }
        let random = self.storage.random().map_err(failed)?;
        let id = hex(&random[..16]);
        let worker = self.storage.hold(&format!("{folder}/{WORKERS}/{id}")).map_err(failed)?;
        let _worker = worker.ok_or_else(|| Error::store(format!("{folder}: a random name is taken")))?;
        let random = u64::from_le_bytes(random[16..24].try_into().expect("eight bytes"));
        Ok(Run { storage: self.storage.clone(), folder, random, _worker })
    }

    /// Deletes the files of runs that no process takes part in. Returns their number; a dry run only counts them.
    pub(crate) fn forget_runs(&self, dry_run: bool) -> Result<u64> {
        let mut removed = 0;
        for run in self.list(WORK)? {
            let folder = format!("{WORK}/{run}");
            let failed = |e: std::io::Error| self.storage.error(&folder, &e);
            if is_worked_on(&*self.storage, &folder).map_err(failed)? {
                continue;
            }
            for part in PARTS {
                let part = format!("{folder}/{part}");
                for item in self.list(&part)? {
                    removed += 1;
                    if !dry_run {
                        self.storage.delete(&format!("{part}/{item}")).map_err(failed)?;
                    }
                }
                if !dry_run {
                    self.storage.delete(&part).map_err(failed)?;
                }
            }
            if !dry_run {
                self.storage.delete(&folder).map_err(failed)?;
            }
        }
        Ok(removed)
    }
}

/// Returns true if a process takes part in a run. Forgets those that have died.
fn is_worked_on(storage: &dyn Storage, folder: &str) -> std::io::Result<bool> {
    for worker in storage.list(&format!("{folder}/{WORKERS}"))? {
        let key = format!("{folder}/{WORKERS}/{worker}");
        match storage.hold(&key)? {
            None => return Ok(true),
            Some(_held) => storage.delete(&key)?,
        }
    }
    Ok(false)
}

impl Run {
    /// Takes an item, unless it is done or another process works on it. The name of an item is that of an image.
    pub(crate) fn take(&self, item: &str) -> Result<Taken> {
        let done = format!("{}/{DONE}/{item}", self.folder);
        if self.is_there(&done)? {
            return Ok(Taken::Done);
        }
        let held = format!("{}/{HELD}/{item}", self.folder);
        let taken = self.storage.hold(&held).map_err(|e| self.storage.error(&held, &e))?;
        let Some(_held) = taken else { return Ok(Taken::Busy) };
        // Its last holder may have finished it before giving it up.
        Ok(match self.is_there(&done)? {
            true => Taken::Done,
            false => Taken::Mine(Item { storage: self.storage.clone(), done, _held }),
        })
    }

    /// Returns a number that differs between the processes that take part.
    pub(crate) fn random(&self) -> u64 {
        self.random
    }

    fn is_there(&self, key: &str) -> Result<bool> {
        match self.storage.len(key) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.storage.error(key, &e)),
        }
    }
}

impl Item {
    /// Notes that the item is done, so that no other process does it again.
    pub(crate) fn done(self) -> Result<()> {
        self.storage.put_if_absent(&self.done, b"done\n").map_err(|e| self.storage.error(&self.done, &e))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn each_name_is_in_exactly_one_shard() {
        let shards: Vec<Shard> = (0..7).map(|i| format!("{i}/7").parse().unwrap()).collect();
        let mut counts = [0; 7];
        for n in 0..7000 {
            let name = format!("image-{n}");
            let of: Vec<usize> = (0..7).filter(|i| shards[*i].contains(&name)).collect();
            assert_eq!(of.len(), 1, "{name}");
            counts[of[0]] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert!(Shard::WHOLE.contains("x") && "0/1".parse::<Shard>().unwrap() == Shard::WHOLE);
        // The shard of a name is part of the interface: machines with different versions of mif must agree.
        assert!("0/4".parse::<Shard>().unwrap().contains("web"));
    }

    #[test]
    fn a_shard_that_is_none_is_refused() {
        for bad in [
            "",
            "1",
            "/",
            "1/",
            "/4",
            "4/4",
            "5/4",
            "-1/4",
            "+1/4",
            "0/0",
            "1/2/3",
            "a/b",
            " 1/4",
            "0/2000000",
        ] {
            assert!(bad.parse::<Shard>().is_err(), "{bad:?}");
        }
        let huge = format!("0/{}", u128::MAX);
        assert!(huge.parse::<Shard>().is_err());
    }

    /// Runs a test on each kind of storage that can hold work.
    fn with_each(test: impl Fn(&Store)) {
        let folder = tempfile::tempdir().unwrap();
        test(&Store::open_or_create(folder.path(), &Silent).unwrap());
        let memory: Arc<dyn Storage> = Arc::new(crate::store::Memory::new());
        test(&Store::open_or_create(memory, &Silent).unwrap());
    }

    #[test]
    fn an_item_is_taken_by_one_and_done_once() {
        with_each(|store| {
            let [a, b] = [(); 2].map(|()| store.join("import", None, &Silent).unwrap());
            let Taken::Mine(item) = a.take("web").unwrap() else { panic!("nobody has it") };
            assert!(matches!(b.take("web").unwrap(), Taken::Busy));
            assert!(matches!(b.take("db").unwrap(), Taken::Mine(_)));
            item.done().unwrap();
            assert!(matches!(a.take("web").unwrap(), Taken::Done));
            assert!(matches!(b.take("web").unwrap(), Taken::Done));
            // It was given up without being done.
            assert!(matches!(a.take("db").unwrap(), Taken::Mine(_)));
        });
    }

    #[test]
    fn work_without_a_name_begins_anew_when_all_have_left() {
        with_each(|store| {
            let done = |run: &Run| match run.take("web").unwrap() {
                Taken::Mine(item) => item.done().map(|()| true).unwrap(),
                Taken::Busy | Taken::Done => false,
            };
            let first = store.join("verify", None, &Silent).unwrap();
            assert!(done(&first));
            assert!(!done(&store.join("verify", None, &Silent).unwrap()));
            assert!(done(&store.join("export", None, &Silent).unwrap()), "other work");
            drop(first);
            assert!(done(&store.join("verify", None, &Silent).unwrap()));
            let named = || store.join("verify", Some("nightly"), &Silent).unwrap();
            assert!(done(&named()));
            assert!(!done(&named()));
            assert!(store.join("verify", Some("../x"), &Silent).is_err());
        });
    }

    #[test]
    fn runs_that_nobody_takes_part_in_are_forgotten() {
        with_each(|store| {
            let old = store.join("verify", Some("old"), &Silent).unwrap();
            let Taken::Mine(item) = old.take("web").unwrap() else { panic!() };
            item.done().unwrap();
            drop(old);
            let current = store.join("verify", Some("current"), &Silent).unwrap();
            let Taken::Mine(_item) = current.take("web").unwrap() else { panic!() };
            assert_eq!(store.forget_runs(true).unwrap(), 1);
            assert_eq!(store.forget_runs(false).unwrap(), 1);
            assert_eq!(store.list(WORK).unwrap(), ["verify.current"]);
            assert!(matches!(current.take("web").unwrap(), Taken::Busy));
        });
    }
}
