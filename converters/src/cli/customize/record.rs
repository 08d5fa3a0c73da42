//! The command line for an image's record, without secrets.

use mif::{PLACEHOLDER, Recipe, is_secret_file};

use super::value::text_of;

/// Returns the words of a command line, with a placeholder for each password, each hash, each value of a variable used
/// in one of them, and each text for a file that contains hashes.
pub(super) fn without_secrets(words: Vec<String>, recipe: &Recipe) -> Vec<String> {
    let mut before = String::new();
    let hide = |word: String| {
        let hidden = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                hidden(flag, value, recipe).map(|value| format!("{flag}={value}"))
            }
            _ => hidden(&before, &word, recipe),
        };
        before.clone_from(&word);
        hidden.unwrap_or(word)
    };
    words.into_iter().map(hide).collect()
}

/// Returns what is recorded instead of a flag's value, if the value is or contains a secret.
fn hidden(flag: &str, value: &str, recipe: &Recipe) -> Option<String> {
    let keep = |end: usize| Some(format!("{}{PLACEHOLDER}", &value[..end]));
    match flag {
        "--password" => {
            let mut parts = value.splitn(3, ':');
            match (parts.next(), parts.next(), parts.next()) {
                // The value only names the place of the password.
                (Some(_), Some("file" | "env"), Some(_)) => None,
                (Some(user), Some(kind), Some(_)) => keep(user.len() + kind.len() + 2),
                _ => keep(0),
            }
        }
        "--set" => {
            let (name, _) = value.split_once('=')?;
            if recipe.hides(name) { keep(name.len() + 1) } else { None }
        }
        "--write" | "--append" | "--edit" => {
            let text = text_of(value)?;
            let path = value[..value.len() - text.len()].trim_end_matches(':');
            if is_secret_file(path) { keep(value.len() - text.len()) } else { None }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_hash_or_variable_of_one_is_recorded() {
        let mut recipe = Recipe::default();
        let fields = [("user", "a".into()), ("password", "x-{{ pw }}".into())];
        recipe.add("--password", "password", fields);
        for (word, kept) in [
            ("--password a:password:secret", "--password a:password:…"),
            ("--password=b:password:sec:ret", "--password=b:password:…"),
            ("--password=b:hash:$6$secret", "--password=b:hash:…"),
            ("--password {{user}}:hash:$6$secret", "--password {{user}}:hash:…"),
            ("--password secret", "--password …"),
            ("--set pw=secret=1", "--set pw=…"),
            ("--set=pw=secret", "--set=pw=…"),
            ("--write /etc/shadow:root:secret", "--write /etc/shadow:…"),
            ("--append=p1:/etc/gshadow-:root:secret", "--append=p1:/etc/gshadow-:…"),
            ("--edit /etc/shadow:s/x/secret/", "--edit /etc/shadow:…"),
        ] {
            let words = word.split(' ').map(str::to_owned).collect();
            let recorded = without_secrets(words, &recipe).join(" ");
            assert_eq!(recorded, kept);
            assert!(!recorded.contains("secret"));
        }
        for plain in [
            "mif customize debian --as web",
            "--password c:file:x --password d:env:PASSWORD",
            "--set n=7 --set=m=8 --hostname pw=x",
            "--write /etc/motd:hello --write-file /etc/shadow:local.txt",
        ] {
            let words: Vec<String> = plain.split(' ').map(str::to_owned).collect();
            assert_eq!(without_secrets(words.clone(), &recipe), words);
        }
    }
}
