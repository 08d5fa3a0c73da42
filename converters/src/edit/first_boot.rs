//! Units that systemd runs at an image's first boot: the user's scripts, and generation of missing SSH host keys.

use super::primitive::Edit;
use super::systemd::{ETC, find};
use crate::error::{Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;

/// Fails unless the image boots with systemd.
fn require_systemd(files: &Files) -> Result<()> {
    let found = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].iter().any(|path| files.is_file(path));
    if !found {
        return Err(Error::unsupported("cannot run a script at first boot: the image has no systemd"));
    }
    Ok(())
}

/// The directory of first-boot scripts.
const FIRST_BOOT: &str = "/usr/local/lib/mif-first-boot";

/// Makes a script run once, at the first boot, after those that were added before.
pub(super) fn first_boot(files: &Files, name: &str, script: &NewContent) -> Result<Vec<Edit>> {
    require_systemd(files)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).take(64).collect();
    let start = script.source.read_vec(0, script.source.len().min(2) as usize)?;
    if start != b"#!" {
        return Err(Error::input("a first-boot script must begin with #! and an interpreter")
            .advise("Begin the script with a line such as #!/bin/sh"));
    }
    let before = files.list(FIRST_BOOT);
    let number = before.len() + 1;
    let stem = format!("{number:02}-{name}");
    let after = before.last().map_or(String::new(), |(last, _)| format!(" mif-first-boot-{last}.service"));
    let systemctl = ["/usr/bin/systemctl", "/bin/systemctl"].into_iter().find(|path| files.is_file(path));
    let systemctl = systemctl.unwrap_or("/bin/systemctl");
    let unit = format!("mif-first-boot-{stem}.service");
    let text = format!(
        "[Unit]\n\
         Description=First boot: {name}\n\
         Wants=network-online.target\n\
         After=network-online.target{after}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={FIRST_BOOT}/{stem}\n\
         # Once, however it ended.\n\
         ExecStopPost={systemctl} --no-reload disable {unit}\n\
         StandardOutput=journal+console\n\
         TimeoutStartSec=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    let path = format!("{FIRST_BOOT}/{stem}");
    let owner = Some(super::primitive::Owner::ids(0, 0));
    let wants = format!("{ETC}/multi-user.target.wants");
    Ok(vec![
        Edit::folder(FIRST_BOOT),
        Edit::folder(&wants),
        Edit::Write { path, content: script.clone(), mode: Some(0o755), owner },
        Edit::file(format!("{ETC}/{unit}"), text, 0o644),
        Edit::Symlink { path: format!("{wants}/{unit}"), target: format!("{ETC}/{unit}") },
    ])
}

/// Adds a unit that generates missing SSH host keys, for images whose own packages generate them only at installation.
pub(super) fn ssh_host_keys(files: &Files) -> Vec<Edit> {
    let made_by_image =
        ["sshd-keygen@.service", "sshd-keygen.target", "sshd-keygen.service", "cloud-init.service"]
            .iter()
            .any(|unit| find(files, unit).is_ok());
    if made_by_image || !files.is_file("/usr/bin/ssh-keygen") || require_systemd(files).is_err() {
        return Vec::new();
    }
    let text = "[Unit]\n\
                Description=SSH host keys\n\
                Before=ssh.service sshd.service\n\
                ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n\
                \n\
                [Service]\n\
                Type=oneshot\n\
                ExecStart=/usr/bin/ssh-keygen -A\n\
                \n\
                [Install]\n\
                WantedBy=multi-user.target\n";
    let unit = format!("{ETC}/mif-ssh-host-keys.service");
    let wants = format!("{ETC}/multi-user.target.wants");
    vec![
        Edit::folder(&wants),
        Edit::file(&unit, text, 0o644),
        Edit::Symlink { path: format!("{wants}/mif-ssh-host-keys.service"), target: unit },
    ]
}
