//! The values of configuration keys, as types.

use std::iter;
use std::path::PathBuf;
use std::time::Duration;

use crate::backend::{Exit, Signal};

/// When a run is followed by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever the exit was.
    Always,
    /// Unless the exit was one of `ok_exit`.
    OnFailure,
    /// Not at all.
    Never,
}

/// Whom the signals of a [`Ladder`] reach before its last rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTo {
    /// Every process of the run.
    Tree,
    /// The process group of the service process.
    Group,
    /// The service process alone.
    Process,
}

/// Where standard output and error of the service go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// Nothing was said: as [`LogTo::Yes`] under a keeper; a worker started by
    /// hand leaves them where they are.
    Default,
    /// Into the service's own place under `$RERAISE_LOGDIR`.
    Yes,
    /// Where they went anyway.
    No,
    /// To this absolute path.
    Path(PathBuf),
}

/// What is kept of a service's output, and how (`config_log_…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// Whether standard error has a log of its own.
    pub is_split: bool,
    /// A file of so many bytes is rotated.
    pub size: u64,
    /// A file that was begun so long ago is rotated.
    pub age: Option<Duration>,
    /// Rotated files that are kept.
    pub keep: u32,
    /// Bytes of all files together.
    pub total: u64,
    /// What stands before each line.
    pub time: LogTime,
    /// A command for each rotated file.
    pub after: Option<String>,
    /// What is done while the log cannot be written.
    pub full: LogFull,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            is_split: false,
            size: 10 << 20,
            age: None,
            keep: 10,
            total: 100 << 20,
            time: LogTime::None,
            after: None,
            full: LogFull::DropOldest,
        }
    }
}

/// The time before each line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTime {
    /// Nothing: what the service says, byte for byte.
    None,
    /// `2026-11-22T06:00:00.123456+01:00`.
    Iso,
    /// Seconds since 1970, with microseconds.
    Epoch,
    /// As daemontools writes it.
    Tai64n,
}

/// What is done with output while the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFull {
    /// Older files make room; where none is left, the output is dropped.
    DropOldest,
    /// The output is dropped.
    DropNew,
    /// The service waits.
    Block,
}

/// One signal, and how long to wait for its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// What is sent.
    pub signal: Signal,
    /// When the next rung follows.
    pub wait: Duration,
}

/// The signals that end a run, in their order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    before: Vec<Rung>,
    last: Rung,
}

impl Ladder {
    /// A ladder has at most so many rungs when it comes from a script.
    pub const RUNGS_MAX: usize = 8;

    /// A ladder that ends in `last`.
    #[must_use]
    pub fn new(before: Vec<Rung>, last: Rung) -> Self {
        Self { before, last }
    }

    /// How many rungs come before the last.
    #[must_use]
    pub fn before_last(&self) -> usize {
        self.before.len()
    }

    /// The rung with this number, counted from 0; the last one from
    /// [`Ladder::before_last`] on.
    #[must_use]
    pub fn rung(&self, number: usize) -> Rung {
        self.before.get(number).copied().unwrap_or(self.last)
    }

    /// All rungs in their order.
    pub fn rungs(&self) -> impl Iterator<Item = Rung> + '_ {
        self.before.iter().copied().chain(iter::once(self.last))
    }
}

/// A set of ways to end: exit codes and signals. [`Exit::Unknown`] is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExitSet {
    codes: [u64; 4],
    signals: u64,
}

impl ExitSet {
    /// Adds an exit code.
    pub fn insert_code(&mut self, code: u8) {
        self.codes[usize::from(code / 64)] |= 1 << (code % 64);
    }

    /// Adds a signal, with or without a core dump.
    pub fn insert_signal(&mut self, signal: Signal) {
        self.signals |= bit(signal as i32);
    }

    /// Whether a run that ended so is in the set.
    #[must_use]
    pub fn contains(&self, exit: &Exit) -> bool {
        match *exit {
            Exit::Code(code) => u8::try_from(code)
                .is_ok_and(|code| self.codes[usize::from(code / 64)] & (1 << (code % 64)) != 0),
            Exit::Signal { number, .. } => self.signals & bit(number) != 0,
            Exit::Unknown => false,
        }
    }
}

/// Signals are counted from 1; a number that is no signal has no bit.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal).ok().and_then(|n| 1_u64.checked_shl(n.checked_sub(1)?)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_exits() {
        let signal = |number| Exit::Signal { number, core: false };
        let mut set = ExitSet::default();
        for code in [0, 63, 64, 255] {
            set.insert_code(code);
        }
        set.insert_signal(Signal::SIGHUP);
        set.insert_signal(Signal::SIGTERM);
        for code in -300..600 {
            assert_eq!(set.contains(&Exit::Code(code)), [0, 63, 64, 255].contains(&code), "{code}");
        }
        for number in [i32::MIN, -1, 0, 1, 2, 15, 64, 65, 66, 79, 129, i32::MAX] {
            assert_eq!(set.contains(&signal(number)), [1, 15].contains(&number), "{number}");
        }
        assert!(set.contains(&Exit::Signal { number: 15, core: true }));
        assert!(!set.contains(&Exit::Unknown));
    }

    #[test]
    fn a_ladder_ends_in_its_last_rung() {
        let rung = |signal| Rung { signal, wait: Duration::from_secs(1) };
        let (term, kill) = (rung(Signal::SIGTERM), rung(Signal::SIGKILL));
        let ladder = Ladder::new(vec![term], kill);
        assert_eq!(ladder.rungs().collect::<Vec<_>>(), [term, kill]);
        assert_eq!([0, 1, 2, usize::MAX].map(|n| ladder.rung(n)), [term, kill, kill, kill]);
        assert_eq!(Ladder::new(Vec::new(), kill).rung(0), kill);
    }
}
