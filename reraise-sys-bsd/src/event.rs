//! What a queue reports, and what it needs to know of the system.

use std::io;

use nix::sys::signal::Signal;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// One of the signals that the queue was made for.
    Signal(Signal),
    /// A watched process has ended; its wait status where the kernel tells.
    Ended {
        /// Its process id.
        pid: i32,
        /// As `waitpid(2)` would give it.
        status: Option<i32>,
    },
    /// The descriptor watched under this token has input, or its end.
    Readable(u64),
}

/// How the system tells one process from another with the same pid.
pub trait Identify {
    /// The identity of the living process `pid`; `None` when there is none.
    ///
    /// # Errors
    /// When the system cannot be asked.
    fn born(pid: i32) -> io::Result<Option<u64>>;

    /// The wait status of this very process, if it is a zombie that tells.
    fn exit_status(pid: i32, identity: u64) -> Option<i32>;
}
