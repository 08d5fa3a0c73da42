//! apk's database: `lib/apk/db/installed`, with a paragraph for each package, and a letter and a colon before each
//! value (Alpine wiki, "Apk spec").

use super::{Databases, FoundPackages, Package, text};
use crate::error::Result;

const INSTALLED: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];

pub(super) fn read(databases: &Databases<'_>, found: &mut FoundPackages) -> Result<()> {
    // One may be a link to the other.
    let Some(file) = INSTALLED.iter().find_map(|path| databases.file(path).transpose()) else {
        return Ok(());
    };
    let file = file?;
    let (mut package, mut paths) = (databases.package("apk", String::new(), String::new()), Vec::new());
    let (mut folder, mut licence) = (Vec::new(), None);
    let mut end = |package: &mut Package, paths: &mut Vec<Vec<u8>>, licence: Option<String>| {
        package.files = databases.paths.find_all(paths.iter().map(Vec::as_slice));
        paths.clear();
        let done = std::mem::replace(package, databases.package("apk", String::new(), String::new()));
        if !done.name.is_empty() {
            found.add(done, licence);
        }
    };
    for line in file.split(|b| *b == b'\n') {
        match line {
            [] => end(&mut package, &mut paths, licence.take()),
            [b'P', b':', name @ ..] => package.name = text(name),
            [b'V', b':', version @ ..] => package.version = text(version),
            [b'A', b':', architecture @ ..] => package.architecture = Some(text(architecture)),
            [b'o', b':', origin @ ..] => package.source = Some(text(origin)),
            [b'L', b':', text_of @ ..] => licence = Some(text(text_of)),
            [b'F', b':', path @ ..] => {
                folder = if path.is_empty() { Vec::new() } else { [b"/", path].concat() };
                if !folder.is_empty() {
                    paths.push(folder.clone());
                }
            }
            [b'R', b':', name @ ..] => paths.push([&folder[..], b"/", name].concat()),
            _ => {}
        }
    }
    end(&mut package, &mut paths, licence.take());
    Ok(())
}
