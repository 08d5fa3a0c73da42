//! `mif packages` compared with the package managers on the same trees.

use std::fs;
use std::path::Path;

use mif_tests::{debian, have, have_python, mif, python, repo, run, tool, work_folder};

/// Two packages: one with an epoch, and one with so many files that its header takes several pages of a database.
const SPEC: &str = "\
Name: thing
Epoch: 3
Version: 1.2~rc1
Release: 4
Summary: A thing
License: MIT
BuildArch: noarch
%description
A thing.
%package more
Summary: More
Epoch: 0
%description more
More.
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc/thing.d
echo thing > %{buildroot}/usr/bin/thing
for i in $(seq 1 400); do echo $i > %{buildroot}/etc/thing.d/a-rather-long-name-$i.conf; done
%files
/usr/bin/thing
%files more
/etc/thing.d
";

const QUERY: &str = "%{NAME},%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE},%{ARCH}\\n";

/// Returns name, version and architecture of each package, according to the program on a volume with this tree.
fn packages_of(work: &Path, tree: &Path, manager: &str) -> Vec<String> {
    let (image, store) = (work.join("volume.img"), work.join("store"));
    let _ = (fs::remove_file(&image), fs::remove_dir_all(&store));
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(&image).arg("64M"));
    let of = |image: &str| {
        let csv = run(mif(&store).args(["packages", "--csv", image]));
        let fields = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut lines: Vec<String> = csv.lines().skip(1).map(|line| fields(line)[3..6].join(",")).collect();
        assert!(csv.lines().skip(1).all(|line| fields(line)[2] == manager), "{csv}");
        lines.sort();
        lines
    };
    let on_disk = of(image.to_str().unwrap());
    run(mif(&store).args(["import", "--name", "volume"]).arg(&image));
    assert_eq!(of("volume"), on_disk, "the table beside the manifest says the same");
    on_disk
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn rpm_says_the_same_of_its_databases() {
    if !have(&["rpm", "rpmbuild", "db5.3_load", "python3", "mke2fs"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::write(at("thing.spec"), SPEC).unwrap();
    let top = format!("_topdir {}", at("top").display());
    run(tool("rpmbuild").args(["--quiet", "-bb", "--define", &top]).arg(at("thing.spec")));
    let built = fs::read_dir(at("top/RPMS/noarch")).unwrap().map(|f| f.unwrap().path());
    let root = at("root");
    fs::create_dir(&root).unwrap();
    let rpm = || {
        let mut rpm = tool("rpm");
        rpm.arg("--root").arg(&root).args(["--dbpath", "/var/lib/rpm"]);
        rpm
    };
    run(rpm().args(["--nodeps", "--noscripts", "--nosignature", "-i"]).args(built));
    let expected = sorted(&run(rpm().args(["-qa", "--qf", QUERY])));
    assert_eq!(expected.len(), 2, "{expected:?}");
    assert_eq!(packages_of(work.path(), &root, "rpm"), expected);
    let report = run(mif(&at("store")).args(["packages", "volume", "--name", "thing-*", "--csv"]));
    let listed = run(rpm().args(["-ql", "thing-more"]));
    assert!(report.contains(&format!(".src.rpm,{},", listed.lines().count())), "{report}{listed}");
    // In a bill of materials, the epoch is a qualifier, and the header says the licence.
    let bom = run(mif(&at("store")).args(["packages", "volume", "--format", "cyclonedx-json"]));
    let bom: serde_json::Value = serde_json::from_str(&bom).unwrap();
    let thing =
        bom["components"].as_array().unwrap().iter().find(|package| package["name"] == "thing").unwrap();
    assert_eq!(thing["purl"], "pkg:rpm/thing@1.2~rc1-4?arch=noarch&epoch=3&upstream=thing-1.2~rc1-4.src.rpm");
    assert_eq!(thing["licenses"][0]["expression"], "MIT");

    // Fedora and SUSE keep the database in /usr and leave a symlink; ostree has only /usr/share/rpm (anchore/syft#1755).
    let folder = root.join("var/lib/rpm");
    let mut last = folder.clone();
    for (moved, link) in
        [("usr/lib/sysimage/rpm", Some("../../usr/lib/sysimage/rpm")), ("usr/share/rpm", None)]
    {
        fs::create_dir_all(root.join(moved).parent().unwrap()).unwrap();
        fs::rename(&last, root.join(moved)).unwrap();
        last = root.join(moved);
        let _ = fs::remove_file(&folder);
        if let Some(target) = link {
            std::os::unix::fs::symlink(target, &folder).unwrap();
        }
        assert_eq!(packages_of(work.path(), &root, "rpm"), expected, "{moved}");
    }
    // The same headers in rpm's own format, which SUSE has (wazuh/wazuh#10191), and which Debian's rpm cannot write.
    let ndb = "import sqlite3, struct, sys, zlib\n\
        slots, blobs = b'', b''\n\
        for number, blob in sqlite3.connect(sys.argv[1]).execute('SELECT hnum, blob FROM Packages'):\n\
        \x20   whole = struct.pack('<4sIII', b'BlbS', number, 1, len(blob)) + blob\n\
        \x20   whole += bytes(-(len(whole) + 12) % 16)\n\
        \x20   whole += struct.pack('<II4s', zlib.adler32(whole), len(blob), b'BlbE')\n\
        \x20   slots += struct.pack('<4sIII', b'Slot', number, 256 + len(blobs) // 16, len(whole) // 16)\n\
        \x20   blobs += whole\n\
        head = struct.pack('<4sIIII', b'RpmP', 0, 1, 1, 99).ljust(32, bytes(1)) + slots\n\
        free = struct.pack('<4sIII', b'Slot', 0, 0, 0)\n\
        open(sys.argv[2], 'wb').write(head + free * ((4096 - len(head)) // 16) + blobs)\n";
    let sysimage = root.join("usr/lib/sysimage/rpm");
    fs::create_dir(&sysimage).unwrap();
    let sqlite = last.join("rpmdb.sqlite");
    run(tool("python3").args(["-c", ndb]).arg(&sqlite).arg(sysimage.join("Packages.db")));
    fs::rename(&last, &folder).unwrap();
    let sqlite = at("rpmdb.sqlite");
    fs::rename(folder.join("rpmdb.sqlite"), &sqlite).unwrap();
    assert_eq!(packages_of(work.path(), &root, "rpm"), expected, "Packages.db");
    fs::remove_dir_all(&sysimage).unwrap();

    // The same headers in Berkeley DB: db_load makes the hash.
    let dump = "import sqlite3, sys\n\
        print('VERSION=3\\nformat=bytevalue\\ntype=hash\\nHEADER=END')\n\
        print(' ' + (0).to_bytes(4, 'little').hex() + '\\n ' + (2).to_bytes(4, 'little').hex())\n\
        for number, blob in sqlite3.connect(sys.argv[1]).execute('SELECT hnum, blob FROM Packages'):\n\
        \x20   print(' ' + number.to_bytes(4, 'little').hex() + '\\n ' + blob.hex())\n\
        print('DATA=END')\n";
    fs::write(at("dump"), run(tool("python3").args(["-c", dump]).arg(sqlite))).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    run(tool("db5.3_load").arg("-f").arg(at("dump")).args(["-t", "hash"]).arg(folder.join("Packages")));
    assert_eq!(packages_of(work.path(), &root, "rpm"), expected);
}

#[test]
fn dpkg_says_the_same_of_a_debian_disk_and_sql_answers() {
    if !have(&["mmdebstrap", "mke2fs", "dpkg-query", "tar"]) || !have_python("duckdb") {
        return;
    }
    let Some(tree) = debian::tree() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    debian::make_disk(&tree, &at("disk.raw"), "--table gpt --size 1G");
    let store = at("mif-store");
    run(mif(&store).args(["import", "--name", "disk"]).arg(at("disk.raw")));
    let csv = run(mif(&store).args(["packages", "disk", "--csv"]));
    let found: Vec<String> =
        csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()[3..7].join(",")).collect();
    fs::create_dir_all(at("admin/info")).unwrap();
    let status = run(tool("tar").arg("-xOf").arg(&tree).arg("./var/lib/dpkg/status"));
    fs::write(at("admin/status"), status).unwrap();
    let format = "--showformat=${Package},${Version},${Architecture},${db:Status-Status}\\n";
    let said = run(tool("dpkg-query").arg("--admindir").arg(at("admin")).args(["-W", format]));
    assert!(said.lines().count() > 50, "{said}");
    assert_eq!(sorted(&found.join("\n")), sorted(&said));

    // Every query in docs/sql.md, on two versions and a second image, gives the known answers.
    let edits = ["--write", "/opt/own:x", "--chmod", "/opt/own:4755", "--delete", "/etc/passwd-"];
    run(mif(&store).args(["customize", "disk", "--as", "web", "--hostname", "web"]));
    run(mif(&store).args(["customize", "web@1", "--as", "web"]).args(edits));
    // Once on the manifests, and once on the catalog, which has all images but one that was removed.
    let program = "import duckdb, sys\n\
        blocks = [rest.split('```')[0] for rest in open(sys.argv[1]).read().split('```sql\\n')[1:]]\n\
        views = [block for block in blocks if block.startswith('-- With a catalog')]\n\
        questions = [block for block in blocks if block not in views]\n\
        assert len(views) == 2 and 'manifest.parquet' in questions[0]\n\
        database = duckdb.connect()\n\
        for block in views + questions[1:] if sys.argv[2] == 'catalog' else questions:\n\
        \x20   answer = database.sql(block)\n\
        \x20   print(answer.fetchall() if answer is not None else None)\n\
        if sys.argv[2] == 'catalog':\n\
        \x20   found = database.sql('select count(*) from digests natural join newest').fetchall()\n\
        \x20   assert found == database.sql('select count(blake3) from files natural join newest').fetchall()\n";
    let docs = repo().join("docs/sql.md");
    run(mif(&store).args(["customize", "disk", "--as", "gone", "--hostname", "gone"]));
    run(mif(&store).arg("catalog"));
    run(mif(&store).args(["rm", "gone"]));
    let ask =
        |of: &str| run(tool(python()).current_dir(work.path()).args(["-c", program]).arg(&docs).arg(of));
    let (answers, of_catalog) = (ask("manifests"), ask("catalog"));
    let unordered = |answers: &str| {
        // Where a question leaves the order open, DuckDB's threads decide it.
        let sorted = |line: &str| {
            let mut rows: Vec<String> =
                line.split("), (").map(|row| row.trim_matches(['[', ']', '(', ')']).to_owned()).collect();
            rows.sort();
            rows
        };
        answers.lines().map(sorted).collect::<Vec<_>>()
    };
    assert_eq!(unordered(&of_catalog)[2..], unordered(&answers)[1..]);
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 14, "{answers:?}");
    assert_eq!(answers[2], "[('web', '/opt/own')]", "setuid files of no package");
    assert!(answers[3].starts_with("[('/"), "files in every image: {answers:?}");
    assert_eq!(answers[4], "[('/etc/passwd-', 'removed'), ('/opt/own', 'added')]", "between two versions");
    assert!(answers[8].contains("('/etc/shadow', ['disk', 'web'])"), "shared secrets: {answers:?}");
    assert_eq!(answers[9], "[]", "packages of different versions");
    assert!(answers[11].contains("'/usr'"), "{answers:?}");
    assert!(answers[13].contains("'libssl3', '3.0."), "old packages: {answers:?}");
}

#[test]
fn apk_and_distroless_images_are_read() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let root = work.path().join("root");
    for folder in ["lib/apk/db", "bin"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("bin/busybox"), "busybox").unwrap();
    let installed = "C:Q1x=\nP:busybox\nV:1.36.1-r15\nA:x86_64\no:busybox\nF:bin\nR:busybox\na:0:0:755\n\n\
                     P:musl\nV:1.2.4-r2\nA:x86_64\n";
    fs::write(root.join("lib/apk/db/installed"), installed).unwrap();
    let expected = ["busybox,1.36.1-r15,x86_64", "musl,1.2.4-r2,x86_64"];
    assert_eq!(packages_of(work.path(), &root, "apk"), expected);

    fs::remove_dir_all(root.join("lib")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/status.d")).unwrap();
    fs::write(
        root.join("var/lib/dpkg/status.d/tzdata"),
        "Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\nDescription: zones\n more\n",
    )
    .unwrap();
    fs::write(root.join("var/lib/dpkg/status.d/tzdata.md5sums"), "0 usr/share/zoneinfo/UTC\n").unwrap();
    assert_eq!(packages_of(work.path(), &root, "dpkg"), ["tzdata,2024a-0+deb12u1,all"]);
}

/// A volume of a few kilobytes may have a database that would fill the memory.
#[test]
fn a_database_over_the_limit_is_said_and_not_read() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let (root, image) = (work.path().join("root"), work.path().join("volume.img"));
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    fs::File::create(root.join("var/lib/dpkg/status")).unwrap().set_len((256 << 20) + 1).unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg("64M"));
    let answer = mif(&work.path().join("store")).args(["packages", "--json"]).arg(&image).output().unwrap();
    assert_eq!(answer.status.code(), Some(1), "there is no package");
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(said.contains("/var/lib/dpkg/status: has 268435457 bytes, more than 268435456"), "{said}");
}
