//! What a supervisor asks of the kernel for itself, the same on all systems
//! with a kqueue.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe};

/// Our parent's pid, as it is now (`getppid(2)`).
#[must_use]
pub fn parent() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// Whether a process knows of all that has become of its children: not to be told
/// here without looking at each of them.
///
/// # Errors
/// None.
pub fn knows_its_children(_pid: i32) -> io::Result<bool> {
    Ok(false)
}

/// A child of ours that has ended, with its wait status; it stays a zombie
/// until it is waited for (`waitid(2)`, `WNOWAIT`; OpenBSD has it since
/// 7.3). `Ok(None)`: there are children, and none has ended. `ECHILD`: there are
/// none at all. `or_stopped`: also one that a signal has stopped, until that is
/// taken note of.
///
/// # Errors
/// `ECHILD`, see above.
pub fn peek_child(or_stopped: bool) -> io::Result<Option<(i32, i32)>> {
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let stopped = if or_stopped { libc::WSTOPPED } else { 0 };
    let flags = libc::WEXITED | stopped | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live siginfo_t.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled in the SIGCHLD members, or left zeros.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let value = unsafe { info.si_status() };
    // FreeBSD and macOS give more than eight bits of an exit code.
    let status = match info.si_code {
        libc::CLD_EXITED => (value & 0xff) << 8,
        libc::CLD_DUMPED => (value & 0x7f) | 0x80,
        libc::CLD_STOPPED => (value & 0x7f) << 8 | 0x7f,
        _ => value & 0x7f,
    };
    Ok(Some((pid, status)))
}

/// Where the kernel counts what it has killed for memory: nowhere here.
#[must_use]
pub fn memory_counter() -> Option<PathBuf> {
    None
}

/// How many that were.
#[must_use]
pub fn memory_kills(_counter: &Path) -> Option<u64> {
    None
}

/// What a child of ours has used that has ended and was not waited for: not to be told
/// everywhere without waiting for it.
#[must_use]
pub fn usage_of_ended(_pid: i32) -> Option<(u64, u64)> {
    None
}

/// Forks a grandchild whose parent is not us: the child between ends at once
/// and is waited for here. `None` in the grandchild. There is no `CLONE_PARENT`
/// here: the grandchild belongs to init, or to the nearest reaper, which is
/// ourselves after `become_subreaper`; its `parent` changes shortly after it
/// has begun. `SIGCHLD` comes for the one between.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`, as `fork(2)`; `EMFILE`, as `pipe(2)`.
///
/// # Safety
/// The process must be single-threaded, as with `fork`.
pub unsafe fn fork_beside() -> io::Result<Option<Pid>> {
    let (read, write) = pipe()?;
    // SAFETY: single-threaded, says our caller.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(write);
            let mut answer = [0; size_of::<i32>()];
            let told = File::from(read).read_exact(&mut answer);
            while waitpid(child, None) == Err(Errno::EINTR) {}
            told?;
            match i32::from_ne_bytes(answer) {
                errno if errno <= 0 => Err(io::Error::from_raw_os_error(-errno)),
                pid => Ok(Some(Pid::from_raw(pid))),
            }
        }
        ForkResult::Child => {
            drop(read);
            let mut write = File::from(write);
            // SAFETY: as above; this process is a copy of a single-threaded one.
            let (answer, code) = match unsafe { fork() } {
                // The grandchild speaks for itself: then it is known even if
                // the one between is killed.
                Ok(ForkResult::Child) => (getpid().as_raw(), None),
                Ok(ForkResult::Parent { .. }) => (0, Some(0)),
                Err(e) => (-(e as i32), Some(1)),
            };
            if code != Some(0) {
                // Nobody listens any more: our caller is dead, and we go on.
                let _ = write.write_all(&answer.to_ne_bytes());
            }
            match code {
                None => Ok(None),
                // SAFETY: ends this process without anything of its parent's
                // being flushed or freed.
                Some(code) => unsafe { libc::_exit(code) },
            }
        }
    }
}

/// Forks a child that runs `run(argument)` (fork(2)), on a copy of our stack:
/// another one is for systems that count a process's pages as its price.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`.
///
/// # Safety
/// The process must be single-threaded, and `run` must not return.
pub unsafe fn fork_onto(
    _stack: *mut [u8],
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let code = run(argument);
            // SAFETY: it should not have come back; nothing is cleaned up.
            unsafe { libc::_exit(code) }
        }
    }
}

/// As [`fork_onto`]: the process has a copy of all that it is given (fork(2)).
///
/// # Errors
/// `EAGAIN` or `ENOMEM`.
///
/// # Safety
/// `run` does not return, does not allocate, and calls only what is safe in a signal
/// handler, before it executes a program.
pub unsafe fn start_beside(
    stack: *mut [u8],
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<i32> {
    // SAFETY: the caller's promise, which makes up for other threads.
    unsafe { fork_onto(stack, run, argument) }
}

/// The first stack is kept here, see [`fork_onto`].
#[must_use]
pub fn first_stack() -> Option<(usize, usize)> {
    None
}

/// Nothing has to be looked up for a title here.
pub fn prepare_title() {}

/// See [`first_stack`].
pub fn leave_first_stack(_first: (usize, usize)) {}

/// The environment stays where it is.
pub fn forget_environment() {}

/// See [`first_stack`].
pub fn guard(_page: usize) {}

/// New memory, zeroed; private memory is not inherited by a fork (minherit(2),
/// which all BSDs and macOS have; `INHERIT_NONE` is 2 in every sys/mman.h, and
/// `VM_INHERIT_NONE` likewise). It is never given back.
///
/// # Errors
/// `ENOMEM`.
pub fn map_memory(length: usize, is_private: bool) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
    // SAFETY: new memory at an address of the kernel's choice affects nobody.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if is_private {
        // SAFETY: the inheritance is that of the mapping that was just made. If
        // it cannot be set, a fork inherits more than it must.
        unsafe { minherit(start, length, 2) };
    }
    Ok(start.cast())
}

/// What [`discard`] could take of code and constants: nothing here.
#[must_use]
pub fn code() -> Vec<(usize, usize)> {
    Vec::new()
}

/// Gives pages back to the kernel. Here nothing is done: the advice that frees
/// memory at once and reads as zeros afterwards is Linux's alone.
pub fn discard(_start: usize, _length: usize) {}

// Not in the libc crate for every system.
unsafe extern "C" {
    fn minherit(
        start: *mut libc::c_void,
        length: libc::size_t,
        inheritance: libc::c_int,
    ) -> libc::c_int;
}
