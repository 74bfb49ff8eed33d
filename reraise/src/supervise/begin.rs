//! How a worker begins: it takes the lock, looks at what a former worker has
//! left, and goes on from there. [`plan`] decides; this looks and acts.

use std::fs;
use std::io;
use std::time::Duration;

use crate::backend::{Exit, ProcessBackend, Scope, Signal, Tree};
use crate::config::Config;
use crate::context::{self, Context};
use crate::error::{ExitCode, Fault};
use crate::lock::{self, Holder, LockFile};
use crate::logger::pipes::{Held, Use};
use crate::logger::report;
use crate::messages;
use crate::name::ServiceName;
use crate::paths::{self, Files};
use crate::record::Record;
use crate::slot::{Found, Phase, Slot, SlotFile, left_status};
use crate::supervise::chronicle;
use crate::supervise::launch::{self, Loaded, Under};
use crate::supervise::link::Link;
use crate::supervise::machine::{Input, Machine, Outcome};
use crate::supervise::news::News;
pub use crate::supervise::plan::Task;
use crate::supervise::plan::{Beginning, Remains, plan, was_run};
use crate::supervise::policy::{self, History};
use crate::supervise::publish::Unwritten;
use crate::supervise::strays;
use crate::supervise::worker::{Place, Worker};
use crate::wanted::Wanted;

/// How long a process may take to find that nobody opens its gate any more. Before, it
/// is not said to run, unless it is known to.
const AT_THE_GATE: Duration = Duration::from_millis(500);

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
    /// Who has us forked.
    pub under: Under,
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
/// in the loop, and each page of stack is one that its service costs. `None`: as above.
///
/// # Errors
/// As above.
#[inline(never)]
pub fn begin<B: ProcessBackend>(
    backend: B,
    given: Assignment,
) -> io::Result<Option<Box<Worker<B>>>> {
    let owner = nix::unistd::geteuid().as_raw();
    let files = Files::of(&given.piddir, owner, &given.name);
    let mut link = given.link;
    // Somebody may be left to be looked after: another one is to try then.
    let is_new = matches!(given.task, Task::Start { .. })
        && !Wanted::read(&files.own).is_some_and(Wanted::is_up);
    if let Err(fault) = paths::make_dir(&files.own, 0o700) {
        let failed = io::Error::other(fault.what.clone());
        link.tell(&News::Fault(fault));
        return if is_new { Ok(None) } else { Err(failed) };
    }
    let lock = LockFile::open(&files.file("lock"))?;
    if given.under == Under::Nobody {
        // First, so that nobody takes us for a worker that can be called.
        lock.try_take(lock::BY_HAND)?;
    }
    while !lock.try_take(lock::ALIVE)? {
        let held = match lock.holder(lock::ALIVE)? {
            // Its holder has just ended.
            Holder::Nobody => continue,
            Holder::Elsewhere => News::Held(0),
            Holder::Pid(pid) if lock.holder(lock::BY_HAND)? == Holder::Pid(pid) => News::Held(pid),
            Holder::Pid(pid) => {
                link.yield_to(pid);
                return Ok(None);
            }
        };
        link.tell(&held);
        return Ok(None);
    }
    let opened = SlotFile::open(&files.file("run"));
    let slot_file = match opened {
        Ok(file) => file,
        Err(e) => {
            link.tell(&News::Fault(Fault::system(&given.name, "cannot keep its run slot", &e)));
            return if is_new { Ok(None) } else { Err(e) };
        }
    };
    let mut backend = backend;
    let me = backend.identify(std::process::id().cast_signed())?.ok_or(io::ErrorKind::NotFound)?;
    let slot = match slot_file.look() {
        Found::Slot(slot) if Place { boot: slot.boot, space: slot.space } == given.place => slot,
        // Of an earlier boot, or of another container: whose pids mean nothing.
        Found::Slot(Slot { started, raised, .. }) => Slot { started, raised, ..Slot::default() },
        Found::Nothing => Slot::default(),
        Found::Later(version) => {
            link.tell(&News::Fault(later(&given.name, version)));
            return Ok(None);
        }
    };
    let remains = look(&mut backend, &slot, &files)?;
    let wanted = Wanted::read(&files.own);
    let beginning = plan(&given.task, wanted, slot.phase, remains);
    if let Some(fd) = link.descriptor() {
        backend.listen(fd)?;
    }
    let context = match &given.task {
        Task::Start { context, .. } => Context::decode(context),
        _ => Context::kept(&files.file("context"))?,
    };
    let is_asked = matches!(given.task, Task::Start { .. } | Task::Raise { .. });
    let must_launch = is_asked && beginning == Beginning::Launch;
    let judged = match &context {
        Some(context) => judge(context, &given.name),
        None => Err(without_context(&given.task, &given.name, &files)),
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
            // Unless that is only because nothing can be read just now.
            fs::File::open("/").map(drop)?;
            messages::say(given.name.as_str(), &fault.what);
            Config::default()
        }
    };
    let mut machine = Machine::new(config, me.born ^ slot.run);
    machine.set_once(match given.task {
        Task::Start { once, .. } => once,
        _ => wanted == Some(Wanted::Once),
    });
    let pipes = Held::adopt(&files.own, Use::from_byte(slot.pipes));
    let is_gated = slot.phase == Phase::Launching
        && remains == Remains::Alive
        && !backend.has_begun(slot.process(), slot.run);
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
        is_gated,
        gate: None,
        under: given.under,
        told: Vec::new(),
        others: None,
        owes_stop: false,
        has_adopted: remains != Remains::None,
        was_signalled: false,
        pipes,
        published: None,
        unrecorded: None,
        unwritten: Unwritten::default(),
        asked: None,
        events: String::new(),
        _lock: lock,
    });
    let begun = worker.begin(&given.task, beginning, remains);
    worker.write_events();
    begun?;
    Ok(Some(worker))
}

/// The entry and its configuration, if both may be used.
fn judge(context: &Context, name: &ServiceName) -> Result<Loaded, Fault> {
    let loaded = launch::load(context, name)?;
    match loaded.problems.first() {
        None => Ok(loaded),
        Some(problem) => Err(launch::config_fault(name, &loaded.entry.program, problem)),
    }
}

/// What we cannot read must not be taken for nothing: a run would be started
/// beside one that lives.
fn later(name: &ServiceName, version: u8) -> Fault {
    let what = format!("its run was recorded by a later version of Reraise (format {version})");
    Fault::new(ExitCode::System, name, what, "install that version again: this one cannot read it")
}

/// Without its surroundings a service is watched and stopped, not started.
fn without_context(task: &Task, name: &ServiceName, files: &Files) -> Fault {
    if matches!(task, Task::Start { context, .. } if context::is_later(context)) {
        let what = "is started by a later version of Reraise than the keeper's";
        let advice = "replace keeper and workers, the services go on: reraise upgrade";
        return Fault::new(ExitCode::System, name, what, advice);
    }
    let what = match context::is_kept_by_later(&files.file("context")) {
        true => "what it was started with was kept by a later version of Reraise",
        false => "the surroundings that it was started with are gone",
    };
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
        Phase::Idle | Phase::Delay | Phase::Over | Phase::Stopped => return Ok(Remains::None),
        Phase::Launching | Phase::Up | Phase::Stopping | Phase::Restarting | Phase::Clearing => {}
    }
    if backend.watch(slot.process())? {
        return Ok(Remains::Alive);
    }
    // In this order: its parent leaves the status for us before it reaps it.
    let end = backend.end_of(slot.process());
    if end != Exit::Unknown {
        return Ok(Remains::Dead(end));
    }
    let left = left_status(&files.file("exit"), slot.run).map(Exit::from_status);
    Ok(Remains::Dead(left.or_else(|| chronicle::known(files, slot.run)).unwrap_or(Exit::Unknown)))
}

impl<B: ProcessBackend> Worker<B> {
    fn begin(&mut self, task: &Task, beginning: Beginning, remains: Remains) -> io::Result<()> {
        let now = self.backend.now();
        let Slot { started, failures, hasty, .. } = self.slot;
        let history = History { started, failures, hasty, once: self.machine.history().once };
        let since = Duration::from_nanos(self.slot.since);
        let config = self.machine.config.clone();
        let seed = self.slot.run;
        let is_none = matches!(remains, Remains::Dead(exit) if !was_run(self.slot.phase, exit));
        let last = match remains {
            Remains::Dead(_) if is_none => self.slot.last,
            Remains::Dead(exit) => Some(exit),
            Remains::Alive | Remains::None => self.slot.last,
        };
        if remains != Remains::None {
            let (main, run) = (self.slot.process(), self.slot.run);
            let strays = strays::read(&self.files, run);
            let scope = Scope::Tree;
            self.tree = Some(Tree { main, run, is_ours: false, strays, scope });
        }
        self.note_beginning(task, beginning, remains);
        if let Task::Start { context, once, .. } = task {
            if let Err(e) = self.note_start(context, *once, beginning) {
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
                self.machine =
                    Machine::adopted(config, seed, since.min(now), history).remembering(last);
                if self.is_gated {
                    let gate = now + AT_THE_GATE;
                    self.gate = Some(gate);
                    self.machine = self.machine.clone().not_before(gate);
                }
                let Some(input) = then else {
                    self.answer_already(task, self.slot.pid);
                    // Who launched it may have died before it could say so.
                    match self.slot.phase {
                        Phase::Launching if !self.is_gated => self.tell_launched(),
                        Phase::Up => self.link.tell(&News::Launched(self.slot.pid)),
                        _ => {}
                    }
                    return self.feed(Input::Deadline);
                };
                let is_under_way = matches!(self.slot.phase, Phase::Stopping | Phase::Restarting);
                if is_under_way && self.slot.until > 0 {
                    // The signals so far need not be sent again.
                    let until = Duration::from_nanos(self.slot.until);
                    self.machine.go_on_ending(self.slot.rung, until, input == Input::Restart);
                    let is_hurried = input == Input::StopNow;
                    return self.feed(if is_hurried { input } else { Input::Deadline });
                }
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
                // A clock that was set back by another time namespace, or by
                // nonsense in the slot, is no reason to wait for ever.
                let latest = now.saturating_add(policy::longest_delay(&config));
                let until = Duration::from_nanos(self.slot.until).min(latest);
                self.machine = Machine::waiting(config, seed, until, history).remembering(last);
                self.answer_already(task, 0);
                self.feed(Input::Deadline)
            }
            Beginning::Launch => {
                if is_none {
                    self.slot.run = 0;
                }
                // What the policy remembers is forgotten by a start alone.
                if !matches!(task, Task::Start { .. }) {
                    self.machine = Machine::waiting(config, seed, now, history).remembering(last);
                }
                self.clear_then(true)
            }
            Beginning::Clear => self.clear_then(false),
            Beginning::Leave(outcome) => {
                self.machine = Machine::waiting(config, seed, now, history).remembering(last);
                self.finish(outcome, *task == Task::Resume);
                Ok(())
            }
        }
    }

    /// Leaves. What a worker that was killed at its end had still to write is written.
    fn finish(&mut self, outcome: Outcome, is_resumed: bool) {
        self.machine.leave(outcome);
        let me = nix::unistd::geteuid().as_raw();
        let record = Record::read(&self.files.record, &[me]);
        // The shell version's is its own business.
        let is_ours = |record: &Record| record.more.is_some();
        match (self.slot.phase, record) {
            (Phase::Delay, _) if Wanted::read(&self.files.own) == Some(Wanted::Down) => {
                self.publish();
            }
            (Phase::Stopped, Ok(Some(record))) if is_ours(&record) => self.publish(),
            (Phase::Over, Ok(record)) => {
                let exit = self.slot.last.unwrap_or(Exit::Unknown);
                let ended =
                    if self.slot.is_done { Outcome::Done(exit) } else { Outcome::Failed(exit) };
                let is_unfinished = match &record {
                    Some(record) => is_ours(record) && record.worker.is_some(),
                    None => is_resumed,
                };
                if is_unfinished {
                    self.machine.leave(ended);
                    self.publish();
                }
                if !is_resumed {
                    self.machine.leave(outcome);
                }
            }
            _ => {}
        }
    }

    /// Tells whoever wants it up that it is.
    fn answer_already(&mut self, task: &Task, pid: i32) {
        if let Task::Start { client, .. } | Task::Raise { client } = task {
            self.link.answer(client, &News::Already(pid));
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
            self.name_detached()?;
            self.machine.leave(Outcome::NotRunning);
            return self.feed(Input::Alone);
        }
        let last = self.machine.last_exit();
        let now = self.backend.now();
        let history = self.machine.history();
        let config = self.machine.config.clone();
        let (machine, signal, whom) =
            Machine::clearing(config, self.slot.run, now, history, launch);
        self.machine = machine.remembering(last);
        self.signal(signal, whom)?;
        self.notice_silence()
    }

    fn is_cleared(&mut self) -> io::Result<bool> {
        let Some(tree) = &self.tree else { return Ok(true) };
        if tree.main.pid == 0 {
            return Ok(true);
        }
        self.is_alone()
    }

    fn note_start(&mut self, context: &[u8], once: bool, beginning: Beginning) -> io::Result<()> {
        if beginning == Beginning::Launch {
            Context::keep(context, &self.files.file("context"))?;
            report::forget(&self.files.own)?;
            let mut slot =
                Slot { boot: self.place.boot, space: self.place.space, ..Slot::default() };
            slot.pipes = self.slot.pipes;
            if !self.is_cleared()? {
                // Our successor must find what is to be ended first as well.
                let Slot { pid, born, run, .. } = self.slot;
                let phase = Phase::Restarting;
                slot = Slot { phase, pid, born, run, is_remnant: true, ..slot };
            }
            self.slot = slot;
            self.slot_file.write(&self.slot)?;
        }
        Wanted::of_start(once).write(&self.files.own)
    }
}

/// The signals that a worker takes as events.
pub const SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];
