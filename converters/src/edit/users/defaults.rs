//! What the image gives new accounts: login.defs(5), and the defaults of useradd(8).

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// The settings of new accounts.
pub(super) struct Defaults {
    /// `/etc/login.defs`, and whether the image has it.
    login: Vec<(String, String)>,
    has_login: bool,
    /// `/etc/default/useradd`.
    useradd: Vec<(String, String)>,
}

impl Defaults {
    pub(super) fn read(files: &Files) -> Result<Self> {
        // A system whose own configuration is in /usr, as openSUSE's.
        let path = ["/etc/login.defs", "/usr/etc/login.defs"].into_iter().find(|path| files.is_file(path));
        let login = path.map_or(Ok(String::new()), |path| files.text(path))?;
        let words = |line: &str| {
            let (key, value) = line.trim().split_once(char::is_whitespace)?;
            Some((key.to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        let pairs = |line: &str| {
            let (key, value) = line.trim().split_once('=')?;
            Some((key.to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        let useradd = files.text("/etc/default/useradd")?;
        Ok(Defaults {
            login: login.lines().filter_map(words).collect(),
            has_login: path.is_some(),
            useradd: useradd.lines().filter_map(pairs).collect(),
        })
    }

    /// Returns a setting of login.defs.
    pub(super) fn login(&self, key: &str) -> Option<&str> {
        value(&self.login, key)
    }

    /// Returns a setting of useradd that is not empty.
    pub(super) fn useradd(&self, key: &str) -> Option<&str> {
        value(&self.useradd, key).filter(|value| !value.is_empty())
    }

    /// Returns a number of login.defs: decimal, octal or hexadecimal, as strtoul(3) reads it. `None` if it is not set,
    /// or negative, which disables it.
    pub(super) fn number(&self, key: &str) -> Result<Option<u32>> {
        let Some(text) = self.login(key).filter(|text| !text.starts_with('-')) else { return Ok(None) };
        let number = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
            (Some(hex), _) => u32::from_str_radix(hex, 16),
            (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8),
            _ => text.parse(),
        };
        number
            .map(Some)
            .map_err(|_| Error::input(format!("/etc/login.defs: {key} is not a number: \"{text}\"")))
    }

    /// Returns true if a new user gets a group of its own.
    pub(super) fn own_group(&self) -> bool {
        // Without login.defs, as in Alpine, adduser gives one too.
        self.login("USERGROUPS_ENAB").map_or(!self.has_login, |value| value.eq_ignore_ascii_case("yes"))
    }

    /// Returns the mode of a new home directory.
    pub(super) fn home_mode(&self) -> Result<u16> {
        let mode = match self.number("HOME_MODE")? {
            Some(mode) => mode,
            None => 0o777 & !self.number("UMASK")?.unwrap_or(0o022),
        };
        Ok((mode & 0o7777) as u16)
    }

    /// Returns the range of automatic ids, `what` being `UID` or `GID`.
    pub(super) fn range(&self, what: &str, system: bool) -> Result<RangeInclusive<u32>> {
        let number = |key: String, default: u32| Ok::<_, Error>(self.number(&key)?.unwrap_or(default));
        let first = number(format!("{what}_MIN"), 1000)?;
        let (low, high) = if system {
            let below = first.saturating_sub(1);
            (number(format!("SYS_{what}_MIN"), 101)?, number(format!("SYS_{what}_MAX"), below)?)
        } else {
            (first, number(format!("{what}_MAX"), 60000)?)
        };
        if low > high {
            return Err(Error::input(format!(
                "/etc/login.defs: the range of {what}s is empty: {low} to {high}"
            )));
        }
        Ok(low..=high)
    }
}

/// Returns the last value of a key: later lines replace earlier ones.
fn value<'t>(pairs: &'t [(String, String)], key: &str) -> Option<&'t str> {
    pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Returns the id that useradd(8) would take: after the highest one that is used in the range, or for a system account
/// before the lowest; else the first that is free.
pub(super) fn free_id(used: &[u32], range: &RangeInclusive<u32>, system: bool) -> Option<u32> {
    let is_free = |id: &u32| range.contains(id) && !used.contains(id);
    let inside = || used.iter().copied().filter(|id| range.contains(id));
    if system {
        let next = inside().min().map_or(Some(*range.end()), |lowest| lowest.checked_sub(1));
        return next.filter(is_free).or_else(|| range.clone().rev().find(is_free));
    }
    let next = inside().max().map_or(Some(*range.start()), |highest| highest.checked_add(1));
    next.filter(is_free).or_else(|| range.clone().find(is_free))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(login: &str) -> Defaults {
        let pairs = login.lines().filter_map(|line| line.split_once(' '));
        let login = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Defaults { login, has_login: true, useradd: Vec::new() }
    }

    #[test]
    fn the_mode_of_a_home_is_home_mode_or_what_the_umask_leaves() {
        assert_eq!(defaults("UMASK 027\nHOME_MODE 0700").home_mode().unwrap(), 0o700);
        assert_eq!(defaults("UMASK 027").home_mode().unwrap(), 0o750);
        assert_eq!(defaults("").home_mode().unwrap(), 0o755);
        assert!(defaults("UMASK 9").home_mode().is_ok_and(|mode| mode == 0o766));
        assert!(defaults("UMASK 09").home_mode().is_err());
    }

    #[test]
    fn an_id_follows_those_in_use_and_gaps_are_last() {
        assert_eq!(free_id(&[0, 998, 1000, 65534], &(1000..=60000), false), Some(1001));
        assert_eq!(free_id(&[1000, 60000], &(1000..=60000), false), Some(1001));
        assert_eq!(free_id(&[0, 33, 998], &(101..=999), true), Some(997));
        assert_eq!(free_id(&[], &(101..=999), true), Some(999));
        assert_eq!(free_id(&[101], &(101..=999), true), Some(999));
        assert_eq!(free_id(&[5, 6], &(5..=6), false), None);
        assert_eq!(free_id(&[u32::MAX], &(u32::MAX..=u32::MAX), false), None);
    }

    #[test]
    fn system_ids_end_where_those_of_users_begin() {
        assert_eq!(defaults("UID_MIN 500").range("UID", true).unwrap(), 101..=499);
        assert_eq!(defaults("SYS_GID_MIN 201\nSYS_GID_MAX 300").range("GID", true).unwrap(), 201..=300);
        assert!(defaults("UID_MIN 10\nUID_MAX 5").range("UID", false).is_err());
    }
}
