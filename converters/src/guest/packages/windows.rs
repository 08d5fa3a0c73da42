//! The programs that Windows lists as installed: keys `Uninstall` in the hive `SOFTWARE` (Microsoft, *Uninstall Registry Key*).

use mif_formats::hive::{Hive, Key};

use super::{Databases, FoundPackages, Package};
use crate::error::Result;
use crate::guest::registry::{self, SOFTWARE};

/// The keys that list programs, and whether these are for 32-bit x86 on a 64-bit Windows.
const LISTS: [(&str, bool); 2] = [
    (r"Microsoft\Windows\CurrentVersion\Uninstall", false),
    (r"WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall", true),
];

/// How many entries of a list are read, and how many bytes of a text.
const MAX_ENTRIES: usize = 16_384;
const MAX_TEXT: u32 = 4096;

pub(super) fn read(databases: &Databases<'_>, found: &mut FoundPackages) -> Result<()> {
    let row = |path: &[u8]| databases.scope.row(path);
    let Some((software, complaint)) = registry::read(SOFTWARE, row, databases.tree)? else { return Ok(()) };
    let mut complaints: Vec<String> = complaint.into_iter().collect();
    let programs = programs(&software, &mut complaints)?;
    let said =
        complaints.into_iter().map(|sentence| format!("packages on {}: {sentence}", databases.volume()));
    found.complaints.extend(said);
    found.packages.extend(programs.into_iter().map(|program| Package {
        architecture: program.architecture,
        ..databases.package("windows", program.name, program.version)
    }));
    Ok(())
}

/// A program.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    version: String,
    architecture: Option<String>,
}

/// Returns the programs that a hive lists, without those that Windows does not show. Damaged entries become complaints.
fn programs(software: &[u8], complaints: &mut Vec<String>) -> mif_formats::Result<Vec<Program>> {
    let hive = Hive::parse(software)?;
    let native = native_architecture(&hive).unwrap_or_else(|error| {
        complaints.push(format!("the architecture of Windows: {error}"));
        None
    });
    let mut programs = Vec::new();
    for (path, is_x86) in LISTS {
        let list = hive.key(path).and_then(|list| list.map(|list| list.subkeys()).transpose());
        let list = list.unwrap_or_else(|error| {
            complaints.push(format!("{path}: {error}"));
            None
        });
        let architecture = if is_x86 { Some("x86".to_owned()) } else { native.clone() };
        let (mut damaged, mut first) = (0_u32, None);
        for (i, entry) in list.into_iter().flatten().enumerate() {
            if i == MAX_ENTRIES {
                complaints.push(format!("{path}: only the first {MAX_ENTRIES} programs are listed"));
                break;
            }
            match entry.and_then(|entry| program(&entry, architecture.as_ref())) {
                Ok(program) => programs.extend(program),
                Err(error) => {
                    damaged += 1;
                    first = first.or(Some(error));
                }
            }
        }
        if let Some(error) = first {
            complaints.push(format!("{path}: {damaged} entries cannot be read: {error}"));
        }
    }
    Ok(programs)
}

/// Returns the program of an entry; `None` if Windows does not show it.
fn program(entry: &Key<'_>, architecture: Option<&String>) -> mif_formats::Result<Option<Program>> {
    let text = |name: &str| {
        let value = entry.value(name)?.filter(|value| value.size() <= MAX_TEXT);
        value.map_or(Ok(None), |value| value.text())
    };
    let Some(name) = text("DisplayName")?.filter(|name| !name.is_empty()) else { return Ok(None) };
    if entry.number("SystemComponent")? == Some(1) {
        return Ok(None);
    }
    let version = text("DisplayVersion")?.unwrap_or_default();
    Ok(Some(Program { name, version, architecture: architecture.cloned() }))
}

/// Returns the architecture of Windows, which is in the name of its build: `22621.1.amd64fre.ni_release.220506-1250`.
fn native_architecture(hive: &Hive<'_>) -> mif_formats::Result<Option<String>> {
    let Some(key) = hive.key(r"Microsoft\Windows NT\CurrentVersion")? else { return Ok(None) };
    for name in ["BuildLabEx", "BuildLab"] {
        let lab = key.text(name)?.unwrap_or_default();
        let architecture = lab.split('.').find_map(|part| {
            part.strip_suffix("fre").or_else(|| part.strip_suffix("chk")).filter(|name| !name.is_empty())
        });
        if let Some(architecture) = architecture {
            return Ok(Some(architecture.to_owned()));
        }
    }
    Ok(None)
}
