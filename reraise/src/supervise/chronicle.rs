//! What a worker keeps of what happens: each death, and a line for each change of
//! state. Deaths are kept before anything follows; lines are gathered, and written
//! together before the worker waits again. That neither could be written is no
//! reason to stop supervising.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use crate::backend::{Exit, LaunchError, ProcessBackend, Step};
use crate::history::asked::Asked;
use crate::history::deaths::{self, Cause, Death};
use crate::history::events::{self, Kind, exit_word, now};
use crate::paths::Files;
use crate::slot::{Phase, left_status, left_usage};
use crate::supervise::machine::{Input, Outcome, State};
use crate::supervise::plan::{Beginning, Remains, Task, was_run};
use crate::supervise::worker::{Worker, nanoseconds, run_number};

/// As much of a state as tells whether another one has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Running,
    Waiting,
    Stopping,
    Restarting,
    Over,
    Other,
}

impl Moment {
    pub(super) fn of(state: &State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Delay { .. } => Self::Waiting,
            State::Stopping { again: false, .. } => Self::Stopping,
            State::Stopping { again: true, .. } => Self::Restarting,
            State::Over(_) => Self::Over,
            State::Down | State::Launching | State::Starting { .. } | State::Clearing { .. } => {
                Self::Other
            }
        }
    }
}

/// How a run ended, if one who judged it before us has kept that.
pub(super) fn known(files: &Files, run: u64) -> Option<Exit> {
    let death = deaths::find(&files.file("deaths"), run)?;
    (!matches!(death.cause, Cause::Launch(_))).then_some(death.exit)
}

impl<B: ProcessBackend> Worker<B> {
    /// Writes down what has gathered.
    pub(super) fn write_events(&mut self) {
        self.record_death();
        if let Some(asked) = self.asked.take() {
            let _ = asked.write(&self.files.file("asked"));
        }
        if self.events.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.events);
        // .reraise-UID/s/NAME
        if let Some(state) = self.files.own.parent().and_then(|services| services.parent()) {
            let _ = events::append(state, &text);
        }
    }

    fn event(&mut self, kind: Kind, more: &str) {
        let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
        self.event_of(self.slot.run, pid, kind, more);
    }

    fn event_of(&mut self, run: u64, pid: i32, kind: Kind, more: &str) {
        // In the order in which they happened.
        self.record_death();
        events::compose(&mut self.events, self.name.as_str(), run, pid, kind, more);
    }

    /// The main process of the present run has ended.
    #[inline(never)]
    pub(super) fn note_death(&mut self, exit: Exit) {
        let cause = match self.machine.state() {
            State::Stopping { again: false, .. } => Cause::Stop,
            State::Stopping { again: true, .. } => Cause::Restart,
            _ => Cause::Itself,
        };
        self.keep_death(exit, cause, false);
    }

    /// It is found to have ended when nobody was there.
    fn note_found(&mut self, exit: Exit, task: &Task) {
        // Asked for, and its worker was killed before it could write that down.
        let was_asked = || {
            let asked = self.last_asked();
            let ended = self.when_left().unwrap_or_else(now);
            asked.is_some_and(|asked| asked.time <= ended)
        };
        let cause = match (self.slot.phase, task) {
            (Phase::Stopping, _) => Cause::Stop,
            (Phase::Restarting, _) => Cause::Restart,
            (_, Task::Stop { .. } | Task::Leave { .. }) if was_asked() => Cause::Stop,
            (_, Task::Restart) if was_asked() => Cause::Restart,
            _ => Cause::Itself,
        };
        self.keep_death(exit, cause, true);
    }

    /// Its program could not be executed.
    pub(super) fn note_failed_launch(&mut self, error: LaunchError) {
        self.keep_death(Exit::Code(error.exit_code()), Cause::Launch(error), false);
    }

    /// There was not even a process that could have executed it. The last run has its
    /// own death, so that this is one of another. A shortage that lasts is noted once:
    /// it would be all that is remembered.
    pub(super) fn note_unlaunched(&mut self, error: LaunchError) {
        self.record_death();
        let last = deaths::read_all(&self.files.file("deaths")).pop();
        let is_same = last.is_some_and(|death| death.cause == Cause::Launch(error));
        if error.step == Step::Fork && is_same {
            return;
        }
        let now = now();
        self.unrecorded = Some(Box::new(Death {
            number: 0,
            run: run_number(self.me, self.backend.now()),
            pid: 0,
            began: now,
            ended: now,
            lasted: 0,
            exit: Exit::Code(error.exit_code()),
            cause: Cause::Launch(error),
            usage: None,
            is_for_memory: false,
            is_late: false,
        }));
    }

    fn keep_death(&mut self, exit: Exit, cause: Cause, is_found: bool) {
        self.record_death();
        let left = if is_found { self.when_left() } else { None };
        let ended = left.unwrap_or_else(now);
        let since = Duration::from_nanos(self.slot.since);
        // Of what is told at once, not even the moment until here.
        let late = left.map_or(0, |left| (now() - left).max(0));
        let late = Duration::from_micros(late.cast_unsigned());
        let lasted = match cause {
            Cause::Launch(_) => Duration::ZERO,
            _ => self.backend.now().saturating_sub(since).saturating_sub(late),
        };
        let process = self.slot.process();
        let usage = match self.backend.usage_of(process) {
            None if self.has_adopted => left_usage(&self.files.file("exit"), self.slot.run),
            known => known,
        };
        self.unrecorded = Some(Box::new(Death {
            number: 0,
            run: self.slot.run,
            pid: process.pid,
            began: ended.saturating_sub(i64::try_from(lasted.as_micros()).unwrap_or(i64::MAX)),
            ended,
            lasted: nanoseconds(lasted),
            exit,
            cause,
            usage,
            is_for_memory: false,
            is_late: is_found && left.is_none(),
        }));
    }

    /// Writes down how a run has ended. When another one follows at once, its process is
    /// there by now, and gets to its gate meanwhile.
    #[inline(never)]
    pub(super) fn record_death(&mut self) {
        let Some(mut death) = self.unrecorded.take() else { return };
        let Death { exit, cause, .. } = *death;
        let is_kill = matches!(exit, Exit::Signal { number: libc::SIGKILL, .. });
        // That it was this one is likely, and not proved.
        let is_possible = is_kill && cause == Cause::Itself;
        death.is_for_memory = is_possible && self.backend.has_killed_for_memory();
        // What is there already was told already.
        let is_new = deaths::record(&self.files.file("deaths"), &death).unwrap_or(true);
        if !is_new || matches!(cause, Cause::Launch(_)) {
            return;
        }
        let lasted = Duration::from_nanos(death.lasted);
        let cause = match cause {
            Cause::Stop => " cause=stop",
            Cause::Restart => " cause=restart",
            Cause::Itself | Cause::Launch(_) => "",
        };
        let core = if matches!(exit, Exit::Signal { core: true, .. }) { " core=1" } else { "" };
        let memory = if death.is_for_memory { " memory=1" } else { "" };
        let (exit, lasted) = (exit_word(exit), lasted.as_secs_f64());
        let more = format!("exit={exit}{core}{memory} lasted={lasted:.3}{cause}");
        self.event_of(death.run, death.pid, Kind::Ended, &more);
    }

    /// When the status of the present run was left for us, microseconds since 1970:
    /// that is when it ended.
    fn when_left(&self) -> Option<i64> {
        let file = self.files.file("exit");
        left_status(&file, self.slot.run)?;
        let since = fs::metadata(&file).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok()
    }

    /// We take over what another worker has left.
    #[inline(never)]
    pub(super) fn note_beginning(&mut self, task: &Task, then: Beginning, remains: Remains) {
        match task {
            Task::Leave { .. } => self.note_asked("leave"),
            _ => self.asked = self.link.take_asked(),
        }
        if let Remains::Dead(exit) = remains
            && was_run(self.slot.phase, exit)
            && !self.slot.is_remnant
        {
            self.note_found(exit, task);
        }
        if let Beginning::Adopt(_) = then {
            self.backend.count_memory_kills();
        }
        if matches!(then, Beginning::Adopt(_) | Beginning::Wait) {
            self.event(Kind::Adopted, &format!("worker={}", self.me.pid));
        }
    }

    /// Nobody has asked but a signal, or the end of the keeper.
    pub(super) fn note_asked(&mut self, verb: &str) {
        self.asked = Some(Asked::now(verb, ""));
    }

    fn last_asked(&self) -> Option<Asked> {
        self.asked.clone().or_else(|| Asked::read(&self.files.file("asked")))
    }

    /// Its program runs.
    pub(super) fn note_launched(&mut self) {
        self.backend.count_memory_kills();
        self.event(Kind::Starting, "");
    }

    /// Composes what a step of the machine has changed.
    #[inline(never)]
    pub(super) fn note_change(&mut self, before: Moment, input: Input) {
        let after = Moment::of(self.machine.state());
        if let Input::LaunchFailed(error) = input {
            let more = format!("step={} errno={}", error.step.word(), error.errno);
            self.event(Kind::CannotStart, &more);
        }
        if let (Input::Launched, State::Starting { .. }) = (input, self.machine.state()) {
            self.note_launched();
        }
        if before == after {
            return;
        }
        match *self.machine.state() {
            // Of one that we have just adopted, its former worker has said that.
            State::Running if self.published.is_none() && self.slot.phase == Phase::Up => {}
            State::Running => self.event(Kind::Running, ""),
            State::Delay { until } => {
                let delay = until.saturating_sub(self.backend.now()).as_secs_f64();
                self.event_of(self.slot.run, 0, Kind::Waiting, &format!("delay={delay:.3}"));
            }
            State::Stopping { again, .. } => {
                let kind = if again { Kind::Restarting } else { Kind::Stopping };
                let asked = self.last_asked();
                let who = asked.map_or_else(String::new, |a| format!("asked={} {}", a.verb, a.who));
                self.event(kind, who.trim_end());
            }
            State::Over(outcome) => {
                let exit = |exit| format!("exit={}", exit_word(exit));
                let (kind, more) = match outcome {
                    Outcome::Stopped => (Kind::Stopped, String::new()),
                    Outcome::Failed(how) => (Kind::Failed, exit(how)),
                    Outcome::Unlaunchable(e) => (Kind::Failed, exit(Exit::Code(e.exit_code()))),
                    Outcome::Done(how) => (Kind::Done, exit(how)),
                    Outcome::Survived | Outcome::NotRunning => return,
                };
                self.event_of(self.slot.run, 0, kind, &more);
            }
            State::Down | State::Launching | State::Starting { .. } | State::Clearing { .. } => {}
        }
    }

    /// Processes have outlived the ladder.
    pub(super) fn note_survivors(&mut self, left: &[i32]) {
        let mut pids: Vec<String> = left.iter().take(20).map(ToString::to_string).collect();
        pids.extend((left.len() > pids.len()).then(|| "more".to_owned()));
        self.event(Kind::Survivors, &format!("pids={}", pids.join(",")));
    }
}
