//! The contents of a disk, one line per path, in the format of `fixtures/list-disk`: according to the program and to
//! the real tools, for comparison.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::{mif, run};

/// Sorted lines, keyed by the name of the file that `fixtures/list-disk` writes them to.
pub type Lines = BTreeMap<String, Vec<String>>;

/// Returns the listing of a disk by `mif ls`, one line per path in the format of `fixtures/list-disk`, keyed by file
/// name.
#[must_use]
pub fn of_image(store: &Path, image: &str) -> Lines {
    let info: Value = serde_json::from_str(&run(mif(store).args(["info", "--json", image]))).unwrap();
    let listing: Value = serde_json::from_str(&run(mif(store).args(["ls", "-R", "--json", image]))).unwrap();
    assert_eq!(listing["warnings"], Value::Array(Vec::new()), "{image}");
    let mut files = Lines::new();
    let partitions = info["table"]["partitions"].as_array().unwrap();
    for (partition, volume) in partitions.iter().zip(info["volumes"].as_array().unwrap()) {
        let text = |key: &str| partition[key].as_str().unwrap_or("-").to_owned();
        let line = [
            partition["slot"].to_string(),
            partition["start"].to_string(),
            partition["len"].to_string(),
            mbr_type(&text("type_id")),
            text("name"),
        ];
        if partition["slot"] != 0 {
            files.entry("partitions.txt".into()).or_default().push(line.join("\t"));
        }
        let Some(kind) = volume["content"]["filesystem"]["kind"].as_str() else { continue };
        let name = volume["volume"].as_str().unwrap();
        let is_fat = kind.starts_with("fat");
        let entries = listing["entries"].as_array().unwrap().iter().filter(|e| e["volume"] == *name);
        let lines = entries
            .filter(|e| !is_fat || e["path"] != "/")
            .map(|e| if is_fat { fat_line(e) } else { ext_line(e) });
        let file = format!("{name}.{}.tsv", if is_fat { "fat" } else { "ext4" });
        files.insert(file, lines.collect());
    }
    for lines in files.values_mut() {
        lines.sort();
    }
    files
}

/// Formats an MBR type like sfdisk, without `0x` and without leading zeros.
fn mbr_type(id: &str) -> String {
    id.strip_prefix("0x").map_or(id.to_owned(), |hex| hex.trim_start_matches('0').to_owned())
}

fn field(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Formats a time like debugfs, as hex seconds and the extra field: `6553f100:00000000`.
fn time(value: &Value) -> String {
    let Some((secs, nanos)) = crate::moment(value) else { return "-".into() };
    let nanos = u64::from(nanos);
    let low = secs as i32;
    let epoch = ((secs - i64::from(low)) >> 32) as u64 & 3;
    format!("{:08x}:{:08x}", low as u32, nanos << 2 | epoch)
}

fn xattr(pair: &Value) -> String {
    format!("{}={}", field(&pair[0]), field(&pair[1]))
}

fn ext_line(entry: &Value) -> String {
    let kind = entry["type"].as_str().unwrap();
    let is_dir = kind == "dir";
    let size = if is_dir { "-".into() } else { field(&entry["size"]) };
    let target = match kind {
        "char" | "block" => {
            format!("{:02}:{:02}", entry["rdev"][0].as_u64().unwrap(), entry["rdev"][1].as_u64().unwrap())
        }
        _ => field(&entry["link_target"]),
    };
    let xattrs: Vec<String> = entry["xattrs"].as_array().unwrap().iter().map(xattr).collect();
    let fields = [
        field(&entry["path"]),
        kind.to_owned(),
        format!("0{:03o}", crate::mode(&entry["mode"]).unwrap()),
        field(&entry["uid"]),
        field(&entry["gid"]),
        field(&entry["nlink"]),
        size,
        time(&entry["mtime"]),
        time(&entry["ctime"]),
        time(&entry["atime"]),
        time(&entry["crtime"]),
        target,
        if xattrs.is_empty() { "-".into() } else { xattrs.join(" ") },
        field(&entry["sha1"]),
    ];
    fields.join("\t")
}

fn fat_line(entry: &Value) -> String {
    let flags = entry["flags"].as_u64().unwrap();
    let letters: String = [(0x20, 'A'), (0x01, 'R'), (0x04, 'S'), (0x02, 'H')]
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, c)| c)
        .collect();
    let is_dir = entry["type"] == "dir";
    let attributes = if is_dir {
        "dir".into()
    } else if letters.is_empty() {
        "-".into()
    } else {
        letters
    };
    let size = if is_dir { "-".into() } else { field(&entry["size"]) };
    [field(&entry["path"]), attributes, size, field(&entry["sha1"])].join("\t")
}

/// Returns the tools' listing, with the order of attributes and xattr values normalised.
#[must_use]
pub fn of_tools(folder: &Path) -> Lines {
    let mut files = Lines::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| normal(&name, line)).collect();
        lines.sort();
        files.insert(name, lines);
    }
    files
}

fn normal(file: &str, line: &str) -> String {
    let mut fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
    // An extended partition contains others: only its first sector belongs to itself.
    if file == "partitions.txt" && ["5", "f", "85"].contains(&fields[3].as_str()) {
        fields[2] = "512".into();
    }
    if file.ends_with(".ext4.tsv") && fields[12] != "-" {
        let mut xattrs: Vec<String> = fields[12].split(';').map(xattr_of_debugfs).collect();
        xattrs.sort();
        fields[12] = xattrs.join(" ");
    }
    if file.ends_with(".ext4.tsv") {
        // Inodes of 128 bytes have no extra bits.
        for time in fields[7..11].iter_mut().filter(|time| *time != "-" && !time.contains(':')) {
            time.push_str(":00000000");
        }
    }
    if file.ends_with(".fat.tsv") && fields[1] != "dir" && fields[1] != "-" {
        let sorted: String = "ARSH".chars().filter(|c| fields[1].contains(*c)).collect();
        fields[1] = sorted;
    }
    fields.join("\t")
}

/// Converts an xattr from debugfs's output, `name=(length) = "text"` or hex bytes, to `name=hex`, with the value that
/// the kernel would return.
fn xattr_of_debugfs(printed: &str) -> String {
    let (name, rest) = printed.split_once("=(").unwrap();
    let value = rest.split_once(" = ").map_or("", |(_, value)| value);
    let bytes: Vec<u8> = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(text) => text.as_bytes().to_vec(),
        None => value.split_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect(),
    };
    let bytes = if name.starts_with("system.posix_acl_") { acl_of_the_kernel(&bytes) } else { bytes };
    format!("{name}={}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// Converts an ACL from ext's form (version 1, ids only where they are meaningful) to that of getxattr (version 2).
fn acl_of_the_kernel(stored: &[u8]) -> Vec<u8> {
    const USER: u8 = 2;
    const GROUP: u8 = 8;
    let mut out = vec![2, 0, 0, 0];
    let mut rest = &stored[4..];
    while !rest.is_empty() {
        let (entry, tail) = rest.split_at(4);
        out.extend_from_slice(entry);
        let has_id = entry[0] == USER || entry[0] == GROUP;
        out.extend_from_slice(if has_id { &tail[..4] } else { &[0xff; 4] });
        rest = if has_id { &tail[4..] } else { tail };
    }
    out
}

/// Fails at the first line that differs.
pub fn compare(ours: &Lines, tools: &Lines) {
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        tools.keys().collect::<Vec<_>>(),
        "volumes, ours and the tools'"
    );
    for (file, expected) in tools {
        let lines = &ours[file];
        if let Some((ours, tools)) = lines.iter().zip(expected).find(|(ours, tools)| ours != tools) {
            panic!("{file}:\nours:      {ours}\nthe tools': {tools}");
        }
        assert_eq!(lines.len(), expected.len(), "{file}: number of paths, ours and the tools'");
    }
}
