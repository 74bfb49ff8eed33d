//! What Reraise does differently on Linux: process identity by pidfs, waiting
//! by epoll, descendants from procfs, a child subreaper.
//!
//! A leaf: it knows the kernel and nothing of Reraise. The crates for the other
//! systems export the same items; `reraise/src/backend/native.rs` holds the
//! table that proves it at compile time.
//!
//! | item | what it answers |
//! |---|---|
//! | [`born`] | which process is this, beyond its pid |
//! | [`send`] | a signal to that very process, never to a stranger |
//! | [`EventQueue`] | signals, deaths of processes that are not our children, readable descriptors |
//! | [`processes`], [`children`], [`descendants`], [`variable`] | who belongs to whom |
//! | [`peek_child`], [`exit_status`], [`usage_of_ended`] | how a process ended |
//! | [`memory_counter`], [`memory_kills`] | whether something was killed for want of memory |
//! | [`is_stopped`] | whether somebody has stopped it |
//! | [`knows_its_children`] | whether it has heard of all its children's ends |
//! | [`become_subreaper`], [`fork_beside`], [`set_title`], [`close_from`] | what we ask for ourselves |
#![cfg(target_os = "linux")]

mod identity;
mod memory;
mod notify;
mod ours;
mod pipe;
mod proc;
mod queue;

pub use identity::{born, disable_pidfd, exit_status, has_handles, send};
pub use memory::{memory_counter, memory_kills};
pub use notify::Notify;
pub use ours::{
    become_subreaper, close_from, code, discard, first_stack, forget_environment, fork_beside,
    fork_onto, guard, leave_first_stack, map_memory, parent, peek_child, prepare_title, set_title,
    start_beside, usage_of_ended,
};
pub use pipe::{MOVES, Peephole, enlarge, move_bytes, unread};
pub use proc::{
    Process, boot_id, children, descendants, is_stopped, knows_its_children, pid_space, processes,
    variable,
};
pub use queue::{Event, EventQueue};

/// Orphans of our descendants become our children (`prctl(2)`,
/// `PR_SET_CHILD_SUBREAPER`, Linux 3.4): a tree that we started cannot escape.
pub const KEEPS_ORPHANS: bool = true;
