//! Tars from GNU tar, bsdtar and others: the result of `build` is compared with GNU tar's extraction, and the output of
//! `extract` with what GNU tar and bsdtar restore from it.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use mif_tests::{WorkFolder, have, is_root, run, run_failing, tool, work_folder};

const DISK: &str = "table = \"none\"\nsize = \"16M\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"\n";

/// A working directory with the description of a disk.
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
    fn new() -> Self {
        let lab = Lab { work: work_folder() };
        fs::write(lab.at("disk.toml"), DISK).unwrap();
        lab
    }

    /// Runs Python lines that write tars, with `add(tar, name, type, data or link target, size of its header)` defined.
    fn python(&self, lines: &str) {
        let program = format!(
            "import io, tarfile\n\
             R, D, S, L, F = b'0', b'5', b'2', b'1', b'6'\n\
             def add(t, name, kind, text='', size=None, body=None, pax={{}}):\n\
             \x20i = tarfile.TarInfo(name); i.type = kind; i.mode = 0o755; i.mtime = 1000000000; i.pax_headers = pax\n\
             \x20data = text.encode() if kind == R else b''; i.linkname = text if kind in (S, L) else ''\n\
             \x20i.size = len(data) if size is None else size\n\
             \x20b = i.tobuf(t.format); t.fileobj.write(b); t.offset += len(b)\n\
             \x20data = data if body is None else body\n\
             \x20data += bytes(-len(data) % 512); t.fileobj.write(data); t.offset += len(data)\n\
             def tar(name, format=tarfile.PAX_FORMAT): return tarfile.open(name, 'w', format=format)\n{lines}"
        );
        run(tool("python3").args(["-c", &program]).current_dir(self.work.path()));
    }

    /// Returns a directory with the files that `build` makes from a tar.
    fn built(&self, tar: &str) -> PathBuf {
        run(&mut self.mif(&["build", "disk.toml", tar, "--as", tar.trim_end_matches(".tar")]));
        let out = self.at(&format!("{tar}.built"));
        run(self.mif(&["extract", tar.trim_end_matches(".tar"), "--privileged", "-o"]).arg(&out));
        let _ = fs::remove_dir(out.join("lost+found"));
        out
    }

    /// Returns a directory with the files that GNU tar extracts from it.
    fn unpacked(&self, tar: &str) -> PathBuf {
        let out = self.at(&format!("{tar}.tar"));
        fs::create_dir(&out).unwrap();
        // It exits with 2 if there is data between members that no header covers, but extracts everything.
        let output = tool("tar").arg("-C").arg(&out).arg("-xpf").arg(self.at(tar)).output().unwrap();
        assert!(output.status.code() < Some(3), "{output:?}");
        out
    }
}

/// Returns names, types, modes, link counts, targets and content under a directory.
fn listing(folder: &Path) -> String {
    let shell =
        "cd \"$1\" && { find . ! -type d -printf '%P %y %m %s %n %l\\n'; find . -type d -printf '%P %y %m\\n'
        find . -type f -print0 | xargs -0r sha1sum; } | sed 's/ l [0-7]* / l /' | LC_ALL=C sort";
    run(tool("sh").args(["-c", shell, "sh"]).arg(folder))
}

#[test]
fn a_size_on_a_member_without_data_loses_no_other_member() {
    if !have(&["python3", "tar"]) {
        return;
    }
    let lab = Lab::new();
    lab.python(
        "for kind, target in ((L, 'one'), (S, 'one'), (D, ''), (F, '')):\n\
         \x20for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):\n\
         \x20 t = tar('size-%s-%d.tar' % (kind.decode(), form), form)\n\
         \x20 add(t, 'one', R, 'x' * 1865); add(t, 'two', kind, target, 1865)\n\
         \x20 add(t, 'three', R, 'third'); add(t, 'four', R, 'y' * 500); add(t, 'five', R, 'z' * 5000); t.close()\n",
    );
    for kind in ["1", "2", "5", "6"] {
        for form in 0..3 {
            let tar = format!("size-{kind}-{form}.tar");
            let (built, unpacked) = (lab.built(&tar), lab.unpacked(&tar));
            assert!(unpacked.join("five").exists(), "{tar}");
            assert_eq!(listing(&built), listing(&unpacked), "{tar}");
        }
    }
}

#[test]
fn data_behind_a_hard_link_is_the_content_of_its_file() {
    if !have(&["python3"]) {
        return;
    }
    let lab = Lab::new();
    // As `pax -o linkdata` writes it, and as archives do that keep the data with the last link.
    lab.python(
        "t = tar('data.tar')\n\
         add(t, 'same', R, 'abc'); add(t, 'again', L, 'same', 3, b'abc')\n\
         add(t, 'first', R, ''); add(t, 'last', L, 'first', 2000, b'q' * 2000); add(t, 'zeros', R, ''); \
         add(t, 'more', L, 'zeros', 1024, bytes(1024)); add(t, 'end', R, 'end'); t.close()\n",
    );
    let built = lab.built("data.tar");
    let text = |name: &str| fs::read(built.join(name)).unwrap();
    assert_eq!((text("same"), text("again")), (b"abc".to_vec(), b"abc".to_vec()));
    assert_eq!((text("first"), text("last")), (vec![b'q'; 2000], vec![b'q'; 2000]));
    assert_eq!((text("zeros"), text("more"), text("end")), (vec![0; 1024], vec![0; 1024], b"end".to_vec()));
    assert!(listing(&built).contains("last f 755 2000 2 "));
}

#[test]
fn members_below_symlinks_lie_where_gnu_tar_puts_them() {
    if !have(&["python3", "tar"]) {
        return;
    }
    let lab = Lab::new();
    lab.python(
        "base = (('./usr', D, ''), ('./usr/bin', D, ''))\n\
         trees = {\n\
         'below': (('./bin', S, 'usr/bin'), ('./bin/hello', R, 'hi'), ('bin/deep/er/x', R, 'x')),\n\
         'chain': (('./b', S, 'bin'), ('./bin', S, './usr//bin/'), ('./b/hello', R, 'hi')),\n\
         'up': (('./usr/lib', D, ''), ('./usr/bin/lib', S, '../lib'), ('./usr/lib/y', R, 'y'), ('./usr/z', L, 'usr/lib/y')),\n\
         'link': (('./usr/bin/a', R, 'A'), ('./bin', S, 'usr/bin'), ('./usr/b', L, './bin/a'), ('./bin/c', L, 'bin/a')),\n\
         'replaced': (('./bin', S, 'usr/bin'), ('./bin', D, ''), ('./bin/hello', R, 'hi')),\n\
         'symlink-again': (('./bin', S, 'usr/bin'), ('./bin/x', R, 'x'), ('./bin', S, 'usr'), ('./bin/y', R, 'y')),\n\
         'kept': (('./bin', S, 'usr/bin'), ('./bin/s', S, 'hello'), ('./bin/hello', R, 'hi'), ('./bin/s', R, 'no link')),\n\
         }\n\
         for name, items in trees.items():\n\
         \x20t = tar('tree-%s.tar' % name)\n\
         \x20for item in base + items: add(t, *item)\n\
         \x20t.close()\n\
         t = tar('absolute.tar')\n\
         for item in base + (('./bin', S, '/usr/bin'), ('./bin/hello', R, 'hi'), ('./up', S, '../../usr'), ('./up/x', R, 'x')): add(t, *item)\n\
         t.close()\n\
         t = tar('circle.tar')\n\
         for item in (('a', S, 'b'), ('b', S, 'a'), ('a/x', R, 'x')): add(t, *item)\n\
         t.close()\n",
    );
    for name in ["below", "chain", "up", "link", "replaced", "symlink-again", "kept"] {
        let tar = format!("tree-{name}.tar");
        let (built, unpacked) = (lab.built(&tar), lab.unpacked(&tar));
        let listed = listing(&unpacked);
        assert!(listed.lines().count() > 5, "{tar}: {listed}");
        assert_eq!(listing(&built), listed, "{tar}");
    }
    // GNU tar refuses to follow these, because they might lead out of its target; here they stay in the tree.
    let built = lab.built("absolute.tar");
    assert_eq!(fs::read_to_string(built.join("usr/bin/hello")).unwrap(), "hi");
    assert_eq!(fs::read_to_string(built.join("usr/x")).unwrap(), "x");
    let error = run_failing(&mut lab.mif(&["build", "disk.toml", "circle.tar", "--as", "circle"]), 3);
    assert!(error.contains("too many levels of symbolic links") && error.contains("a/x"), "{error}");
}

/// Makes a tree with access and default ACLs; one names a group that the tree's own database numbers.
fn acl_tree(lab: &Lab) -> PathBuf {
    let tree = lab.at("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::write(tree.join("d/f"), "hi\n").unwrap();
    fs::write(tree.join("plain"), "hi\n").unwrap();
    run(tool("setfacl").args(["-m", "u:12345:rwx,g:5:r,g:54321:-"]).arg(tree.join("d/f")));
    run(tool("setfacl").args(["-d", "-m", "u:12345:rwx,o::-"]).arg(tree.join("d")));
    tree
}

fn acls(folder: &Path) -> String {
    let shell = "cd \"$1\" && find . | LC_ALL=C sort | xargs getfacl -n -c -p";
    run(tool("sh").args(["-c", shell, "sh"]).arg(folder))
}

#[test]
fn acls_go_in_and_come_out_in_the_spellings_of_gnu_tar_and_bsdtar() {
    if !have(&["tar", "bsdtar", "setfacl", "getfacl"]) {
        return;
    }
    let lab = Lab::new();
    let tree = acl_tree(&lab);
    let expected = acls(&tree);
    assert!(expected.contains("user:12345:rwx") && expected.contains("default:"), "{expected}");
    let tar = |words: &[&str], name: &str| {
        run(tool(words[0]).args(&words[1..]).arg("-cf").arg(lab.at(name)).arg("-C").arg(&tree).arg("."));
    };
    tar(&["tar", "--acls"], "gnu.tar");
    tar(&["tar", "--acls", "--numeric-owner"], "numbers.tar");
    tar(&["tar", "--acls", "--xattrs", "--xattrs-include=*"], "xattrs.tar");
    tar(&["bsdtar", "--acls"], "bsd.tar");
    for name in ["gnu", "numbers", "xattrs", "bsd"] {
        assert_eq!(acls(&lab.built(&format!("{name}.tar"))), expected, "{name}");
    }
    run(lab.mif(&["extract", "gnu", "-o"]).arg(lab.at("out.tar")));
    for words in [
        &["tar", "--acls", "-xpf"][..],
        &["tar", "--acls", "--xattrs", "-xpf"],
        &["bsdtar", "--acls", "-xpf"],
    ] {
        let out = lab.at("restored");
        fs::create_dir(&out).unwrap();
        run(tool(words[0]).args(&words[1..]).arg(lab.at("out.tar")).arg("-C").arg(&out));
        let _ = fs::remove_dir(out.join("lost+found"));
        assert_eq!(acls(&out), expected, "{words:?}");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn names_in_acls_get_the_numbers_of_the_tree_then_of_this_machine_and_what_is_unknown_is_refused() {
    if !have(&["python3", "getfacl"]) {
        return;
    }
    let lab = Lab::new();
    lab.python(
        "def acl(name, text, more=()):\n\
         \x20t = tar(name); add(t, 'f', R, 'x', pax={'SCHILY.acl.access': text})\n\
         \x20for item in more: add(t, *item)\n\
         \x20t.close()\n\
         base = 'user::rw-\\ngroup::r--\\nmask::rwx\\nother::---\\n'\n\
         acl('own.tar', base + 'user:ada:rwx\\ngroup:root:r--', (('etc/passwd', R, 'ada:x:4242:1::/:\\n'), ('etc/group', R, 'root:x:77:\\n')))\n\
         acl('machine.tar', base + 'group:root:r--')\n\
         acl('unknown.tar', base + 'user:no-such-user-here:rwx')\n\
         acl('broken.tar', 'user::rw-')\n",
    );
    let text = acls(&lab.built("own.tar"));
    assert!(text.contains("user:4242:rwx") && text.contains("group:77:r--"), "{text}");
    let said = run(&mut lab.mif(&["build", "disk.toml", "machine.tar", "--as", "machine"]));
    assert!(said.contains("group root (0)"), "{said}");
    for (name, says) in [("unknown", "no-such-user-here"), ("broken", "group::")] {
        let tar = format!("{name}.tar");
        let error = run_failing(&mut lab.mif(&["build", "disk.toml", &tar, "--as", name]), 3);
        assert!(error.contains(says) && error.contains("\"/f\""), "{error}");
    }
}

#[test]
fn what_no_volume_can_hold_is_said() {
    if !have(&["python3"]) {
        return;
    }
    let lab = Lab::new();
    lab.python(
        "t = tar('bsd.tar')\n\
         add(t, 'f', R, 'x', pax={'SCHILY.acl.ace': 'owner@:rw-p--aARWcCos:-------:allow', 'SCHILY.fflags': 'nodump'})\n\
         add(t, 'g', R, 'x', pax={'SCHILY.fflags': 'nodump'}); t.close()\n",
    );
    let said = run(&mut lab.mif(&["build", "disk.toml", "bsd.tar", "--as", "bsd"]));
    for sentence in ["the NFSv4 ACLs of 1 members", "the file flags of 2 members were left out, first of /f"]
    {
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn selinux_labels_go_in_and_come_out() {
    if !have(&["python3", "bsdtar", "setfattr", "getfattr"]) || !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.python(
        "t = tar('labels.tar')\n\
         add(t, './', D, pax={'RHT.security.selinux': 'system_u:object_r:root_t:s0'})\n\
         add(t, './f', R, 'x', pax={'RHT.security.selinux': 'system_u:object_r:etc_t:s0'})\n\
         add(t, './g', R, 'x', pax={'SCHILY.xattr.security.selinux': 'system_u:object_r:usr_t:s0\\0'})\n\
         add(t, './h', R, 'x', pax={'LIBARCHIVE.xattr.security.selinux': 'c3lzdGVtX3U6b2JqZWN0X3I6YmluX3Q6czAA', 'LIBARCHIVE.xattr.user.a%3db': 'AAEC'})\n\
         t.close()\n",
    );
    run(&mut lab.mif(&["build", "disk.toml", "labels.tar", "--as", "labels"]));
    run(lab.mif(&["extract", "labels", "-o"]).arg(lab.at("out.tar")));
    let records = "import tarfile\n\
        for m in tarfile.open('out.tar'): print(m.name, repr(m.pax_headers.get('RHT.security.selinux')), \
        repr(m.pax_headers.get('SCHILY.xattr.security.selinux')), repr(m.pax_headers.get('SCHILY.xattr.user.a%3Db')))";
    let said = run(tool("python3").args(["-c", records]).current_dir(lab.work.path()));
    for (name, label) in [(".", "root_t"), ("./f", "etc_t"), ("./g", "usr_t"), ("./h", "bin_t")] {
        let label = format!("system_u:object_r:{label}:s0");
        assert!(said.contains(&format!("{name} '{label}' '{label}\\x00'")), "{said}");
    }
    assert!(said.contains("'\\x00\\x01\\x02'"), "{said}");
    let out = lab.at("out");
    fs::create_dir(&out).unwrap();
    run(tool("bsdtar").args(["--xattrs", "-xpf"]).arg(lab.at("out.tar")).arg("-C").arg(&out));
    let value = run(tool("getfattr")
        .args(["--only-values", "--absolute-names", "-n", "security.selinux"])
        .arg(out.join("f")));
    assert_eq!(value.trim_end_matches('\0'), "system_u:object_r:etc_t:s0");
}
