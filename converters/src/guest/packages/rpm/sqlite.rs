//! rpm's database in SQLite: the table `Packages`, with a package header in each row.

use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};

/// The maximum for reading, in thousands of SQLite virtual machine steps: enough for some millions of packages.
const MAX_STEPS: u32 = 100_000;
/// The maximum length of a row, in bytes.
const MAX_ROW: i32 = 256 << 20;

/// Returns the package headers in a database. `wal` is its write-ahead log, whose content may not be in the database
/// yet.
pub(super) fn blobs(database: &[u8], wal: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
    blobs_within(MAX_STEPS, database, wal)
}

fn blobs_within(max_steps: u32, database: &[u8], wal: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
    let failed = |e: rusqlite::Error| Error::input(format!("rpmdb.sqlite: {e}"));
    // SQLite reads files. It may write to them to apply the log.
    let folder = crate::host::temporary::directory()?;
    let path = folder.path().join("rpmdb.sqlite");
    std::fs::write(&path, database).map_err(|e| Error::io(&path, &e))?;
    if let Some(wal) = wal {
        let path = folder.path().join("rpmdb.sqlite-wal");
        std::fs::write(&path, wal).map_err(|e| Error::io(&path, &e))?;
    }
    let database_len = database.len();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(&path, flags).map_err(failed)?;
    database.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW).map_err(failed)?;
    let mut steps = 0;
    let count = move || {
        steps += 1;
        steps > max_steps
    };
    database.progress_handler(1000, Some(count));
    // A view of that name could run arbitrary queries.
    let kind = "SELECT type FROM sqlite_master WHERE name = 'Packages'";
    let kind: String = database.query_row(kind, [], |row| row.get(0)).map_err(failed)?;
    if kind != "table" {
        return Err(Error::input(format!("rpmdb.sqlite: Packages is a {kind}, not a table")));
    }
    let mut rows = database.prepare("SELECT blob FROM Packages ORDER BY hnum").map_err(failed)?;
    let blobs = rows.query_map([], |row| row.get(0)).map_err(failed)?;
    // Rows of an intact database do not share pages: together they cannot be longer than it.
    let most = database_len + wal.map_or(0, <[u8]>::len);
    let mut left = most;
    blobs
        .map(|blob: Result<Vec<u8>, _>| {
            let blob = blob.map_err(failed)?;
            left = left.checked_sub(blob.len()).ok_or_else(|| {
                Error::input(format!("rpmdb.sqlite: the rows are longer than the whole file ({most} bytes)"))
            })?;
            Ok(blob)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(statements: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Connection::open(&path).unwrap().execute_batch(statements).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn rows_are_read_in_order() {
        let made = database(
            "CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL);
             INSERT INTO Packages VALUES (2, x'62'), (1, x'61');",
        );
        assert_eq!(blobs(&made, None).unwrap(), [b"a", b"b"]);
    }

    #[test]
    fn rows_that_are_longer_than_the_database_are_refused() {
        let made = database(
            "CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, blob AS (zeroblob(1000000)));
             INSERT INTO Packages(hnum) VALUES (1), (2), (3);",
        );
        let error = blobs(&made, None).unwrap_err().to_string();
        assert!(error.contains("the rows are longer than the whole file"), "{error}");
    }

    #[test]
    fn a_row_over_the_limit_is_refused() {
        let made = database(&format!(
            "CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, blob AS (zeroblob({})));
             INSERT INTO Packages(hnum) VALUES (1);",
            MAX_ROW + 1
        ));
        assert!(blobs(&made, None).unwrap_err().to_string().contains("too big"));
    }

    #[test]
    fn a_database_that_takes_more_steps_than_the_limit_is_refused() {
        let made = database(
            "CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL);
             WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 2000)
             INSERT INTO Packages SELECT n, x'61' FROM t;",
        );
        assert_eq!(blobs_within(20, &made, None).unwrap().len(), 2000);
        assert!(blobs_within(2, &made, None).unwrap_err().to_string().contains("interrupted"));
    }

    #[test]
    fn a_view_is_no_database() {
        let made = database(
            "CREATE VIEW Packages AS WITH RECURSIVE t(hnum, blob) AS
             (SELECT 1, x'61' UNION ALL SELECT hnum + 1, blob FROM t) SELECT * FROM t;",
        );
        assert!(blobs(&made, None).unwrap_err().to_string().contains("is a view"));
        assert!(blobs(b"no database", None).is_err());
    }
}
