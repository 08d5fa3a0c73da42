//! Disks with NTFS volumes, as Windows leaves them: imported and restored, with streams, compressed files, and paths as
//! Windows writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mif_tests::dissect::{assert_dissect_agrees, have_dissect};
use mif_tests::{
    assert_second_reader_agrees, have, is_root, json, mif, repo, run, run_failing, skip, tool, work_folder,
};

/// The first sector of the NTFS volume, and its size in MiB.
const START: u64 = 36 * 2048;
const MIB: u64 = 80;

/// Fills the volume mounted at `$1`; `$2` compresses files as `compact /exe` does, and hives are in `$3`.
const FILL: &str = r#"
set -e
cd "$1"
mkdir -p Windows/System32/config Windows/System32/drivers/etc Users/Ada Logs
cp "$3/SOFTWARE" "$3/SYSTEM" Windows/System32/config
printf '127.0.0.1 localhost\r\n' >Windows/System32/drivers/etc/hosts
echo hello >Users/Ada/Note.txt
printf '[ZoneTransfer]\r\nZoneId=3\r\n' >Users/Ada/Note.txt:Zone.Identifier
echo 'of a directory' >Users:tag
ln Users/Ada/Note.txt Users/Ada/same.txt
seq 1 60000 >text
head -c 300000 /dev/urandom >noise
# Compressed by NTFS itself.
setfattr -h -n system.ntfs_attrib_be -v 0x00000800 Logs
seq 1 90000 >Logs/setup.log
{ seq 1 20000; head -c 200000 /dev/urandom; seq 1 20000; } >Logs/mixed.log
truncate -s 2M Logs/sparse.log; echo end >>Logs/sparse.log
# Compressed as programs of Windows 10 and 11 are: a stream, and a reparse point with the number of the algorithm.
wof() {
    seq "$4" "$5" >"/tmp/wof-$$"
    "$2" "$3" "${6:-4096}" "/tmp/wof-$$" >"/tmp/wof-$$.stream"
    truncate -s "$(stat -c %s "/tmp/wof-$$")" "$1"
    cp "/tmp/wof-$$.stream" "$1:WofCompressedData"
    setfattr -h -n system.ntfs_reparse_data -v "0x1700008010000000010000000200000001000000$7" "$1"
    rm "/tmp/wof-$$" "/tmp/wof-$$.stream"
}
wof Windows/xpress4.exe "$2" xpress 1 40000 4096 00000000
wof Windows/lzx.exe "$2" lzx 1 70000 32768 01000000
wof Windows/xpress8.exe "$2" xpress 5 30000 8192 02000000
wof Windows/xpress16.exe "$2" xpress 7 50000 16384 03000000
"#;

/// What the files of WOF hold, because ntfs-3g shows only what is stored of them.
const WOF: [(&str, u32, u32); 4] =
    [("xpress4", 1, 40_000), ("lzx", 1, 70_000), ("xpress8", 5, 30_000), ("xpress16", 7, 50_000)];

/// A volume that ntfs-3g has mounted; dropping it unmounts.
struct Mounted(PathBuf, Child);

impl Mounted {
    fn new(volume: &Path, mnt: &Path) -> Option<Self> {
        fs::create_dir_all(mnt).unwrap();
        let mut driver = tool("ntfs-3g");
        driver.args([volume, mnt]).args(["-o", "no_detach,noatime,compression,streams_interface=windows"]);
        let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !tool("mountpoint").arg("-q").arg(mnt).status().unwrap().success() {
            if let Some(status) = driver.try_wait().unwrap() {
                let _ = skip(&format!("ntfs-3g cannot mount: {status}"));
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Mounted(mnt.to_owned(), driver))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..100 {
            if tool("umount").arg(&self.0).status().unwrap().success() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.1.wait().unwrap();
    }
}

/// Makes a disk with a GPT, an ESP, a reserved partition and an NTFS volume. `None` if it cannot be made here.
fn windows(work: &Path) -> Option<PathBuf> {
    if !have(&[
        "mkntfs",
        "ntfs-3g",
        "setfattr",
        "wimlib-imagex",
        "sfdisk",
        "mkfs.vfat",
        "mountpoint",
        "python3",
        "hivexregedit",
    ]) {
        return None;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return None;
    }
    let (volume, disk) = (work.join("volume"), work.join("windows.raw"));
    for (name, text) in [("SOFTWARE", "software.reg"), ("SYSTEM", "system.reg")] {
        let fixtures = repo().join("fixtures");
        let mut make = tool(fixtures.join("make-hive"));
        run(make
            .arg(format!(r"HKEY_LOCAL_MACHINE\{name}"))
            .args([fixtures.join("windows").join(text), work.join(name)]));
    }
    fs::File::create(&volume).unwrap().set_len(MIB << 20).unwrap();
    run(tool("mkntfs").args(["-q", "-F", "-f", "-L", "Windows", "-p", &START.to_string()]).arg(&volume));
    let mounted = Mounted::new(&volume, &work.join("mnt"))?;
    let script = repo().join("fixtures/wof-stream");
    let filled =
        Command::new("sh").args(["-c", FILL, "sh"]).arg(&mounted.0).arg(script).arg(work).output().unwrap();
    drop(mounted);
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    let table = format!(
        "label: gpt\nstart=2048, size=32768, type=uefi\n\
         start=34816, size=32768, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\n\
         start={START}, size={}, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n",
        MIB << 11
    );
    fs::File::create(&disk).unwrap().set_len((MIB + 38) << 20).unwrap();
    fs::write(work.join("table"), table).unwrap();
    let script = "sfdisk -q \"$1\" <\"$2\" && mkfs.vfat --offset 2048 -F 16 \"$1\" 16384 >/dev/null && \
                  dd if=\"$3\" of=\"$1\" bs=1M seek=36 conv=notrunc,sparse status=none";
    run(tool("sh").args(["-c", script, "sh"]).args([&disk, &work.join("table"), &volume]));
    Some(disk)
}
fn lines(first: u32, last: u32) -> Vec<u8> {
    (first..=last).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

#[test]
fn a_disk_of_windows_goes_in_and_comes_out_and_its_files_are_what_ntfs_3g_shows() {
    let work = work_folder();
    let (work, store) = (work.path(), work.path().join("store"));
    let Some(disk) = windows(work) else { return };
    run(tool("qemu-img").args(["convert", "-O", "qcow2", "-c"]).arg(&disk).arg(work.join("packed.qcow2")));
    for image in [disk.clone(), work.join("packed.qcow2")] {
        run(mif(&store).args(["import", "--verify", "--strict"]).arg(&image));
        let name = image.file_stem().unwrap();
        run(mif(&store).args(["export", "--force"]).arg(name).arg(work.join("out.raw")));
        run(tool("cmp").arg(&disk).arg(work.join("out.raw")));
    }
    let stored = json(&store, &["import", "--name", "again", disk.to_str().unwrap()]);
    assert_eq!(stored["added"]["objects"], 0, "{stored}");
    if have_dissect() {
        // What WOF compressed, dissect reads as zeros.
        let unlike = ["/Windows/lzx", "/Windows/xpress"];
        assert_dissect_agrees(&store, ("windows", "p3"), "ntfs", (&disk, START * 512), &unlike);
    }
    let mounted = Mounted::new(&work.join("volume"), &work.join("mnt")).unwrap();
    let shown = |path: &str| fs::read(mounted.0.join(path)).unwrap();
    let read = |image: &str, path: &str| mif(&store).args(["cat", image, path]).output().unwrap().stdout;
    for image in ["windows", disk.to_str().unwrap()] {
        for path in [
            "Windows/System32/drivers/etc/hosts",
            "Users/Ada/Note.txt",
            "Users/Ada/Note.txt:Zone.Identifier",
            "Users:tag",
            "Users/Ada/same.txt",
            "text",
            "noise",
            "Logs/setup.log",
            "Logs/mixed.log",
            "Logs/sparse.log",
        ] {
            assert!(read(image, &format!("p3:/{path}")) == shown(path), "{image}: {path}");
            let of_windows = format!(r"C:\{}", path.replace('/', "\\"));
            assert!(read(image, &of_windows) == shown(path), "{image}: {of_windows}");
            let lower = of_windows.to_lowercase();
            assert!(read(image, &lower) == shown(path), "{image}: {lower}");
        }
        for (name, first, last) in WOF {
            assert!(read(image, &format!("/Windows/{name}.exe")) == lines(first, last), "{image}: {name}");
        }
    }
    run(mif(&store).arg("fsck"));
    assert_second_reader_agrees(&store);
}

#[test]
fn streams_are_listed_found_compared_and_extracted_by_name() {
    let work = work_folder();
    let (work, store) = (work.path(), work.path().join("store"));
    let Some(disk) = windows(work) else { return };
    run(mif(&store).arg("import").arg(&disk));
    let record = fs::read_to_string(store.join("images/name=windows/version=1/image.json")).unwrap();
    assert!(record.contains("\"streams\""), "{record}");
    let listed = run(mif(&store).args(["ls", "windows", r"C:\Users\Ada"]));
    assert!(
        listed.contains("Note.txt:Zone.Identifier") && listed.contains("same.txt:Zone.Identifier"),
        "{listed}"
    );
    let found = run(mif(&store).args(["search", "*:Zone.Identifier"]));
    assert!(found.contains("/Users/Ada/Note.txt:Zone.Identifier") && found.contains("2 found"), "{found}");
    let found = run(mif(&store).args(["search", "Note.txt"]));
    assert!(found.contains("1 found"), "{found}");
    // A WOF file has no stream that users see.
    assert!(!run(mif(&store).args(["ls", "-R", "windows"])).contains("WofCompressedData"));
    run(mif(&store).args(["extract", "windows", "/Users", "-o"]).arg(work.join("users")));
    assert!(!work.join("users/Ada/Note.txt:Zone.Identifier").exists());
    let stream = "/Users/Ada/Note.txt:Zone.Identifier";
    run(mif(&store).args(["extract", "windows", stream, "-o"]).arg(work.join("stream")));
    let zone = fs::read_to_string(work.join("stream/Note.txt:Zone.Identifier")).unwrap();
    assert_eq!(zone, "[ZoneTransfer]\r\nZoneId=3\r\n");
    let rows = json(&store, &["ls", "windows", "/Users/Ada"]);
    let types: Vec<_> =
        rows["entries"].as_array().unwrap_or(&Vec::new()).iter().map(|row| row["type"].clone()).collect();
    assert!(types.contains(&"stream".into()), "{rows}");
    // Changed by ntfs-3g: the difference is in the stream alone.
    let mounted = Mounted::new(&work.join("volume"), &work.join("mnt")).unwrap();
    fs::write(mounted.0.join("Users/Ada/Note.txt:Zone.Identifier"), "other").unwrap();
    drop(mounted);
    run(mif(&store).args(["import", "--name", "other"]).arg(work.join("volume")));
    run(mif(&store).args(["import", "--name", "changed"]).arg(work.join("volume")));
    let differences = mif(&store).args(["diff", "other", "changed"]).output().unwrap();
    assert_eq!(differences.status.code(), Some(0), "{differences:?}");
    let differences = mif(&store).args(["diff", "--ignore-times", "windows", "other"]).output().unwrap();
    let text = String::from_utf8_lossy(&differences.stdout);
    assert!(text.contains("/Users/Ada/Note.txt:Zone.Identifier"), "{text}");
    assert!(!text.contains("/Users/Ada/Note.txt\n"), "{text}");
}

#[test]
fn windows_is_named_and_its_programs_are_listed() {
    let work = work_folder();
    let (work, store) = (work.path(), work.path().join("store"));
    let Some(disk) = windows(work) else { return };
    run(mif(&store).args(["import", "--strict"]).arg(&disk));
    for image in ["windows", disk.to_str().unwrap()] {
        let system = json(&store, &["info", image])["system"].clone();
        let os = &system["os"];
        assert_eq!(os["name"], "Windows 11 Pro 23H2 (build 22631.2861)", "{system}");
        assert_eq!(
            (&os["id"], &os["version"], &os["edition"]),
            (&"windows".into(), &"10.0.22631.2861".into(), &"Professional".into())
        );
        assert_eq!((&system["architecture"], &system["hostname"]), (&"x86_64".into(), &"ada-pc".into()));
        let report = json(&store, &["packages", image]);
        assert!(report["warnings"].as_array().unwrap().is_empty(), "{report}");
        let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
        let mut rows: Vec<String> = report["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                assert_eq!((&row["manager"], &row["volume"]), (&"windows".into(), &"p3".into()), "{row}");
                format!("{}|{}|{}", text(row, "name"), text(row, "version"), text(row, "architecture"))
            })
            .collect();
        rows.sort();
        assert_eq!(
            rows,
            [
                "%SystemRoot% tool|3|x86",
                "7-Zip 19.00|19.00|x86",
                "7-Zip 23.01 (x64)|23.01|amd64",
                "Bücherei für Büros|16.0.4266.1001|amd64",
                "Steam|2.10.91.91|x86",
                "Without a version||amd64",
                "Китаб 書|1.2|amd64",
            ],
            "{image}"
        );
    }
}

#[test]
fn what_mif_does_not_do_to_ntfs_is_refused_in_one_sentence() {
    let work = work_folder();
    let (work, store) = (work.path(), work.path().join("store"));
    let Some(disk) = windows(work) else { return };
    run(mif(&store).arg("import").arg(&disk));
    let error =
        run_failing(mif(&store).args(["customize", "windows", "--as", "new", "--write", "p3:/x:y"]), 4);
    assert!(error.contains("ntfs"), "{error}");
    // The ESP beside it can be edited, and the NTFS volume stays what it was, streams included.
    run(mif(&store).args(["customize", "windows", "--as", "new", "--write", "p1:/note.txt:hello"]));
    let list = |image: &str| run(mif(&store).args(["ls", "-R", image, "p3:/"]));
    assert_eq!(list("windows"), list("new"));
    run(mif(&store).args(["export", "new"]).arg(work.join("new.raw")));
    let skip = (START * 512).to_string();
    let bytes = (MIB << 20).to_string();
    run(tool("cmp")
        .args(["-n", &bytes, "-i", &format!("{skip}:0")])
        .args([&work.join("new.raw"), &work.join("volume")]));
    assert_second_reader_agrees(&store);
}
