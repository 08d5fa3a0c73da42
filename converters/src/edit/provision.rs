//! Configuration for the first boot that the image's own program reads: a NoCloud seed of cloud-init, and a config of
//! Ignition.

use super::primitive::{Edit, Owner};
use crate::error::{Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;

/// The directory of the seed (cloud-init's documentation of NoCloud).
const SEED: &str = "/var/lib/cloud/seed/nocloud";

/// A file that is read after the image's other settings.
const SETTINGS: &str = "/etc/cloud/cloud.cfg.d/99-zz-mif.cfg";

/// Writes a NoCloud seed. Without `meta`, the instance is named after its user data.
pub(super) fn cloud_init(files: &Files, user: &[u8], meta: Option<&[u8]>) -> Result<Vec<Edit>> {
    let has = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init", "/etc/cloud/cloud.cfg"];
    if !has.iter().any(|path| files.is_file(path)) {
        return Err(Error::input("the image has no cloud-init")
            .advise("Use the other edits instead, such as --user, --ssh-key and --first-boot"));
    }
    // cloud-init ignores what begins otherwise.
    let starts: [&[u8]; 5] = [b"#", b"Content-Type:", b"MIME-Version:", b"From ", b"\x1f\x8b"];
    if !starts.iter().any(|start| user.starts_with(start)) {
        return Err(Error::input(
            "cloud-init would ignore the user data: its first line does not say what it is",
        )
        .advise("Begin it with #cloud-config, or with #! and an interpreter"));
    }
    let meta = match meta {
        Some(meta)
            if !meta.split(|b| *b == b'\n').any(|line| {
                line.trim_ascii().starts_with(b"instance-id")
                    || line.trim_ascii().starts_with(b"\"instance-id\"")
                    || line.trim_ascii().starts_with(b"{")
            }) =>
        {
            return Err(Error::input(
                "the meta data has no instance-id, without which cloud-init ignores the seed",
            )
            .advise("Add a line such as instance-id: web-1"));
        }
        Some(meta) => meta.to_vec(),
        None => format!("instance-id: mif-{}\n", &blake3::hash(user).to_hex()[..16]).into_bytes(),
    };
    // User data may contain passwords.
    let file = |name: &str, bytes: &[u8]| Edit::Write {
        path: format!("{SEED}/{name}"),
        content: NewContent::of_bytes(bytes.to_vec()),
        mode: Some(0o600),
        owner: Some(Owner::ids(0, 0)),
    };
    let mut edits = vec![Edit::folder(SEED), file("user-data", user), file("meta-data", &meta)];
    if let Some(list) = datasources(files)?
        && !list.contains("NoCloud")
    {
        edits.push(Edit::folder("/etc/cloud/cloud.cfg.d"));
        edits.push(Edit::text(SETTINGS, "datasource_list: [ NoCloud, None ]\n"));
    }
    Ok(edits)
}

/// Returns the list of data sources that the image's settings name, if they do: the last one counts.
fn datasources(files: &Files) -> Result<Option<String>> {
    let mut paths = vec!["/etc/cloud/cloud.cfg".to_owned()];
    paths.extend(files.glob("/etc/cloud/cloud.cfg.d/*.cfg")?);
    let mut found = None;
    for path in paths {
        let text = files.text(&path)?;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(list) = line.strip_prefix("datasource_list:") {
                // Either `[ A, B ]` on the line, or items on the next ones.
                let mut list = list.to_owned();
                while let Some(item) =
                    lines.next_if(|line| line.trim_start().starts_with(['-', ']']) || line.starts_with(' '))
                {
                    list += item;
                }
                found = Some(list);
            }
        }
    }
    Ok(found)
}

/// Puts an Ignition config where the image looks for it at its first boot: `ignition/config.ign` on the boot filesystem
/// of Fedora CoreOS, RHCOS and their like, `config.ign` on the OEM filesystem of Flatcar.
pub(super) fn ignition(files: &Files, config: &[u8]) -> Result<Vec<Edit>> {
    let parsed: Result<serde_json::Value, _> = serde_json::from_slice(config);
    let version = parsed.as_ref().ok().and_then(|config| config["ignition"]["version"].as_str());
    if version.is_none() {
        let problem = match &parsed {
            Err(e) => format!("it is not JSON: {e}"),
            Ok(_) => "it has no ignition.version".to_owned(),
        };
        return Err(Error::input(format!("not an Ignition config: {problem}"))
            .advise("Ignition reads JSON; convert a Butane config with `butane`"));
    }
    let write = |path: String, mode| Edit::Write {
        path,
        content: NewContent::of_bytes(config.to_vec()),
        mode,
        owner: None,
    };
    // The stamp of a system that was not booted.
    let boots: Vec<&str> = files
        .volume_names()
        .filter(|volume| files.get(&format!("{volume}:/ignition.firstboot")).is_some())
        .collect();
    match boots[..] {
        [] => {}
        [volume] => {
            let folder = Edit::Mkdir { path: format!("{volume}:/ignition"), mode: Some(0o700), owner: None };
            return Ok(vec![folder, write(format!("{volume}:/ignition/config.ign"), Some(0o600))]);
        }
        _ => {
            return Err(Error::input(format!(
                "several volumes have an ignition.firstboot: {}",
                boots.join(", ")
            )));
        }
    }
    let oem: Vec<&str> = files.labelled("OEM").collect();
    if let [volume] = oem[..] {
        // A FAT or Btrfs; only the latter has modes.
        let mode = files.capabilities(volume).is_posix.then_some(0o600);
        return Ok(vec![write(format!("{volume}:/config.ign"), mode)]);
    }
    Err(Error::input("the image does not look for an Ignition config, or it was booted before").advise(
        "Ignition runs at the first boot of Fedora CoreOS and RHCOS (ignition.firstboot on the boot filesystem) and of Flatcar (a filesystem labelled OEM)",
    ))
}
