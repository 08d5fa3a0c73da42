//! What the terminal can do: its width, and whether to use colours.

use std::io::{self, IsTerminal};

/// The width that is assumed if there is no terminal.
const WIDTH: usize = 80;

/// Returns the width of output in columns: `COLUMNS`, or that of the terminal.
pub(super) fn width() -> usize {
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    variable.or_else(terminal).unwrap_or(WIDTH).clamp(40, 240)
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
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !is_dumb && !is_zero("CLICOLOR")
}
