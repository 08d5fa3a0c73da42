//! Compares the content of two files, and shows the differences of texts.

use std::time::Duration;

use mif_formats::Source;
use similar::TextDiff;

use super::report::Change;
use crate::error::Result;
use crate::tree::view::Tree;

/// How many bytes are read at once.
const PIECE: usize = 1 << 20;

/// Files larger than this, in bytes, are not compared as text.
const MAX_TEXT: u64 = 4 << 20;

/// How long to look for the shortest difference between two texts. After that, the result may be longer than necessary.
const PATIENCE: Duration = Duration::from_millis(500);

/// Returns true if two regular files have the same content, by digest if both have one. Two unreadable files count as
/// the same; both readers warn about them.
pub(super) fn same_content(trees: [&Tree; 2], rows: [Option<usize>; 2]) -> Result<bool> {
    let [Some(i), Some(j)] = rows else { return Ok(false) };
    let (x, y) = (&trees[0].rows()[i], &trees[1].rows()[j]);
    if x.node.size != y.node.size {
        return Ok(false);
    }
    if let (Some(x), Some(y)) = (x.object(), y.object())
        && x == y
    {
        return Ok(true);
    }
    if let (Some(x), Some(y)) = (x.blake3(), y.blake3()) {
        return Ok(x == y);
    }
    match (trees[0].content(i), trees[1].content(j)) {
        (Ok(x), Ok(y)) => same_bytes(&*x, &*y),
        (Err(_), Err(_)) => Ok(true),
        _ => Ok(false),
    }
}

/// Calls `use_piece` with each piece of `sources`, which are equally long, until it returns false.
fn each_piece<const N: usize>(
    sources: [&dyn Source; N],
    mut use_piece: impl FnMut([&[u8]; N]) -> bool,
) -> Result<bool> {
    let mut buffers =
        sources.map(|source| vec![0; PIECE.min(usize::try_from(source.len()).unwrap_or(PIECE))]);
    let (mut start, len) = (0, sources[0].len());
    while start < len {
        let here = (len - start).min(PIECE as u64) as usize;
        for (source, buffer) in sources.iter().zip(&mut buffers) {
            source.read_at(start, &mut buffer[..here])?;
        }
        if !use_piece(std::array::from_fn(|i| &buffers[i][..here])) {
            return Ok(false);
        }
        start += here as u64;
    }
    Ok(true)
}

fn same_bytes(x: &dyn Source, y: &dyn Source) -> Result<bool> {
    Ok(x.len() == y.len() && each_piece([x, y], |[x, y]| x == y)?)
}

/// Returns BLAKE3 of a regular file's content, which is read if the tree has no digest; `None` if it cannot be read.
pub(super) fn digest(tree: &Tree, row: usize) -> Result<Option<[u8; 32]>> {
    if let Some(known) = tree.rows()[row].blake3() {
        return Ok(Some(known));
    }
    let Ok(content) = tree.content(row) else { return Ok(None) };
    let mut hasher = blake3::Hasher::new();
    each_piece([&*content], |[piece]| {
        hasher.update(piece);
        true
    })?;
    Ok(Some(*hasher.finalize().as_bytes()))
}

/// Returns the differences of a changed file as text; `None` if it is not text on both sides.
pub(super) fn text_difference(trees: [&Tree; 2], change: &Change) -> Result<Option<String>> {
    let mut texts = [String::new(), String::new()];
    for side in [0, 1] {
        // What does not exist is compared as an empty text.
        let Some(row) = change.rows[side] else { continue };
        if trees[side].rows()[row].node.size > MAX_TEXT {
            return Ok(None);
        }
        let Ok(content) = trees[side].content(row) else { return Ok(None) };
        let bytes = content.read_vec(0, content.len() as usize)?;
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => texts[side] = text,
            _ => return Ok(None),
        }
    }
    if texts[0] == texts[1] {
        return Ok(None);
    }
    let name = format!("{}:{}", change.volume, change.path);
    let header = |side: usize, prefix: &str| match change.rows[side] {
        Some(_) => format!("{prefix}/{name}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&texts[0], &texts[1]);
    Ok(Some(diff.unified_diff().header(&header(0, "a"), &header(1, "b")).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mif_formats::MemSource;

    #[test]
    fn bytes_are_compared_to_the_end() {
        let source = |last| MemSource([vec![1; PIECE + 5], vec![last]].concat());
        assert!(same_bytes(&source(1), &source(1)).unwrap());
        assert!(!same_bytes(&source(1), &source(2)).unwrap());
        assert!(!same_bytes(&source(1), &MemSource(vec![1; 5])).unwrap());
    }
}
