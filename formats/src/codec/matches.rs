//! Matches of the LZ77 codecs: bytes that were decoded before.

/// Copies `len` bytes from `distance` bytes earlier to byte `done` of `out`, which may overlap. Returns the end.
pub(super) fn copy(out: &mut [u8], done: usize, distance: usize, len: usize) -> Result<usize, String> {
    if distance == 0 || distance > done {
        return Err(format!("has a match {distance} bytes before byte {done}"));
    }
    if len > out.len() - done {
        return Err(format!("has a match of {len} bytes at byte {done} of {}", out.len()));
    }
    if distance >= len {
        out.copy_within(done - distance..done - distance + len, done);
    } else {
        for at in done..done + len {
            out[at] = out[at - distance];
        }
    }
    Ok(done + len)
}
