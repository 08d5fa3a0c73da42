//! Sorts, groups and limits lists of results.

use std::cmp::Reverse;

use mif::{DiffReport, PackagesReport, SearchReport, group_hits, group_packages};

use super::args::{ChangeKey, FileKey, PackageKey};

/// Orders packages as requested. Versions are sorted by package first: only those of one package have an order.
pub(super) fn packages(
    report: &mut PackagesReport,
    sort: Option<PackageKey>,
    group: bool,
    limit: Option<usize>,
) {
    let all = &mut report.packages;
    match sort {
        // They are by image already.
        None | Some(PackageKey::Image) => {}
        Some(PackageKey::Name) => all.sort_by(|a, b| (&a.name, &a.image).cmp(&(&b.name, &b.image))),
        Some(PackageKey::Version) => {
            all.sort_by(|a, b| {
                let key = |p: &mif::ImagePackage| (p.name.clone(), p.manager.clone());
                key(a).cmp(&key(b)).then_with(|| b.version_key.cmp(&a.version_key))
            });
        }
    }
    if group {
        let mut groups = group_packages(&std::mem::take(all));
        report.left_out = cut(&mut groups, limit);
        report.groups = Some(groups);
    } else {
        report.left_out = cut(all, limit);
    }
}

/// Orders files as requested.
pub(super) fn hits(report: &mut SearchReport, sort: Option<FileKey>, group: bool, limit: Option<usize>) {
    let all = &mut report.hits;
    match sort {
        None | Some(FileKey::Image) => {}
        Some(FileKey::Path) => all.sort_by(|a, b| (&a.path, &a.image).cmp(&(&b.path, &b.image))),
        Some(FileKey::Size) => all.sort_by_key(|hit| Reverse(hit.size)),
        Some(FileKey::Time) => all.sort_by_key(|hit| Reverse(hit.mtime)),
    }
    if group {
        let mut groups = group_hits(&std::mem::take(all));
        report.left_out = cut(&mut groups, limit);
        report.groups = Some(groups);
    } else {
        report.left_out = cut(all, limit);
    }
}

/// Orders changes as requested; returns the number of those that were left out. Changes of times alone do not count
/// unless `times`: they are folded into one line.
pub(super) fn changes(
    report: &mut DiffReport,
    sort: Option<ChangeKey>,
    times: bool,
    limit: Option<usize>,
) -> u64 {
    if let Some(ChangeKey::Size) = sort {
        report.changes.sort_by_key(|change| {
            let [before, after] = change.sizes.map(|size| size.unwrap_or(0));
            Reverse(before.abs_diff(after))
        });
    }
    let Some(limit) = limit else { return 0 };
    let (mut kept, mut left_out) = (0, 0);
    report.changes.retain(|change| {
        if change.is_times_only() && !times {
            return true;
        }
        let keep = kept < limit;
        kept += usize::from(keep);
        left_out += u64::from(!keep);
        keep
    });
    left_out
}

/// Keeps at most `limit` entries; returns the number of the others.
pub(super) fn cut<T>(list: &mut Vec<T>, limit: Option<usize>) -> u64 {
    let left_out = list.len().saturating_sub(limit.unwrap_or(usize::MAX));
    list.truncate(list.len() - left_out);
    left_out as u64
}
