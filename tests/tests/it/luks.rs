//! Encrypted disks, read with their keys. They are made by cryptsetup, which encrypts a file in place without a device
//! mapper, and by qemu-img; what they hold is judged by the file that was encrypted, qemu-img, and e2fsck.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use mif_tests::disk::{cut, noise, parts, small};
use mif_tests::{WorkFolder, files, have, json, mif, repo, run, run_failing, tool, work_folder};

const TOOLS: &[&str] = &["cryptsetup", "qemu-img", "mke2fs", "e2fsck", "sfdisk"];

const MIB: u64 = 1 << 20;

/// The passphrase: text that is found wherever it were to turn up.
const KEY: &str = "correct horse battery staple";

/// Creates a directory with the file `key`.
fn work() -> WorkFolder {
    let work = work_folder();
    fs::write(work.at("key"), KEY).unwrap();
    work
}

/// Runs qemu-img with the file `key` as the secret `s`.
pub(crate) fn qemu_img(work: &WorkFolder, words: &str) {
    let mut command = tool("qemu-img");
    let (verb, rest) = words.split_once(' ').unwrap();
    command.current_dir(work.path()).args([verb, "--object", "secret,id=s,file=key"]);
    // It measures how fast the machine is, and sometimes fails to.
    for _ in 0..5 {
        let output = command.args(rest.split(' ')).output().unwrap();
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("CPU usage"), "{words}: {said}");
        command = tool("qemu-img");
        command.current_dir(work.path()).args([verb, "--object", "secret,id=s,file=key"]);
    }
    panic!("{words}: qemu-img cannot measure the time");
}

/// Encrypts the file `name` in place: LUKS2, with 16 MiB before the data and 16 MiB after it.
fn encrypt(work: &WorkFolder, name: &str, options: &[&str]) {
    let file = fs::File::options().write(true).open(work.at(name)).unwrap();
    file.set_len(file.metadata().unwrap().len() + 32 * MIB).unwrap();
    let fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    run(tool("cryptsetup")
        .args([
            "reencrypt",
            "--encrypt",
            "--type",
            "luks2",
            "--reduce-device-size",
            "32M",
            "-q",
            "--key-file",
        ])
        .arg(work.at("key"))
        .args(fast)
        .args(options)
        .arg(work.at(name)));
}

/// Makes a GPT disk with these volumes as partitions, at 1 MiB and then one after another.
fn disk_of(work: &WorkFolder, volumes: &[&str], name: &str) {
    let mut bytes = vec![0; MIB as usize];
    let mut table = String::from("label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n");
    for volume in volumes {
        let mut content = fs::read(work.at(volume)).unwrap();
        content.resize(content.len().next_multiple_of(MIB as usize), 0);
        table += &format!("start={}, size={}\n", bytes.len() / 512, content.len() / 512);
        bytes.extend(content);
    }
    bytes.resize(bytes.len() + MIB as usize, 0);
    fs::write(work.at(name), &bytes).unwrap();
    fs::write(work.at("table"), table).unwrap();
    run(tool("sfdisk").arg("-q").arg(work.at(name)).stdin(fs::File::open(work.at("table")).unwrap()));
}

/// Makes `disk.raw`: a plain ext4 on p1, and an encrypted one on p2, with the files `hello` and `big`. Its plaintext is
/// `root.raw`.
fn encrypted_disk(work: &WorkFolder) -> Vec<u8> {
    let big = noise(3, 5_000_000);
    let _ = small(work.path(), "boot", &[("kernel", b"vmlinuz")]);
    let _ = small(work.path(), "root", &[("hello", b"hello, world\n"), ("big", &big)]);
    fs::copy(work.at("root.raw"), work.at("volume")).unwrap();
    encrypt(work, "volume", &["--label", "root disk"]);
    disk_of(work, &["boot.raw", "volume"], "disk.raw");
    big
}

fn uuid_of(volume: &Path) -> String {
    run(tool("cryptsetup").arg("luksUUID").arg(volume)).trim().to_owned()
}

#[test]
fn an_encrypted_partition_is_read_with_its_key() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    let big = encrypted_disk(&work);
    let uuid = uuid_of(&work.at("volume"));
    // Without a key the volume is described, and its files are not there.
    let info = run(&mut work.mif(&["info", "./disk.raw"]));
    assert!(
        info.contains(&format!("crypto_LUKS, LUKS2, aes-xts-plain64, UUID {uuid}, label \"root disk\"")),
        "{info}"
    );
    let listed = work.mif(&["ls", "./disk.raw"]).output().unwrap();
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(said.contains("p2 (LUKS2") && said.contains("--key-file FILE or --ask-key"), "{said}");
    let error = run_failing(&mut work.mif(&["cat", "./disk.raw", "p2:/hello"]), 3);
    assert!(error.contains("p2 (LUKS2") && error.contains("is encrypted"), "{error}");

    let with_key = ["--key-file", "key"];
    let read = |words: &[&str]| work.mif(&[words, &with_key].concat()).output().unwrap().stdout;
    assert_eq!(read(&["cat", "./disk.raw", "p2:/hello"]), b"hello, world\n");
    assert!(read(&["cat", "./disk.raw", "p2:/big"]) == big);
    let listed = String::from_utf8(read(&["ls", "./disk.raw", "p2:/"])).unwrap();
    assert!(listed.contains("big") && listed.contains("hello"), "{listed}");
    run(&mut work.mif(&["extract", "./disk.raw", "p2:/", "--output", "out", "--key-file", "key"]));
    assert!(fs::read(work.at("out/big")).unwrap() == big);
    let info = run(&mut work.mif(&["info", "./disk.raw", "--key-file", "key"]));
    assert!(info.contains("p2: LUKS2, aes-xts-plain64") && info.contains("ext4"), "{info}");
    // Of several keys, one has to open it.
    fs::write(work.at("wrong"), "wrong").unwrap();
    run(&mut work.mif(&["cat", "./disk.raw", "p2:/hello", "--key-file", "wrong", "--key-file", "key"]));

    // The plaintext takes the place of the partition, and zeros follow.
    let report = run(&mut work.mif(&["convert", "./disk.raw", "plain.raw", "--key-file", "key"]));
    assert!(report.contains("note: written as plaintext: p2: LUKS2"), "{report}");
    let (before, after) = (fs::read(work.at("disk.raw")).unwrap(), fs::read(work.at("plain.raw")).unwrap());
    let plain = fs::read(work.at("root.raw")).unwrap();
    assert_eq!(before.len(), after.len());
    let part = parts(&work.at("disk.raw"))[1].clone();
    let (start, end) = (part.start as usize, (part.start + part.len) as usize);
    assert!(after[..start] == before[..start] && after[end..] == before[end..]);
    assert!(after[start..start + plain.len()] == plain);
    // Between them is noise: of what the file was enlarged by, nothing was written.
    let payload = end - start - (16 * MIB) as usize;
    assert!(after[start + plain.len()..start + payload].iter().any(|byte| *byte != 0));
    assert!(after[start + payload..end].iter().all(|byte| *byte == 0));
    cut(&work.at("plain.raw"), part.start, plain.len() as u64, &work.at("checked"));
    run(tool("e2fsck").args(["-fn"]).arg(work.at("checked")));
    // Who may read the ciphertext may not have the key.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(work.at("plain.raw")).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn an_import_keeps_what_is_encrypted_and_a_key_opens_it_in_the_store() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    let big = encrypted_disk(&work);
    run(&mut work.mif(&["import", "--verify", "disk.raw"]));
    run(&mut work.mif(&["export", "disk", "out.raw"]));
    assert!(fs::read(work.at("out.raw")).unwrap() == fs::read(work.at("disk.raw")).unwrap());
    let uuid = uuid_of(&work.at("volume"));
    for image in ["disk", "./disk.raw"] {
        let told =
            json(&work.at("store"), &["info", &image.replace("./", &format!("{}/", work.path().display()))]);
        let luks = &told["volumes"][1]["luks"];
        assert_eq!((&luks["version"], &luks["uuid"]), (&2.into(), &uuid.clone().into()), "{told}");
        assert_eq!((&luks["cipher"], &luks["label"]), (&"aes-xts-plain64".into(), &"root disk".into()));
    }
    let read = work.mif(&["cat", "disk", "p2:/big", "--key-file", "key"]).output().unwrap().stdout;
    assert!(read == big);
    let listed = run(&mut work.mif(&["ls", "disk", "p2:/", "--key-file", "key"]));
    assert!(listed.contains("hello"), "{listed}");
    let error = run_failing(&mut work.mif(&["ls", "disk", "p2:/"]), 3);
    assert!(error.contains("is encrypted"), "{error}");
}

#[test]
fn a_decrypted_import_is_plaintext_and_says_so_and_holds_no_key() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    encrypted_disk(&work);
    let volume_key = {
        let dump = ["luksDump", "-q", "--dump-volume-key", "--key-file"];
        let dumped = run(tool("cryptsetup").args(dump).arg(work.at("key")).arg(work.at("volume")));
        let hex = dumped.split("MK dump:").nth(1).unwrap().replace(char::is_whitespace, "");
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        (0..64).map(byte).collect::<Vec<u8>>()
    };
    let imported = work
        .mif(&["import", "--verify", "--decrypt", "--key-file", "key", "disk.raw", "--json"])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let report: serde_json::Value = serde_json::from_slice(&imported.stdout).unwrap();
    let uuid = uuid_of(&work.at("volume"));
    let said = format!("p2: LUKS2, aes-xts-plain64, UUID {uuid}, label \"root disk\"");
    assert_eq!(report["decrypted"], serde_json::json!([said]));
    let info = json(&work.at("store"), &["info", "disk"]);
    assert_eq!(info["stored"]["provenance"]["decrypted"], serde_json::json!([said]));
    assert_eq!(info["volumes"][1]["content"]["filesystem"]["kind"], "ext4");
    assert!(run(&mut work.mif(&["info", "disk"])).contains(&format!("decrypted      {said}")));
    run(&mut work.mif(&["export", "disk", "plain.raw"]));
    let part = parts(&work.at("plain.raw"))[1].clone();
    let plain = fs::read(work.at("root.raw")).unwrap();
    cut(&work.at("plain.raw"), part.start, plain.len() as u64, &work.at("checked"));
    assert!(fs::read(work.at("checked")).unwrap() == plain);
    // The next import of the file is unchanged, in a batch it is skipped, and its ciphertext is another disk.
    let again = ["import", "--decrypt", "--key-file", "key", "disk.raw"];
    assert!(run(&mut work.mif(&again)).contains("unchanged"));
    assert!(run(&mut work.mif(&[&again[..], &["boot.raw"]].concat())).contains("skipped"));
    let verified = ["verify", "--all", "--against", "disk.raw"];
    let error = work.mif(&verified).output().unwrap();
    let text = String::from_utf8_lossy(&[error.stdout, error.stderr].concat()).into_owned();
    assert!(text.contains("the import decrypted this disk") && text.contains("--key-file"), "{text}");
    run(&mut work.mif(&["verify", "disk", "./disk.raw", "--key-file", "key"]));
    // Derived images have been decrypted as well.
    run(&mut work.mif(&["customize", "disk", "--delete", "p2:/hello", "--as", "other"]));
    let other = json(&work.at("store"), &["info", "other"]);
    assert_eq!(other["stored"]["provenance"]["decrypted"], serde_json::json!([said]));

    let mut all = vec![imported.stdout, imported.stderr];
    all.extend(files(&work.at("store"), "").iter().map(|path| fs::read(path).unwrap()));
    all.push(fs::read(work.at("plain.raw")).unwrap());
    for secret in [KEY.as_bytes(), &volume_key[..32], &volume_key[32..]] {
        let has = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!all.iter().any(has), "a key is in the store or in a report");
    }
}

#[test]
fn keys_and_decrypt_go_together_in_an_import() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    encrypted_disk(&work);
    let error = run_failing(&mut work.mif(&["import", "disk.raw", "--key-file", "key"]), 2);
    assert!(error.contains("--decrypt"), "{error}");
    let error = run_failing(&mut work.mif(&["import", "disk.raw", "--decrypt"]), 2);
    assert!(error.contains("--key-file FILE or --ask-key"), "{error}");
    // A wrong key, no key, and a key for nothing.
    fs::write(work.at("wrong"), format!("{KEY}\n")).unwrap();
    for verb in
        [&["import", "--decrypt", "disk.raw"][..], &["ls", "./disk.raw"], &["convert", "./disk.raw", "x.raw"]]
    {
        let error = run_failing(&mut work.mif(&[verb, &["--key-file", "wrong"]].concat()), 3);
        assert!(error.contains("disk.raw: p2: ") && error.contains("no key opens the volume"), "{error}");
        assert!(error.contains("ends in a line break") && !error.contains(KEY), "{error}");
    }
    fs::write(work.at("empty"), "").unwrap();
    for (file, words) in
        [("empty", "is empty"), ("missing", "cannot read the key"), (".", "cannot read the key")]
    {
        let error = run_failing(&mut work.mif(&["ls", "./disk.raw", "--key-file", file]), 3);
        assert!(error.contains(words), "{error}");
    }
    let report = run(&mut work.mif(&["import", "--decrypt", "--key-file", "key", "boot.raw"]));
    assert!(report.contains("there is no LUKS volume"), "{report}");
    assert!(!work.at("x.raw").exists());
}

#[test]
fn a_key_comes_from_standard_input_and_is_asked_for_only_on_a_terminal() {
    if !have(TOOLS) || !have(&["setsid"]) {
        return;
    }
    let work = work();
    encrypted_disk(&work);
    let key = fs::File::open(work.at("key")).unwrap();
    let read = work.mif(&["cat", "./disk.raw", "p2:/hello", "--key-file", "-"]).stdin(key).output().unwrap();
    assert_eq!(read.stdout, b"hello, world\n");
    let program = mif_tests::mif_path();
    let mut asked = tool("setsid");
    asked
        .arg("-w")
        .arg(program)
        .args(["ls", "./disk.raw", "--ask-key"])
        .current_dir(work.path())
        .stdin(Stdio::null());
    let error = run_failing(&mut asked, 2);
    assert!(error.contains("there is no terminal") && error.contains("--key-file FILE"), "{error}");
}

/// Makes `disk.img`, a disk of 24 MiB with an MBR, and noise in places.
fn plain_disk(work: &WorkFolder) -> Vec<u8> {
    let mut bytes = vec![0; (24 * MIB) as usize];
    let volume = small(work.path(), "root", &[("hello", b"hello, world\n")]);
    let volume = fs::read(volume).unwrap();
    bytes[MIB as usize..MIB as usize + volume.len()].copy_from_slice(&volume);
    bytes[(20 * MIB) as usize..(21 * MIB) as usize].copy_from_slice(&noise(9, MIB as usize));
    fs::write(work.at("disk.img"), &bytes).unwrap();
    fs::write(work.at("table"), "label: dos\nlabel-id: 0x11223344\nstart=2048, size=32768, type=83\n")
        .unwrap();
    run(tool("sfdisk").arg("-q").arg(work.at("disk.img")).stdin(fs::File::open(work.at("table")).unwrap()));
    fs::read(work.at("disk.img")).unwrap()
}

#[test]
fn an_encrypted_qcow2_reads_as_qemu_img_reads_it() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    let disk = plain_disk(&work);
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let cases = [
        ("plain", ""),
        ("small", ",cluster_size=4k"),
        ("old", ",compat=0.10,cluster_size=512"),
        ("subclusters", ",extended_l2=on,cluster_size=128k"),
        ("external", ",data_file=external.data"),
        (
            "cbc",
            ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1",
        ),
        ("aes128", ",encrypt.cipher-alg=aes-128,preallocation=metadata"),
    ];
    for (name, options) in cases {
        qemu_img(&work, &format!("convert -f raw -O qcow2 -o {luks}{options} disk.img {name}.qcow2"));
        let (image, out) = (format!("./{name}.qcow2"), format!("{name}.raw"));
        run(&mut work.mif(&["convert", &image, &out, "--key-file", "key"]));
        assert!(fs::read(work.at(&out)).unwrap() == disk, "{name}");
        let listed = run(&mut work.mif(&["ls", &image, "p1:/", "--key-file", "key"]));
        assert!(listed.contains("hello"), "{name}: {listed}");
    }
    let info = run(&mut work.mif(&["info", "./cbc.qcow2", "--key-file", "key"]));
    assert!(info.contains("LUKS1, aes-cbc-essiv:sha256, UUID"), "{info}");
    // Without its key it is no disk, and the error says what to do.
    for verb in [&["import"][..], &["ls"]] {
        let error = run_failing(&mut work.mif(&[verb, &["./plain.qcow2"]].concat()), 4);
        assert!(error.contains("plain.qcow2") && error.contains("is encrypted (LUKS1"), "{error}");
        assert!(
            error.contains("--key-file FILE or --ask-key") && error.contains("import --decrypt"),
            "{error}"
        );
    }
    let report = run(&mut work.mif(&["import", "--verify", "--decrypt", "--key-file", "key", "plain.qcow2"]));
    assert!(report.contains("stored as plaintext: ") && report.contains("plain.qcow2: LUKS1"), "{report}");
    run(&mut work.mif(&["export", "plain", "again.raw"]));
    assert!(fs::read(work.at("again.raw")).unwrap() == disk);
}

#[test]
fn chains_of_encrypted_images_open_with_the_keys_of_all() {
    if !have(TOOLS) || !have(&["qemu-io"]) {
        return;
    }
    let work = work();
    plain_disk(&work);
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    qemu_img(&work, &format!("convert -f raw -O qcow2 -o {luks} disk.img base.qcow2"));
    fs::copy(work.at("key"), work.at("first")).unwrap();
    // The overlay has another key.
    fs::write(work.at("key"), "another").unwrap();
    qemu_img(
        &work,
        &format!("create -f qcow2 -o {luks},backing_file=base.qcow2,backing_fmt=qcow2 -u over.qcow2 24M"),
    );
    let opened = "driver=qcow2,file.filename=over.qcow2,encrypt.key-secret=s,backing.driver=qcow2,\
                  backing.file.filename=base.qcow2,backing.encrypt.key-secret=t";
    let secrets = ["--object", "secret,id=s,file=key", "--object", "secret,id=t,file=first"];
    run(tool("qemu-io").current_dir(work.path()).args(secrets).args([
        "--image-opts",
        opened,
        "-c",
        "write -P 7 3M 100k",
    ]));
    run(tool("qemu-img").current_dir(work.path()).arg("convert").args(secrets).args([
        "--image-opts",
        opened,
        "-O",
        "raw",
        "theirs.raw",
    ]));
    run(&mut work.mif(&["convert", "./over.qcow2", "ours.raw", "--key-file", "key", "--key-file", "first"]));
    assert!(fs::read(work.at("ours.raw")).unwrap() == fs::read(work.at("theirs.raw")).unwrap());
    let error = run_failing(&mut work.mif(&["info", "./over.qcow2", "--key-file", "key"]), 3);
    assert!(error.contains("base.qcow2") && error.contains("no key opens"), "{error}");
    // A raw LUKS file as the parent, which the overlay names as one.
    qemu_img(&work, "convert -f raw -O luks -o key-secret=s,iter-time=10 disk.img base.luks");
    run(tool("qemu-img")
        .current_dir(work.path())
        .args(["create", "-q", "-f", "qcow2", "-b", "base.luks", "-F", "luks", "-u"])
        .args(["on.qcow2", "24M"]));
    run(&mut work.mif(&["convert", "./on.qcow2", "on.raw", "--key-file", "key"]));
    assert!(fs::read(work.at("on.raw")).unwrap() == fs::read(work.at("disk.img")).unwrap());
}

#[test]
fn a_file_that_is_one_luks_volume_is_its_payload() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    let disk = plain_disk(&work);
    qemu_img(&work, "convert -f raw -O luks -o key-secret=s,iter-time=10 disk.img one.raw");
    // cryptsetup encrypts no disk with a partition table in place.
    fs::copy(work.at("root.raw"), work.at("two.raw")).unwrap();
    encrypt(&work, "two.raw", &["--sector-size", "1024"]);
    let root = fs::read(work.at("root.raw")).unwrap();
    for (name, format, volume, disk) in [
        ("one", "luks", "p1:/", &disk),
        ("one", "raw", "p1:/", &disk),
        ("two", "raw", "p0:/", &root),
        ("two", "luks", "p0:/", &root),
    ] {
        let (image, out) = (format!("./{name}.raw"), format!("{name}-{format}.out.raw"));
        run(&mut work.mif(&["convert", &image, &out, "-f", format, "--key-file", "key"]));
        let out = fs::read(work.at(&out)).unwrap();
        assert!(out[..disk.len()] == disk[..], "{name}");
        let listed = run(&mut work.mif(&["ls", &image, volume, "--key-file", "key"]));
        assert!(listed.contains("hello"), "{name}: {listed}");
    }
    // As it is, or as its payload.
    run(&mut work.mif(&["import", "one.raw"]));
    run(&mut work.mif(&["export", "one", "one-out.raw"]));
    assert!(fs::read(work.at("one-out.raw")).unwrap() == fs::read(work.at("one.raw")).unwrap());
    run(&mut work.mif(&["import", "--decrypt", "--key-file", "key", "--name", "plain", "one.raw"]));
    run(&mut work.mif(&["export", "plain", "plain-out.raw"]));
    assert!(fs::read(work.at("plain-out.raw")).unwrap() == disk);
    let info = json(&work.at("store"), &["info", "plain"]);
    let decrypted = info["stored"]["provenance"]["decrypted"][0].as_str().unwrap();
    assert!(decrypted.starts_with("the disk: LUKS1, aes-xts-plain64, UUID "), "{decrypted}");
    let error =
        run_failing(&mut work.mif(&["convert", "./disk.img", "x.raw", "-f", "luks", "--key-file", "key"]), 3);
    assert!(error.contains("not a LUKS volume"), "{error}");
    let error = run_failing(&mut work.mif(&["info", "./one.raw", "-f", "luks"]), 4);
    assert!(error.contains("--key-file"), "{error}");
}

/// Debian's and Ubuntu's layout, LVM in an encrypted partition, which LibreCrypt showed as a drive without bytes
/// (<https://github.com/t-d-k/LibreCrypt/issues/22>). And the other way round, which is opened once and not again
/// (<https://github.com/kubev2v/forklift/issues/3033>).
#[test]
fn lvm_in_luks_and_luks_in_lvm_are_read() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    // `vg0/root` is 4 MiB at 1 MiB and 3 MiB at 7 MiB: see fixtures/lvm.
    let physical = |volume: &[u8], name: &str| {
        let (mut volume, mib) = (volume.to_vec(), MIB as usize);
        volume.resize(7 * mib, 0);
        let mut bytes = fs::read(repo().join("fixtures/lvm/pv-head.bin")).unwrap();
        bytes.resize(24 * mib, 0);
        bytes[mib..5 * mib].copy_from_slice(&volume[..4 * mib]);
        bytes[7 * mib..10 * mib].copy_from_slice(&volume[4 * mib..]);
        fs::write(work.at(name), bytes).unwrap();
    };
    let filesystem = |name: &str, size: u64| {
        fs::create_dir_all(work.at("tree")).unwrap();
        fs::write(work.at("tree/hello"), "hello, world\n").unwrap();
        fs::File::create(work.at(name)).unwrap().set_len(size).unwrap();
        run(tool("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .arg(work.at("tree"))
            .arg(work.at(name)));
        fs::read(work.at(name)).unwrap()
    };
    physical(&filesystem("seven", 7 * MIB), "inside");
    encrypt(&work, "inside", &[]);
    disk_of(&work, &["inside"], "lvm-in-luks.raw");
    filesystem("four", 4 * MIB);
    qemu_img(&work, "convert -f raw -O luks -o key-secret=s,iter-time=10 four four.luks");
    physical(&fs::read(work.at("four.luks")).unwrap(), "luks-in-lvm.raw");
    for (disk, said) in [("lvm-in-luks", "p1: LUKS2"), ("luks-in-lvm", "vg0/root: LUKS1")] {
        let image = format!("./{disk}.raw");
        let read = run(&mut work.mif(&["cat", &image, "vg0/root:/hello", "--key-file", "key"]));
        assert_eq!(read, "hello, world\n", "{disk}");
        let report = run(&mut work.mif(&["import", "--verify", "--decrypt", "--key-file", "key", &image]));
        assert!(report.contains(&format!("stored as plaintext: {said}")), "{report}");
        assert_eq!(run(&mut work.mif(&["cat", disk, "vg0/root:/hello"])), "hello, world\n", "{disk}");
    }
}

#[test]
fn a_volume_that_no_key_opens_stays_as_it_is_beside_one_that_opens() {
    if !have(TOOLS) {
        return;
    }
    let work = work();
    for name in ["one", "two"] {
        let _ = small(work.path(), name, &[("hello", name.as_bytes())]);
        encrypt(&work, &format!("{name}.raw"), &[]);
        fs::rename(work.at("key"), work.at(&format!("{name}.key"))).unwrap();
        fs::write(work.at("key"), "another").unwrap();
    }
    disk_of(&work, &["one.raw", "two.raw"], "both.raw");
    let cat = |path: &str, keys: &[&str]| run(&mut work.mif(&[&["cat", "./both.raw", path], keys].concat()));
    let both = ["--key-file", "one.key", "--key-file", "two.key"];
    assert_eq!((cat("p1:/hello", &both), cat("p2:/hello", &both)), ("one".into(), "two".into()));
    let report = run(&mut work.mif(&["import", "--decrypt", "--key-file", "two.key", "both.raw"]));
    assert!(report.contains("stored as plaintext: p2: LUKS2"), "{report}");
    assert!(report.contains("warning: p1: not decrypted") && report.contains("no key opens"), "{report}");
    let part = parts(&work.at("both.raw"))[0].clone();
    run(mif(&work.at("store")).args(["export", "both"]).arg(work.at("out.raw")));
    let range = part.start as usize..(part.start + part.len) as usize;
    let (before, after) = (fs::read(work.at("both.raw")).unwrap(), fs::read(work.at("out.raw")).unwrap());
    assert!(before[range.clone()] == after[range]);
}
