//! Users and groups of an image, as named in its passwd(5) and group(5).

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// A user of the image.
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// Finds a user in the image's `/etc/passwd`.
pub(crate) fn user(files: &Files, name: &str) -> Result<User> {
    let passwd = files.text("/etc/passwd")?;
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let user = User { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() };
        (found == name).then_some(user)
    });
    found.ok_or_else(|| {
        Error::input(format!("the image has no user \"{name}\" in its /etc/passwd"))
            .advise(format!("Add the user first, with --user {name}"))
    })
}

/// Returns the home directories of all users.
pub(crate) fn homes(files: &Files) -> Result<BTreeSet<String>> {
    let passwd = files.text("/etc/passwd")?;
    let homes = passwd.lines().filter_map(|line| line.split(':').nth(5));
    Ok(homes.filter(|home| home.starts_with('/') && home.len() > 1).map(str::to_owned).collect())
}

/// Finds a group in the image's `/etc/group`.
pub(crate) fn group(files: &Files, name: &str) -> Result<u32> {
    let groups = files.text("/etc/group")?;
    let found = groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, gid, ..] = fields[..] else { return None };
        (found == name).then(|| gid.parse().ok()).flatten()
    });
    found.ok_or_else(|| Error::input(format!("the image has no group \"{name}\" in its /etc/group")))
}
