//! Long pseudo-random walks: through any inputs at all, and through those that
//! a system gives whose processes end when they like.

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const STEPS: usize = 200_000;

#[test]
fn any_inputs() {
    let inputs = inputs();
    for (seed, config) in (1..).zip(configs()) {
        let mut random = Random(seed);
        let mut machine = Machine::new(config.clone(), seed);
        let mut now = NOW;
        for step in 0..STEPS {
            now += Duration::from_millis(random.below(4000) as u64);
            if matches!(machine.state(), State::Over(_)) {
                machine = Machine::new(config.clone(), seed);
            }
            let (before, input) = (machine.clone(), random.pick(&inputs));
            let actions = machine.step(input, now);
            let case = || {
                format!("step {step} of {seed}: {before:?} {input:?} -> {machine:?} {actions:?}")
            };
            assert!(is_consistent(&machine) && actions.len() <= 2, "{}", case());
            if actions.contains(&Action::Spawn) {
                assert!(!is_going_down(before.state()) || input == Input::Start, "{}", case());
                assert!(
                    !before.is_alive() || matches!(input, Input::Ended { alone: true, .. }),
                    "{}",
                    case()
                );
            }
        }
    }
}

/// What a machine supervises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Main {
    None,
    Gated,
    Runs,
}

/// A system that answers as the worker's loop does.
struct System {
    main: Main,
    /// Whether others of the tree live.
    rest: bool,
    spawned: u64,
}

impl System {
    fn input(&mut self, random: &mut Random, machine: &Machine) -> Input {
        loop {
            match (random.below(12), self.main) {
                (0, _) => return Input::Start,
                (1, _) => return random.pick(&[Input::Stop, Input::StopNow]),
                (2, _) => return Input::Restart,
                (3, Main::Gated) => {
                    self.main = Main::Runs;
                    return Input::Launched;
                }
                (4, Main::Gated) => {
                    self.main = Main::None;
                    return Input::LaunchFailed(random.pick(&[BUSY, MISSING]));
                }
                (5, Main::Runs) => self.rest = true,
                (6 | 7, Main::Gated | Main::Runs) => {
                    self.main = Main::None;
                    return Input::Ended { exit: random.pick(&EXITS), alone: !self.rest };
                }
                // Only what is being ended can outlive its main process.
                (8 | 9, Main::None) if self.rest => {
                    self.rest = false;
                    return Input::Alone;
                }
                (10 | 11, _) if machine.deadline().is_some() => return Input::Deadline,
                _ => {}
            }
        }
    }

    fn perform(&mut self, actions: &[Action]) {
        let is_hopeless = actions.contains(&Action::NameSurvivors);
        for action in actions {
            match action {
                Action::Spawn => {
                    assert_eq!(self.main, Main::None, "two main processes");
                    assert!(!self.rest || is_hopeless, "beside what the former run left");
                    (self.main, self.rest) = (Main::Gated, false);
                    self.spawned += 1;
                }
                Action::Signal(signal, _) => {
                    assert!(self.main != Main::None || self.rest, "{signal} to nobody");
                }
                Action::NameSurvivors => {
                    assert!(self.main != Main::None || self.rest, "nobody survived");
                    // Given up, and named; whoever of them lives is not waited for again.
                    self.rest = false;
                }
            }
        }
    }
}

#[test]
fn a_system_that_does_what_it_likes() {
    for (seed, config) in (1..).zip(configs()) {
        let mut random = Random(seed);
        let mut system = System { main: Main::None, rest: false, spawned: 0 };
        let mut machine = Machine::new(config.clone(), seed);
        let mut now = NOW;
        let mut ends = 0;
        for step in 0..STEPS {
            now += Duration::from_millis(random.below(2000) as u64);
            if let State::Over(outcome) = *machine.state() {
                ends += 1;
                let is_left = system.main != Main::None || system.rest;
                assert!(
                    !is_left || outcome == Outcome::Survived,
                    "{outcome:?} with processes left"
                );
                (system.main, system.rest) = (Main::None, false);
                machine = Machine::new(config.clone(), seed);
            }
            let input = system.input(&mut random, &machine);
            if let (Input::Deadline, Some(due)) = (input, machine.deadline()) {
                now = now.max(due);
            }
            let was_going_down = is_going_down(machine.state());
            let before = machine.clone();
            let actions = machine.step(input, now);
            assert!(is_consistent(&machine) && actions.len() <= 2, "step {step} of {seed}");
            assert!(!was_going_down || input == Input::Start || !actions.contains(&Action::Spawn));
            let done =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| system.perform(&actions)));
            assert!(done.is_ok(), "step {step} of {seed}: {before:?} {input:?} -> {actions:?}");
            if !matches!(machine.state(), State::Over(_)) {
                let is_there = system.main != Main::None;
                let case = format!("step {step} of {seed}: {before:?} {input:?} -> {actions:?}");
                assert_eq!(machine.is_alive(), is_there, "{case}");
            }
        }
        assert!(system.spawned > 10_000 && ends > 1000, "{} {ends}", system.spawned);
    }
}
