//! LUKS, versions 1 and 2: volumes that are encrypted, and open with a key. Reading only.
//!
//! ```text
//! LUKS1   header │ key slots 0 to 7 │ payload ...
//! LUKS2   header and JSON │ a copy of both │ key slots │ payload ...
//! ```
//!
//! Specifications: "LUKS1 On-Disk Format Specification" 1.2.3 and "LUKS2 On-Disk Format Specification" 1.1.2 of cryptsetup.
//! A key slot holds the volume's key, split into stripes and encrypted with a key that a passphrase gives; a digest tells
//! whether what came out is the volume's key. All that a header claims is bounded: memory and work for the passphrase
//! ([`Budget`]), stripes, and the sizes of the JSON and of the key slots.
//!
//! Not read: ciphers besides AES, dm-integrity, volumes that are being encrypted or decrypted, payloads without their header
//! (`cryptsetup --header`), and self-encrypting drives (OPAL).

mod cipher;
mod hash;
mod key;
mod locked;
mod payload;
mod read;
mod split;
mod v1;
mod v2;
mod v2_json;

pub(crate) use self::cipher::Cipher;
pub use self::hash::Budget;
pub use self::key::Passphrase;
pub use self::locked::{Header, Info};
pub use self::payload::Plaintext;

/// What a LUKS volume begins with.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

#[cfg(test)]
mod tests;
