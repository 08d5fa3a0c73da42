//! What stores behind a network share: the threads for requests, the cache on this machine, reads of packs by blocks,
//! and messages without credentials.

mod blocks;
mod cache;
#[cfg(feature = "remote")]
mod redact;

pub(super) use self::blocks::{Blocks, Ranges};
pub(super) use self::cache::Cache;
#[cfg(feature = "remote")]
pub(super) use self::{
    redact::Redact,
    remote::{cache, is_yes, redact, runtime, variables},
};

#[cfg(feature = "remote")]
mod remote {
    use std::ffi::OsString;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use tokio::runtime::Runtime;

    use super::{Cache, Redact};
    use crate::error::{Error, Result};

    /// The default limit of the cache on this machine, in bytes.
    const CACHE: u64 = 1 << 30;

    /// Returns the variables of the environment whose values are text.
    pub(in crate::store) fn variables() -> impl Iterator<Item = (String, String)> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
    }

    /// Returns true if the value of a variable switches something on.
    pub(in crate::store) fn is_yes(value: &str) -> bool {
        ["true", "1", "yes", "on"].contains(&&*value.to_lowercase())
    }

    /// Returns what keeps the secrets of the environment out of messages.
    pub(in crate::store) fn redact() -> Redact {
        Redact::new(variables())
    }

    /// Returns the cache that the environment describes.
    pub(in crate::store) fn cache() -> Result<Cache> {
        cache_of(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn cache_of(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Cache> {
        let limit = match variable("MIF_CACHE_SIZE") {
            None => CACHE,
            Some(text) => text.to_str().and_then(parse_size).ok_or_else(|| {
                Error::usage("MIF_CACHE_SIZE: is not a size in bytes, or with the suffix K, M, G or T")
            })?,
        };
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Ok(base.map_or_else(Cache::none, |base| Cache::new(base.join("mif"), limit)))
    }

    fn parse_size(text: &str) -> Option<u64> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    }

    /// Returns the threads on which requests run, which all stores share.
    pub(in crate::store) fn runtime() -> Result<&'static Runtime> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        // Fails if there is a provider already, which then serves.
        let _is_there = rustls::crypto::ring::default_provider().install_default();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).thread_name("requests").enable_all().build();
        let runtime = runtime.map_err(|e| Error::store(format!("cannot start threads for requests: {e}")))?;
        Ok(RUNTIME.get_or_init(|| runtime))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_size_of_the_cache_is_a_number_with_a_suffix() {
            let sizes = ["0", "100", "2K", "3M", "1g", "1T"].map(parse_size);
            assert_eq!(sizes, [0, 100, 2 << 10, 3 << 20, 1 << 30, 1 << 40].map(Some));
            for text in ["", "x", "-1", "1.5G", "1GB", "99999999999T"] {
                assert_eq!(parse_size(text), None, "{text}");
            }
            let set = |size: &'static str| {
                cache_of(&move |name: &str| (name == "MIF_CACHE_SIZE").then(|| size.into()))
            };
            assert!(set("much").is_err() && set("1G").is_ok());
        }
    }
}
