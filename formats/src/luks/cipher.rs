//! The encryption of sectors: AES in the modes XTS and CBC, with the initialization vectors of dm-crypt (the kernel's
//! `drivers/md/dm-crypt.c`).

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use xts_mode::Xts128;

use super::hash::Hash;
use super::key::VolumeKey;
use crate::error::{Result, at};

/// The unit in which initialization vectors count, in bytes, whatever the size of a sector is.
const IV_UNIT: u64 = 512;

/// A cipher without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    chain: Chain,
    iv: Iv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Xts,
    Cbc,
}

/// How the initialization vector of a sector is made of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Iv {
    /// The low 32 bits.
    Plain,
    /// All 64 bits.
    Plain64,
    /// The number, encrypted with the SHA-256 of the key.
    Essiv,
}

impl Spec {
    /// Finds a cipher by the name that the kernel has for it: `aes-xts-plain64`. `field` is where the name is.
    pub(super) fn named(name: &str, field: &'static str) -> Result<Self> {
        let unsupported = |problem: String| Err(at("LUKS header").field(field).unsupported(problem));
        let mut parts = name.splitn(3, '-');
        let (cipher, chain, iv) = (parts.next(), parts.next(), parts.next());
        let refused = || {
            unsupported(format!(
                "mif does not have the cipher {name:?}; it has aes in the modes xts and cbc, with the vectors plain, plain64 \
                 and essiv:sha256"
            ))
        };
        let chain = match (cipher, chain) {
            (Some("aes"), Some("xts")) => Chain::Xts,
            (Some("aes"), Some("cbc")) => Chain::Cbc,
            (Some("cipher_null"), _) => {
                return unsupported(format!(
                    "the cipher is {name:?}: the data is not encrypted, and no key can be checked"
                ));
            }
            _ => return refused(),
        };
        // dm-crypt ignores what follows after the colon where the vector takes no option, as in `xts-plain64:sha256`.
        let iv = match iv {
            Some("essiv:sha256") => Iv::Essiv,
            Some(iv) => match iv.split(':').next() {
                Some("plain") => Iv::Plain,
                Some("plain64") => Iv::Plain64,
                _ => return refused(),
            },
            None => return refused(),
        };
        Ok(Spec { chain, iv })
    }

    /// Returns true if a key may have `len` bytes.
    pub(super) fn takes_key_of(self, len: usize) -> bool {
        match self.chain {
            Chain::Xts => matches!(len, 32 | 64),
            Chain::Cbc => matches!(len, 16 | 24 | 32),
        }
    }
}

/// A cipher with its key, for the sectors of a volume.
pub(crate) struct Cipher {
    iv: Iv,
    keyed: Keyed,
    /// What encrypts the vectors of ESSIV.
    essiv: Option<Box<Aes256>>,
}

/// The modes with the sizes of their keys.
enum Keyed {
    Xts128(Box<Xts128<Aes128>>),
    Xts256(Box<Xts128<Aes256>>),
    Cbc128(Box<Aes128>),
    Cbc192(Box<Aes192>),
    Cbc256(Box<Aes256>),
}

impl Cipher {
    /// Creates it with a key. Fails if the key has a length that the cipher does not take.
    pub(super) fn new(spec: Spec, key: &[u8]) -> Result<Self> {
        fn with<C: KeyInit>(key: &[u8]) -> C {
            C::new_from_slice(key).expect("the length was matched")
        }
        let (first, second) = key.split_at(key.len() / 2);
        let keyed = match (spec.chain, key.len()) {
            (Chain::Xts, 32) => Keyed::Xts128(Box::new(Xts128::new(with(first), with(second)))),
            (Chain::Xts, 64) => Keyed::Xts256(Box::new(Xts128::new(with(first), with(second)))),
            (Chain::Cbc, 16) => Keyed::Cbc128(Box::new(with(key))),
            (Chain::Cbc, 24) => Keyed::Cbc192(Box::new(with(key))),
            (Chain::Cbc, 32) => Keyed::Cbc256(Box::new(with(key))),
            (_, len) => {
                return Err(
                    at("LUKS header").corrupt(format!("a key of {len} bytes does not fit its cipher"))
                );
            }
        };
        let essiv = (spec.iv == Iv::Essiv).then(|| Box::new(with(&Hash::Sha256.digest(&[key]))));
        Ok(Cipher { iv: spec.iv, keyed, essiv })
    }

    /// Creates it with the key of a volume.
    pub(super) fn of_volume(spec: Spec, key: &VolumeKey) -> Result<Self> {
        Self::new(spec, key.bytes())
    }

    /// Decrypts whole sectors of `size` bytes in place. `first` is the number of the first one, in units of 512 bytes.
    pub(crate) fn decrypt(&self, sectors: &mut [u8], size: usize, first: u64) {
        debug_assert!(sectors.len().is_multiple_of(size));
        for (index, sector) in sectors.chunks_exact_mut(size).enumerate() {
            let iv = self.vector(first.wrapping_add(index as u64 * (size as u64 / IV_UNIT)));
            match &self.keyed {
                Keyed::Xts128(xts) => xts.decrypt_sector(sector, Array(iv)),
                Keyed::Xts256(xts) => xts.decrypt_sector(sector, Array(iv)),
                Keyed::Cbc128(aes) => decrypt_cbc(&**aes, sector, iv),
                Keyed::Cbc192(aes) => decrypt_cbc(&**aes, sector, iv),
                Keyed::Cbc256(aes) => decrypt_cbc(&**aes, sector, iv),
            }
        }
    }

    /// Returns the initialization vector of the sector with this number.
    fn vector(&self, number: u64) -> [u8; 16] {
        let mut iv = [0; 16];
        match self.iv {
            Iv::Plain => iv[..4].copy_from_slice(&(number as u32).to_le_bytes()),
            Iv::Plain64 | Iv::Essiv => iv[..8].copy_from_slice(&number.to_le_bytes()),
        }
        if let Some(essiv) = &self.essiv {
            let mut block = Array(iv);
            essiv.encrypt_block(&mut block);
            iv = block.0;
        }
        iv
    }
}

fn decrypt_cbc<C: BlockCipherDecrypt<BlockSize = aes::cipher::consts::U16>>(
    aes: &C,
    sector: &mut [u8],
    iv: [u8; 16],
) {
    let (blocks, _) = Array::slice_as_chunks_mut(sector);
    cbc::Decryptor::inner_iv_init(aes, &Array(iv)).decrypt_blocks(blocks);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn ciphers_have_the_kernels_names() {
        for name in
            ["aes-xts-plain64", "aes-xts-plain", "aes-cbc-essiv:sha256", "aes-cbc-plain64", "aes-cbc-plain"]
        {
            assert!(Spec::named(name, "cipher").is_ok(), "{name}");
        }
        let refused = [
            "serpent-xts-plain64",
            "aes-cbc",
            "aes",
            "",
            "aes-ecb",
            "aes-xts-essiv:md5",
            "aes-xts-benbi",
            "aes-ctr-plain64",
            "aes-cbc-lmk",
            "cipher_null-ecb",
            "capi:xts(aes)-plain64",
            "xchacha12,aes-adiantum-plain64",
            "blowfish-cbc-plain",
        ];
        for name in refused {
            let error = Spec::named(name, "cipher").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    /// https://github.com/hashcat/hashcat/issues/2476: a header may say `xts-plain64:sha256`, and dm-crypt ignores the hash.
    #[test]
    fn an_option_of_a_vector_that_takes_none_is_ignored() {
        let named = |name| Spec::named(name, "cipher").unwrap();
        assert_eq!(named("aes-xts-plain64:sha256"), named("aes-xts-plain64"));
        assert_eq!(named("aes-cbc-plain:x"), named("aes-cbc-plain"));
    }

    #[test]
    fn plain_counts_to_32_bits_and_plain64_goes_on() {
        let vector = |name: &str| {
            let cipher = Cipher::new(Spec::named(name, "cipher").unwrap(), &[7; 32]).unwrap();
            cipher.vector((1 << 32) + 5)[..8].to_vec()
        };
        assert_eq!(vector("aes-xts-plain"), [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(vector("aes-xts-plain64"), [5, 0, 0, 0, 1, 0, 0, 0]);
    }

    /// IEEE 1619-2007, vector 4 (XTS-AES-128, data unit 0).
    #[test]
    fn a_sector_is_that_of_the_standard() {
        let key: Vec<u8> = [
            0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26,
            0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95,
        ]
        .to_vec();
        let cipher = Cipher::new(Spec::named("aes-xts-plain64", "cipher").unwrap(), &key).unwrap();
        let mut block =
            [0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4, 0x76, 0x48, 0x9f, 0x30, 0x8c, 0xd4, 0xcf, 0xa6, 0xe2];
        cipher.decrypt(&mut block, 16, 0);
        assert_eq!(block, std::array::from_fn(|i| i as u8));
    }

    #[test]
    fn a_key_has_a_length_of_its_mode() {
        let xts = Spec::named("aes-xts-plain64", "cipher").unwrap();
        let cbc = Spec::named("aes-cbc-plain64", "cipher").unwrap();
        for len in 0..80 {
            assert_eq!(Cipher::new(xts, &vec![1; len]).is_ok(), xts.takes_key_of(len), "{len}");
            assert_eq!(Cipher::new(cbc, &vec![1; len]).is_ok(), cbc.takes_key_of(len), "{len}");
        }
    }
}
