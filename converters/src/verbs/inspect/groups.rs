//! Results of many images grouped: each package, and each content, once, with the images that have it.

use std::collections::BTreeMap;

use super::packages::{ImagePackage, PackageGroup};
use super::search::{Hit, HitGroup};

/// Groups packages by manager, name, version, architecture and status, in the order of their first appearance.
#[must_use]
pub fn group_packages(packages: &[ImagePackage]) -> Vec<PackageGroup> {
    let mut places: BTreeMap<[&str; 5], usize> = BTreeMap::new();
    let mut groups: Vec<PackageGroup> = Vec::new();
    for package in packages {
        let architecture = package.architecture.as_deref().unwrap_or_default();
        let key = [&package.manager[..], &package.name, &package.version, architecture, &package.status];
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(PackageGroup {
                manager: package.manager.clone(),
                name: package.name.clone(),
                version: package.version.clone(),
                architecture: package.architecture.clone(),
                status: package.status.clone(),
                images: Vec::new(),
            });
            groups.len() - 1
        });
        push(&mut groups[place].images, &package.image);
    }
    groups
}

/// Groups files by content, in the order of their first appearance.
#[must_use]
pub fn group_hits(hits: &[Hit]) -> Vec<HitGroup> {
    let mut places: BTreeMap<(Option<&str>, &str, &str), usize> = BTreeMap::new();
    let mut groups: Vec<HitGroup> = Vec::new();
    for hit in hits {
        let sha1 = hit.sha1.as_deref().filter(|_| hit.file_type == "file");
        let key = match sha1 {
            Some(sha1) => (Some(sha1), "", ""),
            None => (None, &hit.volume[..], &hit.path[..]),
        };
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(HitGroup {
                sha1: sha1.map(str::to_owned),
                file_type: hit.file_type.clone(),
                size: hit.size,
                paths: Vec::new(),
                images: Vec::new(),
            });
            groups.len() - 1
        });
        push(&mut groups[place].paths, &format!("{}:{}", hit.volume, hit.path));
        push(&mut groups[place].images, &hit.image);
    }
    for group in &mut groups {
        group.paths.sort();
        group.paths.dedup();
    }
    groups
}

/// Adds a text unless it is the last one. Results are ordered by image, so no image is added twice.
fn push(list: &mut Vec<String>, text: &str) {
    if list.last().is_none_or(|last| last != text) {
        list.push(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(image: &str, path: &str, sha1: Option<&str>) -> Hit {
        Hit {
            image: image.into(),
            volume: "p1".into(),
            path: path.into(),
            path_bytes: None,
            file_type: if sha1.is_some() { "file" } else { "dir" }.into(),
            mode: None,
            uid: None,
            gid: None,
            size: 1,
            mtime: None,
            sha1: sha1.map(str::to_owned),
        }
    }

    #[test]
    fn a_content_is_one_group_whatever_its_paths_and_a_directory_is_its_path() {
        let hits = [
            hit("a@1", "/x", Some("1")),
            hit("a@1", "/y", Some("1")),
            hit("a@1", "/d", None),
            hit("b@1", "/x", Some("1")),
            hit("b@1", "/d", None),
            hit("b@1", "/e", None),
        ];
        let groups = group_hits(&hits);
        let told: Vec<(usize, usize)> = groups.iter().map(|g| (g.paths.len(), g.images.len())).collect();
        assert_eq!(told, [(2, 2), (1, 2), (1, 1)]);
    }
}
