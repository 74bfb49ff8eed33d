//! The system we are compiled for.
//!
//! The `reraise-sys-*` crates know a kernel and nothing of Reraise; they export
//! the same items, which the table in `contract` proves at compile time. What POSIX
//! gives everywhere (fork, exec, wait, lstat) is written here and in `spawn`,
//! once. Nothing outside this module says `sys`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::geteuid;

use super::signals;
use super::spawn::{self, Cradle};
use super::{
    Elevation, Event, Exit, Launch, LaunchError, Owner, ProcessBackend, ProcessId, RUN_VARIABLE,
    Tree, Usage,
};

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        use reraise_sys_linux as sys;
    } else if #[cfg(any(
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd",
    ))] {
        use reraise_sys_bsd as sys;
    } else if #[cfg(target_os = "macos")] {
        use reraise_sys_macos as sys;
    } else {
        compile_error!(
            "Reraise runs on Linux, FreeBSD, DragonFly, NetBSD, OpenBSD and macOS. \
             For another system write a crate that exports the items of the table \
             in reraise/src/backend/native/contract.rs, and add it to the list in native.rs."
        );
    }
}

pub use super::inherit::{close_all_but, inherited, set_inherited};
pub use super::limits::{KEPT_LIMITS, raise_limits};
pub use super::signals::note_ignored;
pub use super::spawn::{
    exec_beside, exit_now, fork_with, keep_only, note_stop, page_size, set_groups,
};
pub use sys::{
    Event as QueueEvent, EventQueue, KEEPS_ORPHANS, MOVES, Notify, Peephole, Process,
    become_subreaper, boot_id, born, children, close_from, code, disable_pidfd, discard, enlarge,
    first_stack, forget_environment, fork_beside, fork_onto, guard, has_handles, is_stopped,
    knows_its_children, leave_first_stack, map_memory, move_bytes, parent, peek_child, pid_space,
    prepare_title, processes, send, set_title, start_beside, unread, variable,
};

mod census;
mod contract;
mod look;

/// The token of [`Native::listen`]; a child's launch report has its pid.
const INPUT: u64 = 0;

/// A process that was spawned and has not been reported as ended.
struct Child {
    id: ProcessId,
    stage: Stage,
    /// Until it has executed its program.
    cradle: Option<Cradle>,
}

impl Child {
    /// To be called when it has executed its program, or is gone.
    fn grown(&mut self) {
        if let Some(cradle) = self.cradle.take() {
            // SAFETY: the caller's assurance: the end of the socket was read, which
            // `execve` closes when it has left our memory, or the child was reaped.
            unsafe { cradle.clear() };
        }
    }
}

/// Since when a child that was let through its gate is listened to. What it says first
/// is that `execve` has closed the socket, which would wake us on the processor that it
/// needs just then.
#[derive(Clone, Copy)]
enum Heard {
    From(Instant),
    Now,
}

/// How long a child is left alone after the gate: the programs of most services have
/// begun by then.
const HEAD_START: Duration = Duration::from_millis(2);

enum Stage {
    /// Waits at the gate, whose key is this.
    Gated(OwnedFd),
    /// On its way to `execve`; here it will say how that went.
    Released(OwnedFd, Heard),
    /// It said that it could not, and is about to end.
    Failed(LaunchError),
    Launched,
}

/// Whether the environment that the process began with holds this entry,
/// `NAME=VALUE`. A program may overwrite it, so `false` proves nothing.
#[must_use]
pub fn carries(pid: i32, entry: &[u8]) -> bool {
    let mut parts = entry.splitn(2, |&b| b == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    variable(pid, name).is_some_and(|found| found == value)
}

/// The run whose mark the process has in its environment ([`RUN_VARIABLE`]). It may
/// have overwritten it, so `None` proves nothing.
#[must_use]
pub fn run_mark(pid: i32) -> Option<u64> {
    let value = variable(pid, RUN_VARIABLE.as_bytes())?;
    u64::from_str_radix(str::from_utf8(&value).ok()?, 16).ok()
}

/// What a child of ours has used that has ended and was not reaped yet, where the
/// system tells.
#[must_use]
pub fn usage_of_ended(pid: i32) -> Option<Usage> {
    sys::usage_of_ended(pid).map(|(cpu, peak)| Usage { cpu, peak })
}

/// The one real [`ProcessBackend`]. For a process with a single thread: it
/// forks, and blocks signals for the thread that makes it.
pub struct Native {
    queue: EventQueue,
    children: Vec<Child>,
    /// Processes that are not our children, or were not when we were asked.
    watched: Vec<ProcessId>,
    pending: VecDeque<Event>,
    keeps_orphans: bool,
    /// The caller asked for SIGCHLD itself, see [`Native::new`].
    leaves_reaping: bool,
    /// See [`Native::spare`].
    others: Option<Box<dyn Fn() -> Vec<i32>>>,
    /// Where looks at all processes are shared.
    shared: Option<PathBuf>,
    /// What the child that was last reaped has used.
    used: Option<(ProcessId, Usage)>,
    /// What was killed for memory so far, and where that is counted: to ask where takes as
    /// long as to look, and there is no time for it when something has fallen.
    memory_kills: Option<(PathBuf, u64)>,
}

impl Native {
    /// Takes charge of this process: the signals come as events from now on,
    /// and orphans of our descendants become our children where the system can
    /// do that.
    ///
    /// Children that have ended are reaped as soon as we hear of it. With
    /// SIGCHLD among the signals that is left to the caller, who gets it as an
    /// event, looks with [`peek_child`] and calls [`Native::reap`].
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let leaves_reaping = signals.contains(&Signal::SIGCHLD);
        let mut all = signals.to_vec();
        if !leaves_reaping {
            all.push(Signal::SIGCHLD);
        }
        signals::keep_zombies();
        let queue = EventQueue::new(&all)?;
        let keeps_orphans = become_subreaper()?;
        let mut native = Self {
            queue,
            // Made now, so that they do not come to lie among what is needed for
            // a moment only.
            children: Vec::with_capacity(2),
            watched: Vec::with_capacity(2),
            pending: VecDeque::with_capacity(4),
            keeps_orphans,
            leaves_reaping,
            others: None,
            shared: None,
            used: None,
            memory_kills: None,
        };
        // For children from before, whose SIGCHLD nobody collected.
        native.reap_all()?;
        Ok(native)
    }

    /// These, and what descends from them, belong to no tree, wherever they
    /// descend from. Asked for only where a tree has left the session of its main
    /// process, as everything does that should be spared; most trees never do.
    pub fn spare(&mut self, others: impl Fn() -> Vec<i32> + 'static) {
        self.others = Some(Box::new(others));
    }

    /// Shares looks at all processes with whoever names the same directory, which
    /// nobody else can change.
    pub fn share_looks(&mut self, directory: PathBuf) {
        self.shared = Some(directory);
    }

    /// Reaps this child if it has ended; its events follow.
    ///
    /// # Errors
    /// As `waitpid(2)`, but not for a process that is no child of ours.
    pub fn reap(&mut self, pid: i32) -> io::Result<()> {
        if let Some((pid, status, usage)) = spawn::reap(pid)? {
            self.has_ended(pid, Exit::from_status(status), usage);
        }
        Ok(())
    }

    /// Reaps all children that have ended, since one SIGCHLD may stand for
    /// many; how many there were.
    fn reap_all(&mut self) -> io::Result<usize> {
        let mut count = 0;
        if self.leaves_reaping {
            return Ok(count);
        }
        while let Some((pid, status, usage)) = spawn::reap(-1)? {
            self.has_ended(pid, Exit::from_status(status), usage);
            count += 1;
        }
        Ok(count)
    }

    /// Queues the events of a child that has just been reaped.
    fn has_ended(&mut self, pid: i32, exit: Exit, usage: Usage) {
        if let Some(at) = self.children.iter().position(|c| c.id.pid == pid) {
            let mut child = self.children.swap_remove(at);
            self.used = Some((child.id, usage));
            child.grown();
            let Child { id, stage, .. } = child;
            let failure = match &stage {
                Stage::Gated(_) | Stage::Launched => None,
                Stage::Failed(error) => Some(*error),
                Stage::Released(channel, _) => {
                    self.queue.forget_readable(channel.as_fd());
                    let failure = spawn::report(channel);
                    if failure.is_none() {
                        self.pending.push_back(Event::Launched(id));
                    }
                    failure
                }
            };
            self.pending.push_back(match failure {
                Some(error) => Event::LaunchFailed(id, error),
                None => Event::Ended(id, exit),
            });
        } else if let Some(id) = self.unwatch(pid) {
            self.queue.forget_process(pid);
            self.pending.push_back(Event::Ended(id, exit));
        } else if self.pending.back() != Some(&Event::OrphanEnded) {
            // One tells as much as many, and a tree can be full of them.
            self.pending.push_back(Event::OrphanEnded);
        }
    }

    fn unwatch(&mut self, pid: i32) -> Option<ProcessId> {
        let at = self.watched.iter().position(|w| w.pid == pid)?;
        Some(self.watched.swap_remove(at))
    }

    /// Listens to those whose head start is over; how long the others have.
    fn listen_to_released(&mut self) -> io::Result<Option<Duration>> {
        let mut left = None;
        for child in &mut self.children {
            let Stage::Released(channel, heard @ Heard::From(_)) = &mut child.stage else {
                continue;
            };
            let Heard::From(start) = *heard else { continue };
            let more = start.saturating_duration_since(Instant::now());
            if more.is_zero() {
                self.queue.watch_readable(channel.as_fd(), child.id.pid as u64)?;
                *heard = Heard::Now;
            } else {
                left = Some(left.map_or(more, |left: Duration| left.min(more)));
            }
        }
        Ok(left)
    }

    /// A child has said how its launch went, or `execve` has closed the socket.
    fn has_reported(&mut self, pid: u64) {
        let Some(child) = self.children.iter_mut().find(|c| c.id.pid as u64 == pid) else {
            return;
        };
        let Stage::Released(channel, _) = &child.stage else { return };
        self.queue.forget_readable(channel.as_fd());
        child.stage = match spawn::report(channel) {
            // The event comes when it is gone, which is a moment away.
            Some(error) => Stage::Failed(error),
            None => {
                self.pending.push_back(Event::Launched(child.id));
                child.grown();
                Stage::Launched
            }
        };
    }

    // Not part of the frame that waits.
    #[inline(never)]
    fn translate(&mut self, event: QueueEvent) -> io::Result<()> {
        match event {
            QueueEvent::Signal(Signal::SIGCHLD) if !self.leaves_reaping => {
                self.reap_all()?;
            }
            QueueEvent::Signal(signal) => self.pending.push_back(Event::Signal(signal)),
            QueueEvent::Ended { pid, status } => {
                if let Some(id) = self.unwatch(pid) {
                    let exit = status.map_or(Exit::Unknown, Exit::from_status);
                    self.pending.push_back(Event::Ended(id, exit));
                }
            }
            QueueEvent::Readable(INPUT) => self.pending.push_back(Event::Input),
            QueueEvent::Readable(token) => self.has_reported(token),
        }
        Ok(())
    }
}

/// The time by `CLOCK_MONOTONIC`, which all processes of a system share.
#[must_use]
pub fn now() -> Duration {
    // It fails only for clocks that do not exist.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

impl ProcessBackend for Native {
    fn spawn(&mut self, launch: Launch) -> io::Result<ProcessId> {
        let (pid, gate, cradle) = spawn::start_gated(launch)?;
        match born(pid) {
            Ok(Some(born)) => {
                let id = ProcessId { pid, born };
                self.children.push(Child { id, stage: Stage::Gated(gate), cradle: Some(cradle) });
                Ok(id)
            }
            // Unnamed it cannot be kept: it ends when the gate is closed, and
            // is reaped as an orphan.
            Ok(None) => Err(Errno::ESRCH.into()),
            Err(e) => Err(e),
        }
    }

    fn release(&mut self, process: ProcessId) -> io::Result<()> {
        let child = self.children.iter_mut().find(|c| c.id == process);
        let Some(Child { stage, .. }) = child else { return Err(Errno::ESRCH.into()) };
        let Stage::Gated(gate) = stage else { return Err(Errno::EINVAL.into()) };
        // What it says before we listen is heard all the same.
        spawn::open_gate(gate.as_fd())?;
        if let Stage::Gated(gate) = std::mem::replace(stage, Stage::Launched) {
            *stage = Stage::Released(gate, Heard::From(Instant::now() + HEAD_START));
        }
        Ok(())
    }

    fn signal(&mut self, process: ProcessId, signal: Signal) -> io::Result<bool> {
        // Nobody else can have the pid of our child until we reap it, and none has ended.
        if self.children.iter().any(|child| child.id == process)
            && matches!(peek_child(false), Ok(None))
        {
            let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), signal);
            return sent.map(|()| true).map_err(io::Error::from);
        }
        send(process.pid, process.born, signal)
    }

    fn end_of(&self, process: ProcessId) -> Exit {
        let status = sys::exit_status(process.pid, process.born, None);
        status.map_or(Exit::Unknown, Exit::from_status)
    }

    fn has_begun(&self, process: ProcessId, run: u64) -> bool {
        // What we have forked shows our own environment until it has executed something.
        run_mark(process.pid) == Some(run)
    }

    fn usage_of(&self, process: ProcessId) -> Option<Usage> {
        self.used.filter(|(id, _)| *id == process).map(|(_, usage)| usage)
    }

    fn count_memory_kills(&mut self) {
        self.memory_kills = sys::memory_counter().and_then(|counter| {
            let kills = sys::memory_kills(&counter)?;
            Some((counter, kills))
        });
    }

    fn has_killed_for_memory(&self) -> bool {
        let counted = self.memory_kills.as_ref();
        counted.is_some_and(|(counter, before)| sys::memory_kills(counter) > Some(*before))
    }

    fn pause(&mut self, time: Duration) {
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }

    fn identify(&mut self, pid: i32) -> io::Result<Option<ProcessId>> {
        Ok(born(pid)?.map(|born| ProcessId { pid, born }))
    }

    fn watch(&mut self, process: ProcessId) -> io::Result<bool> {
        if self.children.iter().any(|c| c.id == process) || self.watched.contains(&process) {
            return Ok(true);
        }
        if !self.queue.watch_process(process.pid, process.born)? {
            return Ok(false);
        }
        // A former holder of the pid has ended, and its own event was lost.
        if let Some(former) = self.unwatch(process.pid) {
            self.pending.push_back(Event::Ended(former, Exit::Unknown));
        }
        self.watched.push(process);
        Ok(true)
    }

    fn members(&mut self, tree: &Tree) -> io::Result<Vec<ProcessId>> {
        self.members_of(tree)
    }

    fn keeps_orphans(&self) -> bool {
        self.keeps_orphans
    }

    fn listen(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.queue.watch_readable(fd, INPUT)
    }

    fn unlisten(&mut self, fd: BorrowedFd<'_>) {
        self.queue.forget_readable(fd);
    }

    fn next_event(&mut self, deadline: Option<Duration>) -> io::Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let is_steady = self.children.iter().all(|c| matches!(c.stage, Stage::Launched));
            if is_steady {
                crate::zone::rest(deadline.is_none());
            }
            let left = deadline.map(|d| d.saturating_sub(self.now()));
            let head_start = self.listen_to_released()?;
            match self.queue.next(left.into_iter().chain(head_start).min())? {
                Some(event) => self.translate(event)?,
                None if deadline.is_some_and(|d| d <= self.now()) => return Ok(Event::Deadline),
                None => {}
            }
        }
    }

    fn now(&self) -> Duration {
        now()
    }

    fn owner(&self, path: &Path) -> io::Result<Owner> {
        let found = nix::sys::stat::lstat(path)?;
        Ok(Owner { uid: found.st_uid, gid: found.st_gid })
    }

    fn elevation(&self, owner: Owner, interactive: bool) -> Elevation {
        elevation(owner, interactive)
    }
}

/// How a command comes to run as `owner`, see [`ProcessBackend::elevation`].
#[must_use]
pub fn elevation(owner: Owner, interactive: bool) -> Elevation {
    elevation_of(geteuid().as_raw(), owner, interactive)
}

/// How a command of `us` comes to run as `owner`.
pub(super) fn elevation_of(us: u32, owner: Owner, interactive: bool) -> Elevation {
    if us == owner.uid {
        return Elevation::None;
    }
    if us == 0 {
        return Elevation::Drop(owner);
    }
    let user = format!("#{}", owner.uid);
    let ask: &[&str] = if interactive { &[] } else { &["-n"] };
    let target = ["-u", &user, "--"];
    Elevation::Sudo(["sudo"].iter().chain(ask).chain(&target).map(OsString::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_for_another_user_who_is_not_root() {
        let sudo = |words: &[&str]| Elevation::Sudo(words.iter().map(OsString::from).collect());
        let owner = |uid| Owner { uid, gid: 7 };
        for (us, them, interactive, expected) in [
            (500, 500, true, Elevation::None),
            (0, 0, false, Elevation::None),
            (0, 500, true, Elevation::Drop(owner(500))),
            (500, 600, true, sudo(&["sudo", "-u", "#600", "--"])),
            (500, 600, false, sudo(&["sudo", "-n", "-u", "#600", "--"])),
            (500, 0, false, sudo(&["sudo", "-n", "-u", "#0", "--"])),
        ] {
            assert_eq!(elevation_of(us, owner(them), interactive), expected, "{us} for {them}");
        }
    }
}
