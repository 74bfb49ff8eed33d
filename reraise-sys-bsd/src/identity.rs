//! A pid is a number that the kernel gives away again. A process is known here
//! by its pid and its start time in microseconds; OpenBSD draws pids at random,
//! the others count through all of them before one comes again. FreeBSD and
//! OpenBSD keep the time since boot and add the boot time when they are asked
//! (`fill_kinfo_proc`, `fill_kproc`), so that a step of the clock changes the
//! answer: `kern.boottime` is taken off again. NetBSD and DragonFly keep the
//! time of day at the fork, which stays.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kinfo::{self, Info};
use crate::kqueue::Identify;

/// For [`crate::EventQueue`].
#[derive(Debug)]
pub struct Kernel;

impl Identify for Kernel {
    fn born(pid: i32) -> io::Result<Option<u64>> {
        born(pid)
    }

    fn exit_status(pid: i32, identity: u64) -> Option<i32> {
        exit_status(pid, identity, None)
    }
}

/// There is nothing like it here; for the tests of Linux.
pub fn disable_pidfd() {}

/// Whether a process is held while it is signalled: nothing here does that.
pub fn has_handles() -> bool {
    false
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "freebsd", target_os = "openbsd"))] {
        /// Microseconds from the epoch (`kern.boottime`, sysctl(3)).
        fn boot_time() -> io::Result<u64> {
            let name = [libc::CTL_KERN, libc::KERN_BOOTTIME];
            let mut bytes = [0; size_of::<libc::timeval>()];
            if crate::sysctl::read(&name, &mut bytes)? != bytes.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // SAFETY: a timeval has the size of the bytes and is two integers.
            let time: libc::timeval = unsafe { std::mem::transmute(bytes) };
            Ok(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64)
        }

        /// What the kernel has of a process, and the boot time that its start
        /// time was made with.
        fn look(pid: i32) -> io::Result<Option<(Info, u64)>> {
            let mut before = boot_time()?;
            loop {
                let info = kinfo::of(pid)?;
                let after = boot_time()?;
                // The clock was set in between.
                if before == after {
                    return Ok(info.map(|i| (i, after)));
                }
                before = after;
            }
        }
    } else {
        fn look(pid: i32) -> io::Result<Option<(Info, u64)>> {
            Ok(kinfo::of(pid)?.map(|i| (i, 0)))
        }
    }
}

/// OpenBSD rounds the sum of boot and start time, so that the difference can be
/// one microsecond less after a step of the clock. With milliseconds that is
/// seen once in a thousand steps, and pids at random need no more.
const STEP: u64 = if cfg!(target_os = "openbsd") { 1000 } else { 1 };

fn identity((info, boot): &(Info, u64)) -> Option<u64> {
    info.start.map(|start| start.wrapping_sub(*boot) / STEP)
}

/// What tells this process from any other with the same pid, or `None` when no
/// such process lives, or none that we may see (`security.bsd.see_other_uids`,
/// security(7)). A zombie does not live. See sysctl(3), `KERN_PROC_PID`.
///
/// # Errors
/// When the kernel does not answer, or with a structure that we do not know.
pub fn born(pid: i32) -> io::Result<Option<u64>> {
    Ok(look(pid)?.filter(|(info, _)| !info.is_dead).as_ref().and_then(identity))
}

/// Whether a process has been stopped and not been continued. `false` when there
/// is none. See sysctl(3), `KERN_PROC_PID`.
///
/// # Errors
/// When the kernel does not answer.
pub fn is_stopped(pid: i32) -> io::Result<bool> {
    Ok(kinfo::of(pid)?.is_some_and(|info| info.is_stopped))
}

/// Sends a signal to the process `pid` if it is still the one that was `born`.
/// `false`: that one is gone. Compared immediately before kill(2); there is no
/// handle that would hold the pid in between. For our own child it cannot be
/// given away before we wait for it. For any other process a stranger would be
/// hit only if in these few microseconds that one ended, was reaped, and the
/// same pid was given away again.
///
/// # Errors
/// `EPERM` for a process of another user, as `kill(2)`.
pub fn send(pid: i32, identity: u64, signal: Signal) -> io::Result<bool> {
    if born(pid)? != Some(identity) {
        return Ok(false);
    }
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The wait status of a process that is not our child and has ended, from its
/// zombie (`ki_xstat`), as long as that is there. `None`: the kernel does not
/// tell; on NetBSD and OpenBSD never, since a zombie has no start time to know it
/// by, nor on DragonFly, where it is not found by its pid (`pfind`). What
/// [`crate::EventQueue`] reports is surer.
pub fn exit_status(pid: i32, identity: u64, _held: Option<BorrowedFd<'_>>) -> Option<i32> {
    let found = look(pid).ok()??;
    (found.0.is_dead && self::identity(&found) == Some(identity)).then_some(found.0.exit)
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "freebsd")] {
        /// A number for this boot: `kern.boot_id`, 16 random bytes, of which the
        /// first half; on a kernel without it (before FreeBSD 13) the second of
        /// the boot time, which steps of the clock change.
        ///
        /// # Errors
        /// When the kernel has no random numbers yet.
        pub fn boot_id() -> io::Result<u64> {
            let mut bytes = [0; 16];
            match crate::sysctl::read_named(c"kern.boot_id", &mut bytes) {
                Ok(16) => Ok(u64::from_be_bytes(bytes[..8].try_into().unwrap_or_default())),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(boot_time()? / 1_000_000),
                Ok(_) => Err(io::ErrorKind::InvalidData.into()),
                Err(e) => Err(e),
            }
        }

        /// A number for what we see of the processes: a jail (jail(8)) has the
        /// pids of its host, but sees only its own. 0 for the host; in a jail
        /// its root directory, since it does not know its own number.
        ///
        /// # Errors
        /// When the root directory cannot be asked.
        pub fn pid_space() -> io::Result<u64> {
            let mut jailed = [0; 4];
            let read = crate::sysctl::read_named(c"security.jail.jailed", &mut jailed);
            if read.is_err() || jailed == [0; 4] {
                return Ok(0);
            }
            let root = nix::sys::stat::stat("/")?;
            Ok(root.st_dev.rotate_left(32) ^ root.st_ino | 1)
        }
    } else {
        /// A number for this boot. NetBSD and DragonFly: when init started,
        /// which unlike `kern.boottime` no step of the clock changes. OpenBSD
        /// has no such number, so it is 0: there the start times count from the
        /// boot, and pids are random, so that one of another boot is known as
        /// a stranger anyway. A number that changes within a boot would be
        /// worse: it would make a second copy of what lives.
        ///
        /// # Errors
        /// When the kernel does not answer.
        pub fn boot_id() -> io::Result<u64> {
            if cfg!(target_os = "openbsd") { Ok(0) } else { Ok(born(1)?.unwrap_or(0)) }
        }

        /// A number for our pid space; there is but one.
        ///
        /// # Errors
        /// None.
        pub fn pid_space() -> io::Result<u64> {
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_signal_for_another_birth_is_not_sent() {
        let us = std::process::id() as i32;
        let other = born(us).unwrap().unwrap() ^ 1;
        assert!(!send(us, other, Signal::SIGKILL).unwrap());
    }
}
