//! The hashes that order an htree, as described in the kernel's `fs/ext4/hash.c` and in
//! <https://docs.kernel.org/filesystems/ext4/directory.html#hash-tree-directories>.

/// The hash that orders names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashVersion {
    /// 0: the original hash.
    Legacy,
    /// 1: a cut-down MD4 with half of its steps. The default.
    HalfMd4,
    /// 2: the Tiny Encryption Algorithm.
    Tea,
}

impl HashVersion {
    /// Returns the number on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            HashVersion::Legacy => 0,
            HashVersion::HalfMd4 => 1,
            HashVersion::Tea => 2,
        }
    }
}

/// The hash parameters of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hasher {
    pub(super) version: HashVersion,
    /// True if bytes from 0x80 on count as positive numbers.
    pub(super) unsigned: bool,
    /// All zeros mean the algorithm's own seed.
    pub(super) seed: [u32; 4],
}

/// The sort key of a name: its hash, whose lowest bit is clear, and a second hash for ties.
pub(super) type NameHash = (u32, u32);

/// The hash that marks the end of a directory, which no name may have.
const END: u32 = 0xFFFF_FFFE;

impl Hasher {
    pub(super) fn hash(&self, name: &[u8]) -> NameHash {
        let mut state = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
        if self.seed != [0; 4] {
            state = self.seed;
        }
        let (hash, minor) = match self.version {
            HashVersion::Legacy => (self.legacy(name), 0),
            HashVersion::HalfMd4 => {
                for start in (0..name.len()).step_by(32) {
                    half_md4(&mut state, self.words(&name[start..]));
                }
                (state[1], state[2])
            }
            HashVersion::Tea => {
                for start in (0..name.len()).step_by(16) {
                    tea(&mut state, self.words(&name[start..]));
                }
                (state[0], state[1])
            }
        };
        let hash = hash & !1;
        (if hash == END { END - 2 } else { hash }, minor)
    }

    fn byte(&self, byte: u8) -> u32 {
        if self.unsigned { u32::from(byte) } else { i32::from(byte.cast_signed()).cast_unsigned() }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut hash0, mut hash1) = (0x12A3_FE2D_u32, 0x37AB_E8F9_u32);
        for b in name {
            let mut hash = hash1.wrapping_add(hash0 ^ self.byte(*b).wrapping_mul(7_152_373));
            if hash & 0x8000_0000 != 0 {
                hash = hash.wrapping_sub(0x7FFF_FFFF);
            }
            (hash1, hash0) = (hash0, hash);
        }
        hash0 << 1
    }

    /// Returns the first bytes of `rest` as words, padded with a pattern derived from its length.
    fn words<const N: usize>(&self, rest: &[u8]) -> [u32; N] {
        let len = rest.len() as u32;
        let pad = (len | len << 8) | (len | len << 8) << 16;
        let mut words = [pad; N];
        for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
            *word = bytes.iter().fold(pad, |word, b| self.byte(*b).wrapping_add(word << 8));
        }
        words
    }
}

fn half_md4(state: &mut [u32; 4], input: [u32; 8]) {
    const ROUNDS: [(u32, [usize; 8], [u32; 4]); 3] = [
        (0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (0x5A82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (0x6ED9_EBA1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let mut s = *state;
    for (round, (constant, order, shifts)) in ROUNDS.into_iter().enumerate() {
        for (step, word) in order.into_iter().enumerate() {
            let [_, b, c, d] = s;
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = s[0].wrapping_add(mixed).wrapping_add(input[word]).wrapping_add(constant);
            s = [d, sum.rotate_left(shifts[step % 4]), b, c];
        }
    }
    for (old, new) in state.iter_mut().zip(s) {
        *old = old.wrapping_add(new);
    }
}

fn tea(state: &mut [u32; 4], [a, b, c, d]: [u32; 4]) {
    let (mut sum, mut b0, mut b1) = (0u32, state[0], state[1]);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        let mix = |b: u32, low: u32, high: u32| {
            (b << 4).wrapping_add(low) ^ b.wrapping_add(sum) ^ (b >> 5).wrapping_add(high)
        };
        b0 = b0.wrapping_add(mix(b1, a, b));
        b1 = b1.wrapping_add(mix(b0, c, d));
    }
    state[0] = state[0].wrapping_add(b0);
    state[1] = state[1].wrapping_add(b1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether there is a seed, a name, and its hash according to debugfs's `dx_hash`. `long` is a hundred letters.
    const EXPECTED: &[(HashVersion, bool, &str, NameHash)] = &[
        (HashVersion::HalfMd4, true, "hello", (0x5C5F829C, 0x9E5F0421)),
        (HashVersion::HalfMd4, false, "hello", (0x1746DA32, 0x420013B5)),
        (HashVersion::HalfMd4, true, "naïve", (0xE297213C, 0xE26B54E0)),
        (HashVersion::HalfMd4, false, "naïve", (0x1B42012A, 0xFCF9D17A)),
        (HashVersion::HalfMd4, true, "long", (0x5C5F99AE, 0x596F8F0E)),
        (HashVersion::HalfMd4, false, "long", (0x8BB16A28, 0xCBABAA0C)),
        (HashVersion::Tea, true, "hello", (0x7C3668E6, 0x00507FDD)),
        (HashVersion::Tea, false, "hello", (0x6F5BB1A8, 0x231917C2)),
        (HashVersion::Tea, true, "naïve", (0xC59D310C, 0xF04EAF5A)),
        (HashVersion::Tea, false, "naïve", (0x784C5732, 0x901303BE)),
        (HashVersion::Tea, true, "long", (0xE1B96452, 0xDBA77A05)),
        (HashVersion::Tea, false, "long", (0xADEB96AC, 0xE76425E4)),
        (HashVersion::Legacy, false, "hello", (0x32252546, 0x00000000)),
        (HashVersion::Legacy, false, "naïve", (0x442F7420, 0x00000000)),
        (HashVersion::Legacy, false, "long", (0xF50E6D8A, 0x00000000)),
    ];

    #[test]
    fn names_hash_as_debugfs_hashes_them() {
        let long: Vec<u8> = (0..100).map(|i| b'a' + i % 26).collect();
        for (version, seeded, name, expected) in EXPECTED {
            let seed = if *seeded { [0x0102_0304, 0x1111_2222, 0x3333_4444, 0x5555_6666] } else { [0; 4] };
            let hasher = Hasher { version: *version, unsigned: false, seed };
            let bytes = if *name == "long" { &long[..] } else { name.as_bytes() };
            assert_eq!(hasher.hash(bytes), *expected, "{version:?} {seeded} {name}");
        }
    }
}
