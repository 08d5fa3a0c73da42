//! `customize`: its arguments, and its report as text.

mod args;
mod record;
mod text;
mod value;

use mif::store::{ImageName, Store};
use mif::{CustomizeOptions, CustomizeReport, Error, ImageFilter, Result, Variables, Versions};

pub(super) use self::args::Customize;
use super::common::{command_line, reshape_options};
use super::context::{Answer, Context};

impl Context {
    pub(super) fn customize(&self, arguments: Customize) -> Answer {
        let recipe = arguments.edits.recipe()?;
        let options = CustomizeOptions {
            command: record::without_secrets(command_line(), &recipe),
            target: None,
            name: arguments.new.clone(),
            recipe,
            variables: variables(&arguments.set)?,
            instances: arguments.csv.as_deref().map(mif::read_instances).transpose()?,
            time: arguments.time,
            reshape: reshape_options(&arguments.reshape)?,
            dry_run: arguments.dry_run,
        };
        let filter = arguments.filter.unless(arguments.image.is_some())?;
        let Some(image) = arguments.image else { return self.customize_all(&filter, &options) };
        let name: ImageName = image.parse()?;
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let mut options = options;
        options.variables.entry("image".into()).or_insert_with(|| name.name.clone());
        let report = self.customize_one(&store, &name, &options)?;
        self.report(&report, text::customize)?;
        self.warn_of(&report);
        Ok(true)
    }

    /// Makes a new image from each image that a filter chooses. All edits are checked on all images before the first
    /// image is made.
    fn customize_all(&self, filter: &ImageFilter, options: &CustomizeOptions) -> Answer {
        if filter.is_empty() {
            return Err(Error::usage("no image to start from")
                .advise("Name one, or choose several with a filter such as --only 'web-*'"));
        }
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let chosen = filter.choose_some(&store, Versions::Newest, &self.bar("images"))?;
        let each = |image: &ImageName, dry_run: bool| {
            let mut options = CustomizeOptions { dry_run, ..options.clone() };
            options.variables.entry("image".into()).or_insert_with(|| image.name.clone());
            self.customize_one(&store, image, &options).map_err(|e| e.named(&image.to_string()))
        };
        let names = chosen.names();
        if names.len() > 1 && !options.name.replace(' ', "").contains("{{image}}") {
            return Err(Error::usage(format!("{} images would be named {}", names.len(), options.name))
                .advise("Name each after the image that it is made from, such as --as '{{image}}-new'"));
        }
        if options.recipe.reads_standard_input() {
            return Err(Error::usage("several images cannot be made with an edit that reads standard input")
                .advise("Write it to a file first"));
        }
        if !options.dry_run {
            names.iter().try_for_each(|image| each(image, true).map(|_| ()))?;
        }
        let reports = names.iter().map(|image| each(image, options.dry_run)).collect::<Result<Vec<_>>>()?;
        self.report(&reports, |reports| reports.iter().map(text::customize).collect())?;
        reports.iter().for_each(|report| self.warn_of(report));
        Ok(self.none_damaged(&chosen.damaged))
    }

    fn customize_one(
        &self,
        store: &Store,
        image: &ImageName,
        options: &CustomizeOptions,
    ) -> Result<CustomizeReport> {
        let parent = store.image(image)?;
        mif::customize(store, &parent, options, &self.image_bar(&parent.image.id()))
    }

    fn warn_of(&self, report: &CustomizeReport) {
        report.images.iter().for_each(|image| self.warn(&image.notes));
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
