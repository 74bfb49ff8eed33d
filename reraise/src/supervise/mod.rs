//! A worker: one service, supervised.
//!
//! `machine`, `policy`, `ladder` and `plan` decide and do nothing;
//! `worker` waits, asks them, and does what they say (`requests` and `ending` are
//! parts of it). All of it is generic over
//! the [`ProcessBackend`](crate::backend::ProcessBackend).

pub mod begin;
mod chronicle;
pub mod company;
mod ending;
pub mod ladder;
pub mod launch;
pub mod link;
pub mod machine;
pub mod news;
pub mod others;
pub mod plan;
pub mod policy;
mod publish;
mod requests;
pub mod strays;
pub mod worker;

#[cfg(test)]
mod tests;
