//! Metadata of containers: identities, sizes, sector sizes.

use std::fs;
use std::path::Path;

use mif_tests::disk::small;
use mif_tests::{have, mif, run, run_failing, tool, work_folder};

const MIB: usize = 1 << 20;
const FORMATS: [&str; 4] = ["vdi", "vhd", "vhdx", "vmdk"];
const UUID: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// Writes a disk that contains no identity.
fn disk(path: &Path, byte: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4 * MIB];
    bytes[MIB..MIB + 5000].fill(byte);
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Returns the identities in a container, as the format stores them.
fn identities(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "vdi" => vec![bytes[392..408].to_vec(), bytes[408..424].to_vec()],
        "vhd" => vec![bytes[bytes.len() - 512..][68..84].to_vec()],
        // The write GUIDs of the file and of the data, and the disk's.
        "vhdx" => {
            let id = 2 * MIB + 65536 + 16;
            vec![bytes[65552..65568].to_vec(), bytes[65568..65584].to_vec(), bytes[id..id + 16].to_vec()]
        }
        _ => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(20_000)]).into_owned();
            let value = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or_else(|| panic!("{key} in {text}")).trim_matches(['"', ' ']).as_bytes().to_vec()
            };
            vec![value("CID="), value("ddb.uuid.image=")]
        }
    }
}

#[test]
fn a_disk_has_one_identity_and_another_disk_another_one() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("a.raw"), 1);
    disk(&at("b.raw"), 2);
    fs::create_dir(at("again")).unwrap();
    let store = at("store");
    run(mif(&store).arg("import").arg(at("a.raw")));
    let options: &[(&str, &[&str])] = &[
        ("vdi", &[""]),
        ("vhd", &["", "subformat=fixed"]),
        ("vhdx", &[""]),
        (
            "vmdk",
            &[
                "",
                "subformat=streamOptimized",
                "subformat=monolithicFlat",
                "subformat=twoGbMaxExtentSparse",
                "subformat=twoGbMaxExtentFlat",
            ],
        ),
    ];
    for (format, variants) in options {
        let mut of_subformats = Vec::new();
        for option in *variants {
            let option = if option.is_empty() { Vec::new() } else { vec!["-o", option] };
            let convert = |from: &str, to: &str, more: &[&str]| {
                let to = at(&format!("{to}.{format}"));
                run(mif(&store)
                    .arg("convert")
                    .arg(at(from))
                    .arg(&to)
                    .args(&option)
                    .args(more)
                    .arg("--force"));
                identities(&to)
            };
            let first = convert("a.raw", "a", &[]);
            assert_eq!(convert("a.raw", "again/a", &[]), first);
            let same = fs::read(at(&format!("a.{format}"))).unwrap()
                == fs::read(at(&format!("again/a.{format}"))).unwrap();
            assert!(same, "{format} {option:?}: the same disk gives the same file");
            let export = |to: &str, more: &[&str]| {
                let to = at(&format!("{to}.{format}"));
                run(mif(&store).args(["export", "a"]).arg(&to).args(&option).args(more).arg("--force"));
                identities(&to)
            };
            // The stored disk is the same disk; with a seed it is another, even though this one contains no identity.
            assert_eq!(export("a", &[]), first);
            let mut all = vec![
                first.clone(),
                convert("b.raw", "b", &[]),
                convert("a.raw", "c", &["-o", "seed=x"]),
                export("d", &["--new-ids", "--seed", "x"]),
                export("e", &["--new-ids", "--seed", "y"]),
            ];
            assert_eq!(export("d", &["--new-ids", "--seed", "x"]), all[3]);
            let set = format!("uuid={UUID}");
            let own = convert("a.raw", "u", &["-o", &set]);
            all.push(own.clone());
            for (i, one) in all.iter().enumerate() {
                for other in &all[..i] {
                    let differ = one.iter().zip(other).all(|(a, b)| a != b);
                    assert!(differ, "{format} {option:?}: {one:?} and {other:?}");
                }
            }
            // The stored form: VHD keeps the order of the text, VDI and VHDX use Microsoft's GUIDs, VMDK text.
            let plain: Vec<u8> = (0..16)
                .map(|i| u8::from_str_radix(&UUID.replace('-', "")[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let mut guid = plain.clone();
            guid[..4].reverse();
            guid[4..6].reverse();
            guid[6..8].reverse();
            match *format {
                "vdi" => assert_eq!(own[0], guid),
                "vhd" => assert_eq!(own[0], plain),
                "vhdx" => assert_eq!(own[2], guid),
                _ => assert_eq!(own[1], UUID.as_bytes()),
            }
            of_subformats.push(first);
            let name = at(&format!("a.{format}"));
            run(mif(&store).arg("convert").arg(name).arg(at("back.raw")).arg("--force"));
            assert!(fs::read(at("back.raw")).unwrap() == bytes, "{format} {option:?}");
        }
        assert!(of_subformats.iter().all(|ids| *ids == of_subformats[0]), "{format}: {of_subformats:?}");
    }
    let error =
        run_failing(mif(&store).arg("convert").arg(at("a.raw")).arg(at("x.vdi")).args(["-o", "uuid=1"]), 4);
    assert!(error.contains("expected a UUID") && !at("x.vdi").exists(), "{error}");
    // A format without an identity has nothing to derive.
    run(mif(&store).args(["export", "a"]).arg(at("x.qcow2")).arg("--new-ids"));
}

#[test]
fn qemu_reads_what_has_an_identity_and_a_child_knows_its_base() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("a.raw"), 1);
    disk(&at("b.raw"), 2);
    for format in FORMATS {
        let image = at(&format!("a.{format}"));
        run(mif(&at("s")).arg("convert").arg(at("a.raw")).arg(&image));
        run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(&image).arg(at("back.raw")));
        assert!(fs::read(at("back.raw")).unwrap() == bytes, "{format}");
    }
    let child = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "a.vmdk", "child.vmdk"];
    run(tool("qemu-img").current_dir(work.path()).args(child));
    run(mif(&at("s")).arg("convert").arg(at("child.vmdk")).arg(at("back.raw")).arg("--force"));
    assert!(fs::read(at("back.raw")).unwrap() == bytes);
    // Another disk has the base's name.
    run(mif(&at("s")).arg("convert").arg(at("b.raw")).arg(at("a.vmdk")).arg("--force"));
    let convert = |more: &[&Path]| {
        let mut command = mif(&at("s"));
        command.arg("convert").arg(at("child.vmdk")).arg(at("back.raw")).arg("--force").args(more);
        command
    };
    let error = run_failing(&mut convert(&[]), 3);
    assert!(error.contains("parentCID"), "{error}");
    // The user can insist, and gets a warning.
    let base = at("a.vmdk");
    let output = convert(&[Path::new("--parent"), &base]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("warning") && said.contains("parentCID"), "{said}");
    assert!(fs::read(at("back.raw")).unwrap() == fs::read(at("b.raw")).unwrap());
}

/// Changes the creator and geometry in the footer of a VHD.
fn refoot(vhd: &mut [u8], creator: &[u8; 4], geometry: [u8; 4]) {
    let places = if vhd.starts_with(b"conectix") { vec![0, vhd.len() - 512] } else { vec![vhd.len() - 512] };
    for at in places {
        let footer = &mut vhd[at..at + 512];
        footer[28..32].copy_from_slice(creator);
        footer[56..60].copy_from_slice(&geometry);
        footer[64..68].fill(0);
        let sum = !footer.iter().map(|b| u32::from(*b)).sum::<u32>();
        footer[64..68].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn a_vhd_is_as_large_as_its_footer_says_unless_virtual_pc_made_it() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let mut bytes = disk(&at("a.raw"), 1);
    let len = bytes.len();
    // Like a backup GPT: in the last sectors, which the rounded geometry leaves out.
    bytes[len - 33 * 512..].fill(7);
    fs::write(at("a.raw"), &bytes).unwrap();
    let rounded = [0, 119, 4, 17];
    let by_geometry = 119 * 4 * 17 * 512;
    for subformat in ["fixed", "dynamic"] {
        let option = format!("subformat={subformat}");
        run(mif(&at("s")).arg("convert").arg(at("a.raw")).arg(at("a.vhd")).args(["-o", &option, "--force"]));
        let plain = fs::read(at("a.vhd")).unwrap();
        for (creator, whole) in [(b"wa\0\0", true), (b"vbox", true), (b"any!", true), (b"vpc ", false)] {
            let mut vhd = plain.clone();
            refoot(&mut vhd, creator, rounded);
            fs::write(at("b.vhd"), vhd).unwrap();
            run(mif(&at("s")).arg("convert").arg(at("b.vhd")).arg(at("b.raw")).arg("--force"));
            let expected = if whole { &bytes[..] } else { &bytes[..by_geometry] };
            assert!(fs::read(at("b.raw")).unwrap() == expected, "{subformat} {creator:?}");
            let info = run(mif(&at("s")).arg("info").arg(at("b.vhd")));
            assert!(info.contains("119/4/17"), "the two sizes are said: {info}");
            let warned = info.contains("not part of the disk");
            assert_eq!(warned, !whole, "{info}");
        }
    }
}

#[test]
fn the_size_of_sectors_goes_into_vhdx_and_is_said_elsewhere() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    disk(&at("a.raw"), 1);
    let convert = |from: &str, to: &str, more: &[&str]| {
        let mut command = mif(&at("s"));
        command.arg("convert").arg(at(from)).arg(at(to)).args(more).arg("--force");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{from} {to}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let size = |name: &str| {
        let info = run(mif(&at("s")).arg("info").arg(at(name)));
        let line = info.lines().find(|line| line.contains("sector size")).unwrap().to_owned();
        line.split_whitespace().nth(2).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(convert("a.raw", "plain.vhdx", &[]), "");
    assert_eq!(size("plain.vhdx"), 512);
    assert_eq!(convert("a.raw", "4k.vhdx", &["-o", "logical_sector_size=4096"]), "");
    assert_eq!((size("4k.vhdx"), convert("4k.vhdx", "again.vhdx", &[]).as_str()), (4096, ""));
    assert_eq!(size("again.vhdx"), 4096);
    for to in ["x.vmdk", "x.vhd", "x.vdi", "x.qcow2", "x.raw"] {
        let said = convert("4k.vhdx", to, &[]);
        assert!(said.contains("4096-byte sectors"), "{to}: {said}");
    }
    let said = convert("4k.vhdx", "x.vhdx", &["-o", "logical_sector_size=512"]);
    assert!(said.contains("4096"), "{said}");
    // Through the store, which keeps it with the table.
    run(mif(&at("s")).arg("import").arg(at("4k.vhdx")).args(["--name", "d"]));
    run(mif(&at("s")).args(["export", "d"]).arg(at("out.vhdx")));
    assert_eq!(size("out.vhdx"), 4096);
    let output = mif(&at("s")).args(["export", "d"]).arg(at("out.vmdk")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("4096-byte sectors"));
    // An image made from it keeps it too.
    if have(&["mke2fs"]) {
        let _disk = small(work.path(), "fs", &[("issue", b"hello\n")]);
        convert("fs.raw", "fs.vhdx", &["-o", "logical_sector_size=4096"]);
        run(mif(&at("s")).arg("import").arg(at("fs.vhdx")));
        run(mif(&at("s")).args(["customize", "fs", "--as", "made", "--write", "/motd:hi"]));
        run(mif(&at("s")).args(["export", "made"]).arg(at("made.vhdx")));
        assert_eq!(size("made.vhdx"), 4096);
    }
}
