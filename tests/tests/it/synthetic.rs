//! A filesystem that the program does not know works everywhere: a new one only needs a driver.

use std::fs;
use std::path::Path;

use mif::store::{ImageName, Store};
use mif::{
    Code, CustomizeOptions, DiffOptions, ExportOptions, FsckOptions, GcOptions, ImportOptions, LsOptions,
    OpenImage, Recipe, Silent, Target, VolumePath, cat, customize, diff, export, extract, fsck, gc, import,
    ls, rm, verify,
};
use mif_tests::{have, run, synthetic, tool, work_folder};

fn stored(store: &Store, name: &str) -> OpenImage {
    OpenImage::stored(store, &name.parse().unwrap()).unwrap()
}

fn read(image: &OpenImage, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    cat(image, &[VolumePath::parse(path.as_bytes())], &mut out).unwrap();
    out
}

fn is_clean(folder: &Path) -> bool {
    let store = Store::open(folder, &Silent).unwrap();
    fsck(&store, &FsckOptions::default(), &Silent).unwrap().clean
}

#[test]
fn a_filesystem_from_outside_goes_through_every_verb() {
    if !have(&["cmp", "sha1sum"]) {
        return;
    }
    synthetic::register();
    let work = work_folder();
    let (folder, a, b) = (work.at("store"), work.at("a.raw"), work.at("b.raw"));
    fs::write(&a, synthetic::volume(1)).unwrap();
    fs::write(&b, synthetic::volume(2)).unwrap();
    let store = Store::open_or_create(&folder, &Silent).unwrap();
    let options = ImportOptions { verify: true, strict: true, ..ImportOptions::default() };
    for disk in [&a, &b] {
        let report = import(&store, disk, &options, &Silent).unwrap();
        assert_eq!((report.result, report.counts.files, report.counts.paths), ("imported", 5, 8));
    }
    // Inode 257 exists in two subvolumes: two files. Two paths of one file are one file.
    let image = stored(&store, "a@1");
    let tree = image.tree().unwrap();
    let file = |path: &str| tree.rows()[tree.get("p0", path.as_bytes()).unwrap()].clone();
    assert_eq!(file("/data").file, file("/link").file);
    assert_eq!(file("/data").node.inode, file("/snap/data").node.inode);
    assert_ne!(file("/data").file, file("/snap/data").file);
    assert_eq!((file("/data").node.subvolume, file("/snap/data").node.subvolume), (Some(5), Some(256)));
    let disk = synthetic::volume(1);
    assert!(read(&image, "p0:/data") == disk[1 << 20..][..300_000]);
    assert!(read(&image, "p0:/again") == disk[2 << 20..][..100_000]);
    assert!(read(&image, "p0:/snap/data") == disk[(1 << 20) + 4096..][..8192]);
    let listed = ls(&image, &LsOptions { recursive: true, ..LsOptions::default() }, &Silent).unwrap();
    assert_eq!(listed.entries().count(), 8);
    // Without a store, the image file reads the same.
    let plain = OpenImage::open(a.to_str().unwrap(), &folder, &Default::default(), &Silent).unwrap();
    assert!(verify(&image, &plain, &Silent).unwrap().same_bits);
    assert!(diff(&image, &plain, &DiffOptions::default(), &Silent).unwrap().same);
    let between = diff(&image, &stored(&store, "b@1"), &DiffOptions::default(), &Silent).unwrap();
    assert_eq!((between.counts.changed, between.counts.added, between.counts.removed), (3, 0, 0));
    // Extracted, links are links, and the digests agree with an outside tool.
    let out = work.at("out");
    let target = Target::Folder { path: &out, privileged: false };
    extract(&image, None, target, &Silent).unwrap();
    for path in ["data", "shared", "again", "empty", "snap/data"] {
        let sum = run(tool("sha1sum").arg(out.join(path)));
        let known = file(&format!("/{path}")).sha1().unwrap();
        assert_eq!(sum.split(' ').next().unwrap(), mif_formats::text::hex(&known), "{path}");
    }
    // Exported again, bit for bit.
    for name in ["a", "b"] {
        let back = work.at(&format!("{name}.back"));
        let options = ExportOptions { format: Some("raw".into()), ..ExportOptions::default() };
        export(&stored(&store, name), &back, &options, &Silent).unwrap();
        run(tool("cmp").arg(work.at(&format!("{name}.raw"))).arg(&back));
    }
    // It cannot be planned, so an edit is refused, and the error names the filesystem.
    fs::write(work.at("recipe.toml"), "[[edit]]\ndo = \"write\"\npath = \"p0:/new\"\ncontent = \"new\"\n")
        .unwrap();
    let mut recipe = Recipe::default();
    recipe.add_file(&work.at("recipe.toml")).unwrap();
    let options = CustomizeOptions { name: "c".into(), recipe, ..CustomizeOptions::default() };
    let parent = store.image(&"a".parse::<ImageName>().unwrap()).unwrap();
    let error = customize(&store, &parent, &options, &Silent).map(|_| ()).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("synthetic")), (Code::Unsupported, true), "{error}");
    drop((tree, image, parent, store));
    assert!(is_clean(&folder));
    {
        let store = Store::open_to_remove(&folder, &Silent).unwrap();
        rm(&store, &["b".parse().unwrap()], mif::RmOptions::default()).unwrap();
        gc(&store, &GcOptions::default(), &Silent).unwrap();
    }
    assert!(is_clean(&folder));
    let store = Store::open(&folder, &Silent).unwrap();
    assert!(read(&stored(&store, "a"), "p0:/link") == disk[1 << 20..][..300_000]);
}
