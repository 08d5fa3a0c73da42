//! What Windows calls itself in its registry.

use mif_formats::Result;
use mif_formats::hive::{Hive, Key};

use super::os::Os;

/// The first build of Windows 11, whose `ProductName` still says 10.
const WINDOWS_11: u32 = 22_000;

/// What the hive `SYSTEM` says of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// As `uname -m` names it.
    pub(super) architecture: Option<String>,
    pub(super) hostname: Option<String>,
}

/// Returns the operating system that a hive `SOFTWARE` describes.
pub(super) fn os(software: &[u8]) -> Result<Option<Os>> {
    let hive = Hive::parse(software)?;
    let Some(key) = hive.key(r"Microsoft\Windows NT\CurrentVersion")? else { return Ok(None) };
    let build = first_text(&key, &["CurrentBuildNumber", "CurrentBuild"])?;
    let mut name = first_text(&key, &["ProductName"])?.unwrap_or_else(|| "Windows".to_owned());
    let number: u32 = build.as_deref().and_then(|build| build.parse().ok()).unwrap_or(0);
    if let Some(edition) = name.strip_prefix("Windows 10").filter(|_| number >= WINDOWS_11) {
        name = format!("Windows 11{edition}");
    }
    // Windows 7 has service packs, the first versions of Windows 10 a `ReleaseId`.
    if let Some(release) = first_text(&key, &["DisplayVersion", "ReleaseId", "CSDVersion"])? {
        name = format!("{name} {release}");
    }
    let mut version =
        match (key.number("CurrentMajorVersionNumber")?, key.number("CurrentMinorVersionNumber")?) {
            (Some(major), Some(minor)) => Some(format!("{major}.{minor}")),
            // In Windows 10 and later this is 6.3, for programs that would not expect more.
            _ => first_text(&key, &["CurrentVersion"])?,
        };
    if let Some(mut build) = build {
        if let Some(revision) = key.number("UBR")? {
            build = format!("{build}.{revision}");
        }
        name = format!("{name} (build {build})");
        version = version.map(|version| format!("{version}.{build}"));
    }
    Ok(Some(Os { id: "windows".to_owned(), name, version, edition: first_text(&key, &["EditionID"])? }))
}

/// Returns what a hive `SYSTEM` says of the machine that it was made for.
pub(super) fn machine(system: &[u8]) -> Result<Machine> {
    let hive = Hive::parse(system)?;
    let current = hive.key("Select")?.map_or(Ok(None), |select| select.number("Current"))?.unwrap_or(1);
    let text = |path: &str, value: &str| -> Result<Option<String>> {
        let key = hive.key(&format!(r"ControlSet{current:03}\{path}"))?;
        Ok(key.map_or(Ok(None), |key| key.text(value))?.filter(|text| !text.is_empty()))
    };
    // The name in the network; the other is cut to fifteen letters, all of them capital.
    let hostname = match text(r"Services\Tcpip\Parameters", "Hostname")? {
        None => text(r"Control\ComputerName\ComputerName", "ComputerName")?,
        hostname => hostname,
    };
    let architecture = text(r"Control\Session Manager\Environment", "PROCESSOR_ARCHITECTURE")?;
    let architecture = architecture.map(|name| match &*name.to_ascii_uppercase() {
        "AMD64" => "x86_64".to_owned(),
        "ARM64" => "aarch64".to_owned(),
        "X86" => "i686".to_owned(),
        _ => name,
    });
    Ok(Machine { architecture, hostname })
}

/// Returns the first of some values that is a text, and not empty.
fn first_text(key: &Key<'_>, names: &[&str]) -> Result<Option<String>> {
    for name in names {
        if let Some(text) = key.text(name)?.filter(|text| !text.is_empty()) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}
