//! Pipes: what is in them is moved into files by the kernel, so that whoever is
//! killed meanwhile has neither lost nor doubled a byte.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};

/// Whether [`move_bytes`] is one step, of which nothing is lost when its caller dies.
pub const MOVES: bool = true;

/// Moves bytes from a pipe to an offset of a file (splice(2)): each of them is in one
/// of the two, whatever happens. How many; `WouldBlock` when the pipe is empty.
///
/// # Errors
/// As `splice(2)`; `EINVAL` for a file that was opened with `O_APPEND`.
pub fn move_bytes(
    pipe: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    most: usize,
) -> io::Result<usize> {
    let mut offset = offset.cast_signed();
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    loop {
        match splice(pipe, None, file, Some(&mut offset), most, flags) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A look into pipes that takes nothing out of them.
#[derive(Debug)]
pub struct Peephole(OwnedFd, OwnedFd);

impl Peephole {
    /// One that shows as much as a pipe holds.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn new() -> io::Result<Self> {
        let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self(out, into))
    }

    /// The first bytes in a pipe (tee(2)); none when it is empty.
    ///
    /// # Errors
    /// As `tee(2)` and `read(2)`.
    pub fn look(&self, pipe: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let seen = match tee(pipe, self.1.as_fd(), into.len(), flags) {
            Ok(seen) => seen,
            Err(Errno::EAGAIN) => return Ok(0),
            Err(e) => return Err(e.into()),
        };
        let mut got = 0;
        while got < seen {
            got += nix::unistd::read(self.0.as_fd(), &mut into[got..seen])?;
        }
        Ok(got)
    }
}

/// How many bytes are in a pipe (FIONREAD, pipe(7)).
#[must_use]
pub fn unread(pipe: BorrowedFd<'_>) -> usize {
    use std::os::fd::AsRawFd;
    let mut count: libc::c_int = 0;
    // SAFETY: the pointer is to a live integer, which is what this request writes.
    let answer = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if answer == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Lets a pipe hold more (F_SETPIPE_SZ, fcntl(2)). That a user has reached the limit
/// for all their pipes is no failure.
pub fn enlarge(pipe: BorrowedFd<'_>, bytes: i32) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn what_is_seen_stays_and_what_is_moved_goes() {
        let (out, mut into) = io::pipe().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        into.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(unread(out.as_fd()), 8);
        let mut buffer = [0; 5];
        let hole = Peephole::new().unwrap();
        assert_eq!(hole.look(out.as_fd(), &mut buffer).unwrap(), 5);
        assert_eq!(&buffer, b"one\nt");
        assert_eq!(move_bytes(out.as_fd(), file.as_fd(), 3, 4).unwrap(), 4);
        assert_eq!(unread(out.as_fd()), 4);
        assert_eq!(move_bytes(out.as_fd(), file.as_fd(), 7, 100).unwrap(), 4);
        let empty = move_bytes(out.as_fd(), file.as_fd(), 11, 100).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(hole.look(out.as_fd(), &mut buffer).unwrap(), 0);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\0\0\0one\ntwo\n");
    }
}
