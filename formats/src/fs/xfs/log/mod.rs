//! The log: metadata changes that were committed but may not have been written in place. Replay computes, in memory,
//! what mounting would write.
//!
//! ```text
//! ring of sectors → records → operations → transactions → items → sectors of the volume
//! ```
//!
//! Record headers are big-endian; their contents have the byte order of the machine that wrote them, which must be
//! little-endian here. The log is described in "XFS Algorithms & Data Structures", chapter "Journaling Log".

use self::apply::{Apply, Replay};
use self::ring::Ring;
use self::transaction::Transactions;
use super::superblock::Superblock;
use crate::error::{Result, at};
use crate::source::Source;

mod apply;
mod head;
mod inode_item;
pub(super) mod intents;
mod memory;
mod record;
mod ring;
mod transaction;

/// Returns the changes that mounting would write, `None` if the volume was unmounted cleanly. Fails where mounting
/// would.
pub(super) fn replay(volume: &dyn Source, sb: &Superblock) -> Result<Option<Replay>> {
    let ring = Ring::new(volume, sb)?;
    let Some(dirty) = head::find(&ring)? else { return Ok(None) };
    if sb.features.has_unknown_log() {
        return Err(at("log").unsupported(format!(
            "holds changes of a kind that mif does not know: sb_features_log_incompat is {:#x}",
            sb.features.log_incompat
        )));
    }
    let mut apply = Apply::new(volume, sb);
    // Buffers that are freed later must not be replayed: their blocks may hold other data by now.
    each_transaction(&ring, &dirty, &mut |transaction| apply.cancel(&transaction))?;
    each_transaction(&ring, &dirty, &mut |transaction| apply.commit(&transaction))?;
    Ok(Some(apply.finish()))
}

/// Passes all committed transactions to `found`, in order.
fn each_transaction(
    ring: &Ring<'_>,
    dirty: &head::Dirty,
    found: &mut dyn FnMut(transaction::Transaction) -> Result<()>,
) -> Result<()> {
    let mut transactions = Transactions::default();
    let mut sector = dirty.tail;
    let mut left = ring.distance(dirty.tail, dirty.head);
    while left > 0 {
        let record = record::read(ring, sector, left)?;
        if !record.fits() && ring.is_v5 {
            return Err(record::place(sector).field("h_crc").corrupt("the record is damaged"));
        }
        record.check_writer(ring)?;
        transactions.add(&record.unpack(), &mut *found)?;
        sector = ring.after(sector, record.sectors());
        left -= record.sectors();
    }
    Ok(())
}
