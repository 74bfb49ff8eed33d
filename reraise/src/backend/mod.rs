//! The seam between Reraise and the system: what a supervisor needs of
//! processes, in the words of processes.
//!
//! [`ProcessBackend`] has two implementations: [`native::Native`], made once for
//! all systems over the `reraise-sys-*` crate of the one it is compiled for,
//! and [`fake::Fake`], in memory with a clock of its own. `tests/conformance.rs`
//! holds both to the same promises. Nothing above this module names a system.

mod environment;
pub mod fake;
mod inherit;
mod limits;
pub mod native;
pub mod place;
mod signals;
mod spawn;
mod tree;

use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use environment::Environment;
pub use nix::sys::signal::Signal;

/// A process: its pid, and a number that tells it from every later process
/// with the same pid. A bare pid is reused, and a signal sent to one may reach
/// a stranger; so this pair is what is stored and signalled, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// As the kernel numbers it, in our pid namespace.
    pub pid: i32,
    /// Opaque, for equality only: the pidfs inode or the start time, see the
    /// crate for the system.
    pub born: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called `exit(2)` with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal {
        /// Its number.
        number: i32,
        /// Whether memory was dumped.
        core: bool,
    },
    /// It was not our child and the kernel does not tell.
    Unknown,
}

/// The exit code of a child whose launcher has died before it let it through the gate. Any
/// code could be a program's own; 0, and those of the shell and of sysexits(3), often are.
pub const NOT_LET_THROUGH: i32 = 113;

impl Exit {
    /// Whether it was no run: nobody has let it through the gate.
    #[must_use]
    pub const fn is_at_the_gate(self) -> bool {
        matches!(self, Self::Code(NOT_LET_THROUGH))
    }

    /// From a wait status as `waitpid(2)` gives it.
    #[must_use]
    pub fn from_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Self::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        } else {
            Self::Unknown
        }
    }

    /// One number as a shell gives it: the code, or 128 and the signal.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal { number, .. } => Some(128 + number),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { number, core } => {
                match Signal::try_from(number) {
                    Ok(signal) => write!(f, "signal {}", &signal.as_str()[3..])?,
                    Err(_) => write!(f, "signal {number}")?,
                }
                if core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Unknown => f.write_str("unknown exit code"),
        }
    }
}

/// What a process has used that has ended, together with what it has waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time, microseconds.
    pub cpu: u64,
    /// The most memory that was resident in one of them, bytes.
    pub peak: u64,
}

/// A program to be started as a service.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// What is executed.
    pub program: CString,
    /// `argv`, the name of the program first.
    pub arguments: Vec<CString>,
    /// The whole environment.
    pub environment: Environment,
    /// The working directory.
    pub directory: PathBuf,
    /// The umask; `None` keeps ours.
    pub umask: Option<u32>,
    /// Limits to set, see [`Limit`].
    pub limits: Vec<Limit>,
    /// Where standard output and error go.
    pub output: Output,
}

/// Where the output of a program goes. Unless it is ours, it has no input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Output {
    /// Where ours goes.
    #[default]
    Ours,
    /// Both are appended to this file.
    File(PathBuf),
    /// Into named pipes, which it holds open for reading as well: it never sees
    /// SIGPIPE, and finds nobody missing.
    Pipes {
        /// For standard output.
        out: PathBuf,
        /// For standard error; the same one where there is none.
        err: Option<PathBuf>,
    },
}

/// One resource limit, as `getrlimit(2)` knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_…` of this system.
    pub resource: i32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// The step at which a launch failed in the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// `fork(2)`, or what it needs.
    Fork = 0,
    /// `setrlimit(2)`.
    Limits = 1,
    /// `chdir(2)`.
    Directory = 2,
    /// Opening the output file.
    Output = 3,
    /// `execve(2)`.
    Exec = 4,
}

impl Step {
    /// From its number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Fork, Self::Limits, Self::Directory, Self::Output, Self::Exec];
        all.into_iter().find(|step| *step as u8 == number)
    }

    /// What failed, in a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Limits => "limits",
            Self::Directory => "directory",
            Self::Output => "output",
            Self::Exec => "exec",
        }
    }
}

/// Why a launch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchError {
    /// Where.
    pub step: Step,
    /// `errno`.
    pub errno: i32,
}

impl LaunchError {
    /// Whether the same launch may succeed in a moment: the system was short of
    /// something, or somebody is writing the script.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self.errno {
            libc::EAGAIN
            | libc::ENOMEM
            | libc::EMFILE
            | libc::ENFILE
            | libc::ETXTBSY
            | libc::EINTR => true,
            // What is written down before a run begins could not be.
            libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO => self.step == Step::Fork,
            _ => false,
        }
    }

    /// The exit code that a shell gives for it: 127 for a program that is not
    /// there, 126 for one that is and cannot be executed.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        if self.errno == libc::ENOENT { 127 } else { 126 }
    }
}

/// The processes that belong to one run of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The process that was launched.
    pub main: ProcessId,
    /// [`RUN_VARIABLE`]'s value in that run's environment.
    pub run: u64,
    /// Whether this very process launched it, so that every descendant of ours
    /// belongs to it; otherwise it was adopted.
    pub is_ours: bool,
    /// Further processes that are known to belong to it, and their descendants.
    pub strays: Vec<ProcessId>,
    /// Which of them are meant.
    pub scope: Scope,
}

/// A part of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Tree,
    /// What has not left the session of the main process (`config_detach=yes`).
    Session,
    /// What has not left its process group.
    Group,
}

/// The environment variable that marks the processes of a run, in hexadecimal.
/// Second to lineage: programs that set their title overwrite it.
pub const RUN_VARIABLE: &str = "RERAISE_RUN";

/// The entry of the environment that marks this run.
#[must_use]
pub fn run_entry(run: u64) -> String {
    format!("{RUN_VARIABLE}={run:016x}")
}

/// Something that happened to a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A launched process now runs its program.
    Launched(ProcessId),
    /// A launched process could not; it is gone.
    LaunchFailed(ProcessId, LaunchError),
    /// A process ended that was spawned or watched.
    Ended(ProcessId, Exit),
    /// Another child of ours ended: an orphan of some tree.
    OrphanEnded,
    /// A signal reached us.
    Signal(Signal),
    /// The descriptor given to [`native::Native::listen`] has input or its end.
    Input,
    /// The deadline has passed.
    Deadline,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How a command comes to run as an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elevation {
    /// We are that owner.
    None,
    /// By this prefix of the command line.
    Sudo(Vec<OsString>),
    /// By giving up root's privileges for the owner's.
    Drop(Owner),
}

/// What a supervisor needs of the system.
///
/// Time is a [`Duration`] since some fixed moment, on a clock that nobody sets.
pub trait ProcessBackend {
    /// Forks a process that leads a session of its own and waits at a gate
    /// before it does anything. When it is never released, because we died
    /// say, it ends without having run.
    ///
    /// # Errors
    /// As `fork(2)` and `pipe(2)`: nothing was started.
    fn spawn(&mut self, launch: Launch) -> io::Result<ProcessId>;

    /// Opens the gate. [`Event::Launched`] or [`Event::LaunchFailed`] follows.
    /// The program starts with default signal dispositions, an empty signal
    /// mask and no descriptor but 0, 1 and 2.
    ///
    /// # Errors
    /// When the process is not one that waits.
    fn release(&mut self, process: ProcessId) -> io::Result<()>;

    /// Sends a signal to this very process. `false`: it is gone, and nobody was
    /// signalled.
    ///
    /// # Errors
    /// `EPERM` for a process of another user.
    fn signal(&mut self, process: ProcessId, signal: Signal) -> io::Result<bool>;

    /// How a process has ended that is not our child, as far as the system still knows.
    fn end_of(&self, process: ProcessId) -> Exit;

    /// Whether a process that is said to be of this run is known to execute its program:
    /// that began with the mark of the run. A program may overwrite it, and not every
    /// system shows that of every program, so `false` proves nothing.
    fn has_begun(&self, process: ProcessId, run: u64) -> bool;

    /// What a process has used whose end was an event of ours just now, if we have
    /// reaped it.
    fn usage_of(&self, _process: ProcessId) -> Option<Usage> {
        None
    }

    /// From now on, what [`Self::has_killed_for_memory`] tells counts.
    fn count_memory_kills(&mut self) {}

    /// Whether the system has killed a process for want of memory, here or among our
    /// children, since [`Self::count_memory_kills`]; `false` also where it does not tell.
    fn has_killed_for_memory(&self) -> bool {
        false
    }

    /// Lets time pass; what happens meanwhile is reported afterwards.
    fn pause(&mut self, time: Duration);

    /// The living process that has this pid now; a zombie does not live.
    ///
    /// # Errors
    /// When the system cannot be asked.
    fn identify(&mut self, pid: i32) -> io::Result<Option<ProcessId>>;

    /// Asks for [`Event::Ended`] of a process that we did not spawn. `false`:
    /// it has ended already, and no event will come.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    fn watch(&mut self, process: ProcessId) -> io::Result<bool>;

    /// The living processes of a run, its main process among them. Empty means
    /// that nothing is left.
    ///
    /// # Errors
    /// When the system cannot be asked.
    fn members(&mut self, tree: &Tree) -> io::Result<Vec<ProcessId>>;

    /// Whether orphans of our descendants become our children, so that the end
    /// of each is an event.
    fn keeps_orphans(&self) -> bool;

    /// Asks for [`Event::Input`] as long as the descriptor has input.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    fn listen(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes back [`Self::listen`]; to be called before it is closed.
    fn unlisten(&mut self, fd: BorrowedFd<'_>);

    /// Waits for the next event; [`Event::Deadline`] never comes early.
    ///
    /// # Errors
    /// Only what makes further waiting useless.
    fn next_event(&mut self, deadline: Option<Duration>) -> io::Result<Event>;

    /// The time.
    fn now(&self) -> Duration;

    /// Whose the entry itself is: the link's own where it is a symlink.
    ///
    /// # Errors
    /// As `lstat(2)`.
    fn owner(&self, path: &Path) -> io::Result<Owner>;

    /// How a command comes to run as `owner`. `interactive`: somebody is there
    /// to type a password.
    fn elevation(&self, owner: Owner, interactive: bool) -> Elevation;
}
