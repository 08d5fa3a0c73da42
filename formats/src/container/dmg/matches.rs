//! Matches, which all of Apple's compressions have: bytes that were decoded before, copied.

/// Copies a match of `len` bytes from `distance` back. Source and target may overlap.
pub(super) fn copy(out: &mut [u8], done: usize, distance: usize, len: usize) -> Result<(), &'static str> {
    if len == 0 {
        return Ok(());
    }
    let from = done.checked_sub(distance).filter(|_| distance > 0).ok_or("a match begins before the data")?;
    if len > out.len() - done {
        return Err("it is too long");
    }
    for i in 0..len {
        out[done + i] = out[from + i];
    }
    Ok(())
}
