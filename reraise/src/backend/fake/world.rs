//! The system behind a [`Fake`](super::Fake): its processes and its agenda.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::behaviour::{Behaviour, Offspring};
use crate::backend::tree::{self, Seen};
use crate::backend::{Event, Exit, Launch, ProcessId, RUN_VARIABLE, Tree};

const INIT: i32 = 1;
const KEEPER: i32 = 50;
const FIRST: i32 = 100;

/// A signal that we have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Duration,
    /// To whom.
    pub process: ProcessId,
    /// Which.
    pub signal: Signal,
    /// Whether that process was there.
    pub arrived: bool,
}

/// A process that we have spawned.
#[derive(Debug, Clone)]
pub struct Started {
    /// When it was forked.
    pub at: Duration,
    /// Which it is.
    pub process: ProcessId,
    /// What it was to run.
    pub launch: Launch,
}

/// What the agenda holds.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Event(Event),
    Exec(ProcessId),
    Fork(ProcessId, Offspring),
    /// `announcing`: the program tells that it has started.
    Announce(ProcessId),
    Send(ProcessId, Signal),
    End(ProcessId, Exit),
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Gated,
    Released,
    Runs,
    Stopped,
}

#[derive(Debug, Clone)]
struct Process {
    born: u64,
    ppid: i32,
    pgid: i32,
    sid: i32,
    run: Option<u64>,
    stage: Stage,
    behaviour: Behaviour,
    /// Signals that wait for the gate or for SIGCONT.
    held: Vec<Signal>,
    /// We forked it, and not a process that orphaned it.
    is_spawned: bool,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) programs: BTreeMap<String, VecDeque<Behaviour>>,
    pub(super) failing_forks: VecDeque<i32>,
    pub(super) failing_releases: VecDeque<i32>,
    pub(super) owners: BTreeMap<PathBuf, crate::backend::Owner>,
    pub(super) uid: u32,
    pub(super) sent: Vec<Sent>,
    pub(super) looks: usize,
    pub(super) started: Vec<Started>,
    pub(super) hides_exits: bool,
    pub(super) keeps_orphans: bool,
    /// Whom nobody has reaped, and how it ended.
    pub(super) zombie: Option<(ProcessId, Exit)>,
    pub(super) vanishing: Option<ProcessId>,
    us: i32,
    next_pid: i32,
    births: u64,
    processes: BTreeMap<i32, Process>,
    watched: Vec<ProcessId>,
    agenda: Vec<(Duration, Happening)>,
    events: VecDeque<Event>,
}

fn by(signal: Signal) -> Exit {
    Exit::Signal { number: signal as i32, core: false }
}

/// Why a look cannot fail.
const IN_MEMORY: &str = "it is in memory";

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            programs: BTreeMap::new(),
            failing_forks: VecDeque::new(),
            failing_releases: VecDeque::new(),
            owners: BTreeMap::new(),
            uid: super::Fake::UID,
            sent: Vec::new(),
            looks: 0,
            started: Vec::new(),
            hides_exits: false,
            keeps_orphans: true,
            zombie: None,
            vanishing: None,
            us: FIRST,
            next_pid: FIRST + 1,
            births: 0,
            processes: BTreeMap::new(),
            watched: Vec::new(),
            agenda: Vec::new(),
            events: VecDeque::new(),
        };
        for (pid, ppid) in [(INIT, 0), (KEEPER, INIT), (FIRST, KEEPER)] {
            world.insert(pid, ppid, pid, None, Behaviour::waits());
        }
        world
    }

    fn insert(
        &mut self,
        pid: i32,
        ppid: i32,
        sid: i32,
        run: Option<u64>,
        behaviour: Behaviour,
    ) -> ProcessId {
        self.births += 1;
        let born = self.births;
        let process = Process {
            born,
            ppid,
            pgid: sid,
            sid,
            run,
            stage: Stage::Runs,
            behaviour,
            held: Vec::new(),
            is_spawned: false,
        };
        self.processes.insert(pid, process);
        ProcessId { pid, born }
    }

    fn free_pid(&mut self) -> i32 {
        let pid = self.next_pid;
        self.next_pid += 1;
        pid
    }

    fn get(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&id.pid).filter(|p| p.born == id.born)
    }

    pub(super) fn is_alive(&self, id: ProcessId) -> bool {
        self.identify(id.pid) == Some(id)
    }

    pub(super) fn identify(&self, pid: i32) -> Option<ProcessId> {
        self.processes.get(&pid).map(|p| ProcessId { pid, born: p.born })
    }

    pub(super) fn us(&self) -> ProcessId {
        let born = self.processes.get(&self.us).map_or(0, |p| p.born);
        ProcessId { pid: self.us, born }
    }

    pub(super) fn living(&self) -> Vec<ProcessId> {
        let known = [INIT, KEEPER, self.us];
        self.processes
            .keys()
            .filter(|p| !known.contains(p))
            .flat_map(|&p| self.identify(p))
            .collect()
    }

    /// Puts something on the agenda, behind what stands there for that time.
    pub(super) fn plan(&mut self, at: Duration, happening: Happening) {
        let place = self.agenda.partition_point(|(other, _)| *other <= at);
        self.agenda.insert(place, (at, happening));
    }

    fn soon(&mut self, after: Duration, happening: Happening) {
        self.plan(self.now + after, happening);
    }

    pub(super) fn spawn(&mut self, launch: Launch) -> io::Result<ProcessId> {
        if let Some(errno) = self.failing_forks.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let run = launch.environment.iter().find_map(|entry| {
            let (name, value) = entry.to_str().ok()?.split_once('=')?;
            (name == RUN_VARIABLE).then(|| u64::from_str_radix(value, 16).ok())?
        });
        let pid = self.free_pid();
        let id = self.insert(pid, self.us, pid, run, Behaviour::waits());
        if let Some(process) = self.get(id) {
            process.stage = Stage::Gated;
            process.is_spawned = true;
        }
        self.started.push(Started { at: self.now, process: id, launch: launch.clone() });
        Ok(id)
    }

    pub(super) fn release(&mut self, id: ProcessId) -> io::Result<()> {
        let Some(process) = self.get(id) else { return Err(Errno::ESRCH.into()) };
        if process.stage != Stage::Gated {
            return Err(Errno::EINVAL.into());
        }
        if let Some(errno) = self.failing_releases.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let Some(process) = self.get(id) else { return Ok(()) };
        process.stage = Stage::Released;
        self.soon(Duration::ZERO, Happening::Exec(id));
        Ok(())
    }

    pub(super) fn has_begun(&mut self, id: ProcessId, run: u64) -> bool {
        let is_begun = |p: &mut Process| matches!(p.stage, Stage::Runs | Stage::Stopped);
        self.get(id).is_some_and(|process| is_begun(process) && process.run == Some(run))
    }

    fn exec(&mut self, id: ProcessId) {
        let launch = self.started.iter().find(|s| s.process == id).map(|s| &s.launch);
        let path = launch.and_then(|l| l.program.to_str().ok()).unwrap_or_default();
        let behaviour = match self.programs.get_mut(path) {
            Some(runs) if runs.len() > 1 => runs.pop_front(),
            Some(runs) => runs.front().cloned(),
            None => None,
        };
        let behaviour = behaviour.unwrap_or_else(|| Behaviour::cannot_exec(libc::ENOENT));
        let Some(process) = self.get(id) else { return };
        // Before it executes anything it has only default dispositions.
        if let Some(&signal) = process.held.first() {
            return self.end(id, by(signal));
        }
        let is_spawned = process.is_spawned;
        process.stage = Stage::Runs;
        let event = match behaviour.failure {
            Some(error) => {
                self.processes.remove(&id.pid);
                Event::LaunchFailed(id, error)
            }
            None => {
                self.run(id, behaviour);
                Event::Launched(id)
            }
        };
        if is_spawned {
            self.events.push_back(event);
        }
    }

    fn run(&mut self, id: ProcessId, behaviour: Behaviour) {
        for offspring in &behaviour.offspring {
            self.soon(offspring.after, Happening::Fork(id, offspring.clone()));
        }
        if behaviour.announces {
            self.soon(Duration::ZERO, Happening::Announce(id));
        }
        if let Some(exit) = behaviour.end {
            self.soon(behaviour.after, Happening::End(id, exit));
        }
        if let Some(process) = self.get(id) {
            process.behaviour = behaviour;
        }
    }

    fn fork(&mut self, parent: ProcessId, offspring: Offspring) {
        let Some(process) = self.get(parent) else { return };
        let (pgid, sid) = (process.pgid, process.sid);
        let run = process.run.filter(|_| offspring.is_marked);
        let pid = self.free_pid();
        let sid = if offspring.leads_session { pid } else { sid };
        let leads_group = offspring.leads_session || offspring.leads_group;
        let id = self.insert(pid, parent.pid, sid, run, Behaviour::waits());
        if let Some(child) = self.get(id) {
            child.pgid = if leads_group { pid } else { pgid };
        }
        self.run(id, offspring.behaviour);
    }

    pub(super) fn foreign(&mut self, run: u64, behaviour: Behaviour) -> ProcessId {
        let pid = self.free_pid();
        let id = self.insert(pid, KEEPER, pid, Some(run), Behaviour::waits());
        self.run(id, behaviour);
        id
    }

    pub(super) fn reuse(&mut self, pid: i32) -> ProcessId {
        assert!(!self.processes.contains_key(&pid), "process {pid} lives");
        self.insert(pid, INIT, pid, None, Behaviour::waits())
    }

    /// A signal from us.
    pub(super) fn send(&mut self, process: ProcessId, signal: Signal) -> bool {
        let arrived = self.is_alive(process);
        self.sent.push(Sent { at: self.now, process, signal, arrived });
        self.deliver(process, signal);
        arrived
    }

    fn deliver(&mut self, id: ProcessId, signal: Signal) {
        let Some(process) = self.get(id) else { return };
        let is_stuck = process.behaviour.reactions.iter().any(|r| r.signal == Signal::SIGKILL);
        match (process.stage, signal) {
            (_, Signal::SIGKILL) if is_stuck => {}
            (_, Signal::SIGKILL) => self.end(id, by(signal)),
            (Stage::Stopped, Signal::SIGCONT) => {
                process.stage = Stage::Runs;
                for held in std::mem::take(&mut process.held) {
                    self.deliver(id, held);
                }
            }
            (_, Signal::SIGCONT | Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH) => {}
            (Stage::Runs, Signal::SIGSTOP) => process.stage = Stage::Stopped,
            (_, Signal::SIGSTOP) => {}
            (Stage::Gated | Stage::Released | Stage::Stopped, _) => process.held.push(signal),
            (Stage::Runs, _) => {
                let reaction = process.behaviour.reactions.iter().find(|r| r.signal == signal);
                match reaction.map(|r| r.end) {
                    None => self.end(id, by(signal)),
                    Some(None) => {}
                    Some(Some((after, exit))) => self.soon(after, Happening::End(id, exit)),
                }
            }
        }
    }

    fn end(&mut self, id: ProcessId, exit: Exit) {
        let Some(process) = self.get(id).cloned() else { return };
        let heir = self.heir(id.pid);
        self.processes.remove(&id.pid);
        for orphan in self.processes.values_mut().filter(|p| p.ppid == id.pid) {
            orphan.ppid = heir;
        }
        let is_child = process.ppid == self.us;
        let is_watched = self.watched.contains(&id);
        self.watched.retain(|w| *w != id);
        let seen = if is_child || !self.hides_exits { exit } else { Exit::Unknown };
        if is_child && process.is_spawned {
            if process.stage == Stage::Released {
                self.events.push_back(Event::Launched(id));
            }
            self.events.push_back(Event::Ended(id, seen));
        } else if is_watched {
            self.events.push_back(Event::Ended(id, seen));
        } else if is_child {
            self.events.push_back(Event::OrphanEnded);
        }
    }

    /// Who inherits the children of this process: the nearest subreaper above.
    fn heir(&self, pid: i32) -> i32 {
        let mut above = pid;
        while let Some(process) = self.processes.get(&above) {
            above = process.ppid;
            if self.keeps_orphans && (above == self.us || above == KEEPER) {
                return above;
            }
        }
        INIT
    }

    pub(super) fn watch(&mut self, id: ProcessId) -> bool {
        if self.vanishing == Some(id) {
            self.end(id, by(Signal::SIGKILL));
        }
        let is_ending = self.events.iter().any(|e| matches!(e, Event::Ended(p, _) if *p == id));
        if is_ending {
            return true;
        }
        if self.is_alive(id) && !self.watched.contains(&id) {
            self.watched.push(id);
        }
        self.is_alive(id)
    }

    pub(super) fn crash(&mut self) {
        let former = self.us;
        self.events.clear();
        self.watched.clear();
        self.agenda.retain(|(_, h)| !matches!(h, Happening::Event(_)));
        let heir = if self.keeps_orphans { KEEPER } else { INIT };
        self.processes.remove(&former);
        self.processes.retain(|_, p| p.ppid != former || p.stage != Stage::Gated);
        for process in self.processes.values_mut().filter(|p| p.ppid == former) {
            process.ppid = heir;
            process.is_spawned = false;
        }
        self.us = self.free_pid();
        self.insert(self.us, KEEPER, self.us, None, Behaviour::waits());
    }

    pub(super) fn members(&self, tree: &Tree) -> Vec<ProcessId> {
        let seen = |(&pid, p): (&i32, &Process)| Seen {
            pid,
            ppid: p.ppid,
            pgid: p.pgid,
            sid: p.sid,
            run: p.run.unwrap_or(0),
        };
        let mut all: Vec<Seen> = self.processes.iter().map(seen).collect();
        let spared = [INIT, KEEPER, self.us];
        let mut strays: Vec<i32> =
            tree.strays.iter().filter(|s| self.is_alive(**s)).map(|s| s.pid).collect();
        if tree.is_ours && self.keeps_orphans {
            // Lineage decides alone: who calls an adopted tree ours finds nothing.
            strays.extend(all.iter().filter(|p| p.ppid == self.us).map(|p| p.pid));
            let kin = tree::with_descendants(strays.clone(), &all, &spared);
            let kin = kin.expect(IN_MEMORY);
            all.retain(|p| kin.contains(&p.pid));
        }
        let main_pid = self.identify(tree.main.pid);
        let found = tree::search(tree, &all, main_pid, &strays, &spared);
        let mut found = found.expect(IN_MEMORY);
        found.sort_unstable();
        found.into_iter().flat_map(|pid| self.identify(pid)).collect()
    }

    pub(super) fn next_event(&mut self, deadline: Option<Duration>) -> io::Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let next = self.agenda.first().map(|(at, _)| *at);
            if let Some(end) = deadline
                && next.is_none_or(|at| at > end.max(self.now))
            {
                self.now = self.now.max(end);
                return Ok(Event::Deadline);
            }
            if next.is_none() {
                return Err(io::Error::other("nothing will ever happen"));
            }
            let (at, happening) = self.agenda.remove(0);
            self.now = self.now.max(at);
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(event) => self.events.push_back(event),
            Happening::Exec(id) => self.exec(id),
            Happening::Fork(id, offspring) => self.fork(id, offspring),
            Happening::Announce(id) if self.is_alive(id) => self.events.push_back(Event::Input),
            Happening::Announce(_) => {}
            Happening::Send(id, signal) => self.deliver(id, signal),
            Happening::End(id, exit) => self.end(id, exit),
        }
    }
}
