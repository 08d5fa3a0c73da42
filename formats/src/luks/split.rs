//! The anti-forensic split of a key (LUKS1 On-Disk Format Specification, 2.4): a key as many stripes, all of which are needed.

use zeroize::Zeroizing;

use super::hash::Hash;

/// Returns the key of `len` bytes whose stripes are `split`, one after another.
pub(super) fn merge(split: &[u8], len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; len]);
    let mut stripes = split.chunks_exact(len).peekable();
    while let Some(stripe) = stripes.next() {
        key.iter_mut().zip(stripe).for_each(|(key, stripe)| *key ^= stripe);
        if stripes.peek().is_some() {
            diffuse(&mut key, hash);
        }
    }
    key
}

/// Replaces each part of `block`, which has the length of a digest or less, by the digest of its number and itself.
fn diffuse(block: &mut [u8], hash: Hash) {
    for (number, part) in block.chunks_mut(hash.len()).enumerate() {
        let digest = hash.digest(&[&(number as u32).to_be_bytes(), part]);
        part.copy_from_slice(&digest[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a key as cryptsetup does, with stripes that are not random.
    fn split(key: &[u8], stripes: usize, hash: Hash) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..key.len() * (stripes - 1)).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut block = vec![0; key.len()];
        for stripe in bytes.chunks_exact(key.len()) {
            block.iter_mut().zip(stripe).for_each(|(block, stripe)| *block ^= stripe);
            diffuse(&mut block, hash);
        }
        bytes.extend(block.iter().zip(key).map(|(block, key)| block ^ key));
        bytes
    }

    #[test]
    fn a_key_needs_all_of_its_stripes() {
        for (len, hash) in [(16, Hash::Sha1), (64, Hash::Sha256), (33, Hash::Sha512), (64, Hash::Sha1)] {
            let key: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            for stripes in [1, 2, 4000] {
                let mut bytes = split(&key, stripes, hash);
                assert_eq!(*merge(&bytes, len, hash), key);
                bytes[0] ^= 1;
                assert_ne!(*merge(&bytes, len, hash), key);
            }
        }
    }
}
