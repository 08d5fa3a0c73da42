//! Compiles a recipe to primitive edits. Named edits inspect the image to determine theirs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mif_formats::fs::FileType;

use super::accounts::{self, Password};
use super::generalize::generalize;
use super::graft::Graft;
use super::kernel::kernel_argument;
use super::network::{self, Network};
use super::primitive::{Edit, Owner};
use super::recipe::{FilledStep, Scalar, Step, Variables, fill};
use super::substitute::Script;
use super::users::{self, Sudo, User};
use super::{first_boot, host, initramfs, provision, sysctl, systemd};
use crate::error::{Code, Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;
use crate::tree::path::missing;

/// Seconds per day.
const DAY: i64 = 86400;

/// The context for compiling the edits of one image.
pub(super) struct Context<'a> {
    /// The values of the `{{names}}`.
    pub(super) variables: &'a Variables,
    /// The local files read so far, shared by all images.
    pub(super) local: &'a LocalFiles,
    /// The seed for the salts of passwords; `None` for random salts.
    pub(super) salt: Option<String>,
}

/// Local files and trees, each read once for all images.
#[derive(Default)]
pub(super) struct LocalFiles {
    files: Mutex<HashMap<PathBuf, NewContent>>,
    /// By path as it was written, because `DIR/.` is not `DIR`, and whether it is a tar archive.
    trees: Mutex<HashMap<(OsString, bool), Arc<Graft>>>,
}

impl LocalFiles {
    fn get(&self, path: &Path) -> Result<NewContent> {
        let known = || self.files.lock().expect("no thread panics while it holds this");
        if let Some(content) = known().get(path) {
            return Ok(content.clone());
        }
        let content = NewContent::of_file(path)?;
        known().insert(path.to_owned(), content.clone());
        Ok(content)
    }

    /// Reads a directory, a file, or the members of a tar archive. Standard input can be read only once, so the lock is
    /// held meanwhile.
    fn tree(&self, path: &Path, is_tar: bool) -> Result<Arc<Graft>> {
        let mut known = self.trees.lock().expect("no thread panics while it holds this");
        let key = (path.as_os_str().to_owned(), is_tar);
        if let Some(tree) = known.get(&key) {
            return Ok(tree.clone());
        }
        let tree = if is_tar { Graft::of_tar(path)? } else { Graft::of_local(path)? };
        let tree = Arc::new(tree);
        known.insert(key, tree.clone());
        Ok(tree)
    }
}

/// An edit, with a description if its own text does not explain its purpose.
pub(super) type Named = (Edit, Option<String>);

/// Compiles a step to primitive edits.
pub(super) fn compile(step: &FilledStep, files: &Files, context: &Context<'_>) -> Result<Vec<Named>> {
    let content = |content: &Option<String>, file: &Option<PathBuf>, template: bool| match (content, file) {
        (Some(text), None) => Ok(NewContent::of_bytes(text.clone().into_bytes())),
        (None, Some(file)) if template => {
            let text = fill(&local_text(&step.folder.join(file))?, context.variables)?;
            Ok(NewContent::of_bytes(text.into_bytes()))
        }
        (None, Some(file)) => context.local.get(&step.folder.join(file)),
        _ => Err(Error::usage("expected either `content` or `file`")),
    };
    let one = |edit: Edit| Ok(vec![edit]);
    let edits = match step.step.clone() {
        Step::Write { path, content: text, file, template, mode, owner } => {
            let content = content(&text, &file, template)?;
            one(Edit::Write { path, content, mode: optional_mode(mode)?, owner: optional_owner(owner)? })
        }
        Step::Append { path, content: text, file, template, mode, owner } => {
            let content = content(&text, &file, template)?;
            one(Edit::Append { path, content, mode: optional_mode(mode)?, owner: optional_owner(owner)? })
        }
        Step::Mkdir { path, mode, owner } => {
            one(Edit::Mkdir { path, mode: optional_mode(mode)?, owner: optional_owner(owner)? })
        }
        Step::Delete { path } => one(Edit::Delete { path }),
        Step::Rename { path, to } => one(Edit::Rename { from: path, to }),
        Step::Symlink { path, target } => one(Edit::Symlink { path, target }),
        Step::Chmod { path, mode } => one(Edit::Chmod { path, mode: octal(&mode)? }),
        Step::Chown { path, owner } => one(Edit::Chown { path, owner: Owner::parse(&owner)? }),
        Step::Xattr { path, name, value } => one(Edit::SetXattr { path, name, value: xattr_value(&value)? }),
        Step::RemoveXattr { path, name } => one(Edit::RemoveXattr { path, name }),
        Step::Hostname { name } => host::hostname(files, &name),
        Step::Hosts { address, names } => host::hosts_entry(files, &address, &names),
        Step::Timezone { zone } => host::timezone(files, &zone),
        Step::Locale { locale } => host::locale(files, &locale),
        Step::SshKey { user, key, file } => {
            let keys = match (key, file) {
                (Some(key), None) => key,
                (None, Some(file)) => local_text(&step.folder.join(file))?,
                _ => return Err(Error::usage("expected either `key` or `file`")),
            };
            accounts::ssh_keys(files, &user, &keys)
        }
        Step::Password { user, password, file, env, hash } => {
            let secret = match (password, file, env, hash) {
                (Some(text), None, None, None) => Password::Text(text),
                (None, Some(file), None, None) => {
                    let text = local_text(&step.folder.join(file))?;
                    Password::Text(text.lines().next().unwrap_or("").to_owned())
                }
                (None, None, Some(name), None) => Password::Text(
                    std::env::var(&name)
                        .map_err(|_| Error::usage(format!("the environment variable {name} is not set")))?,
                ),
                (None, None, None, Some(hash)) => Password::Hash(hash),
                _ => return Err(Error::usage("expected one of `password`, `file`, `env` and `hash`")),
            };
            accounts::password(files, &user, &secret, today(files), &|salt| context.salt(&user, salt))
        }
        Step::Lock { user } => accounts::password(files, &user, &Password::Locked, today(files), &|_| Ok(())),
        Step::Network { interface, dhcp, address, gateway, dns } => {
            if dhcp != address.is_empty() {
                return Err(Error::usage(format!("{interface}: expected either `dhcp` or `address`")));
            }
            network::configure(files, &Network::new(&interface, &address, &gateway, &dns)?)
        }
        Step::Enable { unit } => systemd::enable(files, &unit),
        Step::Disable { unit } => systemd::disable(files, &unit),
        Step::FirstBoot { name, content: text, file, template } => {
            let script = content(&text, &file, template)?;
            let stem = file.as_ref().and_then(|file| file.file_stem()?.to_str());
            let name = name.as_deref().or(stem).unwrap_or("script");
            first_boot::first_boot(files, name, &script)
        }
        Step::Generalize {} => return generalize(files),
        Step::User { name, uid, gid, groups, shell, home, comment, sudo, system } => {
            let user = User {
                uid: uid.map(|uid| id(&uid)).transpose()?,
                gid: gid.map(|gid| gid.to_string()),
                sudo: sudo.as_deref().map(Sudo::parse).transpose()?,
                name,
                groups,
                shell,
                home,
                comment,
                system,
            };
            users::user(files, &user, today(files))
        }
        Step::Group { name, gid, system } => {
            users::group(files, &name, gid.map(|gid| id(&gid)).transpose()?, system)
        }
        Step::Sysctl { key, value } => sysctl::sysctl(files, &key, &value.to_string()),
        Step::KernelArg { arg } => kernel_argument(files, &arg),
        Step::InitramfsModules { path, kernel, modules } => {
            initramfs::modules(files, &path, &kernel, &modules)
        }
        Step::CopyIn { file, path, owner } => {
            let owner = optional_owner(owner)?.map(|owner| owner.numbers(files)).transpose()?;
            let graft = context.local.tree(&step.folder.join(file), false)?;
            one(Edit::Graft { path, graft, owner: owner.unwrap_or_default() })
        }
        Step::Tar { file, path } => {
            let is_stdin = file == Path::new("-");
            let file = if is_stdin { file } else { step.folder.join(file) };
            one(Edit::Graft { path, graft: context.local.tree(&file, true)?, owner: (None, None) })
        }
        Step::Copy { path, to } => copy(files, &path, &to).map(|edit| vec![edit]),
        Step::Edit { path, script } => {
            one(Edit::Substitute { path, commands: Script::parse(&script)?, text: script })
        }
        Step::Touch { path } => one(Edit::Touch { path }),
        Step::Truncate { path, recursive } => truncate(files, &path, recursive),
        Step::Scrub { path } => {
            // The content goes from all names of the file, and this name goes too.
            let mut edits = truncate(files, &path, false)?;
            edits.push(Edit::Delete { path });
            Ok(edits)
        }
        Step::CloudInit { user_data, meta_data, template } => {
            let read = |file: PathBuf| local_bytes(&step.folder.join(file), template, context);
            let meta = meta_data.map(read).transpose()?;
            provision::cloud_init(files, &read(user_data)?, meta.as_deref())
        }
        Step::Ignition { file, template } => {
            provision::ignition(files, &local_bytes(&step.folder.join(file), template, context)?)
        }
    };
    Ok(edits?.into_iter().map(|edit| (edit, None)).collect())
}

impl Context<'_> {
    fn salt(&self, user: &str, salt: &mut [u8]) -> Result<()> {
        let Some(seed) = &self.salt else {
            let wanted = salt.len();
            return match rustix::rand::getrandom(salt, rustix::rand::GetRandomFlags::empty()) {
                Ok(len) if len == wanted => Ok(()),
                _ => Err(Error::store("cannot get random numbers from the operating system")),
            };
        };
        let mut hasher = blake3::Hasher::new_derive_key("mif customize: salt of a password");
        hasher.update(format!("{seed}\0{user}").as_bytes()).finalize_xof().fill(salt);
        Ok(())
    }
}

/// Parses the number of a user or group.
fn id(text: &Scalar) -> Result<u32> {
    // The largest number means "no number" to chown(2).
    let number = text.to_string().parse().ok().filter(|id| *id != u32::MAX);
    number.ok_or_else(|| Error::usage(format!("invalid user or group number \"{text}\"")))
}

/// Copies a file or directory of the image to another path, with its owners and modes. As with cp(1), a path that is a
/// directory gets the copy under its own name.
fn copy(files: &Files, from: &str, to: &str) -> Result<Edit> {
    let is_folder = |path: &str| files.get(path).is_some_and(|row| row.node.file_type == FileType::Dir);
    if files.get(from).is_none() {
        return Err(Error::input(format!("{from}: no such file or directory in the image")));
    }
    let trimmed = to.trim_end_matches('/');
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let (folder, name) = if is_folder(to) {
        (to.to_owned(), last(from))
    } else {
        let cut = trimmed.rfind('/').map_or(0, |cut| cut + 1);
        (trimmed[..cut].to_owned(), trimmed[cut..].to_owned())
    };
    if name.is_empty() || matches!(&name[..], "." | "..") {
        return Err(Error::usage(format!("{from}: cannot be copied to {to}: no name to give it")));
    }
    let graft = Arc::new(Graft::of_image(files, from, &name, None)?);
    Ok(Edit::Graft { path: folder, graft, owner: (None, None) })
}

/// Empties a file, or all files below a directory; owners and modes stay.
fn truncate(files: &Files, path: &str, recursive: bool) -> Result<Vec<Edit>> {
    let place = files.place(path, true)?;
    let Some(row) = files.at(&place) else {
        return Err(missing(&place.volume, &place.path));
    };
    let empty = |path: String| Edit::Write {
        path,
        content: NewContent::of_bytes(Vec::new()),
        mode: None,
        owner: None,
    };
    match (row.node.file_type, recursive) {
        (FileType::File, _) => Ok(vec![empty(path.to_owned())]),
        (FileType::Dir, true) => {
            let below = crate::tree::edit::below(&place.path);
            let inside = files.volume_rows(&place.volume).filter(|row| below.contains(&row.path));
            let inside = inside.filter(|row| row.node.file_type == FileType::File && row.node.size > 0);
            inside
                .map(|row| match std::str::from_utf8(&row.path) {
                    Ok(path) => Ok(empty(format!("{}:{path}", place.volume))),
                    Err(_) => Err(Error::input(format!("{}: the path is not UTF-8", row.path_text()))),
                })
                .collect()
        }
        (FileType::Dir, false) => Err(Error::input(format!("{path}: is a directory"))
            .advise("With recursive, all files below it are emptied")),
        _ => Err(Error::input(format!("{path}: is not a regular file"))),
    }
}

/// Reads a local file; fills in its names if it is a template.
fn local_bytes(path: &Path, template: bool, context: &Context<'_>) -> Result<Vec<u8>> {
    if template {
        return Ok(fill(&local_text(path)?, context.variables)?.into_bytes());
    }
    crate::host::named::read(path, crate::host::named::MAX_TEXT).map_err(|e| e.coded(Code::Input))
}

fn today(files: &Files) -> i64 {
    files.time.secs.div_euclid(DAY)
}

fn local_text(path: &Path) -> Result<String> {
    crate::host::named::read_text(path).map_err(|e| e.coded(Code::Input))
}

fn optional_mode(text: Option<String>) -> Result<Option<u16>> {
    text.map(|text| octal(&text)).transpose()
}

fn optional_owner(text: Option<String>) -> Result<Option<Owner>> {
    text.map(|text| Owner::parse(&text)).transpose()
}

/// Parses a mode in octal.
fn octal(text: &str) -> Result<u16> {
    let wrong =
        || Error::usage(format!("invalid mode \"{text}\": expected octal digits, such as 0644 or 4755"));
    let mode = u16::from_str_radix(text, 8).map_err(|_| wrong())?;
    if mode > 0o7777 { Err(wrong()) } else { Ok(mode) }
}

/// Parses the value of an attribute: text, or bytes in hex after `0x`, as in setfattr(1).
fn xattr_value(text: &str) -> Result<Vec<u8>> {
    let Some(hex) = text.strip_prefix("0x") else { return Ok(text.as_bytes().to_vec()) };
    let wrong = || Error::usage(format!("invalid value \"{text}\": expected pairs of hex digits after 0x"));
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return Err(wrong());
    }
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).map_err(|_| wrong())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_values_may_be_hex() {
        assert_eq!(octal("4755").unwrap(), 0o4755);
        assert!(octal("8").is_err() && octal("17777").is_err() && octal("").is_err());
        assert_eq!(xattr_value("0x00ff").unwrap(), [0, 255]);
        assert_eq!(xattr_value("text").unwrap(), b"text");
        assert!(xattr_value("0x0").is_err() && xattr_value("0xzz").is_err());
    }

    #[test]
    fn salts_are_random_unless_they_are_to_repeat() {
        let (variables, local) = (Variables::new(), LocalFiles::default());
        let salt = |seed: Option<&str>, user: &str| {
            let context = Context { variables: &variables, local: &local, salt: seed.map(str::to_owned) };
            let mut salt = [0; 12];
            context.salt(user, &mut salt).unwrap();
            salt
        };
        assert_eq!(salt(Some("x"), "root"), salt(Some("x"), "root"));
        assert_ne!(salt(Some("x"), "root"), salt(Some("x"), "other"));
        assert_ne!(salt(None, "root"), salt(None, "root"));
    }
}
