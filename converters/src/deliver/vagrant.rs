//! A Vagrant box for the provider libvirt: a tar with `metadata.json`, `info.json`, a `Vagrantfile` and the disk as qcow2.

use mif_formats::container::Output;

use super::archive::{BLOCK, finish, header, write_member};
use super::delivery::Delivery;
use crate::error::Result;
use crate::task::progress::Progress;

/// The unit of `virtual_size`, in bytes.
const GIB: u64 = 1 << 30;
/// The name that vagrant-libvirt looks for.
const DISK: &str = "box.img";
/// It sets nothing that the user's own Vagrantfile would have to undo.
const VAGRANTFILE: &str = "Vagrant.configure(\"2\") do |config|\nend\n";

/// Writes the box.
pub(super) fn write(delivery: &Delivery<'_>, output: &mut Output, progress: &dyn Progress) -> Result<()> {
    let metadata = serde_json::json!({
        "provider": "libvirt",
        "format": "qcow2",
        "virtual_size": delivery.disk.len().div_ceil(GIB),
    });
    // What `vagrant box list --box-info` shows.
    let info = serde_json::json!({
        "image": delivery.image,
        "layout_digest": delivery.layout_digest,
        "made_by": "mif",
        "target": delivery.target,
    });
    let file = output.around()?;
    let at = write_member(file, 0, "metadata.json", format!("{metadata}\n").as_bytes())?;
    let at = write_member(file, at, "info.json", format!("{info}\n").as_bytes())?;
    let at = write_member(file, at, "Vagrantfile", VAGRANTFILE.as_bytes())?;
    output.embed(at + BLOCK, DISK);
    delivery.format.create(delivery.disk, output, delivery.options, progress)?;
    let file = output.around()?;
    let end = file.length()?;
    file.write_at(at, header(DISK, end - at - BLOCK).as_bytes())?;
    finish(file, end)
}
