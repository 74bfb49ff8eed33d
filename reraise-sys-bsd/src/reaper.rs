//! Orphans that come back to us: procctl(2) of FreeBSD 10.2 and DragonFly 4.0.

use std::io;

/// Orphans of our descendants become our children: a tree that we started
/// cannot escape. NetBSD and OpenBSD give them to init.
pub const KEEPS_ORPHANS: bool = cfg!(any(target_os = "freebsd", target_os = "dragonfly"));

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))] {
        /// Makes descendants that are forked and orphaned from now on our
        /// children (`procctl(2)`, `PROC_REAP_ACQUIRE`). Not inherited by
        /// fork(2). `false`: this system cannot.
        ///
        /// # Errors
        /// None that procctl(2) names, but for a kernel without it.
        pub fn become_subreaper() -> io::Result<bool> {
            let us = std::process::id() as libc::id_t;
            let null = std::ptr::null_mut();
            // SAFETY: this command takes no data.
            let answer = unsafe { libc::procctl(libc::P_PID, us, libc::PROC_REAP_ACQUIRE, null) };
            match answer {
                0 => Ok(true),
                _ => match io::Error::last_os_error() {
                    // We are one already.
                    e if e.raw_os_error() == Some(libc::EBUSY) => Ok(true),
                    // DragonFly says it so.
                    e if e.raw_os_error() == Some(libc::EALREADY) => Ok(true),
                    e => Err(e),
                },
            }
        }
    } else {
        /// Makes orphaned descendants our children. `false`: this system cannot.
        ///
        /// # Errors
        /// None.
        pub fn become_subreaper() -> io::Result<bool> {
            Ok(false)
        }
    }
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "freebsd")] {
        use std::ffi::{c_int, c_uint};

        /// `struct procctl_reaper_status` from sys/procctl.h.
        #[repr(C)]
        #[derive(Default)]
        struct Status {
            flags: c_uint,
            children: c_uint,
            descendants: c_uint,
            reaper: libc::pid_t,
            pid: libc::pid_t,
            spare: [c_uint; 15],
        }

        /// `struct procctl_reaper_pidinfo` from sys/procctl.h.
        #[repr(C)]
        #[derive(Default, Clone, Copy)]
        struct Member {
            pid: libc::pid_t,
            subtree: libc::pid_t,
            flags: c_uint,
            spare: [c_uint; 15],
        }

        /// `struct procctl_reaper_pids` from sys/procctl.h.
        #[repr(C)]
        struct Members {
            count: c_uint,
            spare: [c_uint; 15],
            list: *mut Member,
        }

        // sys/procctl.h.
        const REAPER_STATUS_OWNED: c_uint = 1;
        const REAPER_PIDINFO_VALID: c_uint = 1;

        fn ask<T>(command: c_int, data: &mut T) -> bool {
            let us = std::process::id() as libc::id_t;
            // SAFETY: both callers give the structure of their command, which
            // the kernel fills.
            unsafe { libc::procctl(libc::P_PID, us, command, (&raw mut *data).cast()) == 0 }
        }

        /// Our descendants if we are a reaper (`procctl(2)`, `PROC_REAP_GETPIDS`),
        /// but not those of another reaper below us. Zombies are among them.
        pub(crate) fn descendants() -> Vec<i32> {
            let mut status = Status::default();
            // For any other process the list would be that of *its* reaper.
            if !ask(libc::PROC_REAP_STATUS, &mut status)
                || status.flags & REAPER_STATUS_OWNED == 0
            {
                return Vec::new();
            }
            let mut room = status.descendants as usize + 16;
            loop {
                let mut list = vec![Member::default(); room];
                let mut members =
                    Members { count: room as c_uint, spare: [0; 15], list: list.as_mut_ptr() };
                if !ask(libc::PROC_REAP_GETPIDS, &mut members) {
                    return Vec::new();
                }
                let valid = list.iter().take_while(|m| m.flags & REAPER_PIDINFO_VALID != 0);
                let found: Vec<i32> = valid.map(|m| m.pid).collect();
                if found.len() < room {
                    return found;
                }
                room *= 2;
            }
        }
    } else {
        /// No list of them here; their parents tell.
        pub(crate) fn descendants() -> Vec<i32> {
            Vec::new()
        }
    }
}
