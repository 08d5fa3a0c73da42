//! The indexes that depmod writes beside the kernel's modules (modules.dep(5), depmod(8)): what a module depends on, and
//! what is built into the kernel.

use std::collections::{BTreeMap, BTreeSet};

/// The indexes of one release.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// The path of each module below the directory of the release, and the names of those it depends on, by name.
    dependencies: BTreeMap<String, (String, Vec<String>)>,
    /// The names of those built into the kernel.
    builtin: BTreeSet<String>,
    /// The names that a module wants to be loaded before it.
    before: BTreeMap<String, Vec<String>>,
    /// Aliases without patterns.
    aliases: BTreeMap<String, Vec<String>>,
    /// True if `modules.builtin` was there.
    pub(super) knows_builtin: bool,
}

/// Returns the name of a module by its path: `nvme_core` for `kernel/drivers/nvme/host/nvme-core.ko.xz`.
pub(super) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(normal(stem))
}

/// Returns the name with underscores, as the kernel knows it.
pub(super) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

impl Modules {
    /// Reads the indexes: `modules.dep`, `modules.builtin`, `modules.softdep` and `modules.alias`, each as far as it is
    /// there.
    pub(super) fn parse<'t>(read: impl Fn(&str) -> Option<std::borrow::Cow<'t, [u8]>>) -> Self {
        let text = |name: &str| read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let mut all = Modules::default();
        for line in text("modules.dep").unwrap_or_default().lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let Some(name) = module_name(path) else { continue };
            let needs = needs.split_ascii_whitespace().filter_map(module_name).collect();
            all.dependencies.insert(name, (path.to_owned(), needs));
        }
        let builtin = text("modules.builtin");
        all.knows_builtin = builtin.is_some();
        all.builtin = builtin.unwrap_or_default().lines().filter_map(module_name).collect();
        for line in text("modules.softdep").unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let mut is_before = false;
            for word in words {
                match word {
                    "pre:" => is_before = true,
                    "post:" => is_before = false,
                    other if is_before => all.before.entry(normal(name)).or_default().push(other.to_owned()),
                    _ => {}
                }
            }
        }
        for line in text("modules.alias").unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("alias"), Some(alias), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if !alias.contains(['*', '?', '[']) {
                all.aliases.entry(normal(alias)).or_default().push(normal(name));
            }
        }
        all
    }

    /// Returns true if a module is built into the kernel.
    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Returns true if there is neither a module nor a built-in of any name.
    pub(super) fn is_empty(&self) -> bool {
        self.dependencies.is_empty() && self.builtin.is_empty()
    }

    /// Returns the path of a module below the directory of the release.
    pub(super) fn path(&self, name: &str) -> Option<&str> {
        self.dependencies.get(name).map(|(path, _)| path.as_str())
    }

    /// Returns all modules with their paths and the names of those they depend on.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.dependencies.iter().map(|(name, (path, needs))| (name.as_str(), path.as_str(), &needs[..]))
    }

    /// Returns a module and all that it depends on, in the order in which they can be loaded; those built into the kernel
    /// are left out. The error is the name of one that is neither a module nor built in.
    pub(super) fn with_dependencies(&self, name: &str) -> Result<Vec<String>, String> {
        // modules.dep lists all that a module needs, directly or not, the last one to be loaded first.
        if self.is_builtin(name) {
            return Ok(Vec::new());
        }
        let (_, needs) = self.dependencies.get(name).ok_or_else(|| name.to_owned())?;
        let mut all: Vec<String> = Vec::new();
        for need in needs.iter().rev() {
            if !self.is_builtin(need) && !all.contains(need) {
                match self.dependencies.contains_key(need) {
                    true => all.push(need.clone()),
                    false => return Err(need.clone()),
                }
            }
        }
        all.push(name.to_owned());
        Ok(all)
    }

    /// Returns what a module wants to be loaded before it: for each name, the modules that provide it. A name that is built
    /// in, or that nothing provides, is left out.
    pub(super) fn wanted_before(&self, name: &str) -> Vec<(String, Vec<String>)> {
        let wanted = self.before.get(name).into_iter().flatten();
        let providers = wanted.map(|wanted| {
            let name = normal(wanted);
            let mut found: Vec<String> = Vec::new();
            for of in [name.clone(), format!("crypto_{name}")] {
                found.extend(self.aliases.get(&of).cloned().unwrap_or_default());
            }
            if self.dependencies.contains_key(&name) || self.is_builtin(&name) {
                found.push(name);
            }
            (wanted.clone(), found)
        });
        providers
            .filter(|(_, found)| !found.is_empty() && !found.iter().any(|it| self.is_builtin(it)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules::parse(|name| {
            let text = match name {
                "modules.dep" => {
                    "kernel/a-x.ko: kernel/b.ko.xz kernel/c.ko\nkernel/b.ko.xz: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko: kernel/gone.ko\nkernel/e.ko: kernel/in.ko\nkernel/crc_fast.ko:\n"
                }
                "modules.builtin" => "kernel/in.ko\n",
                "modules.softdep" => "# c\nsoftdep a-x pre: crc sha post: late\n",
                "modules.alias" => "alias crypto-crc crc_fast\nalias pci:v*d* a_x\n",
                _ => return None,
            };
            Some(text.as_bytes().to_vec().into())
        })
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let modules = modules();
        assert_eq!(modules.with_dependencies("a_x").unwrap(), ["c", "b", "a_x"]);
        assert_eq!(modules.with_dependencies("e").unwrap(), ["e"]);
        assert_eq!(modules.with_dependencies("in").unwrap(), [""; 0]);
        assert_eq!(modules.with_dependencies("d").unwrap_err(), "gone");
        assert_eq!(modules.with_dependencies("nope").unwrap_err(), "nope");
        assert_eq!(modules.path("a_x"), Some("kernel/a-x.ko"));
    }

    #[test]
    fn a_wish_is_met_by_what_provides_it() {
        assert_eq!(modules().wanted_before("a_x"), [("crc".to_owned(), vec!["crc_fast".to_owned()])]);
        assert!(modules().wanted_before("b").is_empty());
    }
}
