//! The output of one service: its pipes, its logs, and which run is speaking.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::after::Task;
use super::pipes::{self, Side as Which, Use};
use super::report::Report;
use super::rules::{Rules, Script};
use super::side::{Flow, Moment, Shared, Side, Turn};
use crate::backend::{Exit, native};
use crate::error::is_shortage;
use crate::history::{deaths, tails};
use crate::messages;
use crate::name::ServiceName;
use crate::slot::{self, Phase, Slot, SlotFile};

/// How often script and log are looked at while output flows.
const LOOK: Duration = Duration::from_secs(1);
/// How often the report is written at most.
const REPORT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    name: ServiceName,
    own: PathBuf,
    script: Script,
    rules: Option<Rules>,
    looked: Option<Instant>,
    /// The run that speaks, and its pipes; 0: none.
    run: u64,
    used: Use,
    /// The one before, whose end is noted; 0: none that we know of.
    ended: u64,
    /// The run that follows when all of this one is read; 0: none.
    next: Option<(u64, Use)>,
    /// The one after that, where we have heard late of both.
    then: Option<(u64, Use)>,
    /// All of the run that speaks is read: what its pipe holds by now is of a later one.
    is_read: bool,
    /// No run follows, for now or for ever.
    is_between: bool,
    /// None ever.
    is_over: bool,
    sides: [Side; 2],
    pipes: [[Option<File>; 2]; 2],
    /// Those that nobody listens to yet.
    opened: Vec<Pipe>,
    report: Report,
    reported: (Report, Option<Instant>),
    /// When something was read last.
    pub(super) worked: Option<Instant>,
    /// Nothing can be written before this time.
    pub(super) stuck: Option<Instant>,
    /// When a log is old enough to be rotated, also where nobody speaks.
    old: Option<Instant>,
}

/// A pipe of a stream.
pub(super) type Pipe = (Which, bool);

/// All of them.
pub(super) const PIPES: [Pipe; 4] =
    [(Which::Out, false), (Which::Out, true), (Which::Err, false), (Which::Err, true)];

/// What a look at the slot has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A run whose output is kept, or one is due.
    Open(u64, Use),
    /// No run now; another one is due.
    Between,
    /// Neither.
    Over,
}

/// What the slot of a service says about its output.
///
/// # Errors
/// When it cannot be read just now, which says nothing about the service.
pub(super) fn look(own: &Path) -> io::Result<Found> {
    match SlotFile::open_to_read(&own.join("run")) {
        Ok(file) => Ok(file.read().map_or(Found::Over, |slot| found(&slot))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Found::Over)
        }
        Err(e) => Err(e),
    }
}

/// The last run of a service that has none now, if its output was kept.
fn last_run(own: &Path) -> Option<(u64, Use)> {
    let slot = slot::read(&own.join("run"))?;
    let used = Use::from_byte(slot.pipes);
    (slot.run != 0 && used.is_kept).then_some((slot.run, used))
}

/// The same, if it has ended before we heard of it and has left us something to do:
/// its last words, say, which its worker holds for a moment.
///
/// # Errors
/// When that cannot be told just now.
pub(super) fn left(own: &Path, name: &ServiceName) -> io::Result<Option<(u64, Use)>> {
    let Some((run, used)) = last_run(own) else { return Ok(None) };
    for (which, turn) in PIPES {
        match pipes::open(&pipes::path(own, which, turn)) {
            Ok(pipe) if native::unread(pipe.as_fd()) > 0 => return Ok(Some((run, used))),
            Err(e) if is_shortage(&e) => return Err(e),
            Ok(_) | Err(_) => {}
        }
    }
    let mut sides = [Side::new(own, Which::Out), Side::new(own, Which::Err)];
    if sides.iter().any(Side::is_staged) {
        return Ok(Some((run, used)));
    }
    // That its script is gone, or makes no sense, is no matter any more.
    let Some(Ok(rules)) = Script::default().read(own, name)? else { return Ok(None) };
    for side in &mut sides {
        if side.last_run(&rules, Moment::now())? == run {
            return Ok(Some((run, used)));
        }
    }
    Ok(None)
}

fn found(slot: &Slot) -> Found {
    let used = Use::from_byte(slot.pipes);
    match slot.phase {
        Phase::Launching | Phase::Up | Phase::Stopping | Phase::Restarting | Phase::Clearing
            if slot.run != 0 && used.is_kept =>
        {
            Found::Open(slot.run, used)
        }
        Phase::Launching
        | Phase::Up
        | Phase::Stopping
        | Phase::Restarting
        | Phase::Clearing
        | Phase::Delay => Found::Between,
        Phase::Idle | Phase::Over | Phase::Stopped => Found::Over,
    }
}

impl Stream {
    pub(super) fn new(name: ServiceName, own: PathBuf) -> Self {
        let sides = [Side::new(&own, Which::Out), Side::new(&own, Which::Err)];
        let report = Report::read(&own);
        Self {
            name,
            own,
            script: Script::default(),
            rules: None,
            looked: None,
            run: 0,
            used: Use::default(),
            ended: 0,
            next: None,
            then: None,
            is_read: false,
            is_between: false,
            is_over: false,
            sides,
            pipes: [const { [const { None }; 2] }; 2],
            opened: Vec::new(),
            reported: (report.clone(), None),
            report,
            worked: None,
            stuck: None,
            old: None,
        }
    }

    /// Its service.
    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The directory of the service.
    pub(super) fn own(&self) -> &Path {
        &self.own
    }

    /// Whether it knows of a run, or has.
    pub(super) fn has_begun(&self) -> bool {
        self.used != Use::default()
    }

    /// Whether this pipe is for a run that we may not know of yet.
    pub(super) fn is_news(&self, pipe: Pipe) -> bool {
        self.next.is_none() && pipe.1 != self.used.turn
    }

    /// The pipe, if it is open.
    pub(super) fn pipe(&self, (which, turn): Pipe) -> Option<&File> {
        self.pipes[which as usize][usize::from(turn)].as_ref()
    }

    /// The pipes that were opened since they were last asked for: they are to be listened
    /// to from now on.
    pub(super) fn opened(&mut self) -> Vec<Pipe> {
        std::mem::take(&mut self.opened)
    }

    /// Takes note of what the slot says.
    ///
    /// # Errors
    /// Where that is a shortage, nothing is lost: it can be learnt later.
    pub(super) fn learn(&mut self, found: Found, moment: Moment) -> io::Result<()> {
        self.is_over = found == Found::Over;
        self.is_between = !matches!(found, Found::Open(..));
        // Also of a run that has begun and ended since.
        self.open(match found {
            Found::Open(_, used) => used,
            Found::Between | Found::Over => last_run(&self.own).map_or(self.used, |last| last.1),
        })?;
        match found {
            Found::Open(run, used) if !self.has_begun() => {
                self.begin(run, used, moment)?;
            }
            Found::Open(run, used) if run != self.run => self.follow(run, used),
            Found::Between | Found::Over if self.run != 0 && self.next.is_none() => {
                self.next = Some((0, self.used));
            }
            Found::Open(..) | Found::Between | Found::Over => {}
        }
        Ok(())
    }

    /// Opens the pipes of both turns that are there and were not open.
    fn open(&mut self, used: Use) -> io::Result<()> {
        for pipe @ (which, turn) in PIPES {
            let is_wanted = which == Which::Out || used.is_split;
            let place = &mut self.pipes[which as usize][usize::from(turn)];
            if !is_wanted || place.is_some() {
                continue;
            }
            match pipes::open(&pipes::path(&self.own, which, turn)) {
                Ok(file) => {
                    *place = Some(file);
                    self.opened.push(pipe);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // We hear of it once more when its run has begun.
                Err(e) if is_shortage(&e) && turn != used.turn => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Heard of for the first time. The run that the log ends with may be another one,
    /// whose end nobody has noted; what is in the other pipes was said before, by that.
    fn begin(&mut self, run: u64, used: Use, moment: Moment) -> io::Result<()> {
        let rules = self.rules(moment)?;
        let [out, err] = &mut self.sides;
        let before = match out.last_run(&rules, moment)? {
            0 if used.is_split => err.last_run(&rules, moment)?,
            before => before,
        };
        (self.run, self.used) = (run, used);
        let has_unread = self.has_unread(!used.turn);
        // Unless one that has begun since has said it: the slot names that by now.
        if has_unread
            && let Some((newer, its)) = self.named()
            && newer != run
        {
            return self.begin(newer, its, moment);
        }
        let before = match before {
            0 if has_unread => self.between(run).unwrap_or(0),
            before => before,
        };
        if before != run && (has_unread || before != 0) {
            (self.run, self.used) = (before, Use { turn: !used.turn, ..used });
            self.next = Some((run, used));
        }
        Ok(())
    }

    /// The run that the slot names now, whether it lives or not.
    fn named(&mut self) -> Option<(u64, Use)> {
        match look(&self.own) {
            Ok(Found::Open(run, used)) => {
                self.is_between = false;
                Some((run, used))
            }
            Ok(_) => last_run(&self.own),
            Err(_) => None,
        }
    }

    /// Reads the rules anew if that may be needed, and sees that the logs are there.
    fn refresh(&mut self, moment: Moment) -> io::Result<()> {
        if self.rules.is_some()
            && self.looked.is_some_and(|looked| moment.now.duration_since(looked) < LOOK)
        {
            return Ok(());
        }
        let read = self.script.read(&self.own, &self.name)?;
        self.looked = Some(moment.now);
        match read {
            Some(Ok(rules)) => {
                let before = self.rules.replace(rules.clone());
                if before.as_ref().is_some_and(|before| before.place != rules.place) {
                    self.close();
                }
                let bounds = |rules: &Rules| (rules.logging.keep, rules.logging.total);
                if before.is_some_and(|before| bounds(&before) != bounds(&rules)) {
                    self.sides.iter_mut().for_each(|side| side.prune(&rules, moment));
                }
            }
            Some(Err(why)) => {
                messages::say(self.name.as_str(), &format!("its log is kept as before: {why}"));
                if self.rules.is_none() {
                    self.rules = Some(Script::fallback(&self.own, &self.name));
                }
            }
            None => {}
        }
        for side in &mut self.sides {
            if !side.is_there() {
                side.close();
            }
        }
        Ok(())
    }

    /// The rules, read if need be.
    fn rules(&mut self, moment: Moment) -> io::Result<Rules> {
        self.refresh(moment)?;
        let fallback = || Script::fallback(&self.own, &self.name);
        Ok(self.rules.clone().unwrap_or_else(fallback))
    }

    /// Reads what is there, for a while; whether there is more.
    pub(super) fn work(&mut self, shared: &mut Shared, moment: Moment) -> bool {
        // That it cannot be read just now changes nothing.
        let _ = self.refresh(moment);
        // There are none before we have learnt of it.
        let Some(rules) = self.rules.take() else { return false };
        self.stuck = None;
        self.worked = Some(moment.now);
        if self.old.take_if(|old| *old <= moment.now).is_some() {
            let sides = 1 + usize::from(self.used.is_split);
            self.sides[..sides].iter_mut().for_each(|side| side.rotate_old(&rules, moment));
        }
        let has_more = self.work_by(&rules, shared, moment);
        if rules.logging.age.is_none() {
            self.old = None;
        } else if self.sides.iter().any(Side::is_open) {
            self.old = self.sides.iter().filter_map(|side| side.old(&rules, moment)).min();
        }
        self.rules = Some(rules);
        self.tell(moment);
        has_more
    }

    /// Whether the slot names another run than the one that we know of. It does before
    /// that says its first word.
    fn hears_of_next(&mut self) -> bool {
        // One that has ended may have begun since we last looked.
        let named = match self.run {
            0 => self.named().filter(|(run, _)| *run != self.ended),
            _ => last_run(&self.own),
        };
        match named {
            Some((run, used)) if run != self.run => {
                self.follow(run, used);
                true
            }
            _ => false,
        }
    }

    /// Another run is there. Where it has the pipe of the one that we know of, all of
    /// that one was read when it began (see [`pipes::Held::next`]); what stands in the
    /// other pipe was said by a run between the two, which is the last one that has died.
    fn follow(&mut self, run: u64, used: Use) {
        match self.next {
            Some((next, _)) if next == run => {}
            Some((1.., _)) => self.then = Some((run, used)),
            Some((0, _)) | None => {
                let is_same = used.turn == self.used.turn && native::MOVES;
                match self.between(run).filter(|_| is_same && self.has_unread(!used.turn)) {
                    Some(dead) => {
                        self.is_read = true;
                        self.next = Some((dead, Use { turn: !used.turn, ..used }));
                        self.then = Some((run, used));
                    }
                    None => {
                        // Nobody has said what stands there but who comes now.
                        self.is_read = self.run == 0;
                        self.next = Some((run, used));
                    }
                }
            }
        }
    }

    /// The run that has died last before this one, and is none that we know of.
    fn between(&self, run: u64) -> Option<u64> {
        let deaths = deaths::read_all(&self.own.join("deaths"));
        let is_known = |other: &u64| [self.run, self.ended].contains(other);
        let dead = deaths.iter().rev().map(|death| death.run);
        dead.take_while(|other| !is_known(other)).find(|other| *other != run)
    }

    /// Bytes that stand in its pipes.
    pub(super) fn unread(&self) -> usize {
        self.pipes.iter().flatten().flatten().map(|file| native::unread(file.as_fd())).sum()
    }

    fn has_unread(&self, turn: bool) -> bool {
        [Which::Out, Which::Err].into_iter().any(|which| {
            self.pipe((which, turn)).is_some_and(|pipe| native::unread(pipe.as_fd()) > 0)
        })
    }

    fn work_by(&mut self, rules: &Rules, shared: &mut Shared, moment: Moment) -> bool {
        'again: loop {
            let turns = match self.next {
                _ if std::mem::take(&mut self.is_read) => Vec::new(),
                // What the next run says waits until all of this one is read.
                Some((_, next)) if next.turn != self.used.turn => vec![self.used.turn],
                Some((1.., _)) => vec![!self.used.turn, self.used.turn],
                Some((0, _)) | None => vec![self.used.turn, !self.used.turn],
            };
            shared.is_last = self.next.is_some();
            let is_alone = !matches!(self.next, Some((1.., _)));
            for turn in turns {
                // Of a run before this one, or after it.
                let is_others = turn != self.used.turn || self.run == 0;
                if is_alone && is_others && native::MOVES {
                    if !self.has_unread(turn) {
                        continue;
                    }
                    if self.hears_of_next() {
                        continue 'again;
                    }
                }
                for which in [Which::Out, Which::Err] {
                    let at = which as usize;
                    let Some(pipe) = &self.pipes[at][usize::from(turn)] else { continue };
                    let whose = Turn { run: self.run, rules, moment };
                    let report = &mut self.report;
                    match self.sides[at].drain(pipe, whose, shared, report) {
                        Flow::Empty => {}
                        Flow::More => return true,
                        Flow::Stuck(again) => {
                            self.stuck = Some(self.stuck.map_or(again, |stuck| stuck.min(again)));
                        }
                    }
                }
            }
            if self.stuck.is_some() {
                return false;
            }
            let Some((run, used)) = self.next.take() else { return false };
            self.next = self.then.take();
            self.end_run(rules, moment);
            (self.run, self.used) = (run, used);
            if run == 0 {
                return false;
            }
            if self.is_between && self.next.is_none() {
                // It is over as well by now.
                self.next = Some((0, used));
            }
        }
    }

    fn end_run(&mut self, rules: &Rules, moment: Moment) {
        if self.run == 0 {
            return;
        }
        self.ended = self.run;
        let exit = exit_of(&self.own, self.run);
        let sides = 1 + usize::from(self.used.is_split);
        let sides = &mut self.sides[..sides];
        let mut last = Vec::new();
        for side in sides.iter_mut() {
            let said = side.tail(self.run, rules, moment);
            if !said.is_empty() {
                last = said;
            }
        }
        if !last.is_empty()
            && let Err(e) = tails::keep(&self.own.join("tails"), self.run, &last)
        {
            messages::say(self.name.as_str(), &format!("cannot keep its last lines: {e}"));
        }
        // Last: whoever finds it noted looks no further.
        for side in sides {
            side.end_run(self.run, exit, moment);
        }
    }

    /// Whether nothing is to come, and all was read.
    pub(super) fn is_done(&self) -> bool {
        self.is_over && self.next.is_none() && self.run == 0 && self.stuck.is_none()
    }

    /// Leaves a report for whoever asks, if there is something new in it.
    fn tell(&mut self, moment: Moment) {
        let (before, when) = &self.reported;
        if self.report == *before {
            return;
        }
        // Of what is over, this may be the last time.
        let is_early =
            !self.is_over && when.is_some_and(|when| moment.now.duration_since(when) < REPORT);
        let is_urgent = self.report.trouble != before.trouble;
        if is_early && !is_urgent {
            return;
        }
        if is_urgent {
            match &self.report.trouble {
                Some(trouble) => {
                    messages::say(self.name.as_str(), &format!("cannot write its log {trouble}"));
                }
                None => messages::say(self.name.as_str(), "its log can be written again"),
            }
        }
        let _ = self.report.write(&self.own);
        self.reported = (self.report.clone(), Some(moment.now));
    }

    /// When [`Self::work`] is due although nobody speaks.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let report = match &self.reported {
            (before, Some(when)) if *before != self.report => Some(*when + REPORT),
            _ => None,
        };
        [self.stuck, report, self.old].into_iter().flatten().min()
    }

    /// Closes the logs, since nobody has spoken for a while.
    pub(super) fn close(&mut self) {
        self.sides.iter_mut().for_each(Side::close);
    }

    /// Rotates its logs; whether there was anything in them.
    pub(super) fn rotate(&mut self, moment: Moment) -> io::Result<bool> {
        let rules = self.rules(moment)?;
        let mut has_rotated = self.sides[0].rotate(&rules, moment)?;
        if self.used.is_split {
            has_rotated |= self.sides[1].rotate(&rules, moment)?;
        }
        Ok(has_rotated)
    }

    /// The commands that are to be run for rotated files.
    pub(super) fn after(&mut self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let Some(rules) = &self.rules else { return tasks };
        for side in &mut self.sides {
            if std::mem::take(&mut side.has_rotated)
                && let (Some(place), Some(command)) = (side.place(rules), &rules.logging.after)
            {
                tasks.push(Task {
                    name: self.name.clone(),
                    own: self.own.clone(),
                    directory: place.directory,
                    command: command.clone(),
                    is_kept: rules.logging.keep > 0,
                });
            }
        }
        tasks
    }
}

/// How a run has ended, as its worker has written down.
fn exit_of(own: &Path, run: u64) -> Exit {
    // Another one may be written just now, beside which this one cannot be read.
    let found = (0..3).find_map(|_| deaths::find(&own.join("deaths"), run));
    found.map_or(Exit::Unknown, |death| death.exit)
}
