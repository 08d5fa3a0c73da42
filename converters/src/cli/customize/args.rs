//! The arguments of `customize`. Edits are made in the order given, so all of their flags are parsed together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use mif::{Error, Recipe, Result};
use toml::Value;

use super::value::{expected, split_path, unescape};
use crate::cli::common::{Filter, ReshapeArgs};

#[derive(Args)]
pub(crate) struct Customize {
    /// Image in the store to start from: NAME[@VERSION|@TAG] [default: the newest version of each image that the
    /// filter below chooses]
    pub(super) image: Option<String>,
    /// Name of the new image; it may contain {{names}}, and {{image}} for the name of the image to start from
    #[arg(long = "as", value_name = "NEW")]
    pub(super) new: String,
    /// Replace {{NAME}} with VALUE in edits and names
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) set: Vec<String>,
    /// Make one image for each line of FILE; its column headings are the {{names}}
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
    /// Time of the edits, in seconds since 1970, for reproducible images [default: now]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", allow_negative_numbers = true)]
    pub(super) time: Option<i64>,
    /// Show what would be done without doing it
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) filter: Filter,
    #[command(flatten)]
    pub(super) reshape: ReshapeArgs,
    #[command(flatten)]
    pub(super) edits: Edits,
}

/// The edits from the command line, in order.
pub(crate) struct Edits(Vec<(&'static Flag, OsString)>);

/// The name and the fields of the edit that a flag adds to a recipe.
type Fields = (&'static str, Vec<(&'static str, Value)>);

/// A flag for an edit.
struct Flag {
    name: &'static str,
    /// The name of its value in the help; empty if it takes none.
    value: &'static str,
    help: &'static str,
    read: fn(&str) -> Result<Fields>,
}

/// The flag whose value is a file of edits.
const RECIPE: &str = "recipe";

const FLAGS: &[Flag] = &[
    Flag { name: RECIPE, value: "FILE", help: "Make the edits in a TOML file", read: |_| Ok(("", vec![])) },
    Flag {
        name: "write",
        value: "PATH:TEXT",
        help: "Write a file with this text",
        read: |text| on_path("write", text, "content"),
    },
    Flag {
        name: "write-file",
        value: "PATH:FILE",
        help: "Write a file with the content of a local file",
        read: |text| on_path("write", text, "file"),
    },
    Flag {
        name: "append",
        value: "PATH:LINE",
        help: "Append a line to a file",
        read: |text| on_path("append", &format!("{text}\n"), "content"),
    },
    Flag {
        name: "mkdir",
        value: "PATH",
        help: "Create a directory and its missing parents",
        read: |text| path("mkdir", text),
    },
    Flag {
        name: "delete",
        value: "PATH",
        help: "Delete a file, or a directory and everything in it",
        read: |text| path("delete", text),
    },
    Flag {
        name: "rename",
        value: "PATH:TO",
        help: "Move a file or directory within its volume",
        read: |text| {
            let (path, to) = split_path(text)?;
            Ok(("rename", vec![("path", path), ("to", unescape(to).into())]))
        },
    },
    Flag {
        name: "copy",
        value: "PATH:TO",
        help: "Copy a file or directory of the image, with owners and modes",
        read: |text| {
            let (path, to) = split_path(text)?;
            Ok(("copy", vec![("path", path), ("to", unescape(to).into())]))
        },
    },
    Flag {
        name: "copy-in",
        value: "FILE:PATH",
        help: "Copy a local file or directory into the directory PATH; DIR/. copies what is in DIR",
        read: |text| from_file("copy-in", text),
    },
    Flag {
        name: "tar",
        value: "FILE:PATH",
        help: "Unpack a tar archive into the directory PATH; - reads it from standard input",
        read: |text| from_file("tar", text),
    },
    Flag {
        name: "edit",
        value: "PATH:s/PATTERN/TEXT/[gi]",
        help: "Replace text in a file, line by line, as sed does",
        read: |text| on_path("edit", text, "script"),
    },
    Flag {
        name: "touch",
        value: "PATH",
        help: "Set the times of a file, or create it",
        read: |text| path("touch", text),
    },
    Flag { name: "truncate", value: "PATH", help: "Empty a file", read: |text| path("truncate", text) },
    Flag {
        name: "truncate-recursive",
        value: "PATH",
        help: "Empty all files below a directory",
        read: |text| {
            let (what, fields) = path("truncate", text)?;
            Ok((what, [fields, vec![("recursive", true.into())]].concat()))
        },
    },
    Flag {
        name: "scrub",
        value: "PATH",
        help: "Delete a file and its content, under all its names; no trace is on the new disk",
        read: |text| path("scrub", text),
    },
    Flag {
        name: "symlink",
        value: "PATH:TARGET",
        help: "Create a symbolic link",
        read: |text| on_path("symlink", text, "target"),
    },
    Flag {
        name: "chmod",
        value: "PATH:MODE",
        help: "Set permissions, in octal",
        read: |text| on_path("chmod", text, "mode"),
    },
    Flag {
        name: "chown",
        value: "PATH:USER[:GROUP]",
        help: "Set the owner, by number or by name as the image knows it",
        read: |text| on_path("chown", text, "owner"),
    },
    Flag {
        name: "xattr",
        value: "PATH:NAME=VALUE",
        help: "Set an extended attribute; VALUE is text, or hex after 0x",
        read: |text| {
            let (path, rest) = split_path(text)?;
            let (name, value) = pair(rest, '=', "NAME=VALUE")?;
            Ok(("xattr", vec![("path", path), ("name", name), ("value", value)]))
        },
    },
    Flag {
        name: "remove-xattr",
        value: "PATH:NAME",
        help: "Remove an extended attribute",
        read: |text| on_path("remove-xattr", text, "name"),
    },
    Flag {
        name: "hostname",
        value: "HOST",
        help: "Set the host name, in /etc/hosts too",
        read: |text| Ok(("hostname", vec![("name", text.into())])),
    },
    Flag {
        name: "hosts",
        value: "ADDRESS=HOST[,HOST]",
        help: "Add a line to /etc/hosts",
        read: |text| {
            let (address, names) = pair(text, '=', "ADDRESS=HOST")?;
            Ok(("hosts", vec![("address", address), ("names", list(names.as_str().unwrap_or_default()))]))
        },
    },
    Flag {
        name: "timezone",
        value: "ZONE",
        help: "Set the time zone, such as Europe/Berlin",
        read: |text| Ok(("timezone", vec![("zone", text.into())])),
    },
    Flag {
        name: "locale",
        value: "LOCALE",
        help: "Set the locale, such as C.UTF-8",
        read: |text| Ok(("locale", vec![("locale", text.into())])),
    },
    Flag {
        name: "user",
        value: "NAME[:KEY=VALUE,…]",
        help: "Add a user, or extend one: uid, gid, groups=A+B, shell, home, comment, sudo=yes|nopasswd, system",
        read: user,
    },
    Flag {
        name: "group",
        value: "NAME[:gid=N][,system]",
        help: "Add a group",
        read: |text| {
            let (name, settings) = text.split_once(':').unwrap_or((text, ""));
            let fields = settings_of(text, settings, &["gid"], &["system"], "NAME:gid=N,system")?;
            Ok(("group", [vec![("name", name.into())], fields].concat()))
        },
    },
    Flag {
        name: "ssh-key",
        value: "USER:file:FILE|USER:string:KEY",
        help: "Add SSH public keys that may log in as a user",
        read: |text| {
            let (user, kind, value) = selector(text, "USER:file:FILE or USER:string:KEY")?;
            let field = match kind {
                "file" => "file",
                "string" => "key",
                _ => return Err(expected(text, "USER:file:FILE or USER:string:KEY")),
            };
            Ok(("ssh-key", vec![("user", user.into()), (field, value.into())]))
        },
    },
    Flag {
        name: "password",
        value: "USER:file:FILE|USER:env:VARIABLE|USER:hash:HASH|USER:password:TEXT",
        help: "Set a user's password, hashed with the image's own method",
        read: |text| {
            let form = "USER:file:FILE, USER:env:VARIABLE, USER:hash:HASH or USER:password:TEXT";
            // The value may be the secret itself, so the error does not repeat it.
            let (user, kind, value) = selector(text, form).map_err(|_| expected("--password", form))?;
            let field = ["file", "env", "hash", "password"].into_iter().find(|field| *field == kind);
            let field = field.ok_or_else(|| expected("--password", form))?;
            Ok(("password", vec![("user", user.into()), (field, value.into())]))
        },
    },
    Flag {
        name: "lock",
        value: "USER",
        help: "Disable password login for a user",
        read: |text| Ok(("lock", vec![("user", text.into())])),
    },
    Flag {
        name: "network",
        value: "INTERFACE:dhcp|INTERFACE:ADDRESS/LENGTH[,gateway=…][,dns=…]",
        help: "Configure a network interface, in the format that the image uses",
        read: network,
    },
    Flag {
        name: "enable",
        value: "UNIT",
        help: "Start a systemd unit at boot",
        read: |text| Ok(("enable", vec![("unit", text.into())])),
    },
    Flag {
        name: "disable",
        value: "UNIT",
        help: "Do not start a systemd unit at boot",
        read: |text| Ok(("disable", vec![("unit", text.into())])),
    },
    Flag {
        name: "sysctl",
        value: "KEY=VALUE",
        help: "Set a kernel parameter at boot",
        read: |text| {
            let (key, value) = pair(text, '=', "KEY=VALUE")?;
            Ok(("sysctl", vec![("key", key), ("value", value)]))
        },
    },
    Flag {
        name: "kernel-arg",
        value: "ARG",
        help: "Add an argument to the kernel's command line",
        read: |text| Ok(("kernel-arg", vec![("arg", text.into())])),
    },
    Flag {
        name: "cloud-init",
        value: "USER-DATA[,META-DATA]",
        help: "Seed cloud-init with local files (NoCloud)",
        read: |text| {
            let (user, meta) = text.split_once(',').map_or((text, None), |(user, meta)| (user, Some(meta)));
            let meta = meta.map(|meta| ("meta-data", meta.into()));
            Ok(("cloud-init", [("user-data", user.into())].into_iter().chain(meta).collect()))
        },
    },
    Flag {
        name: "ignition",
        value: "FILE",
        help: "Put an Ignition config where Fedora CoreOS, RHCOS or Flatcar looks for it",
        read: |text| Ok(("ignition", vec![("file", text.into())])),
    },
    Flag {
        name: "first-boot",
        value: "FILE",
        help: "Run a script once, at the first boot",
        read: |text| Ok(("first-boot", vec![("file", text.into())])),
    },
    Flag {
        name: "generalize",
        value: "",
        help: "Remove what clones must not share: host keys, machine-id, seeds, leases, logs, histories, …",
        read: |_| Ok(("generalize", vec![])),
    },
];

impl Edits {
    /// Converts the edits to a recipe.
    pub(super) fn recipe(&self) -> Result<Recipe> {
        let mut recipe = Recipe::default();
        for (flag, value) in &self.0 {
            if flag.name == RECIPE {
                recipe.add_file(value.as_ref())?;
                continue;
            }
            let value = value.to_str().ok_or_else(|| {
                Error::usage(format!("--{}: the value is not UTF-8", flag.name))
                    .advise("Edits cannot name paths that are not UTF-8")
            })?;
            let label = format!("--{}", flag.name);
            let (what, fields) = (flag.read)(value).map_err(|e| e.named(&label))?;
            recipe.add(&label, what, fields);
        }
        Ok(recipe)
    }
}

impl Args for Edits {
    fn augment_args(command: clap::Command) -> clap::Command {
        FLAGS.iter().fold(command, |command, flag| {
            let arg = Arg::new(flag.name)
                .long(flag.name)
                .help(flag.help)
                .action(ArgAction::Append)
                .help_heading("Edits, made in the order given; write a colon in a path as \\:");
            command.arg(if flag.value.is_empty() {
                // Counted each time it is given, and kept in order among the others.
                arg.num_args(0).default_missing_value("")
            } else {
                // `--tar -:/opt` reads the archive from standard input.
                let arg = arg.allow_hyphen_values(flag.name == "tar");
                arg.value_name(flag.value).value_parser(clap::value_parser!(OsString))
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Edits {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut edits = Vec::new();
        for flag in FLAGS {
            if matches.value_source(flag.name) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values = matches
                .get_raw(flag.name)
                .ok_or_else(|| clap::Error::raw(ErrorKind::InvalidValue, "an edit has no value"))?;
            let indices = matches.indices_of(flag.name).into_iter().flatten();
            edits.extend(indices.zip(values).map(|(index, value)| (index, flag, value.to_owned())));
        }
        edits.sort_by_key(|(index, _, _)| *index);
        Ok(Edits(edits.into_iter().map(|(_, flag, value)| (flag, value)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn path(what: &'static str, path: &str) -> Result<Fields> {
    Ok((what, vec![("path", unescape(path).into())]))
}

/// Returns an edit for `PATH:REST`.
fn on_path(what: &'static str, text: &str, field: &'static str) -> Result<Fields> {
    let (path, rest) = split_path(text)?;
    Ok((what, vec![("path", path), (field, rest.into())]))
}

fn pair(text: &str, by: char, form: &str) -> Result<(Value, Value)> {
    let (first, second) = text.split_once(by).ok_or_else(|| expected(text, form))?;
    Ok((first.into(), second.into()))
}

fn list(text: &str) -> Value {
    Value::Array(text.split(',').map(Value::from).collect())
}

/// Splits `USER:KIND:VALUE`.
fn selector<'t>(text: &'t str, form: &str) -> Result<(&'t str, &'t str, &'t str)> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(user), Some(kind), Some(value)) => Ok((user, kind, value)),
        _ => Err(expected(text, form)),
    }
}

/// Splits `FILE:PATH`, where FILE is local: at the last colon before an absolute path, or before that path's volume.
fn from_file(what: &'static str, text: &str) -> Result<Fields> {
    let form = "FILE:PATH, with an absolute PATH";
    // `FILE:/path` or `FILE:VOLUME:/path`.
    let last = text.rfind(":/").ok_or_else(|| expected(text, form))?;
    let volume = text[..last].rfind(':').filter(|colon| {
        let name = &text[colon + 1..last];
        !name.is_empty() && !name.starts_with('/') && !Path::new(&text[..last]).exists()
    });
    let (file, path) = text.split_at(volume.unwrap_or(last));
    if file.is_empty() {
        return Err(expected(text, form));
    }
    Ok((what, vec![("file", file.into()), ("path", path[1..].into())]))
}

fn user(text: &str) -> Result<Fields> {
    let form = "NAME:KEY=VALUE,…, with the keys uid, gid, groups, shell, home, comment, sudo and system";
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    let keys = ["uid", "gid", "groups", "shell", "home", "comment", "sudo"];
    let mut fields = settings_of(text, settings, &keys, &["system"], form)?;
    for (key, value) in &mut fields {
        if *key == "groups" {
            let names = value.as_str().unwrap_or_default();
            *value = Value::Array(names.split('+').map(Value::from).collect());
        }
    }
    fields.push(("name", name.into()));
    Ok(("user", fields))
}

/// Parses `KEY=VALUE,SWITCH`, with these keys and switches.
fn settings_of(
    text: &str,
    settings: &str,
    keys: &[&'static str],
    switches: &[&'static str],
    form: &str,
) -> Result<Vec<(&'static str, Value)>> {
    let parts = settings.split(',').filter(|part| !part.is_empty());
    let mut fields: Vec<(&str, Value)> = Vec::new();
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (keys.iter().find(|known| **known == key), Value::from(value)),
            None => (switches.iter().find(|known| **known == part), Value::from(true)),
        };
        let key = key.ok_or_else(|| expected(text, form))?;
        if fields.iter().any(|(known, _)| known == key) {
            return Err(Error::usage(format!("{text}: {key} is given twice")));
        }
        fields.push((key, value));
    }
    Ok(fields)
}

fn network(text: &str) -> Result<Fields> {
    let form = "INTERFACE:dhcp or INTERFACE:ADDRESS/LENGTH,gateway=…,dns=…";
    let (interface, rest) = text.split_once(':').ok_or_else(|| expected(text, form))?;
    let mut fields = vec![("interface", Value::from(interface))];
    let (mut address, mut gateway, mut dns) = (Vec::new(), Vec::new(), Vec::new());
    for part in rest.split(',') {
        match part.split_once('=') {
            None if part == "dhcp" => fields.push(("dhcp", true.into())),
            None => address.push(Value::from(part)),
            Some(("gateway", value)) => gateway.push(Value::from(value)),
            Some(("dns", value)) => dns.push(Value::from(value)),
            Some(_) => return Err(expected(text, form)),
        }
    }
    fields.extend([("address", address.into()), ("gateway", gateway.into()), ("dns", dns.into())]);
    Ok(("network", fields))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn edits_keep_their_order() {
        let command = Edits::augment_args(Command::new("x"));
        let words =
            ["x", "--hostname", "a", "--generalize", "--mkdir", "/b", "--hostname", "c", "--generalize"];
        let edits = Edits::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap();
        let order: Vec<_> =
            edits.0.iter().map(|(flag, value)| (flag.name, value.to_str().unwrap())).collect();
        let expected =
            [("hostname", "a"), ("generalize", ""), ("mkdir", "/b"), ("hostname", "c"), ("generalize", "")];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_user_is_a_name_and_settings() {
        let (what, fields) = user("ops:groups=adm+docker,shell=/bin/bash,sudo=nopasswd,system").unwrap();
        let groups = Value::Array(vec!["adm".into(), "docker".into()]);
        let expected = vec![
            ("groups", groups),
            ("shell", "/bin/bash".into()),
            ("sudo", "nopasswd".into()),
            ("system", true.into()),
            ("name", "ops".into()),
        ];
        assert_eq!((what, fields), ("user", expected));
        assert_eq!(user("ops").unwrap().1, vec![("name", "ops".into())]);
        for bad in ["ops:colour=red", "ops:uid", "ops:uid=1,uid=2", "ops:system=yes"] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_file_may_have_a_colon_and_a_path_its_volume() {
        let split = |text| {
            from_file("tar", text).map(|(_, fields)| fields.into_iter().map(|(_, v)| v).collect::<Vec<_>>())
        };
        assert_eq!(split("x.tar:/opt").unwrap(), ["x.tar".into(), Value::from("/opt")]);
        assert_eq!(split("/tmp/x:/opt").unwrap(), ["/tmp/x".into(), Value::from("/opt")]);
        assert_eq!(split("x:p1:/opt").unwrap(), ["x".into(), Value::from("p1:/opt")]);
        assert_eq!(split("-:/").unwrap(), ["-".into(), Value::from("/")]);
        assert!(split("x").is_err() && split(":/x").is_err() && split("x:y").is_err());
    }

    #[test]
    fn a_path_alone_may_have_a_colon_too() {
        assert_eq!(path("delete", "/a\\:b:c").unwrap().1, vec![("path", "/a:b:c".into())]);
    }
}
