//! Configuration with sections, as systemd, NetworkManager and others have it: `[Section]`, then `key=value` lines.

/// Returns the entries in order: section, key and value, without white space around them. Comments begin with `#` or `;`.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(move |line| {
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.strip_suffix(']').unwrap_or_default();
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((section, key.trim(), value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_section_that_it_is_in() {
        let text =
            "a=0\n[Match]\nName = ens3\n#MACAddress=1\n [Network] \nDHCP=yes=no\nnothing\n[broken\nb=1\n";
        let found: Vec<_> = entries(text).collect();
        let expected =
            [("", "a", "0"), ("Match", "Name", "ens3"), ("Network", "DHCP", "yes=no"), ("", "b", "1")];
        assert_eq!(found, expected);
    }
}
