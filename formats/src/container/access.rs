//! Read access to files beyond their owner, so that output is not more readable than its source.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

/// The users who may read something besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    All,
    /// The members of this group.
    Group(u32),
    /// Nobody.
    Owner,
}

impl Access {
    /// Returns who may read an open file. With an access control list the mode's group bits are not the group's real
    /// permissions, so the group is then left out.
    pub(super) fn of_file(file: &File, meta: &Metadata) -> Self {
        let has_acl = rustix::fs::fgetxattr(file, ACL, &mut [0u8; 0][..]).is_ok();
        match Self::of_mode(meta.mode(), 0o4, meta.gid()) {
            Access::Group(_) if has_acl => Access::Owner,
            access => access,
        }
    }

    /// Returns who may list a directory with this mode and group, and open its entries.
    #[must_use]
    pub fn of_directory(mode: u32, gid: u32) -> Self {
        Self::of_mode(mode, 0o5, gid)
    }

    /// Returns the classes that have all of `bits`. If the group lacks some that all others have, its members are shut
    /// out, so this is not [`Access::All`].
    fn of_mode(mode: u32, bits: u32, gid: u32) -> Self {
        let has = |shift: u32| mode >> shift & bits == bits;
        match (has(3), has(0)) {
            (true, true) => Access::All,
            (true, false) => Access::Group(gid),
            (false, _) => Access::Owner,
        }
    }

    /// Returns the access that both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Access::All, access) | (access, Access::All) => access,
            (Access::Group(a), Access::Group(b)) if a == b => self,
            _ => Access::Owner,
        }
    }

    /// Returns the mode of a new file with group `gid` under this umask.
    fn mode_of(self, gid: u32, umask: u32) -> u32 {
        let wanted = match self {
            Access::All => 0o666,
            Access::Group(group) if group == gid => 0o660,
            Access::Group(_) | Access::Owner => 0o600,
        };
        wanted & !umask
    }

    /// Sets the mode of a new file that only its owner can read so far. Removes an access control list inherited from
    /// the directory, which could let others in.
    pub(super) fn apply(self, file: &File) -> std::io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fremovexattr(file, ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
        let mode = self.mode_of(file.metadata()?.gid(), umask());
        Ok(rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode))?)
    }
}

/// The attribute that holds a file's access control list on Linux.
const ACL: &str = "system.posix_acl_access";

/// Returns the process's umask. The system call that reads it also changes it, which other threads would notice, so
/// this reads `/proc`. If that fails, only the owner gets access.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_readable_by_no_class_that_could_not_read_the_source() {
        let of = |mode: u32, gid: u32| Access::of_mode(mode, 0o4, 7).mode_of(gid, 0o022);
        assert_eq!([of(0o644, 7), of(0o644, 8)], [0o644, 0o644]);
        assert_eq!([of(0o640, 7), of(0o640, 8)], [0o640, 0o600]);
        assert_eq!([of(0o600, 7), of(0o400, 7), of(0o604, 7), of(0o620, 7)], [0o600; 4]);
        assert_eq!(Access::of_mode(0o640, 0o4, 7).mode_of(7, 0o077), 0o600, "the umask counts");
        assert_eq!(Access::of_mode(0o100_754, 0o5, 7), Access::Group(7));
        assert_eq!(Access::of_mode(0o100_744, 0o5, 7), Access::Owner);
    }

    #[test]
    fn of_several_sources_the_least_readable_counts() {
        let (all, group, other, owner) = (Access::All, Access::Group(1), Access::Group(2), Access::Owner);
        assert_eq!([all.and(group), group.and(all), group.and(group)], [group; 3]);
        assert_eq!([group.and(other), owner.and(all), owner.and(group)], [owner; 3]);
        assert_eq!(all.and(all), all);
    }
}
