//! The layout: its body alone, because zstd checks compressed bytes; and the file as stored.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::mif::layout::Layout;
use mif_fuzz::Bases;

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("layout"));

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, file)) = BASES.decode(input) else { return Corpus::Reject };
    let file = file.bytes();
    if let Ok((layout, _)) = Layout::decode(&file) {
        check(&layout);
    }
    Corpus::Keep
});

fn check(layout: &Layout) {
    let mut end = 0;
    for segment in layout.segments() {
        assert!(segment.range.start == end && segment.range.end > end);
        end = segment.range.end;
    }
    assert_eq!(end, layout.disk_size());
    let (again, _) = layout.encode();
    let (again, _) = Layout::decode(&again).expect("what was encoded decodes");
    assert!(again.segments().eq(layout.segments()) && again.objects() == layout.objects());
}
