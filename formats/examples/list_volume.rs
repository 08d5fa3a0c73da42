//! Lists every file of a disk image: `cargo run --example list_volume -- disk.qcow2`

use std::path::PathBuf;
use std::sync::Arc;

use mif_formats::container::{self, OpenOptions};
use mif_formats::fs::walk::walk;
use mif_formats::fs::{self, Recognized};
use mif_formats::{Slice, partition};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: list_volume IMAGE")?;
    let disk = container::open(&path, &OpenOptions::default())?;
    let table = partition::read(&*disk.source)?;
    for partition in &table.partitions {
        let volume = Slice::new(disk.source.clone(), partition.start..partition.start + partition.len)?;
        match fs::open(Arc::new(volume))? {
            Recognized::Known(filesystem) => {
                println!("p{}: {}", partition.slot, filesystem.info().kind);
                let listing = walk(&*filesystem)?;
                for entry in &listing.entries {
                    let node = &listing.nodes[entry.file];
                    println!("{:>12}  {}", node.size, String::from_utf8_lossy(&entry.path));
                }
            }
            Recognized::Other { name, .. } => {
                println!("p{}: {}", partition.slot, name.as_deref().unwrap_or("nothing that is known"));
            }
        }
    }
    Ok(())
}
