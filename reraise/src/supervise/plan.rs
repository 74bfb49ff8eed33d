//! How a worker begins, decided without doing it: from what it was forked for,
//! what is wanted, and what is left of the last run.

use std::rc::Rc;

use crate::backend::Exit;
use crate::slot::Phase;
use crate::supervise::machine::{After, Input, Outcome, State};
use crate::wanted::Wanted;

/// Why a worker was forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Somebody said `start`, in these surroundings (encoded).
    Start {
        /// Who is told when it runs already.
        client: String,
        /// A [`Context`](crate::context::Context).
        context: Rc<[u8]>,
        /// Until it ends by itself, see [`Wanted::Once`].
        once: bool,
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
    /// Somebody said `resume`: what is wanted is to run.
    Raise {
        /// Who is told when it runs already.
        client: String,
    },
    /// It is to end with its session; what is wanted stays as it is.
    Leave {
        /// Without patience.
        now: bool,
    },
}

impl Task {
    /// A copy that shares nothing with this one.
    #[must_use]
    pub fn apart(&self) -> Self {
        match self {
            Self::Start { client, context, once } => {
                Self::Start { client: client.clone(), context: (**context).into(), once: *once }
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

/// Whether what ended so was a run: a child that its launcher never let through the gate
/// was none. Where its launcher has died just then and nobody knows how it ended, it is
/// taken for that.
#[must_use]
pub fn was_run(phase: Phase, exit: Exit) -> bool {
    phase != Phase::Launching || !(exit.is_at_the_gate() || exit == Exit::Unknown)
}

/// Decides how to begin.
#[must_use]
pub fn plan(task: &Task, wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    match (task, remains) {
        (Task::Start { .. }, Remains::Alive) => Beginning::Adopt(None),
        (Task::Start { .. }, Remains::Dead(_) | Remains::None) => Beginning::Launch,
        (Task::Stop { now } | Task::Leave { now }, Remains::Alive) => {
            Beginning::Adopt(Some(if *now { Input::StopNow } else { Input::Stop }))
        }
        (Task::Stop { .. } | Task::Leave { .. }, Remains::Dead(_)) => Beginning::Clear,
        // It is not raised when its time comes.
        (Task::Stop { .. } | Task::Leave { .. }, Remains::None) if phase == Phase::Delay => {
            Beginning::Clear
        }
        (Task::Stop { .. } | Task::Leave { .. }, Remains::None) => {
            Beginning::Leave(Outcome::NotRunning)
        }
        (Task::Restart, _) => restart(wanted, phase, remains),
        (Task::Resume, _) => resume(wanted, phase, remains),
        (Task::Raise { .. }, _) => raise(wanted, phase, remains),
    }
}

/// Raises anew what runs, or has just fallen and is to be raised; nothing else.
fn restart(wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    let is_over = is_down(wanted, phase)
        || wanted == Some(Wanted::Once)
        || matches!(phase, Phase::Over | Phase::Stopped);
    match (phase, remains) {
        (_, Remains::Alive) if !is_down(wanted, phase) => Beginning::Adopt(Some(Input::Restart)),
        (Phase::Delay, Remains::None) if !is_over => Beginning::Launch,
        (_, Remains::None) => Beginning::Leave(Outcome::NotRunning),
        (_, Remains::Dead(_)) if !is_over => Beginning::Launch,
        _ => resume(wanted, phase, remains),
    }
}

/// Whether it was on its way down.
fn is_down(wanted: Option<Wanted>, phase: Phase) -> bool {
    wanted == Some(Wanted::Down) || phase == Phase::Stopping
}

/// Goes on where a former worker was interrupted.
fn resume(wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    let is_down = is_down(wanted, phase);
    match (phase, remains) {
        (Phase::Over | Phase::Stopped, Remains::Dead(_) | Remains::None) => {
            Beginning::Leave(Outcome::NotRunning)
        }
        (_, Remains::Alive) if is_down => Beginning::Adopt(Some(Input::Stop)),
        (_, Remains::Dead(_)) if is_down => Beginning::Clear,
        (_, Remains::None) if is_down => Beginning::Leave(Outcome::Stopped),
        (Phase::Restarting, Remains::Alive) => Beginning::Adopt(Some(Input::Restart)),
        (Phase::Restarting, Remains::Dead(_)) => Beginning::Launch,
        (_, Remains::Dead(exit)) if !was_run(phase, exit) => Beginning::Launch,
        (Phase::Delay, Remains::Dead(_) | Remains::None) => Beginning::Wait,
        (_, Remains::Alive) => Beginning::Adopt(None),
        (_, Remains::Dead(exit)) => Beginning::Judge(exit),
        (_, Remains::None) => Beginning::Launch,
    }
}

/// Brings up what is wanted and does not run. What has ended here and was judged
/// stays as it is; another boot or pid namespace is another chance.
fn raise(wanted: Option<Wanted>, phase: Phase, remains: Remains) -> Beginning {
    let beginning = resume(wanted, phase, remains);
    if !wanted.is_some_and(Wanted::is_up) {
        // Nobody asked for it; but what was begun is finished.
        return match (beginning, remains) {
            (Beginning::Launch | Beginning::Leave(_), Remains::None) => {
                Beginning::Leave(Outcome::NotRunning)
            }
            _ => beginning,
        };
    }
    match (phase, remains) {
        // It was being ended with its session, which has begun anew.
        (Phase::Stopping, Remains::Alive) => Beginning::Adopt(Some(Input::Restart)),
        (Phase::Stopping | Phase::Stopped, Remains::Dead(_) | Remains::None) => Beginning::Launch,
        _ => beginning,
    }
}

/// What a worker does that is asked to bring its service up if that is wanted,
/// see [`Task::Raise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raising {
    /// It runs, or is about to: the caller is told so.
    Already,
    /// It is to be raised as by a start.
    Start,
    /// What is going on goes on: it is going down as it should, or it will be
    /// launched in a moment, and the caller hears of either.
    Wait,
}

/// Decides what [`Task::Raise`] means for a service that has a worker.
#[must_use]
pub fn raising(wanted: Option<Wanted>, state: &State) -> Raising {
    let is_wanted = wanted.is_some_and(Wanted::is_up);
    match state {
        State::Launching | State::Starting { .. } | State::Running | State::Delay { .. } => {
            Raising::Already
        }
        State::Stopping { again: false, .. } | State::Clearing { then: After::Stop, .. }
            if is_wanted =>
        {
            Raising::Start
        }
        State::Stopping { .. } | State::Clearing { .. } => Raising::Wait,
        // Neither is seen by anybody who could be asked.
        State::Down | State::Over(_) => Raising::Wait,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::NOT_LET_THROUGH;
    use crate::supervise::ladder::Climb;

    const WANTED: [Option<Wanted>; 4] =
        [None, Some(Wanted::Up), Some(Wanted::Once), Some(Wanted::Down)];
    const EXIT: Exit = Exit::Code(3);
    const REMAINS: [Remains; 3] = [Remains::Alive, Remains::Dead(EXIT), Remains::None];

    fn tasks() -> [Task; 6] {
        [
            Task::Start { client: "1".into(), context: [].into(), once: false },
            Task::Stop { now: false },
            Task::Restart,
            Task::Resume,
            RAISE,
            Task::Leave { now: true },
        ]
    }

    const RAISE: Task = Task::Raise { client: String::new() };

    #[test]
    fn every_task_in_every_phase_with_every_remains() {
        use Beginning::{Adopt, Judge, Launch, Wait};
        for phase in Phase::ALL {
            for wanted in WANTED {
                for remains in REMAINS {
                    let of = |task: &Task| plan(task, wanted, phase, remains);
                    let is_alive = remains == Remains::Alive;
                    // A living run is never launched beside, and no other is adopted.
                    for task in tasks() {
                        let is_adopted = matches!(of(&task), Adopt(_));
                        assert_eq!(is_adopted, is_alive, "{task:?} {phase:?} {wanted:?}");
                    }
                    // Only a start, or a wish to be up, launches.
                    for task in [Task::Stop { now: true }, Task::Leave { now: false }] {
                        assert!(!matches!(of(&task), Launch | Judge(_) | Wait));
                    }
                    let is_down = wanted == Some(Wanted::Down) || phase == Phase::Stopping;
                    let restarted = of(&Task::Restart);
                    match remains {
                        Remains::Alive => {
                            let input = if is_down { Input::Stop } else { Input::Restart };
                            assert_eq!(restarted, Adopt(Some(input)));
                        }
                        Remains::None => {
                            let is_due = !is_down && wanted != Some(Wanted::Once);
                            assert_eq!(restarted == Launch, is_due && phase == Phase::Delay);
                        }
                        Remains::Dead(_) if is_down => assert!(!matches!(restarted, Launch)),
                        Remains::Dead(_) => {
                            let is_over = matches!(phase, Phase::Over | Phase::Stopped);
                            let is_due = !is_over && wanted != Some(Wanted::Once);
                            assert!(restarted == Launch || !is_due, "{phase:?} {wanted:?}");
                        }
                    }
                    for task in [Task::Resume, RAISE] {
                        let beginning = of(&task);
                        if wanted == Some(Wanted::Down) {
                            assert!(!matches!(beginning, Launch | Judge(_) | Wait), "{phase:?}");
                            if is_alive {
                                assert_eq!(beginning, Adopt(Some(Input::Stop)));
                            }
                        }
                        // An exit is judged as it is known, or not at all.
                        if let Judge(judged) = beginning {
                            assert_eq!(remains, Remains::Dead(judged));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_successor_goes_on() {
        use Beginning::{Adopt, Clear, Judge, Launch, Leave, Wait};
        for (phase, remains, expected) in [
            (Phase::Idle, Remains::None, Launch),
            (Phase::Launching, Remains::Dead(Exit::Code(NOT_LET_THROUGH)), Launch),
            (Phase::Launching, Remains::Dead(Exit::Unknown), Launch),
            (Phase::Launching, Remains::Dead(Exit::Code(0)), Judge(Exit::Code(0))),
            (Phase::Launching, Remains::Dead(EXIT), Judge(EXIT)),
            (Phase::Launching, Remains::Alive, Adopt(None)),
            (Phase::Up, Remains::Alive, Adopt(None)),
            (Phase::Up, Remains::Dead(EXIT), Judge(EXIT)),
            (Phase::Up, Remains::Dead(Exit::Unknown), Judge(Exit::Unknown)),
            (Phase::Delay, Remains::None, Wait),
            (Phase::Stopping, Remains::Alive, Adopt(Some(Input::Stop))),
            (Phase::Stopping, Remains::Dead(EXIT), Clear),
            (Phase::Restarting, Remains::Alive, Adopt(Some(Input::Restart))),
            (Phase::Restarting, Remains::Dead(EXIT), Launch),
            (Phase::Clearing, Remains::Dead(EXIT), Judge(EXIT)),
            (Phase::Over, Remains::None, Leave(Outcome::NotRunning)),
            (Phase::Stopped, Remains::None, Leave(Outcome::NotRunning)),
        ] {
            for wanted in [Wanted::Up, Wanted::Once] {
                let found = plan(&Task::Resume, Some(wanted), phase, remains);
                assert_eq!(found, expected, "{phase:?} {remains:?}");
            }
        }
    }

    #[test]
    fn resume_brings_up_what_is_wanted_and_nothing_else() {
        use Beginning::{Adopt, Judge, Launch, Leave};
        for (phase, remains) in Phase::ALL.into_iter().flat_map(|p| REMAINS.map(|r| (p, r))) {
            let of = |task: &Task, wanted| plan(task, wanted, phase, remains);
            for wanted in WANTED {
                let (raised, resumed) = (of(&RAISE, wanted), of(&Task::Resume, wanted));
                if !wanted.is_some_and(Wanted::is_up) {
                    // As a successor, which may finish a stop; nothing new.
                    let is_new = matches!(resumed, Launch | Leave(_)) && remains == Remains::None;
                    let expected = if is_new { Leave(Outcome::NotRunning) } else { resumed };
                    assert_eq!(raised, expected, "{phase:?} {remains:?} {wanted:?}");
                    continue;
                }
                let expected = match (phase, remains) {
                    (Phase::Stopping, Remains::Alive) => Adopt(Some(Input::Restart)),
                    (Phase::Stopping | Phase::Stopped, Remains::Dead(_) | Remains::None) => Launch,
                    // It has ended by itself here, and that was judged.
                    (Phase::Over, Remains::Dead(_) | Remains::None) => Leave(Outcome::NotRunning),
                    (Phase::Up, Remains::Dead(exit)) => Judge(exit),
                    _ => resumed,
                };
                assert_eq!(raised, expected, "{phase:?} {remains:?} {wanted:?}");
            }
        }
        // After a reboot there is nothing but the wish.
        assert_eq!(plan(&RAISE, Some(Wanted::Up), Phase::Idle, Remains::None), Launch);
        assert_eq!(plan(&RAISE, Some(Wanted::Once), Phase::Idle, Remains::None), Launch);
        for unwanted in [None, Some(Wanted::Down)] {
            let found = plan(&RAISE, unwanted, Phase::Idle, Remains::None);
            assert!(matches!(found, Leave(_)), "{found:?}");
        }
    }

    #[test]
    fn resume_of_a_service_that_has_a_worker() {
        let climb = Climb::clearing();
        let until = Duration::ZERO;
        let stopping = |again| State::Stopping { climb: climb.clone(), until, again };
        let clearing = |then| State::Clearing { climb: climb.clone(), until, then };
        let judged = After::Decide { exit: EXIT, lasted: until };
        for wanted in WANTED {
            let is_wanted = wanted.is_some_and(Wanted::is_up);
            let again = if is_wanted { Raising::Start } else { Raising::Wait };
            for (state, expected) in [
                (State::Launching, Raising::Already),
                (State::Starting { until }, Raising::Already),
                (State::Running, Raising::Already),
                (State::Delay { until }, Raising::Already),
                (stopping(false), again),
                (stopping(true), Raising::Wait),
                (clearing(After::Stop), again),
                (clearing(After::Again), Raising::Wait),
                (clearing(judged), Raising::Wait),
                (State::Down, Raising::Wait),
                (State::Over(Outcome::Stopped), Raising::Wait),
            ] {
                assert_eq!(raising(wanted, &state), expected, "{state:?} {wanted:?}");
            }
        }
    }
}
