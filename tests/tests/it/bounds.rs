//! Trees and files from outside are bounded: input that expands far beyond its size is refused with a readable error,
//! using little memory; duplicate names in a directory are reported.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mif_tests::{WorkFolder, have, json, mif, mif_path, repo, run, run_failing, tool, work_folder};

const DISK: &str = "table = \"none\"\nsize = \"16M\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"\n";

/// Python code that writes tars by hand.
const TARS: &str = "\
def hdr(name, typ=b'0', size=0, link=b''):
    h = bytearray(512); h[0:len(name)] = name; h[100:108] = b'0000755\\0'; h[108:116] = h[116:124] = b'0000000\\0'
    h[124:136] = b'%011o\\0' % size; h[136:148] = b'00000000000\\0'; h[148:156] = b' ' * 8; h[156:157] = typ
    h[157:157 + len(link)] = link; h[257:265] = b'ustar\\x0000'; h[148:156] = b'%06o\\0 ' % sum(h); return bytes(h)
def rec(k, v):
    n = len(k) + len(v) + 3; l = n + len(str(n)); l = n + len(str(l)); return str(l).encode() + b' ' + k + b'=' + v + b'\\n'
def pad(b): return b + b'\\0' * (-len(b) % 512)
def pax(records, typ=b'x'): b = b''.join(rec(*r) for r in records); return hdr(b'pax', typ, len(b)) + pad(b)
def w(n, *p): open(n, 'wb').write(root + b''.join(p) + b'\\0' * 1024)
root = hdr(b'./', b'5')
";

struct Lab(WorkFolder);

impl Lab {
    fn new() -> Self {
        let lab = Lab(work_folder());
        fs::write(lab.at("disk.toml"), DISK).unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn python(&self, lines: &str) {
        run(tool("python3").args(["-c", &format!("{TARS}{lines}")]).current_dir(self.0.path()));
    }

    /// Returns the program with 2 GB of address space and 30 s.
    fn limited(&self, line: &str) -> Command {
        let mut command = tool("sh");
        let line = format!("ulimit -v 2000000; exec timeout 30 \"$0\" -q --store store {line}");
        command.current_dir(self.0.path()).args(["-c", &line]).arg(mif_path());
        command
    }
}

#[test]
fn a_small_tar_that_stands_for_gigabytes_is_refused_in_words() {
    let lab = Lab::new();
    lab.python(
        "x = b'SCHILY.xattr.user.'
w('one.tar', pax([(x + b'x', b'A' * (4 << 20))], b'g'), *[hdr(b'./f%d' % i) for i in range(2000)])
w('many.tar', pax([(x + b'%d' % i, b'A' * 65536) for i in range(60)], b'g'), *[hdr(b'./f%d' % i) for i in range(2000)])
w('records.tar', pax([(x + b'%d' % i, b'') for i in range(100000)], b'g'), *[hdr(b'./f%d' % i) for i in range(2000)])
w('links.tar', pax([(x + b'%d' % i, b'A' * 65536) for i in range(60)]), hdr(b'./f'), *[hdr(b'./l%d' % i, b'1', 0, b'./f') for i in range(2000)])
w('parts.tar', pax([(b'path', b'./' + b'd/' * 30000 + b'x')]), hdr(b'x'))
w('deep.tar', *[pax([(b'path', b'./%d/' % i + b'd/' * 8000 + b'x')]) + hdr(b'x') for i in range(20)])
w('target.tar', pax([(b'linkpath', b'a' * (1 << 20))], b'g'), *[hdr(b'./l%d' % i, b'2') for i in range(2000)])
w('headers.tar', *[pax([(b'path', b'a' * (1 << 20))]) for i in range(40)], hdr(b'x'))
w('good.tar', pax([(x + b'g', b'global'), (b'comment', b'c' * 70000)], b'g'), hdr(b'./f'), hdr(b'./g'))",
    );
    let cases = [
        ("one", "attribute has 4194304 bytes"),
        ("many", "attributes of all members"),
        ("records", "global pax records"),
        ("links", "attributes of all members"),
        ("parts", "path has 60002 bytes"),
        ("deep", "directories that no member names"),
        ("target", "target of the symlink has 1048576 bytes"),
        ("headers", "exceed 16777216 bytes"),
    ];
    for (tar, words) in cases {
        let error = run_failing(&mut lab.limited(&format!("build disk.toml {tar}.tar --as {tar}")), 3);
        assert!(error.contains(words) && error.len() < 2000, "{tar}: {error}");
    }
    run(&mut lab.limited("build disk.toml good.tar --as good"));
    let listed = json(&lab.at("store"), &["ls", "good"]);
    let with = listed["entries"].as_array().unwrap().iter().filter(|e| e["xattrs"][0][0] == "user.g").count();
    assert_eq!(with, 2, "a global record counts for both members");
}

#[test]
fn names_of_attributes_go_through_tars_and_back() {
    let lab = Lab::new();
    lab.python(
        "names = [b'user.a=b', b'user.a%b', b'user.a%3Db', b'user.a%253D', b'user.\\xff\\xfe', b'user.new\\nline', b'user.\\xc3\\xa9']
coded = [n.replace(b'%', b'%25').replace(b'=', b'%3D') for n in names]
w('a.tar', pax([(b'SCHILY.xattr.' + n, b'v%d' % i) for i, n in enumerate(coded)]), hdr(b'./f'))",
    );
    run(&mut lab.limited("build disk.toml a.tar --as a"));
    run(&mut lab.limited("extract a -o b.tar"));
    run(&mut lab.limited("build disk.toml b.tar --as b"));
    let xattrs = |image: &str| json(&lab.at("store"), &["ls", image, "/f"])["entries"][0]["xattrs"].clone();
    assert_eq!(xattrs("a").as_array().unwrap().len(), 7);
    assert_eq!(xattrs("a"), xattrs("b"));
    // GNU tar restores the attributes that the filesystem here supports.
    let here = lab.at("here");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("probe"), "").unwrap();
    let takes = tool("setfattr").args(["-n", "user.a=b", "-v", "x"]).arg(here.join("probe")).status();
    if !have(&["setfattr", "getfattr"]) || !takes.is_ok_and(|status| status.success()) {
        return;
    }
    run(tool("tar")
        .args(["--xattrs", "--xattrs-include=*", "-C"])
        .arg(&here)
        .arg("-xf")
        .arg(lab.at("b.tar")));
    let listed = run(tool("getfattr").arg("f").current_dir(&here));
    for name in ["user.a\\075b", "user.a%b", "user.a%3Db", "user.a%253D"] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
}

#[test]
fn every_file_that_a_flag_names_is_regular_and_bounded() {
    let lab = Lab::new();
    run(mif(&lab.at("store")).arg("import").arg(repo().join("fixtures/demo.qcow2")).args(["--name", "demo"]));
    run(tool("mkfifo").arg(lab.at("fifo")));
    fs::File::create(lab.at("sparse")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir(lab.at("tree")).unwrap();
    for file in ["/dev/zero", "fifo", "sparse"] {
        for line in [
            "customize demo --as c --recipe FILE",
            "customize demo --as 'c-{{n}}' --csv FILE --hostname x",
            "customize demo --as c --write-file /x:FILE",
            "customize demo --as c --ssh-key root:file:FILE",
            "customize demo --as c --password root:file:FILE",
            "search --file FILE",
            "search --sha1-file FILE",
            "replace --old FILE --new FILE --all",
            "build FILE tree --as c",
        ] {
            let output = lab.limited(&line.replace("FILE", file)).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                matches!(output.status.code(), Some(2 | 3)),
                "{line} of {file}: {}: {error}",
                output.status
            );
            assert!(error.contains(file), "{line} of {file}: {error}");
        }
    }
    // The shell may pass a pipe.
    let piped = "printf '[[edit]]\\ndo = \"mkdir\"\\npath = \"/made\"\\n' | \"$0\" --store store customize demo --as c --recipe /dev/stdin";
    run(tool("sh").args(["-c", piped]).arg(mif_path()).current_dir(lab.0.path()));
}

#[test]
fn a_name_that_a_directory_has_twice_is_said_and_nothing_is_lost() {
    let lab = Lab::new();
    let tree = lab.at("t");
    fs::create_dir_all(tree.join("BBBB")).unwrap();
    fs::write(tree.join("BBBB/x"), "x").unwrap();
    std::os::unix::fs::symlink("/elsewhere", tree.join("AAAA")).unwrap();
    fs::write(tree.join("EEEE"), "one").unwrap();
    fs::write(tree.join("FFFF"), "two").unwrap();
    let disk = lab.at("e.raw");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    run(tool("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^metadata_csum,^dir_index", "-d"])
        .args([&tree, &disk]));
    lab.python(
        "b = open('e.raw', 'rb').read()
for a, c in (b'BBBB', b'AAAA'), (b'FFFF', b'EEEE'): assert b.count(a) == 1; b = b.replace(a, c)
open('e.raw', 'wb').write(b)",
    );
    for target in ["e.tar", "folder"] {
        let report = lab.limited(&format!("--json extract e.raw -o {target}")).output().unwrap();
        assert_eq!(report.status.code(), Some(1), "{target}");
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        let failed = report["failed"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
        let failed: Vec<&str> = failed.collect();
        assert!(failed.iter().any(|text| text.starts_with("/AAAA: ")), "{failed:?}");
        assert!(failed.iter().any(|text| text.starts_with("/EEEE: ")), "{failed:?}");
    }
    let members = run(tool("tar").arg("-tf").arg(lab.at("e.tar")));
    for name in ["AAAA", "EEEE"] {
        let times = members.lines().filter(|line| line.trim_matches(['.', '/']) == name).count();
        assert_eq!(times, 1, "{members}");
    }
    run(mif(&lab.at("store")).arg("import").arg(&disk).args(["--name", "w"]));
    for edit in ["--write /new:x", "--write /EEEE:x", "--delete /EEEE"] {
        let error = run_failing(&mut lab.limited(&format!("customize w --as w2 {edit}")), 4);
        assert!(error.contains("twice in one directory"), "{edit}: {error}");
    }
}
