//! The files of accounts: lines of fields with colons between them (passwd(5), group(5), shadow(5), gshadow(5),
//! subuid(5)).

use crate::edit::primitive::Edit;
use crate::error::Result;
use crate::tree::edit::Files;

/// One of these files.
pub(super) struct Table {
    path: &'static str,
    /// `None` if the image does not have it.
    old: Option<String>,
    lines: Vec<String>,
}

impl Table {
    pub(super) fn read(files: &Files, path: &'static str) -> Result<Self> {
        let old = files.is_file(path).then(|| files.editable(path)).transpose()?;
        let lines = old.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        Ok(Table { path, old, lines })
    }

    /// Returns true if the image has this file.
    pub(super) fn exists(&self) -> bool {
        self.old.is_some()
    }

    /// Returns the fields of each entry, without comments and lines for NIS.
    pub(super) fn entries(&self) -> impl Iterator<Item = Vec<&str>> {
        let entries = self.lines.iter().filter(|line| !line.starts_with(['+', '-', '#']));
        entries.map(|line| line.split(':').collect())
    }

    /// Returns the fields of the entry called `name`.
    pub(super) fn find(&self, name: &str) -> Option<Vec<&str>> {
        self.entries().find(|fields| fields[0] == name)
    }

    /// Returns the numbers in a field of all entries.
    pub(super) fn numbers(&self, field: usize) -> impl Iterator<Item = u32> {
        self.entries().filter_map(move |fields| fields.get(field)?.parse().ok())
    }

    /// Adds an entry if the image has the file: at the end, but before the lines for NIS, which end the search.
    pub(super) fn add(&mut self, line: String) {
        if self.exists() {
            let nis = self.lines.iter().position(|line| line.starts_with(['+', '-']));
            self.lines.insert(nis.unwrap_or(self.lines.len()), line);
        }
    }

    /// Sets a field of the entry called `name`, if there is one.
    pub(super) fn set(&mut self, name: &str, field: usize, value: &str) {
        let is_of = |line: &&mut String| line.split(':').next() == Some(name);
        if let Some(line) = self.lines.iter_mut().find(is_of) {
            let mut fields: Vec<&str> = line.split(':').collect();
            fields.resize(fields.len().max(field + 1), "");
            fields[field] = value;
            *line = fields.join(":");
        }
    }

    /// Adds a member to the last field, `field`, of the group called `name`, unless it is there.
    pub(super) fn join(&mut self, name: &str, field: usize, member: &str) {
        let Some(fields) = self.find(name) else { return };
        let mut members: Vec<&str> = fields
            .get(field)
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter(|m| !m.is_empty())
            .collect();
        if !members.contains(&member) {
            members.push(member);
            let list = members.join(",");
            self.set(name, field, &list);
        }
    }

    /// Returns the edit that writes the file, if it changed.
    pub(super) fn edit(&self) -> Option<Edit> {
        let new: String = self.lines.iter().flat_map(|line| [line, "\n"]).collect();
        let changed = self.old.as_ref().is_some_and(|old| old.lines().ne(new.lines()));
        changed.then(|| Edit::text(self.path, new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        let lines = text.lines().map(str::to_owned).collect();
        Table { path: "/etc/group", old: Some(text.to_owned()), lines }
    }

    #[test]
    fn entries_come_before_those_of_nis_and_members_once() {
        let mut group = table("root:x:0:\nadm:x:4:ada\n+::0:\n");
        group.add("ops:x:1000:".to_owned());
        for _ in 0..2 {
            group.join("adm", 3, "ops");
            group.join("nobody", 3, "ops");
        }
        let lines: Vec<&str> = group.lines.iter().map(String::as_str).collect();
        assert_eq!(lines, ["root:x:0:", "adm:x:4:ada,ops", "ops:x:1000:", "+::0:"]);
        assert_eq!(group.numbers(2).collect::<Vec<_>>(), [0, 4, 1000]);
    }

    #[test]
    fn a_line_that_lacks_fields_gets_them() {
        let mut gshadow = table("adm:!\n");
        gshadow.join("adm", 3, "ops");
        assert_eq!(gshadow.lines, ["adm:!::ops"]);
    }
}
