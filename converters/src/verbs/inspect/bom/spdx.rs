//! SPDX 2.3 as JSON (<https://spdx.github.io/spdx-spec/v2.3/>).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Inventory, Item, Licence, System, identity_of, uuid_of};

const UNKNOWN: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";

/// A document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo,
    packages: Vec<Package>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicence>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
struct CreationInfo {
    created: String,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    name: String,
    #[serde(rename = "SPDXID")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
    supplier: &'static str,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<Reference>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicence {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    related_spdx_element: String,
    relationship_type: &'static str,
}

pub(super) fn document(inventory: &Inventory) -> Document {
    let Inventory { image, digest, time, systems, items } = inventory;
    let mut licences = BTreeMap::new();
    let mut packages = vec![Package { primary_package_purpose: Some("FILE"), ..package(IMAGE, image) }];
    packages[0].comment.clone_from(digest);
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    for (number, System { volume, os }) in systems.iter().enumerate() {
        let id = system_id(number);
        relationships.push(relation(IMAGE, "CONTAINS", &id));
        let name = systems[number].family();
        packages.push(Package {
            version_info: os.version.clone(),
            primary_package_purpose: Some("OPERATING-SYSTEM"),
            comment: Some(format!("{} on {volume}", os.name)),
            ..package(&id, name)
        });
    }
    for (number, item) in items.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}-{number}", id_text(&item.package.name));
        let holder = item.system.map_or_else(|| IMAGE.to_owned(), system_id);
        relationships.push(relation(&holder, "CONTAINS", &id));
        packages.push(of_item(&id, item, &mut licences));
    }
    let has_extracted_licensing_infos = licences.into_iter().map(|(license_id, text)| ExtractedLicence {
        license_id,
        name: text.clone(),
        extracted_text: text,
    });
    Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: image.clone(),
        document_namespace: format!("urn:uuid:{}", identity_of("spdx", inventory)),
        creation_info: CreationInfo {
            created: time.clone(),
            creators: [concat!("Tool: mif-", env!("CARGO_PKG_VERSION")).to_owned()],
        },
        packages,
        has_extracted_licensing_infos: has_extracted_licensing_infos.collect(),
        relationships,
    }
}

/// Returns a package about which only its name is known.
fn package(id: &str, name: &str) -> Package {
    Package {
        name: name.to_owned(),
        id: id.to_owned(),
        version_info: None,
        primary_package_purpose: None,
        supplier: UNKNOWN,
        download_location: UNKNOWN,
        files_analyzed: false,
        source_info: None,
        license_concluded: UNKNOWN,
        license_declared: UNKNOWN.to_owned(),
        copyright_text: UNKNOWN,
        comment: None,
        external_refs: Vec::new(),
    }
}

fn of_item(id: &str, item: &Item, licences: &mut BTreeMap<String, String>) -> Package {
    let known = &item.package;
    let license_declared = match &item.licence {
        Some(Licence::Expression(expression)) => expression.clone(),
        Some(Licence::Text(text)) => {
            let id = format!("LicenseRef-{}", uuid_of(&[text]));
            licences.insert(id.clone(), text.clone());
            id
        }
        None => UNKNOWN.to_owned(),
    };
    let purl = item.purl.iter().map(|purl| Reference {
        reference_category: "PACKAGE-MANAGER",
        reference_type: "purl",
        reference_locator: purl.clone(),
    });
    Package {
        version_info: Some(known.version.clone()).filter(|version| !version.is_empty()),
        // trivy reads the source package from here.
        source_info: known.source.as_ref().map(|source| format!("built package from: {source}")),
        license_declared,
        comment: Some(format!("{} on {}", known.manager, known.volume)),
        external_refs: purl.collect(),
        ..package(id, &known.name)
    }
}

fn system_id(number: usize) -> String {
    format!("SPDXRef-OperatingSystem-{number}")
}

fn relation(from: &str, kind: &'static str, to: &str) -> Relationship {
    Relationship {
        spdx_element_id: from.to_owned(),
        related_spdx_element: to.to_owned(),
        relationship_type: kind,
    }
}

/// Replaces what an identifier may not contain.
fn id_text(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}
