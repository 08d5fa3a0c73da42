//! The targets of `export --for`: what each takes, by which rules, and where its vendor says so.

use std::path::Path;

use mif_formats::container::{CreateOptions, STANDARD_OUTPUT};
use serde::Serialize;

use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A hypervisor, a cloud, or a tool that runs disks.
#[derive(Debug, Serialize)]
pub struct Platform {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The files that it takes, the usual one first.
    pub forms: &'static [Form],
    /// Its rules.
    pub rules: &'static [Rule],
}

/// A file that a target takes.
#[derive(Debug, Serialize)]
pub struct Form {
    /// The suffixes that choose it, without the first dot.
    pub suffixes: &'static [&'static str],
    /// The container format.
    pub format: &'static str,
    /// The options of the format that the target's rules fix.
    pub options: &'static [(&'static str, &'static str)],
    /// The archive around it.
    pub wrapper: Wrapper,
    /// The size of the disk is a multiple of this number of bytes.
    pub size_step: u64,
    /// The disk has at least this number of bytes.
    pub size_min: u64,
    /// The name of the file begins so.
    pub prefix: &'static str,
}

/// An archive around a disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrapper {
    /// None.
    None,
    /// An OVA, for a machine with this hardware.
    Appliance(Machine),
    /// A tar in the old GNU format, compressed with gzip, that holds only `disk.raw`.
    DiskTar,
    /// A Vagrant box for the provider libvirt.
    Vagrant,
    /// A backup of Proxmox VE.
    Backup {
        /// True if it is compressed with zstd.
        is_compressed: bool,
    },
}

impl Wrapper {
    /// Returns true if there is an archive around the disk.
    #[must_use]
    pub fn is_archive(&self) -> bool {
        !matches!(self, Wrapper::None)
    }

    /// Returns true if the archive is completed in place, and so cannot be written to a pipe.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        matches!(self, Wrapper::Appliance(_) | Wrapper::Vagrant)
    }
}

/// The hardware of an appliance, as OVF describes it.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The type of the virtual system, such as `vmx-14`.
    pub system: &'static str,
    /// The network card.
    pub network: &'static str,
}

/// A rule of a target, and the page that states it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rule {
    /// The rule, as a sentence.
    pub rule: &'static str,
    /// The address of a page of the vendor's, or of a report.
    pub page: &'static str,
}

const fn plain(suffixes: &'static [&'static str], format: &'static str) -> Form {
    Form { suffixes, format, options: &[], wrapper: Wrapper::None, size_step: 1, size_min: 0, prefix: "" }
}

const fn rule(rule: &'static str, page: &'static str) -> Rule {
    Rule { rule, page }
}

const QCOW2: Form = plain(&["qcow2"], "qcow2");
const RAW: Form = plain(&["raw", "img"], "raw");
const STREAM: &[(&str, &str)] = &[("subformat", "streamOptimized")];
const SPARSE: &[(&str, &str)] = &[("subformat", "monolithicSparse")];

/// An OVA for a machine with this hardware.
const fn ova(system: &'static str, network: &'static str) -> Form {
    let wrapper = Wrapper::Appliance(Machine { system, network });
    Form { options: STREAM, wrapper, size_step: 512, ..plain(&["ova"], "vmdk") }
}

/// A backup of Proxmox VE, compressed with zstd or not.
const fn vma(suffixes: &'static [&'static str], is_compressed: bool) -> Form {
    let wrapper = Wrapper::Backup { is_compressed };
    Form { wrapper, size_step: 512, prefix: "vzdump-qemu-", ..plain(suffixes, "raw") }
}

const OVF: &str = "https://www.dmtf.org/sites/default/files/standards/documents/DSP0243_2.1.1.pdf";
const QEMU: &str = "https://www.qemu.org/docs/master/system/images.html";

const OVA_RULES: [Rule; 4] = [
    rule("The OVF descriptor comes first in the tar, then the manifest, then the disks.", OVF),
    rule(
        "`ovf:capacity` is the size of the disk and `ovf:size` the size of the file.",
        "https://github.com/vatesfr/xen-orchestra/pull/6824",
    ),
    rule(
        "The manifest has SHA-256 digests: vSphere 8 refuses SHA-1.",
        "https://github.com/nextcloud/vm/issues/2607",
    ),
    rule(
        "The VMDK is streamOptimized, and its adapter type is that of the machine's controller.",
        "https://github.com/coreos/coreos-assembler/issues/1141",
    ),
];
const TOOLS: Rule = rule(
    "`ddb.toolsVersion` is set, or vSphere does not customise the guest.",
    "https://github.com/vmware/open-vmdk/issues/9",
);

/// Every target, in the order of `export --for list`.
pub static PLATFORMS: &[Platform] = &[
    Platform {
        name: "qemu",
        title: "QEMU",
        forms: &[QCOW2, RAW],
        rules: &[rule("qcow2 and raw are the formats that QEMU supports fully.", QEMU)],
    },
    Platform {
        name: "libvirt",
        title: "libvirt",
        forms: &[QCOW2, RAW],
        rules: &[rule(
            "The disk's `type` in the domain XML names the format: libvirt does not probe it.",
            "https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms",
        )],
    },
    Platform {
        name: "proxmox",
        title: "Proxmox VE",
        forms: &[QCOW2, RAW, vma(&["vma.zst"], true), vma(&["vma"], false)],
        rules: &[
            rule("`qm disk import` takes qcow2, raw and VMDK.", "https://pve.proxmox.com/pve-docs/qm.1.html"),
            rule(
                "`qmrestore` takes a backup with the machine's configuration, whose comment maps each disk to its device.",
                "https://github.com/proxmox/qemu-server/blob/master/src/test/run_qemu_restore_config_tests.pl",
            ),
            rule(
                "The name of a backup begins with `vzdump-qemu-`.",
                "https://github.com/nix-community/nixos-generators/issues/364",
            ),
        ],
    },
    Platform {
        name: "virtualbox",
        title: "VirtualBox",
        forms: &[
            plain(&["vdi"], "vdi"),
            Form { options: SPARSE, ..plain(&["vmdk"], "vmdk") },
            plain(&["vhd"], "vpc"),
            ova("virtualbox-2.2", "E1000"),
        ],
        rules: &[
            rule(
                "No two registered disks have the same UUID: pass -o seed=TEXT for a second copy of a disk.",
                "https://www.virtualbox.org/manual/ch08.html#vboxmanage-internalcommands",
            ),
            OVA_RULES[0],
            OVA_RULES[1],
            OVA_RULES[3],
        ],
    },
    Platform {
        name: "vmware-esxi",
        title: "VMware ESXi and vSphere",
        forms: &[
            ova("vmx-14", "VmxNet3"),
            Form { options: STREAM, size_step: 512, ..plain(&["vmdk"], "vmdk") },
        ],
        rules: &[OVA_RULES[0], OVA_RULES[1], OVA_RULES[2], OVA_RULES[3], TOOLS],
    },
    Platform {
        name: "vmware-workstation",
        title: "VMware Workstation and Fusion",
        forms: &[Form { options: SPARSE, ..plain(&["vmdk"], "vmdk") }, ova("vmx-14", "VmxNet3")],
        rules: &[OVA_RULES[0], OVA_RULES[1], OVA_RULES[2], OVA_RULES[3], TOOLS],
    },
    Platform {
        name: "hyperv",
        title: "Hyper-V",
        forms: &[plain(&["vhdx"], "vhdx"), plain(&["vhd"], "vpc")],
        rules: &[
            rule(
                "Machines of generation 2 take VHDX only.",
                "https://learn.microsoft.com/en-us/archive/blogs/jhoward/hyper-v-generation-2-virtual-machines-part-3",
            ),
            rule(
                "The file must not be sparse on NTFS: copy it there without its holes.",
                "https://learn.microsoft.com/en-us/troubleshoot/windows-server/virtualization/hyper-v-virtual-hard-disk-errors",
            ),
        ],
    },
    Platform {
        name: "azure",
        title: "Azure",
        forms: &[Form {
            options: &[("subformat", "fixed")],
            size_step: MIB,
            size_min: 20 * MIB,
            ..plain(&["vhd"], "vpc")
        }],
        rules: &[
            rule(
                "A fixed VHD; VHDX and dynamic VHDs are refused.",
                "https://learn.microsoft.com/en-us/azure/virtual-machines/linux/create-upload-generic",
            ),
            rule(
                "The disk has a whole number of MiB, and `current_size` in the footer says so.",
                "https://learn.microsoft.com/en-us/azure/virtual-machines/linux/create-upload-generic#resizing-vhds",
            ),
            rule(
                "A managed disk has at least 20 MiB.",
                "https://github.com/microsoft/AzureStorageExplorer/issues/3033",
            ),
        ],
    },
    Platform {
        name: "aws",
        title: "AWS",
        forms: &[
            RAW,
            Form { options: STREAM, size_step: 512, ..plain(&["vmdk"], "vmdk") },
            plain(&["vhd"], "vpc"),
            ova("vmx-14", "E1000"),
        ],
        rules: &[
            rule(
                "OVA, streamOptimized VMDK, fixed and dynamic VHD and VHDX, and raw are imported.",
                "https://docs.aws.amazon.com/vm-import/latest/userguide/prerequisites.html",
            ),
            rule(
                "ImportSnapshot asks less of a disk than ImportImage, which looks for kernels it knows.",
                "https://github.com/coreos/fedora-coreos-tracker/issues/406",
            ),
        ],
    },
    Platform {
        name: "gcp",
        title: "Google Compute Engine",
        forms: &[Form { wrapper: Wrapper::DiskTar, size_step: GIB, ..plain(&["tar.gz", "tgz"], "raw") }],
        rules: &[
            rule(
                "The tar holds a file of the name disk.raw, and nothing else.",
                "https://cloud.google.com/compute/docs/import/import-existing-image",
            ),
            rule(
                "The tar has the old GNU format and is compressed with gzip.",
                "https://github.com/google/netbsd-gce/pull/4",
            ),
            rule("The disk has a whole number of GiB.", "https://github.com/rancher/os/issues/1998"),
        ],
    },
    Platform {
        name: "openstack",
        title: "OpenStack",
        forms: &[QCOW2, RAW],
        rules: &[rule(
            "Glance refuses qcow2 with a backing file or an external data file.",
            "https://security.openstack.org/ossa/OSSA-2024-001.html",
        )],
    },
    Platform {
        name: "kubevirt",
        title: "KubeVirt",
        forms: &[QCOW2, RAW],
        rules: &[rule(
            "containerDisks and CDI take qcow2 and raw.",
            "https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk",
        )],
    },
    Platform {
        name: "lima",
        title: "Lima",
        forms: &[QCOW2, RAW],
        rules: &[rule(
            "The driver qemu takes qcow2 and raw; the driver vz converts qcow2 to raw.",
            "https://lima-vm.io/docs/config/vmtype/",
        )],
    },
    Platform {
        name: "vagrant",
        title: "Vagrant, provider libvirt",
        forms: &[Form { wrapper: Wrapper::Vagrant, ..plain(&["box"], "qcow2") }],
        rules: &[
            rule(
                "A tar with metadata.json, without which a box is invalid.",
                "https://developer.hashicorp.com/vagrant/docs/boxes/format",
            ),
            rule(
                "metadata.json names the provider, the format qcow2, and the virtual size in whole GB.",
                "https://github.com/vagrant-libvirt/vagrant-libvirt/blob/main/example_box/README.md",
            ),
        ],
    },
];

impl Platform {
    /// Returns the target of that name.
    pub fn find(name: &str) -> Result<&'static Platform> {
        PLATFORMS.iter().find(|target| target.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<&str> = PLATFORMS.iter().map(|target| target.name).collect();
            Error::usage(format!("{name}: no such target; the targets are {}", names.join(", ")))
                .advise("`mif export --for list` shows what each takes")
        })
    }

    /// Returns the form that a file name chooses by its suffix. Standard output gets the first form.
    pub fn form(&self, path: &Path) -> Result<&'static Form> {
        let forms: &'static [Form] = self.forms;
        if path.as_os_str() == STANDARD_OUTPUT {
            return Ok(&forms[0]);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let ends = |form: &&Form| {
            form.suffixes
                .iter()
                .any(|suffix| name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')))
        };
        let form = forms.iter().find(ends).ok_or_else(|| {
            Error::usage(format!("{}: {} takes {}", path.display(), self.title, self.suffixes()))
        })?;
        if !name.starts_with(form.prefix) {
            let problem = format!(
                "{}: {} takes only files whose name begins with {}",
                path.display(),
                self.title,
                form.prefix
            );
            return Err(Error::usage(problem).advise(format!("For example, {}{name}", form.prefix)));
        }
        Ok(form)
    }

    /// Returns the suffixes of the files that it takes: `.qcow2, .raw or .img`.
    #[must_use]
    pub fn suffixes(&self) -> String {
        let all: Vec<String> =
            self.forms.iter().flat_map(|form| form.suffixes).map(|suffix| format!(".{suffix}")).collect();
        match &all[..] {
            [only] => only.clone(),
            [first @ .., last] => format!("{} or {last}", first.join(", ")),
            [] => String::new(),
        }
    }
}

impl Form {
    /// Splits the user's options into those of the container format, to which the form's own are added, and those of the
    /// archive. Fails if one contradicts a rule of `target`.
    pub(crate) fn options(
        &self,
        target: &Platform,
        given: &CreateOptions,
    ) -> Result<(CreateOptions, CreateOptions)> {
        for (key, value) in given {
            let fixed = self.options.iter().find(|(fixed, wanted)| fixed == key && wanted != value);
            if let Some((_, wanted)) = fixed {
                return Err(Error::usage(format!("{}: {key} must be {wanted}, not {value}", target.title)));
            }
        }
        let settings: &[&str] = match self.wrapper {
            Wrapper::Appliance(_) | Wrapper::Backup { .. } => &["cpus", "memory", "firmware"],
            _ => &[],
        };
        let of_archive = |(key, _): &&(String, String)| settings.contains(&key.as_str());
        let archive = given.iter().filter(of_archive).cloned().collect();
        let fixed = self.options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let format = fixed.chain(given.iter().filter(|option| !of_archive(option)).cloned()).collect();
        Ok((format, archive))
    }

    /// Returns the size of a disk of `size` bytes, rounded up to what the target takes.
    #[must_use]
    pub fn rounded(&self, size: u64) -> u64 {
        size.max(self.size_min).next_multiple_of(self.size_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_chooses_the_form_and_a_rule_cannot_be_overridden() {
        let gcp = Platform::find("GCP").unwrap();
        assert_eq!(gcp.form(Path::new("out/web.v2.TAR.gz")).unwrap().size_step, GIB);
        assert!(gcp.form(Path::new("tar.gz")).is_err());
        let error = gcp.form(Path::new("web.raw")).unwrap_err().to_string();
        assert!(error.contains(".tar.gz or .tgz"), "{error}");
        let azure = Platform::find("azure").unwrap();
        let form = azure.form(Path::new("web.vhd")).unwrap();
        assert_eq!([512, 20 * MIB + 512].map(|size| form.rounded(size)), [20 * MIB, 21 * MIB]);
        let option = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        assert!(form.options(azure, &option("subformat", "dynamic")).is_err());
        assert_eq!(form.options(azure, &option("subformat", "fixed")).unwrap().0.len(), 2);
        let esxi = Platform::find("vmware-esxi").unwrap();
        let form = esxi.form(Path::new("web.ova")).unwrap();
        let (format, archive) = form.options(esxi, &option("cpus", "2")).unwrap();
        assert_eq!((format.len(), archive.len()), (1, 1));
        assert!(Platform::find("xen").unwrap_err().to_string().contains("vagrant"));
    }

    #[test]
    fn every_form_is_chosen_by_each_of_its_suffixes() {
        for target in PLATFORMS {
            for form in target.forms {
                for suffix in form.suffixes {
                    let chosen = target.form(Path::new(&format!("{}name.{suffix}", form.prefix))).unwrap();
                    assert!(std::ptr::eq(chosen, form), "{} {suffix}", target.name);
                }
            }
            assert!(target.rules.iter().all(|rule| rule.page.starts_with("https://")), "{}", target.name);
        }
    }
}
