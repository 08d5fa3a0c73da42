//! Paths on Btrfs lead through the subvolumes that the image's system mounts: disks laid out like those of Fedora,
//! openSUSE, Ubuntu and Debian, made and mounted by the kernel.

mod fedora;
mod hostile;
mod opensuse;
mod own_fstab;
mod partitions;

use std::fs;
use std::ops::Deref;
use std::process::Command;

use mif_tests::{WorkFolder, have, is_root, run, skip, tool, work_folder};
use serde_json::Value;

const TOOLS: [&str; 8] =
    ["sfdisk", "mkfs.btrfs", "btrfs", "mount", "mke2fs", "mkfs.vfat", "mcopy", "qemu-img"];
/// The size of a Btrfs volume in mebibytes.
const SIZE: u64 = 128;

const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";
const USR: &str = "8484680c-9521-48c6-9c11-b0720656f69e";

/// Makes a root filesystem in the directory `$1`: `root NAME`; and one file: `put PATH TEXT`.
const HELPERS: &str = r#"
set -e
put() { mkdir -p "$(dirname "$1")"; printf '%s\n' "$2" >"$1"; }
root() {
    mkdir -p "$1/etc" "$1/usr/lib" "$1/usr/bin" "$1/var/lib/dpkg/info" "$1/home" "$1/boot"
    printf 'ID=%s\nPRETTY_NAME="System %s"\n' "$2" "$2" >"$1/usr/lib/os-release"
    ln -s ../usr/lib/os-release "$1/etc/os-release"
    ln -s /usr/lib/os-release "$1/etc/absolute"
    ln -s usr/bin "$1/bin"
    printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\76\0' >"$1/usr/bin/env"
    echo "host-$2" >"$1/etc/hostname"
    printf 'Package: openssl\nStatus: install ok installed\nVersion: %s\n\n' "$2" >"$1/var/lib/dpkg/status"
    printf '/.\n/usr/bin/env\n/home\n' >"$1/var/lib/dpkg/info/openssl.list"
}
sub() { btrfs -q subvolume create "$1"; }
id() { btrfs subvolume show "$1" | awk '/Subvolume ID:/ { print $3 }'; }
cd "$1"
"#;

struct Lab {
    work: WorkFolder,
}

impl Deref for Lab {
    type Target = WorkFolder;

    fn deref(&self) -> &WorkFolder {
        &self.work
    }
}

impl Lab {
    fn new() -> Option<Self> {
        if !have(&TOOLS) || !is_root() && !skip("only root mounts") {
            return None;
        }
        is_root().then(|| Lab { work: work_folder() })
    }

    /// Makes a Btrfs volume, filled by a script in its top level. False if it cannot be mounted here.
    fn btrfs(&self, name: &str, script: &str) -> bool {
        let (image, mnt) = (self.at(name), self.at("mnt"));
        let _ = fs::remove_file(&image);
        fs::File::create(&image).unwrap().set_len(SIZE << 20).unwrap();
        run(tool("mkfs.btrfs").args(["-q", "-L", name]).arg(&image));
        fs::create_dir_all(&mnt).unwrap();
        let mounted = tool("mount").args(["-o", "loop,subvolid=5"]).arg(&image).arg(&mnt).output().unwrap();
        if !mounted.status.success() {
            return skip(&format!("cannot mount: {}", String::from_utf8_lossy(&mounted.stderr)));
        }
        let script = format!("{HELPERS}\n{script}");
        let filled = Command::new("sh").args(["-c", &script, "sh"]).arg(&mnt).output().unwrap();
        run(tool("umount").arg(&mnt));
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        true
    }

    /// Returns what the kernel reads at a path of a Btrfs volume that it mounts with an option; `None` if it refuses the
    /// option.
    fn kernel_reads(&self, name: &str, option: &str, path: &str) -> Option<String> {
        // The kernel remembers volumes by UUID, and this one may have been mounted from another file.
        run(tool("btrfs").args(["device", "scan", "--forget"]));
        let mnt = self.at("mnt");
        let options = format!("loop,ro,{option}");
        let mounted = tool("mount").args(["-o", &options]).arg(self.at(name)).arg(&mnt).output().unwrap();
        if !mounted.status.success() {
            return None;
        }
        let read = fs::read_to_string(mnt.join(path));
        run(tool("umount").arg(&mnt));
        Some(read.unwrap())
    }

    /// Makes an ext4 volume of 16 MiB with these files.
    fn ext4(&self, name: &str, files: &[(&str, &[u8])]) {
        let tree = self.at("tree");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir(&tree).unwrap();
        for (path, content) in files {
            let path = tree.join(path);
            if content.is_empty() {
                fs::create_dir_all(path).unwrap();
                continue;
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let _ = fs::remove_file(self.at(name));
        run(tool("mke2fs")
            .args(["-q", "-t", "ext4", "-L", name, "-d"])
            .arg(&tree)
            .arg(self.at(name))
            .arg("16M"));
    }

    /// Makes a FAT volume of 16 MiB with a file.
    fn fat(&self, name: &str) {
        let image = self.at(name);
        let _ = fs::remove_file(&image);
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(tool("mkfs.vfat").args(["-n", "ESP", "-i", "abcd1234"]).arg(&image));
        fs::write(self.at("file"), "loader").unwrap();
        run(tool("mcopy").arg("-i").arg(&image).arg(self.at("file")).arg("::/loader.conf"));
    }

    /// Joins volumes to a GPT disk, each with its type and attributes, as raw and as qcow2, and imports it.
    fn disk(&self, name: &str, volumes: &[(&str, &str, &str)]) {
        let disk = self.at(&format!("{name}.raw"));
        let (mut table, mut start) = ("label: gpt\n".to_owned(), 1);
        let mut places = Vec::new();
        for (volume, kind, attributes) in volumes {
            let size = fs::metadata(self.at(volume)).unwrap().len() >> 20;
            table += &format!("start={},size={},type={kind}{attributes}\n", start * 2048, size * 2048);
            places.push((volume, start));
            start += size;
        }
        fs::File::create(&disk).unwrap().set_len((start + 1) << 20).unwrap();
        fs::write(self.at("table"), table).unwrap();
        let shell = format!("sfdisk -q {} < {}", disk.display(), self.at("table").display());
        run(tool("sh").args(["-c", &shell]));
        for (volume, start) in places {
            let (from, to) = (self.at(volume), &disk);
            run(tool("dd").arg(format!("if={}", from.display())).arg(format!("of={}", to.display())).args([
                "bs=1M",
                &format!("seek={start}"),
                "conv=notrunc,sparse",
                "status=none",
            ]));
        }
        run(tool("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .arg(&disk)
            .arg(self.at(&format!("{name}.qcow2"))));
        run(&mut self.mif(&[
            "import",
            "--verify",
            "--new-version",
            "--name",
            name,
            &format!("{name}.qcow2"),
        ]));
    }

    fn cat(&self, image: &str, path: &str) -> String {
        run(&mut self.mif(&["cat", image, path]))
    }

    fn info(&self, image: &str) -> Value {
        serde_json::from_str(&run(&mut self.mif(&["--json", "info", image]))).unwrap()
    }
}

/// The three ways to name a disk: the raw file, the qcow2 file, and the stored image.
fn ways(name: &str) -> [String; 3] {
    [format!("./{name}.raw"), format!("./{name}.qcow2"), name.to_owned()]
}

/// A file that is recognised as a kernel.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 70_000];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    kernel[0x300..0x309].copy_from_slice(b"6.1.0 (x)");
    kernel
}
