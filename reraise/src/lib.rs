//! Reraise.
pub mod backend;
