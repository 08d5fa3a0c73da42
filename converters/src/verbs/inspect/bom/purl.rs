//! Package URLs (<https://github.com/package-url/purl-spec>): `pkg:deb/debian/bash@5.2.15-2?arch=amd64&distro=debian-12`.

use std::fmt::Write as _;

use mif_formats::mif::packages::Package;

use crate::guest::os::Os;

/// Returns the package URL of a package of a system. Programs of Windows have none.
pub(super) fn of(package: &Package, os: Option<&Os>) -> Option<String> {
    let Package { manager, name, version, architecture, source, .. } = package;
    let (kind, name) = match &manager[..] {
        "dpkg" => ("deb", name.to_lowercase()),
        "rpm" => ("rpm", name.clone()),
        "apk" => ("apk", name.to_lowercase()),
        _ => return None,
    };
    // rpm's epoch is a qualifier, and Debian's a part of the version.
    let (epoch, version) = match version.split_once(':') {
        Some((epoch, version)) if kind == "rpm" => (Some(epoch), version),
        _ => (None, &version[..]),
    };
    let distro = os.map(|os| match &os.version {
        Some(version) => format!("{}-{version}", os.id),
        None => os.id.clone(),
    });
    // By which scanners find what is known about the source package.
    let upstream = source.as_ref().filter(|source| **source != name);
    let mut purl = format!("pkg:{kind}/");
    if let Some(os) = os {
        let _ = write!(purl, "{}/", encoded(&family(os).to_lowercase()));
    }
    purl.push_str(&encoded(&name));
    if !version.is_empty() {
        let _ = write!(purl, "@{}", encoded(version));
    }
    let qualifiers = [
        ("arch", architecture.as_deref()),
        ("distro", distro.as_deref()),
        ("epoch", epoch),
        ("upstream", upstream.map(String::as_str)),
    ];
    let mut mark = '?';
    for (name, value) in qualifiers {
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        let _ = write!(purl, "{mark}{name}={}", encoded(value));
        mark = '&';
    }
    Some(purl)
}

/// Returns the vendor of a system's packages: usually the system's own name.
pub(super) fn family(os: &Os) -> &str {
    match &os.id[..] {
        "rhel" => "redhat",
        id if id.starts_with("opensuse") => "opensuse",
        id => id,
    }
}

/// Encodes all bytes but letters, digits, `.-_~` and colons as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte.into())
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(
        manager: &str,
        name: &str,
        version: &str,
        architecture: &str,
        source: Option<&str>,
    ) -> Package {
        Package {
            volume: "p1".into(),
            manager: manager.into(),
            name: name.into(),
            version: version.into(),
            architecture: Some(architecture.into()).filter(|text: &String| !text.is_empty()),
            status: "installed".into(),
            source: source.map(str::to_owned),
            files: Vec::new(),
        }
    }

    #[test]
    fn a_url_names_the_system_the_epoch_and_the_source() {
        let os = |id: &str, version: Option<&str>| Os {
            id: id.into(),
            name: id.into(),
            version: version.map(str::to_owned),
            edition: None,
        };
        let debian = os("debian", Some("12"));
        assert_eq!(
            of(&package("dpkg", "libstdc++6", "1:12.2.0-14+b1", "amd64", Some("gcc-12")), Some(&debian))
                .unwrap(),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bb1?arch=amd64&distro=debian-12&upstream=gcc-12"
        );
        let rhel = os("rhel", Some("9.3"));
        assert_eq!(
            of(&package("rpm", "vim", "2:8.2-1.el9", "x86_64", Some("vim-8.2-1.el9.src.rpm")), Some(&rhel))
                .unwrap(),
            "pkg:rpm/redhat/vim@8.2-1.el9?arch=x86_64&distro=rhel-9.3&epoch=2&upstream=vim-8.2-1.el9.src.rpm"
        );
        let arch = os("wolfi", None);
        assert_eq!(
            of(&package("apk", "busybox", "1.36.1-r0", "", Some("busybox")), Some(&arch)).unwrap(),
            "pkg:apk/wolfi/busybox@1.36.1-r0?distro=wolfi"
        );
        assert_eq!(of(&package("dpkg", "a/b c", "", "", None), None).unwrap(), "pkg:deb/a%2Fb%20c");
        assert_eq!(of(&package("windows", "x", "1", "", None), None), None);
    }
}
