//! A pid is a number that the kernel gives away again. A process is known here
//! by its pid and by something that does not come back: the inode of its pidfd
//! (pidfs, Linux 6.9), or its start time in ticks since boot where there is no
//! pidfs. The inode is unique for the life of the kernel; two processes can
//! share pid and tick only when pids wrap round within 10 ms.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::statfs::FsType;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::proc::Stat;

/// Marks an identity that is a start time, so that it never equals an inode.
const IS_TIME: u64 = 1 << 63;
/// `statfs(2)` type of a pidfd since Linux 6.9 (include/uapi/linux/magic.h).
const PID_FS_MAGIC: FsType = FsType(0x5049_4446);

/// What this kernel offers; found out once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// pidfd_open and pidfs.
    Inode = 1,
    /// pidfd_open (5.3), but all pidfds share one inode.
    Time = 2,
    /// No pidfd_open: pids and start times only.
    Bare = 3,
}

static KIND: AtomicU8 = AtomicU8::new(0);

fn kind() -> Kind {
    match KIND.load(Ordering::Relaxed) {
        1 => Kind::Inode,
        2 => Kind::Time,
        3 => Kind::Bare,
        _ => {
            let found = probe();
            KIND.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

fn probe() -> Kind {
    match pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Err(_) => Kind::Bare,
        Ok(fd) => match nix::sys::statfs::fstatfs(&fd) {
            Ok(fs) if fs.filesystem_type() == PID_FS_MAGIC => Kind::Inode,
            _ => Kind::Time,
        },
    }
}

/// Behaves from now on as on a kernel without pidfd_open (before 5.3). For
/// tests of that path; identities from before the call mean nothing after it.
pub fn disable_pidfd() {
    KIND.store(Kind::Bare as u8, Ordering::Relaxed);
}

/// A pidfd for `pid`; `None` when there is no such process, or no pidfd here.
pub(crate) fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = positive(pid) else { return Ok(None) };
    if kind() == Kind::Bare {
        return Ok(None);
    }
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // EINVAL: the pid is a thread; a thread group leader is what we know.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether a process is held while it is signalled (pidfd_open, Linux 5.3), so
/// that a signal cannot reach another one that gets its pid just then.
pub fn has_handles() -> bool {
    has_pidfd()
}

pub(crate) fn has_pidfd() -> bool {
    kind() != Kind::Bare
}

fn positive(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}

/// Whether the process behind a pidfd has ended (a zombie has).
fn has_ended(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut one = [PollFd::new(fd, PollFlags::POLLIN)];
    Ok(poll(&mut one, PollTimeout::ZERO)? > 0)
}

fn identity_of(pid: i32, fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    if kind() == Kind::Inode {
        return Ok(Some(nix::sys::stat::fstat(fd)?.st_ino));
    }
    Ok(Stat::of(pid)?.map(|s| s.start | IS_TIME))
}

/// What tells this process from any other with the same pid, or `None` when no
/// such process lives. A zombie does not live.
///
/// # Errors
/// Whatever `pidfd_open(2)` or procfs answer besides "no such process".
pub fn born(pid: i32) -> io::Result<Option<u64>> {
    if positive(pid).is_none() {
        return Ok(None);
    }
    if kind() == Kind::Bare {
        return Ok(Stat::of(pid)?.filter(|s| !s.is_dead()).map(|s| s.start | IS_TIME));
    }
    let Some(fd) = open(pid)? else { return Ok(None) };
    // The order matters: a process seen alive after it was identified was alive
    // when it was identified, so the number read is its own.
    let found = identity_of(pid, fd.as_fd())?;
    if has_ended(fd.as_fd())? { Ok(None) } else { Ok(found) }
}

/// Sends a signal to the process `pid` if it is still the one that was `born`.
/// `false`: that one is gone. The pidfd holds the identity between the
/// comparison and the signal; without pidfd_open a few microseconds remain.
///
/// # Errors
/// `EPERM` for a process of another user, as `pidfd_send_signal(2)`.
pub fn send(pid: i32, identity: u64, signal: Signal) -> io::Result<bool> {
    if !has_pidfd() {
        if born(pid)? != Some(identity) {
            return Ok(false);
        }
        return match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::ESRCH) => Ok(false),
            Err(e) => Err(e.into()),
        };
    }
    let Some(fd) = open(pid)? else { return Ok(false) };
    // The kernel accepts a signal for a zombie; nobody would get it.
    if identity_of(pid, fd.as_fd())? != Some(identity) || has_ended(fd.as_fd())? {
        return Ok(false);
    }
    // Every signal that nix names exists in rustix under the same number.
    let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match pidfd_send_signal(&fd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The wait status of a process that is not our child and has ended: from its
/// zombie (`/proc/PID/stat`, field 52, Linux 3.5), or, when its parent has
/// reaped it already, from the pidfd that was opened before (`PIDFD_GET_INFO`,
/// Linux 6.15). `None`: the kernel does not tell.
pub fn exit_status(pid: i32, identity: u64, held: Option<BorrowedFd<'_>>) -> Option<i32> {
    // A zombie that has this pid may be another one.
    let is_it = |fd: &OwnedFd| identity_of(pid, fd.as_fd()).is_ok_and(|is| is == Some(identity));
    let own = match held {
        None if kind() == Kind::Inode => Some(open(pid).ok().flatten().filter(is_it)?),
        _ => None,
    };
    let held = held.or(own.as_ref().map(AsFd::as_fd));
    if let Ok(Some(stat)) = Stat::of(pid)
        && stat.is_dead()
        && (kind() == Kind::Inode || stat.start | IS_TIME == identity)
        && held.is_none_or(|fd| !is_reaped(fd))
    {
        return Some(stat.exit);
    }
    held.and_then(reaped_status)
}

fn is_reaped(fd: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::new(fd, PollFlags::POLLIN)];
    let asked = poll(&mut one, PollTimeout::ZERO);
    asked.is_ok() && one[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP))
}

/// `struct pidfd_info`, version 0, from include/uapi/linux/pidfd.h.
#[repr(C)]
#[derive(Default)]
#[expect(unreachable_pub, reason = "the ioctl macro makes a public function")]
pub struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const PIDFD_INFO_EXIT: u64 = 1 << 3;

mod ioctl {
    nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, super::PidfdInfo);
}

fn reaped_status(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the descriptor is open, and the kernel writes at most the size
    // that the request number encodes, which is that of `PidfdInfo`.
    unsafe { ioctl::pidfd_get_info(fd.as_raw_fd(), &raw mut info) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_of_version_0() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }

    #[test]
    fn no_number_below_one_is_a_process() {
        for pid in [0, -1, i32::MIN] {
            assert_eq!(born(pid).unwrap(), None);
            assert!(!send(pid, 0, Signal::SIGKILL).unwrap());
        }
    }

    #[test]
    fn we_are_alive_and_the_same_each_time() {
        let us = std::process::id() as i32;
        let first = born(us).unwrap();
        assert!(first.is_some());
        assert_eq!(born(us).unwrap(), first);
    }

    #[test]
    fn a_zombie_tells_how_it_ended_and_another_one_does_not() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        // It has a number while it is a zombie, too.
        let identity = match kind() {
            Kind::Inode => identity_of(pid, open(pid).unwrap().unwrap().as_fd()).unwrap().unwrap(),
            _ => Stat::of(pid).unwrap().unwrap().start | IS_TIME,
        };
        while crate::peek_child(false).unwrap().is_none_or(|(other, _)| other != pid) {
            std::thread::yield_now();
        }
        assert_eq!(exit_status(pid, identity, None), Some(3 << 8));
        assert_eq!(exit_status(pid, identity ^ 1, None), None);
        child.wait().unwrap();
        assert_eq!(exit_status(pid, identity, None), None);
    }

    #[test]
    fn a_signal_for_another_birth_is_not_sent() {
        let us = std::process::id() as i32;
        let other = born(us).unwrap().unwrap() ^ 1;
        assert!(!send(us, other, Signal::SIGKILL).unwrap());
    }
}
