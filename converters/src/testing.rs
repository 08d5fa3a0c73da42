//! Test support that both crates share: outside tools, and reproducible damage.

#[path = "../../formats/src/testing/random.rs"]
#[allow(dead_code, unreachable_pub)]
pub(crate) mod random;
#[path = "../../formats/src/testing/tools.rs"]
#[allow(dead_code, unreachable_pub)]
pub(crate) mod tools;
