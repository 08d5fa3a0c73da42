//! Keys of encrypted volumes: from files, from standard input, or asked for on the terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use mif::{Code, Error, Result};
use mif_formats::luks::Passphrase;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long a signal may go unnoticed at the question.
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Where the keys of encrypted volumes are.
#[derive(Args, Default)]
pub(super) struct Keys {
    /// Open encrypted volumes (LUKS) with the key in FILE: all bytes of it, a line break at its end too, as cryptsetup
    /// takes them; - is standard input. Repeat for further keys
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// Ask for the key of encrypted volumes on the terminal
    #[arg(long)]
    ask_key: bool,
}

impl Keys {
    /// Reads the keys.
    pub(super) fn read(self) -> Result<Vec<Passphrase>> {
        let mut keys = Vec::new();
        for path in &self.key_file {
            let name = if path.as_os_str() == "-" {
                "standard input".to_owned()
            } else {
                path.display().to_string()
            };
            let key = match path.as_os_str() == "-" {
                true => Passphrase::read(io::stdin().lock()),
                false => File::open(path).and_then(Passphrase::read),
            };
            let key = key.map_err(|e| Error::input(format!("{name}: cannot read the key: {e}")))?;
            if key.is_empty() {
                return Err(Error::input(format!("{name}: the key is empty")));
            }
            keys.push(key);
        }
        if self.ask_key {
            keys.push(ask()?);
        }
        Ok(keys)
    }
}

/// Asks for a key on the terminal, without showing it.
fn ask() -> Result<Passphrase> {
    let no_terminal = |e: &dyn std::fmt::Display| {
        Error::usage(format!("--ask-key: there is no terminal to ask on ({e})"))
            .advise("Pass the key with --key-file FILE, or --key-file - for standard input")
    };
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|e| no_terminal(&e))?;
    let interrupt = Interrupt::watch();
    let quiet = Quiet::of(&terminal).map_err(|e| no_terminal(&e))?;
    let failed = |e: io::Error| Error::input(format!("--ask-key: cannot read from the terminal: {e}"));
    (&terminal).write_all(b"Key of the encrypted volumes: ").map_err(failed)?;
    let typed = type_in(&terminal, &interrupt);
    // The line break that was typed is not shown either.
    (&terminal).write_all(b"\n").map_err(failed)?;
    drop(quiet);
    match typed.map_err(failed)? {
        Some(key) if key.is_empty() => Err(Error::input("--ask-key: the key is empty")),
        Some(key) => Ok(Passphrase::new(key)),
        None => Err(Error::new(Code::Interrupted, "interrupted")),
    }
}

/// Reads a line, byte by byte, without the line break. `None` if the user or a signal interrupts it.
fn type_in(mut terminal: &File, interrupt: &Interrupt) -> io::Result<Option<Vec<u8>>> {
    // Not reallocated, so that no copy of a key stays in memory.
    let mut line = Vec::with_capacity(4096);
    let mut byte = [0];
    loop {
        loop {
            let ready = poll(&mut [PollFd::new(&terminal, PollFlags::IN)], Some(&STEP));
            if interrupt.asked.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match ready {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(e) => return Err(e.into()),
            }
        }
        if terminal.read(&mut byte)? == 0 {
            return Ok(Some(line));
        }
        match byte[0] {
            b'\n' | b'\r' => return Ok(Some(line)),
            // Ctrl-C and Ctrl-\.
            3 | 28 => return Ok(None),
            // Ctrl-D ends a line.
            4 => return Ok(Some(line)),
            // Backspace removes a character, which may be several bytes.
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U.
            21 => line.clear(),
            byte if line.len() < line.capacity() => line.push(byte),
            _ => {}
        }
    }
}

/// Whether a signal has asked the program to end. The program waits a moment for its verb to notice ([`super::signals`]):
/// long enough to give the terminal its settings back.
struct Interrupt {
    asked: Arc<AtomicBool>,
    handlers: Vec<signal_hook::SigId>,
}

impl Interrupt {
    fn watch() -> Self {
        let asked = Arc::<AtomicBool>::default();
        let register = |signal| signal_hook::flag::register(signal, asked.clone());
        let handlers =
            [SIGINT, SIGTERM, SIGHUP].into_iter().filter_map(|signal| register(signal).ok()).collect();
        Interrupt { asked, handlers }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.handlers.drain(..).for_each(|handler| {
            signal_hook::low_level::unregister(handler);
        });
    }
}

/// A terminal that shows nothing of what is typed, and sends Ctrl-C as a byte. Its settings come back when this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn of(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut settings = before.clone();
        settings.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        settings.special_codes[SpecialCodeIndex::VMIN] = 1;
        settings.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &settings)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
