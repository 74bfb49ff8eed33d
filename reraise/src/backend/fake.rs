//! A system in memory, with a clock that moves only when somebody waits.
//!
//! A [`Fake`] is a handle: clones share one system, so that a test keeps one
//! while the supervisor under test owns another. Programs are told what to do
//! by [`Behaviour`]; whatever else happens is put on the agenda with a time
//! ([`Fake::signal_us`], [`Fake::input`], [`Fake::end`]).
//!
//! ```
//! # use reraise::backend::fake::{Behaviour, Fake};
//! # use reraise::backend::{Event, Exit, Launch, ProcessBackend};
//! # use std::time::Duration;
//! let system = Fake::new();
//! system.program("/web", Behaviour::exits(3).after(Duration::from_secs(20)));
//! let mut backend = system.clone();
//! let launch = Launch { program: c"/web".into(), ..Launch::default() };
//! let web = backend.spawn(launch)?;
//! backend.release(web)?;
//! assert_eq!(backend.next_event(None)?, Event::Launched(web));
//! assert_eq!(backend.next_event(None)?, Event::Ended(web, Exit::Code(3)));
//! assert_eq!(system.now(), Duration::from_secs(20));
//! # Ok::<(), std::io::Error>(())
//! ```

mod behaviour;
mod world;

use std::cell::{RefCell, RefMut};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;

pub use behaviour::{Behaviour, Offspring};
pub use world::{Sent, Started};

use super::{Elevation, Event, Exit, Launch, Owner, ProcessBackend, ProcessId, Tree};
use world::{Happening, World};

/// The in-memory [`ProcessBackend`], and the hands of the test inside it.
#[derive(Clone)]
pub struct Fake {
    world: Rc<RefCell<World>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A system with init, a keeper and us.
    #[must_use]
    pub fn new() -> Self {
        Self { world: Rc::new(RefCell::new(World::new())) }
    }

    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// What a program does whenever it is launched. One that was never named
    /// is not there (ENOENT).
    pub fn program(&self, path: &str, behaviour: Behaviour) {
        self.programs(path, [behaviour]);
    }

    /// What a program does at each launch; the last goes for all further ones.
    pub fn programs(&self, path: &str, runs: impl IntoIterator<Item = Behaviour>) {
        self.world().programs.insert(path.into(), runs.into_iter().collect());
    }

    /// The next so many forks fail, as with EAGAIN.
    pub fn fail_spawns(&self, errno: i32, times: usize) {
        let mut world = self.world();
        world.failing_forks.extend(std::iter::repeat_n(errno, times));
    }

    /// The next so many runs cannot be let through their gate.
    pub fn fail_releases(&self, errno: i32, times: usize) {
        let mut world = self.world();
        world.failing_releases.extend(std::iter::repeat_n(errno, times));
    }

    /// A signal reaches us at that time.
    pub fn signal_us(&self, at: Duration, signal: Signal) {
        self.world().plan(at, Happening::Event(Event::Signal(signal)));
    }

    /// The descriptor that we listen to has input at that time.
    pub fn input(&self, at: Duration) {
        self.world().plan(at, Happening::Event(Event::Input));
    }

    /// That process ends at that time, unless it has ended before.
    pub fn end(&self, at: Duration, process: ProcessId, exit: Exit) {
        self.world().plan(at, Happening::End(process, exit));
    }

    /// Another process sends a signal at that time.
    pub fn send(&self, at: Duration, process: ProcessId, signal: Signal) {
        self.world().plan(at, Happening::Send(process, signal));
    }

    /// A process that is not our child but the keeper's, and leads a session:
    /// what a successor finds and adopts. It carries the mark of the run.
    #[must_use]
    pub fn foreign(&self, run: u64, behaviour: Behaviour) -> ProcessId {
        self.world().foreign(run, behaviour)
    }

    /// The supervisor dies here and a successor takes its place, with the same
    /// handle: who waited at a gate ends, who ran is now the keeper's, and what
    /// was on its way to us is lost.
    pub fn crash(&self) {
        self.world().crash();
    }

    /// A pid whose process has ended now belongs to a stranger.
    ///
    /// # Panics
    /// While the process lives.
    #[must_use]
    pub fn reuse(&self, pid: i32) -> ProcessId {
        self.world().reuse(pid)
    }

    /// From now on nobody is told how a process that is not our child ended.
    pub fn hide_exits(&self) {
        self.world().hides_exits = true;
    }

    /// That process ends as soon as anybody asks to be told of its end, and nobody
    /// is.
    pub fn vanish_when_watched(&self, process: ProcessId) {
        self.world().vanishing = Some(process);
    }

    /// From now on orphans go to init, as on macOS.
    pub fn lose_orphans(&self) {
        self.world().keeps_orphans = false;
    }

    /// Its parent has not reaped this one, which has ended like that.
    pub fn leave_zombie(&self, process: ProcessId, exit: Exit) {
        self.world().zombie = Some((process, exit));
    }

    /// Whose a path is; what was never named is not there.
    pub fn set_owner(&self, path: impl Into<PathBuf>, owner: Owner) {
        self.world().owners.insert(path.into(), owner);
    }

    /// The clock jumps, as for one that comes from another time namespace, or
    /// from a long sleep. What was planned keeps its time.
    pub fn set_clock(&self, now: Duration) {
        self.world().now = now;
    }

    /// Who we are; another one after [`Fake::crash`].
    #[must_use]
    pub fn us(&self) -> ProcessId {
        self.world().us()
    }

    /// Our own user, at first [`Fake::UID`].
    pub fn become_user(&self, uid: u32) {
        self.world().uid = uid;
    }

    /// The user that we are at first.
    pub const UID: u32 = 1000;

    /// All signals that we have sent, the ones to nobody too.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.world().sent.clone()
    }

    /// How often we have looked who belongs to a tree.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.world().looks
    }

    /// All launches, also those that came no further than the gate.
    #[must_use]
    pub fn started(&self) -> Vec<Started> {
        self.world().started.clone()
    }

    /// Whether this very process lives.
    #[must_use]
    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.world().is_alive(process)
    }

    /// All living processes but init, the keeper and us.
    #[must_use]
    pub fn living(&self) -> Vec<ProcessId> {
        self.world().living()
    }
}

impl ProcessBackend for Fake {
    fn spawn(&mut self, launch: Launch) -> io::Result<ProcessId> {
        self.world().spawn(launch)
    }

    fn release(&mut self, process: ProcessId) -> io::Result<()> {
        self.world().release(process)
    }

    fn signal(&mut self, process: ProcessId, signal: Signal) -> io::Result<bool> {
        Ok(self.world().send(process, signal))
    }

    fn identify(&mut self, pid: i32) -> io::Result<Option<ProcessId>> {
        Ok(self.world().identify(pid))
    }

    fn watch(&mut self, process: ProcessId) -> io::Result<bool> {
        Ok(self.world().watch(process))
    }

    fn members(&mut self, tree: &Tree) -> io::Result<Vec<ProcessId>> {
        let mut world = self.world();
        world.looks += 1;
        Ok(world.members(tree))
    }

    fn keeps_orphans(&self) -> bool {
        self.world().keeps_orphans
    }

    fn listen(&mut self, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, _: BorrowedFd<'_>) {}

    fn next_event(&mut self, deadline: Option<Duration>) -> io::Result<Event> {
        self.world().next_event(deadline)
    }

    fn end_of(&self, process: ProcessId) -> Exit {
        let world = self.world();
        world.zombie.filter(|(id, _)| *id == process).map_or(Exit::Unknown, |(_, exit)| exit)
    }

    fn has_begun(&self, process: ProcessId, run: u64) -> bool {
        self.world().has_begun(process, run)
    }

    fn pause(&mut self, time: Duration) {
        self.world().now += time;
    }

    fn now(&self) -> Duration {
        self.world().now
    }

    fn owner(&self, path: &Path) -> io::Result<Owner> {
        self.world().owners.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn elevation(&self, owner: Owner, interactive: bool) -> Elevation {
        super::native::elevation_of(self.world().uid, owner, interactive)
    }
}

#[cfg(test)]
mod tests;
