//! What a supervisor decides, apart from what it does.
pub mod ladder;
pub mod policy;
