//! `customize`: its arguments, and its report as text.

mod args;
mod record;
mod text;
mod value;

use mif::store::{ImageName, Store};
use mif::{CustomizeOptions, Error, Result, Variables};

pub(super) use self::args::Customize;
use super::common::{command_line, reshape_options};
use super::context::{Answer, Context};

impl Context {
    pub(super) fn customize(&self, arguments: &Customize) -> Answer {
        let recipe = arguments.edits.recipe()?;
        let options = CustomizeOptions {
            command: record::without_secrets(command_line(), &recipe),
            name: arguments.new.clone(),
            recipe,
            variables: variables(&arguments.set)?,
            instances: arguments.csv.as_deref().map(mif::read_instances).transpose()?,
            time: arguments.time,
            reshape: reshape_options(&arguments.reshape)?,
            dry_run: arguments.dry_run,
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
