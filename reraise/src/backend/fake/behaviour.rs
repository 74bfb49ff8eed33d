//! What the programs of a [`Fake`](super::Fake) do.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{Exit, LaunchError, Step};

/// What a program does once it runs. Built up from [`Behaviour::waits`],
/// [`Behaviour::exits`], [`Behaviour::dies_of`] or [`Behaviour::cannot_exec`].
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    pub(super) failure: Option<LaunchError>,
    pub(super) end: Option<Exit>,
    pub(super) after: Duration,
    pub(super) announces: bool,
    pub(super) reactions: Vec<Reaction>,
    pub(super) offspring: Vec<Offspring>,
}

/// What a signal does, where it is not the default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaction {
    pub(super) signal: Signal,
    /// `None`: nothing.
    pub(super) end: Option<(Duration, Exit)>,
}

impl Behaviour {
    /// Runs until something ends it.
    #[must_use]
    pub fn waits() -> Self {
        Self::default()
    }

    /// Ends with this code, at once unless there is an [`Self::after`].
    #[must_use]
    pub fn exits(code: i32) -> Self {
        Self { end: Some(Exit::Code(code)), ..Self::default() }
    }

    /// Ends by this signal, at once unless there is an [`Self::after`].
    #[must_use]
    pub fn dies_of(signal: Signal) -> Self {
        let exit = Exit::Signal { number: signal as i32, core: false };
        Self { end: Some(exit), ..Self::default() }
    }

    /// Cannot be executed, for this reason.
    #[must_use]
    pub fn cannot_exec(errno: i32) -> Self {
        Self::cannot_launch(LaunchError { step: Step::Exec, errno })
    }

    /// Fails at any step.
    #[must_use]
    pub fn cannot_launch(error: LaunchError) -> Self {
        Self { failure: Some(error), ..Self::default() }
    }

    /// How long it runs before it ends by itself.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { after: time, ..self }
    }

    /// Gives us input when it starts, after it has forked.
    #[must_use]
    pub fn announcing(self) -> Self {
        Self { announces: true, ..self }
    }

    /// Takes no notice of this signal. Of KILL: it hangs in the kernel.
    #[must_use]
    pub fn ignoring(mut self, signal: Signal) -> Self {
        self.reactions.push(Reaction { signal, end: None });
        self
    }

    /// Ends in an orderly way so long after this signal.
    #[must_use]
    pub fn ending_on(mut self, signal: Signal, after: Duration, exit: Exit) -> Self {
        self.reactions.push(Reaction { signal, end: Some((after, exit)) });
        self
    }

    /// Forks when it starts.
    #[must_use]
    pub fn forking(mut self, offspring: Offspring) -> Self {
        self.offspring.push(offspring);
        self
    }
}

/// A process that a program forks.
#[derive(Debug, Clone)]
pub struct Offspring {
    pub(super) behaviour: Behaviour,
    pub(super) after: Duration,
    pub(super) leads_session: bool,
    pub(super) leads_group: bool,
    pub(super) is_marked: bool,
}

impl Offspring {
    /// A child that does this.
    #[must_use]
    pub fn new(behaviour: Behaviour) -> Self {
        let after = Duration::ZERO;
        Self { behaviour, after, leads_session: false, leads_group: false, is_marked: true }
    }

    /// It is forked so long after the start of the program.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { after: time, ..self }
    }

    /// It calls `setsid`.
    #[must_use]
    pub fn in_own_session(self) -> Self {
        Self { leads_session: true, ..self }
    }

    /// It calls `setpgid`.
    #[must_use]
    pub fn in_own_group(self) -> Self {
        Self { leads_group: true, ..self }
    }

    /// It has overwritten its environment.
    #[must_use]
    pub fn with_empty_environment(self) -> Self {
        Self { is_marked: false, ..self }
    }
}
