//! Hashes and key derivation: PBKDF2 and Argon2, within a budget.

use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use crate::error::{Result, at};

/// The most memory that Argon2 may use, in KiB: 2 GiB. cryptsetup chooses at most 1 GiB by itself, and
/// RFC 9106 recommends 2 GiB (<https://github.com/secureblue/secureblue/issues/2526>).
pub(crate) const MAX_MEMORY: u32 = 2 << 20;

/// The work that opening a volume may take, in rounds of PBKDF2: minutes on a slow machine. cryptsetup chooses a cost of two
/// seconds for each key slot.
const MAX_WORK: u64 = 1 << 28;

/// The rounds of PBKDF2 that take as long as Argon2 takes for 1 KiB.
const ROUNDS_PER_KIB: u64 = 4;

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Finds a hash function by the name that the kernel has for it. `field` is where the name is.
    pub(super) fn named(name: &str, field: &'static str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sha1" => Hash::Sha1,
            "sha224" => Hash::Sha224,
            "sha256" => Hash::Sha256,
            "sha384" => Hash::Sha384,
            "sha512" => Hash::Sha512,
            _ => {
                let problem = format!(
                    "mif does not have the hash {name:?}; it has sha1, sha224, sha256, sha384 and sha512"
                );
                return Err(at("LUKS header").field(field).unsupported(problem));
            }
        })
    }

    /// Returns the length of a digest in bytes.
    pub(super) fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// Returns the digest of the `parts`, one after another.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        fn of<D: sha2::Digest>(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            Zeroizing::new(digest.finalize().to_vec())
        }
        match self {
            Hash::Sha1 => of::<Sha1>(parts),
            Hash::Sha224 => of::<Sha224>(parts),
            Hash::Sha256 => of::<Sha256>(parts),
            Hash::Sha384 => of::<Sha384>(parts),
            Hash::Sha512 => of::<Sha512>(parts),
        }
    }
}

/// The work that is left for opening the volumes of a disk. A header can claim any cost, so that the sum is limited.
#[derive(Debug)]
pub struct Budget {
    rounds: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { rounds: MAX_WORK }
    }
}

impl Budget {
    #[cfg(test)]
    pub(super) fn of(rounds: u64) -> Self {
        Budget { rounds }
    }

    /// Takes `rounds` from it, or fails. `what` is what would take them.
    fn take(&mut self, rounds: u64, what: impl FnOnce() -> String) -> Result<()> {
        match self.rounds.checked_sub(rounds) {
            Some(left) => {
                self.rounds = left;
                Ok(())
            }
            None => Err(at("LUKS header").limit(format!(
                "{}, more work than mif does to open the volumes of a disk ({} rounds of PBKDF2 are left of {MAX_WORK})",
                what(),
                self.rounds
            ))),
        }
    }
}

/// A function that makes a key from a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kdf {
    Pbkdf2 {
        hash: Hash,
        iterations: u32,
        salt: Vec<u8>,
    },
    Argon2 {
        /// True for Argon2id, false for Argon2i.
        is_id: bool,
        time: u32,
        /// In KiB.
        memory: u32,
        lanes: u32,
        salt: Vec<u8>,
    },
}

impl Kdf {
    /// Fills `out` with the key that `secret` gives.
    pub(super) fn derive(&self, secret: &[u8], out: &mut [u8], budget: &mut Budget) -> Result<()> {
        match self {
            Kdf::Pbkdf2 { hash, iterations, salt } => pbkdf2(*hash, secret, salt, *iterations, out, budget),
            Kdf::Argon2 { is_id, time, memory, lanes, salt } => {
                let place = |field| at("LUKS header").field(field);
                if *memory > MAX_MEMORY {
                    let problem =
                        format!("Argon2 needs {memory} KiB of memory, and mif gives it at most {MAX_MEMORY}");
                    return Err(place("memory").limit(problem));
                }
                let work = u64::from(*time) * u64::from(*memory) * ROUNDS_PER_KIB;
                budget.take(work, || format!("Argon2 needs {time} passes over {memory} KiB"))?;
                argon2(*is_id, [*time, *memory, *lanes], secret, salt, out)
            }
        }
    }
}

/// Fills `out` by PBKDF2.
pub(super) fn pbkdf2(
    hash: Hash,
    secret: &[u8],
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
    budget: &mut Budget,
) -> Result<()> {
    if iterations == 0 {
        return Err(at("LUKS header").field("iterations").corrupt("is 0, expected 1 at least"));
    }
    let work = u64::from(iterations) * out.len().div_ceil(hash.len()) as u64;
    budget.take(work, || format!("PBKDF2 needs {iterations} iterations"))?;
    match hash {
        Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, iterations, out),
        Hash::Sha224 => pbkdf2::pbkdf2_hmac::<Sha224>(secret, salt, iterations, out),
        Hash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, iterations, out),
        Hash::Sha384 => pbkdf2::pbkdf2_hmac::<Sha384>(secret, salt, iterations, out),
        Hash::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(secret, salt, iterations, out),
    }
    Ok(())
}

/// Fills `out` by Argon2 with the costs time, memory in KiB, and lanes.
fn argon2(
    is_id: bool,
    [time, memory, lanes]: [u32; 3],
    secret: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> Result<()> {
    use argon2::{Algorithm, Argon2, Block, Params, Version};
    let place = || at("LUKS header").field("kdf");
    let corrupt =
        |e: argon2::Error| place().corrupt(format!("Argon2 does not work with these parameters: {e}"));
    let params = Params::new(memory, time, lanes, Some(out.len())).map_err(corrupt)?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| {
        place().limit(format!("Argon2 needs {memory} KiB of memory, which this machine does not have"))
    })?;
    blocks.resize(params.block_count(), Block::default());
    let algorithm = if is_id { Algorithm::Argon2id } else { Algorithm::Argon2i };
    Argon2::new(algorithm, Version::V0x13, params)
        .hash_password_into_with_memory(secret, salt, out, &mut blocks)
        .map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// RFC 6070, and RFC 9106 without its secret and associated data (from the reference implementation's test.c).
    #[test]
    fn keys_are_those_of_the_specifications() {
        let mut out = [0; 20];
        pbkdf2(Hash::Sha1, b"password", b"salt", 4096, &mut out, &mut Budget::default()).unwrap();
        assert_eq!(hex(&out), "4b007901b765489abead49d926f721d065a429c1");
        let kdf = Kdf::Argon2 { is_id: true, time: 2, memory: 256, lanes: 1, salt: b"somesalt".to_vec() };
        let mut out = [0; 32];
        kdf.derive(b"password", &mut out, &mut Budget::default()).unwrap();
        assert_eq!(hex(&out), "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
    }

    #[test]
    fn work_and_memory_are_limited() {
        let mut out = [0; 64];
        let mut refused =
            |kdf: Kdf, budget: &mut Budget| kdf.derive(b"x", &mut out, budget).unwrap_err().kind();
        let salt = vec![0; 32];
        let slow = Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: 1 << 31, salt: salt.clone() };
        assert_eq!(refused(slow, &mut Budget::default()), ErrorKind::Limit);
        let never = Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: 0, salt: salt.clone() };
        assert_eq!(refused(never, &mut Budget::default()), ErrorKind::Corrupt);
        // 4 TiB, and what fits into memory with too many passes.
        let argon2 =
            |time, memory, lanes| Kdf::Argon2 { is_id: false, time, memory, lanes, salt: salt.clone() };
        for kdf in [argon2(1, u32::MAX, 1), argon2(1 << 20, 1 << 20, 4), argon2(u32::MAX, MAX_MEMORY, 4)] {
            assert_eq!(refused(kdf, &mut Budget::default()), ErrorKind::Limit);
        }
        for kdf in [argon2(0, 64, 1), argon2(1, 7, 1), argon2(1, 64, 0), argon2(1, 64, u32::MAX)] {
            assert_eq!(refused(kdf, &mut Budget::default()), ErrorKind::Corrupt);
        }
        // Many slots that are each within the limit.
        let mut budget = Budget { rounds: 5 };
        let one = Kdf::Pbkdf2 { hash: Hash::Sha512, iterations: 3, salt };
        one.derive(b"x", &mut [0; 64], &mut budget).unwrap();
        assert_eq!(refused(one, &mut budget), ErrorKind::Limit);
    }

    #[test]
    fn a_hash_that_mif_does_not_have_is_named() {
        for name in ["ripemd160", "whirlpool", "", "SHA3-256"] {
            let error = Hash::named(name, "hash_spec").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
