//! What the kernel tells about processes: sysctl(3), `kern.proc` on FreeBSD,
//! DragonFly and OpenBSD, `kern.proc2` on NetBSD. One small module for each
//! system says how it is asked and where the answer has what.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;

use crate::sysctl;

/// One process, as one look at it found it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Info {
    pub(crate) pid: i32,
    pub(crate) ppid: i32,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
    /// Microseconds, as the kernel gives them; not for a zombie on NetBSD and
    /// OpenBSD.
    pub(crate) start: Option<u64>,
    pub(crate) is_dead: bool,
    /// By a signal, or by a tracer.
    pub(crate) is_stopped: bool,
    /// The wait status of a zombie.
    pub(crate) exit: i32,
}

/// What the kernel has of a process, zombies included; `None`: no such pid.
pub(crate) fn of(pid: i32) -> io::Result<Option<Info>> {
    if pid <= 0 {
        return Ok(None);
    }
    match ask(&system::name(system::ONE, pid, 1)) {
        Ok(found) => Ok(found.into_iter().find(|i| i.pid == pid)),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All processes that we may see, zombies included.
pub(crate) fn all() -> io::Result<Vec<Info>> {
    // OpenBSD and NetBSD want to know how many there is room for.
    let most = (i32::MAX as usize / size_of::<system::Record>()) as c_int;
    ask(&system::name(system::ALL, 0, most))
}

fn ask(name: &[c_int]) -> io::Result<Vec<Info>> {
    let answer = sysctl::read_all(name)?;
    let size = size_of::<system::Record>();
    if answer.len() % size != 0 {
        // Another layout than the one that we know.
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer.chunks_exact(size).map(|bytes| system::info(&record(bytes))).collect())
}

/// The bytes as the kernel's structure.
fn record(bytes: &[u8]) -> system::Record {
    assert_eq!(bytes.len(), size_of::<system::Record>());
    let mut record = MaybeUninit::<system::Record>::uninit();
    // SAFETY: both are that long, and they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), record.as_mut_ptr().cast(), bytes.len());
    };
    // SAFETY: every byte is written, and the structure has integers, arrays of
    // them and pointers that are not followed, but for DragonFly's `kp_stat`,
    // whose values the kernel takes from the same enumeration.
    unsafe { record.assume_init() }
}

/// Microseconds from the epoch.
fn micros(seconds: impl Into<i64>, micros: impl Into<i64>) -> u64 {
    (seconds.into() as u64).wrapping_mul(1_000_000).wrapping_add(micros.into() as u64)
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "freebsd")] {
        /// sys/user.h, `struct kinfo_proc`: its size has not changed since
        /// FreeBSD 8, new members use up the spare ones.
        mod system {
            use super::{Info, c_int, micros};
            pub(super) use libc::{
                KERN_PROC_PID as ONE, KERN_PROC_PROC as ALL, kinfo_proc as Record,
            };

            pub(super) fn name(what: c_int, pid: c_int, _most: c_int) -> Vec<c_int> {
                let mut name = vec![libc::CTL_KERN, libc::KERN_PROC, what];
                // KERN_PROC_PROC takes no argument.
                name.extend((what == ONE).then_some(pid));
                name
            }

            pub(super) fn info(r: &Record) -> Info {
                Info {
                    pid: r.ki_pid,
                    ppid: r.ki_ppid,
                    pgid: r.ki_pgid,
                    sid: r.ki_sid,
                    start: Some(micros(r.ki_start.tv_sec, r.ki_start.tv_usec)),
                    is_dead: r.ki_stat == libc::SZOMB,
                    is_stopped: r.ki_stat == libc::SSTOP,
                    exit: i32::from(r.ki_xstat),
                }
            }
        }
    } else if #[cfg(target_os = "dragonfly")] {
        /// sys/kinfo.h, `struct kinfo_proc`.
        mod system {
            use super::{Info, c_int, micros};
            pub(super) use libc::{
                KERN_PROC_ALL as ALL, KERN_PROC_PID as ONE, kinfo_proc as Record,
            };

            pub(super) fn name(what: c_int, pid: c_int, _most: c_int) -> Vec<c_int> {
                let mut name = vec![libc::CTL_KERN, libc::KERN_PROC, what];
                name.extend((what == ONE).then_some(pid));
                name
            }

            pub(super) fn info(r: &Record) -> Info {
                Info {
                    pid: r.kp_pid,
                    ppid: r.kp_ppid,
                    pgid: r.kp_pgid,
                    sid: r.kp_sid,
                    start: Some(micros(r.kp_start.tv_sec, r.kp_start.tv_usec)),
                    is_dead: matches!(r.kp_stat, libc::procstat::SZOMB),
                    is_stopped: matches!(r.kp_stat, libc::procstat::SSTOP),
                    exit: i32::from(r.kp_exitstat),
                }
            }
        }
    } else if #[cfg(target_os = "netbsd")] {
        /// sys/sysctl.h, `struct kinfo_proc2`. `p_uvalid` is 0 exactly for
        /// those that are dying or dead; they have no start time any more.
        mod system {
            use super::{Info, c_int, micros};
            pub(super) use libc::{
                KERN_PROC_ALL as ALL, KERN_PROC_PID as ONE, kinfo_proc2 as Record,
            };

            pub(super) fn name(what: c_int, pid: c_int, most: c_int) -> Vec<c_int> {
                let size = size_of::<Record>() as c_int;
                vec![libc::CTL_KERN, libc::KERN_PROC2, what, pid, size, most]
            }

            pub(super) fn info(r: &Record) -> Info {
                let is_dead = r.p_uvalid == 0;
                let start = micros(r.p_ustart_sec, r.p_ustart_usec);
                Info {
                    pid: r.p_pid,
                    ppid: r.p_ppid,
                    pgid: r.p__pgid,
                    sid: r.p_sid,
                    start: (!is_dead).then_some(start),
                    is_dead,
                    // Of the first thread, which stops with all others.
                    is_stopped: c_int::from(r.p_stat) == libc::LSSTOP,
                    exit: i32::from(r.p_xstat),
                }
            }
        }
    } else {
        /// OpenBSD's sys/sysctl.h, `struct kinfo_proc`. A zombie has no start
        /// time any more.
        mod system {
            use super::{Info, c_int, micros};
            pub(super) use libc::{
                KERN_PROC_ALL as ALL, KERN_PROC_PID as ONE, kinfo_proc as Record,
            };

            /// sys/proc.h; OpenBSD's zombies are called dead.
            const SSTOP: i8 = 4;
            const SZOMB: i8 = 5;
            const SDEAD: i8 = 6;

            pub(super) fn name(what: c_int, pid: c_int, most: c_int) -> Vec<c_int> {
                let size = size_of::<Record>() as c_int;
                vec![libc::CTL_KERN, libc::KERN_PROC, what, pid, size, most]
            }

            pub(super) fn info(r: &Record) -> Info {
                let is_dead = matches!(r.p_stat, SZOMB | SDEAD);
                let start = micros(r.p_ustart_sec as i64, r.p_ustart_usec);
                Info {
                    pid: r.p_pid,
                    ppid: r.p_ppid,
                    pgid: r.p__pgid,
                    sid: r.p_sid,
                    start: (!is_dead).then_some(start),
                    is_dead,
                    is_stopped: r.p_stat == SSTOP,
                    exit: i32::from(r.p_xstat),
                }
            }
        }
    }
}
