//! The plots of the page, as SVG. Lengths are in user units, of which a plot is [`WIDTH`] wide.

use std::fmt::Write as _;

use mif::{DirectoryBytes, Growth, ImageShare, Similarity};

use super::escape::escaped;
use crate::cli::text::{seconds_time, size};

const WIDTH: f64 = 900.0;

/// The maximum number of images that a plot names.
const MOST_BARS: usize = 60;
const MOST_SIMILAR: usize = 30;

/// The height of a row with a name, and the width for the names.
const ROW: f64 = 20.0;
const NAMES: f64 = 220.0;

/// The number of characters of a name that fit there.
const NAME_CHARS: usize = 30;

fn svg(height: f64, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">{body}</svg>")
}

/// Cuts a text to a number of characters, then escapes it.
fn short(text: &str, chars: usize) -> String {
    match text.chars().count() > chars {
        true => escaped(&text.chars().take(chars.saturating_sub(1)).chain(['…']).collect::<String>()),
        false => escaped(text),
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Draws the sums of data and of stored bytes over time.
pub(super) fn growth(points: &[Growth]) -> String {
    const HEIGHT: f64 = 240.0;
    const BOTTOM: f64 = 200.0;
    const TOP: f64 = 16.0;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let most = last.data_bytes.max(last.stored_bytes).max(1);
    let span = last.time.saturating_sub(first.time);
    let left = 90.0;
    let place = |i: usize, point: &Growth, bytes: u64| {
        // Images that were all made within a second are spread evenly.
        let along = match span {
            0 => ratio(i as u64, (points.len() as u64 - 1).max(1)),
            span => ratio(point.time.saturating_sub(first.time), span),
        };
        let x = left + along * (WIDTH - left - 20.0);
        format!("{x:.1},{:.1}", BOTTOM - ratio(bytes, most) * (BOTTOM - TOP))
    };
    let line = |class: &str, bytes: &dyn Fn(&Growth) -> u64| {
        let mut path: Vec<String> = vec![format!("{left:.1},{BOTTOM:.1}")];
        path.extend(points.iter().enumerate().map(|(i, point)| place(i, point, bytes(point))));
        format!("<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" "))
    };
    let mut body = String::new();
    for step in 0..=4u32 {
        let y = BOTTOM - f64::from(step) / 4.0 * (BOTTOM - TOP);
        let bytes = most / 4 * u64::from(step);
        let _ = write!(
            body,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"dim\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 4.0,
            size(bytes)
        );
    }
    body += &line("la", &|point| point.data_bytes);
    body += &line("lc", &|point| point.stored_bytes);
    let _ = write!(
        body,
        "<text class=\"dim\" x=\"{left}\" y=\"218\">{}</text>\
         <text class=\"dim\" x=\"{WIDTH}\" y=\"218\" text-anchor=\"end\">{}</text>\
         <line class=\"line la\" x1=\"{left}\" x2=\"120\" y1=\"232\" y2=\"232\"/><text x=\"126\" y=\"236\">data: {}</text>\
         <line class=\"line lc\" x1=\"290\" x2=\"320\" y1=\"232\" y2=\"232\"/><text x=\"326\" y=\"236\">stored: {}</text>",
        seconds_time(first.time),
        seconds_time(last.time),
        size(last.data_bytes),
        size(last.stored_bytes)
    );
    svg(HEIGHT, &body)
}

/// Draws what versions have alone, and what they share.
pub(super) fn shares(shares: &[ImageShare]) -> String {
    let mut shown: Vec<&ImageShare> = shares.iter().collect();
    shown.sort_by_key(|share| std::cmp::Reverse(share.own_bytes.saturating_add(share.shared_bytes)));
    let more = shown.len().saturating_sub(MOST_BARS);
    shown.truncate(MOST_BARS);
    let sum = |share: &ImageShare| share.own_bytes.saturating_add(share.shared_bytes);
    let most = shown.iter().map(|share| sum(share)).max().unwrap_or(0);
    let room = WIDTH - NAMES - 100.0;
    let mut body = String::new();
    for (row, share) in shown.iter().enumerate() {
        let y = row as f64 * ROW;
        let own = ratio(share.own_bytes, most) * room;
        let shared = ratio(share.shared_bytes, most) * room;
        let _ = write!(
            body,
            "<g><title>{}: {} of its own, {} shared</title><text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"a\" x=\"{NAMES}\" y=\"{:.0}\" width=\"{own:.1}\" height=\"14\"/>\
             <rect class=\"b\" x=\"{:.1}\" y=\"{:.0}\" width=\"{shared:.1}\" height=\"14\"/>\
             <text class=\"dim\" x=\"{:.1}\" y=\"{:.0}\">{}</text></g>",
            escaped(&share.image),
            size(share.own_bytes),
            size(share.shared_bytes),
            NAMES - 8.0,
            y + 14.0,
            short(&share.image, NAME_CHARS),
            y + 3.0,
            NAMES + own,
            y + 3.0,
            NAMES + own + shared + 6.0,
            y + 14.0,
            size(sum(share))
        );
    }
    let mut rows = shown.len();
    if more > 0 {
        let y = rows as f64 * ROW + 14.0;
        let _ = write!(
            body,
            "<text class=\"dim\" x=\"{NAMES}\" y=\"{y:.0}\">and {more} more, each smaller</text>"
        );
        rows += 1;
    }
    svg(rows as f64 * ROW + 4.0, &body)
}

/// Draws the similarity of images as a grid.
pub(super) fn similarity(similarity: &Similarity) -> String {
    let count = similarity.images.len().min(MOST_SIMILAR);
    let cell = ((WIDTH - NAMES - 40.0) / count.max(1) as f64).min(40.0);
    let mut body = String::new();
    for (row, (image, cells)) in similarity.images.iter().zip(&similarity.matrix).take(count).enumerate() {
        let y = row as f64 * ROW;
        let _ = write!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            y + 14.0,
            short(image, NAME_CHARS)
        );
        for (column, share) in cells.iter().take(count).enumerate() {
            let x = NAMES + column as f64 * cell;
            let _ = write!(
                body,
                "<g><title>{} and {}: {:.0} %</title>\
                 <rect class=\"a tile\" x=\"{x:.1}\" y=\"{y:.0}\" width=\"{cell:.1}\" height=\"{ROW}\" fill-opacity=\"{:.2}\"/>",
                escaped(image),
                escaped(&similarity.images[column]),
                share * 100.0,
                0.06 + 0.7 * share
            );
            if cell >= 26.0 {
                let _ = write!(
                    body,
                    "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{:.0}</text>",
                    x + cell / 2.0,
                    y + 14.0,
                    share * 100.0
                );
            }
            body.push_str("</g>");
        }
    }
    let mut rows = count;
    if similarity.images.len() > count {
        let more = similarity.images.len() - count;
        let y = rows as f64 * ROW + 14.0;
        let _ = write!(body, "<text class=\"dim\" x=\"{NAMES}\" y=\"{y:.0}\">and {more} more images</text>");
        rows += 1;
    }
    svg(rows as f64 * ROW + 4.0, &body)
}

/// A rectangle of a treemap.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tile {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Divides a rectangle into tiles with areas in proportion to `values`, which are sorted, the largest first: rows along the
/// shorter side, each closed where another tile would make its tiles more oblong (Bruls, Huizing, van Wijk: "Squarified
/// Treemaps", 2000).
fn squarified(values: &[f64], room: Tile) -> Vec<Tile> {
    let mut tiles = Vec::with_capacity(values.len());
    let mut room = room;
    let mut rest = values;
    while !rest.is_empty() {
        // Summed anew: a difference would lose small values beside large ones.
        let sum: f64 = rest.iter().sum();
        let is_wide = room.width >= room.height;
        let (side, depth) = if is_wide { (room.height, room.width) } else { (room.width, room.height) };
        let side = side.max(1e-9);
        let scale = (side * depth.max(1e-9) / sum).max(f64::MIN_POSITIVE);
        // How oblong the worst tile of a row is.
        let worst = |row: &[f64]| {
            let area: f64 = row.iter().sum::<f64>() * scale;
            let thickness = area / side;
            row.iter().fold(0.0, |worst: f64, value| {
                let length = value * scale / thickness;
                worst.max(length / thickness).max(thickness / length)
            })
        };
        let mut taken = 1;
        while taken < rest.len() && worst(&rest[..=taken]) <= worst(&rest[..taken]) {
            taken += 1;
        }
        let row: f64 = rest[..taken].iter().sum();
        let thickness = row * scale / side;
        let mut along = 0.0;
        for value in &rest[..taken] {
            let length = value / row * side;
            tiles.push(match is_wide {
                true => Tile { x: room.x, y: room.y + along, width: thickness, height: length },
                false => Tile { x: room.x + along, y: room.y, width: length, height: thickness },
            });
            along += length;
        }
        match is_wide {
            true => (room.x, room.width) = (room.x + thickness, room.width - thickness),
            false => (room.y, room.height) = (room.y + thickness, room.height - thickness),
        }
        rest = &rest[taken..];
    }
    tiles
}

/// Draws directories as tiles.
pub(super) fn treemap(directories: &[DirectoryBytes]) -> String {
    const HEIGHT: f64 = 420.0;
    let mut sorted: Vec<&DirectoryBytes> =
        directories.iter().filter(|directory| directory.bytes > 0).collect();
    sorted.sort_by_key(|directory| std::cmp::Reverse(directory.bytes));
    let values: Vec<f64> = sorted.iter().map(|directory| directory.bytes as f64).collect();
    let tiles = squarified(&values, Tile { x: 0.0, y: 0.0, width: WIDTH, height: HEIGHT });
    let most = values.first().copied().unwrap_or(1.0);
    let mut body = String::new();
    for ((directory, tile), value) in sorted.iter().zip(tiles).zip(&values) {
        let name = directory.directory.as_deref().unwrap_or("other directories");
        let Tile { x, y, width, height } = tile;
        let _ = write!(
            body,
            "<g><title>{}: {} in {} contents</title><rect class=\"a tile\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" fill-opacity=\"{:.2}\"/>",
            escaped(name),
            size(directory.bytes),
            directory.contents,
            0.15 + 0.6 * (value / most).sqrt()
        );
        // A character is about seven units wide.
        let chars = ((width - 8.0) / 7.0).max(0.0) as usize;
        if chars >= 4 && height >= 18.0 {
            let _ = write!(
                body,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 5.0,
                y + 15.0,
                short(name, chars)
            );
        }
        if chars >= 10 && height >= 34.0 {
            let _ = write!(
                body,
                "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 5.0,
                y + 30.0,
                size(directory.bytes)
            );
        }
        body.push_str("</g>");
    }
    svg(HEIGHT, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_room_in_proportion_and_do_not_overlap() {
        let values = [60.0, 60.0, 40.0, 30.0, 20.0, 20.0, 10.0];
        let tiles = squarified(&values, Tile { x: 0.0, y: 0.0, width: 60.0, height: 40.0 });
        assert_eq!(tiles.len(), values.len());
        for (tile, value) in tiles.iter().zip(values) {
            assert!((tile.width * tile.height - value * 10.0).abs() < 1e-6, "{tile:?}");
            assert!(tile.x >= -1e-9 && tile.x + tile.width <= 60.0 + 1e-6, "{tile:?}");
            assert!(tile.y >= -1e-9 && tile.y + tile.height <= 40.0 + 1e-6, "{tile:?}");
        }
        for (i, a) in tiles.iter().enumerate() {
            for b in &tiles[i + 1..] {
                let apart = a.x + a.width <= b.x + 1e-6
                    || b.x + b.width <= a.x + 1e-6
                    || a.y + a.height <= b.y + 1e-6
                    || b.y + b.height <= a.y + 1e-6;
                assert!(apart, "{a:?} {b:?}");
            }
        }
        // Nothing, one, and very unequal values.
        assert!(squarified(&[], tiles[0]).is_empty());
        assert_eq!(squarified(&[1.0], Tile { x: 0.0, y: 0.0, width: 5.0, height: 5.0 }).len(), 1);
        assert_eq!(squarified(&[1e18, 1.0], Tile { x: 0.0, y: 0.0, width: 5.0, height: 5.0 }).len(), 2);
    }

    #[test]
    fn empty_stores_have_empty_plots() {
        assert_eq!(growth(&[]), "");
        for plot in [shares(&[]), treemap(&[]), similarity(&Similarity { images: vec![], matrix: vec![] })] {
            assert!(plot.starts_with("<svg") && !plot.contains("NaN") && !plot.contains("inf"), "{plot}");
        }
    }
}
