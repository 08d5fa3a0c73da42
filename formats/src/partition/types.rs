//! Types of partitions that this project knows by name: GUIDs of a GPT (UEFI specification, table 5.7; The Discoverable
//! Partitions Specification), and numbers of an MBR.

use super::Partition;

/// Linux data.
pub const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
/// Swap.
pub const SWAP: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
/// Microsoft's basic data: FAT, NTFS and exFAT.
pub const BASIC_DATA: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
/// GRUB's core image for a BIOS.
pub const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// An EFI system partition.
pub const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// An EFI system partition in an MBR.
pub const ESP_IN_MBR: &str = "0xef";

impl Partition {
    /// Returns true if it is an EFI system partition.
    #[must_use]
    pub fn is_esp(&self) -> bool {
        [ESP, ESP_IN_MBR].contains(&self.type_id.as_str())
    }
}
