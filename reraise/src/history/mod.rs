//! What became of a service's runs, beyond what its present state says.

pub mod asked;
pub mod deaths;
pub mod events;
pub mod tails;
