//! The machines of the targets: the firmware that starts a disk, the controllers that disks are on, the network cards,
//! and where users log in. Each with the page that says so.

use serde::Serialize;

use crate::error::{Error, Result};

/// What starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// A BIOS, or the compatibility module of a UEFI.
    Bios,
    /// UEFI, which finds a program at the removable path, because its own settings are not part of an image.
    Uefi,
}

impl Firmware {
    /// Returns its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "BIOS",
            Firmware::Uefi => "UEFI",
        }
    }
}

/// A kind of disk controller.
#[derive(Debug, Serialize)]
pub struct Controller {
    /// Its name on the command line.
    pub name: &'static str,
    /// The modules of Linux that drive a disk on it; all are needed.
    pub drivers: &'static [&'static str],
    /// The name of the first disk in `/dev`.
    pub device: &'static str,
}

impl Controller {
    /// Returns the name in `/dev` of a partition of the first disk.
    #[must_use]
    pub fn partition(&self, slot: u32) -> String {
        let between = if self.device.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("/dev/{}{between}{slot}", self.device)
    }

    /// Returns the controller of that name.
    pub fn find(name: &str) -> Result<&'static Controller> {
        let names = || CONTROLLERS.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
        let found = CONTROLLERS.iter().find(|it| it.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::usage(format!("{name}: no such disk controller; they are {}", names())))
    }
}

/// A kind of network card.
#[derive(Debug, Serialize)]
pub struct Card {
    /// Its name on the command line.
    pub name: &'static str,
    /// The modules of Linux that drive it; all are needed.
    pub drivers: &'static [&'static str],
}

impl Card {
    /// Returns the network card of that name.
    pub fn find(name: &str) -> Result<&'static Card> {
        let names = || CARDS.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
        let found = CARDS.iter().find(|it| it.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::usage(format!("{name}: no such network card; they are {}", names())))
    }
}

/// The hardware that a target gives a machine.
#[derive(Debug, Serialize)]
pub struct Hardware {
    /// The target, as `export --for` names it.
    pub target: &'static str,
    /// The firmwares that it offers, the default first.
    pub firmware: &'static [Firmware],
    /// The controllers that it offers for the system's disk, by name; the default first.
    pub disks: &'static [&'static str],
    /// Controllers that its UEFI firmware has no driver of.
    pub not_by_uefi: &'static [&'static str],
    /// Controllers that only some builds of its UEFI firmware have a driver of.
    pub unsure_by_uefi: &'static [&'static str],
    /// Controllers whose disks can have logical sectors of 4096 bytes.
    pub large_sectors: &'static [&'static str],
    /// The network cards, by name; the default first.
    pub cards: &'static [&'static str],
    /// True if its users see the system's messages only on the first serial port.
    pub serial: bool,
    /// The data sources of cloud-init that serve it; empty if it has none of its own.
    pub datasources: &'static [&'static str],
    /// What says so: a fact and its page.
    pub sources: &'static [(&'static str, &'static str)],
}

impl Hardware {
    /// Returns the hardware of the target of that name.
    #[must_use]
    pub fn of(target: &str) -> Option<&'static Hardware> {
        HARDWARE.iter().find(|it| it.target == target)
    }
}

const fn controller(
    name: &'static str,
    device: &'static str,
    drivers: &'static [&'static str],
) -> Controller {
    Controller { name, drivers, device }
}

/// Every controller, with its drivers in Linux (the module's name; `drivers/` of the kernel's source has its devices).
static CONTROLLERS: &[Controller] = &[
    controller("virtio-blk", "vda", &["virtio_pci", "virtio_blk"]),
    controller("virtio-scsi", "sda", &["virtio_pci", "virtio_scsi", "sd_mod"]),
    controller("nvme", "nvme0n1", &["nvme"]),
    controller("ahci", "sda", &["ahci", "sd_mod"]),
    controller("ide", "sda", &["ata_piix", "sd_mod"]),
    controller("pvscsi", "sda", &["vmw_pvscsi", "sd_mod"]),
    controller("lsi53c895a", "sda", &["sym53c8xx", "sd_mod"]),
    controller("mptspi", "sda", &["mptspi", "sd_mod"]),
    controller("mptsas", "sda", &["mptsas", "sd_mod"]),
    controller("megasas", "sda", &["megaraid_sas", "sd_mod"]),
    controller("hv_storvsc", "sda", &["hv_vmbus", "hv_storvsc", "sd_mod"]),
    controller("xen-blkfront", "xvda", &["xen-blkfront"]),
];

/// Every network card, with its drivers.
static CARDS: &[Card] = &[
    Card { name: "virtio_net", drivers: &["virtio_pci", "virtio_net"] },
    Card { name: "e1000", drivers: &["e1000"] },
    Card { name: "e1000e", drivers: &["e1000e"] },
    Card { name: "vmxnet3", drivers: &["vmxnet3"] },
    Card { name: "pcnet32", drivers: &["pcnet32"] },
    Card { name: "hv_netvsc", drivers: &["hv_vmbus", "hv_netvsc"] },
    Card { name: "ena", drivers: &["ena"] },
    Card { name: "gve", drivers: &["gve"] },
    Card { name: "xen-netfront", drivers: &["xen-netfront"] },
];

use Firmware::{Bios, Uefi};

const QEMU_DISKS: &[&str] = &[
    "virtio-blk",
    "virtio-scsi",
    "nvme",
    "ahci",
    "ide",
    "pvscsi",
    "lsi53c895a",
    "mptspi",
    "mptsas",
    "megasas",
];
/// OVMF has drivers of these only if it is built with them; by default it is not.
const OVMF_OPTIONS: &[&str] = &["pvscsi", "lsi53c895a", "mptspi", "mptsas"];
/// What OVMF as it is built by default has no driver of.
const OVMF_LACKS: &[&str] = &["pvscsi", "lsi53c895a", "mptspi", "mptsas", "megasas"];
/// Its IDE disks have sectors of 512 bytes; the others have the property `logical_block_size`.
const QEMU_LARGE: &[&str] =
    &["virtio-blk", "virtio-scsi", "nvme", "pvscsi", "lsi53c895a", "mptspi", "mptsas", "megasas"];
const QEMU_CARDS: &[&str] = &["virtio_net", "e1000", "e1000e", "vmxnet3", "pcnet32"];
/// Data sources that need no network.
const LOCAL_SOURCES: &[&str] = &["NoCloud", "ConfigDrive"];
const VMWARE_DISKS: &[&str] = &["mptspi", "mptsas", "pvscsi", "nvme", "ahci", "ide"];
const VMWARE_CONTROLLERS: (&str, &str) = (
    "BusLogic, LSI Logic parallel and SAS, PVSCSI, AHCI and NVMe controllers are offered.",
    "https://knowledge.broadcom.com/external/article/324973",
);
const OVMF: (&str, &str) = (
    "OVMF reads disks on virtio, NVMe, AHCI and IDE; its drivers of PVSCSI, MPT and LSI controllers are built only if that \
     is asked for, and it has none of MegaRAID.",
    "https://github.com/tianocore/edk2/blob/master/OvmfPkg/OvmfPkgX64.dsc",
);

/// A machine of QEMU, as it is or behind another program.
const QEMU_MACHINE: Hardware = Hardware {
    target: "qemu",
    firmware: &[Bios, Uefi],
    disks: QEMU_DISKS,
    not_by_uefi: &["megasas"],
    unsure_by_uefi: OVMF_OPTIONS,
    large_sectors: QEMU_LARGE,
    cards: QEMU_CARDS,
    serial: false,
    datasources: LOCAL_SOURCES,
    sources: &[],
};
/// A machine of VMware.
const VMWARE_MACHINE: Hardware = Hardware {
    target: "vmware-esxi",
    firmware: &[Bios, Uefi],
    disks: VMWARE_DISKS,
    not_by_uefi: &[],
    unsure_by_uefi: &[],
    large_sectors: &[],
    cards: &["vmxnet3", "e1000e", "e1000"],
    serial: false,
    datasources: &["VMware", "OVF"],
    sources: &[],
};

/// The hardware of every target.
pub static HARDWARE: &[Hardware] = &[
    Hardware {
        target: "qemu",
        not_by_uefi: OVMF_LACKS,
        unsure_by_uefi: &[],
        sources: &[
            (
                "SeaBIOS is the default firmware of PCs, and reads every controller here.",
                "https://www.seabios.org/SeaBIOS",
            ),
            OVMF,
        ],
        ..QEMU_MACHINE
    },
    Hardware {
        target: "libvirt",
        sources: &[
            (
                "A domain starts by BIOS unless its XML says `firmware='efi'`.",
                "https://libvirt.org/formatdomain.html#operating-system-booting",
            ),
            OVMF,
        ],
        ..QEMU_MACHINE
    },
    Hardware {
        target: "proxmox",
        disks: &["virtio-scsi", "virtio-blk", "ahci", "ide", "nvme", "pvscsi", "lsi53c895a", "megasas"],
        large_sectors: &[],
        sources: &[(
            "The default BIOS is SeaBIOS, the default controller of the wizard VirtIO SCSI, the network card VirtIO.",
            "https://pve.proxmox.com/pve-docs/chapter-qm.html",
        )],
        ..QEMU_MACHINE
    },
    Hardware {
        target: "virtualbox",
        firmware: &[Bios, Uefi],
        disks: &["ahci", "ide", "mptspi", "mptsas", "virtio-scsi", "nvme"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["e1000", "pcnet32", "virtio_net"],
        serial: false,
        datasources: LOCAL_SOURCES,
        sources: &[(
            "New machines have an AHCI controller; IDE, LsiLogic, LsiLogic SAS, virtio-scsi and NVMe are offered.",
            "https://www.virtualbox.org/manual/ch05.html",
        )],
    },
    Hardware {
        target: "vmware-esxi",
        sources: &[
            (
                "An OVA of mif has an LSI Logic controller and VMXNET3; its firmware is a BIOS if the disk boots by one.",
                "https://www.dmtf.org/sites/default/files/standards/documents/DSP0243_2.1.1.pdf",
            ),
            VMWARE_CONTROLLERS,
        ],
        ..VMWARE_MACHINE
    },
    Hardware {
        target: "vmware-workstation",
        cards: &["e1000", "vmxnet3", "e1000e"],
        datasources: &["NoCloud", "VMware", "OVF"],
        sources: &[VMWARE_CONTROLLERS],
        ..VMWARE_MACHINE
    },
    Hardware {
        target: "hyperv",
        firmware: &[Uefi, Bios],
        disks: &["hv_storvsc", "ide"],
        not_by_uefi: &["ide"],
        unsure_by_uefi: &[],
        large_sectors: &["hv_storvsc"],
        cards: &["hv_netvsc"],
        serial: false,
        datasources: &["NoCloud", "Azure"],
        sources: &[(
            "Generation 2, the one for VHDX, starts by UEFI from SCSI; generation 1 by BIOS from IDE, which storvsc drives.",
            "https://learn.microsoft.com/en-us/windows-server/virtualization/hyper-v/plan/should-i-create-a-generation-1-or-2-virtual-machine-in-hyper-v",
        )],
    },
    Hardware {
        target: "azure",
        firmware: &[Bios, Uefi],
        disks: &["hv_storvsc", "nvme"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["hv_netvsc"],
        serial: true,
        datasources: &["Azure"],
        sources: &[
            (
                "An image is of generation 1 (BIOS) unless it is declared as generation 2 (UEFI).",
                "https://learn.microsoft.com/en-us/azure/virtual-machines/generation-2",
            ),
            (
                "The initramfs needs hv_vmbus and hv_storvsc; the console is ttyS0.",
                "https://learn.microsoft.com/en-us/azure/virtual-machines/linux/create-upload-generic",
            ),
        ],
    },
    Hardware {
        target: "aws",
        firmware: &[Bios, Uefi],
        disks: &["nvme", "xen-blkfront"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["ena", "xen-netfront"],
        serial: true,
        datasources: &["Ec2"],
        sources: &[
            (
                "An image without a boot mode starts in legacy BIOS mode on most types of x86.",
                "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-boot.html",
            ),
            (
                "Nitro machines have NVMe disks and ENA cards.",
                "https://docs.aws.amazon.com/ebs/latest/userguide/nvme-ebs-volumes.html",
            ),
        ],
    },
    Hardware {
        target: "gcp",
        firmware: &[Bios, Uefi],
        disks: &["virtio-scsi", "nvme"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["virtio_net", "gve"],
        serial: true,
        datasources: &["GCE"],
        sources: &[
            (
                "Images start by UEFI only if they have the feature UEFI_COMPATIBLE.",
                "https://cloud.google.com/compute/docs/images/create-custom#guest-os-features",
            ),
            (
                "The kernel needs virtio-scsi and virtio-net, or NVMe and gVNIC on newer series; the console is ttyS0.",
                "https://cloud.google.com/compute/docs/images/building-custom-os",
            ),
        ],
    },
    Hardware {
        target: "openstack",
        serial: true,
        large_sectors: &[],
        datasources: &["OpenStack", "ConfigDrive"],
        sources: &[(
            "hw_disk_bus, hw_vif_model and hw_firmware_type choose; virtio and a BIOS are the defaults under KVM.",
            "https://docs.openstack.org/glance/latest/admin/useful-image-properties.html",
        )],
        ..QEMU_MACHINE
    },
    Hardware {
        target: "kubevirt",
        firmware: &[Bios, Uefi],
        disks: &["virtio-blk", "ahci", "virtio-scsi"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &["virtio-blk", "virtio-scsi"],
        cards: &["virtio_net", "e1000", "e1000e", "pcnet32"],
        serial: true,
        datasources: LOCAL_SOURCES,
        sources: &[(
            "The firmware is SeaBIOS unless `bootloader.efi` is set.",
            "https://kubevirt.io/user-guide/compute/virtual_hardware/#biosuefi",
        )],
    },
    Hardware {
        target: "lima",
        firmware: &[Uefi, Bios],
        disks: &["virtio-blk"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["virtio_net"],
        serial: true,
        datasources: &["NoCloud"],
        sources: &[(
            "UEFI is the default; `firmware.legacyBIOS` chooses the other.",
            "https://github.com/lima-vm/lima/blob/master/templates/default.yaml",
        )],
    },
    Hardware {
        target: "vagrant",
        firmware: &[Bios, Uefi],
        disks: &["virtio-blk", "virtio-scsi", "ahci", "ide"],
        not_by_uefi: &[],
        unsure_by_uefi: &[],
        large_sectors: &[],
        cards: &["virtio_net", "e1000"],
        serial: false,
        datasources: &[],
        sources: &[(
            "The provider libvirt gives machines virtio disks and cards, and a BIOS unless a loader is set.",
            "https://vagrant-libvirt.github.io/vagrant-libvirt/configuration.html",
        )],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_hardware_is_known_and_has_its_page() {
        for hardware in HARDWARE {
            assert!(
                !hardware.firmware.is_empty() && !hardware.disks.is_empty() && !hardware.cards.is_empty()
            );
            let disks = hardware.disks.iter().chain(hardware.not_by_uefi).chain(hardware.large_sectors);
            assert!(disks.clone().all(|name| Controller::find(name).is_ok()), "{}", hardware.target);
            assert!(hardware.cards.iter().all(|name| Card::find(name).is_ok()), "{}", hardware.target);
            assert!(hardware.sources.iter().all(|(_, page)| page.starts_with("https://")));
        }
        assert!(Controller::find("floppy").unwrap_err().to_string().contains("virtio-blk"));
    }

    #[test]
    fn a_partition_is_named_after_its_disk() {
        assert_eq!(Controller::find("nvme").unwrap().partition(2), "/dev/nvme0n1p2");
        assert_eq!(Controller::find("virtio-blk").unwrap().partition(1), "/dev/vda1");
    }
}
