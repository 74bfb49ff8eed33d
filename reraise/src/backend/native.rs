//! The system we are compiled for.
//!
//! The `reraise-sys-*` crates know a kernel and nothing of Reraise; they export
//! the same items, which the table below proves at compile time. What POSIX
//! gives everywhere (fork, exec, wait, lstat) is written here and in `spawn`,
//! once. Nothing outside this file says `sys`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{geteuid, getpid, getsid};

use super::spawn::{self, Cradle};
use super::tree::{self, Relation};
use super::{
    Elevation, Event, Exit, Launch, LaunchError, Owner, ProcessBackend, ProcessId, Scope, Tree,
    run_entry,
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
             in reraise/src/backend/native.rs, and add it to the list above that table."
        );
    }
}

pub use super::inherit::{close_all_but, inherited, set_inherited};
pub use super::spawn::{
    exec_beside, exit_now, fork_with, keep_only, note_ignored, page_size, set_groups,
};
pub use sys::{
    Event as QueueEvent, EventQueue, KEEPS_ORPHANS, Process, become_subreaper, boot_id, born,
    carries, children, close_from, code, disable_pidfd, discard, first_stack, fork_beside,
    fork_onto, guard, has_handles, leave_first_stack, map_memory, parent, peek_child, pid_space,
    prepare_title, processes, send, set_title, start_beside,
};

/// What the system crates must export. One that drifts fails here, on its line.
mod contract {
    use super::sys;
    use nix::sys::signal::Signal;
    use std::ffi::CStr;
    use std::io::Result;
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    const _: fn(i32) -> Result<Option<u64>> = sys::born;
    const _: fn(i32, u64, Signal) -> Result<bool> = sys::send;
    const _: fn(i32, u64, Option<BorrowedFd<'_>>) -> Option<i32> = sys::exit_status;
    const _: fn() -> Result<bool> = sys::become_subreaper;
    const _: bool = sys::KEEPS_ORPHANS;
    const _: fn(i32) = sys::close_from;
    const _: unsafe fn() -> Result<Option<nix::unistd::Pid>> = sys::fork_beside;
    const _: unsafe fn(
        *mut [u8],
        extern "C" fn(*mut libc::c_void) -> libc::c_int,
        *mut libc::c_void,
    ) -> Result<i32> = sys::start_beside;
    const _: unsafe fn(
        *mut [u8],
        extern "C" fn(*mut libc::c_void) -> libc::c_int,
        *mut libc::c_void,
    ) -> Result<i32> = sys::fork_onto;
    const _: fn() -> Option<(usize, usize)> = sys::first_stack;
    const _: fn((usize, usize)) = sys::leave_first_stack;
    const _: fn(usize) = sys::guard;
    const _: fn() -> i32 = sys::parent;
    const _: fn() -> Result<Option<(i32, i32)>> = sys::peek_child;
    const _: fn() = sys::prepare_title;
    const _: fn(&CStr) = sys::set_title;
    const _: fn(usize, bool) -> Result<*mut u8> = sys::map_memory;
    const _: fn(usize, usize) = sys::discard;
    const _: fn() -> Vec<(usize, usize)> = sys::code;
    const _: fn() -> Result<u64> = sys::boot_id;
    const _: fn() -> Result<u64> = sys::pid_space;
    const _: fn() -> Result<Vec<sys::Process>> = sys::processes;
    const _: fn(i32) -> Result<Vec<i32>> = sys::descendants;
    const _: fn(i32) -> Result<Vec<i32>> = sys::children;
    const _: fn(i32, &[u8]) -> bool = sys::carries;
    const _: fn() = sys::disable_pidfd;
    const _: fn() -> bool = sys::has_handles;
    const _: fn(&[Signal]) -> Result<sys::EventQueue> = sys::EventQueue::new;
    const _: fn(&mut sys::EventQueue, i32, u64) -> Result<bool> = sys::EventQueue::watch_process;
    const _: fn(&mut sys::EventQueue, i32) = sys::EventQueue::forget_process;
    const _: fn(&mut sys::EventQueue, BorrowedFd<'_>, u64) -> Result<()> =
        sys::EventQueue::watch_readable;
    const _: fn(&mut sys::EventQueue, BorrowedFd<'_>) = sys::EventQueue::forget_readable;
    const _: fn(&mut sys::EventQueue, Option<Duration>) -> Result<Option<sys::Event>> =
        sys::EventQueue::next;
}

/// The token of [`Native::listen`]; a child's launch report has its pid.
const INPUT: u64 = 0;

/// How often a tree is looked at when all that one look finds is gone before
/// the next. Not nothing is left then: a process may be forking away.
const LOOKS: usize = 1000;

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

enum Stage {
    /// Waits at the gate, whose key is this.
    Gated(OwnedFd),
    /// On its way to `execve`; here it will say how that went.
    Released(OwnedFd),
    /// It said that it could not, and is about to end.
    Failed(LaunchError),
    Launched,
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
        spawn::keep_zombies();
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

    /// Reaps this child if it has ended; its events follow.
    ///
    /// # Errors
    /// As `waitpid(2)`, but not for a process that is no child of ours.
    pub fn reap(&mut self, pid: i32) -> io::Result<()> {
        if let Some((pid, status)) = spawn::reap(pid)? {
            self.has_ended(pid, Exit::from_status(status));
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
        while let Some((pid, status)) = spawn::reap(-1)? {
            self.has_ended(pid, Exit::from_status(status));
            count += 1;
        }
        Ok(count)
    }

    /// Queues the events of a child that has just been reaped.
    fn has_ended(&mut self, pid: i32, exit: Exit) {
        if let Some(at) = self.children.iter().position(|c| c.id.pid == pid) {
            let mut child = self.children.swap_remove(at);
            child.grown();
            let Child { id, stage, .. } = child;
            let failure = match &stage {
                Stage::Gated(_) | Stage::Launched => None,
                Stage::Failed(error) => Some(*error),
                Stage::Released(channel) => {
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

    /// A child has said how its launch went, or `execve` has closed the socket.
    fn has_reported(&mut self, pid: u64) {
        let Some(child) = self.children.iter_mut().find(|c| c.id.pid as u64 == pid) else {
            return;
        };
        let Stage::Released(channel) = &child.stage else { return };
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

    /// The pids of the tree as one look finds them, without those that are to
    /// be spared; `others` are these when they were asked for.
    fn look(&mut self, tree: &Tree, others: &mut Option<Vec<i32>>) -> io::Result<Vec<i32>> {
        let mut found = self.look_at_all(tree)?;
        let leader = tree.main.pid;
        let is_stranger = |&pid: &i32| pid != leader && !is_in_session(pid, leader);
        if let (None, Some(ask)) = (&others, &self.others)
            && found.iter().any(is_stranger)
        {
            *others = Some(ask());
        }
        for &other in others.iter().flatten() {
            if found.contains(&other) {
                let below = sys::descendants(other)?;
                found.retain(|pid| *pid != other && !below.contains(pid));
            }
        }
        Ok(found)
    }

    fn look_at_all(&mut self, tree: &Tree) -> io::Result<Vec<i32>> {
        if !(tree.is_ours && self.keeps_orphans) {
            return search(tree);
        }
        let mut found = self.lineage()?;
        for stray in living(&tree.strays)? {
            if !spared().contains(&stray) {
                found.push(stray);
                found.extend(sys::descendants(stray)?);
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| !spared().contains(pid));
        let leader = tree.main.pid;
        match tree.scope {
            Scope::Tree => {}
            Scope::Session => found.retain(|&pid| is_in_session(pid, leader)),
            Scope::Group => found.retain(|&pid| is_in_group(pid, leader)),
        }
        Ok(found)
    }

    /// Our living descendants. That there are none is believed when the kernel
    /// says that we have no child. A look alone can miss one that was orphaned
    /// after our children and before its parent's were read; but then a child
    /// of ours has ended, and we look again.
    fn lineage(&mut self) -> io::Result<Vec<i32>> {
        let mut quiet = 0;
        loop {
            quiet = if self.reap_all()? == 0 { quiet + 1 } else { 0 };
            match peek_child() {
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(Vec::new()),
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let found = sys::descendants(getpid().as_raw())?;
            // A zombie that a tracer holds back is there, and cannot be reaped.
            if !found.is_empty() || quiet > 1 {
                return Ok(found);
            }
        }
    }
}

/// Those that still are who they were.
fn living(processes: &[ProcessId]) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for process in processes {
        if born(process.pid)? == Some(process.born) {
            found.push(process.pid);
        }
    }
    Ok(found)
}

fn is_in_group(pid: i32, leader: i32) -> bool {
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid)));
    group.is_ok_and(|group| group.as_raw() == leader)
}

fn is_in_session(pid: i32, leader: i32) -> bool {
    getsid(Some(nix::unistd::Pid::from_raw(pid))).is_ok_and(|sid| sid.as_raw() == leader)
}

/// The tree of a process that is not our child, from a look at all processes.
fn search(tree: &Tree) -> io::Result<Vec<i32>> {
    let all: Vec<Relation> = processes()?
        .iter()
        .map(|p| Relation { pid: p.pid, ppid: p.ppid, pgid: p.pgid, sid: p.sid })
        .collect();
    let main = tree.main.pid;
    let main_pid = born(main)?.map(|born| ProcessId { pid: main, born });
    let mark = run_entry(tree.run);
    // Only what lost its parent must be known by its mark, and that went to where the
    // main process went, or to init. To read every environment would take long.
    let parent_of = |pid| all.iter().find(|p| p.pid == pid).map(|p| p.ppid);
    let reapers =
        [Some(1), Some(getpid().as_raw()), Some(parent()), parent_of(parent()), parent_of(main)];
    let is_marked =
        |p: &Relation| reapers.contains(&Some(p.ppid)) && carries(p.pid, mark.as_bytes());
    Ok(tree::search(tree, &all, main_pid, &living(&tree.strays)?, &spared(), is_marked))
}

/// We, our keeper and init never belong to a tree, whatever it says.
fn spared() -> [i32; 3] {
    [getpid().as_raw(), parent(), 1]
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
        let token = process.pid as u64;
        // What it says before we listen is heard all the same.
        spawn::open_gate(gate.as_fd())?;
        let listens = self.queue.watch_readable(gate.as_fd(), token);
        if let Stage::Gated(gate) = std::mem::replace(stage, Stage::Launched) {
            *stage = Stage::Released(gate);
        }
        listens
    }

    fn signal(&mut self, process: ProcessId, signal: Signal) -> io::Result<bool> {
        send(process.pid, process.born, signal)
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
        let is_proven = tree.is_ours && self.keeps_orphans;
        let (mut is_second, mut others) = (false, None);
        for _ in 0..LOOKS {
            let first = self.look(tree, &mut others)?;
            if first.is_empty() {
                // A look at all processes can miss one that is forking away; that
                // we have no child proves nothing where some are spared.
                if is_proven && others.is_none() || std::mem::replace(&mut is_second, true) {
                    return Ok(Vec::new());
                }
                continue;
            }
            let mut members = Vec::new();
            for pid in first {
                members.extend(self.identify(pid)?);
            }
            // Between look and identification a pid may have passed to a
            // stranger. Whoever a second look finds there was not one, or is
            // gone by now.
            let second = self.look(tree, &mut others)?;
            members.retain(|m| second.contains(&m.pid));
            if !members.is_empty() {
                return Ok(members);
            }
        }
        Err(io::Error::other("its processes come and go too fast to be told apart"))
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
            crate::zone::rest(is_steady && deadline.is_none());
            let left = deadline.map(|d| d.saturating_sub(self.now()));
            match self.queue.next(left)? {
                Some(event) => self.translate(event)?,
                None if deadline.is_some_and(|d| d <= self.now()) => return Ok(Event::Deadline),
                None => {}
            }
        }
    }

    fn now(&self) -> Duration {
        // It fails only for clocks that do not exist.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
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
