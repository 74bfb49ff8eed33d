//! What a worker does next, decided without doing it. [`Machine::step`] takes
//! what happened and the time, changes the state and answers with what is to
//! be done; it reads no file, sends no signal and asks no clock.
//!
//! ```text
//!            ┌────────────── again at once, or Delay ◄────────────┐
//!            ▼                                                    │
//! Down ──► Launching ──► Starting ──start_sec──► Running ──► (it ended)
//!                           │                       │             │
//!                           └──── stop, restart ────┤             ▼
//!                                                   ▼          Clearing
//!                              Over ◄──────────  Stopping
//! ```

mod state;

use std::time::Duration;

use crate::backend::{Exit, LaunchError, Signal};
use crate::config::Config;
use crate::supervise::ladder::{Climb, Whom};
use crate::supervise::policy::{self, History, Verdict};
pub use state::{Action, After, Input, Outcome, State};

/// One service's state and everything that decides its next.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The configuration of the present run.
    pub config: Config,
    state: State,
    history: History,
    since: Duration,
    last: Option<Exit>,
    /// Whether the main process of the present run has not been seen to end.
    is_alive: bool,
    /// Varies the jitter from service to service.
    seed: u64,
}

impl Machine {
    /// A service that does not run.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let (history, since) = (History::default(), Duration::ZERO);
        Self { config, state: State::Down, history, since, last: None, is_alive: false, seed }
    }

    /// A service that a former worker launched at `since`. It counts as running
    /// as soon as it has lasted long enough; `history` goes on.
    #[must_use]
    pub fn adopted(config: Config, seed: u64, since: Duration, history: History) -> Self {
        let until = since + config.start_sec;
        let state = State::Starting { until };
        Self { config, state, history, since, last: None, is_alive: true, seed }
    }

    /// A service whose former worker waited to raise it at `until`.
    #[must_use]
    pub fn waiting(config: Config, seed: u64, until: Duration, history: History) -> Self {
        let since = Duration::ZERO;
        let state = State::Delay { until };
        Self { config, state, history, since, last: None, is_alive: false, seed }
    }

    /// A service whose last run is dead and has left processes; these are ended
    /// first, by the signal that comes back.
    #[must_use]
    pub fn clearing(
        config: Config,
        seed: u64,
        now: Duration,
        history: History,
        launch: bool,
    ) -> (Self, Signal, Whom) {
        let climb = Climb::clearing();
        let (signal, whom, wait) = climb.rung();
        let then = if launch { After::Again } else { After::Stop };
        let state = State::Clearing { climb, until: now + wait, then };
        let since = Duration::ZERO;
        (Self { config, state, history, since, last: None, is_alive: false, seed }, signal, whom)
    }

    /// Whether the run that follows, or goes on, is to be the only one.
    pub fn set_once(&mut self, once: bool) {
        self.history.once = once;
    }

    /// The same, which does not count as running before that.
    #[must_use]
    pub fn not_before(mut self, time: Duration) -> Self {
        if let State::Starting { until } = &mut self.state {
            *until = time.max(*until);
        }
        self
    }

    /// The same, which knows how the run before ended.
    #[must_use]
    pub fn remembering(self, last: Option<Exit>) -> Self {
        Self { last, ..self }
    }

    /// An adopted service that a former worker was ending: so many steps of the
    /// ladder were taken, and the next one is due at `until`.
    pub fn go_on_ending(&mut self, steps: u8, until: Duration, again: bool) {
        let climb = Climb::at(&self.config.stop, self.config.stop_to, steps.into());
        self.state = State::Stopping { climb, until, again };
    }

    /// Ends the work.
    pub fn leave(&mut self, outcome: Outcome) {
        self.state = State::Over(outcome);
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the policy remembers.
    #[must_use]
    pub fn history(&self) -> History {
        self.history
    }

    /// When the present run began to execute its program.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether the main process of the present run has not been seen to end.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.is_alive
    }

    /// How the last run ended.
    #[must_use]
    pub fn last_exit(&self) -> Option<Exit> {
        self.last
    }

    /// When [`Input::Deadline`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Starting { until }
            | State::Delay { until }
            | State::Clearing { until, .. }
            | State::Stopping { until, .. } => Some(until),
            State::Down | State::Launching | State::Running | State::Over(_) => None,
        }
    }

    /// Takes one input. At most two actions come back, to be done in order.
    #[must_use]
    pub fn step(&mut self, input: Input, now: Duration) -> Vec<Action> {
        match input {
            Input::Start => self.on_start(),
            Input::Stop => self.on_stop(now, false),
            Input::StopNow => self.on_stop(now, true),
            Input::Restart => self.on_restart(now),
            Input::Launched => self.on_launched(now),
            Input::LaunchFailed(error) => self.on_launch_failed(error, now),
            Input::Ended { exit, alone } => self.on_ended(exit, alone, now),
            Input::Alone => self.on_alone(now),
            Input::Deadline => self.on_deadline(now),
        }
    }

    fn on_start(&mut self) -> Vec<Action> {
        match &mut self.state {
            State::Down | State::Delay { .. } => {
                self.history = self.history.anew();
                self.spawn()
            }
            // The user has changed their mind: what is going down comes up again.
            State::Stopping { again, .. } => {
                *again = true;
                self.history = self.history.anew();
                Vec::new()
            }
            State::Clearing { then, .. } => {
                *then = After::Again;
                self.history = self.history.anew();
                Vec::new()
            }
            // It runs already; the loop says so.
            State::Launching | State::Starting { .. } | State::Running => Vec::new(),
            // The keeper sends nothing to a worker that is over.
            State::Over(_) => Vec::new(),
        }
    }

    fn on_stop(&mut self, now: Duration, hurried: bool) -> Vec<Action> {
        match &mut self.state {
            State::Down | State::Delay { .. } => self.over(Outcome::Stopped),
            State::Launching | State::Starting { .. } | State::Running => {
                self.climb_down(now, hurried, false)
            }
            State::Clearing { then, climb, until } => {
                *then = After::Stop;
                if hurried { Self::hurry(climb, until, now) } else { Vec::new() }
            }
            State::Stopping { again, climb, until } => {
                *again = false;
                if hurried { Self::hurry(climb, until, now) } else { Vec::new() }
            }
            State::Over(_) => Vec::new(),
        }
    }

    fn on_restart(&mut self, now: Duration) -> Vec<Action> {
        match &mut self.state {
            State::Launching | State::Starting { .. } | State::Running => {
                self.climb_down(now, false, true)
            }
            State::Delay { .. } => self.spawn(),
            State::Clearing { then: then @ After::Decide { .. }, .. } => {
                *then = After::Again;
                Vec::new()
            }
            // On its way already, or on its way down: restart starts nothing.
            State::Clearing { then: After::Again | After::Stop, .. }
            | State::Stopping { .. }
            | State::Down
            | State::Over(_) => Vec::new(),
        }
    }

    fn on_launched(&mut self, now: Duration) -> Vec<Action> {
        match self.state {
            // Running: one that no signal ended before it got to its exec.
            State::Launching | State::Running => {
                self.since = now;
                self.state = State::Starting { until: now + self.config.start_sec };
                Vec::new()
            }
            // Asked to stop between fork and exec.
            State::Stopping { .. } if self.is_alive => {
                self.since = now;
                Vec::new()
            }
            // Only a launching process can report.
            State::Down
            | State::Stopping { .. }
            | State::Starting { .. }
            | State::Delay { .. }
            | State::Clearing { .. }
            | State::Over(_) => Vec::new(),
        }
    }

    fn on_launch_failed(&mut self, error: LaunchError, now: Duration) -> Vec<Action> {
        // The dead do not report.
        if !self.is_alive {
            return Vec::new();
        }
        match self.state {
            State::Stopping { again: false, .. } => {
                self.is_alive = false;
                self.over(Outcome::Stopped)
            }
            State::Launching | State::Running | State::Stopping { again: true, .. } => {
                self.is_alive = false;
                if error.is_temporary() && self.history.started {
                    self.state = State::Delay { until: now + policy::SHORTAGE };
                    return Vec::new();
                }
                let exit = Exit::Code(error.exit_code());
                self.last = Some(exit);
                match self.decide(exit, None, now) {
                    Some(Outcome::Failed(_) | Outcome::Done(_)) => {
                        self.over(Outcome::Unlaunchable(error))
                    }
                    Some(other) => self.over(other),
                    None => {
                        // Also "at once" goes by way of the queue: where each
                        // launch fails, a stop must still be heard.
                        if self.state == State::Down {
                            self.state = State::Delay { until: now };
                        }
                        Vec::new()
                    }
                }
            }
            State::Down
            | State::Starting { .. }
            | State::Delay { .. }
            | State::Clearing { .. }
            | State::Over(_) => Vec::new(),
        }
    }

    fn on_ended(&mut self, exit: Exit, alone: bool, now: Duration) -> Vec<Action> {
        if !self.is_alive {
            return Vec::new();
        }
        self.is_alive = false;
        match &mut self.state {
            State::Launching | State::Starting { .. } | State::Running => {
                self.last = Some(exit);
                // Whoever is killed before the exec has not lasted at all.
                let has_begun = self.state != State::Launching;
                let lasted =
                    if has_begun { now.saturating_sub(self.since) } else { Duration::ZERO };
                let then = After::Decide { exit, lasted };
                if alone {
                    return self.after(then, now);
                }
                let climb = Climb::clearing();
                let (signal, whom, wait) = climb.rung();
                self.state = State::Clearing { climb, until: now + wait, then };
                vec![Action::Signal(signal, whom)]
            }
            State::Stopping { again, climb, .. } => {
                self.last = Some(exit);
                if alone {
                    let again = *again;
                    return self.stopped(again, Outcome::Stopped);
                }
                // Those that were spared so far have not heard yet.
                let (signal, whom, _) = climb.rung();
                if whom == Whom::Tree {
                    return Vec::new();
                }
                climb.take_all();
                vec![Action::Signal(signal, Whom::Tree)]
            }
            // There is no main process in these.
            State::Down | State::Delay { .. } | State::Clearing { .. } | State::Over(_) => {
                Vec::new()
            }
        }
    }

    fn on_alone(&mut self, now: Duration) -> Vec<Action> {
        match self.state {
            State::Clearing { then, .. } => self.after(then, now),
            State::Stopping { again, .. } if !self.is_alive => {
                self.stopped(again, Outcome::Stopped)
            }
            // While the main process lives, it is not alone.
            State::Stopping { .. }
            | State::Down
            | State::Launching
            | State::Starting { .. }
            | State::Running
            | State::Delay { .. }
            | State::Over(_) => Vec::new(),
        }
    }

    fn on_deadline(&mut self, now: Duration) -> Vec<Action> {
        if self.deadline().is_none_or(|due| now < due) {
            return Vec::new();
        }
        match &mut self.state {
            State::Starting { .. } => {
                self.history = History { started: true, failures: 0, ..self.history };
                self.state = State::Running;
                Vec::new()
            }
            State::Delay { .. } => self.spawn(),
            State::Clearing { climb, until, then } => {
                if climb.advance() {
                    let (signal, whom, wait) = climb.rung();
                    *until = now + wait;
                    return vec![Action::Signal(signal, whom)];
                }
                // Nothing ends them: the service matters more than waiting.
                let then = *then;
                let mut actions = match then {
                    After::Stop => self.over(Outcome::Survived),
                    After::Again | After::Decide { .. } => self.after(then, now),
                };
                actions.insert(0, Action::NameSurvivors);
                actions
            }
            State::Stopping { climb, until, again } => {
                if climb.advance() {
                    let (signal, whom, wait) = climb.rung();
                    *until = now + wait;
                    return vec![Action::Signal(signal, whom)];
                }
                let again = *again;
                let mut actions = vec![Action::NameSurvivors];
                if again && self.is_alive {
                    // Nothing ends it, and a second copy must not start beside
                    // it: it stays watched as it is.
                    self.state = State::Running;
                } else {
                    actions.extend(self.stopped(again, Outcome::Survived));
                }
                actions
            }
            State::Down | State::Launching | State::Running | State::Over(_) => Vec::new(),
        }
    }

    fn climb_down(&mut self, now: Duration, hurried: bool, again: bool) -> Vec<Action> {
        let mut climb = Climb::new(&self.config.stop, self.config.stop_to);
        if hurried {
            climb.hurry();
        }
        let (signal, whom, wait) = climb.rung();
        self.state = State::Stopping { climb, until: now + wait, again };
        vec![Action::Signal(signal, whom)]
    }

    fn hurry(climb: &mut Climb, until: &mut Duration, now: Duration) -> Vec<Action> {
        climb.hurry();
        let (signal, whom, wait) = climb.rung();
        *until = now + wait;
        vec![Action::Signal(signal, whom)]
    }

    fn after(&mut self, then: After, now: Duration) -> Vec<Action> {
        match then {
            After::Again => self.spawn(),
            After::Stop => self.over(Outcome::Stopped),
            After::Decide { exit, lasted } => match self.decide(exit, Some(lasted), now) {
                Some(outcome) => self.over(outcome),
                None => self.resume(),
            },
        }
    }

    /// Asks the policy. `None`: it is to be raised, now or at the end of the
    /// delay that is now the state.
    fn decide(&mut self, exit: Exit, lasted: Option<Duration>, now: Duration) -> Option<Outcome> {
        let seed = self.seed ^ now.as_nanos() as u64;
        let (verdict, history) = policy::decide(&self.config, exit, lasted, self.history, seed);
        self.history = history;
        match verdict {
            Verdict::Again { delay } => {
                self.state = State::Delay { until: now + delay };
                if delay.is_zero() {
                    self.state = State::Down;
                }
                None
            }
            Verdict::GiveUp => Some(Outcome::Failed(exit)),
            Verdict::Done => Some(Outcome::Done(exit)),
        }
    }

    fn resume(&mut self) -> Vec<Action> {
        if self.state == State::Down { self.spawn() } else { Vec::new() }
    }

    fn stopped(&mut self, again: bool, outcome: Outcome) -> Vec<Action> {
        if again { self.spawn() } else { self.over(outcome) }
    }

    fn spawn(&mut self) -> Vec<Action> {
        self.state = State::Launching;
        self.is_alive = true;
        vec![Action::Spawn]
    }

    fn over(&mut self, outcome: Outcome) -> Vec<Action> {
        self.state = State::Over(outcome);
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
