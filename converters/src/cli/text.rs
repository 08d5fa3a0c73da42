//! Formats reports as text for people.

use std::fmt::Write as _;
use std::sync::OnceLock;

use chrono::DateTime;
use indicatif::{BinaryBytes, HumanBytes};
use mif::VerifyReport;
use mif::independent::IndependentReport;
use mif::store::{FilesystemRecord, Provenance};
use mif::{ExportReport, IdsReport, ImageInfo, ImportReport, LsEntry, LsReport, Platform, System, ToldImage};
use mif_formats::fs::Timestamp;
use mif_formats::partition::TableKind;

pub(super) use mif_formats::text::printable;

pub(super) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Formats a count, such as `1 file` or `2 files`.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn import(report: &ImportReport) -> String {
    let ImportReport { source, format, result, image, same_as, disk_size, counts, added, seconds, .. } =
        report;
    let mut out = String::new();
    let _ = match *result {
        "unchanged" => {
            writeln!(out, "{}: unchanged: {} already holds this disk", printable(source), printable(image))
        }
        "repaired" => {
            writeln!(
                out,
                "{}: repaired: {} already holds this disk, and was damaged",
                printable(source),
                printable(image)
            )
        }
        _ => writeln!(out, "{}: imported as {}", printable(source), printable(image)),
    };
    let _ = writeln!(
        out,
        "  {format}, {} disk: {} with {} of content, {} of residue, {} zero",
        size(*disk_size),
        counted(counts.files, "file"),
        size(counts.content_bytes),
        size(counts.residue_bytes),
        size(counts.zero_bytes)
    );
    let _ = writeln!(
        out,
        "  new to the store: {}, stored in {}{}; {seconds:.1} s",
        size(added.bytes),
        size(added.stored_bytes + report.manifest_bytes),
        if report.verified { "; read back and verified" } else { "" },
    );
    if !same_as.is_empty() {
        let _ = writeln!(out, "  same disk as {}", printable(&same_as.join(", ")));
    }
    if let Some(tool) = &report.described_by {
        let name = image.split('@').next().unwrap_or_default();
        let _ = writeln!(
            out,
            "  described by older readers ({}): `mif reread {}` describes it with today's",
            printable(tool),
            printable(name)
        );
    }
    for decrypted in &report.decrypted {
        let _ = writeln!(out, "  stored as plaintext: {}", printable(decrypted));
    }
    for repaired in &report.repaired {
        let _ = writeln!(out, "  repaired: {}", printable(repaired));
    }
    if report.damage_left {
        let _ = writeln!(
            out,
            "  the store still has damaged copies of some objects; remove them with `mif fsck --repair`"
        );
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

pub(super) fn export(report: &ExportReport) -> String {
    let ExportReport { image, output, format, disk_size, allocated, seconds, planned, notes, ids, .. } =
        report;
    let mut out = format!(
        "{}: {} as {format}, {} disk in {}; {seconds:.1} s\n",
        printable(output),
        printable(image),
        size(*disk_size),
        size(*allocated)
    );
    if let Some(bytes) = report.rewritten {
        let _ = writeln!(out, "  rewritten in place: {} differed", size(bytes));
    }
    if let Some(target) = report.target {
        let _ = writeln!(out, "  by the rules of {target}");
    }
    if report.verified {
        let _ = writeln!(out, "  verified: read back, and every byte is the same");
    }
    if !planned.is_empty() {
        let _ = writeln!(out, "  volumes rebuilt: {}", printable(&planned.join(", ")));
    }
    for note in notes {
        let _ = writeln!(out, "  note: {}", printable(note));
    }
    if let Some(report) = ids {
        ids_text(report, &mut out);
    }
    out
}

/// Lists the targets of `export --for`.
pub(super) fn targets(targets: &[Platform]) -> String {
    let width = targets.iter().map(|target| target.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for target in targets {
        let _ = writeln!(out, "{:width$}  {}, as {}", target.name, target.title, target.suffixes());
        for rule in target.rules {
            let _ = writeln!(out, "{:width$}    {}", "", rule.rule);
        }
    }
    out
}

/// Lists the identities that changed, and the files that refer to them.
pub(super) fn ids_text(report: &IdsReport, out: &mut String) {
    for change in &report.changed {
        let _ = writeln!(
            out,
            "  {}: {} becomes {}",
            printable(&change.of),
            printable(&change.old),
            printable(&change.new)
        );
    }
    for path in &report.rewritten {
        let _ = writeln!(out, "  rewritten: {}", printable(path));
    }
    for left in &report.left {
        let _ = writeln!(out, "  not rewritten: {}", printable(left));
    }
}

/// The maximum number of places with differing bytes that are shown.
const SHOWN_PLACES: usize = 20;

pub(super) fn verify(report: &VerifyReport) -> String {
    let [a, b] = &report.images;
    let (a, b) = (printable(a), printable(b));
    if report.same_bits {
        return format!("{a} and {b}: identical, bit for bit ({} disk)\n", size(report.disk_sizes[0]));
    }
    let mut out = format!("{a} and {b}: differ\n");
    let [x, y] = report.disk_sizes;
    if x != y {
        let _ = writeln!(out, "  the disks have {x} and {y} bytes");
    }
    match &report.bits {
        Some(bits) => {
            let place = printable(&bits.place);
            let _ = writeln!(out, "  {} bytes differ, the first at byte {}: {place}", bits.bytes, bits.first);
            for place in bits.places.iter().take(SHOWN_PLACES) {
                let _ = writeln!(out, "  {:>12} bytes: {}", place.bytes, printable(&place.place));
            }
            let more = bits.places_in_all.saturating_sub(SHOWN_PLACES as u64);
            if more > 0 {
                let _ = writeln!(out, "  and {more} more places; --json lists up to a thousand");
            }
        }
        None => {
            let _ = writeln!(
                out,
                "  the bytes that both disks have are the same, and the rest of the longer disk is zero"
            );
        }
    }
    if let Some(files) = &report.files {
        if files.same {
            let _ = writeln!(out, "  files: all {} are the same", files.compared);
        } else {
            let _ = writeln!(out, "  files: {} of {} differ", files.differences, files.compared);
        }
        for path in &files.only_in_first {
            let _ = writeln!(out, "  only in {a}: {}", printable(path));
        }
        for path in &files.only_in_second {
            let _ = writeln!(out, "  only in {b}: {}", printable(path));
        }
        for (path, fields) in &files.different {
            let _ = writeln!(out, "  {}: {}", printable(path), printable(&fields.join(", ")));
        }
    }
    out
}

pub(super) fn independent(report: &IndependentReport) -> String {
    let answer = if report.same { "other readers find the same" } else { "other readers find differences" };
    let mut out = format!("{}: {answer}\n", printable(&report.image));
    for part in &report.parts {
        let what = printable(&part.part);
        let (compared, differ, unchecked) = (part.compared, part.differences, part.unchecked);
        let _ = match part.reader {
            Some(reader) => writeln!(
                out,
                "  {what:<16} {reader}: {compared} compared, {differ} differ, {unchecked} not checked"
            ),
            None => writeln!(out, "  {what:<16} not checked"),
        };
        for (path, how) in &part.different {
            let _ = writeln!(out, "    differs: {}: {}", printable(path), printable(how));
        }
        for (path, why) in &part.not_compared {
            let _ = writeln!(out, "    not checked: {}: {}", printable(path), printable(why));
        }
    }
    out
}

pub(super) fn info(info: &ImageInfo) -> String {
    let mut out = format!(
        "{}\n  disk           {} ({} bytes)\n",
        printable(&info.image),
        size(info.disk_size),
        info.disk_size
    );
    if let Some(container) = &info.container {
        let _ = writeln!(out, "  container      {}", container.format);
        for (what, value) in &container.details {
            let _ = writeln!(out, "    {:<12} {}", printable(what), printable(value));
        }
        for file in container.files.iter().skip(1) {
            let _ = writeln!(out, "    also in      {}", printable(file));
        }
    }
    if let Some(stored) = &info.stored {
        let from = origin(&stored.provenance);
        let when = time(Some(Timestamp { secs: stored.provenance.time as i64, nanos: 0 }));
        let _ = writeln!(
            out,
            "  made           by {} on {when} from {}{}",
            printable(&stored.provenance.operation),
            printable(from),
            stored
                .provenance
                .target
                .as_ref()
                .map_or(String::new(), |target| format!(" for {}", printable(target)))
        );
        for decrypted in &stored.provenance.decrypted {
            let _ = writeln!(out, "  decrypted      {}", printable(decrypted));
        }
        let counts = &stored.counts;
        let _ = writeln!(
            out,
            "  contents       {}, {} of content, {} of residue, {} zero",
            counted(counts.files, "file"),
            size(counts.content_bytes),
            size(counts.residue_bytes),
            size(counts.zero_bytes)
        );
        let _ = writeln!(out, "  layout digest  {}", printable(&stored.layout_digest));
        if let Some(digest) = &stored.disk_digest {
            let _ = writeln!(out, "  disk digest    {}", printable(digest));
        }
    }
    let table = match info.table.kind {
        TableKind::None => "none: one volume on the whole disk",
        TableKind::Mbr => "MBR",
        TableKind::Gpt => "GPT",
    };
    let id = info.table.id.as_deref().map_or(String::new(), |id| format!(", id {}", printable(id)));
    let _ = writeln!(out, "  partitions     {table}, {}-byte sectors{id}", info.table.sector_size);
    for (i, volume) in info.volumes.iter().enumerate() {
        let what = match &volume.content {
            FilesystemRecord::Filesystem(fs) => {
                let label = fs.label.as_deref().map_or(String::new(), |l| format!(" \"{}\"", printable(l)));
                let uuid = printable(fs.uuid.as_deref().unwrap_or("no UUID"));
                format!(
                    "{}{label}, {uuid}, {} blocks",
                    printable(&fs.kind),
                    BinaryBytes(u64::from(fs.block_size))
                )
            }
            FilesystemRecord::Other(Some(name)) => match &volume.luks {
                Some(luks) => format!("{}, {}", printable(name), printable(&luks.describe())),
                None => printable(name),
            },
            FilesystemRecord::Other(None) => "no known filesystem".into(),
        };
        let Some(partition) = info.table.partitions.get(i) else {
            let _ = writeln!(out, "    {}: {what}", printable(&volume.volume));
            continue;
        };
        let name = partition.name.as_deref().filter(|n| !n.is_empty());
        let name = name.map_or(String::new(), |n| format!(" \"{}\"", printable(n)));
        let _ = writeln!(
            out,
            "    {:<4}{:>12} at {:>12}{name}: {what}",
            printable(&volume.volume),
            size(partition.len),
            partition.start
        );
    }
    out.push_str(&system(&info.system));
    for warning in &info.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

/// Describes the operating system on an image, with one line for each part found.
fn system(system: &System) -> String {
    let mut out = String::new();
    if system.is_nothing() {
        return out;
    }
    let name = system.os.as_ref().map_or("unknown", |os| &os.name);
    let _ = write!(out, "  system         {}", printable(name));
    if let Some(architecture) = &system.architecture {
        let _ = write!(out, ", {}", printable(architecture));
    }
    if let Some(hostname) = &system.hostname {
        let _ = write!(out, ", named \"{}\"", printable(hostname));
    }
    out.push('\n');
    for root in &system.other_roots {
        let name = printable(root.os.as_ref().map_or("unknown", |os| &os.name));
        let hostname = root.hostname.as_deref().map(|name| format!(", named \"{}\"", printable(name)));
        let _ = writeln!(
            out,
            "  system         {name}{} (another root, on {})",
            hostname.unwrap_or_default(),
            printable(&root.volume)
        );
    }
    for kernel in &system.kernels {
        let release = printable(kernel.release.as_deref().unwrap_or("unknown release"));
        let place = printable(&format!("{}:{}", kernel.volume, kernel.path));
        let modules = if kernel.modules { "" } else { ", no modules" };
        let _ = writeln!(out, "  kernel         {release}, {place}{modules}");
    }
    for boot in &system.boot {
        let loader = boot.loader.unwrap_or("unknown code");
        let architecture = boot.architecture.map_or(String::new(), |name| format!(", {name}"));
        let _ = writeln!(
            out,
            "  boots by       {}: {loader}, {}{architecture}",
            boot.method,
            printable(&boot.place)
        );
    }
    out
}

pub(super) fn ls(listing: &LsReport, long: bool, digests: bool, volumes: bool) -> String {
    let mut out = String::new();
    for entry in listing.entries() {
        let path = if volumes { format!("{}:{}", entry.volume, entry.path) } else { listing.seen(&entry) };
        let path = printable(&path);
        if digests {
            let _ = write!(out, "{:<40}  ", entry.sha1.as_deref().unwrap_or("-"));
        }
        if !long {
            let _ = writeln!(out, "{path}");
            continue;
        }
        let number = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
        let size = entry.rdev.map_or(entry.size.to_string(), |(major, minor)| format!("{major},{minor}"));
        let target = entry.link_target.as_deref().map_or(String::new(), |t| format!(" -> {}", printable(t)));
        let _ = writeln!(
            out,
            "{} {:>3} {:>5} {:>5} {size:>12} {} {path}{target}",
            mode(&entry),
            number(entry.nlink),
            number(entry.uid),
            number(entry.gid),
            time(entry.mtime),
        );
    }
    out
}

/// Formats the mode as `ls -l` does.
fn mode(entry: &LsEntry) -> String {
    mode_text(entry.file_type, entry.mode)
}

/// Formats a type and a mode as `ls -l` does.
pub(super) fn mode_text(file_type: &str, mode: Option<u16>) -> String {
    let kind = match file_type {
        "dir" => 'd',
        "symlink" => 'l',
        "char" => 'c',
        "block" => 'b',
        "fifo" => 'p',
        "socket" => 's',
        _ => '-',
    };
    let Some(mode) = mode else { return format!("{kind}---------") };
    let mut out = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    out
}

pub(super) fn time(time: Option<Timestamp>) -> String {
    let Some(time) = time else { return format!("{:<16}", "-") };
    match DateTime::from_timestamp(time.secs, time.nanos) {
        Some(time) => time.format("%Y-%m-%d %H:%M").to_string(),
        None => format!("@{}", time.secs),
    }
}

/// Formats a time in seconds since 1970.
pub(super) fn seconds_time(secs: u64) -> String {
    time(Some(Timestamp { secs: secs as i64, nanos: 0 }))
}

/// Returns what an image was made from, for people: a file, or another image.
fn origin(made: &Provenance) -> &str {
    made.source.as_deref().map(from_here).or(made.parent.as_deref()).unwrap_or("-")
}

/// Shortens the path of a file below the working directory.
pub(super) fn from_here(path: &str) -> &str {
    static HERE: OnceLock<Option<String>> = OnceLock::new();
    let here = HERE.get_or_init(|| std::env::current_dir().ok()?.into_os_string().into_string().ok());
    let below = here.as_ref().and_then(|here| path.strip_prefix(here.as_str())?.strip_prefix('/'));
    below.filter(|rest| !rest.is_empty()).unwrap_or(path)
}

pub(super) fn images(images: &[ToldImage<'_>]) -> String {
    let mut out = String::new();
    if images.is_empty() {
        return out;
    }
    let _ =
        writeln!(out, "{:<32} {:>12} {:>9} {:>12} {:<16} FROM", "IMAGE", "DISK", "FILES", "CONTENT", "MADE");
    for ToldImage(image) in images {
        let from = origin(&image.provenance);
        let _ = writeln!(
            out,
            "{:<32} {:>12} {:>9} {:>12} {:<16} {}",
            printable(&image.id()),
            size(image.disk_size),
            image.counts.files,
            size(image.counts.content_bytes),
            time(Some(Timestamp { secs: image.provenance.time as i64, nanos: 0 })),
            printable(from)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_past_all_calendars_print() {
        assert_eq!(time(Some(Timestamp { secs: -2_177_452_800, nanos: 0 })), "1901-01-01 00:00");
        assert_eq!(time(Some(Timestamp { secs: i64::MAX, nanos: 0 })), "@9223372036854775807");
    }
}
