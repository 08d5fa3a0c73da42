//! Bills of materials: valid by the validators of SPDX and CycloneDX, with package URLs that the library of their specification
//! makes too, and the same bytes for the same image.

use std::fs;
use std::path::Path;

use mif_tests::guest::Guest;
use mif_tests::{have, have_python, mif, python, run, run_failing, tool, work_folder};
use serde_json::Value;

const MODULES: &str = "cyclonedx, spdx_tools, packageurl";

/// Validates both documents, and makes each package URL anew from its parts. Prints the number of packages of each.
const JUDGE: &str = r#"
import json, sys
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from cyclonedx.validation.json import JsonStrictValidator
from cyclonedx.schema import SchemaVersion
spdx = parse_file("bom.spdx.json")
messages = validate_full_spdx_document(spdx)
assert not messages, [message.validation_message for message in messages][:5]
text = open("bom.cdx.json").read()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
assert error is None, error
purls = [reference.locator for package in spdx.packages for reference in package.external_references]
components = json.loads(text)["components"]
assert purls == [component["purl"] for component in components if "purl" in component]
for purl in purls:
    assert PackageURL.from_string(purl).to_string() == purl, (purl, PackageURL.from_string(purl).to_string())
print(len(spdx.packages), len(components))
"#;

fn have_judges() -> bool {
    have_python(MODULES)
}

/// Writes both documents of an image, has them judged, and returns them.
fn judged(work: &Path, store: &Path, image: &str, systems: usize, packages: usize) -> [Value; 2] {
    let documents =
        [("spdx-json", "bom.spdx.json"), ("cyclonedx-json", "bom.cdx.json")].map(|(format, file)| {
            let document = run(mif(store).current_dir(work).args(["packages", image, "--format", format]));
            let again =
                run(mif(store).current_dir(work).args(["packages", image, "--format", format, "--json"]));
            assert_eq!(document, again, "the same image gives the same bytes");
            fs::write(work.join(file), &document).unwrap();
            serde_json::from_str(&document).unwrap()
        });
    let counts = run(tool(python()).current_dir(work).args(["-c", JUDGE]));
    assert_eq!(counts, format!("{} {}\n", 1 + systems + packages, systems + packages));
    documents
}

const STATUS: &str = "\
Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nSource: gcc-12 (12.2.0-14)\nVersion: 1:12.2.0-14+b1~x\n\n\
Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
Package: half\nStatus: install ok half-configured\nArchitecture: all\nVersion: 2.0\n\n";

#[test]
fn a_bill_of_materials_is_valid_and_names_the_system_of_each_package() {
    if !have_judges() {
        return;
    }
    let release = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12 (bookworm)\"\n";
    let files = [("etc/os-release", release), ("var/lib/dpkg/status", STATUS)];
    let Some(guest) = Guest::new(&files) else { return };
    let (work, store) = (guest.at("."), guest.at("store"));
    let [spdx, cyclonedx] = judged(&work, &store, "guest", 1, 2);
    let purl = "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bb1~x?arch=amd64&distro=debian-12&upstream=gcc-12";
    assert_eq!(spdx["packages"][3]["externalRefs"][0]["referenceLocator"], purl, "{spdx}");
    assert_eq!(spdx["packages"][3]["sourceInfo"], "built package from: gcc-12");
    assert_eq!(spdx["packages"][3]["licenseDeclared"], "NOASSERTION");
    assert_eq!(
        (&spdx["packages"][1]["name"], &spdx["packages"][1]["versionInfo"]),
        (&"debian".into(), &"12".into())
    );
    let relation = |at: usize| {
        let relation = &spdx["relationships"][at];
        ["spdxElementId", "relationshipType", "relatedSpdxElement"]
            .map(|name| relation[name].as_str().unwrap())
    };
    assert_eq!(relation(1), ["SPDXRef-Image", "CONTAINS", "SPDXRef-OperatingSystem-0"]);
    assert_eq!(relation(3)[..2], ["SPDXRef-OperatingSystem-0", "CONTAINS"]);
    let system = &cyclonedx["components"][0];
    // A package URL would keep Dependency-Track from recognising the system (DependencyTrack/dependency-track#7333).
    assert!(
        system["type"] == "operating-system" && system["name"] == "debian" && system.get("purl").is_none()
    );
    assert_eq!(cyclonedx["dependencies"][1]["dependsOn"].as_array().unwrap().len(), 2);
    // The time is that of the image, and the identity follows what the document says.
    let images: Value = serde_json::from_str(&run(&mut guest.mif(&["images", "--json"]))).unwrap();
    assert_eq!(spdx["creationInfo"]["created"], images[0]["provenance"]["time"]);
    assert_eq!(cyclonedx["metadata"]["timestamp"], images[0]["provenance"]["time"]);
    assert_ne!(spdx["documentNamespace"], cyclonedx["serialNumber"]);
    guest.edit(&["--write=/etc/motd:x"]);
    let [other, _] = judged(&work, &store, "new", 1, 2);
    assert_ne!(spdx["documentNamespace"], other["documentNamespace"]);
    // A file, whose time is that of its last change.
    run(tool("touch").args(["-d", "2024-05-06T07:08:09Z"]).arg(guest.at("guest.raw")));
    let [file, _] = judged(&work, &store, "./guest.raw", 1, 2);
    assert_eq!(
        (&file["name"], &file["creationInfo"]["created"]),
        (&"guest.raw".into(), &"2024-05-06T07:08:09Z".into())
    );
    // It is about one image and all its packages.
    let refused =
        |words: &[&str]| run_failing(guest.mif(&["packages", "--format", "spdx-json"]).args(words), 2);
    assert!(refused(&[]).contains("about one image"));
    assert!(refused(&["guest", "--name", "x"]).contains("has all packages"));
    let empty =
        guest.mif(&["customize", "guest", "--as", "empty", "--delete=/var/lib/dpkg"]).output().unwrap();
    assert!(empty.status.success());
    assert!(
        run_failing(&mut guest.mif(&["packages", "empty", "--format", "spdx-json"]), 1)
            .contains("no package found")
    );
}

#[test]
fn licences_are_expressions_of_spdx_or_texts_that_the_document_quotes() {
    if !have_judges() || !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let root = work.at("root");
    fs::create_dir_all(root.join("lib/apk/db")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME=\"Alpine\"\n").unwrap();
    fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    let licences = [
        "GPL-2.0-only",
        "MIT AND (BSD-2-Clause OR Apache-2.0 WITH LLVM-exception)",
        "GPLv2+ and \"custom\"",
        "MIT\\u001b BSD",
        "LicenseRef-theirs",
        "",
    ];
    let entry = |(number, licence): (usize, &&str)| {
        format!(
            "P:p_{number}\nV:1.{number}-r0\nA:x86_64\nL:{}\no:p\n\n",
            licence.replace("\\u001b", "\u{1b}")
        )
    };
    let installed: String = licences.iter().enumerate().map(entry).collect();
    fs::write(root.join("lib/apk/db/installed"), installed).unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(work.at("a.raw")).arg("32M"));
    let [spdx, cyclonedx] = judged(work.path(), &work.at("store"), "./a.raw", 1, 6);
    let declared = |at: usize| spdx["packages"][2 + at]["licenseDeclared"].as_str().unwrap();
    assert_eq!([0, 1].map(declared), [licences[0], licences[1]]);
    assert_eq!(declared(5), "NOASSERTION");
    let quoted = spdx["hasExtractedLicensingInfos"].as_array().unwrap();
    for (at, text) in [(2, licences[2]), (3, "MIT\u{1b} BSD"), (4, licences[4])] {
        let info = quoted.iter().find(|info| info["licenseId"] == declared(at)).unwrap();
        assert_eq!(info["extractedText"], text);
    }
    let of = |at: usize| &cyclonedx["components"][1 + at]["licenses"][0];
    assert_eq!(of(1)["expression"], licences[1]);
    assert_eq!(of(2)["license"]["name"], licences[2]);
    assert_eq!(
        spdx["packages"][2]["externalRefs"][0]["referenceLocator"],
        "pkg:apk/alpine/p_0@1.0-r0?arch=x86_64&distro=alpine-3.19.1&upstream=p"
    );
}
