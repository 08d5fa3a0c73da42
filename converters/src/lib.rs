//! The store, and what the program does with it.
