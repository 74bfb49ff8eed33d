//! Pipes. No call here moves bytes from a pipe to a file, so that what was read and
//! not written yet is lost with whoever has read it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Whether [`move_bytes`] is one step, of which nothing is lost when its caller dies.
pub const MOVES: bool = false;

/// Bytes of one step.
const STEP: usize = 64 << 10;

/// Reads from a pipe and writes to an offset of a file (read(2), pwrite(2)). How
/// many; `WouldBlock` when the pipe is empty.
///
/// # Errors
/// As `read(2)` and `pwrite(2)`; what was read is lost then.
pub fn move_bytes(
    pipe: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    most: usize,
) -> io::Result<usize> {
    let mut buffer = vec![0; most.min(STEP)];
    let mut pipe = File::from(pipe.try_clone_to_owned()?);
    let file = File::from(file.try_clone_to_owned()?);
    let got = pipe.read(&mut buffer)?;
    file.write_all_at(&buffer[..got], offset)?;
    Ok(got)
}

/// A look into pipes that takes nothing out of them: there is none here.
#[derive(Debug)]
pub struct Peephole;

impl Peephole {
    /// One that shows nothing.
    ///
    /// # Errors
    /// None.
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Nothing.
    ///
    /// # Errors
    /// None.
    pub fn look(&self, _pipe: BorrowedFd<'_>, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

/// How many bytes are in a pipe (FIONREAD: fifo(4) of FreeBSD; filio of NetBSD, where
/// as on OpenBSD, DragonFly and macOS a named pipe may answer 0).
#[must_use]
pub fn unread(pipe: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the pointer is to a live integer, which is what this request writes.
    let answer = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if answer == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Lets a pipe hold more: these systems do that by themselves (pipe(2) of FreeBSD).
pub fn enlarge(_pipe: BorrowedFd<'_>, _bytes: i32) {}
