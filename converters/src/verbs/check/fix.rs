//! `check --fix`: makes an image with what edits can mend, and checks that.

use serde::Serialize;

use super::{CheckOptions, CheckReport, Verdict, check};
use crate::boot::Finding;
use crate::edit::{CustomizeOptions, CustomizeReport, Recipe, customize};
use crate::error::{Error, Result};
use crate::image::OpenImage;
use crate::store::{ImageName, Store};
use crate::task::progress::Progress;

/// Options of `check --fix`.
#[derive(Debug, Clone, Default)]
pub struct FixOptions {
    /// The name of the new image.
    pub name: String,
    /// The time of the edits, in seconds since 1970. `None` for now.
    pub time: Option<i64>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// The report of `check --fix`.
#[derive(Debug, Clone, Serialize)]
pub struct FixReport {
    /// The check of the image.
    pub before: CheckReport,
    /// The new image; `None` if edits mend nothing.
    pub made: Option<CustomizeReport>,
    /// The check of the new image.
    pub after: Option<CheckReport>,
}

impl FixReport {
    /// Returns whether the image boots now: the new one, or else the old one.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.after.as_ref().unwrap_or(&self.before).verdict
    }
}

/// Checks a stored image. If edits can mend something, makes an image with them, and checks that too.
pub fn check_and_fix(
    store: &Store,
    image: &ImageName,
    options: &CheckOptions,
    fix: &FixOptions,
    progress: &dyn Progress,
) -> Result<FixReport> {
    crate::store::check_name(&fix.name)?;
    let before = check(&OpenImage::stored(store, image)?, options, progress)?;
    let Some(recipe) = recipe(&before.findings) else {
        return Ok(FixReport { before, made: None, after: None });
    };
    let customizing = CustomizeOptions {
        name: fix.name.clone(),
        recipe,
        time: fix.time,
        command: fix.command.clone(),
        target: Some(options.target.name.to_owned()),
        ..CustomizeOptions::default()
    };
    let made = customize(store, &store.image(image)?, &customizing, progress)?;
    let [new] = &made.images[..] else {
        return Err(Error::store("expected one image to be made"));
    };
    let after = check(&OpenImage::stored(store, &new.image.parse()?)?, options, progress)?;
    Ok(FixReport { before, made: Some(made), after: Some(after) })
}

/// Returns the edits that the findings ask for; `None` if there are none.
pub(super) fn recipe(findings: &[Finding]) -> Option<Recipe> {
    let mut recipe = Recipe::default();
    for finding in findings {
        for edit in &finding.remedy {
            recipe.add_table(&format!("the repair of the {}", finding.subject.name()), edit.clone());
        }
    }
    (!recipe.is_empty()).then_some(recipe)
}
