//! The program `mif`.

fn main() {}
