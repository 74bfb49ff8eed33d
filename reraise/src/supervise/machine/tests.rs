//! Every state with every input, and the rules that hold for all pairs. What
//! happens in a row is in `scenarios`, what might in `walk`.

mod scenarios;
mod walk;

use super::*;
use crate::backend::Step;

pub(super) const NOW: Duration = Duration::from_secs(1000);
pub(super) const S: Duration = Duration::from_secs(1);
pub(super) const GOOD: History = History { started: true, failures: 0, hasty: 0, once: false };

pub(super) const BUSY: LaunchError = LaunchError { step: Step::Fork, errno: libc::EAGAIN };
pub(super) const MISSING: LaunchError = LaunchError { step: Step::Exec, errno: libc::ENOENT };

pub(super) const EXITS: [Exit; 4] = [
    Exit::Code(0),
    Exit::Code(3),
    Exit::Signal { number: libc::SIGSEGV, core: true },
    Exit::Unknown,
];

pub(super) fn config(lines: &str) -> Config {
    let (config, problems) = Config::parse(lines.as_bytes(), &|_| None);
    assert_eq!(problems, []);
    config
}

fn configs() -> Vec<Config> {
    let all = [
        "",
        "config_restart=on-failure\nconfig_stop_to=process\nconfig_stop=\"INT 5, TERM 5, KILL 2\"",
        "config_restart=never\nconfig_stop_to=group\nconfig_stop=KILL",
        "config_max_retry=unlimited\nconfig_retry_sec=0\nconfig_start_sec=0",
    ];
    all.map(config).to_vec()
}

fn histories() -> [History; 4] {
    let of = |started, failures| History { started, failures, ..History::default() };
    [of(false, 0), of(true, 0), of(true, 2), of(false, 1)]
}

pub(super) fn inputs() -> Vec<Input> {
    let mut all = vec![
        Input::Start,
        Input::Stop,
        Input::StopNow,
        Input::Restart,
        Input::Launched,
        Input::LaunchFailed(BUSY),
        Input::LaunchFailed(MISSING),
        Input::Alone,
        Input::Deadline,
    ];
    for alone in [true, false] {
        all.extend(EXITS.map(|exit| Input::Ended { exit, alone }));
    }
    all
}

/// Every state, due in ten seconds, with everything that may be true beside it.
fn states(config: &Config) -> Vec<(State, bool)> {
    let until = NOW + 10 * S;
    let mut all = vec![
        (State::Down, false),
        (State::Launching, true),
        (State::Starting { until }, true),
        (State::Running, true),
        (State::Delay { until }, false),
    ];
    let mut thens = vec![After::Again, After::Stop];
    for lasted in [Duration::ZERO, 20 * S] {
        thens.extend(EXITS.map(|exit| After::Decide { exit, lasted }));
    }
    for climb in both_ends(Climb::clearing()) {
        let of = |&then| (State::Clearing { climb: climb.clone(), until, then }, false);
        all.extend(thens.iter().map(of));
    }
    for climb in both_ends(Climb::new(&config.stop, config.stop_to)) {
        for again in [true, false] {
            for is_alive in [true, false] {
                all.push((State::Stopping { climb: climb.clone(), until, again }, is_alive));
            }
        }
    }
    let mut outcomes = vec![
        Outcome::Stopped,
        Outcome::Survived,
        Outcome::NotRunning,
        Outcome::Unlaunchable(MISSING),
    ];
    outcomes.extend(EXITS.map(Outcome::Failed));
    outcomes.extend(EXITS.map(Outcome::Done));
    all.extend(outcomes.into_iter().map(|o| (State::Over(o), false)));
    all.push((State::Over(Outcome::Survived), true));
    all
}

fn both_ends(first: Climb) -> [Climb; 2] {
    let mut last = first.clone();
    let _ = last.hurry();
    [first, last]
}

/// One input to one machine.
struct Pair {
    before: Machine,
    input: Input,
    now: Duration,
    actions: Vec<Action>,
    after: Machine,
}

impl Pair {
    fn is_spawning(&self) -> bool {
        self.actions.contains(&Action::Spawn)
    }

    fn is_unchanged(&self) -> bool {
        let key = |m: &Machine| (m.state.clone(), m.history, m.since, m.last, m.is_alive);
        self.actions.is_empty() && key(&self.before) == key(&self.after)
    }

    fn is_due(&self) -> bool {
        self.before.deadline().is_some_and(|due| due <= self.now)
    }
}

/// Calls `check` with every pair, and names the one that it fails on.
fn for_each_pair(check: impl Fn(&Pair)) {
    let mut count = 0;
    for config in configs() {
        for (state, is_alive) in states(&config) {
            for history in histories() {
                for input in inputs() {
                    for now in [NOW, NOW + 10 * S - Duration::from_nanos(1), NOW + 10 * S, NOW * 2]
                    {
                        let (config, state) = (config.clone(), state.clone());
                        let since = NOW - 5 * S;
                        let last = None;
                        let before =
                            Machine { config, state, history, since, last, is_alive, seed: 7 };
                        let mut after = before.clone();
                        let actions = after.step(input, now);
                        let pair = Pair { before, input, now, actions, after };
                        let shown = format!(
                            "{:?} alive={is_alive} {history:?} {input:?} at {now:?} -> {:?} {:?}",
                            pair.before.state, pair.after.state, pair.actions
                        );
                        let checked =
                            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                                check(&pair);
                            }));
                        assert!(checked.is_ok(), "{shown}");
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count > 30_000, "{count}");
}

/// The user wants it down, and nothing but a start changes that.
pub(super) fn is_going_down(state: &State) -> bool {
    match state {
        State::Over(_)
        | State::Stopping { again: false, .. }
        | State::Clearing { then: After::Stop, .. } => true,
        State::Down
        | State::Launching
        | State::Starting { .. }
        | State::Running
        | State::Delay { .. }
        | State::Clearing { .. }
        | State::Stopping { again: true, .. } => false,
    }
}

/// What holds of a machine by itself.
pub(super) fn is_consistent(m: &Machine) -> bool {
    let (is_timed, is_alive) = match m.state {
        State::Down | State::Over(_) => (false, None),
        State::Launching | State::Running => (false, Some(true)),
        State::Starting { .. } => (true, Some(true)),
        State::Delay { .. } | State::Clearing { .. } => (true, Some(false)),
        State::Stopping { .. } => (true, None),
    };
    m.deadline().is_some() == is_timed && is_alive.is_none_or(|it| it == m.is_alive)
}

#[test]
fn deadlines_and_lives_fit_the_state() {
    for_each_pair(|p| assert!(is_consistent(&p.before) && is_consistent(&p.after)));
}

#[test]
fn over_absorbs_everything() {
    for_each_pair(|p| {
        if let State::Over(_) = p.before.state {
            assert!(p.actions.is_empty());
            assert_eq!(p.before.state, p.after.state);
        }
    });
}

#[test]
fn there_are_never_two_main_processes() {
    for_each_pair(|p| {
        if p.before.state != State::Launching {
            assert_eq!(p.is_spawning(), p.after.state == State::Launching);
        }
        if p.is_spawning() {
            let has_just_ended = matches!(p.input, Input::Ended { alone: true, .. });
            assert!(!p.before.is_alive || has_just_ended);
            assert_eq!((&p.after.state, p.after.is_alive), (&State::Launching, true));
        }
        assert!(p.actions.iter().filter(|a| **a == Action::Spawn).count() <= 1);
    });
}

#[test]
fn nothing_is_raised_beside_what_a_dead_run_left() {
    for_each_pair(|p| {
        if let (State::Clearing { climb, .. } | State::Stopping { climb, .. }, true) =
            (&p.before.state, p.is_spawning())
        {
            let is_gone = matches!(p.input, Input::Alone | Input::Ended { alone: true, .. });
            let is_hopeless = p.input == Input::Deadline && p.is_due() && climb.is_last();
            assert!(is_gone || is_hopeless);
            assert_eq!(is_hopeless, p.actions[0] == Action::NameSurvivors);
        }
    });
}

#[test]
fn at_most_two_actions_and_signals_only_where_something_is_ended() {
    for_each_pair(|p| {
        assert!(p.actions.len() <= 2);
        for action in &p.actions {
            match *action {
                Action::Spawn => {}
                Action::Signal(signal, whom) => {
                    assert!(matches!(
                        p.after.state,
                        State::Stopping { .. } | State::Clearing { .. }
                    ));
                    assert!(signal != Signal::SIGKILL || whom == Whom::Tree);
                }
                Action::NameSurvivors => {
                    assert!(p.input == Input::Deadline && p.is_due());
                    assert_eq!(p.actions[0], Action::NameSurvivors);
                }
            }
        }
    });
}

#[test]
fn nothing_starts_after_a_stop() {
    for_each_pair(|p| {
        if matches!(p.input, Input::Stop | Input::StopNow) {
            assert!(is_going_down(&p.after.state) && !p.is_spawning());
        }
        // By induction: whatever follows, until somebody says start.
        if is_going_down(&p.before.state) && p.input != Input::Start {
            assert!(is_going_down(&p.after.state) && !p.is_spawning());
        }
    });
}

#[test]
fn a_second_stop_changes_its_end_and_not_its_pace() {
    for_each_pair(|p| {
        if let (State::Stopping { climb, until, .. }, Input::Stop) = (&p.before.state, p.input) {
            let (climb, until) = (climb.clone(), *until);
            assert_eq!(p.after.state, State::Stopping { climb, until, again: false });
            assert!(p.actions.is_empty());
        }
    });
}

#[test]
fn stop_now_stands_on_the_last_rung() {
    for_each_pair(|p| {
        if p.input != Input::StopNow {
            return;
        }
        match &p.after.state {
            State::Stopping { climb, until, .. } | State::Clearing { climb, until, .. } => {
                let (signal, whom, wait) = climb.rung();
                assert!(climb.is_last() && whom == Whom::Tree);
                assert_eq!(
                    (&p.actions[..], *until),
                    (&[Action::Signal(signal, whom)][..], p.now + wait)
                );
            }
            State::Over(_) => assert!(!p.before.is_alive || p.is_unchanged()),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn restart_never_starts_what_does_not_run() {
    for_each_pair(|p| {
        if p.input != Input::Restart {
            return;
        }
        match &p.before.state {
            State::Down | State::Stopping { .. } | State::Over(_) => assert!(p.is_unchanged()),
            State::Clearing { then: After::Stop | After::Again, .. } => assert!(p.is_unchanged()),
            State::Clearing { then: After::Decide { .. }, .. } => {
                assert!(matches!(p.after.state, State::Clearing { then: After::Again, .. }));
                assert!(p.actions.is_empty());
            }
            // It was to come up anyway.
            State::Delay { .. } => assert!(p.is_spawning()),
            State::Launching | State::Starting { .. } | State::Running => {
                assert!(matches!(p.after.state, State::Stopping { again: true, .. }));
            }
        }
        // It is no failed start, and no successful one.
        assert_eq!(p.before.history, p.after.history);
    });
}

#[test]
fn start_is_never_in_vain() {
    for_each_pair(|p| {
        if p.input != Input::Start {
            return;
        }
        match &p.after.state {
            State::Over(_) => assert!(p.is_unchanged()),
            State::Starting { .. } | State::Running => assert!(p.is_unchanged()),
            State::Launching => {
                assert!(
                    p.is_unchanged() || p.is_spawning() && p.after.history == History::default()
                );
            }
            // It comes as if it had never been up.
            State::Stopping { again: true, .. } | State::Clearing { then: After::Again, .. } => {
                assert_eq!((p.after.history, &p.actions[..]), (History::default(), &[][..]));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_deadline_that_comes_early_or_undue_changes_nothing() {
    for_each_pair(|p| {
        if p.input == Input::Deadline && !p.is_due() {
            assert!(p.is_unchanged());
        }
        if p.input == Input::Deadline && p.is_due() {
            assert!(!p.is_unchanged());
        }
    });
}

#[test]
fn a_new_deadline_lies_ahead() {
    for_each_pair(|p| {
        if let Some(due) = p.after.deadline()
            && p.before.deadline() != Some(due)
        {
            assert!(due >= p.now);
        }
    });
}

#[test]
fn what_a_fallen_run_leaves_is_asked_to_end() {
    for_each_pair(|p| {
        let Input::Ended { exit, alone } = p.input else { return };
        if !matches!(p.before.state, State::Launching | State::Starting { .. } | State::Running) {
            return;
        }
        assert_eq!((p.after.last_exit(), p.after.is_alive()), (Some(exit), p.is_spawning()));
        if alone {
            let is_known = matches!(
                p.after.state,
                State::Launching
                    | State::Delay { .. }
                    | State::Over(Outcome::Failed(_) | Outcome::Done(_))
            );
            assert!(is_known);
            return;
        }
        assert_eq!(p.actions, [Action::Signal(Signal::SIGTERM, Whom::Tree)]);
        let has_begun = p.before.state != State::Launching;
        let lasted = if has_begun { p.now - p.before.since } else { Duration::ZERO };
        let then = After::Decide { exit, lasted };
        let climb = Climb::clearing();
        assert_eq!(p.after.state, State::Clearing { climb, until: p.now + 5 * S, then });
        assert_eq!(p.after.history, p.before.history);
    });
}

#[test]
fn those_that_were_spared_hear_of_it_when_the_main_process_ends() {
    for_each_pair(|p| {
        if let (State::Stopping { climb, .. }, Input::Ended { alone: false, .. }, true) =
            (&p.before.state, p.input, p.before.is_alive)
        {
            let (signal, whom, _) = climb.rung();
            let expected: &[_] = match whom {
                Whom::Tree => &[],
                Whom::Group | Whom::Process => &[Action::Signal(signal, Whom::Tree)],
            };
            assert_eq!(p.actions, expected);
            assert!(
                matches!(&p.after.state, State::Stopping { climb, .. } if climb.rung().1 == Whom::Tree)
            );
            assert_eq!(p.after.deadline(), p.before.deadline());
        }
    });
}

#[test]
fn the_end_of_a_ladder() {
    for_each_pair(|p| {
        let (State::Stopping { climb, .. } | State::Clearing { climb, .. }) = &p.before.state
        else {
            return;
        };
        if p.input != Input::Deadline || !p.is_due() {
            return;
        }
        if !climb.is_last() {
            let mut next = climb.clone();
            assert!(next.advance());
            let (signal, whom, wait) = next.rung();
            assert_eq!(p.actions, [Action::Signal(signal, whom)]);
            assert_eq!(p.after.deadline(), Some(p.now + wait));
            return;
        }
        assert_eq!(p.actions[0], Action::NameSurvivors);
        match (&p.before.state, p.before.is_alive) {
            // Nothing ends it: it is watched as it is.
            (State::Stopping { again: true, .. }, true) => {
                assert_eq!((&p.after.state, p.actions.len()), (&State::Running, 1));
            }
            (State::Stopping { again: true, .. }, false)
            | (State::Clearing { then: After::Again, .. }, _) => assert!(p.is_spawning()),
            (State::Stopping { again: false, .. }, _)
            | (State::Clearing { then: After::Stop, .. }, _) => {
                assert_eq!(p.after.state, State::Over(Outcome::Survived));
            }
            (_, _) => assert!(!matches!(p.after.state, State::Clearing { .. })),
        }
    });
}

#[test]
fn launches_that_fail() {
    for_each_pair(|p| {
        let Input::LaunchFailed(error) = p.input else { return };
        // A stop must be heard between one failure and the next attempt.
        assert!(!p.is_spawning());
        match p.before.state {
            State::Stopping { again: false, .. } if p.before.is_alive => {
                assert_eq!(p.after.state, State::Over(Outcome::Stopped));
            }
            State::Launching | State::Running | State::Stopping { again: true, .. }
                if p.before.is_alive =>
            {
                let history = p.before.history;
                if error == BUSY && history.started {
                    assert_eq!(p.after.state, State::Delay { until: p.now + S });
                    assert_eq!(p.after.history, history, "no fault of the service");
                } else if !history.started && p.before.config.start_sec > Duration::ZERO {
                    assert_eq!(p.after.state, State::Over(Outcome::Unlaunchable(error)));
                } else {
                    let is_tried_again = matches!(p.after.state, State::Delay { .. });
                    assert!(
                        is_tried_again
                            || p.after.state == State::Over(Outcome::Unlaunchable(error))
                    );
                }
            }
            // Nobody there can report that.
            _ => assert!(p.is_unchanged()),
        }
    });
}

#[test]
fn only_the_living_report() {
    for_each_pair(|p| {
        let is_report =
            matches!(p.input, Input::Launched | Input::LaunchFailed(_) | Input::Ended { .. });
        if is_report && !p.before.is_alive {
            assert!(p.is_unchanged());
        }
        if p.input == Input::Alone && p.before.is_alive {
            assert!(p.is_unchanged());
        }
    });
}
