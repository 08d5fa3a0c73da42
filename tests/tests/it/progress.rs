//! Progress for programs: lines of JSON, held against Python's parser, and the answer to SIGUSR1.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mif_tests::disk::noise;
use mif_tests::fault::{self, Fault, Faults};
use mif_tests::{WorkFolder, have, mif, run, tool, work_folder};

/// A directory with a disk, twice: `two/a.raw` and `two/b.raw`.
fn two_disks() -> WorkFolder {
    let work = work_folder();
    fs::create_dir(work.at("two")).unwrap();
    fs::write(work.at("two/a.raw"), noise(1, 96 << 20)).unwrap();
    fs::hard_link(work.at("two/a.raw"), work.at("two/b.raw")).unwrap();
    work
}

fn started(work: &Path, words: &[&str]) -> Child {
    start(mif(&work.join("store")), work, words)
}

fn start(mut command: Command, work: &Path, words: &[&str]) -> Child {
    command.current_dir(work).args(words).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the program has begun to handle the signal.
fn wait_until_it_listens(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    let start = Instant::now();
    let listens = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:").map(str::trim));
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask >> 9 & 1 == 1)
    };
    while !listens() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not listen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ask(child: &Child) {
    run(tool("kill").args(["-USR1", &child.id().to_string()]));
}

/// Asks until the program ends, and returns what it printed.
fn asked(mut child: Child) -> Output {
    wait_until_it_listens(&child);
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        let _ = tool("kill").args(["-USR1", &child.id().to_string()]).stderr(Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(40));
    }
    child.wait_with_output().unwrap()
}

/// The fields of a line of progress, and what they are in each.
const CHECK: &str = r#"
import json, sys
WORK = {"image": (str, None), "phase": (str, None), "unit": ("bytes", "images", None), "done": (int,),
        "total": (int, None), "rate": (float, int, None), "seconds_left": (float, int, None)}
def check(work, more):
    assert set(work) == set(WORK) | more, work
    for name, kinds in WORK.items():
        value = work[name]
        assert any(value == kind if not isinstance(kind, type) else isinstance(value, kind) for kind in kinds), work
    assert work["total"] is None or work["done"] <= work["total"], work
lines = []
for text in open(sys.argv[1], encoding="utf-8"):
    assert text.endswith("\n"), text
    line = json.loads(text)
    if line.get("event") != "progress":
        print(json.dumps(line))
        continue
    check(line, {"event", "verb", "seconds", "current"})
    for work in line["current"]:
        check(work, set())
        assert isinstance(work["image"], str), work
    lines.append(line)
assert lines, "no progress"
assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
# One every half second, one at the end of the work, and those that were asked for.
assert len(lines) <= lines[-1]["seconds"] / 0.5 + 3 + int(sys.argv[2]), len(lines)
last = lines[-1]
print(last["verb"], last["image"], last["phase"], last["unit"], last["done"], last["total"], last["current"])
"#;

/// Checks the lines on standard error; returns the last one as text, after lines that are not about progress.
fn checked(work: &Path, output: &Output, asked: usize) -> String {
    fs::write(work.join("lines"), &output.stderr).unwrap();
    run(tool("python3").current_dir(work).args(["-c", CHECK, "lines", &asked.to_string()]))
}

#[test]
fn progress_in_json_is_a_line_at_a_time_and_ends_with_the_whole() {
    if !have(&["python3"]) {
        return;
    }
    let work = two_disks();
    let output =
        started(work.path(), &["import", "two/a.raw", "--progress", "json"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let size = 96 << 20;
    let said = checked(work.path(), &output, 0);
    assert_eq!(said, format!("import two/a.raw importing bytes {size} {size} []\n"));
    // In a batch, images are counted. Reports stay on standard output.
    fs::remove_dir_all(work.at("store")).unwrap();
    let output =
        started(work.path(), &["--progress=json", "import", "two", "--json"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(checked(work.path(), &output, 0), "import None None images 2 2 []\n");
    assert!(String::from_utf8(output.stdout).unwrap().lines().all(|line| line.starts_with("{\"event\":")));
    // Errors are among the lines, and so are warnings and notes.
    let output = started(work.path(), &["images", "none*", "--progress", "json"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "{\"note\":\"no image matches\"}\n");
    let output = started(work.path(), &["--progress", "json", "info", "none"]).wait_with_output().unwrap();
    assert!(output.stderr.starts_with(b"{\"error\":"), "{output:?}");
    // What goes to standard error instead of a report is one of them.
    let output = started(work.path(), &["export", "a", "-", "-O", "raw", "--progress", "json"])
        .wait_with_output()
        .unwrap();
    let said = checked(work.path(), &output, 0);
    assert!(
        said.starts_with("{\"image\": \"a@1\"") && said.contains(&format!(" bytes {size} {size} []")),
        "{said}"
    );
    assert_eq!(output.stdout.len(), size);
}

#[test]
fn sigusr1_prints_how_far_the_work_is_and_never_ends_it() {
    if !have(&[&["python3"], fault::TOOLS].concat()) {
        return;
    }
    let work = two_disks();
    // Each read of a disk takes a while, so that a fast machine can be asked as well.
    let faults = Faults::new(work.path());
    let slowly = |words: &[&str]| {
        let command = faults.mif(&work.at("store"), &work.at("two"), Fault::SlowRead(10));
        start(command, work.path(), words)
    };
    // Without a terminal, and with -q.
    let output = asked(slowly(&["-q", "import", "two/a.raw"]));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.lines().all(|line| line.starts_with("mif import: ") && line.contains("running for ")),
        "{said}"
    );
    let is_far = |line: &str| {
        line.starts_with("mif import: two/a.raw: importing, ")
            && line.contains(" of 96.00 MiB (")
            && line.contains("/s, ")
    };
    assert!(said.lines().any(is_far), "{said}");
    // On many images, with those in progress.
    fs::remove_dir_all(work.at("store")).unwrap();
    let output = asked(slowly(&["import", "two"]));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.lines().any(|line| line.contains(" of 2 images") && line.contains(": importing, ")),
        "{said}"
    );
    // What it makes is the same.
    run(tool("cmp")
        .arg(work.at("two/a.raw"))
        .stdin(Stdio::from(started(work.path(), &["export", "a", "-", "-O", "raw"]).stdout.take().unwrap()))
        .arg("-"));
    // The answer is a line of JSON if progress is.
    let mut count = 0;
    let mut child = slowly(&["verify", "a", "two/a.raw", "--progress", "json"]);
    wait_until_it_listens(&child);
    while child.try_wait().unwrap().is_none() {
        ask(&child);
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    checked(work.path(), &output, count);
}

#[test]
fn work_goes_on_if_nobody_reads_what_is_said_about_it() {
    let work = two_disks();
    for progress in ["json", "bar"] {
        let script = "\"$0\" --store store --progress $1 import two 2>&1 >/dev/null | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}";
        let mut shell = Command::new("bash");
        shell.current_dir(work.path()).args(["-c", script]).arg(mif_tests::mif_path()).arg(progress);
        assert_eq!(shell.status().unwrap().code(), Some(0), "{progress}");
        fs::remove_dir_all(work.at("store")).unwrap();
    }
    // An error that cannot be printed has its exit code.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = mif(&work.at("store")).args(["info", "none"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(3));
}
