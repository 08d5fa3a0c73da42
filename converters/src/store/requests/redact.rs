//! Keeps credentials out of messages: those of the environment, and those that a URL may have.

use mif_formats::text::printable;

/// The longest message of an object store that is shown, in characters.
const MAX: usize = 500;

/// The shortest value that counts as a secret. Shorter ones would be found in ordinary words.
const SHORTEST: usize = 6;

/// The secrets of the environment.
pub(in crate::store) struct Redact(Vec<String>);

impl Redact {
    /// Finds the secrets among variables of the environment.
    pub(in crate::store) fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        let is_secret = |name: &str| {
            let name = name.to_ascii_uppercase();
            let of_vendor = ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|vendor| name.starts_with(vendor));
            let words = ["KEY", "SECRET", "TOKEN", "PASSWORD", "SAS", "CREDENTIAL", "SERVICE_ACCOUNT"];
            of_vendor && words.iter().any(|word| name.contains(word))
        };
        let values = variables.filter(|(name, value)| is_secret(name) && value.len() >= SHORTEST);
        let mut values: Vec<String> = values.map(|(_, value)| value).collect();
        // The longest first: one may contain another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Redact(values)
    }

    /// Also keeps this out of messages.
    pub(in crate::store) fn also(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.push(secret.to_owned());
            self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
        }
    }

    /// Returns a message on one line, without credentials.
    pub(in crate::store) fn clean(&self, text: &str) -> String {
        let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for secret in &self.0 {
            text = text.replace(secret, "***");
        }
        let words = text.split(' ').map(clean_word).collect::<Vec<_>>().join(" ");
        let mut shown: String = printable(&words).chars().take(MAX).collect();
        if shown.len() < words.len() {
            shown.push('…');
        }
        shown
    }
}

/// Cuts the user and the parameters from the URLs in a word.
fn clean_word(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find(['"', '\'', ')', '<', '>', ',']).unwrap_or(rest.len());
    let (url, after) = rest.split_at(end);
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let closed = if rest[end..].starts_with(',') { String::new() } else { after.to_owned() };
    format!("{scheme}://{host}{path}{closed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_is_left_in_a_message() {
        let variables = [
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
            ("AWS_REGION", "eu-central-1"),
            ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=abcdef"),
            ("HOME", "/home/anna"),
        ];
        let redact = Redact::new(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        for (text, clean) in [
            ("key wJalrXUtnFEMI/K7MDENG is\nwrong in eu-central-1", "key *** is wrong in eu-central-1"),
            ("GET https://u:p@h.example/a/b?sig=x&b=c in 2s", "GET https://h.example/a/b in 2s"),
            ("(\"http://h/a?X-Amz-Signature=1\"): 403", "(\"http://h/a\"): 403"),
            ("/home/anna is no secret\u{1b}[2J", "/home/anna is no secret\\u{1b}[2J"),
        ] {
            assert_eq!(redact.clean(text).replace("\\x1b", "\\u{1b}"), clean);
        }
        assert!(redact.clean(&"x".repeat(5000)).chars().count() <= MAX + 1);
        assert!(redact.clean("https://h/?sv=1&sig=abcdef").ends_with("https://h/"));
    }
}
