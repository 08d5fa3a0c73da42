//! The result of packing a window of the disk: the clusters to write.

use std::ops::Range;

use crate::container::codec::Packer;
use crate::error::at;

/// A part of the disk to be written, in guest order.
pub(super) struct Piece {
    /// The number of its first cluster on the disk.
    pub(super) cluster: u64,
    pub(super) kind: PieceKind,
    /// With extended L2 entries: the subcluster bitmap of each cluster.
    pub(super) bitmaps: Vec<u64>,
}

pub(super) enum PieceKind {
    /// One or more clusters stored unchanged: the range of their bytes in the batch. The disk's last cluster may be
    /// short.
    Stored(Range<usize>),
    /// One compressed cluster: the range of its bytes in the batch.
    Packed(Range<usize>),
    /// One cluster of zeros over a backing file, without bytes.
    Zero,
}

/// The result of packing a window.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
}

impl Batch {
    /// Adds one cluster, compressed if that makes it smaller.
    pub(super) fn pack(&mut self, packer: &Packer, bytes: &[u8], cluster: usize, mut piece: Piece) {
        let start = self.bytes.len();
        // The disk's last cluster may be short; a compressed one is always whole.
        let whole;
        let block = match bytes.len() == cluster {
            true => bytes,
            false => {
                whole = [bytes, &vec![0; cluster - bytes.len()]].concat();
                &whole
            }
        };
        match packer.pack(block, &mut self.bytes, cluster - 1) {
            Some(len) => {
                piece.kind = PieceKind::Packed(start..start + len);
                // Compressed clusters have no subclusters.
                piece.bitmaps.fill(0);
            }
            None => {
                self.bytes.extend_from_slice(block);
                piece.kind = PieceKind::Stored(start..start + cluster);
            }
        }
        self.pieces.push(piece);
    }
}

/// Returns the error for options that ask for more than the header can hold.
pub(super) fn too_large(what: &str) -> crate::error::Error {
    at("writing qcow2").limit(what.to_owned())
}
