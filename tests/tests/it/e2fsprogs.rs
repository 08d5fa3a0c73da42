//! The broken and exotic volumes of e2fsprogs' own tests, imported and exported with the real program: in little time
//! and memory, and bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mif_tests::{cache, have_at, mif_path, tool, work_folder};
use serde_json::Value;

/// The time limit for importing or exporting one volume.
const SECONDS_MAX: f64 = 10.0;
/// The memory limit in KiB, as counted by `ulimit -v`: everything mapped, used or not.
const MEMORY_MAX: u64 = 512 << 10;

/// Returns the volumes that `fixtures/e2fsprogs-images.sh` fetches, or none.
fn volumes() -> Vec<PathBuf> {
    let folder = cache().join("e2fsprogs");
    if !have_at(&folder) {
        return Vec::new();
    }
    let mut volumes: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "img"))
        .collect();
    volumes.sort();
    assert!(volumes.len() > 200, "only {} volumes in {}", volumes.len(), folder.display());
    volumes
}

/// Runs the program on a store within [`MEMORY_MAX`]; returns its standard output, and its duration in seconds.
fn mif_in_little_memory(store: &Path, arguments: &[&std::ffi::OsStr]) -> Result<(String, f64), String> {
    let start = Instant::now();
    let output = tool("sh")
        .arg("-c")
        .arg(format!("ulimit -v {MEMORY_MAX}; exec timeout -k 1 60 \"$0\" \"$@\""))
        .arg(mif_path())
        .args(arguments)
        .env("MIF_STORE", store)
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok((text, start.elapsed().as_secs_f64()))
    } else {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{}: {error}", output.status))
    }
}

#[test]
fn every_volume_goes_in_and_comes_out_bit_for_bit() {
    let folder = work_folder();
    let (store, out) = (folder.path().join("store"), folder.path().join("out.raw"));
    let mut wrong = Vec::new();
    let mut warned = 0;
    for volume in volumes() {
        let name = volume.file_stem().unwrap().to_string_lossy().into_owned();
        // Their suffix means nothing; they are raw, whatever a guest may have written at their start.
        let import = ["import", "--json", "--threads", "2", "-f", "raw"].map(std::ffi::OsStr::new);
        let report = match mif_in_little_memory(&store, &[&import[..], &[volume.as_os_str()]].concat()) {
            Ok((_, seconds)) if seconds > SECONDS_MAX => {
                wrong.push(format!("{name}: imported in {seconds:.1} s"));
                continue;
            }
            Ok((report, _)) => serde_json::from_str::<Value>(&report).expect("a report"),
            Err(error) => {
                wrong.push(format!("{name}: import: {error}"));
                continue;
            }
        };
        warned += u32::from(!report["warnings"].as_array().expect("warnings").is_empty());
        let image = report["image"].as_str().expect("a name").to_owned();
        let export = ["export".as_ref(), "--force".as_ref(), image.as_ref(), out.as_os_str()];
        match mif_in_little_memory(&store, &export) {
            Ok((_, seconds)) if seconds > SECONDS_MAX => {
                wrong.push(format!("{name}: exported in {seconds:.1} s"))
            }
            Ok(_) if fs::read(&out).unwrap() == fs::read(&volume).unwrap() => {}
            Ok(_) => wrong.push(format!("{name}: comes out differently")),
            Err(error) => wrong.push(format!("{name}: export: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} volumes:\n{}", wrong.len(), wrong.join("\n"));
    println!("{warned} volumes with warnings");
}
