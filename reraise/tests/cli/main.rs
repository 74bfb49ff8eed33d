//! The programs `reraise` and `auto-reraise` themselves, from outside: what they
//! print, what they end with, and what must hold whatever is done to them.
//!
//! A test waits for facts (a line in a FIFO, the end of a process), never for
//! time to pass; every wait has a limit, after which it fails and says what it
//! waited for. Each test has a [`support::Sandbox`] of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod bad_input;
mod bad_places;
mod bad_records;
mod commands;
#[cfg(target_os = "linux")]
mod container;
mod deaths;
mod events;
mod foreground;
mod guarantees;
mod innocent;
mod keeper;
mod lifecycle;
#[cfg(target_os = "linux")]
mod logging;
mod logs;
mod resume;
#[cfg(target_os = "linux")]
mod steps;
mod stopped;
mod support;
mod surroundings;
mod tree;
mod up;
#[cfg(target_os = "linux")]
mod upgrade;
mod why;
