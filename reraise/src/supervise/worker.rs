//! The loop around the state machine: wait, step, perform. One worker supervises
//! one service; everything on disk about that service is written by whoever
//! holds its lock, and that is the worker.

use std::fs;
use std::io;
use std::time::Duration;

use crate::backend::{
    Event, Exit, LaunchError, ProcessBackend, ProcessId, Scope, Signal, Step, Tree,
};
use crate::context::Context;
use crate::error::{ExitCode, Fault};
use crate::lock::LockFile;
use crate::messages;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::service::Entry;
use crate::slot::{self, Phase, Slot, SlotFile};
use crate::supervise::ladder::Whom;
use crate::supervise::launch::{self, Loaded, Under};
use crate::supervise::link::{Link, Request};
use crate::supervise::machine::{Action, Input, Machine, Outcome, State};
use crate::supervise::news::News;
use crate::supervise::plan::{self, Raising};
use crate::supervise::publish;
use crate::supervise::strays;
use crate::wanted::Wanted;

/// How long the main process may take to end at the first signal before its tree is
/// looked at: most end sooner, and nothing is left then. A look costs more than all
/// else in a stop.
const MOMENT: Duration = Duration::from_millis(2);

/// Where pids mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The boot.
    pub boot: u64,
    /// The pid namespace.
    pub space: u64,
}

/// Why a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has nothing more to do.
    Over(Outcome),
    /// It was not for this worker to do.
    NotMine,
    /// It makes room for a worker of another build.
    Yielded,
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
    /// Whom we work for.
    pub(super) under: Under,
    /// Who has been sent the present signal of an ending.
    pub(super) told: Vec<ProcessId>,
    /// A worker of another build is to take our place.
    pub(super) has_yielded: bool,
    /// A signal has asked us to end the service.
    pub(super) was_signalled: bool,
    /// When the others that the present signal is for are looked for, and told.
    pub(super) others: Option<(Duration, Signal, Scope)>,
    /// A stop takes effect that was neither noted nor acknowledged yet.
    pub(super) owes_stop: bool,
    /// It has, or had, a run that an earlier worker launched.
    pub(super) has_adopted: bool,
    /// What the record last said, so that it is not written twice.
    pub(super) published: Option<publish::Shown>,
    pub(super) _lock: LockFile,
}

impl<B: ProcessBackend> Worker<B> {
    /// Supervises until there is nothing more to do.
    ///
    /// # Errors
    /// When waiting fails; another worker then takes over.
    pub fn run(&mut self) -> io::Result<Ended> {
        loop {
            if let State::Over(outcome) = *self.machine.state() {
                self.link.tell(&News::Over(outcome));
                return Ok(Ended::Over(outcome));
            }
            if self.has_yielded && self.may_yield() {
                return Ok(Ended::Yielded);
            }
            // Copied to where it lies together with what else stays.
            self.machine.config = self.machine.config.clone();
            let others = self.others.map(|(at, ..)| at);
            let due = [self.machine.deadline(), self.link.deadline(), others];
            let due = due.into_iter().flatten().min();
            let event = self.backend.next_event(due)?;
            self.on_event(event)?;
        }
    }

    /// A successor begins a ladder anew, and a launch is over in a moment: both
    /// are waited for.
    fn may_yield(&self) -> bool {
        match self.machine.state() {
            State::Starting { .. } | State::Running | State::Delay { .. } => true,
            State::Down
            | State::Launching
            | State::Clearing { .. }
            | State::Stopping { .. }
            | State::Over(_) => false,
        }
    }

    fn is_main(&self, id: ProcessId) -> bool {
        self.tree.as_ref().is_some_and(|t| t.main == id)
    }

    // Not part of the frame that waits.
    #[inline(never)]
    pub(super) fn on_event(&mut self, event: Event) -> io::Result<()> {
        if self.owes_stop {
            // Of many that are stopped at once, all end before any is written down.
            std::thread::yield_now();
            self.note_stop();
        }
        match event {
            Event::Launched(id) if self.is_main(id) => self.feed(Input::Launched)?,
            Event::LaunchFailed(id, error) if self.is_main(id) => {
                self.tree = None;
                self.feed(Input::LaunchFailed(error))?;
            }
            Event::Ended(id, exit) if self.is_main(id) && self.machine.is_alive() => {
                // Adopted at the gate, which its launcher never opened: no run.
                if std::mem::take(&mut self.is_gated)
                    && matches!(exit, Exit::Code(0) | Exit::Unknown)
                    && !self.is_ending()
                {
                    let (config, history) = (self.machine.config.clone(), self.machine.history());
                    let now = self.backend.now();
                    self.machine = Machine::waiting(config, self.slot.run, now, history);
                    return self.feed(Input::Deadline);
                }
                let exit = self.known(exit);
                self.others = None;
                let alone = self.is_alone()?;
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
                self.feed(Input::Deadline)?;
            }
        }
        Ok(())
    }

    fn on_signal(&mut self, signal: Signal) -> io::Result<()> {
        match signal {
            // The end of the session is no order to keep the service down:
            // what is wanted stays as it was.
            Signal::SIGTERM | Signal::SIGINT => self.stop(),
            Signal::SIGHUP if self.under == Under::Nobody => self.stop(),
            Signal::SIGUSR2 => self.feed(Input::Restart),
            // A new keeper calls.
            Signal::SIGUSR1 if self.under != Under::Nobody => self.link.recover(&mut self.backend),
            _ => Ok(()),
        }
    }

    /// The second time is meant; but the keeper, which gets the same signal at
    /// the end of a session, may have said it first.
    fn stop(&mut self) -> io::Result<()> {
        let is_meant = std::mem::replace(&mut self.was_signalled, true);
        self.feed(if is_meant { Input::StopNow } else { Input::Stop })
    }

    fn on_requests(&mut self) -> io::Result<()> {
        for request in self.link.receive(&mut self.backend)? {
            if matches!(self.machine.state(), State::Over(_)) {
                // We are leaving; the keeper gives the rest to our successor.
                break;
            }
            // In the order in which they came.
            self.note_stop();
            match request {
                Some(Request::Start { client, context, once }) => {
                    self.on_start(&client, &context, once)?;
                }
                Some(Request::Resume { client }) => self.on_resume(&client)?,
                Some(Request::Stop { now }) => {
                    // The signal first, since it takes effect meanwhile; the
                    // rest when the service has ended, or in a moment. If we
                    // are killed in between, the request was not acknowledged,
                    // and our successor gets it. A second request is not a
                    // second TERM: it only waits.
                    self.feed(if now { Input::StopNow } else { Input::Stop })?;
                    self.owes_stop = true;
                    if self.others.is_none() {
                        self.note_stop();
                    }
                    continue;
                }
                Some(Request::Leave { now }) => {
                    self.feed(if now { Input::StopNow } else { Input::Stop })?;
                }
                Some(Request::Restart) => self.feed(Input::Restart)?,
                // To acknowledge it is all.
                Some(Request::Present) => {}
                Some(Request::Yield) => {
                    self.has_yielded = true;
                    // What comes after it is our successor's. If that may take
                    // a while, the keeper need not wait for it.
                    if self.may_yield() {
                        break;
                    }
                }
                None => self.refuse(),
            }
            self.link.acknowledge();
        }
        Ok(())
    }

    /// What was asked for is kept, and acknowledged.
    fn note_stop(&mut self) {
        if std::mem::take(&mut self.owes_stop) {
            self.want(Wanted::Down);
            self.link.acknowledge();
        }
    }

    /// Brings it up if that is wanted.
    fn on_resume(&mut self, client: &str) -> io::Result<()> {
        match plan::raising(Wanted::read(&self.files.own), self.machine.state()) {
            Raising::Already => {
                let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
                self.link.answer(client, &News::Already(pid));
                Ok(())
            }
            Raising::Start => self.feed(Input::Start),
            Raising::Wait => Ok(()),
        }
    }

    /// Asked for something that only a later version knows.
    fn refuse(&mut self) {
        let what = "its worker is of an earlier version, and does not know what was asked for";
        let advice = "replace keeper and workers, the service goes on: reraise upgrade";
        self.tell_fault(&Fault::new(ExitCode::System, &self.name, what, advice));
    }

    fn on_start(&mut self, client: &str, encoded: &[u8], once: bool) -> io::Result<()> {
        let wanted = Wanted::of_start(once);
        match self.machine.state() {
            State::Launching | State::Starting { .. } | State::Running => {
                let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
                self.want(wanted);
                self.machine.set_once(once);
                self.link.answer(client, &News::Already(pid));
                return Ok(());
            }
            State::Down | State::Delay { .. } | State::Clearing { .. } | State::Stopping { .. } => {
            }
            // We are leaving; the keeper asks our successor.
            State::Over(_) => return Ok(()),
        }
        if Context::decode(encoded).is_some()
            && let Err(e) = Context::keep(encoded, &self.files.file("context"))
        {
            self.say(&format!("cannot keep the new surroundings: {e}"));
        }
        self.want(wanted);
        self.machine.set_once(once);
        self.was_signalled = false;
        self.feed(Input::Start)
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
            let actions = self.machine.step(input, self.backend.now());
            for action in actions {
                match action {
                    Action::Spawn => next = self.spawn()?.map(Input::LaunchFailed),
                    Action::Signal(signal, whom) => self.signal(signal, whom)?,
                    Action::NameSurvivors => self.name_survivors()?,
                }
            }
            if next.is_none() {
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
                    self.link.tell(&News::Running(pid));
                }
                _ => {}
            }
        }
        // A kill that came too early for a fork is repeated when that is seen.
        if self.is_ending() && !self.machine.is_alive() && self.tree.is_some() && self.is_alone()? {
            self.tree = None;
            return self.feed(Input::Alone);
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

    fn is_ending(&self) -> bool {
        matches!(self.machine.state(), State::Stopping { .. } | State::Clearing { .. })
    }

    fn recheck(&mut self) -> io::Result<()> {
        if !self.is_ending() || self.tree.is_none() {
            return Ok(());
        }
        if !self.machine.is_alive() && self.is_alone()? {
            self.tree = None;
            return self.feed(Input::Alone);
        }
        // What was forked while its parent was being killed.
        let climb = match self.machine.state() {
            State::Stopping { climb, .. } | State::Clearing { climb, .. } => climb.clone(),
            _ => return Ok(()),
        };
        let (signal, whom, _) = climb.rung();
        match signal {
            Signal::SIGKILL => self.signal(signal, whom)?,
            _ if self.machine.is_alive() => return Ok(()),
            _ => self.signal_orphans()?,
        }
        self.notice_silence()
    }

    /// The end of what is not our child is told only if we watched it before. So
    /// after a look that found something, nothing may be left that would tell.
    pub(super) fn notice_silence(&mut self) -> io::Result<()> {
        let is_told = self.tree.as_ref().is_none_or(|t| t.is_ours) && self.backend.keeps_orphans();
        if !is_told && self.is_ending() && !self.machine.is_alive() && self.is_alone()? {
            self.tree = None;
            return self.feed(Input::Alone);
        }
        Ok(())
    }

    fn scope(&self) -> Scope {
        if self.machine.config.detach { Scope::Session } else { Scope::Tree }
    }

    /// Whether nothing is left of the run that must end with it.
    pub(super) fn is_alone(&mut self) -> io::Result<bool> {
        let scope = self.scope();
        let Some(tree) = &mut self.tree else { return Ok(true) };
        tree.scope = scope;
        if !tree.is_ours {
            tree.strays = strays::read(&self.files, tree.run);
        }
        Ok(self.backend.members(tree)?.is_empty())
    }

    pub(super) fn signal(&mut self, signal: Signal, whom: Whom) -> io::Result<()> {
        let scope = match whom {
            Whom::Process => None,
            Whom::Group => Some(Scope::Group),
            Whom::Tree => Some(self.scope()),
        };
        self.told = Vec::new();
        self.others = None;
        let Some(main) = self.tree.as_ref().map(|t| t.main) else { return Ok(()) };
        let is_ours = self.tree.as_ref().is_some_and(|t| t.is_ours) && self.backend.keeps_orphans();
        // The main process is known without a look, and first to know; unless
        // its end would hide from the look what it leaves.
        if self.machine.is_alive() && (is_ours || scope.is_none()) {
            self.signal_one(main, signal, is_ours)?;
            if let Some(scope) = scope.filter(|_| signal != Signal::SIGKILL) {
                self.others = Some((self.backend.now() + MOMENT, signal, scope));
                return Ok(());
            }
        }
        match scope {
            Some(scope) => self.signal_untold(signal, scope),
            None => Ok(()),
        }
    }

    /// Signals the members of the tree that have not been told.
    fn signal_untold(&mut self, signal: Signal, scope: Scope) -> io::Result<()> {
        let is_ours = self.tree.as_ref().is_some_and(|t| t.is_ours) && self.backend.keeps_orphans();
        let Some(tree) = &mut self.tree else { return Ok(()) };
        tree.scope = scope;
        if !tree.is_ours {
            tree.strays = strays::read(&self.files, tree.run);
        }
        for member in self.backend.members(tree)? {
            if !self.told.contains(&member) {
                self.signal_one(member, signal, is_ours)?;
            }
        }
        Ok(())
    }

    /// The children of a process that is just ending are on their way to us, and
    /// a look may miss them: they are told when it has ended.
    fn signal_orphans(&mut self) -> io::Result<()> {
        match self.machine.state() {
            State::Stopping { climb, .. } | State::Clearing { climb, .. } => {
                let signal = climb.rung().0;
                self.signal_untold(signal, self.scope())
            }
            _ => Ok(()),
        }
    }

    fn signal_one(&mut self, member: ProcessId, signal: Signal, is_ours: bool) -> io::Result<()> {
        self.told.push(member);
        if !is_ours {
            self.backend.watch(member)?;
        }
        match self.backend.signal(member, signal) {
            // Stopped processes act on nothing but KILL until continued.
            Ok(true) if signal != Signal::SIGKILL => {
                let _ = self.backend.signal(member, Signal::SIGCONT);
            }
            Ok(_) => {}
            Err(e) => self.say(&format!("cannot signal pid {}: {e}", member.pid)),
        }
        Ok(())
    }

    fn name_survivors(&mut self) -> io::Result<()> {
        let scope = self.scope();
        let Some(tree) = &mut self.tree else { return Ok(()) };
        tree.scope = scope;
        let left: Vec<i32> = self.backend.members(tree)?.iter().map(|m| m.pid).collect();
        if !left.is_empty() {
            self.say(&format!("these processes outlived all signals: {left:?}"));
            self.link.tell(&News::Survivors(left));
        }
        Ok(())
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
        let Some(context) = Context::read(&self.files.file("context")) else {
            self.say("the surroundings that it was started with are gone");
            return Ok(Some(LaunchError { step: Step::Exec, errno: libc::ENOENT }));
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
            Err(fault) => {
                self.say(&fault.what);
                let errno =
                    if fault.code == ExitCode::NoService { libc::ENOENT } else { libc::EACCES };
                Ok(Some(LaunchError { step: Step::Exec, errno }))
            }
        }
    }

    fn launch(&mut self, entry: &Entry, context: &Context) -> io::Result<Option<LaunchError>> {
        let failed = |e: io::Error| {
            let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
            Ok(Some(LaunchError { step: Step::Fork, errno }))
        };
        let run = run_number(self.me, self.backend.now());
        let output = launch::output(&self.machine.config, context, &self.name, self.under);
        let is_mute = output.is_err();
        let output = match output {
            Ok(output) => output,
            Err((file, e)) => {
                let fault = launch::log_fault(&self.name, &file, &e);
                self.say(&fault.what);
                self.link.tell(&News::Warning(fault));
                Some("/dev/null".into())
            }
        };
        let launch = launch::prepare(entry, context, run, output);
        let main = match self.backend.spawn(launch) {
            Ok(main) => main,
            Err(e) => return failed(e),
        };
        let history = self.machine.history();
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
            raised: self.slot.raised + u32::from(self.slot.run != 0 && !self.slot.is_remnant),
            is_remnant: false,
            is_mute,
        };
        // A run that nobody could find again must not begin.
        let noted = self.slot_file.write(&self.slot).and_then(|()| self.backend.release(main));
        if let Err(e) = noted {
            self.backend.signal(main, Signal::SIGKILL)?;
            return failed(e);
        }
        let scope = Scope::Tree;
        self.tree = Some(Tree { main, run, is_ours: true, strays: Vec::new(), scope });
        Ok(None)
    }

    fn publish(&mut self) {
        if let Err(e) = publish::publish(self) {
            self.say(&format!("cannot write its record: {e}"));
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

/// Nanoseconds, as a slot keeps them.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// A number that no other run of this service has had: time and worker, mixed
/// (splitmix64) so that it looks like none of them.
fn run_number(me: ProcessId, now: Duration) -> u64 {
    let mut z = nanoseconds(now) ^ (me.pid as u64).rotate_left(40) ^ me.born;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}
