//! Starting a program in a process that waits until it may.
//!
//! 1. A new process, which shares our memory where the system can do that, leads a
//!    session of its own and closes what it has inherited, so that it keeps no
//!    descriptor of ours alive.
//! 2. It gives up our signal set-up, takes on the service's directory, output and
//!    limits, and waits at the gate, a socket. End of file there means that we are
//!    gone or never meant it, and the child ends.
//! 3. Let through, it calls `execve(2)`.
//! 4. The same socket tells how that went: step and errno, or end of file,
//!    because `execve` closes it.
//!
//! Between that and `execve` nothing may allocate. Everything that the child needs
//! is prepared before, and its errors travel as two numbers.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, write};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, read, setsid};

use super::{Launch, LaunchError, NOT_LET_THROUGH, Output, Step, Usage, limits, signals};

/// Where the child holds its end of the socket: the first after the standard
/// three, so that one call closes all others.
const CHANNEL: RawFd = 3;
/// What a shell says for a command that could not be run. Nobody sees it: the
/// report says more.
const CANNOT_RUN: i32 = 127;
/// What a child uses of our memory until it has become its program or is gone. It
/// is told when that is so; dropped before, it would stay where it is for ever.
pub(super) struct Cradle(NonNull<Contents>);

struct Contents {
    plan: Plan,
    /// The child's end of the socket.
    channel: RawFd,
    stack: NonNull<[MaybeUninit<u8>]>,
}

/// Several times what the few calls before `execve` need.
const CHILDS_STACK: usize = 24 << 10;

impl Cradle {
    fn new(plan: Plan, channel: RawFd) -> Self {
        let stack = NonNull::from(Box::leak(Box::new_uninit_slice(CHILDS_STACK)));
        Self(NonNull::from(Box::leak(Box::new(Contents { plan, channel, stack }))))
    }

    /// Frees it.
    ///
    /// # Safety
    /// The child has executed its program, or is gone.
    pub(super) unsafe fn clear(self) {
        // SAFETY: it was leaked by `new`, and the child has no use for it any more.
        let contents = unsafe { Box::from_raw(self.0.as_ptr()) };
        // SAFETY: likewise.
        drop(unsafe { Box::from_raw(contents.stack.as_ptr()) });
    }
}

/// Starts the child. It waits until [`open_gate`], or until our end is closed.
pub(super) fn start_gated(launch: Launch) -> io::Result<(i32, OwnedFd, Cradle)> {
    extern "C" fn live(contents: *mut c_void) -> c_int {
        let contents: *const Contents = contents.cast();
        // SAFETY: they stay as they are until we are done, see `Cradle`.
        let contents = unsafe { &*contents };
        contents.plan.run(contents.channel)
    }
    let plan = Plan::new(launch)?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    // Not SOCK_CLOEXEC, which macOS lacks; we have no other thread.
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let cradle = Cradle::new(plan, theirs.as_raw_fd());
    // SAFETY: nobody else refers to it yet.
    let stack = unsafe { cradle.0.as_ref() }.stack;
    let stack = ptr::slice_from_raw_parts_mut(stack.as_ptr().cast(), CHILDS_STACK);
    let contents = cradle.0.as_ptr().cast();
    // SAFETY: what it is given stays until the child has no use for it, and the
    // child calls only what is safe after a fork (see above).
    let started = unsafe { super::native::start_beside(stack, live, contents) };
    match started {
        Ok(pid) => Ok((pid, ours, cradle)),
        Err(e) => {
            // SAFETY: there is no child.
            unsafe { cradle.clear() };
            Err(e)
        }
    }
}

/// Starts a program as a child of our parent, in no way below us: a new keeper
/// must not be part of a service's tree. Its pid. It keeps our descriptors 0, 1
/// and 2 and nothing else, and this environment; it is for programs of ours, which
/// set up their own signals.
///
/// # Errors
/// As `fork(2)`. That the program cannot be executed shows in its end.
pub fn exec_beside(program: &Path, words: &[&OsStr], variable: (&str, &str)) -> io::Result<i32> {
    let program = path(program)?;
    let mut strings = vec![program.clone()];
    for word in words {
        strings.push(CString::new(word.as_bytes())?);
    }
    let arguments = pointers(&strings);
    let variable = CString::new(format!("{}={}", variable.0, variable.1))?;
    let environment = [variable.as_ptr(), ptr::null()];
    // SAFETY: we have a single thread, and the child calls only what is safe
    // after a fork.
    if let Some(pid) = unsafe { super::native::fork_beside() }? {
        return Ok(pid.as_raw());
    }
    let _ = setsid();
    super::native::close_from(CHANNEL);
    // SAFETY: both arrays end with a null pointer, and their strings live here.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    exit(CANNOT_RUN)
}

/// Forks a child of ours that lives `life`, with what it is given, on a stack of
/// its own; its pid. What is given stays in its box: on the stack it would lie as long
/// as the child lives.
///
/// # Errors
/// As `fork(2)`.
pub fn fork_with<T>(given: Box<T>, life: fn(Box<T>) -> !) -> io::Result<i32> {
    struct Birth<T> {
        given: Box<T>,
        life: fn(Box<T>) -> !,
    }
    extern "C" fn begin<T>(argument: *mut c_void) -> c_int {
        // SAFETY: the pointer that was handed over below, to the child's own
        // copy of the box.
        let birth: Box<Birth<T>> = unsafe { Box::from_raw(argument.cast()) };
        let Birth { given, life } = *birth;
        crate::zone::leave_parents_stack();
        life(given)
    }
    let birth = Box::into_raw(Box::new(Birth { given, life }));
    // SAFETY: keeper and workers have a single thread, `begin` does not return,
    // and the parent never uses that stack.
    let forked =
        unsafe { super::native::fork_onto(crate::zone::stack(), begin::<T>, birth.cast()) };
    // SAFETY: this is the parent's copy, which nobody else has.
    drop(unsafe { Box::from_raw(birth) });
    forked
}

/// In a child of [`fork_with`]: closes everything inherited but 0, 1, 2 and
/// this socket. What else the parent had open must not be used any more.
#[must_use]
pub fn keep_only(socket: UnixStream) -> UnixStream {
    let settled = settle(socket.into_raw_fd());
    super::native::close_from(CHANNEL + 1);
    settled.into()
}

/// Sets the supplementary groups (setgroups(2)), for root. nix leaves it out on
/// macOS, where initgroups(3) is preferred, which a static binary cannot use. Of
/// more than the system takes the first count, as with initgroups(3): macOS, NetBSD
/// and OpenBSD take 16.
///
/// # Errors
/// `EPERM` for anybody else.
pub fn set_groups(groups: &[Gid]) -> io::Result<()> {
    // SAFETY: a number is asked for; sysconf(3) is allowed between fork and exec.
    let most = unsafe { libc::sysconf(libc::_SC_NGROUPS_MAX) };
    let most = usize::try_from(most).unwrap_or(groups.len());
    let groups = &groups[..groups.len().min(most)];
    // SAFETY: a `Gid` is a transparent gid_t, and the slice outlives the call.
    let answer = unsafe { libc::setgroups(groups.len() as _, groups.as_ptr().cast()) };
    Ok(Errno::result(answer).map(drop)?)
}

/// The length of a page of memory (sysconf(3)).
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: a number is asked for.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs() as usize
}

/// Ends this process and runs nothing of what a parent has set up for its end.
pub fn exit_now(code: i32) -> ! {
    exit(code)
}

/// Lets the child go on. An error means that it has ended.
pub(super) fn open_gate(channel: BorrowedFd<'_>) -> io::Result<()> {
    // std ignores SIGPIPE in every program of ours.
    write(channel, &[0])?;
    Ok(())
}

/// What the child has said before it closed the socket. To be asked when the
/// socket is readable or the child has ended.
pub(super) fn report(channel: &OwnedFd) -> Option<LaunchError> {
    let mut words = [0; 5];
    let read = recv(channel.as_raw_fd(), &mut words, MsgFlags::MSG_DONTWAIT);
    if read != Ok(words.len()) {
        return None;
    }
    let [step, errno @ ..] = words;
    let step = match step {
        1 => Step::Limits,
        2 => Step::Directory,
        3 => Step::Output,
        _ => Step::Exec,
    };
    Some(LaunchError { step, errno: i32::from_ne_bytes(errno) })
}

/// Waits for a child that has ended, any for -1, and gives its pid, wait status and
/// what it has used; `None` when none has, or none is there. Not `nix::waitpid`, which
/// takes a status away and then fails when a real-time signal was the cause.
pub(super) fn reap(pid: i32) -> io::Result<Option<(i32, i32, Usage)>> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the pointers are to live variables.
        match unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut used) } {
            0 => return Ok(None),
            -1 => match Errno::last() {
                Errno::EINTR => {}
                Errno::ECHILD => return Ok(None),
                e => return Err(e.into()),
            },
            pid => return Ok(Some((pid, status, usage(&used)))),
        }
    }
}

fn usage(used: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    // Kilobytes, but on macOS (getrusage(2) of each).
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let peak = u64::try_from(used.ru_maxrss).unwrap_or(0) * unit;
    Usage { cpu: micros(used.ru_utime) + micros(used.ru_stime), peak }
}

/// Takes note of it that a child of ours was stopped; the kernel tells it only
/// once more when that happens again (waitid(2)).
pub fn note_stop(pid: i32) {
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WSTOPPED | libc::WNOHANG;
    // SAFETY: the pointer is to a live siginfo_t. An error would say that it is
    // no child any more.
    unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) };
}

/// A [`Launch`] in the shape that the system calls want.
struct Plan {
    /// These two end with a null pointer and point into the `Launch`.
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    directory: CString,
    umask: Option<Mode>,
    /// For output and error, and whether these are pipes.
    output: Option<(CString, Option<CString>, bool)>,
    launch: Launch,
}

impl Plan {
    fn new(launch: Launch) -> io::Result<Self> {
        let environment = launch.environment.iter().map(CStr::as_ptr);
        Ok(Self {
            arguments: pointers(&launch.arguments),
            environment: environment.chain([ptr::null()]).collect(),
            directory: path(&launch.directory)?,
            umask: launch.umask.map(|bits| Mode::from_bits_truncate(bits as libc::mode_t)),
            output: match &launch.output {
                Output::Ours => None,
                Output::File(file) => Some((path(file)?, None, false)),
                Output::Pipes { out, err } => {
                    Some((path(out)?, err.as_deref().map(path).transpose()?, true))
                }
            },
            // What was pointed to lies on the heap, and moves with neither.
            launch,
        })
    }

    /// All that the child does.
    fn run(&self, channel: RawFd) -> ! {
        // It cannot fail: a process that was just forked leads no group.
        let _ = setsid();
        let channel = settle(channel);
        super::native::close_from(CHANNEL + 1);
        // Done while our parent writes the run down, which is the longer: a wait at
        // the gate would be a further switch between processes.
        signals::give_up();
        if let Some(mode) = self.umask {
            umask(mode);
        }
        let settled = self.settle_in();
        if !is_let_through(&channel) {
            exit(NOT_LET_THROUGH);
        }
        let (step, errno) = match settled {
            Ok(()) => (Step::Exec, self.exec()),
            Err(failure) => failure,
        };
        let [a, b, c, d] = (errno as i32).to_ne_bytes();
        // When nobody reads it, nobody wants to know.
        let _ = write(&channel, &[step as u8, a, b, c, d]);
        exit(CANNOT_RUN)
    }

    /// Directory, output and limits.
    fn settle_in(&self) -> Result<(), (Step, Errno)> {
        chdir(self.directory.as_c_str()).map_err(|e| (Step::Directory, e))?;
        if let Some((out, err, are_pipes)) = &self.output {
            redirect(out, err.as_deref(), *are_pipes).map_err(|e| (Step::Output, e))?;
        }
        // Last, so that a limit on descriptors does not hit the lines above.
        for limit in &self.launch.limits {
            limits::set(*limit).map_err(|e| (Step::Limits, e))?;
        }
        Ok(())
    }

    /// Becomes the program, or tells why not.
    fn exec(&self) -> Errno {
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: both arrays end with a null pointer, and the strings that
        // they point to live in the `Launch` that `self` has.
        unsafe { libc::execve(self.launch.program.as_ptr(), arguments, environment) };
        Errno::last()
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Moves the socket to its place.
fn settle(fd: RawFd) -> OwnedFd {
    if fd != CHANNEL {
        // SAFETY: whatever stood there is ours by inheritance only, and this
        // process never uses it.
        unsafe { libc::dup2(fd, CHANNEL) };
    }
    // SAFETY: it is open now, and nothing else here owns that number.
    let settled = unsafe { OwnedFd::from_raw_fd(CHANNEL) };
    let _ = fcntl(&settled, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    settled
}

fn is_let_through(channel: &OwnedFd) -> bool {
    let mut one = [0];
    loop {
        match read(channel, &mut one) {
            Ok(n) => return n == 1,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn redirect(out: &CStr, err: Option<&CStr>, are_pipes: bool) -> nix::Result<()> {
    let null = nix::fcntl::open(c"/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    dup2_stdin(&null)?;
    drop_above_standard(null);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let flags = flags
        | match are_pipes {
            true => OFlag::O_RDWR,
            false => OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT,
        };
    let file = nix::fcntl::open(out, flags, Mode::from_bits_truncate(0o640))?;
    dup2_stdout(&file)?;
    match err {
        None => dup2_stderr(&file)?,
        Some(err) => {
            let err = nix::fcntl::open(err, flags, Mode::from_bits_truncate(0o640))?;
            dup2_stderr(&err)?;
            drop_above_standard(err);
        }
    }
    drop_above_standard(file);
    Ok(())
}

/// Closes it, unless it came to stand at 0, 1 or 2 because those were closed.
fn drop_above_standard(file: OwnedFd) {
    if file.as_raw_fd() <= 2 {
        let _ = file.into_raw_fd();
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: this process has nothing to clean up.
    unsafe { libc::_exit(code) }
}
