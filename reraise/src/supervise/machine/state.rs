//! Where a service can be, what can happen to it, and what is done then.

use std::time::Duration;

use crate::backend::{Exit, LaunchError, Signal};
use crate::supervise::ladder::{Climb, Whom};

/// Where a service is. Times are those of [`crate::backend::ProcessBackend::now`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing has been started yet.
    Down,
    /// A process was forked; whether its program runs is not known yet.
    Launching,
    /// The program runs, but has not yet lasted `start_sec`.
    Starting {
        /// When it will have.
        until: Duration,
    },
    /// It started successfully.
    Running,
    /// It fell and is raised again at this time.
    Delay {
        /// When.
        until: Duration,
    },
    /// It fell; what it left behind is being ended before anything follows.
    Clearing {
        /// The signals so far.
        climb: Climb,
        /// When the next one is due.
        until: Duration,
        /// What follows.
        then: After,
    },
    /// It is being ended because somebody asked for that.
    Stopping {
        /// The signals so far.
        climb: Climb,
        /// When the next one is due.
        until: Duration,
        /// Whether it is raised again afterwards.
        again: bool,
    },
    /// The worker has nothing more to do.
    Over(Outcome),
}

/// What follows when the rest of a dead run is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The policy decides.
    Decide {
        /// How the run ended.
        exit: Exit,
        /// How long it lasted.
        lasted: Duration,
    },
    /// It is raised, because somebody asked for a restart meanwhile.
    Again,
    /// Nothing, because somebody asked for a stop meanwhile.
    Stop,
}

/// Why a worker has nothing more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stopped as asked; nothing is left.
    Stopped,
    /// Stopped as asked, but processes outlived the whole ladder.
    Survived,
    /// There was nothing to stop or to restart.
    NotRunning,
    /// It ended, and the policy gives up.
    Failed(Exit),
    /// It could not be launched, and the policy gives up.
    Unlaunchable(LaunchError),
    /// It ended, and that was the end of its work (`config_restart`).
    Done(Exit),
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Somebody asked for the service to run.
    Start,
    /// Somebody asked for it to end.
    Stop,
    /// Somebody asked for it to end without further patience.
    StopNow,
    /// Somebody asked for it to be raised anew, if it runs.
    Restart,
    /// The program runs.
    Launched,
    /// The program could not be executed, or no process could be forked.
    LaunchFailed(LaunchError),
    /// The main process ended.
    Ended {
        /// How.
        exit: Exit,
        /// Whether nothing is left of its tree.
        alone: bool,
    },
    /// Nothing is left of the tree of a main process that ended before.
    Alone,
    /// Time has passed.
    Deadline,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Read the configuration anew and launch.
    Spawn,
    /// Signal these processes of the run.
    Signal(Signal, Whom),
    /// Say that processes outlived the ladder.
    NameSurvivors,
}
