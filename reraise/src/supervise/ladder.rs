//! The way up a [`Ladder`] of signals while a run is being ended. Nothing is
//! sent here, and no time passes: the supervisor sends [`Climb::rung`], waits,
//! and takes the [`Climb::advance`] one while something lives.

use std::time::Duration;

use crate::backend::Signal;
use crate::config::{Ladder, Rung, StopTo};

/// Whom a signal is sent to.
pub use crate::config::StopTo as Whom;

/// A place on a ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Climb {
    ladder: Ladder,
    to: StopTo,
    at: usize,
}

impl Climb {
    /// Stands on the first rung. Whatever `to` says, the last rung takes the
    /// tree: stopped means gone.
    #[must_use]
    pub fn new(ladder: &Ladder, to: StopTo) -> Self {
        Self { ladder: ladder.clone(), to, at: 0 }
    }

    /// Stands so many rungs higher, or on the last one.
    #[must_use]
    pub fn at(ladder: &Ladder, to: StopTo, steps: usize) -> Self {
        Self { at: steps.min(ladder.before_last()), ..Self::new(ladder, to) }
    }

    /// How many rungs were left behind.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.at
    }

    /// The signal to send now, whom to, and how long to wait for its effect.
    #[must_use]
    pub fn rung(&self) -> (Signal, Whom, Duration) {
        let Rung { signal, wait } = self.ladder.rung(self.at);
        (signal, if self.is_last() { Whom::Tree } else { self.to }, wait)
    }

    /// Whether nothing comes after this rung.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.at >= self.ladder.before_last()
    }

    /// Goes one rung up. `false`: this was the last one, where it stays, and
    /// what still lives does so in spite of everything.
    pub fn advance(&mut self) -> bool {
        !self.is_last() && {
            self.at += 1;
            true
        }
    }

    /// From here on signals go to the whole tree: the main process is gone.
    pub fn take_all(&mut self) {
        self.to = StopTo::Tree;
    }

    /// The climb for what is left of the tree of a run that has ended.
    #[must_use]
    pub fn clearing() -> Self {
        Self::new(&clearing(), StopTo::Tree)
    }

    /// Goes to the last rung. `false`: it stood there already.
    pub fn hurry(&mut self) -> bool {
        !self.is_last() && {
            self.at = self.ladder.before_last();
            true
        }
    }
}

/// The ladder for what is left of the tree of a run that has ended: its main
/// process is gone, so nobody is there to end the rest in an orderly way, and
/// the next run waits.
#[must_use]
pub fn clearing() -> Ladder {
    let rung = |signal, secs| Rung { signal, wait: Duration::from_secs(secs) };
    Ladder::new(vec![rung(Signal::SIGTERM, 5)], rung(Signal::SIGKILL, 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Signal::{SIGINT, SIGKILL, SIGTERM};

    fn ladder(rungs: &[(Signal, u64)]) -> Ladder {
        let rung = |&(signal, secs)| Rung { signal, wait: Duration::from_secs(secs) };
        let (last, before) = rungs.split_last().unwrap();
        Ladder::new(before.iter().map(rung).collect(), rung(last))
    }

    fn all(mut climb: Climb) -> Vec<(Signal, Whom, u64)> {
        let mut seen = Vec::new();
        loop {
            let (signal, whom, wait) = climb.rung();
            seen.push((signal, whom, wait.as_secs()));
            if !climb.advance() {
                return seen;
            }
        }
    }

    #[test]
    fn climbs() {
        type Rungs<'a> = &'a [(Signal, u64)];
        type Seen<'a> = &'a [(Signal, Whom, u64)];
        let three: &[_] = &[(SIGINT, 1), (SIGTERM, 2), (SIGKILL, 3)];
        let no_kill: &[_] = &[(SIGINT, 1), (SIGTERM, 2)];
        let one: &[_] = &[(SIGTERM, 7)];
        for to in [StopTo::Tree, StopTo::Group, StopTo::Process] {
            let cases: &[(Rungs<'_>, Seen<'_>)] = &[
                (three, &[(SIGINT, to, 1), (SIGTERM, to, 2), (SIGKILL, Whom::Tree, 3)]),
                (no_kill, &[(SIGINT, to, 1), (SIGTERM, Whom::Tree, 2)]),
                (one, &[(SIGTERM, Whom::Tree, 7)]),
            ];
            for (rungs, seen) in cases {
                assert_eq!(all(Climb::new(&ladder(rungs), to)), *seen);
            }
        }
    }

    #[test]
    fn goes_on_where_another_stood() {
        let ladder = ladder(&[(SIGINT, 1), (SIGTERM, 2), (SIGKILL, 3)]);
        let mut climb = Climb::new(&ladder, StopTo::Group);
        for steps in 0..3 {
            assert_eq!(
                (Climb::at(&ladder, StopTo::Group, steps), climb.steps()),
                (climb.clone(), steps)
            );
            let _ = climb.advance();
        }
        // The script has a shorter one by now.
        assert_eq!(Climb::at(&ladder, StopTo::Group, 255), climb);
    }

    #[test]
    fn the_last_rung_is_kept() {
        let mut climb = Climb::new(&ladder(&[(SIGTERM, 1), (SIGKILL, 2)]), StopTo::Process);
        assert_eq!([climb.advance(), climb.advance(), climb.advance()], [true, false, false]);
        assert_eq!(climb.rung(), (SIGKILL, Whom::Tree, Duration::from_secs(2)));
        assert!(!climb.hurry());
    }

    #[test]
    fn hurry_leaves_out_what_is_between() {
        let rungs: &[_] = &[(SIGINT, 1), (SIGTERM, 2), (SIGTERM, 3), (SIGKILL, 4)];
        for steps in 0..3 {
            let mut climb = Climb::new(&ladder(rungs), StopTo::Group);
            for _ in 0..steps {
                assert!(climb.advance());
            }
            assert_eq!([climb.hurry(), climb.hurry(), climb.advance()], [true, false, false]);
            assert_eq!(climb.rung(), (SIGKILL, Whom::Tree, Duration::from_secs(4)));
        }
    }

    #[test]
    fn clearing_is_short_and_ends_in_kill() {
        let seen = all(Climb::new(&clearing(), StopTo::Tree));
        assert_eq!(seen, [(SIGTERM, Whom::Tree, 5), (SIGKILL, Whom::Tree, 10)]);
    }
}
