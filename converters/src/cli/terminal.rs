//! What the terminal can do: its width, whether to use colours, and how progress is drawn on it.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressDrawTarget, TermLike};

/// The width that is assumed if there is no terminal.
const WIDTH: u16 = 80;

/// Returns the width of output in columns: `COLUMNS`, or that of the terminal.
pub(super) fn width() -> usize {
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    variable.or_else(terminal).unwrap_or(usize::from(WIDTH)).clamp(40, 240)
}

/// Returns true if standard output shows colours, and the user wants them: <https://no-color.org> and
/// <https://bixense.com/clicolors>.
pub(super) fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name: &str| std::env::var_os(name).is_some_and(|value| value == "0");
    if is_set("NO_COLOR") {
        return false;
    }
    if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") {
        return true;
    }
    io::stdout().is_terminal() && !is_dumb() && !is_zero("CLICOLOR")
}

/// Returns standard error to draw progress on.
pub(super) fn progress() -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(AtStart), DRAWS)
}

/// Returns true if standard error is a terminal that can draw progress.
pub(super) fn draws_progress() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

/// Returns true if the terminal cannot move the cursor, or if there may be none.
pub(super) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// How often progress is drawn in a second, at most.
const DRAWS: u8 = 20;

/// Standard error as a terminal on which the cursor waits at the start of the last bar, and not at its end. At Ctrl-C, the
/// terminal prints `^C` at the cursor: at the end of a full line it would go to the next one, and then the bar could not be
/// removed any more.
#[derive(Debug)]
struct AtStart;

impl AtStart {
    fn size() -> (u16, u16) {
        let size = terminal_size::terminal_size_of(io::stderr());
        size.map_or((WIDTH, 24), |(width, height)| (width.0, height.0))
    }

    /// Writes to the terminal. Errors are ignored: the work goes on without its bar, and indicatif panics on an error.
    fn put(text: &str) -> io::Result<()> {
        let _ = io::stderr().write_all(text.as_bytes());
        Ok(())
    }

    /// Sends a control sequence with a number, unless the number is zero.
    fn control(number: usize, letter: char) -> io::Result<()> {
        if number == 0 { Ok(()) } else { Self::put(&format!("\u{1b}[{number}{letter}")) }
    }
}

impl TermLike for AtStart {
    fn width(&self) -> u16 {
        Self::size().0.max(1)
    }

    fn height(&self) -> u16 {
        Self::size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        Self::control(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        Self::control(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        Self::control(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        Self::control(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        Self::put(&format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        Self::put(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        Self::put("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        // A drawing ends with this.
        Self::put("\r")
    }
}
