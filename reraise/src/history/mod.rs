//! What became of a service's runs, beyond what its present state says.

pub mod tails;
