//! `export --for`: each target's rules are checked on the bytes, with other readers.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use mif::{Hardware, PLATFORMS, Wrapper};
use mif_tests::{have, json, mif, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// A store with the committed disk as `demo`, and as `odd` one that is a sector longer.
fn store(work: &Path) -> PathBuf {
    let store = work.join("store");
    let demo = repo().join("fixtures/demo.qcow2");
    run(mif(&store).arg("import").arg(&demo));
    let raw = work.join("odd.raw");
    run(mif(&store).arg("convert").arg(&demo).arg(&raw));
    let len = fs::metadata(&raw).unwrap().len();
    fs::File::options().write(true).open(&raw).unwrap().set_len(len + 512).unwrap();
    run(mif(&store).arg("import").arg(&raw));
    store
}

/// Exports an image for a target and returns the report.
fn export(store: &Path, image: &str, file: &Path, target: &str, options: &[&str]) -> Value {
    let file = file.to_str().unwrap();
    json(store, &[&["export", image, file, "--for", target], options].concat())
}

/// The digest of an image's layout, as `mif info` shows it.
fn layout(store: &Path, image: &str) -> String {
    json(store, &["info", image])["stored"]["layout_digest"].as_str().unwrap().to_owned()
}

fn qemu_info(file: &Path, format: &str) -> Value {
    let text = run(tool("qemu-img").args(["info", "--output", "json", "-f", format]).arg(file));
    serde_json::from_str(&text).unwrap()
}

/// Asserts that a file holds the disk of the image, as qemu-img reads it.
fn assert_is_disk(store: &Path, image: &str, file: &Path, format: &str, size: u64) {
    let raw = file.with_extension("expected");
    run(mif(store).args(["export", "--force", "-O", "raw", "--size", &size.to_string(), image]).arg(&raw));
    run(tool("qemu-img").args(["compare", "-f", format, "-F", "raw"]).arg(file).arg(&raw));
    fs::remove_file(raw).unwrap();
}

const MIB: u64 = 1 << 20;
/// The size of the committed disk.
const DEMO: u64 = 32 * MIB;

#[test]
fn every_form_without_an_archive_is_what_qemu_img_reads_with_the_rules_kept() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let store = store(work.path());
    let mut forms = 0;
    for platform in PLATFORMS {
        for form in platform.forms.iter().filter(|form| matches!(form.wrapper, Wrapper::None)) {
            for (image, size) in [("demo", DEMO), ("odd", DEMO + 512)] {
                let file = work.path().join(format!("{}-{image}.{}", platform.name, form.suffixes[0]));
                let report = export(&store, image, &file, platform.name, &[]);
                let size = size.max(form.size_min).next_multiple_of(form.size_step);
                assert_eq!((&report["target"], &report["disk_size"]), (&platform.name.into(), &size.into()));
                assert_is_disk(&store, image, &file, form.format, size);
                let info = qemu_info(&file, form.format);
                assert_eq!(info["virtual-size"], size, "{info}");
                for (key, value) in form.options {
                    if form.format == "vmdk" && *key == "subformat" {
                        assert_eq!(info["format-specific"]["data"]["create-type"], *value, "{info}");
                    }
                }
                fs::remove_file(&file).unwrap();
                forms += 1;
            }
        }
    }
    assert!(forms > 40, "{forms}");
}

#[test]
fn azure_gets_a_fixed_vhd_of_whole_mebibytes_whose_table_is_valid() {
    if !have(&["sgdisk", "qemu-img"]) {
        return;
    }
    let work = work_folder();
    let store = store(work.path());
    let file = work.path().join("odd.vhd");
    let report = export(&store, "odd", &file, "azure", &[]);
    let size = DEMO + MIB;
    assert!(report["notes"].to_string().contains("enlarged"), "{report}");
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len() as u64, size + 512);
    let footer = &bytes[size as usize..];
    let be64 = |at: usize| u64::from_be_bytes(footer[at..at + 8].try_into().unwrap());
    // Cookie, original and current size, and the type "fixed" (VHD specification, "Hard Disk Footer Format").
    assert_eq!((&footer[..8], be64(40), be64(48), footer[63]), (&b"conectix"[..], size, size, 2));
    let sum: u32 =
        footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at)).map(|(_, b)| u32::from(*b)).sum();
    assert_eq!(footer[64..68], (!sum).to_be_bytes());
    let raw = work.path().join("azure.raw");
    fs::write(&raw, &bytes[..size as usize]).unwrap();
    let verified = run(tool("sgdisk").arg("-v").arg(&raw));
    assert!(verified.contains("No problems found"), "{verified}");
}

/// Prints what Python's tarfile finds: a line for each member with its type, size and name. Then extracts them, if it is
/// told where to.
const TARFILE: &str = r#"
import sys, tarfile
archive = tarfile.open(sys.argv[1])
for member in archive:
    print(member.type.decode(), member.size, member.name, member.uid, member.mtime)
for folder in sys.argv[2:]:
    archive.extractall(folder)
"#;

fn members(archive: &Path, into: Option<&Path>) -> String {
    run(tool("python3").args(["-c", TARFILE]).arg(archive).args(into))
}

#[test]
fn google_gets_disk_raw_of_whole_gibibytes_alone_in_an_old_gnu_tar() {
    if !have(&["python3", "tar", "gzip", "cmp"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = store(work.path());
    let archive = at("web.tar.gz");
    let report = export(&store, "odd", &archive, "gcp", &["--verify"]);
    assert_eq!(report["verified"], true);
    assert_eq!(report["disk_size"], 1 << 30);
    assert_eq!(members(&archive, None), "S 1073741824 disk.raw 0 0\n");
    run(mif(&store).args(["export", "odd", "--size", "1G"]).arg(at("whole.raw")));
    fs::create_dir(at("by-tar")).unwrap();
    run(tool("tar").arg("xSzf").arg(&archive).arg("-C").arg(at("by-tar")));
    run(tool("cmp").arg(at("by-tar/disk.raw")).arg(at("whole.raw")));
    run(tool("gzip").arg("-t").arg(&archive));
    let tar = tool("gzip").arg("-dc").arg(&archive).output().unwrap().stdout;
    // The magic of the old GNU format; one member; and whole blocks with two of zeros at the end.
    assert_eq!(&tar[257..265], b"ustar  \0");
    assert!(tar.len().is_multiple_of(512) && tar[tar.len() - 1024..].iter().all(|b| *b == 0));
    // To a pipe, it is the same.
    let piped = mif(&store).args(["export", "odd", "-", "--for", "gcp"]).output().unwrap();
    assert!(piped.stdout == fs::read(&archive).unwrap());
}

#[test]
fn an_appliance_has_its_descriptor_first_and_its_manifest_and_sizes_are_right() {
    if !have(&["python3", "qemu-img", "sha256sum"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = store(work.path());
    let layout = layout(&store, "odd");
    for (target, system) in [("vmware-esxi", "vmx-14"), ("virtualbox", "virtualbox-2.2"), ("aws", "vmx-14")] {
        let archive = at(&format!("{target}.ova"));
        export(
            &store,
            "odd",
            &archive,
            target,
            &["--verify", "-o", "cpus=3,memory=1G,adapter_type=buslogic"],
        );
        let folder = at(target);
        let listed = members(&archive, Some(&folder));
        let names: Vec<&str> = listed.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        let disk = format!("{target}-disk1.vmdk");
        assert_eq!(names, [format!("{target}.ovf"), format!("{target}.mf"), disk.clone()]);
        // Its lines are those of sha256sum --tag but for blanks.
        let manifest = fs::read_to_string(folder.join(format!("{target}.mf"))).unwrap();
        let tagged = manifest.replace("SHA256(", "SHA256 (").replace(")= ", ") = ");
        fs::write(folder.join("sums"), tagged).unwrap();
        run(tool("sha256sum").args(["-c", "--strict", "sums"]).current_dir(&folder));
        let ovf = fs::read_to_string(folder.join(format!("{target}.ovf"))).unwrap();
        let size = fs::metadata(folder.join(&disk)).unwrap().len();
        for expected in [
            format!("ovf:href=\"{disk}\""),
            format!("ovf:size=\"{size}\""),
            format!("ovf:capacity=\"{}\"", DEMO + 512),
            format!("<vssd:VirtualSystemType>{system}<"),
            "<rasd:VirtualQuantity>3<".to_owned(),
            "<rasd:VirtualQuantity>1024<".to_owned(),
            "<rasd:ResourceSubType>buslogic<".to_owned(),
            "ovf:id=\"odd\"".to_owned(),
            format!(
                "<Annotation>Made by mif from odd@1 (layout {layout}) by the rules of {target}</Annotation>"
            ),
        ] {
            assert!(ovf.contains(&expected), "{expected}: {ovf}");
        }
        let parse = "import sys, xml.etree.ElementTree as e; print(e.parse(sys.argv[1]).getroot().tag)";
        let root = run(tool("python3").args(["-c", parse]).arg(folder.join(format!("{target}.ovf"))));
        assert_eq!(root.trim(), "{http://schemas.dmtf.org/ovf/envelope/1}Envelope");
        run(tool("qemu-img").args(["check", "-f", "vmdk"]).arg(folder.join(&disk)));
        assert_is_disk(&store, "odd", &folder.join(&disk), "vmdk", DEMO + 512);
        let head = fs::read(folder.join(&disk)).unwrap();
        let descriptor = String::from_utf8_lossy(&head[512..2048]);
        for expected in [&disk, "ddb.toolsVersion", "ddb.adapterType = \"buslogic\"", "streamOptimized"] {
            assert!(descriptor.contains(expected), "{expected}: {descriptor}");
        }
    }
    // Twice the same.
    fs::create_dir(at("other")).unwrap();
    for file in ["again.ova", "other/again.ova"] {
        export(&store, "odd", &at(file), "aws", &[]);
    }
    assert!(fs::read(at("again.ova")).unwrap() == fs::read(at("other/again.ova")).unwrap());
}

#[test]
fn a_vagrant_box_holds_its_metadata_and_the_disk_as_qcow2() {
    if !have(&["python3", "qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = store(work.path());
    export(&store, "demo", &at("web.box"), "vagrant", &["--verify", "-o", "compress=on"]);
    let listed = members(&at("web.box"), Some(&at("box")));
    let names: Vec<&str> = listed.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(names, ["metadata.json", "info.json", "Vagrantfile", "box.img"]);
    let info: Value = serde_json::from_slice(&fs::read(at("box/info.json")).unwrap()).unwrap();
    assert_eq!((&info["image"], &info["target"]), (&"demo@1".into(), &"vagrant".into()), "{info}");
    assert_eq!(info["layout_digest"], layout(&store, "demo"));
    let metadata: Value = serde_json::from_slice(&fs::read(at("box/metadata.json")).unwrap()).unwrap();
    let expected = serde_json::json!({"provider": "libvirt", "format": "qcow2", "virtual_size": 1});
    assert_eq!(metadata, expected);
    run(tool("qemu-img").args(["check", "-f", "qcow2"]).arg(at("box/box.img")));
    assert_is_disk(&store, "demo", &at("box/box.img"), "qcow2", DEMO);
}

/// Reads a backup of Proxmox VE by its specification: writes its disk, and prints its configuration and the disk's name.
const READ_VMA: &str = "
import hashlib, struct, sys
data, out = open(sys.argv[1], 'rb').read(), open(sys.argv[2], 'wb')
def summed(part, at):
    assert hashlib.md5(part[:at] + bytes(16) + part[at + 16:]).digest() == part[at:at + 16]
magic, version, uuid = struct.unpack_from('>4sI16s', data)
blobs, blobs_len, header_len = struct.unpack_from('>III', data, 48)
assert (magic, version, blobs, blobs + blobs_len) == (b'VMA\\0', 1, 12288, header_len) and header_len % 512 == 0
summed(data[:header_len], 32)
def blob(pointer):
    at = blobs + pointer
    return data[at + 2:at + 2 + struct.unpack_from('<H', data, at)[0]].decode()
assert blob(struct.unpack_from('>I', data, 2044)[0]) == 'qemu-server.conf\\0'
print(blob(struct.unpack_from('>I', data, 3068)[0]), end='')
name, _, size = struct.unpack_from('>IIQ', data, 4096 + 32)
print('name', blob(name).rstrip('\\0'))
out.truncate(size)
at, seen = header_len, []
while at < len(data):
    head = data[at:at + 512]
    summed(head, 24)
    magic, blocks, other = struct.unpack_from('>4s2xH16s', head)
    assert (magic, other) == (b'VMAE', uuid)
    at += 512
    start = at
    for mask, device, cluster in struct.iter_unpack('>HxBI', head[40:]):
        assert device or not mask
        seen += [cluster] * device
        for block in range(16):
            if mask >> block & 1:
                out.seek(cluster * 65536 + block * 4096)
                out.write(data[at:at + 4096])
                at += 4096
    assert at - start == blocks * 4096 and at <= len(data)
assert sorted(seen) == list(range((size + 65535) // 65536)), seen
out.truncate(size)
";

#[test]
fn proxmox_gets_a_backup_with_the_disk_and_a_configuration_that_names_it() {
    if !have(&["python3", "zstd", "cmp"]) {
        return;
    }
    let work = work_folder();
    let store = store(work.path());
    let at = |name: &str| work.path().join(name);
    for (image, file) in [("demo", "vzdump-qemu-demo.vma.zst"), ("odd", "vzdump-qemu-odd.vma")] {
        let options = ["-o", "cpus=2,memory=1G", "--verify"];
        let report = export(&store, image, &at(file), "proxmox", &options);
        assert_eq!(report["target"], "proxmox", "{report}");
        if file.ends_with(".zst") {
            run(tool("zstd").args(["-q", "-d"]).arg(at(file)));
        }
        let backup = at(file.trim_end_matches(".zst"));
        let notes =
            format!("#Made by mif from {image}@1 (layout {}) by the rules of proxmox", layout(&store, image));
        let said = run(tool("python3").args(["-c", READ_VMA]).arg(&backup).arg(at("restored")));
        for line in [
            &notes[..],
            "boot: order=scsi0",
            "cores: 2",
            "memory: 1024",
            "#qmdump#map:scsi0:drive-scsi0::raw:",
            "name drive-scsi0",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        run(mif(&store).args(["export", "--force", "-O", "raw", image]).arg(at("expected")));
        run(tool("cmp").arg(at("restored")).arg(at("expected")));
        assert!(fs::metadata(&backup).unwrap().len() < fs::metadata(at("expected")).unwrap().len() / 4);
    }
}

#[test]
fn what_a_target_does_not_take_is_refused_in_words_and_leaves_no_file() {
    let work = work_folder();
    let store = store(work.path());
    let refused = |arguments: &[&str]| run_failing(mif(&store).current_dir(work.path()).args(arguments), 2);
    let error = refused(&["export", "demo", "web.vhd", "--for", "azure", "-o", "subformat=dynamic"]);
    assert!(error.contains("subformat must be fixed"), "{error}");
    let error = refused(&["export", "demo", "web.qcow2", "--for", "azure"]);
    assert!(error.contains("Azure takes .vhd"), "{error}");
    let error = refused(&["export", "demo", "web.vhd", "--for", "asure"]);
    assert!(error.contains("the targets are qemu"), "{error}");
    let error = refused(&["export", "demo", "web.vhd", "--for", "azure", "--size", "33555000"]);
    assert!(error.contains("--size 34603008"), "{error}");
    for option in ["cpus=0", "cpus=two", "memory=1", "firmware=coreboot"] {
        let error = refused(&["export", "demo", "web.ova", "--for", "aws", "-o", option]);
        assert!(error.contains(option), "{error}");
    }
    refused(&["export", "demo", "-", "--for", "virtualbox", "-O", "vdi"]);
    refused(&["export", "--for", "azure"]);
    refused(&["export", "--all", "out"]);
    let error = refused(&["export", "demo", "-", "--for", "vagrant"]);
    assert!(error.contains("not written sequentially"), "{error}");
    let left: Vec<_> = fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_receipt_says_what_a_disk_was_made_from_and_by_which_rules() {
    let work = work_folder();
    let store = store(work.path());
    let at = |name: &str| work.path().join(name);
    let receipt = |name: &str| -> Value { serde_json::from_slice(&fs::read(at(name)).unwrap()).unwrap() };
    let (file, text) = (at("odd.vhd"), at("odd.json"));
    export(&store, "odd", &file, "azure", &["--receipt", text.to_str().unwrap()]);
    let said = receipt("odd.json");
    assert_eq!(
        (&said["image"], &said["target"], &said["output"]),
        (&"odd@1".into(), &"azure".into(), &"odd.vhd".into()),
        "{said:#}"
    );
    assert_eq!(said["layout_digest"], layout(&store, "odd"));
    assert!(said["rules"][0]["page"].as_str().unwrap().starts_with("https://"), "{said:#}");
    assert!(said["options"].to_string().contains("subformat=fixed"), "{said:#}");
    assert!(said["notes"].to_string().contains("enlarged"), "{said:#}");
    // Who finds the disk can tell that it is this one: the digest is that of its bits, in whatever container.
    run(mif(&store).args(["convert"]).arg(&file).arg(at("found.qcow2")));
    run(mif(&store).args(["import", "--verify"]).arg(at("found.qcow2")));
    assert_eq!(json(&store, &["info", "found"])["stored"]["disk_digest"], said["disk_digest"]);
    // Nothing in it depends on when or where it was made: only the command line names the files.
    let again = at("again.json");
    export(&store, "odd", &file, "azure", &["--force", "--receipt", again.to_str().unwrap()]);
    let (mut first, mut second) = (said, receipt("again.json"));
    first["command"].take();
    second["command"].take();
    assert_eq!(first, second);
    // An existing file stays, and what cannot have a receipt is not exported.
    let export = |output: &str, receipt: &str, code| {
        let output = at(output);
        let error = run_failing(
            mif(&store).args(["export", "demo"]).arg(&output).arg("--receipt").arg(at(receipt)),
            code,
        );
        assert!(!output.exists(), "{error}");
        error
    };
    assert!(export("new.raw", "again.json", 3).contains("already exists"));
    assert!(export("new.raw", "new.raw", 2).contains("a file of its own"));
    assert!(export("new.raw", "no/such/folder.json", 5).contains("no/such"));
}

#[test]
fn all_images_are_exported_for_a_target() {
    let work = work_folder();
    let store = store(work.path());
    run(mif(&store).args(["export", "--for", "vagrant", "--all"]).arg(work.path().join("out")));
    assert!(work.path().join("out/demo.box").exists() && work.path().join("out/odd.box").exists());
}

/// Each is the file of a public report that its target refused; the address is beside it.
#[test]
fn files_that_targets_refused_in_public_reports_are_made_as_they_take_them() {
    if !have(&["python3"]) {
        return;
    }
    let work = work_folder();
    let store = store(work.path());
    let at = |name: &str| work.path().join(name);
    // github.com/nix-community/nixos-generators/issues/364 and 287: "couldn't determine archive info" of a backup by its name.
    let mut command = mif(&store);
    let error = run_failing(command.args(["export", "demo", "--for", "proxmox"]).arg(at("web.vma.zst")), 2);
    assert!(
        error.contains("begins with vzdump-qemu-") && error.contains("vzdump-qemu-web.vma.zst"),
        "{error}"
    );
    // github.com/microsoft/AzureStorageExplorer/issues/3033 and 3029: less than 20 MiB, or no whole MiB. A VHD that is itself a
    // whole number of MiB is refused too (github.com/MicrosoftDocs/azure-docs/pull/5148).
    fs::write(at("small.raw"), vec![7; 5000]).unwrap();
    run(mif(&store).args(["import", "--format", "raw"]).arg(at("small.raw")));
    let report = export(&store, "small", &at("small.vhd"), "azure", &[]);
    assert!(report["notes"].to_string().contains("enlarged to 20971520 bytes"), "{report:#}");
    assert_eq!(fs::metadata(at("small.vhd")).unwrap().len(), (20 << 20) + 512);
    let error = run_failing(
        mif(&store).args(["export", "small", "--for", "azure", "--size", "1M"]).arg(at("less.vhd")),
        2,
    );
    assert!(error.contains("at least 20971520") && error.contains("--size 20971520"), "{error}");

    export(&store, "demo", &at("web.ova"), "vmware-esxi", &[]);
    members(&at("web.ova"), Some(&at("ova")));
    let ovf = fs::read_to_string(at("ova/web.ovf")).unwrap();
    // github.com/ilbers/isar/issues/106: ESXi takes no other format of disks.
    let format = "ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"";
    assert!(ovf.contains(format), "{ovf}");
    // github.com/BlackArch/blackarch/issues/1937, github.com/myspaghetti/macos-virtualbox/issues/300: VMware refuses elements
    // of OVF 2.
    assert!(!ovf.contains("StorageItem") && !ovf.contains("EthernetPortItem"), "{ovf}");
    // github.com/opendedup/sdfs/issues/97: "xsi is an undeclared namespace". Python refuses such a prefix too.
    let parse = "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])";
    run(tool("python3").args(["-c", parse]).arg(at("ova/web.ovf")));
    // github.com/bastibl/instant-gnuradio/issues/34: a manifest with SHA-1.
    assert!(!fs::read_to_string(at("ova/web.mf")).unwrap().contains("SHA1"));
    // github.com/OSInside/kiwi/pull/1140, github.com/vagrant-libvirt/vagrant-libvirt/issues/1794: the virtual size is a number.
    // github.com/hashicorp/vagrant/issues/12829: without a provider, the whole file is "not found".
    export(&store, "odd", &at("web.box"), "vagrant", &[]);
    members(&at("web.box"), Some(&at("box")));
    let metadata: Value = serde_json::from_slice(&fs::read(at("box/metadata.json")).unwrap()).unwrap();
    assert!(metadata["virtual_size"].is_u64() && metadata["provider"] == "libvirt", "{metadata}");
    // github.com/hashicorp/packer/issues/7857: Google takes a tar with a disk.raw, and not with an appliance.
    let mut command = mif(&store);
    let error = run_failing(command.args(["export", "demo", "--for", "gcp"]).arg(at("web.ova")), 2);
    assert!(error.contains("takes .tar.gz or .tgz"), "{error}");
}

/// Returns the part of docs/targets.md that the table of platforms decides.
fn table() -> String {
    let mut text = String::new();
    for platform in PLATFORMS {
        writeln!(text, "\n## {}: `--for {}`\n", platform.title, platform.name).unwrap();
        text += "| file | container | options | archive | size of the disk |\n|---|---|---|---|---|\n";
        for form in platform.forms {
            let suffixes: Vec<String> = form.suffixes.iter().map(|suffix| format!("`.{suffix}`")).collect();
            let options: Vec<String> = form.options.iter().map(|(k, v)| format!("`{k}={v}`")).collect();
            let archive = match &form.wrapper {
                Wrapper::None => String::new(),
                Wrapper::Appliance(machine) => {
                    format!("OVA: `{}`, network `{}`", machine.system, machine.network)
                }
                Wrapper::DiskTar => "tar with `disk.raw`, gzip".to_owned(),
                Wrapper::Vagrant => {
                    "tar with `metadata.json`, `info.json`, `Vagrantfile`, `box.img`".to_owned()
                }
                Wrapper::Backup { is_compressed } => {
                    format!("VMA with `qemu-server.conf`{}", if *is_compressed { ", zstd" } else { "" })
                }
            };
            let mut size = match form.size_step {
                1 => "any".to_owned(),
                step if step >= 1 << 30 => format!("whole {} GiB", step >> 30),
                step if step >= MIB => format!("whole {} MiB", step >> 20),
                step => format!("whole {step} bytes"),
            };
            if form.size_min > 0 {
                write!(size, ", at least {} MiB", form.size_min >> 20).unwrap();
            }
            let suffixes = match form.prefix {
                "" => suffixes.join(" "),
                prefix => suffixes
                    .iter()
                    .map(|suffix| format!("`{prefix}*{}", &suffix[1..]))
                    .collect::<Vec<_>>()
                    .join(" "),
            };
            let options = options.join(" ");
            writeln!(text, "| {suffixes} | {} | {options} | {archive} | {size} |", form.format).unwrap();
        }
        text.push('\n');
        for rule in platform.rules {
            writeln!(text, "- {} [Source]({})", rule.rule, rule.page).unwrap();
        }
        let hardware = Hardware::of(platform.name).expect("every target has hardware");
        let firmware: Vec<&str> = hardware.firmware.iter().map(|it| it.name()).collect();
        let (disks, cards) = (hardware.disks.join("`, `"), hardware.cards.join("`, `"));
        let large = match hardware.large_sectors {
            [] => String::new(),
            large => format!("; sectors of 4096 bytes on `{}`", large.join("`, `")),
        };
        let firmware = firmware.join(", ");
        writeln!(text, "- `mif check`: {firmware}; disks on `{disks}`{large}; cards `{cards}`.").unwrap();
        for (fact, page) in hardware.sources {
            writeln!(text, "- {fact} [Source]({page})").unwrap();
        }
    }
    text.push('\n');
    text
}

#[test]
fn docs_targets_lists_the_targets_of_the_program() {
    let path = repo().join("docs/targets.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- targets -->\n").expect("the mark is there");
    let (there, after) = rest.split_once("<!-- end -->").expect("the section ends");
    let table = table();
    if there != table {
        assert!(std::env::var_os("MIF_TESTS_UPDATE").is_some(), "docs/targets.md is out of date");
        fs::write(&path, format!("{before}<!-- targets -->\n{table}<!-- end -->{after}")).unwrap();
    }
}
