//! What a header says, whatever its version, and opening a volume with a passphrase.

use std::ops::Range;
use std::sync::Arc;

use super::cipher::{Cipher, Spec};
use super::hash::{Budget, Hash, Kdf, pbkdf2};
use super::key::{Passphrase, VolumeKey};
use super::payload::{Payload, Plaintext};
use super::split;
use crate::error::{Error, ErrorKind, Result, at};
use crate::source::{Source, check_range};

/// The most stripes of a key: cryptsetup makes 4000.
const MAX_STRIPES: u32 = 1 << 16;

/// The longest key in bytes that a supported cipher takes.
pub(super) const MAX_KEY: usize = 64;

/// What the header of a LUKS volume says to anybody, without a key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Info {
    /// 1 or 2.
    pub version: u8,
    /// The volume's UUID, as text.
    pub uuid: String,
    /// The volume's label, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The cipher as the header names it (`aes-xts-plain64`), supported or not; empty if there is none.
    pub cipher: String,
}

impl Info {
    /// Describes it in a few words: `LUKS2, aes-xts-plain64, UUID 01234567-…`.
    #[must_use]
    pub fn describe(&self) -> String {
        let cipher = if self.cipher.is_empty() { String::new() } else { format!(", {}", self.cipher) };
        let label = self.label.as_ref().map_or_else(String::new, |label| format!(", label {label:?}"));
        format!("LUKS{}{cipher}, UUID {}{label}", self.version, self.uuid)
    }
}

/// The header of a LUKS volume.
#[derive(Debug)]
pub struct Header {
    /// What it says to anybody.
    pub info: Info,
    /// Warnings about the header, as sentences.
    pub warnings: Vec<String>,
    /// What opens it, or why nothing does.
    pub(super) locked: Result<Locked>,
}

/// What opens a volume.
#[derive(Debug)]
pub(super) struct Locked {
    /// The key slots in use, or why they are not, in the order in which they are tried.
    pub(super) slots: Vec<(u32, Result<Slot>)>,
    pub(super) digest: Digest,
    pub(super) payload: Payload,
}

/// A key slot.
#[derive(Debug)]
pub(super) struct Slot {
    /// The length of the volume's key in bytes.
    pub(super) key_len: usize,
    pub(super) kdf: Kdf,
    /// The start of the encrypted stripes in bytes.
    pub(super) start: u64,
    /// How they are encrypted.
    pub(super) spec: Spec,
    /// The length in bytes of the key that they are encrypted with.
    pub(super) spec_key_len: usize,
    pub(super) stripes: u32,
    /// The hash of the split.
    pub(super) hash: Hash,
}

/// What tells whether a key is the volume's.
#[derive(Debug)]
pub(super) struct Digest {
    pub(super) hash: Hash,
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) digest: Vec<u8>,
}

impl Slot {
    /// Checks the sizes in it. Its stripes have to lie within `allowed`.
    pub(super) fn check(self, allowed: Range<u64>) -> Result<Self> {
        let place = || at("LUKS key slot");
        if self.stripes == 0 {
            return Err(place().field("stripes").corrupt("is 0, expected 1 at least"));
        }
        if self.stripes > MAX_STRIPES {
            let problem = format!("is {}, more than {MAX_STRIPES}", self.stripes);
            return Err(place().field("stripes").limit(problem));
        }
        if self.key_len == 0 || self.key_len > MAX_KEY {
            let problem = format!("is {} bytes, expected 1 to {MAX_KEY}", self.key_len);
            return Err(place().field("key_size").corrupt(problem));
        }
        if !self.spec.takes_key_of(self.spec_key_len) {
            let problem = format!("is {} bytes, which its cipher does not take", self.spec_key_len);
            return Err(place().field("key_size").corrupt(problem));
        }
        let end = self.start.checked_add(self.len());
        if self.start < allowed.start || end.is_none_or(|end| end > allowed.end) {
            return Err(place().field("offset").corrupt(format!(
                "{} bytes at {} are not between the header and the payload, which are at {} and {}",
                self.len(),
                self.start,
                allowed.start,
                allowed.end
            )));
        }
        Ok(self)
    }

    /// Returns the length of the stripes in bytes, in whole sectors.
    fn len(&self) -> u64 {
        (self.key_len as u64 * u64::from(self.stripes)).next_multiple_of(512)
    }

    /// Returns the key that a passphrase gives here, which is the volume's only if the digest fits.
    fn recover(
        &self,
        volume: &dyn Source,
        passphrase: &Passphrase,
        budget: &mut Budget,
    ) -> Result<VolumeKey> {
        let mut key = zeroize::Zeroizing::new(vec![0; self.spec_key_len]);
        let len = self.len();
        check_range("LUKS key slot", volume.len(), self.start, len)?;
        self.kdf.derive(passphrase.bytes(), &mut key, budget)?;
        let mut stripes = zeroize::Zeroizing::new(volume.read_vec(self.start, len as usize)?);
        Cipher::new(self.spec, &key)?.decrypt(&mut stripes, 512, 0);
        let used = self.key_len * self.stripes as usize;
        Ok(VolumeKey(split::merge(&stripes[..used], self.key_len, self.hash)))
    }
}

impl Digest {
    fn fits(&self, key: &VolumeKey, budget: &mut Budget) -> Result<bool> {
        let mut found = vec![0; self.digest.len()];
        pbkdf2(self.hash, key.bytes(), &self.salt, self.iterations, &mut found, budget)?;
        Ok(found == self.digest)
    }
}

impl Header {
    /// Opens `volume`, whose header this is, with the first of `passphrases` that a key slot takes.
    ///
    /// # Errors
    ///
    /// - `Denied`: no key slot accepts any of the passphrases;
    /// - `Unsupported`: the header uses a cipher or a feature that mif lacks;
    /// - `Limit`: deriving the key would exceed `budget`;
    /// - `Corrupt`: the payload starts or ends after the end of the volume.
    pub fn open(
        self,
        volume: Arc<dyn Source>,
        passphrases: &[Passphrase],
        budget: &mut Budget,
    ) -> Result<Plaintext> {
        let what = self.info.describe();
        let locked = self.locked?;
        let range = locked.payload.on(volume.len())?;
        let key = locked.unlock(&*volume, passphrases, budget, &what)?;
        let cipher = Cipher::of_volume(locked.payload.spec, &key)?;
        Ok(Plaintext::new(volume, range, &locked.payload, cipher))
    }

    /// Like [`Header::open`], for a header whose payload is elsewhere: returns the cipher of 512-byte sectors.
    pub(crate) fn open_cipher(
        self,
        volume: &dyn Source,
        passphrases: &[Passphrase],
        budget: &mut Budget,
    ) -> Result<Cipher> {
        let what = self.info.describe();
        let locked = self.locked?;
        let key = locked.unlock(volume, passphrases, budget, &what)?;
        Cipher::of_volume(locked.payload.spec, &key)
    }
}

impl Locked {
    /// Returns the volume's key.
    fn unlock(
        &self,
        volume: &dyn Source,
        passphrases: &[Passphrase],
        budget: &mut Budget,
        what: &str,
    ) -> Result<VolumeKey> {
        let mut problems: Vec<Error> = Vec::new();
        let mut untried = Vec::new();
        for passphrase in passphrases {
            for (number, slot) in &self.slots {
                let slot = match slot {
                    Ok(slot) => slot,
                    Err(e) => {
                        untried.push(format!("key slot {number} was not tried: {e}"));
                        continue;
                    }
                };
                let tried = slot.recover(volume, passphrase, budget).and_then(|key| {
                    let fits =
                        self.payload.spec.takes_key_of(slot.key_len) && self.digest.fits(&key, budget)?;
                    Ok(fits.then_some(key))
                });
                match tried {
                    Ok(Some(key)) => return Ok(key),
                    Ok(None) => {}
                    Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                    Err(e) => {
                        untried.push(format!("key slot {number} was not tried: {e}"));
                        problems.push(e);
                    }
                }
            }
        }
        untried.sort();
        untried.dedup();
        let usable = self.slots.iter().any(|(_, slot)| slot.is_ok());
        // With one slot, its problem is the problem.
        if let (1, Some(problem)) = (self.slots.len(), problems.pop()) {
            return Err(problem);
        }
        let mut text = match (passphrases.is_empty(), self.slots.is_empty(), usable) {
            (true, _, _) => {
                format!(
                    "the volume is encrypted ({what}); pass its key with --key-file FILE or --ask-key (and to `mif import --decrypt`, which stores its plaintext)"
                )
            }
            (_, true, _) => format!("the volume ({what}) has no key slot in use, so no key opens it"),
            (_, _, false) => format!("mif cannot use a key slot of the volume ({what})"),
            (_, _, true) => format!("no key opens the volume ({what})"),
        };
        let broken = passphrases.iter().any(Passphrase::ends_in_line_break);
        if usable && !passphrases.is_empty() {
            text += match broken {
                true => {
                    "; a key that was passed ends in a line break, which counts: if the passphrase has none, make its file \
                     with `printf %s`"
                }
                false => {
                    "; all bytes of a key file count: if the passphrase was set from a file that ends in a line break, the \
                     key needs it too"
                }
            };
        }
        for problem in untried.iter().take(4) {
            text += &format!("; {problem}");
        }
        let place = at("LUKS header");
        Err(match passphrases.is_empty() || !usable && !self.slots.is_empty() {
            true => place.unsupported(text),
            false => place.denied(text),
        })
    }
}

/// Returns the text of a field that is padded with zeros.
pub(super) fn padded_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
