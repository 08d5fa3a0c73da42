//! MIF's own on-disk formats: the manifest, the layout and the pack.
