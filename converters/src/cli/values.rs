//! Values of arguments that several verbs parse: sizes and durations.

use std::ops::RangeInclusive;

use mif::Size;

/// Parses a number of bytes, as `--size` does: `4096`, `512M`, `1.5T`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Size::To(bytes)) => Ok(bytes),
        _ => Err("expected a size such as 10M, 500G or 1.5T".to_owned()),
    }
}

/// Parses a size, or a range of sizes: `100M..`, `..4K`, `1K..2K`.
pub(super) fn size_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let Some((low, high)) = text.split_once("..") else { return size(text).map(|n| n..=n) };
    let low = if low.is_empty() { 0 } else { size(low)? };
    let high = if high.is_empty() { u64::MAX } else { size(high)? };
    if low > high {
        return Err("the range ends before it begins".to_owned());
    }
    Ok(low..=high)
}

/// Parses a number with a unit into seconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        "y" => 365 * 86400,
        _ => return Err("expected a number and s, m, h, d, w or y, such as 30d".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, such as 30d".to_owned())?;
    number.checked_mul(seconds).ok_or_else(|| "the duration is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(size_range("100M.."), Ok(100 << 20..=u64::MAX));
        assert_eq!(size_range("..4K"), Ok(0..=4096));
        assert_eq!(size_range("12"), Ok(12..=12));
        assert!(size_range("1G..1M").is_err());
        assert!(size_range("x..").is_err() && size_range("1Q").is_err() && size_range("99999999T").is_err());
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("90d"), Ok(90 * 86400));
        assert_eq!(duration("2h"), Ok(7200));
        for bad in ["", "5", "d", "5 d", "-1d", "99999999999999999999y", "9999999999999999y"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
