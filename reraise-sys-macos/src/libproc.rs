//! What libproc tells (libproc.h, sys/proc_info.h). A process is known by its
//! pid and a number that the kernel counts up for each process and never gives
//! twice within a boot; it stays through exec(2).

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use reraise_sys_bsd::kqueue::Identify;
use reraise_sys_bsd::tree::Process;

/// bsd/sys/proc_info_private.h of xnu; not in the SDK, but of a
/// fixed layout ("this structure is API"). Needs no privilege.
const PROC_PIDUNIQIDENTIFIERINFO: c_int = 17;
/// bsd/sys/proc_info.h of xnu: all processes.
const PROC_ALL_PIDS: u32 = 1;
/// As above: those whose parent is given.
const PROC_PPID_ONLY: u32 = 6;
/// For `arg` of some flavours: zombies too.
const WITH_ZOMBIES: u64 = 1;
/// Marks an identity that is a start time.
const IS_TIME: u64 = 1 << 63;

/// `struct proc_uniqidentifierinfo`, 56 bytes.
#[repr(C)]
struct Unique {
    uuid: [u8; 16],
    id: u64,
    parent_id: u64,
    /// Counts the executions as well, unlike `id`.
    version: i32,
    parent_version: i32,
    reserved: [u64; 2],
}
const _: () = assert!(size_of::<Unique>() == 56);

/// What proc_pidinfo(3) fills in.
///
/// # Safety
/// Every pattern of bytes is a valid value of the type.
unsafe trait Plain {
    /// The flavour that asks for it.
    const FLAVOR: c_int;
}
// SAFETY: integers only.
unsafe impl Plain for Unique {
    const FLAVOR: c_int = PROC_PIDUNIQIDENTIFIERINFO;
}
// SAFETY: integers only.
unsafe impl Plain for libc::proc_bsdinfo {
    const FLAVOR: c_int = libc::PROC_PIDTBSDINFO;
}
// SAFETY: integers only.
unsafe impl Plain for libc::proc_bsdshortinfo {
    const FLAVOR: c_int = libc::PROC_PIDT_SHORTBSDINFO;
}

/// `None`: there is no such process.
fn ask<T: Plain>(pid: i32, arg: u64) -> io::Result<Option<T>> {
    if pid <= 0 {
        return Ok(None);
    }
    let mut info = MaybeUninit::<T>::zeroed();
    let size = size_of::<T>() as c_int;
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::proc_pidinfo(pid, T::FLAVOR, arg, info.as_mut_ptr().cast(), size) };
    if got == size {
        // SAFETY: filled in, and `Plain` allows any bytes.
        return Ok(Some(unsafe { info.assume_init() }));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        e => Err(e),
    }
}

fn identity(pid: i32, arg: u64) -> io::Result<Option<u64>> {
    match ask::<Unique>(pid, arg) {
        Ok(found) => Ok(found.map(|u| u.id)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            Ok(ask::<libc::proc_bsdinfo>(pid, arg)?
                .map(|i| (i.pbi_start_tvsec * 1_000_000 + i.pbi_start_tvusec) | IS_TIME))
        }
        Err(e) => Err(e),
    }
}

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

/// What tells this process from any other with the same pid, or `None` when no
/// such process lives: its unique id (`proc_pidinfo`,
/// `PROC_PIDUNIQIDENTIFIERINFO`), or its start time on a kernel that does not
/// know that. A zombie does not live, and is not found unless asked for.
///
/// # Errors
/// When the kernel does not answer.
pub fn born(pid: i32) -> io::Result<Option<u64>> {
    identity(pid, 0)
}

/// Whether a process has been stopped and not been continued (`proc_pidinfo`,
/// `PROC_PIDT_SHORTBSDINFO`). `false` when there is none.
///
/// # Errors
/// When the kernel does not answer.
pub fn is_stopped(pid: i32) -> io::Result<bool> {
    Ok(ask::<libc::proc_bsdshortinfo>(pid, 0)?.is_some_and(|i| i.pbsi_status == libc::SSTOP))
}

/// Sends a signal to the process `pid` if it is still the one that was `born`.
/// `false`: that one is gone. The libproc of newer systems has
/// `proc_signal_with_audittoken`, which compares pid and version in the kernel:
/// then it cannot reach a stranger. Without it the identity is compared
/// immediately before kill(2), and a stranger would be hit if in these few
/// microseconds the process ended, was reaped, and its pid was given away.
///
/// # Errors
/// `EPERM` for a process of another user, as `kill(2)`.
pub fn send(pid: i32, identity: u64, signal: Signal) -> io::Result<bool> {
    let Some(exact) = exact_kill() else {
        if born(pid)? != Some(identity) {
            return Ok(false);
        }
        return answer(kill(Pid::from_raw(pid), signal));
    };
    loop {
        let Some(found) = ask::<Unique>(pid, 0)?.filter(|u| u.id == identity) else {
            return Ok(false);
        };
        // bsm/audit.h: the sixth is the pid, the eighth its version.
        let mut token = [0, 0, 0, 0, 0, pid as u32, 0, found.version as u32];
        // SAFETY: the function reads one audit token.
        match unsafe { exact(&raw mut token, signal as c_int) } {
            0 => return Ok(true),
            // Gone, or it has executed another program: look again.
            libc::ESRCH => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn answer(sent: nix::Result<()>) -> io::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// libproc_internal.h: gives 0 or an errno.
type ExactKill = unsafe extern "C" fn(*mut [u32; 8], c_int) -> c_int;

fn exact_kill() -> Option<ExactKill> {
    // SAFETY: asks for the address of a name that ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"proc_signal_with_audittoken".as_ptr()) };
    // SAFETY: the function with this name has this signature; null is `None`.
    unsafe { std::mem::transmute::<*mut c_void, Option<ExactKill>>(found) }
}

/// The wait status of a process that is not our child and has ended, from its
/// zombie (`proc_pidinfo`, `PROC_PIDTBSDINFO`). `None`: it is reaped already, or
/// another user's.
pub fn exit_status(pid: i32, identity: u64, _held: Option<BorrowedFd<'_>>) -> Option<i32> {
    let is_it = || self::identity(pid, WITH_ZOMBIES).ok().flatten() == Some(identity);
    let info = ask::<libc::proc_bsdinfo>(pid, WITH_ZOMBIES).ok()??;
    (info.pbi_status == libc::SZOMB && is_it()).then_some(info.pbi_xstatus as i32)
}

/// The pids that `list` writes into a buffer of so many bytes; it answers with
/// the bytes written, or wanted when there is no buffer.
fn pids(list: impl Fn(*mut c_void, c_int) -> c_int) -> io::Result<Vec<i32>> {
    let mut room = list(std::ptr::null_mut(), 0).max(0) as usize / size_of::<i32>() + 32;
    loop {
        let mut found = vec![0_i32; room];
        let size = size_of_val(found.as_slice()) as c_int;
        Errno::clear();
        let bytes = list(found.as_mut_ptr().cast(), size);
        if bytes <= 0 {
            // libproc gives 0 for an error and for no process at all.
            return match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(0) => Ok(Vec::new()),
                e => Err(e),
            };
        }
        let count = bytes as usize / size_of::<i32>();
        if count < room {
            found.truncate(count);
            found.retain(|&pid| pid > 0);
            return Ok(found);
        }
        room *= 2;
    }
}

/// proc_listpids(3), unlike the functions made of it, always counts bytes.
fn list(kind: u32, which: u32) -> io::Result<Vec<i32>> {
    pids(|buffer, size| {
        // SAFETY: the buffer is as long as is said, or there is none.
        unsafe { libc::proc_listpids(kind, which, buffer, size) }
    })
}

/// All living processes (`proc_listpids`, `PROC_PIDT_SHORTBSDINFO`, which need
/// no privilege); zombies are left out.
///
/// # Errors
/// When the kernel does not answer.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for pid in list(PROC_ALL_PIDS, 0)? {
        // Those that end meanwhile, or are hidden from us, are left out.
        let Ok(Some(info)) = ask::<libc::proc_bsdshortinfo>(pid, 0) else { continue };
        let Ok(sid) = getsid(Some(Pid::from_raw(pid))) else { continue };
        all.push(Process {
            pid,
            ppid: info.pbsi_ppid as i32,
            pgid: info.pbsi_pgid as i32,
            sid: sid.as_raw(),
        });
    }
    Ok(all)
}

/// The living children of a process (proc_info.h, `PROC_PPID_ONLY`).
///
/// # Errors
/// When the kernel does not answer.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for child in list(PROC_PPID_ONLY, pid as u32)? {
        if born(child)?.is_some() {
            found.push(child);
        }
    }
    Ok(found)
}

/// The living descendants of a process (`proc_listpids`, `PROC_PPID_ONLY`).
/// One whose parent has ended is launchd's and not among them.
///
/// # Errors
/// When the kernel does not answer.
pub fn descendants(root: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(parent) = queue.pop() {
        for child in list(PROC_PPID_ONLY, parent as u32)? {
            if child != root && !found.contains(&child) && born(child)?.is_some() {
                found.push(child);
                queue.push(child);
            }
        }
    }
    Ok(found)
}
