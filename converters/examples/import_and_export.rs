//! Takes a disk image into a store, and writes the same disk in another format:
//! `cargo run --example import_and_export -- store disk.raw disk.qcow2`

use std::path::Path;

use mif::store::Store;
use mif::{Code, ExportOptions, ImportOptions, OpenImage, Silent, export, import};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, disk, output] = &arguments[..] else { return Err("usage: STORE DISK OUTPUT".into()) };
    let store = Store::open_or_create(Path::new(store), &Silent)?;
    let report = import(&store, Path::new(disk), &ImportOptions::default(), &Silent)?;
    println!(
        "{}: {} files, {} bytes new to the store",
        report.image, report.counts.files, report.added.bytes
    );
    let image = OpenImage::stored(&store, &report.image.parse()?)?;
    match export(&image, Path::new(output), &ExportOptions::default(), &Silent) {
        Ok(report) => println!("{}: {}, {} bytes", report.output, report.format, report.allocated),
        Err(error) if error.code() == Code::Unsupported => println!("not this format: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
