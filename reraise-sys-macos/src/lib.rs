//! What Reraise does differently on macOS: identity and lists of processes from
//! libproc; the waiting is the kqueue of `reraise-sys-bsd`.
//!
//! A leaf: it knows the kernel and nothing of Reraise. The crates for the other
//! systems export the same items; `reraise/src/backend/native.rs` holds the
//! table that proves it at compile time.
//!
//! What macOS does not give: orphans go to launchd, so a process that left its
//! tree is known by its session and environment only; the environment of what
//! is protected (System Integrity Protection) or of another user is not shown;
//! on older kernels the wait status of a process that is not our child is there
//! only while it is a zombie.
#![cfg(target_os = "macos")]

mod libproc;
mod ours;

pub use libproc::{born, children, descendants, exit_status, is_stopped, processes, send};
pub use ours::{
    become_subreaper, boot_id, close_from, disable_pidfd, has_handles, pid_space, set_title,
    variable,
};
pub use reraise_sys_bsd::kqueue::Event;
pub use reraise_sys_bsd::notify::Notify;
pub use reraise_sys_bsd::pipe::{MOVES, Peephole, enlarge, move_bytes, unread};
pub use reraise_sys_bsd::posix::{
    code, discard, first_stack, forget_environment, fork_beside, fork_onto, guard,
    knows_its_children, leave_first_stack, map_memory, memory_counter, memory_kills, parent,
    peek_child, prepare_title, start_beside, usage_of_ended,
};
pub use reraise_sys_bsd::tree::Process;

/// Waits for signals, descriptors and the ends of foreign processes.
pub type EventQueue = reraise_sys_bsd::kqueue::Queue<libproc::Kernel>;

/// Orphans of our descendants go to launchd.
pub const KEEPS_ORPHANS: bool = false;
