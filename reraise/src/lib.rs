//! Reraise keeps services alive without root.
//!
//! ```text
//! reraise start web ──► keeper ──fork──► auto-reraise web ──fork, exec──► web
//!   (cli)               (keeper)         (supervise)                     (service)
//! ```
//!
//! Read it from the bottom:
//!
//! 1. `reraise-sys-*`: what differs between systems, one crate each.
//! 2. [`backend`]: processes, as everything above knows them; real and in memory.
//! 3. [`paths`], [`name`], [`service`], [`config`]: what users write.
//!    [`record`], [`slot`], [`wanted`], [`context`], [`lock`]: what we write.
//! 4. [`supervise`]: the worker. Its decisions are pure functions.
//! 5. [`keeper`]: forks the workers and replaces them; they replace it.
//! 6. `cli`: the commands, which talk to the keeper by [`control`] frames.
//!
//! A worker is a fork of the keeper without exec, so that a supervised service
//! costs a few private pages. Whatever is killed, somebody else who watches it
//! goes on: a lock for each service proves who supervises it, and the run slot
//! says what.

pub mod backend;
pub mod check;
pub mod config;
pub mod context;
pub mod control;
pub mod error;
pub mod failing;
pub mod history;
pub mod keeper;
pub mod legacy;
pub mod lock;
pub mod logger;
pub mod messages;
pub mod name;
pub mod paths;
pub mod program;
pub mod record;
pub mod revive;
pub mod service;
pub mod skeleton;
pub mod slot;
pub mod supervise;
pub mod version;
pub mod wanted;
pub mod words;
pub mod zone;
