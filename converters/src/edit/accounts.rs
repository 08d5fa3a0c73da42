//! Users of the image: their keys and passwords (passwd(5), shadow(5), login.defs(5), crypt(5)).

use sha_crypt::{Algorithm, CustomizedPasswordHasher, PasswordHasher, ShaCrypt};
use yescrypt::Yescrypt;

use super::primitive::{Edit, Owner};
use crate::error::{Error, Result};
use crate::guest::accounts::{User, user};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;

/// Bytes of salt: 16 characters of crypt's base 64.
const SALT: usize = 12;

/// Returns edits that let the owners of these keys log in as a user.
pub(super) fn ssh_keys(files: &Files, name: &str, keys: &str) -> Result<Vec<Edit>> {
    let User { uid, gid, home } = user(files, name)?;
    let owner = Some(Owner::ids(uid, gid));
    let is_folder = files.get(&home).is_some_and(|row| row.node.file_type == mif_formats::fs::FileType::Dir);
    if !is_folder {
        return Err(Error::input(format!("{home}: the home directory of {name} does not exist"))
            .advise(format!("Create it first, with its owner: --user {name}:home={home}")));
    }
    let folder = format!("{}/.ssh", home.trim_end_matches('/'));
    let path = format!("{folder}/authorized_keys");
    let mut text = files.editable(&path)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let keys: Vec<&str> =
        keys.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if keys.is_empty() {
        return Err(Error::input("no SSH public key found"));
    }
    for key in keys {
        if !is_key(key) {
            let start: String = key.chars().take(24).collect();
            return Err(Error::input(format!("\"{start}…\" is not an SSH public key"))
                .advise("A public key is a line of a .pub file, such as `ssh-ed25519 AAAA… comment`"));
        }
        if !text.lines().any(|line| line == key) {
            text.push_str(key);
            text.push('\n');
        }
    }
    let content = NewContent::of_bytes(text.into_bytes());
    Ok(vec![
        Edit::Mkdir { path: folder, mode: Some(0o700), owner: owner.clone() },
        Edit::Write { path, content, mode: Some(0o600), owner },
    ])
}

/// Returns true if a line is valid in authorized_keys (sshd(8)): options if any, then a type, and base 64 that starts
/// like that of keys.
fn is_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let known =
        |word: &str| ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|kind| word.starts_with(kind));
    words.windows(2).any(|pair| known(pair[0]) && pair[1].starts_with("AAAA"))
}

/// A password to set.
pub(super) enum Password {
    /// This text, to be hashed as the image does.
    Text(String),
    /// This hash in a format of crypt(5).
    Hash(String),
    /// The old password is kept but locked.
    Locked,
}

/// Sets or locks a user's password. `salt` provides fresh bytes; `today` is in days since 1970.
///
/// `/etc/shadow` counts if the password in the user's line of `/etc/passwd` is `x`. A hash or an empty password there
/// counts by itself (passwd(5)): it is replaced by `x`, or by the new hash if the image has no `/etc/shadow`.
pub(super) fn password(
    files: &Files,
    name: &str,
    password: &Password,
    today: i64,
    salt: &dyn Fn(&mut [u8]) -> Result<()>,
) -> Result<Vec<Edit>> {
    user(files, name)?;
    let passwd = files.editable("/etc/passwd")?;
    let shadow = files.is_file("/etc/shadow").then(|| files.editable("/etc/shadow")).transpose()?;
    let new = match password {
        Password::Locked => None,
        Password::Hash(hash) => {
            let plain = |c: char| c.is_ascii_graphic() && c != ':';
            if !hash.starts_with('$') || !hash.chars().all(plain) {
                return Err(Error::input(
                    "invalid password hash: expected $6$… or another format of crypt(5)",
                ));
            }
            Some(hash.clone())
        }
        Password::Text(text) => {
            let mut bytes = [0; SALT];
            salt(&mut bytes)?;
            Some(hash_as(&method(files)?, text, &bytes)?)
        }
    };
    let (new_passwd, new_shadow) = with_password(&passwd, shadow.as_deref(), name, new.as_deref(), today);
    let mut edits = Vec::new();
    if new_passwd != passwd {
        edits.push(Edit::text("/etc/passwd", new_passwd));
    }
    edits.extend(new_shadow.map(|shadow| Edit::text("/etc/shadow", shadow)));
    Ok(edits)
}

/// Returns `/etc/passwd` and `/etc/shadow` with a user's new hash, or with the old one locked if `new` is `None`.
fn with_password(
    passwd: &str,
    shadow: Option<&str>,
    name: &str,
    new: Option<&str>,
    today: i64,
) -> (String, Option<String>) {
    let of_user = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
    let second = |text: &str| {
        let line = text.lines().find(|line| of_user(line));
        line.map(|line| line.split(':').nth(1).unwrap_or_default().to_owned())
    };
    let with_second = |line: &str, field: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        fields[1] = field;
        fields.join(":")
    };
    let map = |text: &str, change: &dyn Fn(&str) -> String| {
        let lines = text.lines().map(|line| if of_user(line) { change(line) } else { line.to_owned() });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    let in_passwd = second(passwd).unwrap_or_default();
    // The password that counts today.
    let effective = match shadow {
        Some(shadow) if in_passwd == "x" => second(shadow).unwrap_or_else(|| "*".to_owned()),
        _ => in_passwd.clone(),
    };
    let field = match new {
        Some(hash) => hash.to_owned(),
        None if effective.starts_with('!') => effective,
        None => format!("!{effective}"),
    };
    let Some(shadow) = shadow else {
        return (map(passwd, &|line| with_second(line, &field)), None);
    };
    let new_passwd = match &in_passwd[..] {
        "x" => passwd.to_owned(),
        _ => map(passwd, &|line| with_second(line, "x")),
    };
    let change = |line: &str| {
        let mut fields: Vec<String> = line.split(':').map(str::to_owned).collect();
        fields[1].clone_from(&field);
        // Zero would force a password change at the next login.
        if let Some(changed) = fields.get_mut(2).filter(|_| new.is_some()) {
            *changed = today.max(1).to_string();
        }
        fields.join(":")
    };
    let mut new_shadow = map(shadow, &change);
    if second(shadow).is_none() {
        new_shadow = if shadow.is_empty() { String::new() } else { new_shadow };
        new_shadow += &change(&format!("{name}:::0:99999:7:::"));
        new_shadow.push('\n');
    }
    (new_passwd, Some(new_shadow))
}

/// How a password is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Method {
    Sha256(Option<u32>),
    Sha512(Option<u32>),
    Yescrypt,
}

/// Returns the image's hash method: that of its login.defs, or else that of its passwords.
fn method(files: &Files) -> Result<Method> {
    method_of(&files.text("/etc/login.defs")?, &files.text("/etc/shadow")?)
}

fn method_of(defs: &str, shadow: &str) -> Result<Method> {
    let value = |key: &str| {
        defs.lines().rev().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(key)).then(|| words.next()).flatten()
        })
    };
    let rounds =
        || value("SHA_CRYPT_MAX_ROUNDS").or(value("SHA_CRYPT_MIN_ROUNDS")).and_then(|n| n.parse().ok());
    let by_shadow = || {
        let hashes = shadow.lines().filter_map(|line| line.split(':').nth(1));
        hashes.map(|hash| hash.trim_start_matches('!')).find_map(|hash| match hash.get(..3)? {
            "$y$" => Some(Method::Yescrypt),
            "$5$" => Some(Method::Sha256(None)),
            "$6$" => Some(Method::Sha512(None)),
            _ => None,
        })
    };
    match value("ENCRYPT_METHOD") {
        Some("SHA256") => Ok(Method::Sha256(rounds())),
        Some("SHA512") => Ok(Method::Sha512(rounds())),
        Some("YESCRYPT") => Ok(Method::Yescrypt),
        None => Ok(by_shadow().unwrap_or(Method::Sha512(None))),
        Some(other) => Err(Error::unsupported(format!(
            "mif cannot hash passwords with {other}, which the image's /etc/login.defs sets"
        ))
        .advise("Pass a hash instead, made with `mkpasswd`")),
    }
}

fn hash_as(method: &Method, text: &str, salt: &[u8]) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::input(format!("cannot hash the password: {e}"));
    if text.is_empty() || text.contains(['\0', '\n']) {
        return Err(failed(&"it is empty or has more than one line"));
    }
    let sha = |algorithm, rounds: Option<u32>| {
        let rounds = rounds.unwrap_or(sha_crypt::Params::RECOMMENDED_ROUNDS).clamp(1000, 999_999_999);
        let params = sha_crypt::Params::new(rounds).map_err(|e| failed(&e))?;
        let hasher = ShaCrypt::new(algorithm, params);
        let hash = hasher.hash_password_customized(text.as_bytes(), salt, None, None, params);
        hash.map(|hash| hash.as_str().to_owned()).map_err(|e| failed(&e))
    };
    match method {
        Method::Sha256(rounds) => sha(Algorithm::Sha256Crypt, *rounds),
        Method::Sha512(rounds) => sha(Algorithm::Sha512Crypt, *rounds),
        Method::Yescrypt => {
            let hash = Yescrypt::default().hash_password_with_salt(text.as_bytes(), salt);
            hash.map(|hash| hash.as_str().to_owned()).map_err(|e| failed(&e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_says_how_passwords_are_hashed() {
        assert_eq!(
            method_of("# ENCRYPT_METHOD MD5\nENCRYPT_METHOD YESCRYPT\n", "").unwrap(),
            Method::Yescrypt
        );
        let defs = "ENCRYPT_METHOD SHA512\nSHA_CRYPT_MAX_ROUNDS 7000\n";
        assert_eq!(method_of(defs, "a:$y$j9T$x").unwrap(), Method::Sha512(Some(7000)));
        assert_eq!(method_of("", "a:*:1\nb:!$5$x$y:1\n").unwrap(), Method::Sha256(None));
        assert_eq!(method_of("", "a:*:1\n").unwrap(), Method::Sha512(None));
        assert!(method_of("ENCRYPT_METHOD DES", "").is_err());
    }

    #[test]
    fn hashes_have_the_form_of_crypt() {
        let salt = [7; SALT];
        for (method, start) in [
            (Method::Sha256(None), "$5$rounds=5000$"),
            (Method::Sha512(Some(6000)), "$6$rounds=6000$"),
            (Method::Yescrypt, "$y$j9T$"),
        ] {
            let hash = hash_as(&method, "correct horse", &salt).unwrap();
            assert!(hash.starts_with(start) && !hash.contains(':'), "{hash}");
            assert_eq!(hash, hash_as(&method, "correct horse", &salt).unwrap());
            assert_ne!(hash, hash_as(&method, "correct horse", &[8; SALT]).unwrap());
        }
        assert!(hash_as(&Method::Yescrypt, "", &salt).is_err());
    }

    #[test]
    fn a_hash_in_passwd_counts_and_moves_to_shadow() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nada:$6$old$h:1000:1000::/h:/bin/sh\nbob::1001:1001::/b:/bin/sh\n";
        let shadow = "root:*:1:0:99999:7:::\nada:*:1:0:99999:7:::\n";
        let set = |name, new| with_password(passwd, Some(shadow), name, new, 20_000);
        let (new_passwd, new_shadow) = set("ada", None);
        assert!(new_passwd.contains("\nada:x:1000:") && new_passwd.contains("\nbob::1001"), "{new_passwd}");
        assert!(new_shadow.unwrap().contains("\nada:!$6$old$h:1:0:"), "what let her in is locked");
        let (new_passwd, new_shadow) = set("bob", Some("$6$s$h"));
        assert!(new_passwd.contains("\nbob:x:1001:"), "no empty password is left");
        assert_eq!(new_shadow.unwrap(), format!("{shadow}bob:$6$s$h:20000:0:99999:7:::\n"));
        let (new_passwd, new_shadow) = set("bob", None);
        assert!(new_passwd.contains("\nbob:x:") && new_shadow.unwrap().ends_with("\nbob:!::0:99999:7:::\n"));
        let (new_passwd, new_shadow) = set("root", None);
        assert_eq!(
            (new_passwd.as_str(), new_shadow.unwrap().lines().next()),
            (passwd, Some("root:!*:1:0:99999:7:::"))
        );
        // Without `/etc/shadow`, the hash is in `/etc/passwd`.
        let (new_passwd, new_shadow) = with_password(passwd, None, "ada", Some("$5$n"), 1);
        assert!(new_passwd.contains("\nada:$5$n:1000:") && new_shadow.is_none());
        let (new_passwd, _) = with_password(passwd, None, "ada", None, 1);
        assert!(new_passwd.contains("\nada:!$6$old$h:1000:"));
    }

    #[test]
    fn a_key_is_known_by_its_type_and_its_beginning() {
        assert!(is_key("ssh-ed25519 AAAAC3Nza me@here"));
        assert!(is_key("from=\"10.0.0.0/8\",no-pty ssh-rsa AAAAB3"));
        assert!(!is_key("-----BEGIN OPENSSH PRIVATE KEY-----"));
        assert!(!is_key("ssh-ed25519"));
    }
}
