//! Test support: running the outside tools that serve as oracles, and reproducible damage.

use std::process::Command;

#[allow(dead_code, unreachable_pub)]
pub(crate) mod random;
#[allow(dead_code, unreachable_pub)]
mod tools;

pub(crate) use self::tools::have;

/// Runs `tool`, which must be installed, and returns its output. Times are UTC, names UTF-8.
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    String::from_utf8(run_raw(tool, args)).expect("UTF-8")
}

/// As [`run`], but returns bytes.
pub(crate) fn run_raw(tool: &str, args: &[&str]) -> Vec<u8> {
    let output = command(tool, args).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {} {said}", output.status);
    output.stdout
}

/// Runs `tool` with `input` on its standard input.
pub(crate) fn feed(tool: &str, args: &[&str], input: &str) {
    use std::io::Write;
    let mut child = command(tool, args).stdin(std::process::Stdio::piped()).spawn().expect("run");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("feed");
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success(), "{tool} {args:?}: {}", output.status);
}

fn command(tool: &str, args: &[&str]) -> Command {
    let mut command = Command::new(tools::find(tool).expect("installed"));
    command.args(args).env("TZ", "UTC").env("LC_ALL", "C.UTF-8").env("MTOOLS_SKIP_CHECK", "1");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

/// A generator of reproducible pseudo-random numbers.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    /// Changes `bytes` in one to six places, most of them in one of `hot`: a bit, a byte, or an integer that is small,
    /// huge, or at the edge of a range.
    pub(crate) fn mutate(&mut self, bytes: &mut [u8], hot: &[std::ops::Range<usize>]) {
        const EDGES: [u64; 9] = [0, 1, 2, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];
        for _ in 0..1 + self.roll(6) {
            let range = if self.roll(10) == 0 { 0..bytes.len() } else { hot[self.roll(hot.len())].clone() };
            let at = range.start + self.roll(range.len());
            match self.roll(4) {
                0 => bytes[at] ^= 1 << self.roll(8),
                1 => bytes[at] = self.roll(256) as u8,
                _ => {
                    let value =
                        EDGES[self.roll(EDGES.len())].wrapping_add(self.roll(5) as u64).wrapping_sub(2);
                    let width = (1 << self.roll(4)).min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                }
            }
        }
    }
}

/// The address space of the process that reads mutants, in KiB.
const MEMORY_MAX: u64 = 512 << 10;

/// Runs tens of thousands of mutants through every parser, in a process of their own with little memory.
#[test]
fn mutants_are_read_in_little_memory() {
    let program = std::env::current_exe().expect("this program has a path");
    let limited = format!("ulimit -v {MEMORY_MAX}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited])
        .arg(program)
        .args(["--ignored", "--test-threads", "1", "mutants_of"])
        .output()
        .expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().filter(|line| line.ends_with(" ... ok")).count() >= 8, "{said}");
}
