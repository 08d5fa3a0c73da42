//! Recipes: edits as TOML tables, with `{{name}}` where images differ.
//!
//! ```toml
//! [[edit]]
//! do = "hostname"
//! name = "web-{{n}}"
//! ```
//!
//! A command line flag is such a table too.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::error::{Code, Error, Result};
use crate::host::named::{MAX_TEXT, open, read_text, toml_problem};

/// Edits, in order.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    entries: Vec<RecipeEdit>,
}

/// An edit as it was written.
#[derive(Debug, Clone)]
struct RecipeEdit {
    /// Its name in errors.
    label: String,
    table: Table,
    /// The directory to which local paths are relative.
    folder: PathBuf,
}

/// The values of the `{{names}}`.
pub type Variables = BTreeMap<String, String>;

impl Recipe {
    /// Adds the edits in a file.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let wrong = |problem: &dyn std::fmt::Display| Error::usage(format!("{}: {problem}", path.display()));
        let text = read_text(path).map_err(|e| e.coded(Code::Usage))?;
        let mut table: Table = text.parse().map_err(|e| wrong(&toml_problem(&text, &e)))?;
        let edits = match table.remove("edit") {
            Some(Value::Array(edits)) => edits,
            Some(_) => {
                return Err(wrong(&"`edit` is not a list of tables: begin each edit with a line [[edit]]"));
            }
            None => Vec::new(),
        };
        if let Some(key) = table.keys().next() {
            return Err(wrong(&format!("unknown key \"{key}\": a recipe has only [[edit]] tables")));
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, edit) in (1..).zip(edits) {
            let Value::Table(table) = edit else {
                return Err(wrong(&"`edit` is not a list of tables: begin each edit with a line [[edit]]"));
            };
            let label = format!("{}: edit {number}", path.display());
            self.entries.push(RecipeEdit { label, table, folder: folder.clone() });
        }
        Ok(())
    }

    /// Adds an edit with this name (`what`) and these fields. Errors call it `label`.
    pub fn add<'v>(&mut self, label: &str, what: &str, fields: impl IntoIterator<Item = (&'v str, Value)>) {
        let mut table: Table = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        table.insert("do".into(), Value::String(what.to_owned()));
        self.entries.push(RecipeEdit { label: label.to_owned(), table, folder: PathBuf::new() });
    }

    /// Adds an edit as it is in a recipe, unless the same is there. Errors call it `label`.
    pub(crate) fn add_table(&mut self, label: &str, table: Table) {
        if self.entries.iter().all(|entry| entry.table != table) {
            self.entries.push(RecipeEdit { label: label.to_owned(), table, folder: PathBuf::new() });
        }
    }

    /// Returns the text of the recipe, as [`Recipe::add_file`] reads it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let edits = self.tables().map(|table| Value::Table(table.clone())).collect();
        let all: Table = [("edit".to_owned(), Value::Array(edits))].into_iter().collect();
        all.to_string()
    }

    /// Returns true if there are no edits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns true if an edit reads standard input, which can be read only once.
    #[must_use]
    pub fn reads_standard_input(&self) -> bool {
        let is_stdin = |value: &Value| matches!(value.as_str(), Some("-" | "/dev/stdin" | "/dev/fd/0"));
        let files = ["file", "user-data", "meta-data"];
        self.tables().any(|edit| files.iter().any(|key| edit.get(*key).is_some_and(is_stdin)))
    }

    /// Returns the edits as they were written.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.entries.iter().map(|entry| &entry.table)
    }

    /// Returns BLAKE3, in hex, of the edits as they were written, in JSON. Passwords and their hashes are left out:
    /// from a digest, they could be guessed.
    #[must_use]
    pub(super) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for entry in &self.entries {
            let mut table = entry.table.clone();
            table.remove("password");
            table.remove("hash");
            hasher.update(&serde_json::to_vec(&table).unwrap_or_default());
            hasher.update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Returns the edits with their `{{names}}` filled in.
    pub(super) fn steps(&self, variables: &Variables) -> Result<Vec<FilledStep>> {
        let filled = self.entries.iter().map(|entry| {
            let failed = |e: Error| e.within(&entry.label);
            let table = fill_value(&Value::Table(entry.table.clone()), variables).map_err(failed)?;
            let step: Step = table.try_into().map_err(|e: toml::de::Error| {
                let known = if entry.table.contains_key("do") { "" } else { ": `do` names the edit" };
                failed(Error::usage(format!("{}{known}", e.message())))
            })?;
            Ok(FilledStep { label: entry.label.clone(), step, folder: entry.folder.clone() })
        });
        filled.collect()
    }
}

/// An edit with all names filled in.
pub(super) struct FilledStep {
    pub(super) label: String,
    pub(super) step: Step,
    pub(super) folder: PathBuf,
}

/// An edit of a recipe.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub(super) enum Step {
    Write {
        path: String,
        content: Option<String>,
        file: Option<PathBuf>,
        #[serde(default)]
        template: bool,
        mode: Option<String>,
        owner: Option<String>,
    },
    Append {
        path: String,
        content: Option<String>,
        file: Option<PathBuf>,
        #[serde(default)]
        template: bool,
        mode: Option<String>,
        owner: Option<String>,
    },
    Mkdir {
        path: String,
        mode: Option<String>,
        owner: Option<String>,
    },
    Delete {
        path: String,
    },
    Rename {
        path: String,
        to: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Chmod {
        path: String,
        mode: String,
    },
    Chown {
        path: String,
        owner: String,
    },
    Xattr {
        path: String,
        name: String,
        value: String,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    Hostname {
        name: String,
    },
    Hosts {
        address: String,
        names: Vec<String>,
    },
    Timezone {
        zone: String,
    },
    Locale {
        locale: String,
    },
    SshKey {
        user: String,
        key: Option<String>,
        file: Option<PathBuf>,
    },
    Password {
        user: String,
        password: Option<String>,
        file: Option<PathBuf>,
        env: Option<String>,
        hash: Option<String>,
    },
    Lock {
        user: String,
    },
    Network {
        interface: String,
        #[serde(default)]
        dhcp: bool,
        #[serde(default)]
        address: Vec<String>,
        #[serde(default)]
        gateway: Vec<String>,
        #[serde(default)]
        dns: Vec<String>,
    },
    Enable {
        unit: String,
    },
    Disable {
        unit: String,
    },
    FirstBoot {
        name: Option<String>,
        content: Option<String>,
        file: Option<PathBuf>,
        #[serde(default)]
        template: bool,
    },
    Generalize {},
    User {
        name: String,
        uid: Option<Scalar>,
        gid: Option<Scalar>,
        #[serde(default)]
        groups: Vec<String>,
        shell: Option<String>,
        home: Option<String>,
        comment: Option<String>,
        sudo: Option<String>,
        #[serde(default)]
        system: bool,
    },
    Group {
        name: String,
        gid: Option<Scalar>,
        #[serde(default)]
        system: bool,
    },
    Sysctl {
        key: String,
        value: Scalar,
    },
    KernelArg {
        arg: String,
    },
    InitramfsModules {
        path: String,
        kernel: String,
        modules: Vec<String>,
    },
    CopyIn {
        file: PathBuf,
        path: String,
        owner: Option<String>,
    },
    Tar {
        file: PathBuf,
        path: String,
    },
    Copy {
        path: String,
        to: String,
    },
    Edit {
        path: String,
        script: String,
    },
    Touch {
        path: String,
    },
    Truncate {
        path: String,
        #[serde(default)]
        recursive: bool,
    },
    Scrub {
        path: String,
    },
    CloudInit {
        user_data: PathBuf,
        meta_data: Option<PathBuf>,
        #[serde(default)]
        template: bool,
    },
    Ignition {
        file: PathBuf,
        #[serde(default)]
        template: bool,
    },
}

/// A value that may be written as a number or as text, in which names are filled in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Number(i64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Number(number) => number.fmt(f),
            Scalar::Text(text) => f.write_str(text),
        }
    }
}

fn fill_value(value: &Value, variables: &Variables) -> Result<Value> {
    Ok(match value {
        Value::String(text) => Value::String(fill(text, variables)?),
        Value::Array(values) => {
            Value::Array(values.iter().map(|value| fill_value(value, variables)).collect::<Result<_>>()?)
        }
        Value::Table(table) => {
            let filled = table.iter().map(|(key, value)| Ok((key.clone(), fill_value(value, variables)?)));
            Value::Table(filled.collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}

/// Returns `text` with each `{{name}}` replaced by its value. Values are inserted literally: names in them are not
/// replaced.
pub(super) fn fill(text: &str, variables: &Variables) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").ok_or_else(|| {
            Error::usage("{{ without a matching }}")
                .advise("{{name}} is replaced by a value from --set name=… or from a CSV column")
        })?;
        let name = name.trim();
        let value = variables.get(name).ok_or_else(|| {
            let known: Vec<&str> = variables.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "no names are set".into()
            } else {
                format!("the names set are {}", known.join(", "))
            };
            Error::usage(format!("{{{{{name}}}}} has no value: {known}"))
                .advise("Set it with --set, or as a column of the CSV file")
        })?;
        out.push_str(before);
        out.push_str(value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Returns the names of the variables in a text.
pub(super) fn variable_names(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|after| Some(after.split_once("}}")?.0.trim()))
}

/// Reads a CSV file of instances: a line of column names, and a line of values for each instance.
pub fn read_instances(path: &Path) -> Result<Vec<Variables>> {
    let wrong = |problem: &dyn std::fmt::Display| Error::usage(format!("{}: {problem}", path.display()));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(open(path, MAX_TEXT).map_err(|e| e.coded(Code::Usage))?);
    // Spreadsheets begin a file with a byte order mark, which is not part of a name.
    let names = reader.headers().map_err(|e| wrong(&e))?.iter();
    let names: Vec<String> = names.map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    let mut instances = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| wrong(&e))?;
        instances.push(names.iter().cloned().zip(record.iter().map(str::to_owned)).collect());
    }
    if instances.is_empty() {
        return Err(wrong(&"no lines after the header, so no image would be made"));
    }
    Ok(instances)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn names_are_filled_in_once() {
        let set = variables(&[("n", "7"), ("a.b", "{{n}}")]);
        assert_eq!(fill("web-{{n}} {{ n }} {{a.b}}", &set).unwrap(), "web-7 7 {{n}}");
        assert_eq!(fill("nothing", &set).unwrap(), "nothing");
    }

    #[test]
    fn a_name_without_a_value_is_named() {
        let error = fill("{{who}}", &variables(&[("n", "7")])).unwrap_err();
        assert!(error.message().contains("{{who}}") && error.message().contains("set are n"), "{error}");
        assert!(fill("{{n", &variables(&[("n", "7")])).is_err());
    }

    fn recipe(text: &str) -> Result<Recipe> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        let mut recipe = Recipe::default();
        recipe.add_file(&path).map(|()| recipe)
    }

    #[test]
    fn a_recipe_is_a_list_of_edits() {
        let steps = recipe("[[edit]]\ndo = 'hostname'\nname = '{{h}}'\n[[edit]]\ndo = 'generalize'\n")
            .unwrap()
            .steps(&variables(&[("h", "a\"b")]))
            .unwrap();
        assert!(matches!(&steps[0].step, Step::Hostname { name } if name == "a\"b"));
        assert!(matches!(steps[1].step, Step::Generalize {}));
    }

    #[test]
    fn what_a_recipe_does_not_know_is_refused() {
        assert!(recipe("[[edits]]\ndo='x'").is_err());
        assert!(recipe("edit = 5").is_err());
        for bad in ["do = 'fly'", "do = 'hostname'\nnam = 'x'", "do = 'hostname'", "name = 'x'"] {
            let steps = recipe(&format!("[[edit]]\n{bad}\n")).unwrap().steps(&Variables::new());
            assert!(steps.err().unwrap().message().contains("edit 1"), "{bad}");
        }
    }

    #[test]
    fn a_digest_tells_edits_apart_and_does_not_tell_passwords() {
        let of = |text: &str| recipe(text).unwrap().digest();
        let edit = |fields: &str| format!("[[edit]]\ndo = 'password'\nuser = 'a'\n{fields}\n");
        assert_eq!(of(&edit("password = 'x'")), of(&edit("password = 'y'")));
        assert_ne!(of(&edit("file = 'x'")), of(&edit("file = 'y'")));
    }
}
