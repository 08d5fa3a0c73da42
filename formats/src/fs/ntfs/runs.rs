//! Runs: where the clusters of an attribute lie. They are stored as "mapping pairs" of a length and the difference between
//! the run's start and that of the run before it, each in as few bytes as needed.

/// The most runs of one attribute.
pub(super) const RUNS_MAX: usize = 1 << 22;

/// Clusters of an attribute that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one's number in the attribute.
    pub(super) vcn: u64,
    /// How many there are: at least one.
    pub(super) count: u64,
    /// The first one's number on the volume; `None` for a hole.
    pub(super) lcn: Option<u64>,
}

impl Run {
    /// Returns the number in the attribute of the cluster after the last one.
    pub(super) fn end(&self) -> u64 {
        self.vcn + self.count
    }
}

/// The bounds of numbers in runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The number of clusters of the volume.
    pub(super) lcns: u64,
    /// The number of clusters whose bytes can be counted.
    pub(super) vcns: u64,
}

/// Appends the runs in `pairs`, of which the first begins at cluster `vcn` of the attribute. Returns the cluster after
/// the last. The error is a predicate without a subject.
pub(super) fn decode(pairs: &[u8], mut vcn: u64, bounds: Bounds, runs: &mut Vec<Run>) -> Result<u64, String> {
    let mut lcn = 0_i64;
    let mut rest = pairs;
    loop {
        let [header, later @ ..] = rest else { return Err("has runs without an end".to_owned()) };
        if *header == 0 {
            return Ok(vcn);
        }
        let (len_size, lcn_size) = (usize::from(header & 0xF), usize::from(header >> 4));
        let (len, later) = later.split_at_checked(len_size).ok_or("has a run that is cut off")?;
        let (delta, later) = later.split_at_checked(lcn_size).ok_or("has a run that is cut off")?;
        rest = later;
        let count = signed(len)
            .filter(|count| *count > 0)
            .ok_or_else(|| format!("has a run with the header {header:#04x} and no length"))?;
        let count = count as u64;
        let end = vcn.checked_add(count).filter(|end| *end <= bounds.vcns);
        let end = end.ok_or_else(|| format!("has a run of {count} clusters"))?;
        let start = if lcn_size == 0 {
            None
        } else {
            let delta = signed(delta).ok_or_else(|| format!("has a run with the header {header:#04x}"))?;
            lcn = lcn.wrapping_add(delta);
            let start = u64::try_from(lcn).ok();
            let fits = start.is_some_and(|start| start.saturating_add(count) <= bounds.lcns);
            // Version 1.2 also has holes at -1.
            if !fits && lcn != -1 {
                return Err(format!(
                    "has a run of {count} clusters at cluster {lcn} of a volume of {}",
                    bounds.lcns
                ));
            }
            start
        };
        let is_full = runs.len() == RUNS_MAX;
        match runs.last_mut() {
            // A long run may be stored in parts.
            Some(last)
                if last.end() == vcn
                    && match (last.lcn, start) {
                        (None, None) => true,
                        (Some(a), Some(b)) => a + last.count == b,
                        _ => false,
                    } =>
            {
                last.count += count;
            }
            _ if is_full => return Err(format!("has more than {RUNS_MAX} runs")),
            _ => runs.push(Run { vcn, count, lcn: start }),
        }
        vcn = end;
    }
}

/// Returns a signed little-endian number of 1 to 8 bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last()? & 0x80 == 0 { 0 } else { 0xFF };
    let mut all = [sign; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { lcns: 0x10000, vcns: 1 << 51 };

    /// The end, and the fields of each run.
    type Decoded = (u64, Vec<(u64, u64, Option<u64>)>);

    fn runs(pairs: &[u8]) -> Result<Decoded, String> {
        let mut runs = Vec::new();
        let end = decode(pairs, 0, BOUNDS, &mut runs)?;
        Ok((end, runs.iter().map(|run| (run.vcn, run.count, run.lcn)).collect()))
    }

    #[test]
    fn starts_are_differences_and_may_go_back() {
        let pairs = [0x21, 0x18, 0x34, 0x56, 0x01, 0x10, 0x11, 0x08, 0xF0, 0x12, 0, 1, 0x40, 0];
        let expected =
            vec![(0, 24, Some(0x5634)), (24, 16, None), (40, 8, Some(0x5624)), (48, 0x100, Some(0x5664))];
        assert_eq!(runs(&pairs), Ok((0x130, expected)));
    }

    #[test]
    fn runs_that_continue_one_another_are_joined() {
        assert_eq!(
            runs(&[0x11, 4, 8, 0x11, 2, 4, 0x01, 1, 0x01, 2, 0]),
            Ok((9, vec![(0, 6, Some(8)), (6, 3, None)]))
        );
    }

    #[test]
    fn holes_of_version_1_2_are_at_minus_1() {
        let expected = vec![(0, 1, Some(4)), (1, 2, None), (3, 1, Some(7))];
        assert_eq!(runs(&[0x11, 1, 4, 0x11, 2, 0xFB, 0x11, 1, 8, 0]), Ok((4, expected)));
    }

    #[test]
    fn a_run_at_cluster_0_is_not_a_hole() {
        assert_eq!(runs(&[0x11, 2, 0, 0]), Ok((2, vec![(0, 2, Some(0))])));
    }

    #[test]
    fn senseless_runs_are_refused() {
        let error = |pairs: &[u8]| runs(pairs).unwrap_err();
        assert!(error(&[]).contains("without an end"));
        assert!(error(&[0x11, 4, 8]).contains("without an end"));
        assert!(error(&[0x21, 4, 8]).contains("cut off"));
        assert!(error(&[0x10, 4, 0]).contains("no length"));
        assert!(error(&[0x11, 0, 4, 0]).contains("no length"));
        assert!(error(&[0x11, 0x80, 4, 0]).contains("no length"));
        assert!(error(&[0x11, 4, 0xFE, 0]).contains("4 clusters at cluster -2"));
        assert!(error(&[0x31, 4, 0xFD, 0xFF, 0, 0]).contains("4 clusters at cluster 65533"));
        assert!(error(&[0x08, 1, 1, 1, 1, 1, 1, 1, 1, 0]).contains("has a run of"));
        assert!(error(&[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]).contains("no length"));
    }
}
