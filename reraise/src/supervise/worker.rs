//! The loop around the state machine: wait, step, perform. One worker supervises
//! one service; everything on disk about that service is written by whoever
//! holds its lock, and that is the worker.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::backend::{
    Event, Exit, LaunchError, Output, ProcessBackend, ProcessId, Scope, Signal, Step, Tree,
};
use crate::context::Context;
use crate::error::{ExitCode, Fault, reason};
use crate::history::asked::Asked;
use crate::history::deaths::Death;
use crate::lock::LockFile;
use crate::logger::bell;
use crate::logger::pipes::{self, Held, Side, Use};
use crate::messages;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::service::Entry;
use crate::slot::{self, Phase, Slot, SlotFile};
use crate::supervise::chronicle::Moment;
use crate::supervise::launch::{self, Destination, Loaded, Under};
use crate::supervise::link::Link;
use crate::supervise::machine::{Action, Input, Machine, Outcome, State};
use crate::supervise::news::News;
use crate::supervise::publish;
use crate::wanted::Wanted;
use crate::zone;

/// Where pids mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The boot.
    pub boot: u64,
    /// The pid namespace.
    pub space: u64,
}

/// A worker that holds its service's lock.
pub struct Worker<B: ProcessBackend> {
    pub(super) backend: B,
    pub(super) name: ServiceName,
    pub(super) me: ProcessId,
    pub(super) place: Place,
    pub(super) files: Files,
    pub(super) slot_file: SlotFile,
    pub(super) slot: Slot,
    pub(super) machine: Machine,
    pub(super) tree: Option<Tree>,
    pub(super) link: Link,
    /// For the first launch: what was read to judge whether there can be one.
    pub(super) prepared: Option<(Context, Loaded)>,
    /// Adopted before it was known whether its program runs.
    pub(super) is_gated: bool,
    /// Until then nothing is said of that.
    pub(super) gate: Option<Duration>,
    /// Whom we work for.
    pub(super) under: Under,
    /// Who has been sent the present signal of an ending.
    pub(super) told: Vec<ProcessId>,
    /// A signal has asked us to end the service.
    pub(super) was_signalled: bool,
    /// When the others that the present signal is for are looked for, and told.
    pub(super) others: Option<(Duration, Signal, Scope)>,
    /// A stop takes effect that was neither noted nor acknowledged yet.
    pub(super) owes_stop: bool,
    /// It has, or had, a run that an earlier worker launched.
    pub(super) has_adopted: bool,
    /// What its output goes through.
    pub(super) pipes: Held,
    /// What the record last said, so that it is not written twice.
    pub(super) published: Option<publish::Shown>,
    /// A death that is to be written down in a moment.
    pub(super) unrecorded: Option<Box<Death>>,
    /// What could not be written down, and is to be.
    pub(super) unwritten: publish::Unwritten,
    /// Who has asked for something, until that is written down.
    pub(super) asked: Option<Asked>,
    /// What happened and was not written down yet, see [`crate::history::events`].
    pub(super) events: String,
    pub(super) _lock: LockFile,
}

impl<B: ProcessBackend> Worker<B> {
    /// Supervises until there is nothing more to do.
    ///
    /// # Errors
    /// When waiting fails; another worker then takes over.
    pub fn run(&mut self) -> io::Result<Outcome> {
        loop {
            if let State::Over(outcome) = *self.machine.state() {
                self.link.tell(&News::Over(outcome));
                self.pipes.settle();
                return Ok(outcome);
            }
            // Copied to where it lies together with what else stays.
            self.machine.config = self.machine.config.clone();
            let others = self.others.map(|(at, ..)| at);
            let unwritten = self.unwritten.deadline();
            let due = [self.machine.deadline(), self.link.deadline(), others, unwritten, self.gate];
            let due = due.into_iter().flatten().min();
            let event = self.backend.next_event(due)?;
            let taken = self.on_event(event);
            self.write_events();
            taken?;
        }
    }

    /// Its program runs, as far as anybody knows.
    pub(super) fn tell_launched(&mut self) {
        self.note_launched();
        let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
        self.link.tell(&News::Launched(pid));
    }

    fn is_main(&self, id: ProcessId) -> bool {
        self.tree.as_ref().is_some_and(|t| t.main == id)
    }

    // Not part of the frame that waits.
    #[inline(never)]
    pub(super) fn on_event(&mut self, event: Event) -> io::Result<()> {
        let is_end = matches!(event, Event::Ended(..));
        if !is_end {
            self.note_stop();
        }
        match event {
            Event::Launched(id) if self.is_main(id) => self.feed(Input::Launched)?,
            Event::LaunchFailed(id, error) if self.is_main(id) => {
                self.note_failed_launch(error);
                self.tree = None;
                self.feed(Input::LaunchFailed(error))?;
            }
            Event::Ended(id, exit) if self.is_main(id) && self.machine.is_alive() => {
                self.gate = None;
                let exit = self.known(exit);
                // Adopted at the gate, which its launcher never opened: no run. What counts as
                // running has come through.
                let is_unknown = exit == Exit::Unknown && *self.machine.state() != State::Running;
                if std::mem::take(&mut self.is_gated)
                    && (exit.is_at_the_gate() || is_unknown)
                    && !self.is_ending()
                {
                    let (config, history) = (self.machine.config.clone(), self.machine.history());
                    let now = self.backend.now();
                    self.machine = Machine::waiting(config, self.slot.run, now, history);
                    self.slot.run = 0;
                    return self.feed(Input::Deadline);
                }
                self.note_death(exit);
                self.others = None;
                let alone = self.is_alone()?;
                if alone && self.is_stopping() {
                    self.name_detached()?;
                }
                self.feed(Input::Ended { exit, alone })?;
                if !alone {
                    self.signal_orphans()?;
                    self.notice_silence()?;
                }
            }
            Event::Ended(id, _) if self.link.awaits(id) => {
                self.link.await_no_longer(&mut self.backend)?;
            }
            // Of a former run, or of an orphan: the tree may be gone now.
            Event::Launched(_) | Event::LaunchFailed(..) => {}
            Event::Ended(..) | Event::OrphanEnded => self.recheck()?,
            Event::Signal(signal) => self.on_signal(signal)?,
            Event::Input => self.on_requests()?,
            Event::Deadline => {
                self.link.look_again(&mut self.backend)?;
                if let Some((_, signal, scope)) = self.others.take_if(|o| o.0 <= self.backend.now())
                {
                    self.signal_untold(signal, scope)?;
                }
                self.notice_silence()?;
                if self.gate.take_if(|gate| *gate <= self.backend.now()).is_some()
                    && matches!(self.machine.state(), State::Starting { .. })
                {
                    self.tell_launched();
                }
                self.feed(Input::Deadline)?;
            }
        }
        if is_end {
            self.note_stop();
        }
        Ok(())
    }

    fn on_signal(&mut self, signal: Signal) -> io::Result<()> {
        match signal {
            // The end of the session is no order to keep the service down:
            // what is wanted stays as it was.
            Signal::SIGTERM | Signal::SIGINT => self.stop(signal),
            Signal::SIGHUP if self.under == Under::Nobody => self.stop(signal),
            Signal::SIGUSR2 => {
                self.note_asked(&signal.as_str()[3..]);
                self.feed(Input::Restart)
            }
            Signal::SIGCONT if self.under != Under::Nobody => self.on_continued(),
            // A new keeper calls.
            Signal::SIGUSR1 if self.under != Under::Nobody => self.link.recover(&mut self.backend),
            _ => Ok(()),
        }
    }

    /// We were stopped, and somebody has found that.
    fn on_continued(&mut self) -> io::Result<()> {
        self.slot.continued += 1;
        self.unwritten.slot();
        self.say(&format!("its worker was stopped, and goes on ({})", self.slot.continued));
        self.publish();
        Ok(())
    }

    /// The second time is meant; but the keeper, which gets the same signal at
    /// the end of a session, may have said it first.
    fn stop(&mut self, signal: Signal) -> io::Result<()> {
        self.note_asked(&signal.as_str()[3..]);
        let is_meant = std::mem::replace(&mut self.was_signalled, true);
        self.feed(if is_meant { Input::StopNow } else { Input::Stop })
    }

    pub(super) fn want(&mut self, wanted: Wanted) {
        if let Err(e) = wanted.write(&self.files.own) {
            let word = wanted.as_str();
            self.tell_fault(&Fault::system(
                &self.name,
                &format!("cannot note that it is wanted {word}"),
                &e,
            ));
        }
    }

    /// Steps the machine, does what it says, and publishes what became of it.
    pub(super) fn feed(&mut self, input: Input) -> io::Result<()> {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let was_running = *self.machine.state() == State::Running;
            let before = Moment::of(self.machine.state());
            let actions = self.machine.step(input, self.backend.now());
            for action in actions {
                match action {
                    Action::Spawn => {
                        let failed = self.spawn()?;
                        failed.into_iter().for_each(|error| self.note_unlaunched(error));
                        next = failed.map(Input::LaunchFailed);
                    }
                    Action::Signal(signal, whom) => self.signal(signal, whom)?,
                    Action::NameSurvivors => self.name_survivors()?,
                }
            }
            self.note_change(before, input);
            if next.is_none() {
                self.note_stop_last();
                self.conclude();
                self.publish();
            }
            let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
            match (input, self.machine.state()) {
                // Whoever looks at a terminal wants to know; the end of all says it itself.
                (Input::Ended { exit, .. }, state)
                    if self.under == Under::Up && !matches!(state, State::Over(_)) =>
                {
                    self.link.tell(&News::Ended(exit));
                }
                // Not of one that is on its way down already.
                (Input::Launched, State::Starting { .. }) => {
                    self.link.tell(&News::Launched(pid));
                }
                (Input::Deadline, State::Running) if !was_running => {
                    self.is_gated = false;
                    self.link.tell(&News::Running(pid));
                }
                _ => {}
            }
        }
        // A kill that came too early for a fork is repeated when that is seen.
        if self.is_ending() && !self.machine.is_alive() && self.tree.is_some() && self.is_alone()? {
            return self.tree_gone();
        }
        Ok(())
    }

    /// It has ended by itself, for good: what was wanted once is not wanted any
    /// more, and what is essential ends the others.
    fn conclude(&mut self) {
        let exit = match *self.machine.state() {
            State::Over(Outcome::Failed(exit) | Outcome::Done(exit)) => exit,
            State::Over(Outcome::Unlaunchable(error)) => Exit::Code(error.exit_code()),
            _ => return,
        };
        if self.machine.history().once {
            self.want(Wanted::Down);
        }
        // Before it is written down: if we die in between, it is not lost.
        if self.machine.config.essential {
            self.link.tell(&News::Essential(exit));
        }
    }

    /// How the recorded run ended, if anybody knows.
    fn known(&self, exit: Exit) -> Exit {
        if exit != Exit::Unknown {
            return exit;
        }
        let left = slot::left_status(&self.files.file("exit"), self.slot.run);
        left.map_or(Exit::Unknown, Exit::from_status)
    }

    /// Launches anew. The error is the machine's to judge.
    fn spawn(&mut self) -> io::Result<Option<LaunchError>> {
        self.tree = None;
        if let Some((context, loaded)) = self.prepared.take() {
            self.machine.config = loaded.config;
            return self.launch(&loaded.entry, &context);
        }
        // Not kept in memory: it is large, and needed for a moment only.
        let context = match Context::kept(&self.files.file("context")) {
            Ok(Some(context)) => context,
            Ok(None) => {
                self.say("the surroundings that it was started with are gone");
                return Ok(Some(LaunchError { step: Step::Exec, errno: libc::ENOENT }));
            }
            Err(e) => return Ok(Some(not_yet(&e))),
        };
        match launch::load(&context, &self.name) {
            Ok(loaded) => {
                // An edit that makes no sense is reported, and the service is
                // raised by what it said before.
                if loaded.problems.is_empty() {
                    self.machine.config = loaded.config;
                } else {
                    for problem in &loaded.problems {
                        self.say(&format!("{}: {problem}", loaded.entry.program.display()));
                    }
                }
                self.launch(&loaded.entry, &context)
            }
            // The system's trouble, and not the script's.
            Err(fault) if fault.code == ExitCode::System => {
                self.say(&fault.what);
                Ok(Some(LaunchError { step: Step::Fork, errno: libc::EAGAIN }))
            }
            Err(fault) => {
                self.say(&fault.what);
                // From this, `words::unlaunchable` finds the fault again.
                let errno = match fault.code {
                    // It, or the directory that it was in.
                    ExitCode::NoService | ExitCode::Usage => libc::ENOENT,
                    ExitCode::Denied => libc::EPERM,
                    _ => libc::EACCES,
                };
                Ok(Some(LaunchError { step: Step::Exec, errno }))
            }
        }
    }

    fn launch(&mut self, entry: &Entry, context: &Context) -> io::Result<Option<LaunchError>> {
        let failed = |e: io::Error| Ok(Some(not_yet(&e)));
        let run = run_number(self.me, self.backend.now());
        let (output, pipes) = self.output(context);
        let main =
            zone::briefly(|| self.backend.spawn(launch::prepare(entry, context, run, output)));
        let main = match main {
            Ok(main) => main,
            Err(e) => {
                self.pipes.settle_next(false);
                return failed(e);
            }
        };
        self.record_death();
        let history = self.machine.history();
        let before = self.slot;
        self.slot = Slot {
            phase: Phase::Launching,
            started: history.started,
            failures: history.failures,
            hasty: history.hasty,
            pid: main.pid,
            born: main.born,
            run,
            boot: self.place.boot,
            space: self.place.space,
            since: nanoseconds(self.backend.now()),
            until: 0,
            rung: 0,
            last: self.machine.last_exit(),
            is_done: false,
            raised: self.slot.raised + u32::from(self.slot.run != 0 && !self.slot.is_remnant),
            is_remnant: false,
            pipes: pipes.to_byte(),
            continued: self.slot.continued,
        };
        // A run that nobody could find again must not begin.
        let noted = self.slot_file.write(&self.slot).and_then(|()| {
            if self.pipes.is_news() {
                self.ring();
            }
            self.backend.release(main)
        });
        self.pipes.settle_next(noted.is_ok());
        if let Err(e) = noted {
            self.backend.signal(main, Signal::SIGKILL)?;
            // It was no run, and does not count as one.
            self.slot = before;
            self.unwritten.slot();
            return failed(e);
        }
        let scope = Scope::Tree;
        self.tree = Some(Tree { main, run, is_ours: true, strays: Vec::new(), scope });
        Ok(None)
    }

    /// Where the output of the next run goes. It runs also where that is nowhere.
    fn output(&mut self, context: &Context) -> (Output, Use) {
        let config = &self.machine.config;
        let nowhere = || Output::File("/dev/null".into());
        let failed = match launch::destination(config, context, &self.name, self.under) {
            Destination::Ours => return (Output::Ours, self.pipes.none()),
            Destination::Nowhere => return (nowhere(), self.pipes.none()),
            Destination::Logger { is_split } => match self.pipes.next(&self.files.own, is_split) {
                Ok(used) => {
                    let path = |side| pipes::path(&self.files.own, side, used.turn);
                    let err = is_split.then(|| path(Side::Err));
                    return (Output::Pipes { out: path(Side::Out), err }, used);
                }
                Err(e) => (pipes::path(&self.files.own, Side::Out, false), e),
            },
            Destination::File(file) => match launch::make_log(&file) {
                Ok(()) => return (Output::File(file), self.pipes.none()),
                Err(e) => (file, e),
            },
        };
        let fault = launch::log_fault(&self.name, &failed.0, &failed.1);
        self.say(&fault.what);
        self.link.tell(&News::Warning(fault));
        (nowhere(), self.pipes.none())
    }

    /// Tells the logger that something has changed.
    pub(super) fn ring(&self) {
        if Use::from_byte(self.slot.pipes).is_kept
            && let Some(state) = self.files.own.parent().and_then(Path::parent)
        {
            bell::ring(state, self.name.as_str());
        }
    }

    pub(super) fn publish(&mut self) {
        match publish::publish(self) {
            Ok(is_all) => {
                if self.unwritten.is_written(is_all) {
                    self.say("its record is written again");
                }
            }
            Err(e) => {
                if self.unwritten.failed(self.backend.now()) {
                    self.say(&format!(
                        "cannot write its record, and goes on trying: {}",
                        reason(&e)
                    ));
                }
            }
        }
    }

    pub(super) fn tell_fault(&mut self, fault: &Fault) {
        // Where the keeper says it, that is enough.
        if self.under != Under::Up {
            self.say(&fault.what);
        }
        self.link.tell(&News::Fault(fault.clone()));
    }

    pub(super) fn say(&self, what: &str) {
        messages::say(self.name.as_str(), what);
    }

    /// Removes what only an adopted run had.
    pub(super) fn forget_strays(&self) {
        let _ = fs::remove_file(self.files.file("strays"));
        let _ = fs::remove_file(self.files.file("exit"));
    }
}

/// What could not be done before there was a run.
fn not_yet(e: &io::Error) -> LaunchError {
    LaunchError { step: Step::Fork, errno: e.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// Nanoseconds, as a slot keeps them.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// A number that no other run of this service has had: time and worker, mixed
/// (splitmix64) so that it looks like none of them.
pub(super) fn run_number(me: ProcessId, now: Duration) -> u64 {
    let mut z = nanoseconds(now) ^ (me.pid as u64).rotate_left(40) ^ me.born;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}
