//! Protection against torn writes: the last two bytes of each sector of a record hold a number that changes with every
//! write, and the bytes that belong there are kept in the record's header.

use crate::bytes::le16;

/// The usual unit in bytes, whatever the sectors of the disk are.
const STRIDE: usize = 512;

/// The largest unit: some systems use the sectors of the disk.
const STRIDE_MAX: usize = 4096;

/// Puts the bytes back in a record with this magic. The error is a predicate without a subject.
pub(super) fn apply(magic: &[u8; 4], record: &mut [u8]) -> Result<(), String> {
    if !record.starts_with(magic) {
        let found = record[..4].escape_ascii();
        return Err(format!("begins with \"{found}\", expected \"{}\"", magic.escape_ascii()));
    }
    let (start, count) = (usize::from(le16(record, 4)), usize::from(le16(record, 6)));
    let sectors = count.saturating_sub(1);
    let stride = record.len().checked_div(sectors).unwrap_or(0);
    if !(STRIDE..=STRIDE_MAX).contains(&stride)
        || stride * sectors != record.len()
        || !stride.is_power_of_two()
    {
        return Err(format!("has {count} numbers in its update sequence, for {} bytes", record.len()));
    }
    // The sequence lies in the first sector, before the bytes it protects.
    if start < 8 || start + 2 * count > STRIDE - 2 {
        return Err(format!("has its update sequence at byte {start}"));
    }
    let number = le16(record, start);
    for sector in 1..=sectors {
        let end = sector * stride - 2;
        if le16(record, end) != number {
            return Err(format!(
                "is torn: sector {sector} of {sectors} has the number {:#06x}, expected {number:#06x}",
                le16(record, end)
            ));
        }
        let kept = start + 2 * sector;
        record.copy_within(kept..kept + 2, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<u8> {
        let mut record = vec![0; 1024];
        record[..8].copy_from_slice(b"FILE\x30\0\x03\0");
        record[0x30..0x36].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        (record[510], record[1022]) = (7, 7);
        record
    }

    #[test]
    fn the_last_bytes_of_sectors_are_put_back() {
        let mut bytes = record();
        apply(b"FILE", &mut bytes).unwrap();
        assert_eq!((&bytes[510..512], &bytes[1022..]), (&[1, 2][..], &[3, 4][..]));
    }

    #[test]
    fn torn_and_senseless_records_are_refused() {
        let error = |at: usize, new: u8| {
            let mut bytes = record();
            bytes[at] = new;
            apply(b"FILE", &mut bytes).unwrap_err()
        };
        assert_eq!(error(1022, 8), "is torn: sector 2 of 2 has the number 0x0008, expected 0x0007");
        assert!(error(0, b'B').contains("begins with \"BILE\""));
        assert!(error(6, 9).contains("has 9 numbers"));
        assert!(error(6, 0).contains("has 0 numbers"));
        assert!(error(5, 2).contains("at byte 560"));
        assert!(error(4, 2).contains("at byte 2"));
    }
}
