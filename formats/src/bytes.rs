//! Reads integers from byte slices. The caller checks the length: parsers take a whole structure (`&[u8]` of its size)
//! and read fields at constant offsets.

macro_rules! readers {
    ($($le:ident $be:ident $int:ty;)*) => {$(
        #[doc = concat!("The little-endian `", stringify!($int), "` at byte `at`.")]
        #[allow(dead_code)]
        pub(crate) fn $le(bytes: &[u8], at: usize) -> $int {
            const SIZE: usize = size_of::<$int>();
            <$int>::from_le_bytes(bytes[at..at + SIZE].try_into().expect("sliced to size"))
        }
        #[doc = concat!("The big-endian `", stringify!($int), "` at byte `at`.")]
        #[allow(dead_code)]
        pub(crate) fn $be(bytes: &[u8], at: usize) -> $int {
            const SIZE: usize = size_of::<$int>();
            <$int>::from_be_bytes(bytes[at..at + SIZE].try_into().expect("sliced to size"))
        }
    )*};
}
readers! {
    le16 be16 u16;
    le32 be32 u32;
    le64 be64 u64;
}
