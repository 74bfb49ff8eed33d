//! What a supervisor asks of the kernel for itself.

use std::ffi::CStr;
use std::io;
use std::sync::OnceLock;

use nix::unistd::Pid;

/// Makes orphaned descendants our children (`prctl(2)`, Linux 3.4). The flag is
/// not inherited. `false`: this system cannot.
///
/// # Errors
/// None on kernels that know it.
pub fn become_subreaper() -> io::Result<bool> {
    // SAFETY: this operation takes plain numbers.
    let answer = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if answer == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

/// Our parent's pid, as it is now.
#[must_use]
pub fn parent() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// A child of ours that has ended, with its wait status; it stays a zombie
/// until it is waited for (`waitid(2)`, `WNOWAIT`). `Ok(None)`: there are
/// children, and none has ended. `ECHILD`: there are none at all, which for a
/// subreaper proves that nothing is left of the trees that it started.
/// `or_stopped`: also one that a signal has stopped, until that is taken note of.
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
    // waitid gives code and value apart; wait status is wait(2)'s encoding.
    let status = match info.si_code {
        libc::CLD_EXITED => (value & 0xff) << 8,
        libc::CLD_DUMPED => value | 0x80,
        libc::CLD_STOPPED => value << 8 | 0x7f,
        _ => value,
    };
    Ok(Some((pid, status)))
}

/// What a child of ours has used that has ended and was not waited for, and those it
/// has waited for: microseconds of CPU time, bytes of memory at most. The system call
/// `waitid(2)` tells it, the library's function does not.
#[must_use]
pub fn usage_of_ended(pid: i32) -> Option<(u64, u64)> {
    // SAFETY: all-zero is a valid rusage.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let nowhere = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: the one pointer that is not null is to a live rusage.
    let answer =
        unsafe { libc::syscall(libc::SYS_waitid, libc::P_PID, pid, nowhere, flags, &raw mut used) };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let cpu = micros(used.ru_utime) + micros(used.ru_stime);
    // Whoever has ended has had some memory.
    (answer == 0 && used.ru_maxrss > 0).then_some((cpu, used.ru_maxrss as u64 * 1024))
}

/// Forks a child whose parent is *our* parent (`clone(2)`, `CLONE_PARENT`), so
/// that it is no descendant of ours. `None` in the child.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`, as `fork(2)`.
///
/// # Safety
/// The process must be single-threaded, as with `fork`.
pub unsafe fn fork_beside() -> io::Result<Option<Pid>> {
    // SAFETY: the caller's promise.
    unsafe { clone(libc::CLONE_PARENT | libc::SIGCHLD) }
}

/// Starts a process that runs `run(argument)` on that stack in *our* memory
/// (`clone(2)`, `CLONE_VM`) until it executes a program, while we go on: nothing is
/// copied, neither page tables nor, later, the pages that both have written to.
/// Where that is not known, as under qemu's user mode, it gets a copy.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`, as `fork(2)`.
///
/// # Safety
/// Stack and argument stay as they are until the process has executed a program or
/// is gone; `run` does not return, does not allocate, and calls only what is safe in
/// a signal handler. `errno` is one for both: what fails on either side at the same
/// moment may be told a wrong reason.
pub unsafe fn start_beside(
    stack: *mut [u8],
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<i32> {
    let end = stack.cast::<u8>().wrapping_add(stack.len());
    let top = end.wrapping_sub(end.addr() % 16).cast();
    let shared = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the caller's promise.
    let mut pid = unsafe { libc::clone(run, top, shared, argument) };
    if pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // SAFETY: as above, and with less in common.
        pid = unsafe { libc::clone(run, top, libc::SIGCHLD, argument) };
    }
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Forks a child that runs `run(argument)` on another stack (`clone(2)`), so that
/// it needs nothing of its parent's; and without what the C library does at a
/// fork, which is to write to its own data in each child, for threads that we do
/// not have. Either would be a few pages for each worker.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`, as `fork(2)`.
///
/// # Safety
/// The process must be single-threaded, the stack must be used by nobody else in
/// the child, and `run` must not return. In the child, the thread id that the
/// library remembers is its parent's; nothing but robust mutexes uses it.
pub unsafe fn fork_onto(
    stack: *mut [u8],
    run: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<i32> {
    let top = stack.cast::<u8>().wrapping_add(stack.len());
    // SAFETY: no memory is shared with the child, which has its own copy of
    // stack and argument; the rest is the caller's promise.
    let pid = unsafe { libc::clone(run, top.cast(), libc::SIGCHLD, argument) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Where the stack lies that the kernel gave us (`/proc/self/maps`).
#[must_use]
pub fn first_stack() -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[stack]"))?;
    let (from, to) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(from)?, number(to)?))
}

/// Gives up the stack that the kernel gave our parent, and with it what it holds
/// of arguments and environment: neither must be asked for afterwards. (Telling
/// the C library so, with `clearenv(3)`, would write to two pages of its own.)
/// To be called on another stack.
pub fn leave_first_stack(first: (usize, usize)) {
    // Below it nothing is mapped for at least a megabyte (`stack_guard_gap`),
    // and by so much it may have grown since it was looked at.
    const GROWTH: usize = 1 << 20;
    let from = first.0.saturating_sub(GROWTH);
    let start = std::ptr::with_exposed_provenance_mut(from);
    // SAFETY: our frames are elsewhere, and nothing else lies there.
    unsafe { libc::munmap(start, first.1 - from) };
}

/// Tells the C library that the environment is gone (clearenv(3)), for whoever asks it
/// for something that looks there, as localtime_r(3) does for `TZ`.
pub fn forget_environment() {
    // SAFETY: single-threaded, and nobody keeps a pointer into it.
    unsafe { libc::clearenv() };
}

/// Makes a page untouchable, so that a stack that grows into it is no silent
/// damage (`mprotect(2)`).
pub fn guard(page: usize) {
    let start = std::ptr::with_exposed_provenance_mut(page);
    // SAFETY: the caller keeps nothing there.
    unsafe { libc::mprotect(start, 4096, libc::PROT_NONE) };
}

/// # Safety
/// The process must be single-threaded, and the flags must share no memory.
unsafe fn clone(flags: libc::c_int) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(flags);
    // s390x takes the stack first; all other arguments are zero here.
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: with a null stack the child goes on with a copy of ours, like
    // fork.
    let answer = unsafe { libc::syscall(libc::SYS_clone, first, second, 0, 0, 0) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid as i32))),
    }
}

/// Closes every descriptor from `first` on (`close_range(2)`, Linux 5.9; before
/// that one by one).
pub fn close_from(first: i32) {
    // SAFETY: closing descriptors that nobody uses any more is the point; the
    // callers have just forked or are about to exec.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0)
    };
    if done == 0 {
        return;
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap_or((1024, 1024));
    for fd in first..soft.min(1 << 20) as i32 {
        // SAFETY: as above; EBADF for those that are not open is harmless.
        unsafe { libc::close(fd) };
    }
}

/// New memory, zeroed; private memory is not inherited by a fork (`madvise(2)`,
/// `MADV_DONTFORK`, Linux 2.6.16). It is never given back.
///
/// # Errors
/// `ENOMEM`.
pub fn map_memory(length: usize, is_private: bool) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory at an address of the kernel's choice affects nobody.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if is_private {
        // SAFETY: the advice is about the mapping that was just made. If it is
        // not taken, a fork inherits more than it must.
        unsafe { libc::madvise(start, length, libc::MADV_DONTFORK) };
    }
    Ok(start.cast())
}

/// Gives pages back to the kernel; they read as zeros from then on (`madvise(2)`,
/// `MADV_DONTNEED`). The caller keeps nothing in them.
pub fn discard(start: usize, length: usize) {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller has nothing there. What is not mapped is passed over.
    unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
}

/// Where the program and its libraries lie that nothing ever writes: code and
/// constants (`dl_iterate_phdr(3)`), as start and length. [`discard`]ed, they
/// are read from the page cache again when they are needed. What was relocated
/// is not among them.
#[must_use]
pub fn code() -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // SAFETY: the callback fits, and the pointer lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(add_parts), (&raw mut found).cast()) };
    // The vdso is mapped by the kernel and cannot be discarded.
    found
}

/// Adds the parts of one program or library to the vector behind `found`.
///
/// # Safety
/// To be called by `dl_iterate_phdr` only, with the vector of [`code`].
unsafe extern "C" fn add_parts(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the pointer that `code` handed over.
    let found: &mut Vec<(usize, usize)> = unsafe { &mut *found.cast() };
    // SAFETY: the library hands us a valid structure.
    let info = unsafe { &*info };
    for at in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: there are so many headers.
        let header = unsafe { info.dlpi_phdr.add(at) };
        // SAFETY: likewise.
        let header = unsafe { &*header };
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let from = info.dlpi_addr as usize + header.p_vaddr as usize;
            let to = from + header.p_memsz as usize;
            // Whole pages, as they were mapped.
            let (from, to) = (from & !4095, to.next_multiple_of(4096));
            found.push((from, to - from));
        }
    }
    0
}

/// What `ps` shows as our command line. The kernel is told that the arguments
/// now lie in memory of ours (`PR_SET_MM_MAP`, Linux 3.18 with
/// CONFIG_CHECKPOINT_RESTORE, no privilege needed); /proc/PID/environ stays as
/// it is. Without it the command line stays what it was, and only the short
/// name tells. To be called once: the title is never freed.
pub fn set_title(title: &CStr) {
    // On the heap, since the kernel reads a title from anonymous memory only,
    // which initialised data is not.
    let bytes: &'static [u8] = Box::leak(title.to_bytes_with_nul().into());
    let start = bytes.as_ptr() as u64;
    let length = bytes.len();
    prepare_title();
    if let Some(mut map) = MAP.get().copied() {
        // SAFETY: an address is asked of the kernel; 0 changes nothing.
        map.brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
        map.arg_start = start;
        map.arg_end = start + length as u64;
        // SAFETY: the kernel checks every address of the map against ours and
        // copies the structure; only the two argument addresses have changed.
        unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::c_ulong::from(libc::PR_SET_MM_MAP as u32),
                &raw const map,
                size_of::<MemoryMap>(),
                0,
            )
        };
    }
}

/// Looks up once what [`set_title`] needs, for us and all our forks: each that looked
/// into its own /proc would take longer to begin, and to be reaped.
pub fn prepare_title() {
    if MAP.get().is_none()
        && let Ok(map) = current_map()
    {
        let _ = MAP.set(map);
    }
}

static MAP: OnceLock<MemoryMap> = OnceLock::new();

/// `struct prctl_mm_map` from include/uapi/linux/prctl.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    /// A pointer; null.
    auxv: usize,
    auxv_size: u32,
    exe_fd: u32,
}

/// Our memory map as `/proc/self/stat` (fields 26 to 51) shows it.
fn current_map() -> io::Result<MemoryMap> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let after = text.rfind(')').ok_or_else(bad)? + 2;
    let fields: Vec<u64> =
        text[after..].split_ascii_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    // Field 3 of proc_pid_stat(5) is the first after the name.
    let field = |number: usize| fields.get(number - 3).copied().ok_or_else(bad);
    Ok(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: 0,
        start_stack: field(28)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    })
}
