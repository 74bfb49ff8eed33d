//! Reraise.
pub mod backend;
pub mod config;
pub mod name;
pub mod skeleton;
pub mod supervise;
