//! Signals: a single one ends any verb, whatever it waits for, and leaves no temporary file.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mif_tests::disk::noise;
use mif_tests::fault::{self, Fault, Faults};
use mif_tests::{have, mif, mif_path, repo, run, run_failing, tool, work_folder};

const DESCRIPTION: &str = "table = \"none\"\n[[volume]]\nfs = \"ext4\"\nmount = \"/\"\n";

/// The time that a program may take to end: longer than its grace period, far shorter than what it waits for.
const SOON: Duration = Duration::from_secs(4);

fn send(signal: &str, child: &Child) {
    run(tool("kill").args([&format!("-{signal}"), &child.id().to_string()]));
}

/// Returns the program with SIGHUP enabled, even if these tests were started with it ignored, as by nohup.
fn listening(store: &Path) -> Command {
    let mut command = tool("env");
    command.arg("--default-signal=HUP").arg(mif_path()).env("MIF_STORE", store).stdin(Stdio::null());
    command
}

/// Waits for a child that was told to end, and returns its status; if it does not end, kills it and fails.
fn end(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("it does not end");
}

fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

/// Returns every path under a directory that belongs to no image: temporary names, and the contents of a store's `tmp`.
fn left(folder: &Path) -> Vec<String> {
    // Relative to it, because the directory itself may be under a `tmp`.
    let mut find = tool("find");
    find.current_dir(folder).args([".", "-name", "*.part", "-o", "-path", "*/tmp/*", "-o", "-name", ".mif*"]);
    let found = run(&mut find);
    found.lines().map(str::to_owned).collect()
}

/// Writes a file of 64 MiB of incompressible data.
fn write_noise(to: &Path) {
    fs::write(to, noise(1, 64 << 20)).unwrap();
}

#[test]
fn a_verb_that_waits_for_a_pipe_ends_at_the_first_signal() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::write(at("disk.toml"), DESCRIPTION).unwrap();
    fs::create_dir(at("temporary")).unwrap();
    run(tool("mkfifo").arg(at("pipe")));
    let build = |tree: &Path| {
        let mut command = listening(&at("store"));
        command.arg("build").arg(at("disk.toml")).arg(tree).args(["--as", "b"]);
        command.env("TMPDIR", at("temporary")).stderr(Stdio::null());
        command
    };
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        // Nobody opens the pipe for writing.
        let child = build(&at("pipe")).spawn().unwrap();
        pause();
        send(signal, &child);
        assert_eq!(end(child).code(), Some(code), "{signal}: a pipe without a writer");
        // Half a tar has arrived, and no more follows.
        let mut child = build(Path::new("-")).stdin(Stdio::piped()).spawn().unwrap();
        let mut writer = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut writer, &[0; 512]).unwrap();
        pause();
        send(signal, &child);
        assert_eq!(end(child).code(), Some(code), "{signal}: half a tar");
        drop(writer);
    }
    assert_eq!(fs::read_dir(at("temporary")).unwrap().count(), 0);
    assert_eq!(left(&at("store")), [""; 0]);
}

#[test]
fn a_verb_whose_reader_has_stopped_ends_at_the_first_signal() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    write_noise(&at("noise.raw"));
    let verbs: [&[&str]; 2] =
        [&["convert", "-f", "raw", "noise.raw", "-", "-O", "raw"], &["extract", "demo.qcow2", "-o", "-"]];
    fs::copy(repo().join("fixtures/demo.qcow2"), at("demo.qcow2")).unwrap();
    for arguments in verbs {
        let mut command = mif(&at("store"));
        command.current_dir(work.path()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        pause();
        send("TERM", &child);
        assert_eq!(end(child).code(), Some(143), "{arguments:?}");
    }
}

#[test]
fn a_second_signal_ends_at_once_and_nohup_keeps_its_promise() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::write(at("disk.toml"), DESCRIPTION).unwrap();
    run(tool("mkfifo").arg(at("pipe")));
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" --store store build disk.toml pipe --as b"])
        .arg(mif_path());
    let child = command.current_dir(work.path()).stderr(Stdio::null()).spawn().unwrap();
    pause();
    send("HUP", &child);
    // Longer than the grace period of a verb that ignores the signal.
    std::thread::sleep(Duration::from_millis(1500));
    let mut child = child;
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP was to stay ignored");
    send("TERM", &child);
    send("TERM", &child);
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_verb_that_writes_a_file_removes_it() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    write_noise(&at("noise.raw"));
    for (signal, code) in [("HUP", 129), ("TERM", 143)] {
        let mut command = listening(&at("store"));
        command.args(["convert", "-o", "compress=on", "-f", "raw"]).args([at("noise.raw"), at("out.qcow2")]);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while left(work.path()).is_empty() && start.elapsed() < SOON {}
        send(signal, &child);
        let ended = end(child);
        // On a fast machine it was finished before the signal arrived.
        assert!(ended.code() == Some(code) || at("out.qcow2").exists(), "{ended}");
        let _ = fs::remove_file(at("out.qcow2"));
        assert_eq!(left(work.path()), [""; 0], "{signal}");
    }
}

#[test]
fn a_verb_that_makes_its_file_durable_removes_it_afterwards() {
    if !have(fault::TOOLS) {
        return;
    }
    let work = work_folder();
    let faults = Faults::new(work.path());
    let at = |name: &str| work.path().join(name);
    fs::copy(repo().join("fixtures/demo.qcow2"), at("demo.qcow2")).unwrap();
    for arguments in [&["convert", "demo.qcow2", "out.raw"][..], &["import", "demo.qcow2"]] {
        let mut command = faults.mif(&at("store"), work.path(), Fault::SlowSync(1500));
        let child = command.current_dir(work.path()).args(arguments).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while left(work.path()).is_empty() && start.elapsed() < SOON {}
        pause();
        send("TERM", &child);
        let ended = Instant::now();
        let mut child = child;
        // The syncs that the verb had begun when the signal arrived take their time.
        while child.try_wait().unwrap().is_none() && ended.elapsed() < 4 * SOON {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(child.try_wait().unwrap().is_some(), "{arguments:?}: does not end");
        assert_eq!(left(work.path()), [""; 0], "{arguments:?}");
    }
}

#[test]
fn a_file_past_the_limit_of_file_sizes_is_an_error_that_names_it() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    write_noise(&at("noise.raw"));
    let limited = |line: &str| {
        let mut command = tool("sh");
        command
            .current_dir(work.path())
            .args(["-c", &format!("ulimit -f 2048; exec \"$0\" --store store {line}")]);
        command.arg(mif_path());
        command
    };
    for line in ["convert -f raw noise.raw out.qcow2", "convert -f raw noise.raw out.raw"] {
        let error = run_failing(&mut limited(line), 5);
        assert!(error.contains("out.") && error.contains("too large"), "{error}");
    }
    let error = run_failing(&mut limited("import -f raw noise.raw"), 5);
    assert!(error.contains("too large"), "{error}");
    assert_eq!(left(work.path()), [""; 0]);
    assert!(!at("out.qcow2").exists() && !at("out.raw").exists());
}
