//! Adds an argument to the kernel's command line, wherever the image's boot loader takes it from: GRUB's settings and
//! its generated configuration, entries of the Boot Loader Specification, GRUB's environment block, extlinux.
//!
//! The settings count when the image's own tools write the configuration anew (after an update of the kernel), the
//! configuration until then. So both are edited.

use super::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// The size of GRUB's environment block in bytes, and what it begins with.
const BLOCK: usize = 1024;
const BLOCK_START: &str = "# GRUB Environment Block\n";

/// Unified kernel images: their command line is inside a program that may be signed.
const UNIFIED: [&str; 4] = [
    "/boot/efi/EFI/Linux/*.efi",
    "/efi/EFI/Linux/*.efi",
    "/boot/EFI/Linux/*.efi",
    "/usr/lib/modules/*/*.efi",
];

/// How a file holds the command line. The function returns the file with the argument, or `None` if it holds none.
type Place = (&'static str, fn(&str, &str) -> Option<Result<String>>);

const PLACES: &[Place] = &[
    ("/etc/default/grub", |text, arg| Some(Ok(settings(text, "GRUB_CMDLINE_LINUX", arg, true)?))),
    ("/etc/default/grub.d/*.cfg", |text, arg| Some(Ok(settings(text, "GRUB_CMDLINE_LINUX", arg, false)?))),
    ("/boot/grub/grub.cfg", |text, arg| menu(text, arg).map(Ok)),
    ("/boot/grub2/grub.cfg", |text, arg| menu(text, arg).map(Ok)),
    ("/boot/efi/EFI/*/grub.cfg", |text, arg| menu(text, arg).map(Ok)),
    ("/boot/grub/grubenv", environment),
    ("/boot/grub2/grubenv", environment),
    ("/boot/efi/EFI/*/grubenv", environment),
    ("/boot/loader/entries/*.conf", |text, arg| entry(text, "options", arg).map(Ok)),
    ("/boot/efi/loader/entries/*.conf", |text, arg| entry(text, "options", arg).map(Ok)),
    ("/efi/loader/entries/*.conf", |text, arg| entry(text, "options", arg).map(Ok)),
    ("/etc/kernel/cmdline", |text, arg| line(text, arg).map(Ok)),
    ("/boot/extlinux/extlinux.conf", |text, arg| entry(text, "append", arg).map(Ok)),
    ("/boot/extlinux.conf", |text, arg| entry(text, "append", arg).map(Ok)),
    ("/etc/update-extlinux.conf", |text, arg| Some(Ok(settings(text, "default_kernel_opts", arg, false)?))),
    ("/boot/firmware/cmdline.txt", |text, arg| line(text, arg).map(Ok)),
];

/// Adds an argument.
pub(super) fn kernel_argument(files: &Files, argument: &str) -> Result<Vec<Edit>> {
    let is_plain = |c: char| c.is_ascii_graphic() && !"\"'\\`$#{}".contains(c);
    if argument.is_empty() || !argument.chars().all(is_plain) {
        return Err(Error::usage(format!("invalid kernel argument \"{argument}\""))
            .advise("Pass one argument without blanks, quotes, $ or \\, such as console=ttyS0"));
    }
    for pattern in UNIFIED {
        if let Some(path) = files.glob(pattern)?.first() {
            return Err(Error::unsupported(format!(
                "the image boots unified kernel images, such as {path}: their command line is inside the program, which may be signed"
            ))
            .advise("Build the unified kernel image anew with the argument"));
        }
    }
    if files.is_file("/etc/zipl.conf") {
        return Err(Error::unsupported(
            "the image boots with zipl, whose boot map only the zipl program can write",
        ));
    }
    let mut edits = Vec::new();
    let mut found = false;
    for (pattern, add) in PLACES {
        for path in files.glob(pattern)? {
            if !files.is_file(&path) {
                continue;
            }
            let text = files.editable(&path)?;
            let Some(new) = add(&text, argument) else { continue };
            let new = new.map_err(|e| e.within(&path))?;
            found = true;
            if new != text {
                edits.push(Edit::text(path, new));
            }
        }
    }
    if !found {
        return Err(Error::unsupported("the image has no boot loader configuration that mif knows").advise(
            "It looks for GRUB, entries of the Boot Loader Specification, extlinux, and cmdline.txt",
        ));
    }
    Ok(edits)
}

/// Returns true if a command line has the argument.
fn has(line: &str, argument: &str) -> bool {
    line.split(|c: char| c.is_whitespace() || "\"'".contains(c)).any(|word| word == argument)
}

/// Adds the argument to the shell variable `name`. If no line sets it, adds one if `insert`, else returns `None`.
fn settings(text: &str, name: &str, argument: &str, insert: bool) -> Option<String> {
    let mut found = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let start = line.trim_start();
        let start = start.strip_prefix("export ").unwrap_or(start);
        let value = start.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        let Some(value) = value else {
            lines.push(line.to_owned());
            continue;
        };
        found = true;
        if has(value, argument) {
            lines.push(line.to_owned());
            continue;
        }
        let head = &line[..line.len() - value.len()];
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        // Up to the closing quote; a comment may follow.
        let (inside, tail) = match quote {
            Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
        };
        let quote = quote.unwrap_or('"');
        let between = if inside.trim().is_empty() { "" } else { " " };
        let tail = if tail.is_empty() || tail.starts_with(char::is_whitespace) {
            tail.to_owned()
        } else {
            format!(" {tail}")
        };
        lines.push(format!("{head}{quote}{}{between}{argument}{quote}{tail}", inside.trim_end()));
    }
    if !found {
        if !insert {
            return None;
        }
        lines.push(format!("{name}=\"{argument}\""));
    }
    Some(lines.join("\n") + "\n")
}

/// Adds the argument to every kernel that a grub.cfg loads, and to the options of its entries.
fn menu(text: &str, argument: &str) -> Option<String> {
    let mut found = false;
    let add = |line: &str| {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let kernel = words.next().unwrap_or_default();
        let loads = match command {
            "linux" | "linux16" | "linuxefi" => !kernel.contains("memtest"),
            "module" | "module2" => kernel.contains("vmlinu"),
            _ => false,
        };
        if loads {
            found = true;
            return if has(line, argument) {
                line.to_owned()
            } else {
                format!("{} {argument}", line.trim_end())
            };
        }
        // Fedora's: the options for entries without their own.
        let options = line.trim_start().strip_prefix("set default_kernelopts=\"");
        match options.and_then(|options| options.split_once('"')) {
            Some((options, rest)) if !has(options, argument) => {
                let indent = &line[..line.len() - line.trim_start().len()];
                format!("{indent}set default_kernelopts=\"{} {argument}\"{rest}", options.trim_end())
            }
            _ => line.to_owned(),
        }
    };
    let lines: Vec<String> = text.lines().map(add).collect();
    found.then(|| lines.join("\n") + "\n")
}

/// Adds the argument to the variable `kernelopts` of an environment block, which has a fixed size.
fn environment(text: &str, argument: &str) -> Option<Result<String>> {
    if !text.starts_with(BLOCK_START) || text.len() != BLOCK {
        return None;
    }
    let mut found = false;
    let add = |line: &str| match line.strip_prefix("kernelopts=") {
        Some(options) => {
            found = true;
            if has(options, argument) { line.to_owned() } else { format!("{} {argument}", line.trim_end()) }
        }
        None => line.to_owned(),
    };
    let (body, _) = text.rsplit_once('\n')?;
    let new = body.lines().map(add).collect::<Vec<_>>().join("\n") + "\n";
    if !found {
        return None;
    }
    if new.len() > BLOCK {
        return Some(Err(Error::input(format!(
            "no room for the argument: GRUB's environment block has {BLOCK} bytes"
        ))));
    }
    let padding = "#".repeat(BLOCK - new.len());
    Some(Ok(new + &padding))
}

/// Adds the argument to the lines of an entry that begin with `key`, unless they take their options from GRUB's
/// environment block, which is edited too.
fn entry(text: &str, key: &str, argument: &str) -> Option<String> {
    let mut found = false;
    let add = |line: &str| {
        let mut words = line.split_whitespace();
        if !words.next().is_some_and(|word| word.eq_ignore_ascii_case(key)) {
            return line.to_owned();
        }
        found = true;
        let by_variable = words.any(|word| word == "$kernelopts");
        if by_variable || has(line, argument) {
            line.to_owned()
        } else {
            format!("{} {argument}", line.trim_end())
        }
    };
    let lines: Vec<String> = text.lines().map(add).collect();
    found.then(|| lines.join("\n") + "\n")
}

/// Adds the argument to a file that is a command line.
fn line(text: &str, argument: &str) -> Option<String> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if has(text, argument) {
        return Some(text.to_owned());
    }
    let space = if first.trim().is_empty() { "" } else { " " };
    let rest: String = lines.flat_map(|line| [line, "\n"]).collect();
    Some(format!("{}{space}{argument}\n{rest}", first.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_keep_their_quotes_and_comments() {
        let add = |text: &str| settings(text, "GRUB_CMDLINE_LINUX", "a=1", true).unwrap();
        assert_eq!(add("GRUB_CMDLINE_LINUX=\"\"\n"), "GRUB_CMDLINE_LINUX=\"a=1\"\n");
        assert_eq!(add("GRUB_CMDLINE_LINUX='x y' # why\n"), "GRUB_CMDLINE_LINUX='x y a=1' # why\n");
        assert_eq!(add("export GRUB_CMDLINE_LINUX=quiet"), "export GRUB_CMDLINE_LINUX=\"quiet a=1\"\n");
        assert_eq!(add("GRUB_CMDLINE_LINUX=\"a=1 b\"\n"), "GRUB_CMDLINE_LINUX=\"a=1 b\"\n", "it is there");
        assert_eq!(
            add("GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n#GRUB_CMDLINE_LINUX=\"\"\n"),
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n#GRUB_CMDLINE_LINUX=\"\"\nGRUB_CMDLINE_LINUX=\"a=1\"\n"
        );
        assert_eq!(settings("X=1\n", "GRUB_CMDLINE_LINUX", "a", false), None);
    }

    #[test]
    fn every_kernel_of_a_menu_gets_the_argument_and_nothing_else_does() {
        let text = "menuentry x {\n\tlinux\t/vmlinuz root=/dev/vda1 ro quiet \n\tinitrd\t/initrd.img\n}\n\
                    \tlinux16 /memtest86+.bin\n\tmodule2 /vmlinuz-6 root=x\n\tmodule2 /initrd.img\n\
                    \tset default_kernelopts=\"root=x ro \"\n";
        let expected = "menuentry x {\n\tlinux\t/vmlinuz root=/dev/vda1 ro quiet a=1\n\tinitrd\t/initrd.img\n}\n\
                        \tlinux16 /memtest86+.bin\n\tmodule2 /vmlinuz-6 root=x a=1\n\tmodule2 /initrd.img\n\
                        \tset default_kernelopts=\"root=x ro a=1\"\n";
        assert_eq!(menu(text, "a=1").unwrap(), expected);
        assert_eq!(menu(expected, "a=1").unwrap(), expected);
        assert_eq!(menu("search --label x\nconfigfile /grub.cfg\n", "a=1"), None);
    }

    #[test]
    fn an_environment_block_keeps_its_size() {
        let block =
            |body: &str| format!("{BLOCK_START}{body}{}", "#".repeat(BLOCK - BLOCK_START.len() - body.len()));
        let new = environment(&block("saved_entry=0\nkernelopts=root=x ro\n"), "a=1").unwrap().unwrap();
        assert_eq!(new, block("saved_entry=0\nkernelopts=root=x ro a=1\n"));
        assert!(environment(&block("saved_entry=0\n"), "a=1").is_none());
        let full = format!("kernelopts={}\n", "x".repeat(BLOCK - BLOCK_START.len() - 12));
        assert!(environment(&block(&full), "a=1").unwrap().is_err());
    }

    #[test]
    fn an_entry_with_the_options_of_the_block_stays_as_it_is() {
        assert_eq!(entry("options root=x\n", "options", "a").unwrap(), "options root=x a\n");
        assert_eq!(entry("options $kernelopts $x\n", "options", "a").unwrap(), "options $kernelopts $x\n");
        assert_eq!(entry("  APPEND root=x\n", "append", "a").unwrap(), "  APPEND root=x a\n");
        assert_eq!(entry("title x\n", "options", "a"), None);
        assert_eq!(line("root=x rw \n", "a").unwrap(), "root=x rw a\n");
    }
}
