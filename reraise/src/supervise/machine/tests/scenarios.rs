//! Whole lives of a service: which runs follow which, and when.

use super::*;

/// A run: how long it lasts, and how it ends. `None`: it cannot be launched.
type Run = (u64, Option<Exit>);

const fn ends(secs: u64, code: i32) -> Run {
    (secs, Some(Exit::Code(code)))
}

/// What the script says, its runs, the delays between them, and the end.
type Life<'a> = (&'a str, &'a [Run], &'a [u64], Option<Outcome>);

const MISSES: Run = (0, None);

/// What came of it: the delay before each further run in seconds, and the end.
fn play(lines: &str, runs: &[Run]) -> (Vec<u64>, Option<Outcome>) {
    let mut machine = Machine::new(config(lines), 7);
    let (mut now, mut delays) = (NOW, Vec::new());
    assert_eq!(machine.step(Input::Start, now), [Action::Spawn]);
    for &(secs, exit) in runs {
        assert_eq!(*machine.state(), State::Launching);
        let actions = match exit {
            None => machine.step(Input::LaunchFailed(MISSING), now),
            Some(exit) => {
                assert_eq!(machine.step(Input::Launched, now), []);
                assert_eq!(machine.since(), now);
                let end = now + S * u32::try_from(secs).unwrap();
                if let Some(due) = machine.deadline().filter(|due| *due <= end) {
                    assert_eq!(machine.step(Input::Deadline, due), []);
                    assert_eq!(*machine.state(), State::Running);
                }
                now = end;
                machine.step(Input::Ended { exit, alone: true }, now)
            }
        };
        let fell = now;
        match (&actions[..], machine.state().clone()) {
            ([Action::Spawn], State::Launching) => {}
            ([], State::Delay { until }) => {
                now = until;
                assert_eq!(machine.step(Input::Deadline, now), [Action::Spawn]);
            }
            ([], State::Over(outcome)) => return (delays, Some(outcome)),
            other => panic!("{other:?}"),
        }
        let delay = now - fell;
        let whole = Duration::from_secs(delay.as_secs());
        assert!(delay <= whole * 11 / 10, "more jitter than a tenth: {delay:?}");
        delays.push(delay.as_secs());
    }
    (delays, None)
}

#[test]
fn lives() {
    let failed = |code| Some(Outcome::Failed(Exit::Code(code)));
    let done = |code| Some(Outcome::Done(Exit::Code(code)));
    let missing = Some(Outcome::Unlaunchable(MISSING));
    let (good, bad, brief) = (ends(10, 1), ends(9, 3), ends(0, 0));
    let never = "config_restart=never";
    let on_failure = "config_restart=on-failure";
    let endless = "config_max_retry=unlimited";
    #[rustfmt::skip]
    let cases: &[Life<'_>] = &[
        // A first start that fails is not tried again.
        ("", &[bad],                              &[],           failed(3)),
        ("", &[brief],                            &[],           failed(0)),
        ("", &[MISSES],                           &[],           missing),
        // One that succeeded is raised at once, as often as needed.
        ("", &[good, good, good, good],           &[0, 0, 0, 0], None),
        ("", &[ends(10, 0), ends(99, 0)],         &[0, 0],       None),
        // Two failures in a row are forgiven, the third is not.
        ("", &[good, bad, bad, bad],              &[0, 0, 2],    failed(3)),
        ("", &[good, bad, brief, brief],          &[0, 0, 2],    failed(0)),
        ("", &[good, bad, bad, good, bad, bad, bad], &[0, 0, 2, 0, 0, 2], failed(3)),
        ("", &[good, MISSES, MISSES, MISSES],     &[0, 0, 2],    missing),
        ("", &[good, bad, MISSES, good],          &[0, 0, 2, 0], None),
        ("config_max_retry=0", &[good, bad],      &[0],          failed(3)),
        ("config_max_retry=3", &[good, bad, bad, bad, bad], &[0, 0, 2, 4], failed(3)),
        ("config_max_retry=3\nconfig_retry_sec=5\nconfig_retry_max_sec=8",
                &[good, bad, bad, bad, bad],      &[0, 0, 5, 8], failed(3)),
        // Without a limit it goes on, once it has started.
        (endless, &[bad],                         &[],           failed(3)),
        (endless, &[good, bad, bad, bad, MISSES, bad, good, bad],
                                                  &[0, 0, 2, 4, 6, 8, 0, 0], None),
        // A second is long for this one.
        ("config_start_sec=1", &[ends(1, 0)],     &[0],          None),
        ("config_start_sec=0", &[ends(0, 0), ends(0, 1)], &[0, 0], None),
        // Those that may come to an end.
        (never, &[good],                          &[],           failed(1)),
        (never, &[ends(10, 0)],                   &[],           done(0)),
        (never, &[brief],                         &[],           done(0)),
        (never, &[MISSES],                        &[],           missing),
        (on_failure, &[brief],                    &[],           done(0)),
        (on_failure, &[good, good, ends(10, 0)],  &[0, 0],       done(0)),
        (on_failure, &[good, bad, bad, brief],    &[0, 0, 2],    done(0)),
        (on_failure, &[good, bad, bad, bad],      &[0, 0, 2],    failed(3)),
        (on_failure, &[bad],                      &[],           failed(3)),
        ("config_restart=on-failure\nconfig_ok_exit=\"0 3\"",
                     &[good, bad],                &[0],          done(3)),
    ];
    for (lines, runs, delays, outcome) in cases {
        assert_eq!(play(lines, runs), (delays.to_vec(), *outcome), "{lines} {runs:?}");
    }
}

#[test]
fn a_restart_is_no_failed_start_however_young_it_was() {
    let mut machine = Machine::new(config(""), 7);
    assert_eq!(machine.step(Input::Start, NOW), [Action::Spawn]);
    for _ in 0..10 {
        assert_eq!(machine.step(Input::Launched, NOW), []);
        let term = Action::Signal(Signal::SIGTERM, Whom::Tree);
        assert_eq!(machine.step(Input::Restart, NOW), [term]);
        let exit = Exit::Code(1);
        assert_eq!(machine.step(Input::Ended { exit, alone: false }, NOW), []);
        assert_eq!(machine.step(Input::Alone, NOW), [Action::Spawn]);
        assert_eq!(machine.history(), History::default());
    }
}

#[test]
fn a_shortage_is_waited_out_however_long_it_lasts() {
    let mut machine = Machine::waiting(config(""), 7, NOW, GOOD);
    let mut now = NOW;
    for _ in 0..1000 {
        assert_eq!(machine.step(Input::Deadline, now), [Action::Spawn]);
        assert_eq!(machine.step(Input::LaunchFailed(BUSY), now), []);
        assert_eq!(*machine.state(), State::Delay { until: now + S });
        now += S;
    }
    assert_eq!(machine.history(), GOOD);
}

#[test]
fn a_first_start_that_meets_a_shortage_says_so() {
    let mut machine = Machine::new(config(""), 7);
    assert_eq!(machine.step(Input::Start, NOW), [Action::Spawn]);
    assert_eq!(machine.step(Input::LaunchFailed(BUSY), NOW), []);
    assert_eq!(*machine.state(), State::Over(Outcome::Unlaunchable(BUSY)));
}

#[test]
fn one_that_is_killed_before_its_exec_has_not_started_well() {
    // The service of ten hours falls; its successor does not even get to exec.
    let mut machine = Machine::adopted(config("config_max_retry=0"), 7, NOW, GOOD);
    let later = NOW + 36_000 * S;
    let exit = Exit::Code(1);
    assert_eq!(machine.step(Input::Deadline, later), []);
    assert_eq!(machine.step(Input::Ended { exit, alone: true }, later), [Action::Spawn]);
    assert_eq!(machine.step(Input::Ended { exit, alone: true }, later), []);
    assert_eq!(*machine.state(), State::Over(Outcome::Failed(exit)));
}

#[test]
fn one_that_begins_while_it_is_stopped_counts_from_there() {
    let mut machine = Machine::new(config("config_stop=\"INT 1, TERM 1\""), 7);
    assert_eq!(machine.step(Input::Start, NOW), [Action::Spawn]);
    assert_eq!(machine.step(Input::Restart, NOW).len(), 1);
    assert_eq!(machine.step(Input::Launched, NOW + S / 2), []);
    assert_eq!(machine.since(), NOW + S / 2);
    // It takes no notice of either signal: it stays, and is not started twice.
    assert_eq!(
        machine.step(Input::Deadline, NOW + S),
        [Action::Signal(Signal::SIGTERM, Whom::Tree)]
    );
    assert_eq!(machine.step(Input::Deadline, NOW + 2 * S), [Action::NameSurvivors]);
    assert_eq!(*machine.state(), State::Running);
    let exit = Exit::Code(1);
    assert_eq!(machine.step(Input::Ended { exit, alone: true }, NOW + 3 * S), []);
    assert_eq!(*machine.state(), State::Over(Outcome::Failed(exit)));
}

#[test]
fn stop_then_start_then_stop_again() {
    for inputs in [[Input::Start, Input::Stop], [Input::Start, Input::StopNow]] {
        let mut machine = Machine::adopted(config(""), 7, NOW, GOOD);
        let _ = machine.step(Input::Stop, NOW);
        for input in inputs {
            let _ = machine.step(input, NOW);
        }
        let exit = Exit::Code(0);
        assert_eq!(machine.step(Input::Ended { exit, alone: true }, NOW), []);
        assert_eq!(*machine.state(), State::Over(Outcome::Stopped));
    }
}

#[test]
fn what_a_former_worker_left() {
    // Old enough: running, and its failures are forgiven.
    let failed = History { failures: 2, ..History::default() };
    let mut old = Machine::adopted(config(""), 7, NOW, failed);
    assert_eq!(old.step(Input::Deadline, NOW + 10 * S), []);
    assert_eq!((old.state(), old.history()), (&State::Running, GOOD));
    // Not yet.
    let mut young = Machine::adopted(config(""), 7, NOW, failed);
    assert_eq!(young.step(Input::Deadline, NOW + 9 * S), []);
    assert_eq!((young.deadline(), young.history()), (Some(NOW + 10 * S), failed));
    for (launch, expected) in [(true, State::Launching), (false, State::Over(Outcome::Stopped))] {
        let (mut machine, signal, whom) =
            Machine::clearing(config(""), 7, NOW, History::default(), launch);
        assert_eq!(
            (signal, whom, machine.deadline()),
            (Signal::SIGTERM, Whom::Tree, Some(NOW + 5 * S))
        );
        assert_eq!(machine.step(Input::Alone, NOW).is_empty(), !launch);
        assert_eq!(*machine.state(), expected);
    }
}
