//! The registry of Windows: its hives, with what their logs have and they lack.

use mif_formats::hive::{Hive, recover};

use crate::error::{Error, Result};
use crate::tree::view::Tree;

/// The hive of programs and of Windows itself.
pub(crate) const SOFTWARE: &str = "SOFTWARE";

/// The directory of the hives of the machine.
const CONFIG: &str = "/Windows/System32/config";

/// The maximum size of a hive or log in bytes, because it is read into memory. `SOFTWARE` has about a hundred megabytes.
const MAX_HIVE: u64 = 256 << 20;

/// The suffixes of logs.
const LOGS: [&str; 2] = [".LOG1", ".LOG2"];

/// Reads a hive. `row` finds the row of a path. Also returns a sentence if recent changes may be missing. `None` if there is no such
/// hive.
pub(crate) fn read(
    name: &str,
    row: impl Fn(&[u8]) -> Option<usize>,
    tree: &Tree,
) -> Result<Option<(Vec<u8>, Option<String>)>> {
    let path = format!("{CONFIG}/{name}");
    let Some(hive) = row(path.as_bytes()) else { return Ok(None) };
    let mut hive = content(tree, hive)?;
    let problem = |error: mif_formats::Error| Error::from(error).within(&path);
    if Hive::parse(&hive).map_err(problem)?.is_clean() {
        return Ok(Some((hive, None)));
    }
    let mut logs = Vec::new();
    for suffix in LOGS {
        if let Some(log) = row(format!("{path}{suffix}").as_bytes()) {
            logs.push(content(tree, log)?);
        }
    }
    let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    let complete = recover(&mut hive, &logs).map_err(problem)?;
    let sentence = format!("{path}: was not written completely, and its logs have not all of the rest");
    Ok(Some((hive, (!complete).then_some(sentence))))
}

/// Returns true if a path is that of a file from which [`SOFTWARE`] is read.
pub(crate) fn is_software(path: &[u8]) -> bool {
    // Called for every path of an image.
    let Some((folder, name)) = path.split_at_checked(CONFIG.len() + 1) else { return false };
    let Some((name, suffix)) = name.split_at_checked(SOFTWARE.len()) else { return false };
    let is_log = || LOGS.iter().any(|log| suffix.eq_ignore_ascii_case(log.as_bytes()));
    name.eq_ignore_ascii_case(SOFTWARE.as_bytes())
        && (suffix.is_empty() || is_log())
        && folder[..CONFIG.len()].eq_ignore_ascii_case(CONFIG.as_bytes())
        && folder.ends_with(b"/")
}

fn content(tree: &Tree, row: usize) -> Result<Vec<u8>> {
    let content = tree.content(row)?;
    let len = content.len();
    if len > MAX_HIVE {
        let path = tree.rows()[row].path_text();
        return Err(Error::unsupported(format!("{path}: has {len} bytes, more than {MAX_HIVE}")));
    }
    Ok(content.read_vec(0, len as usize)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_and_its_logs_are_known_whatever_their_case() {
        for path in ["SOFTWARE", "software.log1", "Software.LOG2"] {
            assert!(is_software(format!("/windows/SYSTEM32/config/{path}").as_bytes()), "{path}");
        }
        for path in ["/Windows/System32/config/SOFTWARE.LOG", "/Windows/System32/config/SYSTEM", "/SOFTWARE"]
        {
            assert!(!is_software(path.as_bytes()), "{path}");
        }
        assert!(!is_software(b"/Windows/System32/config-SOFTWARE"));
    }
}
