//! What a supervisor asks of macOS for itself and about its children.

use std::ffi::{CStr, c_char, c_int};
use std::io;

use reraise_sys_bsd::sysctl;

/// There is nothing like it here; for the tests of Linux.
pub fn disable_pidfd() {}

/// Whether a process is held while it is signalled: nothing here does that.
pub fn has_handles() -> bool {
    false
}

/// Makes orphaned descendants our children. `false`: this system cannot.
///
/// # Errors
/// None.
pub fn become_subreaper() -> io::Result<bool> {
    Ok(false)
}

/// A number for this boot: the first half of the UUID `kern.bootsessionuuid`
/// (bsd/kern/kern_sysctl.c of xnu). `kern.boottime` would change with the clock.
///
/// # Errors
/// When the kernel does not have it, or it is no UUID.
pub fn boot_id() -> io::Result<u64> {
    let mut bytes = [0; 64];
    let length = sysctl::read_named(c"kern.bootsessionuuid", &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A number for our pid space; there is but one.
///
/// # Errors
/// None.
pub fn pid_space() -> io::Result<u64> {
    Ok(0)
}

/// The value of a variable in the environment that the process began with
/// (sysctl(3), `KERN_PROCARGS2`). A program may overwrite it, and that of another
/// user's or of a protected program is not shown, so `None` proves nothing.
#[must_use]
pub fn variable(pid: i32, name: &[u8]) -> Option<Vec<u8>> {
    let bytes = sysctl::read_all(&[libc::CTL_KERN, libc::KERN_PROCARGS2, pid]).ok()?;
    let value = |entry: &[u8]| Some(entry.strip_prefix(name)?.strip_prefix(b"=")?.to_vec());
    environment(&bytes).find_map(value)
}

/// The number of arguments, the path of the program, zeros, the arguments, the
/// environment.
fn environment(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (count, rest) = bytes.split_at_checked(size_of::<c_int>()).unwrap_or_default();
    let count = count.try_into().map_or(0, c_int::from_ne_bytes).max(0) as usize;
    let path = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    let zeros = rest[path..].iter().take_while(|&&b| b == 0).count();
    rest[path + zeros..].split(|&b| b == 0).skip(count)
}

/// Closes every descriptor from `first` on: those that the kernel lists
/// (`proc_pidinfo`, `PROC_PIDLISTFDS`), since there is no closefrom here and the
/// limit may be infinite. A guarded descriptor, which some frameworks make and
/// whose close would end us, is none of ours: we call no such framework.
pub fn close_from(first: i32) {
    let us = std::process::id() as c_int;
    let one = size_of::<libc::proc_fdinfo>();
    loop {
        let mut list = vec![libc::proc_fdinfo { proc_fd: -1, proc_fdtype: 0 }; 1024];
        let size = (list.len() * one) as c_int;
        // SAFETY: the buffer is as long as is said.
        let bytes = unsafe {
            libc::proc_pidinfo(us, libc::PROC_PIDLISTFDS, 0, list.as_mut_ptr().cast(), size)
        };
        let count = bytes.max(0) as usize / one;
        let mut closed = false;
        for fd in list[..count].iter().map(|f| f.proc_fd).filter(|&fd| fd >= first) {
            // SAFETY: closing descriptors that nobody uses any more is the
            // point; the callers have just forked or are about to exec.
            closed |= unsafe { libc::close(fd) } == 0;
        }
        // More than fitted: once more, for as long as that closes something.
        if count < list.len() || !closed {
            return;
        }
    }
}

/// What `ps` shows as our command line: written over the arguments, as far as
/// these reach; the environment behind them stays. What is longer is cut, and
/// the arguments are lost (`_NSGetArgv`, crt_externs.h).
pub fn set_title(title: &CStr) {
    // SAFETY: gives the address of a variable that is always there.
    let argc = unsafe { libc::_NSGetArgc() };
    // SAFETY: as above.
    let argv = unsafe { libc::_NSGetArgv() };
    // SAFETY: as above, and nobody writes it.
    let (argc, argv) = (unsafe { *argc }, unsafe { *argv });
    let Some((start, room)) = arguments(argc, argv) else { return };
    let bytes = title.to_bytes();
    let length = bytes.len().min(room - 1);
    // SAFETY: the arguments are `room` bytes of ours, and writable; single-
    // threaded processes call this.
    unsafe { std::ptr::write_bytes(start, 0, room) };
    // SAFETY: as above; the length leaves one zero.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), start, length) };
}

/// Where the arguments begin and how far they reach without a gap.
fn arguments(argc: c_int, argv: *mut *mut c_char) -> Option<(*mut c_char, usize)> {
    let mut whole: Option<(*mut c_char, usize)> = None;
    for index in 0..argc.max(0) as usize {
        // SAFETY: argv has argc entries.
        let entry = unsafe { argv.add(index) };
        // SAFETY: as above.
        let argument = unsafe { *entry };
        if argument.is_null() {
            break;
        }
        // SAFETY: each is a string that ends with a zero.
        let length = unsafe { CStr::from_ptr(argument) }.to_bytes_with_nul().len();
        whole = match whole {
            None => Some((argument, length)),
            Some((start, room)) if start.wrapping_add(room) == argument => {
                Some((start, room + length))
            }
            other => return other,
        };
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_not_the_environment() {
        let mut bytes = 2_i32.to_ne_bytes().to_vec();
        bytes.extend(b"/bin/sh\0\0\0\0sh\0A=1\0B=2\0C=3\0");
        let found: Vec<&[u8]> = environment(&bytes).filter(|e| !e.is_empty()).collect();
        assert_eq!(found, [b"B=2", b"C=3"]);
        assert_eq!(environment(b"").filter(|e| !e.is_empty()).count(), 0);
    }

    #[test]
    fn this_boot_has_one_number() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
