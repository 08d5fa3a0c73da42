//! The capabilities of files on a filesystem.

/// The capabilities of files on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The filesystem's name in messages: `ext`, `FAT`.
    pub name: &'static str,
    /// True if files have owners, modes, hard links, symlinks, extended attributes and a time of change.
    pub is_posix: bool,
    /// True if names that differ only in case are the same.
    pub ignores_case: bool,
    /// The first and the last time that a file can have, in seconds since 1970.
    pub times: (i64, i64),
    /// The resolution of modification times, in nanoseconds.
    pub time_step: u64,
    /// True if files may share bytes of the volume without being damaged.
    pub shares_extents: bool,
    /// True if the filesystem has subvolumes.
    pub has_subvolumes: bool,
    /// True if files may have named streams besides their content.
    pub has_streams: bool,
    /// True if mif can plan and write the filesystem.
    pub is_planned: bool,
    /// The flags that users can set, among [`Node::flags`](super::Node::flags).
    pub user_flags: u32,
    /// The flags of a new regular file, and of a new directory.
    pub new_flags: [u32; 2],
    /// The longest label in bytes.
    pub label_max: usize,
    /// Directories that a new volume has besides its root, with their modes.
    pub made_with: &'static [(&'static str, u16)],
}

impl Capabilities {
    /// The capabilities of a volume whose filesystem is not supported, and which cannot be edited.
    pub const UNKNOWN: Capabilities = Capabilities {
        name: "an unknown filesystem",
        is_posix: true,
        ignores_case: false,
        times: (i64::MIN, i64::MAX),
        time_step: 1,
        shares_extents: false,
        has_subvolumes: false,
        has_streams: false,
        is_planned: false,
        user_flags: 0,
        new_flags: [0, 0],
        label_max: 0,
        made_with: &[],
    };

    /// Returns the flags of a new node.
    #[must_use]
    pub fn flags_of_new(&self, is_directory: bool) -> u32 {
        self.new_flags[usize::from(is_directory)]
    }
}
