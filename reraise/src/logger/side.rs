//! One log of a service and the pipes that fill it: drains them as far as the log can
//! take it, and knows what to do when it cannot.

mod staged;
mod trouble;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::flow::{discard, to_line_end};
use super::index::Mark;
use super::names;
use super::pipes::Side as Which;
use super::report::Report;
use super::rotated;
use super::rules::{Place, Rules};
use super::sink::Sink;
use super::stage::{self, Head, Stage};
use crate::backend::Exit;
use crate::backend::native::{self, Peephole};
use crate::config::{LogFull, LogTime};
use crate::error::is_shortage;
use trouble::Trouble;

/// Bytes of one step, and of one turn among all services.
pub(super) const STEP: usize = 1 << 20;
pub(super) const BUDGET: usize = 8 << 20;
/// A pipe that was found so full is made larger.
const BUSY: usize = 32 << 10;
/// What it then holds.
const LARGE: i32 = 1 << 20;

/// What all logs share: buffers, which are there while output flows.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) text: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) hole: Option<Peephole>,
    /// A run has ended: all that it has left is to be read.
    pub(super) is_last: bool,
    /// Descriptors have run out.
    pub(super) is_short: bool,
}

impl Shared {
    /// Gives the memory back.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The pipe is empty.
    Empty,
    /// There is more, and others are to have their turn.
    More,
    /// The log takes nothing before this time.
    Stuck(Instant),
}

/// The moment of a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// For the log, in microseconds since 1970.
    pub(super) wall: i64,
    /// For waiting.
    pub(super) now: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        use std::time::{SystemTime, UNIX_EPOCH};
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: wall.as_micros() as i64, now: Instant::now() }
    }
}

/// Whose turn it is, by what rules, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) run: u64,
    pub(super) rules: &'a Rules,
    pub(super) moment: Moment,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Side {
    which: Which,
    own: PathBuf,
    sink: Option<Sink>,
    stage: Option<Stage>,
    /// What could not be written yet, and stands in the stage.
    staged: Option<(Head, Vec<u8>)>,
    /// The stage that an earlier logger has left was looked at.
    has_replayed: bool,
    trouble: Option<Trouble>,
    /// It cannot be rotated, which was reported.
    is_unrotated: bool,
    /// Lines and bytes that were dropped where the log now ends.
    lost: (u64, u64),
    /// The run that has said something last; not known before we have heard any.
    said: Option<u64>,
    /// A file was rotated for which a command is to be run.
    pub(super) has_rotated: bool,
}

impl Side {
    pub(super) fn new(own: &Path, which: Which) -> Self {
        Self {
            which,
            own: own.to_owned(),
            sink: None,
            stage: None,
            staged: None,
            has_replayed: false,
            trouble: None,
            is_unrotated: false,
            lost: (0, 0),
            said: None,
            has_rotated: false,
        }
    }

    /// The place of this log among the rules of its service.
    pub(super) fn place(&self, rules: &Rules) -> Option<Place> {
        let place = rules.place.clone()?;
        Some(match self.which {
            Which::Out => place,
            Which::Err => Place { directory: place.directory.join(names::STDERR) },
        })
    }

    fn stage_path(&self) -> PathBuf {
        self.own.join(match self.which {
            Which::Out => "stage0",
            Which::Err => "stage1",
        })
    }

    /// The run that has said what stands last in the log, unless its end is noted; 0:
    /// none.
    ///
    /// # Errors
    /// When descriptors or memory have run out.
    pub(super) fn last_run(&mut self, rules: &Rules, moment: Moment) -> io::Result<u64> {
        let has_log = |place: Place| place.directory.join(names::CURRENT).exists();
        if self.place(rules).is_some_and(has_log) {
            self.open(rules, moment).or_else(|e| if is_shortage(&e) { Err(e) } else { Ok(()) })?;
        }
        Ok(self.sink.as_ref().map_or(0, Sink::run))
    }

    /// Whether a logger before us has left something on its way to the log.
    pub(super) fn is_staged(&self) -> bool {
        self.staged.is_some() || stage::is_left(&self.stage_path())
    }

    /// Opens the log again if this run has said something there.
    fn reopen(&mut self, run: u64, rules: &Rules, moment: Moment) {
        let has_log = |place: Place| place.directory.join(names::CURRENT).exists();
        let may_have = match self.said {
            Some(said) => said == run,
            None => self.place(rules).is_some_and(has_log),
        };
        if may_have && self.trouble.is_none() {
            let _ = self.open(rules, moment);
        }
    }

    fn open(&mut self, rules: &Rules, moment: Moment) -> io::Result<()> {
        if self.sink.is_none() {
            let (Some(above), Some(place)) = (&rules.place, self.place(rules)) else {
                return Ok(());
            };
            if *above != place {
                above.check()?;
            }
            self.sink = Some(Sink::open(&place, moment.wall)?);
        }
        if !self.has_replayed {
            let path = self.stage_path();
            if path.exists() {
                let stage = Stage::open(&path)?;
                self.staged = stage.left()?;
                self.stage = Some(stage);
            }
            self.has_replayed = true;
            // And what was not done with rotated files.
            if rules.logging.after.is_some()
                && let Some(place) = self.place(rules)
            {
                self.has_rotated |= !rotated::todo(&place.directory).is_empty();
            }
        }
        Ok(())
    }

    /// Closes what is open; what comes next is written where the name leads then.
    pub(super) fn close(&mut self) {
        self.sink = None;
        if self.staged.is_none() {
            self.stage = None;
        }
    }

    /// Whether the open file is still the one with the name.
    pub(super) fn is_there(&self) -> bool {
        self.sink.as_ref().is_none_or(Sink::is_there)
    }

    /// Drains a pipe for a while.
    pub(super) fn drain(
        &mut self,
        pipe: &File,
        turn: Turn<'_>,
        shared: &mut Shared,
        report: &mut Report,
    ) -> Flow {
        let Turn { rules, moment, .. } = turn;
        if rules.place.is_none() {
            return discard(pipe, shared, &mut (0, 0));
        }
        if let Some(trouble) = &self.trouble
            && moment.now < trouble.again
        {
            return match rules.logging.full {
                LogFull::Block => Flow::Stuck(trouble.again),
                LogFull::DropOldest | LogFull::DropNew => self.drop_it(pipe, shared, report),
            };
        }
        match self.try_drain(pipe, turn, shared) {
            Ok(flow) => {
                self.said = self.sink.as_ref().map(Sink::run);
                let unrotated = self.sink.as_ref().and_then(Sink::unrotated);
                if let Some(why) = unrotated {
                    report.trouble = Some(why.to_owned());
                    self.is_unrotated = true;
                } else if self.trouble.take().is_some() | std::mem::take(&mut self.is_unrotated) {
                    report.trouble = None;
                }
                flow
            }
            Err(e) => self.fail(&e, pipe, turn, shared, report),
        }
    }

    fn try_drain(&mut self, pipe: &File, turn: Turn<'_>, shared: &mut Shared) -> io::Result<Flow> {
        let Turn { run, rules, moment } = turn;
        // Somebody may have truncated it.
        if self.sink.as_ref().is_some_and(|sink| !sink.is_whole()) {
            self.close();
        }
        self.open(rules, moment)?;
        let logging = &rules.logging;
        self.deliver_staged(logging, shared)?;
        if self.lost.0 + self.lost.1 > 0 {
            self.tell_lost(moment, run)?;
        }
        let unread = native::unread(pipe.as_fd());
        if unread >= BUSY {
            native::enlarge(pipe.as_fd(), LARGE);
        }
        // What is said meanwhile is for the next time: whoever speaks all the time would
        // have each word fetched by itself. The last words are fetched to the end.
        let budget = match native::MOVES && !shared.is_last {
            true => unread.min(BUDGET),
            false => BUDGET,
        };
        let is_plain = native::MOVES && logging.time == LogTime::None;
        let flow = match is_plain {
            true => self.pump(pipe, turn, shared, budget),
            false => self.pump_staged(pipe, turn, shared, budget),
        };
        match flow {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Flow::Empty),
            other => other,
        }
    }

    /// Says where lines are missing.
    fn tell_lost(&mut self, moment: Moment, run: u64) -> io::Result<()> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let (lines, bytes) = self.lost;
        let mut text = Vec::new();
        if !sink.is_fresh()? {
            text.push(b'\n');
        }
        text.extend_from_slice(
            format!("reraise: {lines} lines ({bytes} bytes) were dropped here\n").as_bytes(),
        );
        // In this order: it is said once, however often it has to be tried.
        let before = sink.end();
        sink.write(&text)?;
        self.lost = (0, 0);
        let mark = Mark::Lost(u32::try_from(lines).unwrap_or(u32::MAX));
        sink.mark_at(before, moment.wall, run, mark)
    }

    /// From pipe to file within the kernel.
    fn pump(
        &mut self,
        pipe: &File,
        turn: Turn<'_>,
        shared: &mut Shared,
        mut budget: usize,
    ) -> io::Result<Flow> {
        let Turn { run, rules: Rules { logging, .. }, moment } = turn;
        let Some(sink) = &mut self.sink else { return Ok(Flow::Empty) };
        let mut moved = 0;
        while goes_on(pipe, moved, &mut budget) {
            let mut most = STEP.min(budget.saturating_sub(moved).max(1));
            if sink.is_due(logging, moment.wall) {
                if !sink.is_fresh()? && !sink.is_overdue(logging) {
                    most = to_line_end(pipe, shared)?;
                    if most == 0 {
                        return Ok(Flow::Empty);
                    }
                } else if native::unread(pipe.as_fd()) == 0 {
                    return Ok(Flow::Empty);
                } else {
                    sink.rotate(logging, moment.wall)?;
                    self.has_rotated |= logging.after.is_some();
                    continue;
                }
            } else {
                // Longer than it should be it is where it cannot be rotated.
                let room = match logging.size.saturating_sub(sink.end()) {
                    0 => u64::MAX,
                    room => room,
                };
                most = usize::try_from(room).unwrap_or(STEP).min(most);
            }
            if sink.run() != run {
                if native::unread(pipe.as_fd()) == 0 {
                    return Ok(Flow::Empty);
                }
                sink.mark(moment.wall, run, Mark::Begin)?;
            }
            let before = sink.end();
            let got = sink.take(pipe, most)?;
            if got == 0 {
                return Ok(Flow::Empty);
            }
            sink.mark_output(before, moment.wall, run)?;
            moved += got;
        }
        Ok(if moved < BUDGET { Flow::Empty } else { Flow::More })
    }

    /// The last lines of a run that is over.
    pub(super) fn tail(&mut self, run: u64, rules: &Rules, moment: Moment) -> Vec<u8> {
        self.reopen(run, rules, moment);
        match &self.sink {
            Some(sink) if sink.run() == run => sink.tail(run).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Its end stands in the index from now on.
    pub(super) fn end_run(&mut self, run: u64, exit: Exit, moment: Moment) {
        if let Some(sink) = self.sink.as_mut().filter(|sink| sink.run() == run) {
            // A full disk is told of when something is written.
            let _ = sink.mark(moment.wall, run, Mark::End(exit));
        }
    }

    /// Rotates now, as somebody has asked; whether there was anything in it.
    pub(super) fn rotate(&mut self, rules: &Rules, moment: Moment) -> io::Result<bool> {
        self.open(rules, moment)?;
        let Some(sink) = self.sink.as_mut().filter(|sink| sink.end() > 0) else {
            return Ok(false);
        };
        let done = sink.try_rotate(&rules.logging, moment.wall);
        if done.is_err() {
            self.close();
        }
        self.has_rotated |= done.is_ok() && rules.logging.after.is_some();
        done.map(|()| true)
    }

    /// When what is there will be old enough to be rotated. Not of what is that already:
    /// where that could not be done, what is said next sees to it.
    pub(super) fn old(&self, rules: &Rules, moment: Moment) -> Option<Instant> {
        let left = self.sink.as_ref()?.left(&rules.logging, moment.wall)?;
        moment.now.checked_add(left).filter(|_| !left.is_zero())
    }

    /// Rotates what is old, as is done before the next line otherwise. What cannot be
    /// done is tried, and told of, when somebody speaks.
    pub(super) fn rotate_old(&mut self, rules: &Rules, moment: Moment) {
        let _ = self.open(rules, moment);
        let Some(sink) = self.sink.as_mut() else { return };
        if !sink.is_due(&rules.logging, moment.wall) || !sink.is_fresh().unwrap_or(false) {
            return;
        }
        if sink.rotate(&rules.logging, moment.wall).is_err() {
            // It may have come half-way.
            return self.close();
        }
        self.has_rotated |= rules.logging.after.is_some() && sink.unrotated().is_none();
    }

    /// Whether a log is open.
    pub(super) fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    /// Removes rotated files that are too many by new rules.
    pub(super) fn prune(&mut self, rules: &Rules, moment: Moment) {
        let _ = self.last_run(rules, moment);
        if let Some(sink) = &self.sink {
            let _ = sink.prune(&rules.logging);
        }
    }
}

/// Whether there is more to move: what is left of the budget, or large pieces that have
/// come meanwhile.
fn goes_on(pipe: &File, moved: usize, budget: &mut usize) -> bool {
    if moved >= *budget && moved < BUDGET && native::MOVES {
        let more = native::unread(pipe.as_fd());
        if more >= BUSY {
            *budget = moved + more;
        }
    }
    moved < (*budget).min(BUDGET)
}
