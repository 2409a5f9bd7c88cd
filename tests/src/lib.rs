//! Whole-system stories; see `main.rs`.
