//! Lists the files of a disk image with their digests, without a store:
//! `cargo run --example list_image -- ./disk.vmdk`

use std::path::Path;

use mif::{LsOptions, OpenImage, Silent, ls};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = std::env::args().nth(1).ok_or("usage: list_image ./IMAGE")?;
    let image = OpenImage::open(&image, Path::new("mif-store"), &Default::default(), &Silent)?;
    let options = LsOptions { recursive: true, hashed: true, ..LsOptions::default() };
    for entry in ls(&image, &options, &Silent)?.entries() {
        let digest = entry.sha1.as_deref().unwrap_or("-");
        println!("{digest:40}  {}:{}", entry.volume, entry.path);
    }
    Ok(())
}
