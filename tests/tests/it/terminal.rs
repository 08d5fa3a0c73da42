//! In a terminal, which is tmux: pagers, progress, and what is left after Ctrl-C.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mif_tests::disk::noise;
use mif_tests::fault::{Fault, Faults};
use mif_tests::guest::Guest;
use mif_tests::{WorkFolder, have, mif_path, run, tool, work_folder};

/// A terminal of 80 columns and 20 lines with a shell.
struct Terminal<'a> {
    work: &'a Path,
}

impl<'a> Terminal<'a> {
    fn new(work: &'a Path) -> Self {
        Self::with(work, &[])
    }

    /// Opens one with more variables in its environment.
    fn with(work: &'a Path, variables: &[(&str, String)]) -> Self {
        let terminal = Terminal { work };
        let mut rc = format!(
            "PS1='> '; PATH={}:$PATH; export MIF_STORE={}; cd {}\n",
            mif_path().parent().unwrap().display(),
            work.join("store").display(),
            work.display()
        );
        for (name, value) in variables {
            rc += &format!("export {name}='{value}'\n");
        }
        fs::write(work.join("rc"), rc).unwrap();
        let shell = format!(
            "env -u PAGER -u MIF_PAGER -u LESS -u NO_COLOR bash --rcfile {}",
            work.join("rc").display()
        );
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "20", &shell]);
        terminal.wait_for(|screen| screen.contains('>'));
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        run(tool("tmux").arg("-S").arg(self.work.join("tmux")).args(words).env("TERM", "xterm-256color"))
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn enter(&self, command: &str) {
        self.keys(&["C-l"]);
        self.keys(&[command, "Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as `is` wants; returns it.
    fn wait_for(&self, is: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if is(&screen) {
                return screen;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the screen stays:\n{screen}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = tool("tmux").arg("-S").arg(self.work.join("tmux")).arg("kill-server").output();
    }
}

#[test]
fn long_answers_go_through_a_pager_and_short_ones_do_not() {
    if !have(&["tmux", "less", "bash", "mke2fs"]) {
        return;
    }
    let Some(guest) = Guest::new(&[("etc/motd", "hello\n")]) else { return };
    let edits: Vec<String> = (0..60).map(|i| format!("--write=/etc/file{i:02}:x")).collect();
    guest.edit(&edits.iter().map(String::as_str).collect::<Vec<_>>());
    let work = guest.at(".");
    let terminal = Terminal::new(&work);
    let code = |code: &str| {
        let expected = format!("code {code}");
        move |screen: &str| screen.contains(&expected)
    };
    // It fits the screen.
    terminal.enter("mif log guest; echo code $?");
    assert!(terminal.wait_for(code("0")).contains("guest@1"));
    // It does not: less shows the first lines, and the exit code stays that of diff.
    terminal.enter("mif diff guest new; echo code $?");
    let screen = terminal.wait_for(|screen| screen.contains("/etc/file17"));
    assert!(!screen.contains("code") && !screen.contains("/etc/file40"), "{screen}");
    // Ctrl-C is the pager's.
    terminal.keys(&["C-c"]);
    std::thread::sleep(Duration::from_millis(1200));
    terminal.keys(&["G"]);
    terminal.wait_for(|screen| screen.contains("guest@1 to new@1: 60 added"));
    terminal.keys(&["q"]);
    terminal.wait_for(code("1"));
    // Without one, everything runs through.
    for command in [
        "mif diff --no-pager guest new; echo code $?",
        "MIF_PAGER= mif diff guest new; echo code $?",
        "PAGER=cat mif diff guest new; echo code $?",
        "PAGER=less MIF_PAGER=cat mif diff guest new; echo code $?",
        "mif diff guest new | cat; echo code ${PIPESTATUS[0]}",
    ] {
        terminal.enter(command);
        let screen = terminal.wait_for(code("1"));
        assert!(screen.contains("60 added"), "{command}: {screen}");
    }
    // One that ends early is no error.
    terminal.enter("MIF_PAGER='head -n 2' mif diff guest new; echo code $?");
    let screen = terminal.wait_for(code("1"));
    assert!(screen.contains("/etc/file01") && !screen.contains("/etc/file02"), "{screen}");
    // One that is missing is named, and the answer is printed.
    terminal.enter("clear; MIF_PAGER=no-such-pager mif diff guest new --limit 3; echo code $?");
    let screen = terminal.wait_for(code("1"));
    assert!(screen.contains("cannot run the pager no-such-pager") && screen.contains("60 added"), "{screen}");
}

/// Makes a disk of 193 MiB, `disks/big.raw`, and a directory with two of it, `disks/two`. With the variables that are
/// returned too, each read of them takes a while: so there is something to look at on a fast machine as well.
fn slow_disk() -> (WorkFolder, [(&'static str, String); 3]) {
    let work = work_folder();
    let mut disk = vec![0; 1 << 20];
    // An entry of the MBR: type 0x83, from sector 2048.
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&(192u32 << 11).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    for seed in 0..6 {
        disk.extend(noise(seed, 32 << 20));
    }
    fs::create_dir_all(work.at("disks/two")).unwrap();
    fs::write(work.at("disks/big.raw"), disk).unwrap();
    for name in ["disks/two/a.raw", "disks/two/b.raw"] {
        fs::hard_link(work.at("disks/big.raw"), work.at(name)).unwrap();
    }
    let variables = Faults::new(work.path()).variables(&work.at("disks"), Fault::SlowRead(20));
    (work, variables)
}

/// Ctrl-C at the question restores the terminal, as a signal that ends the program would not.
#[test]
fn a_key_is_asked_for_without_showing_it() {
    if !have(&["tmux", "bash", "qemu-img", "mke2fs"]) {
        return;
    }
    let work = work_folder();
    let _ = mif_tests::disk::small(work.path(), "plain", &[("hello", b"hello, world")]);
    fs::write(work.at("key"), "opensesame").unwrap();
    crate::luks::qemu_img(&work, "convert -f raw -O luks -o key-secret=s,iter-time=50 plain.raw disk.raw");
    let terminal = Terminal::new(work.path());
    // With a character that backspace takes back, and a line that Ctrl-U does.
    for (keys, said) in [
        (&["wrong", "C-u", "openx", "BSpace", "sesame", "Enter"][..], "hello, world"),
        (&["C-c"], "code 130"),
    ] {
        terminal.enter("mif cat ./disk.raw /hello --ask-key; echo \" code $?\"");
        terminal.wait_for(|screen| screen.contains("Key of the encrypted volumes:"));
        terminal.keys(keys);
        let screen = terminal.wait_for(|screen| screen.contains(said));
        assert!(!screen.contains("sesame") && !screen.contains("wrong"), "{screen}");
        terminal.enter("echo shown");
        terminal.wait_for(|screen| screen.contains("echo shown"));
    }
    // Neither does a signal leave the terminal without echo.
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        terminal.enter(&format!(
            "clear; sh -c 'echo $$ >pid; exec mif cat ./disk.raw /hello --ask-key'; echo code $? {code}"
        ));
        terminal.wait_for(|screen| screen.contains("Key of the encrypted volumes:"));
        let pid = fs::read_to_string(work.at("pid")).unwrap();
        run(tool("kill").args([&format!("-{signal}"), pid.trim()]));
        terminal.wait_for(|screen| screen.contains(&format!("code {code} {code}")));
        terminal.enter("stty | grep -qw -e -echo && echo lo'st' || echo ke'pt'");
        let screen = terminal.wait_for(|screen| screen.contains("kept") || screen.contains("lost"));
        assert!(screen.contains("kept"), "{signal}: {screen}");
    }
}

#[test]
fn progress_has_a_rate_and_the_time_left_and_nothing_of_it_stays_after_ctrl_c() {
    if !have(&["tmux", "bash", "cc"]) {
        return;
    }
    let (work, variables) = slow_disk();
    let terminal = Terminal::with(work.path(), &variables);
    for (command, drawn) in [("mif import disks/big.raw", "B/s, "), ("mif import disks/two", " of 2 images")]
    {
        terminal.enter(&format!("{command}; echo code $?"));
        let screen = terminal.wait_for(|screen| screen.contains("B/s") && screen.contains(drawn));
        assert!(screen.contains("left"), "{screen}");
        terminal.keys(&["C-c"]);
        let screen = terminal.wait_for(|screen| screen.contains("code 130"));
        assert!(!screen.contains("B/s") && !screen.contains(" of 2 images"), "{screen}");
        let left = tool("find").arg(work.at("store")).args(["-path", "*/tmp/*"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    }
}

#[test]
fn a_second_ctrl_c_leaves_nothing_of_a_bar_either() {
    if !have(&["tmux", "bash"]) {
        return;
    }
    let work = work_folder();
    fs::write(work.at("disk.toml"), "table = \"none\"\n[[volume]]\nfs = \"ext4\"\nmount = \"/\"\n").unwrap();
    // Nobody writes to it, so the verb does not notice the first.
    run(tool("mkfifo").arg(work.at("pipe")));
    let terminal = Terminal::new(work.path());
    for _ in 0..3 {
        terminal.enter("mif build disk.toml pipe --as b; echo code $?");
        terminal.wait_for(|screen| screen.contains("b: listing"));
        terminal.keys(&["C-c"]);
        // Two at once would be one.
        std::thread::sleep(Duration::from_millis(150));
        terminal.keys(&["C-c"]);
        let screen = terminal.wait_for(|screen| screen.contains("code 130"));
        assert!(screen.lines().any(|line| line.trim_end() == "code 130"), "{screen}");
    }
}

#[test]
fn an_answer_to_sigusr1_stands_above_the_bar() {
    if !have(&["tmux", "bash", "cc"]) {
        return;
    }
    let (work, variables) = slow_disk();
    let terminal = Terminal::with(work.path(), &variables);
    for (command, store) in [("disks/big.raw", "store"), ("disks/two", "other")] {
        let import = format!("exec mif import --store {store} {command}");
        terminal.enter(&format!("sh -c 'echo $$ > pid; {import}'; echo code $?"));
        terminal.wait_for(|screen| screen.contains("B/s"));
        let pid = fs::read_to_string(work.at("pid")).unwrap();
        run(tool("kill").args(["-USR1", pid.trim()]));
        let screen = terminal.wait_for(|screen| screen.contains("; running for "));
        let (line, bar) = screen.split_once("; running for ").unwrap();
        assert!(line.contains("\nmif import: ") && bar.contains("B/s"), "{screen}");
        let screen = terminal.wait_for(|screen| screen.contains("code 0"));
        assert!(screen.contains("; running for ") && !screen.contains(" left\n"), "{screen}");
    }
}
