//! What services say, kept.

pub mod index;
pub mod names;
