//! Makes a new image by editing rows of a manifest: all files of root become readable by their owner alone.
//! `cargo run --example edit_rows -- store web private-web`

use std::path::Path;

use mif::store::{ImageName, Store};
use mif::{RebuildOptions, Silent, rebuild};
use mif_formats::fs::FileType;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, parent, name] = &arguments[..] else { return Err("usage: STORE IMAGE NEW-NAME".into()) };
    let store = Store::open(Path::new(store), &Silent)?;
    let parent = store.image(&parent.parse::<ImageName>()?)?;
    let mut rows = parent.manifest()?;
    for row in rows.iter_mut().filter(|row| row.node.file_type == FileType::File && row.node.uid == Some(0)) {
        row.node.mode = row.node.mode.map(|mode| mode & 0o7700);
    }
    let options = RebuildOptions { name: name.clone(), ..RebuildOptions::default() };
    let report = rebuild(&store, &parent, &rows, &options, &Silent)?;
    println!("{}: planned {}", report.image, report.planned.join(", "));
    Ok(())
}
