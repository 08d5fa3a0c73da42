//! Dates over the whole range of a filesystem: compared with debugfs, the kernel and mtools, also after a rebuild that
//! does not touch them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mif_tests::{have, is_root, mif, moment, run, skip, tool, work_folder};
use serde_json::Value;

/// Seconds since 1970 and nanoseconds. 2446 is the last year of ext4.
const DATES: &[(&str, i64, u32)] = &[
    ("1901", -2_147_483_648, 0),
    ("1969", -1, 999_999_999),
    ("1970", 0, 0),
    ("2001", 1_000_000_000, 123_456_789),
    ("2038", 2_147_483_648, 1),
    ("2106", 4_294_967_296, 999_999_999),
    ("2400", 13_569_465_600, 42),
    ("2446", 15_032_385_535, 999_999_999),
];

/// The times of a file: mtime, atime, ctime and crtime, in seconds and nanoseconds.
type Times = [Option<(i64, u32)>; 4];

/// Returns debugfs's view of a file: its times from the numbers, and the date of its mtime in words.
fn debugfs_times(volume: &Path, file: &str) -> (Times, String) {
    let stat = run(tool("debugfs").args(["-R", &format!("stat /{file}")]).arg(volume));
    let line = |key: &str| stat.lines().find_map(|line| line.trim_start().strip_prefix(key));
    let time = |key: &str| {
        let (low, rest) = line(key)?.strip_prefix(" 0x")?.split_once([':', ' '])?;
        let low = i64::from(u32::from_str_radix(low, 16).unwrap().cast_signed());
        // Inodes of 128 bytes have no second number.
        let extra = rest.split(' ').next().and_then(|text| i64::from_str_radix(text, 16).ok()).unwrap_or(0);
        Some((low + ((extra & 3) << 32), (extra >> 2) as u32))
    };
    let words = line("mtime:").unwrap().split(" -- ").nth(1).unwrap().trim().to_owned();
    ([time("mtime:"), time("atime:"), time("ctime:"), time("crtime:")], words)
}

/// Returns the entries of an image by path.
fn entries(store: &Path, image: &str) -> BTreeMap<String, Value> {
    let listing: Value = serde_json::from_str(&run(mif(store).args(["ls", "-R", "--json", image]))).unwrap();
    assert_eq!(listing["warnings"], Value::Array(Vec::new()));
    let entries = listing["entries"].as_array().unwrap().iter();
    entries.map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry.clone())).collect()
}

fn times(entry: &Value) -> Times {
    ["mtime", "atime", "ctime", "crtime"].map(|key| moment(&entry[key]))
}

/// Converts `Fri Dec 13 20:45:52 1901` to the form of `ls -l`: `1901-12-13 20:45`.
fn short(words: &str) -> String {
    run(tool("date").args(["-u", "+%Y-%m-%d %H:%M", "-d", words])).trim().to_owned()
}

/// Compares the dates of an image in the store with debugfs on its volume.
fn compare(store: &Path, image: &str, volume: &Path, files: &[&str]) {
    let entries = entries(store, image);
    let long = run(mif(store).args(["ls", "-R", "-l", image]));
    for file in files {
        let (expected, words) = debugfs_times(volume, file);
        assert_eq!(times(&entries[&format!("/{file}")]), expected, "{image}: {file}: {words}");
        let line = long.lines().find(|line| line.ends_with(&format!("/{file}"))).unwrap();
        assert!(line.contains(&short(&words)), "{image}: {line}, expected {words}");
    }
}

/// Sets the mtimes of files of a volume to `DATES` with debugfs, and also their ctime, atime and crtime as far as
/// inodes have room.
fn date_by_debugfs(volume: &Path, commands: &Path, with_extra: bool) {
    let mut script = String::new();
    for (name, secs, nanos) in DATES {
        let low = (*secs as i32).cast_unsigned();
        let extra = (*nanos << 2) | (((*secs - i64::from(low.cast_signed())) >> 32) as u32 & 3);
        let fields: &[&str] =
            if with_extra { &["mtime", "atime", "ctime", "crtime"] } else { &["mtime", "atime", "ctime"] };
        for field in fields {
            script += &format!("sif /{name} {field}_lo {low:#x}\n");
            if with_extra {
                script += &format!("sif /{name} {field}_extra {extra:#x}\n");
            }
        }
    }
    fs::write(commands, script).unwrap();
    let said = run(tool("debugfs").args(["-w", "-f"]).arg(commands).arg(volume));
    assert!(!said.contains("invalid"), "{said}");
}

#[test]
fn dates_of_ext_volumes_are_those_of_debugfs_and_stay_through_a_rebuild() {
    if !have(&["mke2fs", "debugfs", "e2fsck", "date"]) {
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    let names: Vec<&str> = DATES.iter().map(|(name, ..)| *name).collect();
    for name in &names {
        fs::write(at("tree").join(name), name).unwrap();
    }
    let store = at("store");
    for (name, options, with_extra) in [
        ("large", "-t ext4 -I 256", true),
        ("small", "-t ext4 -I 128", false),
        ("ext3", "-t ext3 -I 256", true),
    ] {
        let volume = at(&format!("{name}.raw"));
        fs::File::create(&volume).unwrap().set_len(16 << 20).unwrap();
        run(tool("mke2fs")
            .args(["-q", "-F"])
            .args(options.split(' '))
            .arg("-d")
            .arg(at("tree"))
            .arg(&volume));
        date_by_debugfs(&volume, &at("commands"), with_extra);
        run(mif(&store).arg("import").arg(&volume));
        compare(&store, name, &volume, &names);
        if with_extra {
            let stored = entries(&store, name);
            for (file, secs, nanos) in DATES {
                assert_eq!(times(&stored[&format!("/{file}")]), [Some((*secs, *nanos)); 4], "{name}: {file}");
            }
        }
        // After an unrelated edit, the volume is planned again, and the dates are unchanged.
        let (rebuilt, out) = (format!("{name}-rebuilt"), at("out.raw"));
        run(mif(&store).args(["customize", name, "--as", &rebuilt, "--mkdir", "p0:/made"]));
        run(mif(&store).args(["export", "--force", &rebuilt]).arg(&out));
        run(tool("e2fsck").args(["-f", "-n"]).arg(&out));
        compare(&store, &rebuilt, &out, &names);
        for file in &names {
            assert_eq!(debugfs_times(&out, file), debugfs_times(&volume, file), "{rebuilt}: {file}");
        }
    }
}

#[test]
fn dates_that_the_kernel_gave_are_those_of_the_kernel() {
    if !have(&["mke2fs", "debugfs", "mount", "touch", "stat", "e2fsck", "date"]) {
        return;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("mnt")).unwrap();
    let store = at("store");
    let names: Vec<&str> = DATES.iter().map(|(name, ..)| *name).collect();
    for (name, options) in [("large", "-t ext4 -I 256"), ("small", "-t ext4 -I 128")] {
        let volume = at(&format!("{name}.raw"));
        fs::File::create(&volume).unwrap().set_len(16 << 20).unwrap();
        run(tool("mke2fs").args(["-q", "-F"]).args(options.split(' ')).arg(&volume));
        let mount = |options: &str| {
            let done = tool("mount").args(["-o", options]).arg(&volume).arg(at("mnt")).output().unwrap();
            done.status.success() || skip(&format!("cannot mount: {}", String::from_utf8_lossy(&done.stderr)))
        };
        if !mount("loop,noatime") {
            return;
        }
        for (file, secs, nanos) in DATES {
            let file = at("mnt").join(file);
            fs::write(&file, "dated").unwrap();
            run(tool("touch").args(["-d", &format!("@{secs}.{nanos:09}")]).arg(file));
        }
        run(tool("umount").arg(at("mnt")));
        // The part of the times that fits in a small inode.
        if !mount("loop,ro") {
            return;
        }
        let stat = run(tool("stat").args(["-c", "%n %.9Y %.9X"]).args(&names).current_dir(at("mnt")));
        run(tool("umount").arg(at("mnt")));
        run(mif(&store).arg("import").arg(&volume));
        compare(&store, name, &volume, &names);
        let entries = entries(&store, name);
        for line in stat.lines() {
            let (file, expected) = line.split_once(' ').unwrap();
            let [mtime, atime, ..] = times(&entries[&format!("/{file}")]);
            let text = |time: Option<(i64, u32)>| {
                let (secs, nanos) = time.unwrap();
                // In decimals, -0.5 is second -1 and half a billion nanoseconds.
                match secs < 0 && nanos > 0 {
                    true => format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos),
                    false => format!("{secs}.{nanos:09}"),
                }
            };
            assert_eq!(format!("{} {}", text(mtime), text(atime)), expected, "{name}: {file}");
        }
    }
}

#[test]
fn dates_of_fat_volumes_are_those_of_mtools_and_of_the_nearest_moment_that_fat_has() {
    if !have(&["mkfs.fat", "mcopy", "mdir", "touch", "date", "fsck.fat"]) {
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    let store = at("store");
    // Dates that mtools writes, with an even and an odd second.
    let volume = at("fat.raw");
    fs::File::create(&volume).unwrap().set_len(8 << 20).unwrap();
    run(tool("mkfs.fat").args(["-F", "16", "-s", "1"]).arg(&volume));
    let dates = [
        ("FIRST", "1980-01-01 00:00:00"),
        ("EVEN", "2000-02-29 12:34:56"),
        ("ODD", "2024-12-31 23:59:59"),
        ("LAST", "2107-12-31 23:59:58"),
    ];
    for (name, date) in dates {
        fs::write(at(name), name).unwrap();
        run(tool("touch").args(["-d", &format!("{date} UTC")]).arg(at(name)));
        run(tool("mcopy").arg("-m").arg("-i").arg(&volume).arg(at(name)).arg("::/"));
    }
    run(mif(&store).arg("import").arg(&volume));
    let stored = entries(&store, "fat");
    for (name, date) in dates {
        let secs: i64 =
            run(tool("date").args(["-u", "+%s", "-d", &format!("{date} UTC")])).trim().parse().unwrap();
        assert_eq!(times(&stored[&format!("/{name}")])[0], Some((secs / 2 * 2, 0)), "{name}");
    }
    run(mif(&store).args(["customize", "fat", "--as", "fat-rebuilt", "--mkdir", "p0:/made"]));
    let rebuilt = entries(&store, "fat-rebuilt");
    for (name, _) in dates {
        assert_eq!(rebuilt[&format!("/{name}")], stored[&format!("/{name}")]);
    }
    // Dates of a tree that FAT cannot represent: before 1980, after 2107.
    fs::create_dir(at("tree")).unwrap();
    let dates = [
        ("early", "@-2147483648", "1980-01-01", "0:00"),
        ("1970", "@0.5", "1980-01-01", "0:00"),
        ("odd", "2024-12-31 23:59:59.75 UTC", "2024-12-31", "23:59"),
        ("late", "2400-01-01 UTC", "2107-12-31", "23:59"),
    ];
    for (name, date, ..) in dates {
        fs::write(at("tree").join(name), name).unwrap();
        run(tool("touch").args(["-d", date]).arg(at("tree").join(name)));
    }
    fs::write(
        at("disk.toml"),
        "table = \"gpt\"\nsize = \"20M\"\n[[volume]]\nslot = 1\nmount = \"/\"\nfs = \"fat16\"\n",
    )
    .unwrap();
    run(mif(&store)
        .args(["build", "--as", "built", "--seed", "one", "--time", "1700000000"])
        .arg(at("disk.toml"))
        .arg(at("tree")));
    run(mif(&store).args(["export", "built"]).arg(at("built.raw")));
    let built = format!("{}@@1M", at("built.raw").display());
    for (name, _, day, clock) in dates {
        let said = run(tool("mdir").args(["-i", &built, &format!("::/{name}")]));
        assert!(said.contains(day) && said.contains(clock), "{name}, expected {day} {clock}: {said}");
    }
}
