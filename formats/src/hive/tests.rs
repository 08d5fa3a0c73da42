//! Tests with hives that are made here, and with their damage. `formats/tests/it/hive.rs` has those of other programs.

use super::*;
use crate::bytes::le32;
use crate::error::ErrorKind;

/// A hive in the making: its bins.
struct Bins(Vec<u8>);

impl Bins {
    fn new() -> Self {
        let mut header = b"hbin".to_vec();
        header.resize(32, 0);
        Bins(header)
    }

    fn cell(&mut self, data: &[u8]) -> u32 {
        let (offset, size) = (self.0.len(), (4 + data.len()).next_multiple_of(8));
        self.0.extend((-(size as i32)).to_le_bytes());
        self.0.extend(data);
        self.0.resize(offset + size, 0);
        offset as u32
    }

    fn words(&mut self, start: &[u8], words: &[u32]) -> u32 {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.cell(&[start, &words].concat())
    }

    /// A list of keys, of a type whose entries have `width` words.
    fn list(&mut self, kind: &[u8; 2], keys: &[u32], width: usize) -> u32 {
        let count = (keys.len() as u16).to_le_bytes();
        let words: Vec<u32> = keys.iter().flat_map(|key| [*key, 0xAAAA].into_iter().take(width)).collect();
        self.words(&[&kind[..], &count].concat(), &words)
    }

    fn key(&mut self, name: &[u8], flags: u16, subkeys: (u32, u32), values: &[u32]) -> u32 {
        let list = if values.is_empty() { NONE } else { self.words(&[], values) };
        let mut data = [b"nk", &flags.to_le_bytes()[..]].concat();
        data.resize(76, 0);
        let fields = [(20, subkeys.0), (28, subkeys.1), (36, values.len() as u32), (40, list)];
        for (at, field) in fields.into_iter().chain([(72, name.len() as u32)]) {
            data[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        data.extend(name);
        self.cell(&data)
    }

    fn value(&mut self, name: &[u8], flags: u16, kind: u32, size: u32, data: u32) -> u32 {
        let mut value = [b"vk", &(name.len() as u16).to_le_bytes()[..]].concat();
        value.extend([size, data, kind].iter().flat_map(|word| word.to_le_bytes()));
        value.extend([&flags.to_le_bytes()[..], &[0; 2], name].concat());
        self.cell(&value)
    }

    /// The hive with a root key.
    fn hive(mut self, root: u32) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(4096), 0);
        let mut hive = b"regf".to_vec();
        hive.resize(base::LEN, 0);
        for (at, word) in [(20, 1), (24, 5), (32, 1), (36, root)] {
            hive[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
        }
        base::seal(&mut hive, 7, self.0.len() as u32);
        hive.extend(self.0);
        hive
    }
}

fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A hive with lists and values of all kinds.
fn sample() -> Vec<u8> {
    let mut bins = Bins::new();
    let text = bins.cell(&units("some text\0rest"));
    let (first, second) = (bins.cell(&vec![b'a'; 16_344]), bins.cell(&[b'b'; 100]));
    let segments = bins.words(&[], &[first, second]);
    let big = bins.words(b"db\x02\0", &[segments]);
    let values = [
        bins.value(b"Text", 1, 1, 28, text),
        bins.value(&units("Größe"), 0, 4, 1 << 31 | 4, 77),
        bins.value(b"", 1, 3, 16_444, big),
        bins.value(b"nothing", 1, 2, 0, NONE),
    ];
    let leaf = |bins: &mut Bins, name: &[u8]| bins.key(name, 0x20, (0, NONE), &[]);
    let names: Vec<u32> =
        [b"a", b"b", b"c", b"d", b"e"].iter().map(|name| leaf(&mut bins, &name[..])).collect();
    let lists = [
        bins.list(b"lh", &names[..2], 2),
        bins.list(b"li", &names[2..3], 1),
        bins.list(b"lf", &names[3..], 2),
    ];
    let index = bins.list(b"ri", &lists, 1);
    let inner = bins.key(&units("Ключ"), 0, (5, index), &values);
    let list = bins.list(b"lh", &[inner], 2);
    let root = bins.key(b"r\xF6\xF6t", 0x2C, (1, list), &[]);
    bins.hive(root)
}

/// Everything that a hive has, as text; fails with the first error.
fn dump(hive: &[u8]) -> Result<String> {
    fn add(key: &Key<'_>, depth: usize, out: &mut String) -> Result<()> {
        out.push_str(&format!("{depth} {}\n", key.name()));
        for value in key.values()? {
            let value = value?;
            let data = value.data()?;
            let sum: usize = data.iter().map(|byte| usize::from(*byte)).sum();
            out.push_str(&format!("{}={}:{} bytes, {sum}", value.name(), value.kind(), data.len()));
            out.push_str(&format!(" {:?} {:?}\n", value.text()?, value.number()?));
        }
        // Damage can make a key its own descendant.
        for subkey in key.subkeys()?.take(if depth < 6 { usize::MAX } else { 0 }) {
            add(&subkey?, depth + 1, out)?;
        }
        Ok(())
    }
    let (hive, mut out) = (Hive::parse(hive)?, String::new());
    add(&hive.root()?, 0, &mut out)?;
    Ok(out)
}

#[test]
fn lists_and_values_of_all_kinds_are_read() {
    let sum = 16_344 * 97 + 100 * 98;
    let expected = format!(
        "0 rööt\n1 Ключ\nText=1:28 bytes, 1292 Some(\"some text\") None\nGröße=4:4 bytes, 77 None Some(77)\n\
         =3:16444 bytes, {sum} None None\nnothing=2:0 bytes, 0 Some(\"\") None\n2 a\n2 b\n2 c\n2 d\n2 e\n"
    );
    let sample = sample();
    let text: usize = units("some text\0rest").iter().map(|byte| usize::from(*byte)).sum();
    assert_eq!(dump(&sample).unwrap(), expected.replace("1292", &text.to_string()));
    let hive = Hive::parse(&sample).unwrap();
    assert!(hive.is_clean());
    let key = hive.key(r"кЛЮЧ").unwrap().unwrap();
    assert_eq!(key.text("tExT").unwrap().as_deref(), Some("some text"));
    assert_eq!((key.number("GRÖSSE").unwrap(), key.number("GRÖßE").unwrap()), (None, Some(77)));
    assert_eq!((key.number("Text").unwrap(), key.text("Größe").unwrap()), (None, None));
    assert!(hive.key(r"Ключ\E").unwrap().is_some() && hive.key(r"Ключ\f").unwrap().is_none());
}

#[test]
fn a_base_block_that_is_none_is_refused_and_a_dirty_one_is_known() {
    let sample = sample();
    let changed = |at: usize, to: u8| {
        let mut hive = sample.clone();
        hive[at] = to;
        hive
    };
    let kind = |hive: &[u8]| Hive::parse(hive).err().map(|error| error.kind());
    assert_eq!(kind(&sample[..4095]), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&changed(0, b'R')), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&changed(24, 2)), Some(ErrorKind::Unsupported));
    assert_eq!(kind(&changed(28, 6)), Some(ErrorKind::Corrupt));
    assert!(!Hive::parse(&changed(4, 8)).unwrap().is_clean());
    assert!(!Hive::parse(&changed(100, 8)).unwrap().is_clean(), "the checksum does not fit");
    assert!(dump(&changed(36, 0xF8)).unwrap_err().to_string().contains("hive cell"));
}

/// A list of 60,000 lists, which all are one list of 60,000 keys, which all are one key.
#[test]
fn a_small_hive_that_claims_billions_of_keys_ends_with_limit() {
    let mut bins = Bins::new();
    let leaf = bins.key(b"x", 0x20, (0, NONE), &[]);
    let list = bins.list(b"li", &vec![leaf; 60_000], 1);
    let index = bins.list(b"ri", &vec![list; 60_000], 1);
    let root = bins.key(b"root", 0x20, (9, index), &[]);
    let hive = bins.hive(root);
    let hive = Hive::parse(&hive).unwrap();
    let root = hive.root().unwrap();
    let error = root.subkey("y").err().expect("the search ends");
    assert_eq!(error.kind(), ErrorKind::Limit);
}

/// A log with an entry for each of these changes: sequence number, size of the bins, and a page.
fn log(entries: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut log = sample()[..512].to_vec();
    log[28] = 6;
    base::seal(&mut log, entries[0].0, entries[0].1);
    for (sequence, bins, at, page) in entries {
        let size = (48 + page.len()).next_multiple_of(512) as u32;
        let words = [size, 0, *sequence, *bins, 1];
        let mut entry = b"HvLE".to_vec();
        entry.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        entry.resize(40, 0);
        entry.extend([*at, page.len() as u32].iter().flat_map(|word| word.to_le_bytes()));
        entry.extend(*page);
        entry.resize(size as usize, 0);
        let sum = marvin::marvin(&entry[40..]);
        entry[24..32].copy_from_slice(&sum.to_le_bytes());
        let sum = marvin::marvin(&entry[..32]);
        entry[32..40].copy_from_slice(&sum.to_le_bytes());
        log.extend(entry);
    }
    log
}

/// The sample in an earlier state: without its second half, and its checksum.
fn dirty() -> (Vec<u8>, Vec<u8>, usize) {
    let (whole, half) = (sample(), 8192);
    let mut dirty = whole[..half].to_vec();
    dirty[4] = 8;
    (whole, dirty, half)
}

#[test]
fn what_logs_have_is_added_in_the_order_of_its_numbers() {
    let (mut whole, dirty, half) = dirty();
    let bins = (whole.len() - 4096) as u32;
    let middle = half + 4096;
    let at = |byte: usize| (byte - 4096) as u32;
    let first = log(&[(6, bins, 0, b"stale"), (7, bins, at(half), &vec![1; whole.len() - half])]);
    let second = log(&[(8, bins, at(half), &whole[half..middle]), (9, bins, at(middle), &whole[middle..])]);
    for logs in [[&first[..], &second[..]], [&second, &first]] {
        let mut hive = dirty.clone();
        assert!(recover(&mut hive, &logs).unwrap());
        base::seal(&mut whole, 9, bins);
        assert!(hive == whole);
        assert!(Hive::parse(&hive).unwrap().is_clean() && recover(&mut hive, &[]).unwrap());
    }
    // An entry is missing, or damaged.
    let gap = log(&[(9, bins, 0, b"late")]);
    assert!(!recover(&mut dirty.clone(), &[&first, &gap]).unwrap());
    let mut damaged = first.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(!recover(&mut dirty.clone(), &[&damaged]).unwrap());
    assert!(!recover(&mut dirty.clone(), &[]).unwrap());
    // Bins that grow by more than the log has.
    let mut hive = dirty.clone();
    assert!(!recover(&mut hive, &[&log(&[(8, 1 << 31, 0, b"hbin")])]).unwrap());
    assert_eq!(hive.len(), dirty.len());
}

#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_hives_and_their_logs_are_read_or_refused() {
    let sample = sample();
    let (_, dirty, half) = dirty();
    let log = log(&[(7, (sample.len() - 4096) as u32, (half - 4096) as u32, &sample[half..])]);
    let used = 4096 + le32(&sample, 36) as usize;
    let (mut read, mut refused, mut complete) = (0, 0, 0);
    for seed in 0..30_000 {
        let mut dice = crate::testing::Dice::new(seed);
        let mut hive = sample.clone();
        // The big value's bytes are not interesting.
        dice.mutate(&mut hive, &[0..48, 4096..4160, used - 1200..used + 100]);
        if dice.roll(10) == 0 {
            hive.truncate(dice.roll(sample.len()));
        }
        match dump(&hive) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
        let (mut hive, mut log) = (dirty.clone(), log.clone());
        dice.mutate(&mut log, &[0..48, 512..568]);
        dice.mutate(&mut hive, &[0..48, 504..512]);
        complete += u32::from(recover(&mut hive, &[&log]).is_ok_and(|complete| complete));
        assert!(hive.len() <= dirty.len() + log.len());
    }
    assert!(read > 1000 && refused > 1000 && complete > 10, "{read} {refused} {complete}");
}
