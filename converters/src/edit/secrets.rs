//! Finds the secret parts of a recipe: passwords, their hashes, and the variables in them. No record contains them.

use toml::{Table, Value};

use super::recipe::{Recipe, variable_names};
use crate::error::{Error, Result};

/// The placeholder for a secret in a record.
pub const PLACEHOLDER: &str = "…";

/// The names of files that contain password hashes.
const SECRET_FILES: [&str; 4] = ["shadow", "gshadow", "passwd", "opasswd"];

impl Recipe {
    /// Returns true if the value of the variable `name` is secret: it is used in a password, a hash, or the text of a
    /// file of hashes.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        // The variables in a template file are unknown here.
        self.tables().any(|edit| names_secret(edit, name) || is_secret_template(edit))
    }

    /// Fails if the name of an image contains a variable that is used in a password or a hash, because the store keeps
    /// names in plain text.
    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        let is_secret = |variable: &&str| self.tables().any(|edit| names_secret(edit, variable));
        match variable_names(name).find(is_secret) {
            None => Ok(()),
            Some(variable) => Err(Error::usage(format!(
                "{name}: an image name cannot contain {variable}, which is part of a password"
            ))
            .advise("Image names are not secret; use another variable")),
        }
    }
}

/// Returns true if an edit has a secret that contains the variable `name`.
fn names_secret(edit: &Table, name: &str) -> bool {
    secrets(edit).flat_map(variable_names).any(|used| used == name)
}

/// Returns true if text written to the file `path` of an image is secret. If its name contains `{{names}}`, it could be
/// any file.
#[must_use]
pub fn is_secret_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    // Their backups are called `shadow-`, and copies being edited `shadow+` and `shadow.edit`.
    let is_like =
        |file: &&str| name.strip_prefix(*file).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
    name.contains("{{") || SECRET_FILES.iter().any(is_like)
}

/// Returns the secret texts of an edit.
fn secrets(edit: &Table) -> impl Iterator<Item = &str> {
    let text = |key: &str| edit.get(key).and_then(Value::as_str);
    let fields: &[&str] = match text("do").unwrap_or_default() {
        "password" => &["password", "hash"],
        "write" | "append" if text("path").is_some_and(is_secret_file) => &["content"],
        "edit" if text("path").is_some_and(is_secret_file) => &["script"],
        what if what.contains("{{") => &["password", "hash", "content", "script"],
        _ => &[],
    };
    fields.iter().filter_map(move |field| edit.get(*field)?.as_str())
}

/// Returns true if an edit fills names into a local file that may have secrets: one for a file of hashes, or one that
/// sets up the first boot.
fn is_secret_template(edit: &Table) -> bool {
    let text = |key: &str| edit.get(key).and_then(Value::as_str);
    let is_template = edit.get("template").is_some_and(|template| *template != Value::Boolean(false));
    let sets_up = matches!(text("do"), Some("cloud-init" | "ignition"));
    is_template && (sets_up || edit.contains_key("file") && text("path").is_some_and(is_secret_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        let mut recipe = Recipe::default();
        recipe.add_file(&path).unwrap();
        recipe
    }

    #[test]
    fn variables_of_passwords_hashes_and_shadow_files_are_hidden() {
        let recipe = recipe(
            "[[edit]]\ndo = 'password'\nuser = '{{user}}'\npassword = 'a{{ first }}b{{second}}'\n\
             [[edit]]\ndo = 'password'\nuser = 'b'\nhash = '{{hash}}'\n\
             [[edit]]\ndo = 'password'\nuser = 'c'\nfile = '{{file}}'\n\
             [[edit]]\ndo = 'append'\npath = '/etc/shadow'\ncontent = 'x:{{line}}'\n\
             [[edit]]\ndo = '{{what}}'\ncontent = '{{any}}'\n\
             [[edit]]\ndo = 'write'\npath = '/etc/motd'\ncontent = '{{motd}}'\n",
        );
        for hidden in ["first", "second", "hash", "line", "any"] {
            assert!(recipe.hides(hidden), "{hidden}");
        }
        for plain in ["user", "file", "what", "motd", "other"] {
            assert!(!recipe.hides(plain), "{plain}");
        }
        assert!(recipe.check_name("web-{{ user }}").is_ok());
        let error = recipe.check_name("web-{{second}}").unwrap_err();
        assert!(error.message().contains("cannot contain second"), "{}", error.message());
    }

    #[test]
    fn of_a_template_for_a_shadow_file_all_variables_are_hidden() {
        let edit =
            |path: &str| format!("[[edit]]\ndo = 'write'\npath = '{path}'\nfile = 't'\ntemplate = true\n");
        assert!(recipe(&edit("/etc/shadow-")).hides("any"));
        assert!(recipe(&edit("/etc/{{which}}")).hides("any"));
        assert!(!recipe(&edit("/etc/motd")).hides("any"));
        assert!(recipe(&edit("/etc/shadow-")).check_name("web-{{ n }}").is_ok());
        assert!(!is_secret_file("/etc/passwdqc.conf") && !is_secret_file("/etc/shadows"));
    }
}
