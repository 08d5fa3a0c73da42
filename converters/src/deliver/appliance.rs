//! An OVA: a tar with the OVF descriptor, the manifest of digests, and the disk, in this order (DMTF DSP0243, 5.3).
//!
//! The disk is written to its place at once. The descriptor, which gives the size of its file, and the manifest are
//! written before it afterwards: the descriptor is padded to a size that is known at the start.

use mif_formats::container::{CreateOptions, Output, OutputFile};
use mif_formats::text::hex;
use sha2::{Digest, Sha256};

use super::archive::{BLOCK, finish, header, write_member};
use super::delivery::Delivery;
use super::ovf::descriptor;
use super::platform::Machine;
use super::settings::Settings;
use crate::error::Result;
use crate::task::progress::{self, Progress};

/// The room for the digits of the file's size, in bytes.
const DIGITS: usize = 20;
/// The longest stem of a member's name, in bytes: a tar header has room for 100.
const MAX_STEM: usize = 80;
/// How many bytes are hashed at once.
const WINDOW: usize = 1 << 20;

/// Writes the OVA.
pub(super) fn write(
    delivery: &Delivery<'_>,
    machine: &Machine,
    settings: &CreateOptions,
    output: &mut Output,
    progress: &dyn Progress,
) -> Result<()> {
    let settings = Settings::new(settings, delivery.system)?;
    let stem = stem(output);
    let (ovf, manifest, disk) = (format!("{stem}.ovf"), format!("{stem}.mf"), format!("{stem}-disk1.vmdk"));
    let text = |size| descriptor(delivery, machine, &settings, &disk, size);
    let ovf_size = (text(0).len() + DIGITS).next_multiple_of(BLOCK as usize);
    let digests = |ovf_digest: &str, disk_digest: &str| {
        format!("SHA256({ovf})= {ovf_digest}\nSHA256({disk})= {disk_digest}\n")
    };
    let digest_of_nothing = hex(&Sha256::digest(b""));
    let manifest_size = digests(&digest_of_nothing, &digest_of_nothing).len() as u64;
    let disk_at = BLOCK + ovf_size as u64 + BLOCK + manifest_size.next_multiple_of(BLOCK) + BLOCK;

    output.around()?;
    output.embed(disk_at, &disk);
    delivery.format.create(delivery.disk, output, delivery.options, progress)?;
    let file = output.around()?;
    let end = file.length()?;
    progress.stage("hashing", end - disk_at);
    let disk_digest = hash(file, disk_at..end, progress)?;
    let mut text = text(end - disk_at).into_bytes();
    // White space may follow the root element.
    text.resize(ovf_size, b'\n');
    let at = write_member(file, 0, &ovf, &text)?;
    let digests = digests(&hex(&Sha256::digest(&text)), &disk_digest);
    let at = write_member(file, at, &manifest, digests.as_bytes())?;
    debug_assert_eq!(at + BLOCK, disk_at);
    file.write_at(at, header(&disk, end - disk_at).as_bytes())?;
    finish(file, end)
}

/// Returns the names' stem: that of the output, if it is plain ASCII and short.
fn stem(output: &Output) -> String {
    let name = output.name().and_then(|name| name.rsplit_once('.')).map_or("", |(stem, _)| stem);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_plain =
        !name.is_empty() && name.len() <= MAX_STEM && !name.starts_with('.') && name.chars().all(plain);
    if is_plain { name.to_owned() } else { "appliance".to_owned() }
}

fn hash(file: &OutputFile, range: std::ops::Range<u64>, progress: &dyn Progress) -> Result<String> {
    let (mut hasher, mut buf, mut at) = (Sha256::new(), vec![0; WINDOW], range.start);
    while at < range.end {
        progress::check(progress)?;
        let part = (range.end - at).min(WINDOW as u64) as usize;
        file.read_at(at, &mut buf[..part])?;
        hasher.update(&buf[..part]);
        at += part as u64;
        progress.advance(part as u64);
    }
    Ok(hex(&hasher.finalize()))
}
