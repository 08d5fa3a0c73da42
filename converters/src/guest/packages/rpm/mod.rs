//! rpm's database: package headers in a table of SQLite (`rpmdb.sqlite`), in rpm's own format (`Packages.db`), or in a hash
//! of Berkeley DB (`Packages`).

mod berkeley;
mod header;
mod ndb;
#[cfg(feature = "rpm-sqlite")]
mod sqlite;
#[cfg(not(feature = "rpm-sqlite"))]
mod sqlite {
    use crate::error::{Error, Result};

    pub(super) fn blobs(_: &[u8], _: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
        Err(Error::unsupported("rpmdb.sqlite: this program was built without the feature rpm-sqlite"))
    }
}

use self::header::Header;
use super::{Databases, FoundPackages, Package};
use crate::error::Result;

/// The possible directories of the database, the newest first; one may be a link to another.
const FOLDERS: [&str; 3] = ["/usr/lib/sysimage/rpm", "/usr/share/rpm", "/var/lib/rpm"];

pub(super) fn read(databases: &Databases<'_>, found: &mut FoundPackages) -> Result<()> {
    for folder in FOLDERS {
        let file = |name: &str| databases.file(&format!("{folder}/{name}"));
        let (blobs, mut damaged) = if let Some(database) = file("rpmdb.sqlite")? {
            (sqlite::blobs(&database, file("rpmdb.sqlite-wal")?.as_deref())?, 0)
        } else if let Some(database) = file("Packages.db")? {
            ndb::blobs(&database)?
        } else if let Some(database) = file("Packages")? {
            (berkeley::blobs(&database)?, 0)
        } else {
            continue;
        };
        for blob in blobs {
            let parsed = Header::parse(&blob)
                .and_then(|header| Some((package(databases, &header)?, header.text(header::tag::LICENSE))));
            match parsed {
                Some((package, licence)) => found.add(package, licence),
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            let volume = databases.volume();
            found.complaints.push(format!(
                "packages on {volume}: {folder}: {damaged} entries are not valid package headers"
            ));
        }
        return Ok(());
    }
    Ok(())
}

fn package(databases: &Databases<'_>, header: &Header<'_>) -> Option<Package> {
    use self::header::tag;
    let version = format!("{}-{}", header.text(tag::VERSION)?, header.text(tag::RELEASE)?);
    let version = match header.number(tag::EPOCH) {
        Some(epoch) => format!("{epoch}:{version}"),
        None => version,
    };
    let paths = header.paths();
    Some(Package {
        architecture: header.text(tag::ARCH),
        source: header.text(tag::SOURCERPM),
        files: databases.paths.find_all(paths.iter().map(Vec::as_slice)),
        ..databases.package("rpm", header.text(tag::NAME)?, version)
    })
}
