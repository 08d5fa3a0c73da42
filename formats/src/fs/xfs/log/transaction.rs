//! Transactions: operations of records, assembled into items, which consist of regions of bytes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::record::{Operations, place};
use crate::bytes::{be32, le16, le32};
use crate::error::Result;

/// The most bytes of all uncommitted transactions.
const PENDING_MAX: usize = 256 << 20;
const OPERATION: usize = 12;
const HEADER_MAGIC: u32 = 0x5452_414E; // TRAN
const HEADER: usize = 16;
/// Regions of the largest item: a buffer of 64 KiB with every other chunk changed.
const REGIONS_MAX: usize = 257;

/// `oh_clientid`.
mod client {
    pub(super) const TRANSACTION: u8 = 0x69;
    pub(super) const LOG: u8 = 0xAA;
}

/// `oh_flags`.
mod flags {
    pub(super) const START: u8 = 1;
    pub(super) const COMMIT: u8 = 2;
    /// The region continues in the next record.
    pub(super) const CONTINUE: u8 = 4;
    /// The region began in the previous record.
    pub(super) const WAS_CONTINUED: u8 = 8;
    pub(super) const END: u8 = 0x10;
    pub(super) const UNMOUNT: u8 = 0x20;
}

/// A transaction.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The sequence number of the record in which it begins.
    pub(super) lsn: u64,
    pub(super) items: Vec<Item>,
    /// The part of the header read so far.
    header: Vec<u8>,
    bytes: usize,
}

/// An item: a format region followed by its data.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) regions: Vec<Vec<u8>>,
    /// The number of regions when complete.
    total: usize,
}

impl Item {
    /// Returns the type of the item.
    pub(super) fn kind(&self) -> u16 {
        le16(&self.regions[0], 0)
    }

    /// Returns true if no region is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.regions.len() == self.total
    }
}

/// The transactions in progress.
#[derive(Default)]
pub(super) struct Transactions {
    pending: HashMap<u32, Transaction>,
    bytes: usize,
}

impl Transactions {
    /// Adds the operations of a record and passes the transactions that they commit to `found`.
    pub(super) fn add(
        &mut self,
        operations: &Operations,
        found: &mut dyn FnMut(Transaction) -> Result<()>,
    ) -> Result<()> {
        let bad = |problem: String| Err(place(operations.sector).corrupt(problem));
        let mut rest = &operations.bytes[..];
        for _ in 0..operations.count {
            if rest.len() < OPERATION {
                return bad(format!("has {} operations, but not room for them", operations.count));
            }
            let (tid, len) = (be32(rest, 0), be32(rest, 4) as usize);
            let (client, flags) = (rest[8], rest[9]);
            let Some(data) = rest[OPERATION..].get(..len) else {
                return bad(format!("an operation of {len} bytes extends past the end"));
            };
            rest = &rest[OPERATION + len..];
            if client != client::TRANSACTION && client != client::LOG {
                return bad(format!("an operation belongs to client {client:#x}"));
            }
            let mut pending = match self.pending.entry(tid) {
                Entry::Occupied(pending) => pending,
                // Transactions that began before the tail are already on the volume.
                Entry::Vacant(vacant) => {
                    if flags & flags::START != 0 {
                        vacant.insert(Transaction { lsn: operations.lsn, ..Transaction::default() });
                    }
                    continue;
                }
            };
            let was_continued = flags & flags::WAS_CONTINUED != 0;
            let ignored = flags::END | if was_continued { flags::CONTINUE } else { 0 };
            match flags & !ignored {
                flags::COMMIT => {
                    let transaction = pending.remove();
                    self.bytes -= transaction.bytes;
                    found(transaction)?;
                }
                flags::UNMOUNT => {
                    self.bytes -= pending.remove().bytes;
                }
                kind @ (0 | flags::CONTINUE | flags::WAS_CONTINUED) => {
                    let transaction = pending.get_mut();
                    let is_good = if kind == flags::WAS_CONTINUED {
                        transaction.go_on(data)
                    } else {
                        transaction.add(data)
                    };
                    if let Err(problem) = is_good {
                        return bad(problem);
                    }
                    transaction.bytes += data.len();
                    self.bytes += data.len();
                    if self.bytes > PENDING_MAX {
                        return Err(place(operations.sector).limit(format!(
                            "transactions of more than {PENDING_MAX} bytes are not committed"
                        )));
                    }
                }
                _ => return bad(format!("an operation has the flags {flags:#x}")),
            }
        }
        Ok(())
    }
}

impl Transaction {
    /// Adds a region, or the start of one. The error describes the problem.
    fn add(&mut self, data: &[u8]) -> Result<(), String> {
        if data.is_empty() {
            return Ok(());
        }
        if self.header.is_empty() {
            return self.add_header(data);
        }
        if let Some(item) = self.items.last_mut().filter(|item| !item.is_whole()) {
            item.regions.push(data.to_vec());
            return Ok(());
        }
        if data.len() < 4 {
            return Err(format!("an item begins with {} bytes", data.len()));
        }
        let total = usize::from(le16(data, 2));
        if total == 0 || total > REGIONS_MAX {
            return Err(format!("an item has {total} regions, expected 1 to {REGIONS_MAX}"));
        }
        self.items.push(Item { regions: vec![data.to_vec()], total });
        Ok(())
    }

    /// Continues the last region or header.
    fn go_on(&mut self, data: &[u8]) -> Result<(), String> {
        if self.items.is_empty() {
            return self.add_header(data);
        }
        let region = self.items.last_mut().and_then(|item| item.regions.last_mut());
        region.expect("an item has a region").extend_from_slice(data);
        Ok(())
    }

    /// Adds a part of the header, which may be split in two.
    fn add_header(&mut self, data: &[u8]) -> Result<(), String> {
        self.header.extend_from_slice(data);
        if self.header.len() > HEADER || self.header.len() < 4 {
            return Err(format!("a transaction has a header of {} bytes", self.header.len()));
        }
        if le32(&self.header, 0) != HEADER_MAGIC {
            return Err(format!("a transaction begins with {:#x}", le32(&self.header, 0)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(flags: u8, data: &[u8]) -> Vec<u8> {
        let len = (data.len() as u32).to_be_bytes();
        [&[0, 0, 0, 7][..], &len, &[client::TRANSACTION, flags, 0, 0], data].concat()
    }

    fn header() -> Vec<u8> {
        [&HEADER_MAGIC.to_le_bytes()[..], &[0; 12]].concat()
    }

    /// Returns the items of the transactions in these records, each a list of operations.
    fn items(records: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<Vec<u8>>>, String> {
        let mut transactions = Transactions::default();
        let mut all = Vec::new();
        for (lsn, operations) in (1..).zip(records) {
            let count = operations.len() as u32;
            let record = Operations { lsn, sector: 9, count, bytes: operations.concat() };
            transactions
                .add(&record, &mut |transaction| {
                    all.extend(transaction.items.into_iter().map(|item| item.regions));
                    Ok(())
                })
                .map_err(|e| e.to_string())?;
        }
        Ok(all)
    }

    #[test]
    fn items_are_put_together_across_records() {
        let first = vec![
            operation(1, &[]),
            operation(0, &header()),
            operation(0, &[0x3C, 0x12, 2, 0, 1, 1]),
            operation(flags::CONTINUE, &[1, 2, 3, 4]),
        ];
        let second = vec![
            operation(flags::WAS_CONTINUED | flags::END, &[5, 6]),
            operation(0, &[0x3B, 0x12, 1, 0]),
            operation(flags::COMMIT, &[]),
            operation(0, b"left over"),
        ];
        let expected =
            vec![vec![vec![0x3C, 0x12, 2, 0, 1, 1], vec![1, 2, 3, 4, 5, 6]], vec![vec![0x3B, 0x12, 1, 0]]];
        assert_eq!(items(&[first.clone(), second]), Ok(expected));
        assert_eq!(items(&[first]), Ok(vec![]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (operations, problem) in [
            (vec![operation(1, &[]), operation(0, &[9; 16])], "a transaction begins with 0x9090909"),
            (vec![operation(1, &[]), operation(0, &[9; 17])], "a header of 17 bytes"),
            (vec![operation(1, &[]), operation(0, &header()), operation(0, &[1, 2, 0, 0])], "has 0 regions"),
            (vec![operation(1, &[]), operation(0, &header()), operation(0, &[1])], "begins with 1 bytes"),
            (vec![operation(1, &[]), operation(1, &[])], "has the flags 0x1"),
            (vec![vec![0; 12]], "belongs to client 0x0"),
            (vec![operation(1, &[])[..11].to_vec()], "not room for them"),
        ] {
            let error = items(&[operations]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
