//! Lists of processes, and what a supervisor asks for itself.

use std::ffi::CStr;
use std::io;

use crate::tree::{Process, below};
use crate::{kinfo, reaper};

/// All living processes that we may see (sysctl(3), `KERN_PROC_PROC`,
/// `KERN_PROC_ALL`); zombies are left out.
///
/// # Errors
/// When the kernel does not answer, or with a structure that we do not know.
pub fn processes() -> io::Result<Vec<Process>> {
    let alive = kinfo::all()?.into_iter().filter(|i| !i.is_dead);
    Ok(alive.map(|i| Process { pid: i.pid, ppid: i.ppid, pgid: i.pgid, sid: i.sid }).collect())
}

/// The living children of a process.
///
/// # Errors
/// As [`processes`].
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    Ok(processes()?.into_iter().filter(|p| p.ppid == pid).map(|p| p.pid).collect())
}

/// The living descendants of a process, by their parents. Our own are taken
/// from the reaper too where the kernel keeps such a list (FreeBSD), since a
/// look at all processes can miss one that is being forked.
///
/// # Errors
/// As [`processes`].
pub fn descendants(root: i32) -> io::Result<Vec<i32>> {
    let mut found = vec![root];
    if root == std::process::id() as i32 {
        found.extend(reaper::descendants());
    }
    // A zombie may have children that have not been given to their reaper yet.
    let all = kinfo::all()?;
    let tree: Vec<Process> = all
        .iter()
        .map(|i| Process { pid: i.pid, ppid: i.ppid, pgid: i.pgid, sid: i.sid })
        .collect();
    found.extend(below(&tree, &found));
    found.retain(|&pid| pid != root && !all.iter().any(|i| i.pid == pid && i.is_dead));
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "dragonfly")] {
        /// The value of a variable in the environment that the process began with.
        /// DragonFly does not tell, so always `None`, which proves nothing.
        #[must_use]
        pub fn variable(_pid: i32, _name: &[u8]) -> Option<Vec<u8>> {
            None
        }
    } else {
        /// The value of a variable in the environment that the process began with
        /// (sysctl(3), `KERN_PROC_ENV`). A program may overwrite it, and another
        /// user's is not shown, so `None` proves nothing.
        #[must_use]
        pub fn variable(pid: i32, variable: &[u8]) -> Option<Vec<u8>> {
            let name = if cfg!(target_os = "freebsd") {
                [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_ENV, pid]
            } else {
                [libc::CTL_KERN, libc::KERN_PROC_ARGS, pid, libc::KERN_PROC_ENV]
            };
            // OpenBSD puts pointers before the strings; the last one is null,
            // so that the first string too follows a zero.
            let environ = crate::sysctl::read_all(&name).ok()?;
            let value =
                |entry: &[u8]| Some(entry.strip_prefix(variable)?.strip_prefix(b"=")?.to_vec());
            environ.split(|&b| b == 0).find_map(value)
        }
    }
}

/// Closes every descriptor from `first` on (`closefrom(2)`; `closefrom(3)` on
/// NetBSD).
pub fn close_from(first: i32) {
    // SAFETY: closing descriptors that nobody uses any more is the point; the
    // callers have just forked or are about to exec.
    unsafe { libc::closefrom(first) };
}

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))] {
        /// What `ps` shows as our command line (`setproctitle(3)`; the dash keeps
        /// the name of the program from being put before it).
        pub fn set_title(title: &CStr) {
            // SAFETY: the format takes one string, and that is given; it is copied.
            unsafe { libc::setproctitle(c"-%s".as_ptr(), title.as_ptr()) };
        }
    } else {
        /// What `ps` shows as our command line (`setproctitle(3)`). NetBSD and
        /// OpenBSD put the name of the program and a colon before it in any case,
        /// so that the first word, which is that name, is left out here. A dash
        /// they would show.
        pub fn set_title(title: &CStr) {
            let title = without_first_word(title);
            // SAFETY: the format takes one string, and that is given; it is copied.
            unsafe { libc::setproctitle(c"%s".as_ptr(), title.as_ptr()) };
        }

        /// What follows the first space; all of it where there is none.
        fn without_first_word(title: &CStr) -> &CStr {
            let bytes = title.to_bytes_with_nul();
            let rest = bytes.iter().position(|&b| b == b' ').map_or(bytes, |at| &bytes[at + 1..]);
            CStr::from_bytes_with_nul(rest).unwrap_or(title)
        }

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn the_name_of_the_program_is_not_said_twice() {
                for (title, shown) in [(c"auto-reraise web", c"web"), (c"web", c"web"), (c"", c"")] {
                    assert_eq!(without_first_word(title), shown);
                }
            }
        }
    }
}
