//! The map of a disk as text: a row of cells for each partition, and for the space around them.

use std::fmt::Write as _;

use indicatif::BinaryBytes;
use mif::{DiskMap, MapCell, MapPart};

use super::text::{printable, size};

/// The width of what is written before the cells.
const MARGIN: usize = 31;

/// How many rows of cells a disk takes, if it is one partition.
const ROWS: u64 = 8;

/// Returns the number of cells of a map for output of this width.
pub(super) fn cells(width: usize) -> u64 {
    (width - MARGIN) as u64 * ROWS
}

/// What a cell shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Content,
    SomeContent,
    Residue,
    SomeResidue,
    Zero,
}

impl Look {
    /// What there is more of counts; zeros count only alone.
    fn of(cell: MapCell) -> Self {
        let MapCell { content, residue, zero } = cell;
        match (content >= residue, content.max(residue) >= (content + residue + zero) / 2) {
            _ if content == 0 && residue == 0 => Look::Zero,
            (true, true) => Look::Content,
            (true, false) => Look::SomeContent,
            (false, true) => Look::Residue,
            (false, false) => Look::SomeResidue,
        }
    }

    /// Returns the character, and the number of the colour.
    fn shown(self) -> (char, u8) {
        match self {
            Look::Content => ('█', 32),
            Look::SomeContent => ('▓', 32),
            Look::Residue => ('▒', 33),
            Look::SomeResidue => ('░', 33),
            Look::Zero => ('·', 90),
        }
    }
}

/// Draws cells.
fn drawn(cells: &[Look], colours: bool) -> String {
    let mut out = String::new();
    for run in cells.chunk_by(|a, b| a.shown().1 == b.shown().1) {
        let text: String = run.iter().map(|look| look.shown().0).collect();
        let _ = match colours {
            true => write!(out, "\u{1b}[{}m{text}\u{1b}[0m", run[0].shown().1),
            false => write!(out, "{text}"),
        };
    }
    out
}

/// Cuts a text to a number of characters.
fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn title(part: &MapPart) -> String {
    let Some(volume) = &part.volume else { return "(no partition)".into() };
    let kind = part.kind.as_deref().unwrap_or("unknown");
    let label = part.label.as_deref().map_or(String::new(), |label| format!(" \"{label}\""));
    printable(&format!("{volume} {kind}{label}"))
}

/// Draws a map in this many columns.
pub(super) fn draw(map: &DiskMap, width: usize, colours: bool) -> String {
    let mut out = format!(
        "{}: {} disk, {} a cell\n\n",
        printable(&map.image),
        size(map.disk_size),
        BinaryBytes(map.cell_bytes)
    );
    for part in &map.parts {
        let looks: Vec<Look> = part.cells.iter().map(|cell| Look::of(*cell)).collect();
        for (row, cells) in looks.chunks(width - MARGIN).enumerate() {
            let head = match row {
                0 => format!("{:<18} {:>10}", cut(&title(part), 18), size(part.len)),
                _ => String::new(),
            };
            let _ = writeln!(out, "{head:<29}  {}", drawn(cells, colours));
        }
    }
    let mut sum = MapCell::default();
    for part in &map.parts {
        sum.content += part.bytes.content;
        sum.residue += part.bytes.residue;
        sum.zero += part.bytes.zero;
    }
    let key = |looks: &[Look]| drawn(looks, colours);
    let _ = writeln!(
        out,
        "\n{} content {}   {} residue {}\n{}  zero {}   ({} fill less than half of a cell)",
        key(&[Look::Content, Look::SomeContent]),
        size(sum.content),
        key(&[Look::Residue, Look::SomeResidue]),
        size(sum.residue),
        key(&[Look::Zero]),
        size(sum.zero),
        key(&[Look::SomeContent, Look::SomeResidue]),
    );
    for warning in &map.warnings {
        let _ = writeln!(out, "warning: {}", printable(warning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(content: u64, residue: u64, zero: u64) -> MapCell {
        MapCell { content, residue, zero }
    }

    fn map() -> DiskMap {
        let part = |volume: Option<&str>, label: &str, cells: Vec<MapCell>| MapPart {
            volume: volume.map(str::to_owned),
            kind: Some("ext4".into()),
            label: Some(label.into()),
            start: 0,
            len: 1 << 20,
            bytes: cell(1, 2, 3),
            cells,
        };
        DiskMap {
            image: "a".into(),
            disk_size: 2 << 20,
            cell_bytes: 4096,
            parts: vec![
                part(None, "", vec![cell(0, 0, 9)]),
                part(Some("p1"), "\u{1b}[2Ja very long label", vec![cell(9, 0, 0); 30]),
                part(Some("p2"), "x", vec![cell(1, 0, 9), cell(0, 1, 9), cell(1, 2, 0)]),
            ],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn rows_fit_the_width_and_names_are_escaped() {
        let text = draw(&map(), 40, false);
        assert!(text.lines().all(|line| line.chars().count() <= 60) && !text.contains('\u{1b}'), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.contains('█')).collect();
        assert_eq!(rows[0].chars().count(), 40, "{text}");
        assert!(text.contains("▓░▒"), "{text}");
    }

    #[test]
    fn colours_change_nothing_else() {
        let coloured = draw(&map(), 80, true);
        let mut plain = coloured.clone();
        for code in ["\u{1b}[32m", "\u{1b}[33m", "\u{1b}[90m", "\u{1b}[0m"] {
            plain = plain.replace(code, "");
        }
        assert_ne!(coloured, plain);
        assert_eq!(plain, draw(&map(), 80, false));
    }
}
