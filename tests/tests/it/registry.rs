//! Images in an OCI registry: the reference implementation of the distribution specification, skopeo, a network that
//! fails, and a registry that is hostile.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::proxy::Answer;
use mif_tests::registry::Registry;
use mif_tests::{WorkFolder, have, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// The tools without which nothing here is tested.
const TOOLS: &[&str] = &["docker-registry", "skopeo", "python3", "qemu-img", "tar", "gzip"];

/// A password that must not appear anywhere.
const SECRET: &str = "correct-horse-battery";

/// The user with this password, as `htpasswd -B` writes it.
const USER: &str = "anna:$2b$04$6f0uO4yJKYglcklXWnKFQuBMCB00fJhkOAaNH1vZDvzPYjWxmc17K";

struct Lab {
    registry: Registry,
    work: WorkFolder,
}

impl Lab {
    /// Starts a registry, and imports the demo disk into the store `one` as `demo`, and an edited version of it.
    fn new(user: Option<&str>) -> Option<Self> {
        if !have(TOOLS) {
            return None;
        }
        let lab = Lab { registry: Registry::new(user), work: work_folder() };
        lab.run("one", &["import", repo().join("fixtures/demo.qcow2").to_str().unwrap()]);
        lab.run("one", &["customize", "demo", "--hostname", "second", "--as", "demo"]);
        Some(lab)
    }

    fn mif(&self, store: &str, words: &[&str]) -> Command {
        let mut command = self.registry.mif(&self.work.at(store));
        command.current_dir(self.work.path()).args(words);
        command
    }

    fn run(&self, store: &str, words: &[&str]) -> String {
        run(&mut self.mif(store, words))
    }

    /// Imports a disk of noise into the store `one` as `noise`.
    fn import_noise(&self, len: usize) {
        fs::write(self.work.at("noise.raw"), mif_tests::disk::noise(3, len)).unwrap();
        self.run("one", &["import", "noise.raw"]);
    }

    fn json(&self, store: &str, words: &[&str]) -> Value {
        serde_json::from_str(&run(self.mif(store, words).arg("--json"))).unwrap()
    }

    fn fails(&self, store: &str, words: &[&str], code: i32) -> String {
        run_failing(&mut self.mif(store, words), code)
    }

    /// Fails unless an image of a store has the bits of an image of the store `one`.
    fn same(&self, store: &str, image: &str, of_one: &str) {
        let (ours, theirs) = (format!("{store}-{image}.raw"), format!("one-{of_one}.raw"));
        self.run(store, &["export", image, &ours, "--force"]);
        self.run("one", &["export", of_one, &theirs, "--force"]);
        run(tool("cmp").current_dir(self.work.path()).args([ours, theirs]));
    }

    /// Copies what the registry has under a name into a directory with skopeo, which checks all digests. Returns its
    /// manifest.
    fn fetch(&self, image: &str, folder: &str) -> Value {
        let from = format!("docker://{}/{image}", self.registry.host());
        let to = format!("dir:{}", self.work.at(folder).display());
        run(self.registry.skopeo("copy").args([from, to]));
        serde_json::from_str(&fs::read_to_string(self.work.at(folder).join("manifest.json")).unwrap())
            .unwrap()
    }

    /// Puts a directory with an image, as skopeo has it, into the registry.
    fn put(&self, folder: &Path, image: &str) {
        let from = format!("dir:{}", folder.display());
        run(self.registry.skopeo("copy").args([from, format!("docker://{}/{image}", self.registry.host())]));
    }
}

fn blob(folder: &Path, layer: &Value) -> PathBuf {
    folder.join(layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap())
}

#[test]
fn an_image_goes_into_a_registry_and_comes_back_and_a_second_version_sends_what_is_new() {
    let Some(lab) = Lab::new(None) else { return };
    let url = lab.registry.url("me/images");
    let first = lab.json("one", &["push", "demo@1", &url]);
    assert_eq!((first["images"][0]["result"].as_str(), &first["bytes_saved"]), (Some("copied"), &0.into()));
    let second = lab.json("one", &["push", "demo", "--to", &url]);
    let result = |i: usize| second["images"][i]["result"].as_str().unwrap();
    assert_eq!([result(0), result(1)], ["unchanged", "copied"], "{second:#}");
    let (sent, all) = (second["bytes_sent"].as_u64().unwrap(), first["bytes_sent"].as_u64().unwrap());
    assert!(sent * 4 < all, "{sent} bytes for a second version, {all} for the first");

    // Back, into another store and through skopeo's hands.
    lab.run("two", &["pull", "--all", "--from", &url]);
    for image in ["demo@1", "demo@2"] {
        lab.same("two", image, image);
    }
    let fsck = lab.json("two", &["fsck"]);
    assert_eq!(fsck["verdict"], "whole", "{fsck:#}");
    assert_eq!(lab.json("two", &["log", "demo"]), lab.json("one", &["log", "demo"]));

    // Under a tag of one's own, and nothing else is sent.
    let tagged = lab.registry.url("me/images:golden");
    let again = lab.json("one", &["push", "demo", &tagged]);
    assert_eq!((&again["objects"], again["images"][0]["image"].as_str()), (&0.into(), Some("demo@2")));
    lab.run("three", &["pull", &tagged]);
    lab.same("three", "demo", "demo@2");
    assert_eq!(lab.json("three", &["images"]).as_array().unwrap().len(), 1);

    // A tag is moved to another image, and the old one stays under its own.
    lab.run("one", &["push", "demo@1", &tagged]);
    lab.run("four", &["pull", &tagged]);
    lab.same("four", "demo", "demo@1");
    lab.run("four", &["pull", &lab.registry.url("me/images:demo-2")]);
    lab.same("four", "demo@2", "demo@2");

    // By digest, which skopeo knows.
    let shown = format!("docker://{}/me/images:demo-2", lab.registry.host());
    fs::write(lab.work.at("raw"), run(lab.registry.skopeo("inspect").args(["--raw", &shown]))).unwrap();
    let digest = run(tool("sha256sum").arg(lab.work.at("raw")));
    lab.run("five", &["pull", &lab.registry.url(&format!("me/images@sha256:{}", &digest[..64]))]);
    lab.same("five", "demo@2", "demo@2");
}

#[test]
fn the_files_of_an_artifact_under_their_titles_are_a_store() {
    let Some(lab) = Lab::new(None) else { return };
    lab.run("one", &["push", "demo", &lab.registry.url("images:both"), "--json"]);
    let manifest = lab.fetch("images:both", "copy");
    assert_eq!(manifest["artifactType"], "application/vnd.mif.store.v2");
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["org.opencontainers.image.title"], "demo");
    assert_eq!(annotations["org.opencontainers.image.version"], "2");
    assert!(annotations["org.opencontainers.image.created"].as_str().unwrap().ends_with('Z'));
    for layer in manifest["layers"].as_array().unwrap() {
        let title = layer["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
        let path = lab.work.at("plain").join(title);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(blob(&lab.work.at("copy"), layer), path).unwrap();
    }
    lab.same("plain", "demo", "demo@2");
    lab.run("plain", &["verify", "--all"]);
    // A copy of the registry's image in another registry is the same image.
    lab.put(&lab.work.at("copy"), "mirror/images:v2");
    lab.run("two", &["pull", &lab.registry.url("mirror/images:v2")]);
    lab.same("two", "demo", "demo@2");
}

#[test]
fn verbs_read_images_in_a_registry_and_what_would_change_them_is_refused_in_words() {
    let Some(lab) = Lab::new(None) else { return };
    let url = lab.registry.url("images");
    lab.run("one", &["push", "demo", &url]);
    let both = |words: &[&str]| {
        let remote = run(lab.registry.mif(Path::new(&url)).current_dir(lab.work.path()).args(words));
        assert_eq!(remote, lab.run("one", words), "{words:?}");
    };
    both(&["ls", "-R", "demo@1", "/"]);
    both(&["cat", "demo", "/etc/hostname"]);
    both(&["search", "os-release"]);
    both(&["images"]);
    both(&["diff", "demo@2", "demo@2"]);
    run(lab.registry.mif(Path::new(&url)).args(["verify", "--all"]));
    run(lab.registry.mif(Path::new(&url)).args([
        "export",
        "demo@1",
        lab.work.at("r.qcow2").to_str().unwrap(),
    ]));
    lab.run("one", &["verify", "demo@1", "r.qcow2"]);
    for words in [
        &["import", "r.qcow2"][..],
        &["rm", "demo@1"],
        &["gc"],
        &["tag", "demo@1", "x"],
        &["customize", "demo", "--hostname", "x", "--as", "y"],
    ] {
        let mut command = lab.registry.mif(Path::new(&url));
        let output = command.current_dir(lab.work.path()).args(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}");
        assert!(error.contains("registry") && error.contains(&url), "{words:?}: {error}");
    }
    // What is not there, and what is meant wrongly.
    let missing = lab.registry.url("none:here");
    assert!(lab.fails("two", &["pull", &missing], 3).contains("no such image"));
    assert!(lab.fails("two", &["pull", "demo", "--from", &lab.registry.url("none")], 3).contains("no store"));
    lab.fails("one", &["push", "demo@1", "demo@2", &lab.registry.url("images:one")], 2);
    lab.fails("one", &["push", "demo", &lab.registry.url(&format!("images@sha256:{}", "0".repeat(64)))], 2);
    lab.fails("one", &["push", "demo"], 2);
    lab.fails("one", &["push", "demo", &url, "--to", "two"], 2);
    // Another image under a name and version that the repository has.
    let noise = lab.work.at("demo.raw");
    fs::write(&noise, mif_tests::disk::noise(1, 1 << 20)).unwrap();
    lab.run("other", &["import", "demo.raw"]);
    let error = lab.fails("other", &["push", "demo@1", &url], 1);
    assert!(error.contains("another image has this name and version"), "{error}");
}

#[test]
fn what_fails_on_the_way_to_a_registry_is_tried_again_or_said_and_never_half_there() {
    let Some(lab) = Lab::new(None) else { return };
    lab.import_noise(3 << 20);
    for (number, answer) in
        [Answer::Status(503), Answer::Status(429), Answer::CutBody, Answer::LoseReply].into_iter().enumerate()
    {
        let url = lab.registry.url(&format!("faults/f{number}"));
        let each = answer.clone();
        lab.registry.rule(move |request| if request.number % 4 == 2 { each.clone() } else { Answer::Pass });
        lab.run("one", &["push", "noise", "demo", &url]);
        let store = format!("back{number}");
        lab.run(&store, &["pull", "--all", "--from", &url]);
        lab.registry.rule(|_| Answer::Pass);
        lab.same(&store, "noise", "noise");
        lab.same(&store, "demo", "demo");
        let _requests = lab.registry.take_log();
    }
    // A registry that sends whole blobs, whatever was asked for, and one that sends other parts of them.
    let url = lab.registry.url("faults/f0");
    lab.registry.rule(|_| Answer::OtherRange(None));
    let pull = |store: &str| {
        let mut pull = lab.mif(store, &["pull", "--all", "--from", &url]);
        pull.env("MIF_CACHE_SIZE", "0");
        pull
    };
    run(&mut pull("whole"));
    lab.registry.rule(|_| Answer::OtherRange(Some(1)));
    let error = run_failing(&mut pull("other"), 1);
    assert!(error.contains("another part than was asked for"), "{error}");
    lab.registry.rule(|_| Answer::Pass);
    lab.same("whole", "noise", "noise");
    // All requests that write fail from some point on: no tag appears, and the next attempt sends the rest.
    let url = lab.registry.url("halfway");
    lab.registry.rule(|request| match request.path.contains("/manifests/") && request.method == "PUT" {
        true => Answer::Status(500),
        false => Answer::Pass,
    });
    let error = lab.fails("one", &["push", "noise", &url], 1);
    assert!(error.contains("500"), "{error}");
    lab.registry.rule(|_| Answer::Pass);
    assert!(lab.fails("two", &["pull", "--all", "--from", &url], 3).contains("no store"));
    let _requests = lab.registry.take_log();
    lab.run("one", &["push", "noise", &url]);
    let sent = lab
        .registry
        .take_log()
        .iter()
        .filter(|it| it.method == "PUT" && it.path.contains("/uploads/"))
        .count();
    assert_eq!(sent, 0, "blobs that the registry had were sent again");
    lab.run("two", &["pull", &lab.registry.url("halfway:noise-1")]);
    lab.same("two", "noise", "noise");
}

#[test]
fn credentials_are_those_of_docker_and_podman_and_appear_nowhere() {
    if !have(TOOLS) {
        return;
    }
    let Some(lab) = Lab::new(Some(USER)) else { return };
    let url = lab.registry.url("private/images");
    let push = |set: &dyn Fn(&mut Command)| {
        let mut command = lab.mif("one", &["push", "demo", &url]);
        set(&mut command);
        let output = command.output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(SECRET) && !text.contains("wrong-password"), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = push(&|_| {});
    assert!(code == Some(3) || code == Some(5), "{code:?}: {text}");
    assert!(text.contains("docker login") && text.contains("401"), "{text}");
    let file = |name: &str, password: &str| {
        let encode = format!("import base64; print(base64.b64encode(b'anna:{password}').decode())");
        let auth = run(tool("python3").args(["-c", &encode]));
        let json = serde_json::json!({"auths": {lab.registry.host(): {"auth": auth.trim()}}});
        let path = lab.work.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, json.to_string()).unwrap();
        path
    };
    let wrong = file("wrong.json", "wrong-password");
    let (code, text) = push(&|command| {
        command.env("REGISTRY_AUTH_FILE", &wrong);
    });
    assert!(code != Some(0) && text.contains("401"), "{text}");
    let right = file("auth.json", SECRET);
    let (code, text) = push(&|command| {
        command.env("REGISTRY_AUTH_FILE", &right);
    });
    assert_eq!(code, Some(0), "{text}");
    file("docker/config.json", SECRET);
    let folder = lab.work.at("docker");
    let mut pull = lab.mif("two", &["pull", "--all", "--from", &url]);
    run(pull.env("DOCKER_CONFIG", &folder));
    lab.same("two", "demo", "demo");
    // A helper, which docker runs by its name.
    let helper = lab.work.at("docker-credential-test");
    let script =
        format!("#!/bin/sh\ncat >/dev/null\necho '{{\"Username\":\"anna\",\"Secret\":\"{SECRET}\"}}'\n");
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("config.json"), r#"{"credsStore": "test"}"#).unwrap();
    let path = format!("{}:{}", lab.work.path().display(), std::env::var("PATH").unwrap());
    let helped = |store: &str| {
        let mut pull = lab.mif(store, &["pull", "--all", "--from", &url]);
        pull.env("DOCKER_CONFIG", &folder).env("PATH", &path).output().unwrap()
    };
    assert!(helped("three").status.success());
    fs::write(&helper, format!("#!/bin/sh\necho {SECRET} >&2\nexit 1\n")).unwrap();
    let output = helped("four");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("helper") && !error.contains(SECRET), "{error}");
    for file in mif_tests::files(&lab.work.at("two"), "json") {
        assert!(!fs::read_to_string(&file).unwrap().contains(SECRET), "{}", file.display());
    }
}

#[test]
fn kubevirt_gets_a_container_disk_and_what_others_push_is_pulled() {
    let Some(lab) = Lab::new(None) else { return };
    let url = lab.registry.url("kv/demo:latest");
    let report = lab.json("one", &["push", "demo@1", &url, "--as", "kubevirt"]);
    assert!(report["bytes_sent"].as_u64() > Some(0), "{report:#}");
    let manifest = lab.fetch("kv/demo:latest", "kv");
    let [layer] = &manifest["layers"].as_array().unwrap()[..] else { panic!("{manifest:#}") };
    let listed = run(tool("tar").args(["--numeric-owner", "-tvf"]).arg(blob(&lab.work.at("kv"), layer)));
    let disk = listed.lines().find(|line| line.ends_with("disk/disk.qcow2")).expect(&listed);
    assert!(disk.starts_with("-r--r--r-- 107/107"), "{listed}");
    run(tool("tar").arg("-C").arg(lab.work.path()).arg("-xf").arg(blob(&lab.work.at("kv"), layer)));
    let original = repo().join("fixtures/demo.qcow2");
    run(tool("qemu-img").arg("compare").arg(lab.work.at("disk/disk.qcow2")).arg(&original));
    let config: Value =
        serde_json::from_slice(&fs::read(blob(&lab.work.at("kv"), &manifest["config"])).unwrap()).unwrap();
    assert_eq!((&config["os"], &config["rootfs"]["diff_ids"][0]), (&"linux".into(), &layer["digest"]));
    // Pull it back. Pulling the same disk again makes no new version.
    lab.run("two", &["pull", &url, "--name", "pulled"]);
    lab.same("two", "pulled", "demo@1");
    let again = lab.json("two", &["pull", &url, "--name", "pulled"]);
    assert_eq!((again["result"].as_str(), again["source"].as_str()), (Some("unchanged"), Some(&*url)));

    // The same disk as an artifact, for KubeVirt's image volumes and for `oras pull`.
    let url = lab.registry.url("kv/artifact:1");
    lab.json("one", &["push", "demo@1", &url, "--as", "kubevirt-disk"]);
    let manifest = lab.fetch("kv/artifact:1", "kv-artifact");
    let media_type = "application/vnd.kubevirt.disk.qcow2";
    assert_eq!(
        (&manifest["artifactType"], &manifest["layers"][0]["mediaType"]),
        (&media_type.into(), &media_type.into())
    );
    assert_eq!(manifest["layers"][0]["annotations"]["org.opencontainers.image.title"], "disk.qcow2");
    run(tool("qemu-img")
        .arg("compare")
        .arg(blob(&lab.work.at("kv-artifact"), &manifest["layers"][0]))
        .arg(&original));
    lab.run("two", &["pull", &url]);
    lab.same("two", "artifact", "demo@1");
    lab.run("two", &["rm", "artifact"]);
    // A filter chooses among images of mif, and is not ignored for others.
    lab.fails("two", &["pull", &url, "--only", "x*"], 3);
    lab.fails("one", &["push", "demo@1", &url, "--as", "kubevirt-disk", "--only", "x*"], 2);
    lab.fails("one", &["push", "--all", &url, "--as", "kubevirt"], 2);

    // As others make them: a compressed layer over one with something else, and an artifact that is a disk.
    let script = r##"
import gzip, hashlib, io, json, os, subprocess, sys, tarfile
folder, disk = sys.argv[1:3]
def blob(data, folder):
    digest = hashlib.sha256(data).hexdigest()
    open(os.path.join(folder, digest), "wb").write(data)
    return digest, len(data)
def tar(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name); member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
def image(name, layers, config_type="application/vnd.oci.image.config.v1+json", config=None):
    path = os.path.join(folder, name); os.mkdir(path)
    described = []
    for kind, data, notes in layers:
        digest, size = blob(data, path)
        described.append({"mediaType": kind, "digest": "sha256:" + digest, "size": size, "annotations": notes})
    config = config or {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    digest, size = blob(json.dumps(config).encode(), path)
    json.dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
               "config": {"mediaType": config_type, "digest": "sha256:" + digest, "size": size}, "layers": described},
              open(os.path.join(path, "manifest.json"), "w"))
    open(os.path.join(path, "version"), "w").write("Directory Transport Version: 1.1\n")
data = open(disk, "rb").read()
gz = "application/vnd.oci.image.layer.v1.tar+gzip"
other = gzip.compress(tar("etc/motd", b"hello\n" * 200))
image("two-layers", [(gz, other, {}), (gz, gzip.compress(tar("disk/fedora.qcow2", data)), {})])
image("no-disk", [(gz, other, {})])
def packed(name, data):
    path = os.path.join(folder, name)
    open(path, "wb").write(data)
    return subprocess.run(["zstd", "-q", "-c", path], capture_output=True, check=True).stdout
# Compressed otherwise than the type says, and beside the files of a system.
image("mislabelled", [(gz, packed("layer", tar("disk.img", data)), {})])
raw = open(sys.argv[3], "rb").read()
image("raw-zstd", [("application/vnd.kubevirt.disk.raw+zstd", packed("raw", raw), {"io.kubevirt.disk.name": "root"})],
      "application/vnd.kubevirt.virtualmachine.config.v1+json", {})
image("artifact", [("application/vnd.kubevirt.disk.qcow2", data, {"org.opencontainers.image.title": "x.qcow2"})],
      "application/vnd.oci.empty.v1+json", {})
image("document", [("text/markdown", b"# Read me\n" * 100, {"org.opencontainers.image.title": "README.md"})],
      "application/vnd.oci.empty.v1+json", {})
"##;
    run(tool("python3")
        .args(["-c", script])
        .arg(lab.work.path())
        .arg(&original)
        .arg(lab.work.at("one-demo@1.raw")));
    for name in ["two-layers", "artifact", "mislabelled", "raw-zstd", "no-disk", "document"] {
        lab.put(&lab.work.at(name), &format!("others/{name}:1"));
    }
    for name in ["two-layers", "artifact", "mislabelled", "raw-zstd"] {
        lab.run("two", &["pull", &lab.registry.url(&format!("others/{name}:1"))]);
        lab.same("two", name, "demo@1");
    }
    for name in ["no-disk", "document"] {
        let error = lab.fails("two", &["pull", &lab.registry.url(&format!("others/{name}:1"))], 3);
        assert!(error.contains("layers is or has a disk"), "{error}");
    }
    // They are no images of mif, and stay out of a view of the repository.
    let error =
        run_failing(lab.registry.mif(Path::new(&lab.registry.url("others/artifact:1"))).arg("images"), 3);
    assert!(error.contains("something else"), "{error}");
}

#[test]
fn blobs_elsewhere_are_read_in_parts_and_without_the_credentials() {
    let Some(lab) = Lab::new(None) else { return };
    lab.import_noise(9 << 20);
    lab.run("one", &["push", "noise", &lab.registry.url("images:v1")]);
    let target = lab.registry.host();
    // Asks for a password, and has its blobs on another host: as registries with a CDN.
    let front = hostile_with_head(move |path, head| {
        if !head.to_lowercase().contains("\r\nauthorization: basic ") {
            let text = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
                        Connection: close\r\n\r\n";
            return text.as_bytes().to_vec();
        }
        let host = target.replace("127.0.0.1", "localhost");
        format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{host}{path}\r\nContent-Length: 0\r\nConnection: \
             close\r\n\r\n"
        )
        .into_bytes()
    });
    let auth = lab.work.at("auth.json");
    fs::write(
        &auth,
        serde_json::json!({"auths": {&front: {"username": "anna", "password": SECRET}}}).to_string(),
    )
    .unwrap();
    let _before = lab.registry.take_log();
    lab.registry.rule(|request| match request.head.to_lowercase().contains("\r\nauthorization:") {
        true => Answer::Status(400),
        false => Answer::Pass,
    });
    run(lab.mif("two", &["pull", &format!("oci://{front}/images:v1")]).env("REGISTRY_AUTH_FILE", &auth));
    lab.registry.rule(|_| Answer::Pass);
    lab.same("two", "noise", "noise");
    let parts = lab.registry.take_log().iter().filter(|it| it.head.contains("range: bytes=")).count();
    assert!(parts > 1, "{parts}");
}

/// Answers each request with what `answer` returns for its path, and ends with the test.
fn hostile(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    hostile_with_head(move |path, _| answer(path))
}

/// Does the same by the path and the whole head of the request.
fn hostile_with_head(answer: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || -> Option<()> {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).ok()?;
                    head.push(byte[0]);
                    // A handshake of TLS, to which servers without it answer so.
                    if head[0] == 0x16 {
                        return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").ok();
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1)?;
                respond(&mut stream, answer(path, &head))
            });
        }
    });
    host
}

/// Sends an answer; one without an end if it is empty.
fn respond(stream: &mut TcpStream, answer: Vec<u8>) -> Option<()> {
    if !answer.is_empty() {
        return stream.write_all(&answer).ok();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"x\": \"").ok()?;
    loop {
        stream.write_all(&[b'x'; 65536]).ok()?;
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn a_hostile_registry_is_refused_in_words_and_costs_neither_memory_nor_time() {
    if !have(TOOLS) {
        return;
    }
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    let manifest = |titles: &[(&str, u64)]| {
        let layers: Vec<Value> = titles
            .iter()
            .map(|(title, size)| {
                serde_json::json!({"mediaType": "x", "digest": digest('a'), "size": size,
                    "annotations": {"org.opencontainers.image.title": title}})
            })
            .collect();
        let config = serde_json::json!({"mediaType": "x", "digest": digest('b'), "size": 2});
        let kind = "application/vnd.mif.store.v2";
        serde_json::json!({"schemaVersion": 2, "artifactType": kind, "config": config, "layers": layers})
            .to_string()
    };
    type Server = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;
    let of = |titles: &'static [(&'static str, u64)]| -> Server {
        let text = manifest(titles);
        Box::new(move |path| if path.contains("/manifests/") { ok(text.as_bytes()) } else { ok(b"evil") })
    };
    let servers: Vec<(&str, Server)> = vec![
        ("a manifest without an end", Box::new(|_| Vec::new())),
        (
            "redirects without an end",
            Box::new(|path| {
                format!("HTTP/1.1 302 Found\r\nLocation: {path}x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
            }),
        ),
        ("something else than the digest", of(&[("store.json", 4)])),
        ("a header of an exabyte", of(&[("store.json", 1 << 60)])),
        (
            "files outside",
            of(&[("../../outside", 4), ("/etc/outside", 4), ("images/name=../version=1/image.json", 4)]),
        ),
        ("not JSON", Box::new(|_| ok(b"\x1b[2J<html>"))),
        (
            "an error of its own",
            Box::new(|_| {
                b"HTTP/1.1 418 I am a teapot\r\nContent-Length: 9\r\nConnection: close\r\n\r\n\x1b[31mred\n"
                    .to_vec()
            }),
        ),
    ];
    let work = work_folder();
    for (what, server) in servers {
        let host = hostile(server);
        let mut command = tool("sh");
        // 300 MB of memory suffice, and 20 seconds.
        command.args(["-c", "ulimit -v 3000000; exec timeout 60 \"$@\"", "sh"]).arg(mif_tests::mif_path());
        let output = command
            .args(["pull", &format!("oci://{host}/images:x")])
            .env("MIF_STORE", work.at("store"))
            .env("OCI_ALLOW_HTTP", "true")
            .env("XDG_CACHE_HOME", work.at("cache"))
            .env("DOCKER_CONFIG", work.at("none"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(3 | 5)), "{what}: {:?}: {error}", output.status.code());
        assert!(error.contains(&host) && !error.contains('\x1b'), "{what}: {error}");
        assert!(!work.at("store").exists(), "{what}");
    }
    // What it says when it is written to.
    run(Command::new(mif_tests::mif_path())
        .arg("import")
        .arg(repo().join("fixtures/demo.qcow2"))
        .env("MIF_STORE", work.at("own")));
    for location in ["::nowhere", "http://[", "\\", "//", "gopher://x/y"] {
        let host = hostile(move |path| {
            match path {
            "/v2/images/blobs/uploads/" => format!(
                "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        }
        });
        let mut push = Command::new(mif_tests::mif_path());
        push.args(["push", "demo", &format!("oci://{host}/images:x")]).env("MIF_STORE", work.at("own"));
        let error = run_failing(push.env("OCI_ALLOW_HTTP", "true").env("DOCKER_CONFIG", work.at("none")), 1);
        assert!(error.contains(&host) && !error.contains("panicked"), "{location}: {error}");
    }
    // Requests are encrypted unless the user says otherwise.
    let host = hostile(|_| ok(b"{}"));
    let mut command = Command::new(mif_tests::mif_path());
    command.args(["pull", &format!("oci://{host}/images:x")]).env("MIF_STORE", work.at("store"));
    let error = run_failing(command.env_remove("OCI_ALLOW_HTTP"), 5);
    assert!(error.contains("OCI_ALLOW_HTTP"), "{error}");
}
