//! The layers of modules: which module may import from which.
//!
//! The top-level modules of a crate form layers, and a module imports only from modules in lower layers. No file imports
//! through `lib.rs`, and no two files import each other, directly or indirectly. A name that a module re-exports (`pub use`)
//! counts as imported from the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mif_tests::repo;
use quote::ToTokens;
use syn::visit::Visit;
use syn::{Item, UseTree, Visibility};

/// The top-level modules of `mif-formats` with their layers.
const FORMATS: &[(&str, u32)] = &[
    ("error", 1),
    ("bytes", 2),
    ("cache", 2),
    ("checksum", 2),
    ("codec", 2),
    ("guard", 2),
    ("text", 2),
    ("xml", 2),
    ("hive", 3),
    ("source", 3),
    ("uuid", 3),
    ("beneath", 4),
    ("luks", 4),
    ("disk_digest", 5),
    ("wrapper", 5),
    ("container", 6),
    ("fs", 6),
    ("mif", 7),
    ("partition", 7),
];

/// The top-level modules of `mif` with their layers.
const MIF: &[(&str, u32)] = &[
    ("error", 1),
    ("host", 2),
    ("notation", 2),
    ("task", 2),
    ("store", 3),
    ("disk", 4),
    ("tree", 5),
    ("image", 6),
    ("catalog", 7),
    ("ingest", 7),
    ("compose", 8),
    ("guest", 9),
    ("independent", 9),
    ("extract", 9),
    ("boot", 10),
    ("care", 10),
    ("rebuild", 11),
    ("deliver", 12),
    ("mkdisk", 12),
    ("edit", 13),
    ("merge", 14),
    ("verbs", 15),
    ("cli", 16),
];

/// A path of names from the crate's root.
type Names = Vec<String>;

/// A crate, parsed from its source.
#[derive(Default)]
struct Crate {
    /// Every file, by its module.
    files: BTreeMap<Names, File>,
}

/// The imports and re-exports of a file.
#[derive(Default)]
struct File {
    /// Imports, each a path from the crate's root that may lead through re-exports; and whether the file only re-exports it.
    imports: Vec<(Names, bool)>,
    /// Names re-exported from elsewhere in the crate, and their origins. The name `*` means all.
    handed_on: Vec<(String, Names)>,
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut house = Crate::default();
        let mut parsed = BTreeMap::new();
        for path in mif_tests::files(source, ".rs") {
            let mut module: Names =
                path.strip_prefix(source).unwrap().with_extension("").iter().map(text).collect();
            if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
                module.pop();
            }
            // The program's own root has no names to import.
            if module != ["main"] {
                parsed.insert(module, syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap());
            }
        }
        let tests: Vec<Names> = parsed.iter().flat_map(|(module, file)| tests_of(module, file)).collect();
        parsed.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        let modules: BTreeSet<Names> = parsed.keys().cloned().collect();
        for (module, file) in parsed {
            let mut reader = Reader { modules: &modules, module: module.clone(), file: File::default() };
            reader.visit_file(&file);
            house.files.insert(module, reader.file);
        }
        house
    }

    /// Returns the module of the file that defines the item at a path.
    fn definition(&self, path: &[String]) -> Names {
        self.definition_within(path, 8)
    }

    fn definition_within(&self, path: &[String], steps: u32) -> Names {
        let mut module: Names = Vec::new();
        for (i, name) in path.iter().enumerate() {
            module.push(name.clone());
            if self.files.contains_key(&module) {
                continue;
            }
            module.pop();
            let file = &self.files[&module];
            let named = file.handed_on.iter().find(|(handed, _)| handed == name);
            if let Some((_, from)) = named.filter(|_| steps > 0) {
                return self.definition_within(&[from, &path[i + 1..]].concat(), steps - 1);
            }
            break;
        }
        module
    }
}

/// A reader of one file.
struct Reader<'a> {
    modules: &'a BTreeSet<Names>,
    module: Names,
    file: File,
}

impl Reader<'_> {
    /// Returns the path from the crate's root; `None` if it leads out of the crate.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&self.module[..], &path[1..]].concat()),
            "super" => Some([&self.module[..self.module.len() - ups], &path[ups..]].concat()),
            child if self.modules.contains(&[&self.module[..], &[child.to_owned()]].concat()) => {
                Some([&self.module[..], path].concat())
            }
            _ => None,
        }
    }

    fn leaves(&mut self, tree: &UseTree, before: &[String], is_public: bool) {
        let mut leaf = |path: Names, name: String| {
            let path: Names = path.into_iter().filter(|part| part != "*").collect();
            let Some(path) = self.absolute(&path) else { return };
            if is_public {
                self.file.handed_on.push((name, path.clone()));
            }
            self.file.imports.push((path, is_public));
        };
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.leaves(&path.tree, &with(path.ident.to_string()), is_public),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.leaves(tree, before, is_public)),
            UseTree::Name(name) if name.ident == "self" && !before.is_empty() => {
                leaf(before.to_vec(), before[before.len() - 1].clone());
            }
            UseTree::Name(name) => leaf(with(name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(rename) => leaf(with(rename.ident.to_string()), rename.rename.to_string()),
            UseTree::Glob(_) => leaf(with("*".to_owned()), "*".to_owned()),
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Use(item) => {
                let is_public = !matches!(item.vis, Visibility::Inherited);
                self.leaves(&item.tree, &[], is_public);
            }
            // Modules within a file are tests, or a few constants.
            Item::Mod(_) => {}
            _ => syn::visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A single name is a visibility, as in `pub(crate)`.
        if names.len() > 1
            && ["crate", "super"].contains(&names[0].as_str())
            && let Some(path) = self.absolute(&names)
        {
            self.file.imports.push((path, false));
        }
        syn::visit::visit_path(self, path);
    }
}

/// Returns the test modules of a file that are in files of their own.
fn tests_of(module: &Names, file: &syn::File) -> Vec<Names> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(item) if item.content.is_none() => Some(item),
        _ => None,
    });
    let attribute = |attribute: &syn::Attribute| attribute.to_token_stream().to_string().replace(' ', "");
    let tests = declared.filter(|item| item.attrs.iter().map(attribute).any(|text| text == "#[cfg(test)]"));
    let parent = &module[..module.len().saturating_sub(1)];
    // `#[path]` names a file beside this one.
    let beside = |path: &str| {
        path.strip_prefix("#[path=\"").and_then(|rest| rest.strip_suffix(".rs\"]")).map(str::to_owned)
    };
    tests
        .map(|item| match item.attrs.iter().map(attribute).find_map(|text| beside(&text)) {
            Some(file) => [parent, &[file]].concat(),
            None => [&module[..], &[item.ident.to_string()]].concat(),
        })
        .collect()
}

fn text(part: &std::ffi::OsStr) -> String {
    part.to_string_lossy().into_owned()
}

/// Returns all violations of the order in a crate, each a sentence.
fn breaks(source: &str, layers: &[(&str, u32)]) -> Vec<String> {
    let house = Crate::read(&repo().join(source));
    let layer = |module: &Names| layers.iter().find(|(name, _)| *name == module[0]).map(|(_, layer)| *layer);
    let mut found = Vec::new();
    let mut edges: BTreeMap<&Names, BTreeSet<Names>> = BTreeMap::new();
    for (module, file) in house.files.iter().filter(|(module, _)| !module.is_empty()) {
        let place = module.join("/");
        let Some(here) = layer(module) else {
            found.push(format!("{source}: {place}: is missing from the table of layers"));
            continue;
        };
        for (path, hands_on) in &file.imports {
            if path.first().is_none_or(|first| !house.files.contains_key(&vec![first.clone()])) {
                found.push(format!("{source}: {place}: imports {} through lib.rs", path.join("::")));
                continue;
            }
            let from = house.definition(path);
            let below = layer(&from).is_some_and(|layer| layer < here);
            if from[0] != module[0] && !below {
                found.push(format!("{source}: {place}: imports {} from above", path.join("::")));
            }
            if from != *module && !hands_on {
                edges.entry(module).or_default().insert(from);
            }
        }
    }
    // Removing files that import none of the remaining files, again and again, leaves the circles and the files that import
    // them. Removing files that no remaining file imports leaves the circles.
    loop {
        let sources: BTreeSet<Names> = edges.keys().map(|module| (*module).clone()).collect();
        let imported: BTreeSet<Names> = edges.values().flatten().cloned().collect();
        let before = edges.values().map(BTreeSet::len).sum::<usize>();
        edges.retain(|module, _| imported.contains(*module));
        edges.values_mut().for_each(|from| from.retain(|module| sources.contains(module)));
        edges.retain(|_, from| !from.is_empty());
        if edges.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    found.extend(edges.iter().flat_map(|(module, from)| {
        from.iter()
            .map(|from| format!("{source}: in a circle: {} imports {}", module.join("/"), from.join("/")))
    }));
    found.sort();
    found.dedup();
    found
}

#[test]
fn every_module_imports_only_from_lower_layers_and_no_files_import_each_other() {
    let found = [breaks("formats/src", FORMATS), breaks("converters/src", MIF)].concat();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_order_test_finds_what_it_looks_for() {
    let folder = mif_tests::work_folder();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod low; mod high; mod new; pub use high::Face;");
    write("low.rs", "use crate::Face; fn f() { crate::high::g() }");
    write("high/mod.rs", "mod a; mod b; pub use self::a::Face;");
    write("high/a.rs", "use super::b::B; pub struct Face; #[cfg(test)] mod tests { use crate::Face; }");
    write("high/b.rs", "use super::Face; pub struct B;");
    write("new.rs", "");
    let source = folder.path().to_str().unwrap();
    let found = breaks(source, &[("low", 1), ("high", 2)]);
    let expected = [
        "high/a imports high/b",
        "high/b imports high/a",
        "low: imports Face through lib.rs",
        "low: imports high::g from above",
        "new: is missing from the table of layers",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(found.iter().zip(expected).all(|(found, expected)| found.ends_with(expected)), "{found:#?}");
}
