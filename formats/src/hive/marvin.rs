//! Marvin32, the checksum of log entries.

use crate::bytes::le32;

/// The seed of the registry.
const SEED: u64 = 0x82EF_4D88_7A4E_55C5;

/// Returns the checksum of some bytes.
pub(super) fn marvin(bytes: &[u8]) -> u64 {
    let mut state = (SEED as u32, (SEED >> 32) as u32);
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    // The bytes after the last word, and a bit that says how many there are.
    let mut end = [0; 4];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    for word in words.map(|word| le32(word, 0)).chain([u32::from_le_bytes(end), 0]) {
        state = mix(state.0.wrapping_add(word), state.1);
    }
    u64::from(state.1) << 32 | u64::from(state.0)
}

fn mix(mut a: u32, mut b: u32) -> (u32, u32) {
    b ^= a;
    a = a.rotate_left(20).wrapping_add(b);
    b = b.rotate_left(9) ^ a;
    a = a.rotate_left(27).wrapping_add(b);
    (a, b.rotate_left(19))
}
