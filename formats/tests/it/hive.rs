//! Hives that hivexregedit wrote, held against what it exports of them.

use std::path::Path;
use std::process::Command;

use mif_formats::hive::{Hive, Key};

use crate::skipping::have;

/// Lists a key and its subkeys as hivexregedit exports them.
fn export(path: &str, key: &Key<'_>, out: &mut Vec<String>) {
    out.push(format!("[HIVE{}]", if path.is_empty() { r"\" } else { path }));
    for value in key.values().unwrap() {
        let value = value.unwrap();
        let (name, data) = (value.name(), value.data().unwrap());
        let name = if name.is_empty() { "@".to_owned() } else { format!("\"{name}\"") };
        let bytes: Vec<String> = data.iter().map(|byte| format!("{byte:02x}")).collect();
        out.push(match value.number().unwrap() {
            Some(number) => format!("{name}=dword:{number:08x}"),
            None => format!("{name}=hex({:x}):{}", value.kind(), bytes.join(",")),
        });
    }
    for subkey in key.subkeys().unwrap() {
        let subkey = subkey.unwrap();
        export(&format!(r"{path}\{}", subkey.name()), &subkey, out);
    }
}

/// Sorts the lines of each key, because hivexregedit does. Puts its key before each.
fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'a str)> {
    let mut key = "";
    let mut lines: Vec<_> = lines
        .map(|line| {
            key = if line.starts_with('[') { line } else { key };
            (key, line)
        })
        .collect();
    lines.sort_unstable();
    lines
}

fn assert_same(hive: &Path) -> usize {
    let mut export_all = Command::new("hivexregedit");
    export_all.args(["--export", "--prefix", "HIVE"]).arg(hive).arg(r"\");
    let exported = export_all.output().unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let exported = String::from_utf8(exported.stdout).unwrap();
    let exported = sorted(exported.lines().skip(1).filter(|line| !line.is_empty()));
    let bytes = std::fs::read(hive).unwrap();
    let hive = Hive::parse(&bytes).unwrap();
    let mut ours = Vec::new();
    export("", &hive.root().unwrap(), &mut ours);
    let ours = sorted(ours.iter().map(String::as_str));
    let different = ours.iter().zip(&exported).find(|(ours, theirs)| ours != theirs);
    assert_eq!(different, None);
    assert_eq!(ours.len(), exported.len());
    ours.len()
}

#[test]
fn hives_are_read_as_hivexregedit_exports_them() {
    if !have(&["hivexregedit", "python3"]) {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let make = |prefix: &str, text: &Path| {
        let hive = work.path().join("hive");
        let mut make = Command::new(fixtures.join("make-hive"));
        let made = make.arg(prefix).arg(text).arg(&hive).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        hive
    };
    assert_same(&make(r"HKEY_LOCAL_MACHINE\SOFTWARE", &fixtures.join("windows/software.reg")));
    assert_same(&make(r"HKEY_LOCAL_MACHINE\SYSTEM", &fixtures.join("windows/system.reg")));
    // Lists of lists, long values, and values without a name.
    let mut text = "Windows Registry Editor Version 5.00\n\n[X\\Many]\n".to_owned();
    for i in 0..2000 {
        text.push_str(&format!("\n[X\\Many\\key {i}]\n@=dword:{i:08x}\n\"a\"=hex(3):00,{:02x}\n", i % 256));
    }
    text.push_str(&format!("\n[X\\Long]\n\"b\"=hex(3):{}\n", vec!["ab"; 16_000].join(",")));
    let file = work.path().join("many.reg");
    std::fs::write(&file, text).unwrap();
    assert!(assert_same(&make("X", &file)) > 6000);
}
