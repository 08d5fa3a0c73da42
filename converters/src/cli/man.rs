//! Man pages generated from the command line's help: one for the program and one for each verb.
//!
//! `clap_mangen` renders the options. The rest is laid out here, because a man page has separate sections for examples
//! and exit codes, while the help has a single text (`after_help`).

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// A man page of section 1.
pub(super) struct Page {
    /// The file's name, such as `mif-import.1`.
    pub(super) file: String,
    /// Its text, in roff.
    pub(super) text: String,
}

/// Returns the pages of the program, of its verbs, and of their subcommands.
pub(super) fn pages(mut program: Command) -> Vec<Page> {
    // Only a built command passes its global options on to its verbs.
    program.build();
    let mut pages = Vec::new();
    add(&program, &[], &mut pages);
    pages
}

/// Returns true if `start` is the start of a man page of mif.
pub(super) fn is_page(start: &[u8]) -> bool {
    let mut lines = start.split(|byte| *byte == b'\n');
    lines.any(|line| line.starts_with(b".TH mif ") || line.starts_with(b".TH mif-"))
}

fn add(command: &Command, above: &[String], pages: &mut Vec<Page>) {
    let name = name(command);
    pages.push(Page { file: format!("{name}.1"), text: page(command, above) });
    let above = [above, &[name]].concat();
    for verb in verbs(command) {
        add(verb, &above, pages);
    }
}

/// Returns the name of a page, such as `mif-import`.
fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

fn page(command: &Command, above: &[String]) -> String {
    let name = name(command);
    let help = Help::parse(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let version = format!("mif {}", command.get_version().unwrap_or_default());

    let mut top = Roff::new();
    // No date: the version identifies the page, and the same program always writes the same page.
    top.control("TH", [&name, "1", "\"\"", &version, "User Commands"]);
    top.control("SH", ["NAME"]).text([roman(format!("{name} - {}", first_sentence(&about)))]);
    top.control("SH", ["SYNOPSIS"]).text(synopsis(command));
    top.control("SH", ["DESCRIPTION"]);
    let about = if about.ends_with(['.', '?']) { about } else { about + "." };
    top.text([roman(about)]);
    for block in &help.description {
        block.render(&mut top);
    }

    if verbs(command).next().is_some() {
        top.control("SH", ["COMMANDS"]);
        for verb in verbs(command) {
            top.control("TP", []).text([bold(self::name(verb)), roman("(1)")]);
            top.text([roman(verb.get_about().map(ToString::to_string).unwrap_or_default())]);
        }
    }

    let mut rest = Roff::new();
    if !help.exit_codes.is_empty() {
        rest.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in &help.exit_codes {
            rest.control("TP", []).text([bold(code)]).text([roman(meaning)]);
        }
    }
    if !help.examples.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
        for (i, (example, meaning)) in help.examples.iter().enumerate() {
            if i > 0 {
                rest.control("PP", []);
            }
            // Not filled, so that a command can be copied from the page.
            rest.control("nf", []).text([bold(example)]).control("fi", []);
            if !meaning.is_empty() {
                rest.control("RS", []).text([roman(meaning)]).control("RE", []);
            }
        }
    }
    if !above.is_empty() {
        rest.control("SH", ["SEE ALSO"]);
        let mut names = Vec::new();
        for name in above {
            names.extend([bold(name), roman("(1), ")]);
        }
        names.pop();
        names.push(roman("(1)"));
        rest.text(names);
    }
    let text = top.render() + &options(command) + without_preamble(&rest.render());
    // Characters that roff would otherwise replace.
    text.replace('`', "\\(ga").replace('^', "\\(ha").replace('~', "\\(ti")
}

fn first_sentence(about: &str) -> &str {
    about.split_once(". ").map_or(about, |(first, _)| first).trim_end_matches('.')
}

/// Returns the usage as in the help.
fn synopsis(command: &Command) -> Vec<clap_mangen::roff::Inline> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ");
    let program = command.get_bin_name().unwrap_or_else(|| command.get_name());
    match usage.strip_prefix(program) {
        Some(rest) => vec![bold(program), roman(rest)],
        None => vec![roman(usage)],
    }
}

fn options(command: &Command) -> String {
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text).expect("memory can be written");
    let text = String::from_utf8(text).expect("options are UTF-8");
    // An empty line between breaks causes a warning; this request produces an empty line without one.
    without_preamble(&text).replace(".br\n\n.br\n", ".sp\n")
}

/// Removes the definition of the apostrophe, with which every rendering begins: a page needs it only once.
fn without_preamble(text: &str) -> &str {
    text.find(".SH").map_or("", |start| &text[start..])
}

/// The help text after the options, split into the sections of man pages.
#[derive(Default)]
struct Help {
    description: Vec<Block>,
    /// Commands with their descriptions.
    examples: Vec<(String, String)>,
    /// Exit codes with their meanings.
    exit_codes: Vec<(String, String)>,
}

enum Block {
    Paragraph(String),
    /// Lines that are not filled.
    Lines(Vec<String>),
}

impl Help {
    /// Parses the help. Text is not indented; examples, codes and quoted files are indented under a line that ends with
    /// a colon.
    fn parse(text: &str) -> Self {
        let mut help = Help::default();
        let lines: Vec<&str> = text.lines().collect();
        let is_indented = |line: &str| line.starts_with(' ');
        let mut heading = "";
        for group in lines.chunk_by(|a, b| is_indented(a) == is_indented(b) && a.is_empty() == b.is_empty()) {
            let group: Vec<&str> = group.iter().copied().filter(|line| !line.is_empty()).collect();
            match group.last() {
                None => {}
                Some(last) if !is_indented(last) => {
                    heading = last;
                    let text: Vec<&str> =
                        group.into_iter().filter(|line| !matches!(*line, EXAMPLES | EXIT_CODES)).collect();
                    if !text.is_empty() {
                        help.description.push(Block::Paragraph(text.join("\n")));
                    }
                }
                Some(_) if heading == EXAMPLES => help.examples.extend(pairs(&group)),
                Some(_) if heading == EXIT_CODES => help.exit_codes.extend(pairs(&group)),
                Some(_) => {
                    let lines = group.iter().map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned());
                    help.description.push(Block::Lines(lines.collect()));
                }
            }
        }
        help
    }
}

const EXAMPLES: &str = "Examples:";
const EXIT_CODES: &str = "Exit codes:";

/// Parses lines of two columns, separated by at least two spaces. A line with deeper indentation continues the right
/// column.
fn pairs(lines: &[&str]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in lines {
        let text = line.trim();
        match pairs.last_mut().filter(|_| line.starts_with("    ")) {
            Some((_, right)) if right.is_empty() => right.push_str(text),
            Some((_, right)) => right.extend([" ", text]),
            None => {
                let (left, right) = text.split_once("  ").unwrap_or((text, ""));
                pairs.push((left.to_owned(), right.trim_start().to_owned()));
            }
        }
    }
    pairs
}

impl Block {
    fn render(&self, roff: &mut Roff) {
        match self {
            Block::Paragraph(text) => {
                roff.control("PP", []).text([roman(text)]);
            }
            Block::Lines(lines) => {
                roff.control("PP", []).control("RS", ["4"]).control("nf", []);
                for line in lines {
                    roff.text([roman(line)]);
                }
                roff.control("fi", []).control("RE", []);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_divided_into_the_sections_of_a_man_page() {
        let help = Help::parse(
            "Examples:\n  mif a x      does a\n  mif b\n               does b\n  mif c  does\n               c\n\n\
             Text\nof a paragraph:\n  [table]\n    key = 1\nMore.\n\nExit codes:\n  0  done",
        );
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let examples = [pair("mif a x", "does a"), pair("mif b", "does b"), pair("mif c", "does c")];
        assert_eq!(help.examples, examples);
        assert_eq!(help.exit_codes, [pair("0", "done")]);
        let described: Vec<String> = help
            .description
            .iter()
            .map(|block| match block {
                Block::Paragraph(text) => text.clone(),
                Block::Lines(lines) => lines.join("|"),
            })
            .collect();
        assert_eq!(described, ["Text\nof a paragraph:", "[table]|  key = 1", "More."]);
    }

    #[test]
    fn a_page_of_mif_is_known_from_others() {
        let mut program = Command::new("mif").version("1").subcommand(Command::new("do").about("Do"));
        program.build();
        for page in pages(program) {
            assert!(is_page(page.text.as_bytes()), "{}", page.text);
        }
        for other in ["", ".TH mifare 1\n", ".TH LS 1\n", "mif\n"] {
            assert!(!is_page(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_verb_of_a_verb_has_a_page_with_the_global_options() {
        let inner = Command::new("get").about("Get it");
        let global = clap::Arg::new("store").long("store").global(true);
        let program = Command::new("mif").disable_help_subcommand(true).arg(global);
        let program = program.subcommand(Command::new("tag").subcommand(inner));
        let pages = pages(program);
        let names: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(names, ["mif.1", "mif-tag.1", "mif-tag-get.1"]);
        assert!(pages[2].text.contains("\\-\\-store"), "{}", pages[2].text);
        assert!(pages[2].text.contains("\\fBmif\\fR(1), \\fBmif\\-tag\\fR(1)"), "{}", pages[2].text);
    }
}
