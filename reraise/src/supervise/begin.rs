//! How a worker begins: it takes the lock, looks at what a former worker has
//! left, and goes on from there. [`plan`] decides; the rest looks and acts.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::backend::{Exit, ProcessBackend, Scope, Signal, Tree};
use crate::config::Config;
use crate::context::Context;
use crate::error::{ExitCode, Fault};
use crate::lock::{Holder, LockFile};
use crate::messages;
use crate::name::ServiceName;
use crate::paths::{self, Files};
use crate::slot::{Phase, Slot, SlotFile, left_status};
use crate::supervise::launch::{self, Loaded};
use crate::supervise::link::Link;
use crate::supervise::machine::{Input, Machine, Outcome};
use crate::supervise::news::News;
use crate::supervise::policy::History;
use crate::supervise::worker::{Place, Worker};
use crate::wanted::Wanted;

/// Why a worker was forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Somebody said `start`, in these surroundings (encoded).
    Start {
        /// Who is told when it runs already.
        client: String,
        /// A [`Context`].
        context: Rc<[u8]>,
    },
    /// Somebody said `stop`.
    Stop {
        /// Without patience.
        now: bool,
    },
    /// Somebody said `restart`.
    Restart,
    /// Its worker died, or everything did.
    Resume,
}

impl Task {
    /// A copy that shares nothing with this one.
    #[must_use]
    pub fn apart(&self) -> Self {
        match self {
            Self::Start { client, context } => {
                Self::Start { client: client.clone(), context: (**context).into() }
            }
            other => other.clone(),
        }
    }
}

/// What is left of the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// It lives.
    Alive,
    /// It has ended meanwhile.
    Dead(Exit),
    /// There was none in this boot and pid namespace.
    None,
}

/// How to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Launch; what is left of a dead run's tree is ended first.
    Launch,
    /// Take over the living run, then do this.
    Adopt(Option<Input>),
    /// Take over the run and let the policy judge its end.
    Judge(Exit),
    /// Wait for the end of the delay.
    Wait,
    /// End what is left of a dead run's tree, and be over.
    Clear,
    /// Nothing is to be done.
    Leave(Outcome),
}

/// Decides how to begin.
#[must_use]
pub fn plan(task: &Task, wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    match (task, remains) {
        (Task::Start { .. }, Remains::Alive) => Beginning::Adopt(None),
        (Task::Start { .. }, Remains::Dead(_) | Remains::None) => Beginning::Launch,
        (Task::Stop { now }, Remains::Alive) => {
            Beginning::Adopt(Some(if *now { Input::StopNow } else { Input::Stop }))
        }
        (Task::Stop { .. } | Task::Restart, Remains::Dead(_)) => Beginning::Clear,
        (Task::Stop { .. } | Task::Restart, Remains::None) => Beginning::Leave(Outcome::NotRunning),
        (Task::Restart, Remains::Alive) => Beginning::Adopt(Some(Input::Restart)),
        (Task::Resume, _) => resume(wanted, phase, remains),
    }
}

/// Goes on where a former worker was interrupted.
fn resume(wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    let is_down = wanted == Some(Wanted::Down) || phase == Phase::Stopping;
    match (phase, remains) {
        (Phase::Over, Remains::Dead(_) | Remains::None) => Beginning::Leave(Outcome::NotRunning),
        (_, Remains::Alive) if is_down => Beginning::Adopt(Some(Input::Stop)),
        (_, Remains::Dead(_)) if is_down => Beginning::Clear,
        (_, Remains::None) if is_down => Beginning::Leave(Outcome::Stopped),
        (Phase::Restarting, Remains::Alive) => Beginning::Adopt(Some(Input::Restart)),
        (Phase::Restarting, Remains::Dead(_)) => Beginning::Launch,
        // A child that was never let through the gate ends with 0 and is no run.
        (Phase::Launching, Remains::Dead(Exit::Code(0) | Exit::Unknown)) => Beginning::Launch,
        (Phase::Delay, Remains::Dead(_) | Remains::None) => Beginning::Wait,
        (_, Remains::Alive) => Beginning::Adopt(None),
        (_, Remains::Dead(exit)) => Beginning::Judge(exit),
        (_, Remains::None) => Beginning::Launch,
    }
}

/// What a worker is given.
pub struct Assignment {
    /// `$RERAISE_PIDDIR`, which has been checked.
    pub piddir: std::path::PathBuf,
    /// The service.
    pub name: ServiceName,
    /// What is to be done.
    pub task: Task,
    /// This boot and pid namespace.
    pub place: Place,
    /// The keeper's end, if there is a keeper.
    pub link: Link,
    /// By hand, without a keeper.
    pub is_foreground: bool,
}

/// Begins, and supervises until there is nothing more to do. `None`: it was not
/// for this worker to do.
///
/// # Errors
/// When something fails that another worker may do better.
pub fn supervise<B: ProcessBackend>(backend: B, given: Assignment) -> io::Result<Option<Outcome>> {
    match begin(backend, given)? {
        Some(mut worker) => worker.run().map(Some),
        None => Ok(None),
    }
}

/// What comes before the loop, in a frame of its own: a worker spends its life
/// in the loop, and each page of stack is one that its service costs.
#[inline(never)]
fn begin<B: ProcessBackend>(backend: B, given: Assignment) -> io::Result<Option<Box<Worker<B>>>> {
    let owner = nix::unistd::geteuid().as_raw();
    let files = Files::of(&given.piddir, owner, &given.name);
    let mut link = given.link;
    if let Err(fault) = paths::make_dir(&files.own, 0o700) {
        link.tell(&News::Fault(fault));
        return Ok(None);
    }
    let lock = LockFile::open(&files.file("lock"))?;
    if !lock.try_take(0)? {
        let pid = match lock.holder(0)? {
            Holder::Pid(pid) => pid,
            Holder::Elsewhere => 0,
            // Its holder has just ended: whoever sent us tries again.
            Holder::Nobody => return Err(io::ErrorKind::Interrupted.into()),
        };
        link.tell(&News::Held(pid));
        return Ok(None);
    }
    let opened = SlotFile::open(&files.file("run"));
    let slot_file = match opened {
        Ok(file) => file,
        Err(e) => {
            link.tell(&News::Fault(Fault::system(&given.name, "cannot keep its run slot", &e)));
            return Ok(None);
        }
    };
    let mut backend = backend;
    let me = backend.identify(std::process::id().cast_signed())?.ok_or(io::ErrorKind::NotFound)?;
    let slot = slot_file.read().filter(|s| Place { boot: s.boot, space: s.space } == given.place);
    let slot = slot.unwrap_or_default();
    let remains = look(&mut backend, &slot, &files)?;
    let beginning = plan(&given.task, Wanted::read(&files.own), slot.phase, remains);
    if let Some(fd) = link.descriptor() {
        backend.listen(fd)?;
    }
    let context = match &given.task {
        Task::Start { context, .. } => Context::decode(context),
        _ => Context::read(&files.file("context")),
    };
    let must_launch = matches!(given.task, Task::Start { .. }) && beginning == Beginning::Launch;
    let judged = match &context {
        Some(context) => judge(context, &given.name),
        None => Err(without_context(&given.name)),
    };
    let mut prepared = None;
    let config = match (judged, context) {
        (Ok(loaded), Some(context)) if must_launch => {
            let config = loaded.config.clone();
            prepared = Some((context, loaded));
            config
        }
        (Ok(loaded), _) => loaded.config,
        (Err(fault), _) if must_launch => {
            link.tell(&News::Fault(fault));
            return Ok(None);
        }
        // A service whose script is gone, or makes no sense any more, can
        // still be watched and stopped.
        (Err(fault), _) => {
            messages::say(given.name.as_str(), &fault.what);
            Config::default()
        }
    };
    let machine = Machine::new(config, me.born ^ slot.run);
    let mut worker = Box::new(Worker {
        backend,
        name: given.name,
        me,
        place: given.place,
        files,
        slot_file,
        slot,
        machine,
        tree: None,
        link,
        prepared,
        is_gated: slot.phase == Phase::Launching && remains == Remains::Alive,
        is_foreground: given.is_foreground,
        told: Vec::new(),
        published: None,
        _lock: lock,
    });
    worker.begin(&given.task, beginning, remains)?;
    // Moved to where it lies together with what else stays: what was needed for
    // a moment is gone now.
    Ok(Some(Box::new(*worker)))
}

/// The entry and its configuration, if both may be used.
fn judge(context: &Context, name: &ServiceName) -> Result<Loaded, Fault> {
    let loaded = launch::load(context, name)?;
    match loaded.problems.first() {
        None => Ok(loaded),
        Some(problem) => Err(launch::config_fault(name, &loaded.entry.program, problem)),
    }
}

/// Without its surroundings a service is watched and stopped, not started.
fn without_context(name: &ServiceName) -> Fault {
    let what = "the surroundings that it was started with are gone";
    Fault::new(ExitCode::System, name, what, format!("start it anew: reraise start {name}"))
}

/// What is left of the slot's run. A process that lives is watched from now on,
/// so that its end cannot be missed.
fn look<B: ProcessBackend>(backend: &mut B, slot: &Slot, files: &Files) -> io::Result<Remains> {
    if slot.run == 0 {
        return Ok(Remains::None);
    }
    match slot.phase {
        // A worker is over when nothing is left of the run.
        Phase::Idle | Phase::Delay | Phase::Over => return Ok(Remains::None),
        Phase::Launching | Phase::Up | Phase::Stopping | Phase::Restarting | Phase::Clearing => {}
    }
    if backend.watch(slot.process())? {
        return Ok(Remains::Alive);
    }
    let left = left_status(&files.file("exit"), slot.run);
    Ok(Remains::Dead(left.map_or(Exit::Unknown, Exit::from_status)))
}

impl<B: ProcessBackend> Worker<B> {
    fn begin(&mut self, task: &Task, beginning: Beginning, remains: Remains) -> io::Result<()> {
        let now = self.backend.now();
        let history = History { started: self.slot.started, failures: self.slot.failures };
        let since = Duration::from_nanos(self.slot.since);
        let config = self.machine.config.clone();
        let seed = self.slot.run;
        if remains != Remains::None {
            let (main, run) = (self.slot.process(), self.slot.run);
            let strays = launch::strays(&self.files);
            let scope = Scope::Tree;
            self.tree = Some(Tree { main, run, is_ours: false, strays, scope });
        }
        if let Task::Start { context, .. } = task {
            if let Err(e) = self.note_start(context, beginning) {
                let fault = Fault::system(&self.name, "cannot keep what it was started with", &e);
                self.tell_fault(&fault);
                self.machine.leave(Outcome::NotRunning);
                return Ok(());
            }
        } else if matches!(task, Task::Stop { .. }) {
            self.want(Wanted::Down);
        }
        match beginning {
            Beginning::Adopt(then) => {
                self.machine = Machine::adopted(config, seed, since.min(now), history);
                if let Task::Start { client, .. } = task {
                    self.link.answer(client, &News::Already(self.slot.pid));
                }
                let Some(input) = then else { return self.feed(Input::Deadline) };
                // In one step for the slot: if we die in between, our successor
                // must still find that it was being ended.
                let _ = self.machine.step(Input::Deadline, now);
                self.feed(input)
            }
            Beginning::Judge(exit) => {
                self.machine = Machine::adopted(config, seed, since.min(now), history);
                let alone = self.is_cleared()?;
                self.feed(Input::Ended { exit, alone })
            }
            Beginning::Wait => {
                let until = Duration::from_nanos(self.slot.until);
                self.machine = Machine::waiting(config, seed, until, history);
                self.feed(Input::Deadline)
            }
            Beginning::Launch => {
                if matches!(task, Task::Resume) {
                    self.machine = Machine::waiting(config, seed, now, history);
                }
                self.clear_then(true)
            }
            Beginning::Clear => self.clear_then(false),
            Beginning::Leave(outcome) => {
                self.machine.leave(outcome);
                Ok(())
            }
        }
    }

    /// Ends what a dead run has left, then launches or leaves.
    fn clear_then(&mut self, launch: bool) -> io::Result<()> {
        if self.is_cleared()? {
            if launch {
                return self.feed(if self.machine.deadline().is_some() {
                    Input::Deadline
                } else {
                    Input::Start
                });
            }
            self.machine.leave(Outcome::NotRunning);
            return self.feed(Input::Alone);
        }
        let now = self.backend.now();
        let history = self.machine.history();
        let config = self.machine.config.clone();
        let (machine, signal, whom) =
            Machine::clearing(config, self.slot.run, now, history, launch);
        self.machine = machine;
        self.signal(signal, whom)
    }

    fn is_cleared(&mut self) -> io::Result<bool> {
        let Some(tree) = &self.tree else { return Ok(true) };
        if tree.main.pid == 0 {
            return Ok(true);
        }
        self.is_alone()
    }

    fn note_start(&mut self, context: &[u8], beginning: Beginning) -> io::Result<()> {
        if beginning == Beginning::Launch {
            Context::keep(context, &self.files.file("context"))?;
            let mut slot =
                Slot { boot: self.place.boot, space: self.place.space, ..Slot::default() };
            if !self.is_cleared()? {
                // Our successor must find what is to be ended first as well.
                let Slot { pid, born, run, .. } = self.slot;
                slot = Slot { phase: Phase::Restarting, pid, born, run, ..slot };
            }
            self.slot = slot;
            self.slot_file.write(&self.slot)?;
        }
        Wanted::Up.write(&self.files.own)
    }
}

/// The signals that a worker takes as events.
pub const SIGNALS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_in_every_phase_with_every_remains() {
        use Beginning::{Adopt, Clear, Judge, Launch, Leave, Wait};
        let phases = [
            Phase::Idle,
            Phase::Launching,
            Phase::Up,
            Phase::Delay,
            Phase::Stopping,
            Phase::Restarting,
            Phase::Clearing,
            Phase::Over,
        ];
        let start = Task::Start { client: "1".into(), context: [].into() };
        let exit = Exit::Code(3);
        let all_remains = [Remains::Alive, Remains::Dead(exit), Remains::None];
        for phase in phases {
            for wanted in [None, Some(Wanted::Up), Some(Wanted::Down)] {
                for remains in all_remains {
                    let of = |task: &Task| plan(task, wanted, phase, remains);
                    let is_alive = remains == Remains::Alive;
                    // A living run is never launched beside.
                    for task in
                        [start.clone(), Task::Stop { now: false }, Task::Restart, Task::Resume]
                    {
                        if is_alive {
                            assert!(matches!(of(&task), Adopt(_)), "{task:?} {phase:?} {wanted:?}");
                        } else {
                            assert!(
                                !matches!(of(&task), Adopt(_)),
                                "{task:?} {phase:?} {wanted:?}"
                            );
                        }
                    }
                    // Only a start, or a wish to be up, launches.
                    for task in [Task::Stop { now: true }, Task::Restart] {
                        assert!(!matches!(of(&task), Launch | Judge(_) | Wait));
                    }
                    let resumed = of(&Task::Resume);
                    if wanted == Some(Wanted::Down) {
                        assert!(!matches!(resumed, Launch | Judge(_) | Wait), "{phase:?}");
                        if is_alive {
                            assert_eq!(resumed, Adopt(Some(Input::Stop)));
                        }
                    }
                    // An exit is judged as it is known, or not at all.
                    if let Judge(judged) = resumed {
                        assert_eq!(remains, Remains::Dead(judged));
                    }
                }
            }
        }
        let up = Some(Wanted::Up);
        for (phase, remains, expected) in [
            (Phase::Idle, Remains::None, Launch),
            (Phase::Launching, Remains::Dead(Exit::Code(0)), Launch),
            (Phase::Launching, Remains::Dead(exit), Judge(exit)),
            (Phase::Launching, Remains::Alive, Adopt(None)),
            (Phase::Up, Remains::Alive, Adopt(None)),
            (Phase::Up, Remains::Dead(exit), Judge(exit)),
            (Phase::Up, Remains::Dead(Exit::Unknown), Judge(Exit::Unknown)),
            (Phase::Delay, Remains::None, Wait),
            (Phase::Stopping, Remains::Alive, Adopt(Some(Input::Stop))),
            (Phase::Stopping, Remains::Dead(exit), Clear),
            (Phase::Restarting, Remains::Alive, Adopt(Some(Input::Restart))),
            (Phase::Restarting, Remains::Dead(exit), Launch),
            (Phase::Clearing, Remains::Dead(exit), Judge(exit)),
            (Phase::Over, Remains::None, Leave(Outcome::NotRunning)),
        ] {
            assert_eq!(plan(&Task::Resume, up, phase, remains), expected, "{phase:?} {remains:?}");
        }
    }
}
