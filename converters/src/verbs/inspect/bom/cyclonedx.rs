//! CycloneDX 1.6 as JSON (<https://cyclonedx.org/docs/1.6/json/>).

use serde::Serialize;

use super::{Inventory, Item, Licence, System, identity_of};

const IMAGE: &str = "image";

/// A document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Tools {
    components: [Component; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<LicenceChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LicenceChoice {
    Expression { expression: String },
    Named { license: NamedLicence },
}

#[derive(Serialize)]
struct NamedLicence {
    name: String,
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    of: String,
    depends_on: Vec<String>,
}

pub(super) fn document(inventory: &Inventory) -> Document {
    let Inventory { image, digest, time, systems, items } = inventory;
    let mut of_image = Component { id: Some(IMAGE.into()), ..component("file", image) };
    of_image.properties.extend(digest.iter().map(|digest| property("mif:digest", digest)));
    let mut components = Vec::new();
    let mut dependencies = vec![Dependency { of: IMAGE.into(), depends_on: Vec::new() }];
    for (number, System { volume, os }) in systems.iter().enumerate() {
        let id = system_id(number);
        dependencies[0].depends_on.push(id.clone());
        dependencies.push(Dependency { of: id.clone(), depends_on: Vec::new() });
        components.push(Component {
            id: Some(id),
            version: os.version.clone(),
            description: Some(os.name.clone()),
            properties: vec![property("mif:volume", volume)],
            ..component("operating-system", systems[number].family())
        });
    }
    for (number, item) in items.iter().enumerate() {
        let id = format!("package-{number}");
        let holder = item.system.map_or(0, |system| system + 1);
        dependencies[holder].depends_on.push(id.clone());
        components.push(of_item(id, item));
    }
    Document {
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: format!("urn:uuid:{}", identity_of("cyclonedx", inventory)),
        version: 1,
        metadata: Metadata {
            timestamp: time.clone(),
            tools: Tools {
                components: [Component {
                    version: Some(env!("CARGO_PKG_VERSION").into()),
                    ..component("application", "mif")
                }],
            },
            component: of_image,
        },
        components,
        dependencies,
    }
}

/// Returns a component about which only its name is known.
fn component(kind: &'static str, name: &str) -> Component {
    Component {
        kind,
        id: None,
        name: name.to_owned(),
        version: None,
        description: None,
        licenses: Vec::new(),
        purl: None,
        properties: Vec::new(),
    }
}

fn of_item(id: String, item: &Item) -> Component {
    let known = &item.package;
    let licenses = item.licence.iter().map(|licence| match licence {
        Licence::Expression(expression) => LicenceChoice::Expression { expression: expression.clone() },
        Licence::Text(name) => LicenceChoice::Named { license: NamedLicence { name: name.clone() } },
    });
    let mut properties = vec![property("mif:manager", &known.manager), property("mif:volume", &known.volume)];
    properties.extend(known.source.iter().map(|source| property("mif:source", source)));
    Component {
        id: Some(id),
        version: Some(known.version.clone()).filter(|version| !version.is_empty()),
        licenses: licenses.collect(),
        purl: item.purl.clone(),
        properties,
        // Scanners skip components of other types than these two.
        ..component(if known.manager == "windows" { "application" } else { "library" }, &known.name)
    }
}

fn property(name: &'static str, value: &str) -> Property {
    Property { name, value: value.to_owned() }
}

fn system_id(number: usize) -> String {
    format!("system-{number}")
}
