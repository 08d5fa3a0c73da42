//! A volume that was planned, read and planned again has the same metadata, byte for byte.

use std::sync::Arc;

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::fat::Fat;
use mif_formats::fs::plan::{Placed, Planned, Tree};
use mif_formats::fs::walk::walk;
use mif_formats::fs::{Filesystem, Piece, ext4, fat};

use super::ext::params;
use super::trees::{Can, Random, everything, random};
use super::volume::{Image, write};
use crate::tools::scratch;

/// Returns all metadata that a plan emits, by its location.
fn metadata(plan: &dyn Planned) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    plan.emit(&mut |offset, placed| {
        if let Placed::Bytes(bytes) = placed {
            all.push((offset, bytes.to_vec()));
        }
        Ok(())
    })
    .unwrap();
    all
}

/// Returns the tree on a volume.
fn tree_of(fs: &dyn Filesystem) -> Tree {
    let listing = walk(fs).unwrap();
    assert!(listing.complaints.is_empty());
    Tree::of_listing(&listing, |id, _| {
        let (mut at, mut data) = (0, Vec::new());
        for piece in fs.content(id)?.pieces {
            if matches!(piece, Piece::Volume { .. }) {
                data.push(at..at + piece.len());
            }
            at += piece.len();
        }
        // Pieces that are separate on the volume may be adjacent in the file.
        data.dedup_by(|next, last: &mut std::ops::Range<u64>| {
            let touches = last.end == next.start;
            last.end = if touches { next.end } else { last.end };
            touches
        });
        Ok((id, data))
    })
    .unwrap()
}

fn assert_same(what: &str, first: &dyn Planned, second: &dyn Planned) {
    assert_eq!(second.notes(), Vec::<String>::new(), "{what}");
    let (a, b) = (metadata(first), metadata(second));
    assert_eq!(a.len(), b.len(), "{what}");
    for ((place, a), (other, b)) in a.iter().zip(&b) {
        let byte = a.iter().zip(b).position(|(a, b)| a != b);
        assert!(place == other && byte.is_none(), "{what}: at {place} and {other}, byte {byte:?}");
    }
}

#[test]
fn an_ext_volume_planned_again_is_the_same() {
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (seed, (kind, block, features)) in [
        ("ext4", 4096, ""),
        ("ext4", 1024, "^metadata_csum,^metadata_csum_seed,uninit_bg"),
        ("ext4", 2048, "meta_bg,^resize_inode,large_dir"),
        ("ext3", 1024, ""),
        ("ext2", 4096, "^filetype,^dir_index"),
    ]
    .into_iter()
    .enumerate()
    {
        let trees = [
            everything(Can { block: block.into(), large_inodes: true }),
            random(&mut Random(seed as u64), 2000, block.into(), true),
        ];
        for (number, tree) in trees.iter().enumerate() {
            let mut params = params(kind, 400 << 20, block, features);
            // Sets the features that the tree needs, so that the second plan has none to add.
            params.change_features("ext_attr,large_file").unwrap();
            let first = ext4::plan::Plan::new(tree, params).unwrap();
            write(&first, &image);
            let source = Arc::new(Image::open(&image));
            let again = tree_of(&Ext4::open(source.clone()).unwrap());
            let params = ext4::plan::Params::from_volume(&*source).unwrap();
            let second = ext4::plan::Plan::new(&again, params).unwrap();
            assert_same(&format!("{kind} {block} {features}, tree {number}"), &first, &second);
        }
    }
}

#[test]
fn a_fat_volume_planned_again_is_the_same() {
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = super::fat::everything();
    for (kind, size) in [("fat12", 8 << 20), ("fat16", 100 << 20), ("fat32", 300 << 20)] {
        let first = fat::plan::Plan::new(&tree, super::fat::params(kind, size)).unwrap();
        write(&first, &image);
        let source = Arc::new(Image::open(&image));
        let again = tree_of(&Fat::open(source.clone()).unwrap());
        let params = fat::plan::Params::from_volume(source).unwrap();
        let second = fat::plan::Plan::new(&again, params).unwrap();
        assert_same(kind, &first, &second);
    }
}
