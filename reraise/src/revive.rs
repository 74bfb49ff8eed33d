//! Keeper and workers that somebody has stopped (SIGSTOP): they are continued,
//! since nobody else could do their work, and what is stopped does not say so.
//!
//! Nobody looks for them while nothing happens. A keeper hears of its children
//! from the kernel. Everybody else looks at whom they have something to say to,
//! or have been waiting for.

use std::io;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::backend::native;
use crate::lock::{self, Holder};

/// Continues a process if it is stopped; it counts that itself. `false`: it is
/// not.
///
/// # Errors
/// When the system cannot be asked, or the process is another user's.
pub fn process(pid: i32) -> io::Result<bool> {
    if !native::is_stopped(pid)? {
        return Ok(false);
    }
    match native::born(pid)? {
        Some(born) => native::send(pid, born, Signal::SIGCONT),
        None => Ok(false),
    }
}

/// Continues whoever holds a lock, if they are stopped.
///
/// # Errors
/// As [`process`], or when the lock cannot be asked for.
pub fn holder(path: &Path, byte: i64) -> io::Result<bool> {
    match lock::holder_of(path, byte)? {
        Holder::Pid(pid) => process(pid),
        Holder::Nobody | Holder::Elsewhere => Ok(false),
    }
}

/// The same for the keeper that has this state directory, and for one that is
/// just coming or going.
pub fn keeper(state: &Path) {
    let path = state.join("keeper.lock");
    // Whoever asks does so again, or cannot do more.
    for byte in [lock::ALIVE, lock::CHANGING] {
        let _ = holder(&path, byte);
    }
}
