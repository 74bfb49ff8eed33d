//! Descriptors that outlive an `execve(2)` of ours.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first after the standard three.
const FIRST: i32 = 3;

/// Whether a descriptor is to be open in the program that we execute next.
///
/// # Errors
/// None is known for one that is open.
pub fn set_inherited(descriptor: impl AsFd, is_inherited: bool) -> io::Result<()> {
    let flags = if is_inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes a descriptor over that the program before us has left open for us.
///
/// # Errors
/// `EBADF` when it has not; and for the standard three, which are not ours alone.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    if number < FIRST {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: a number is asked about; EBADF is an answer.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and was left for us: nothing here owns it yet.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    set_inherited(&descriptor, false)?;
    Ok(descriptor)
}

/// Closes every descriptor but the standard three and these.
pub fn close_all_but(kept: &[i32]) {
    let last = kept.iter().copied().max().unwrap_or(0).max(FIRST - 1);
    for number in (FIRST..last).filter(|number| !kept.contains(number)) {
        // SAFETY: to be called before anything is opened here; EBADF is harmless.
        unsafe { libc::close(number) };
    }
    super::native::close_from(last + 1);
}
