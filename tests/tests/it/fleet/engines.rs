//! The programs of docs/fleet.md, each run by its engine on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::bucket::Bucket;
use mif_tests::{WorkFolder, json, mif_path, repo, run, tool, work_folder};

/// Installs the engines, and returns their Python.
pub(super) fn python() -> PathBuf {
    let venv = run(&mut tool(repo().join("fixtures/fleet-venv")));
    repo().join(venv.trim()).join("bin/python")
}

/// Returns the block of a page in this language that contains a text.
pub(super) fn block(page: &str, language: &str, mark: &str) -> String {
    let page = fs::read_to_string(repo().join(page)).unwrap();
    let start = format!("```{language}\n");
    let blocks = page.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap());
    let found: Vec<&str> = blocks.filter(|block| block.contains(mark)).collect();
    let [only] = found[..] else { panic!("{} blocks with {mark}", found.len()) };
    only.to_owned()
}

/// A directory with a library of four disks of different formats, one of them twice.
fn library() -> WorkFolder {
    let work = work_folder();
    fs::create_dir_all(work.at("library/more")).unwrap();
    let demo = repo().join("fixtures/demo.qcow2");
    for to in ["library/a.qcow2", "library/b.vmdk", "library/more/c.raw", "library/more/d.vhdx"] {
        run(work.mif(&["convert"]).arg(&demo).arg(work.at(to)));
    }
    fs::write(work.at("library/notes.txt"), "no disk").unwrap();
    work
}

/// Returns a Python that finds the program and itself by their names, as on a machine where both are installed.
pub(super) fn installed(python: &Path, work: &WorkFolder) -> Command {
    let (path, program) = (std::env::var("PATH").unwrap(), mif_path());
    let directory = |file: &Path| file.parent().expect("it is in one").display().to_string();
    let mut command = Command::new(python);
    command.env("PATH", format!("{}:{}:{path}", directory(python), directory(&program)));
    command.current_dir(work.path());
    command
}

#[test]
#[ignore = "takes 1.2 GB of Python packages: make fleet"]
fn the_job_fits_the_schema_of_kubernetes_and_its_pods_import_the_whole_library_together() {
    let (python, work) = (python(), library());
    let job = block("docs/fleet.md", "yaml", "kind: Job");
    fs::write(work.at("job.yaml"), &job).unwrap();
    let validate = "import sys, yaml, kubernetes_validate\n\
         job = yaml.safe_load(open('job.yaml'))\n\
         kubernetes_validate.validate(job, '1.33', strict=True)\n\
         container = job['spec']['template']['spec']['containers'][0]\n\
         print(job['spec']['completions'], *container['command'])\n";
    let check = |text: &str| {
        fs::write(work.at("job.yaml"), text).unwrap();
        Command::new(&python).arg("-c").arg(validate).current_dir(work.path()).output().unwrap()
    };
    assert!(!check(&job.replace("completions: 8", "completions: many")).status.success());
    assert!(!check(&job.replace("completionMode", "completionsMode")).status.success());
    let output = check(&job);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [pods, "mif", arguments @ ..] = &words[..] else { panic!("{words:?}") };
    for pod in 0..pods.parse::<u32>().unwrap() {
        let library = work.at("library").display().to_string();
        let arguments = arguments.iter().map(|word| {
            word.replace("$(JOB_COMPLETION_INDEX)", &pod.to_string()).replace("/library", &library)
        });
        run(mif_tests::mif(&work.at("store")).args(arguments));
    }
    assert_eq!(json(&work.at("store"), &["images"]).as_array().unwrap().len(), 4);
}

/// Runs a program on a bucket, once on a library of good disks and once on one with a bad one.
fn runs(mark: &str) {
    let Some(bucket) = Bucket::new() else { panic!("the tests of a fleet need a bucket") };
    let (python, work) = (python(), library());
    fs::write(work.at("program.py"), block("docs/fleet.md", "python", mark)).unwrap();
    let program = || {
        let mut command = installed(&python, &work);
        bucket.set(&mut command);
        command.env("MIF_STORE", bucket.url("fleet")).arg("program.py").output().unwrap()
    };
    let output = program();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("4 imported, 0 failed"), "{said}");
    let images: serde_json::Value =
        serde_json::from_str(&run(bucket.mif("fleet").args(["--json", "images"]))).unwrap();
    let names: Vec<&str> =
        images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    run(bucket.mif("fleet").args(["verify", "--all"]));
    run(bucket.mif("fleet").args(["verify", "a", work.at("library/more/c.raw").to_str().unwrap()]));
    fs::write(work.at("library/bad.qcow2"), b"QFI\xfb and nothing more").unwrap();
    let output = program();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("4 imported, 1 failed") && said.contains("bad.qcow2"), "{said}");
}

#[test]
#[ignore = "takes 1.2 GB of Python packages: make fleet"]
fn ray_imports_a_library_into_a_bucket() {
    runs("import ray");
}

#[test]
#[ignore = "takes 1.2 GB of Python packages: make fleet"]
fn spark_imports_a_library_into_a_bucket() {
    runs("pyspark");
}
