//! `customize`: its arguments, and its report as text.

mod args;
mod text;

use mif::store::{ImageName, Store};
use mif::{CustomizeOptions, Error, Result, Variables};

pub(super) use self::args::Customize;
use super::{Answer, Context, command_line, reshape_options};

impl Context {
    pub(super) fn customize(&self, arguments: &Customize) -> Answer {
        let options = CustomizeOptions {
            name: arguments.new.clone(),
            recipe: arguments.edits.recipe()?,
            variables: variables(&arguments.set)?,
            instances: arguments.csv.as_deref().map(mif::read_instances).transpose()?,
            time: arguments.time,
            reshape: reshape_options(&arguments.reshape)?,
            dry_run: arguments.dry_run,
            command: without_passwords(command_line()),
        };
        let name: ImageName = arguments.image.parse()?;
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let parent = store.image(&name)?;
        let report = mif::customize(&store, &parent, &options, &self.bar(&parent.image.id()))?;
        self.report(&report, text::customize)?;
        for image in report.images.iter().filter(|_| !self.global.json) {
            self.warn(&image.notes);
        }
        Ok(true)
    }
}

fn variables(set: &[String]) -> Result<Variables> {
    set.iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Error::usage(format!("--set {pair}: expected NAME=VALUE"))),
        })
        .collect()
}

/// The command line, for an image's record, without the passwords on it.
fn without_passwords(mut words: Vec<String>) -> Vec<String> {
    let hide = |word: &mut String| {
        if let Some(at) = word.find(":password:") {
            word.truncate(at + ":password:".len());
            word.push('…');
        }
    };
    for i in 0..words.len() {
        if words[i] == "--password" {
            words.get_mut(i + 1).into_iter().for_each(hide);
        } else if words[i].starts_with("--password=") {
            hide(&mut words[i]);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_not_recorded() {
        let words =
            ["--password", "a:password:secret", "--password=b:password:secret", "--password", "c:file:x"];
        let kept = without_passwords(words.map(str::to_owned).to_vec());
        assert_eq!(kept, ["--password", "a:password:…", "--password=b:password:…", "--password", "c:file:x"]);
    }
}
