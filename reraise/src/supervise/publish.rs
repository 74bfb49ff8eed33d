//! What a worker writes down after each step: the run slot for its successor,
//! the record for everybody.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::ProcessBackend;
use crate::record::{self, More, Record};
use crate::slot;
use crate::supervise::machine::{After, Outcome, State};
use crate::supervise::worker::{Worker, nanoseconds};

/// What a record says, reduced to what makes a new one necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    phase: record::Phase,
    pid: Option<i32>,
    is_stopping: bool,
    is_done: bool,
    continued: u32,
}

/// How long a write that failed is left alone, at first and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LAST_REST: Duration = Duration::from_secs(10);

/// What could not be written down: the disk was full, say. It is tried again until
/// it can be.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// The slot on disk is not that of the worker.
    is_slot: bool,
    /// When to try again.
    again: Option<Duration>,
    failures: u32,
}

impl Unwritten {
    /// The slot has changed.
    pub(super) fn slot(&mut self) {
        self.is_slot = true;
    }

    /// When to try again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.again
    }

    /// It could not be written; whether that is new.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(5)).min(LAST_REST);
        self.again = Some(now + rest);
        self.failures += 1;
        self.failures == 1
    }

    /// What can be written is; whether that is all, and could not be before.
    pub(super) fn is_written(&mut self, is_all: bool) -> bool {
        self.again = None;
        is_all && std::mem::take(&mut self.failures) > 0
    }
}

/// Brings slot and record up to date; `false` while there is nothing new to show.
///
/// # Errors
/// When one could not be written; the old one is still there.
pub(super) fn publish<B: ProcessBackend>(worker: &mut Worker<B>) -> io::Result<bool> {
    let state = worker.machine.state().clone();
    // A stop that may be over in a moment; it is asked for again if we are killed.
    if worker.others.is_some()
        && worker.unwritten.deadline().is_none()
        && matches!(state, State::Stopping { again: false, .. })
    {
        return Ok(false);
    }
    // The record first where it is to be gone: in between, the slot says that something is
    // left to be done. Everywhere else the slot is what counts.
    if matches!(state, State::Over(Outcome::Stopped | Outcome::NotRunning)) {
        worker.published = None;
        if worker.has_adopted {
            worker.forget_strays();
        }
        match fs::remove_file(&worker.files.record) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return write_slot(worker, &state).map(|()| true),
        }
    }
    write_slot(worker, &state)?;
    let pid = worker.tree.as_ref().map(|t| t.main.pid);
    let continued = worker.slot.continued;
    let shown = |phase| Shown { phase, pid, is_stopping: false, is_done: false, continued };
    let shown = match state {
        // Nothing to show before the program runs.
        State::Down | State::Launching => return Ok(false),
        State::Starting { .. } if worker.gate.is_some() => return Ok(false),
        State::Starting { .. } => shown(record::Phase::Start),
        State::Running => shown(record::Phase::Run),
        State::Stopping { .. } => Shown { is_stopping: true, ..shown(record::Phase::Run) },
        State::Clearing { .. } | State::Delay { .. } => {
            Shown { pid: None, ..shown(record::Phase::Stop) }
        }
        State::Over(Outcome::Failed(_) | Outcome::Unlaunchable(_)) => {
            Shown { pid: None, ..shown(record::Phase::Error) }
        }
        State::Over(Outcome::Done(_)) => {
            Shown { pid: None, is_done: true, ..shown(record::Phase::Stop) }
        }
        // The record goes on naming what is left; that of a stop is gone.
        State::Over(Outcome::Survived | Outcome::Stopped | Outcome::NotRunning) => return Ok(true),
    };
    if worker.published == Some(shown) {
        return Ok(true);
    }
    let record = compose(worker, shown);
    record.write(&worker.files.record, &worker.files.file("record.new"))?;
    worker.published = Some(shown);
    Ok(true)
}

fn compose<B: ProcessBackend>(worker: &Worker<B>, shown: Shown) -> Record {
    let now = worker.backend.now();
    // A run's record counts from its beginning, any other from now.
    let since = if shown.pid.is_some() { worker.machine.since() } else { now };
    let age = now.saturating_sub(since);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let is_over = matches!(worker.machine.state(), State::Over(_));
    let more = More {
        born: worker.tree.as_ref().filter(|_| shown.pid.is_some()).map_or(0, |t| t.main.born),
        worker_born: if is_over { 0 } else { worker.me.born },
        boot: worker.place.boot,
        space: worker.place.space,
        mono: since.as_secs(),
        raised: worker.slot.raised,
        continued: worker.slot.continued,
        is_stopping: shown.is_stopping,
        is_done: shown.is_done,
    };
    Record {
        phase: shown.phase,
        exit: worker.machine.last_exit().and_then(crate::backend::Exit::code),
        pid: shown.pid,
        worker: (!is_over).then_some(worker.me.pid),
        epoch: wall.saturating_sub(age).as_secs() as i64,
        more: Some(more),
    }
}

fn write_slot<B: ProcessBackend>(worker: &mut Worker<B>, state: &State) -> io::Result<()> {
    // The logger asks for it when it hears of the end.
    worker.record_death();
    let rung = match state {
        State::Stopping { climb, .. } => u8::try_from(climb.steps()).unwrap_or(u8::MAX),
        _ => 0,
    };
    let (phase, until) = match *state {
        State::Down => (slot::Phase::Idle, Duration::ZERO),
        State::Launching => (slot::Phase::Launching, Duration::ZERO),
        // Whoever comes after us must not take it for a run.
        State::Starting { .. } if worker.gate.is_some() => (slot::Phase::Launching, Duration::ZERO),
        State::Starting { .. } | State::Running => (slot::Phase::Up, Duration::ZERO),
        State::Delay { until } => (slot::Phase::Delay, until),
        State::Clearing { then: After::Decide { .. }, .. } => {
            (slot::Phase::Clearing, Duration::ZERO)
        }
        State::Clearing { then: After::Stop, .. } => (slot::Phase::Stopping, Duration::ZERO),
        State::Clearing { then: After::Again, .. } => (slot::Phase::Restarting, Duration::ZERO),
        State::Stopping { again: false, until, .. } => (slot::Phase::Stopping, until),
        State::Stopping { again: true, until, .. } => (slot::Phase::Restarting, until),
        State::Over(Outcome::Survived) => (slot::Phase::Stopping, Duration::ZERO),
        State::Over(Outcome::Stopped | Outcome::NotRunning) => {
            (slot::Phase::Stopped, Duration::ZERO)
        }
        State::Over(Outcome::Failed(_) | Outcome::Unlaunchable(_) | Outcome::Done(_)) => {
            (slot::Phase::Over, Duration::ZERO)
        }
    };
    let history = worker.machine.history();
    let mut next = worker.slot;
    next.phase = phase;
    next.rung = rung;
    next.until = nanoseconds(until);
    next.started = history.started;
    next.failures = history.failures;
    next.hasty = history.hasty;
    if phase == slot::Phase::Up {
        next.since = nanoseconds(worker.machine.since());
    }
    next.last = worker.machine.last_exit();
    next.is_done = matches!(state, State::Over(Outcome::Done(_)));
    if next != worker.slot || worker.unwritten.is_slot {
        let has_ended = worker.slot.phase.has_run() && !phase.has_run();
        let has_begun = worker.slot.phase == slot::Phase::Launching && phase == slot::Phase::Up;
        let is_late = std::mem::replace(&mut worker.unwritten.is_slot, true);
        worker.slot = next;
        worker.slot_file.write(&next)?;
        worker.unwritten.is_slot = false;
        if has_ended || is_late || (has_begun && !worker.pipes.is_news()) {
            // What was said last is read, and the end of a run is noted.
            worker.ring();
        }
    }
    Ok(())
}
