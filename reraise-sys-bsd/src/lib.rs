//! What Reraise does differently on the BSDs: identity by start time, waiting by
//! kqueue, processes from sysctl, a reaper where there is one.
//!
//! A leaf: it knows the kernel and nothing of Reraise. The crates for the other
//! systems export the same items; `reraise/src/backend/native.rs` holds the
//! table that proves it at compile time. The modules `kqueue`, `posix`,
//! `sysctl` and `tree` are also compiled on macOS, for `reraise-sys-macos`.
//!
//! | what | FreeBSD | DragonFly | NetBSD | OpenBSD |
//! |---|---|---|---|---|
//! | orphans become our children | yes | yes | no | no |
//! | wait status of a foreign zombie | yes | no | no | no |
//! | environment of another process | yes | no | yes | yes |
//! | what `ps` shows of a worker | `auto-reraise web` | same | `auto-reraise: web` | same |
//! | a number for this boot | random | start of init | start of init | none, see `boot_id` |
//! | a signal between look and kill | can reach a stranger, see `send` | same | same | same |
#![cfg(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "macos"
))]

mod event;
pub mod kqueue;
pub mod notify;
pub mod pipe;
pub mod posix;
pub mod sysctl;
pub mod tree;

cfg_if::cfg_if! {
    if #[cfg(not(target_os = "macos"))] {
        mod identity;
        mod kinfo;
        mod ours;
        mod reaper;

        pub use identity::{boot_id, born, disable_pidfd, exit_status, has_handles, is_stopped, pid_space, send};
        pub use kqueue::Event;
        pub use ours::{children, close_from, descendants, processes, set_title, variable};
        pub use notify::Notify;
        pub use pipe::{MOVES, Peephole, enlarge, move_bytes, unread};
        pub use posix::{code, discard, first_stack, forget_environment, fork_beside, fork_onto, guard, knows_its_children, leave_first_stack, map_memory, memory_counter, memory_kills, parent, peek_child, prepare_title, start_beside, usage_of_ended};
        pub use reaper::{KEEPS_ORPHANS, become_subreaper};
        pub use tree::Process;

        /// Waits for signals, descriptors and the ends of foreign processes.
        pub type EventQueue = kqueue::Queue<identity::Kernel>;
    }
}
