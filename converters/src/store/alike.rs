//! Lists that are alike, such as the objects of an image and of its clone: which entries of one are in the other.

/// Looks up entries of a list, in order, in a list that is like it. Finds nearly all of those that are in both, in a time that
/// grows with what differs. So a caller must have another way for those that are not found.
pub(crate) struct Alike<'l, T> {
    list: &'l [T],
    /// The place after the entry that was found last.
    at: usize,
    /// How many entries were not found since.
    missed: usize,
}

/// How far ahead an entry is looked for: after a few that were not found farther, because much may have been removed; after
/// many no longer, because that takes too long.
const NEAR: usize = 4;
const FAR: usize = 512;
const TRIES: usize = 64;

impl<'l, T: PartialEq> Alike<'l, T> {
    pub(crate) fn new(list: &'l [T]) -> Self {
        Alike { list, at: 0, missed: 0 }
    }

    /// Returns the place of an entry that equals the next one of the other list.
    pub(crate) fn find(&mut self, next: &T) -> Option<usize> {
        let ahead = match self.missed {
            0..TRIES => (NEAR << self.missed.min(16)).min(FAR),
            _ => NEAR,
        };
        let found = self.list[self.at..].iter().take(ahead).position(|entry| entry == next);
        match found {
            Some(skipped) => {
                self.at += skipped + 1;
                self.missed = 0;
                Some(self.at - 1)
            }
            None => {
                self.missed += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &[u32], next: &[u32]) -> Vec<u32> {
        let mut alike = Alike::new(list);
        let places = next.iter().filter_map(|entry| Some((alike.find(entry)?, *entry)));
        places
            .map(|(place, entry)| (list[place], entry))
            .map(|(a, b)| (a == b).then_some(a).unwrap())
            .collect()
    }

    #[test]
    fn entries_in_both_lists_are_found_around_those_that_differ() {
        let list: Vec<u32> = (0..1000).collect();
        assert_eq!(found(&list, &list), list);
        let changed: Vec<u32> = list.iter().map(|n| if n % 100 == 7 { n + 5000 } else { *n }).collect();
        assert_eq!(found(&list, &changed).len(), 990);
        let mut longer = list.clone();
        longer.splice(500..500, 5000..5300);
        assert_eq!(found(&list, &longer), list);
        // After many removed ones, only the first few are missed.
        assert!(found(&longer, &list).len() > 980);
        assert!(found(&[], &list).is_empty() && found(&list, &[]).is_empty());
        assert!(found(&list, &[2000, 3000]).is_empty());
    }
}
