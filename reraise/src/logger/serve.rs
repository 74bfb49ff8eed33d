//! The logger's loop: one process for all services of a keeper. It is told of a
//! service by its [`bell`](super::bell), reads what it needs to know from the disk, and
//! forgets nothing when it is killed: what was not written yet is in the pipes.

mod gather;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::after::After;
use super::bell::{Bell, Rung};
use super::burst::Burst;
use super::pipes::{Held, Use};
use super::request;
use super::side::{Moment, Shared};
use super::stream::{self, Found, PIPES, Pipe, Stream};
use crate::backend::native::{self, EventQueue, QueueEvent};
use crate::error::{is_shortage, reason};
use crate::lock::{self, Holder, LockFile};
use crate::messages;
use crate::name::ServiceName;
use crate::revive;
use crate::slot;
use crate::zone;

const BELL: u64 = 0;
const KEEPER: u64 = 1;
/// The tokens of pipes begin here: four for each stream.
const FIRST: u64 = 4;

/// While output flows, it is gathered for so long: that spares a wake-up for each
/// line, and a write.
const GATHER: Duration = Duration::from_millis(1);
/// When nothing was said for so long, logs are closed and memory is given back.
const REST: Duration = Duration::from_secs(1);
/// A pipe that could not be opened for want of descriptors is tried again.
const SHORTAGE: Duration = Duration::from_millis(500);

/// Whom a logger is for.
#[derive(Debug, Clone)]
pub struct Orders {
    /// `.reraise-UID`.
    pub state: PathBuf,
}

/// The lock of the logger, beside the keeper's.
#[must_use]
pub fn lock_in(state: &Path) -> PathBuf {
    state.join("logger.lock")
}

struct Logger {
    state: PathBuf,
    queue: EventQueue,
    bell: Bell,
    streams: BTreeMap<u64, Box<Stream>>,
    numbers: BTreeMap<ServiceName, u64>,
    next: u64,
    /// The keeper's end is open.
    keeper: Option<UnixStream>,
    shared: Shared,
    after: After,
    /// Streams that are busy, and when they are looked at.
    gathering: BTreeSet<u64>,
    look_at: Option<Instant>,
    gathered: Instant,
    /// Streams that have something to do although nobody speaks, and when: few of many.
    due: BTreeMap<u64, Instant>,
    /// Something was read since the logs were closed last.
    active: Option<Instant>,
    /// Who has rung, and is looked at a little later.
    burst: Burst,
    /// Services that could not be listened to.
    unheard: Option<Instant>,
    /// That was said.
    has_complained: bool,
}

/// Serves until the keeper has gone and no service is left, or another logger wants
/// to take over.
///
/// # Errors
/// Only what makes further waiting useless.
pub fn run(orders: &Orders, keeper: UnixStream) -> io::Result<()> {
    let mut queue = EventQueue::new(&[Signal::SIGTERM, Signal::SIGCHLD])?;
    let lock = LockFile::open(&lock_in(&orders.state))?;
    keeper.set_nonblocking(true)?;
    let Some(held) = take_over(&mut queue, &lock, &orders.state)? else { return Ok(()) };
    queue.watch_readable(keeper.as_fd(), KEEPER)?;
    let bell = Bell::new(&orders.state)?;
    queue.watch_pipe(bell.pipe().as_fd(), BELL)?;
    let mut logger = Logger {
        state: orders.state.clone(),
        queue,
        bell,
        streams: BTreeMap::new(),
        numbers: BTreeMap::new(),
        next: 0,
        keeper: Some(keeper),
        shared: Shared::default(),
        after: After::default(),
        gathering: BTreeSet::new(),
        look_at: None,
        gathered: Instant::now(),
        due: BTreeMap::new(),
        active: None,
        burst: Burst::default(),
        unheard: None,
        has_complained: false,
    };
    logger.look_at_all();
    drop(held);
    logger.serve()
}

/// All pipes that anybody may be writing to. While a former logger goes and we have not
/// yet come to a service, its worker and it may end: what it has said last is still there.
fn hold_all(state: &Path) -> Vec<Held> {
    let services = fs::read_dir(state.join("s")).into_iter().flatten().flatten();
    let held = services.filter_map(|entry| {
        let own = entry.path();
        let used = Use::from_byte(slot::read(&own.join("run"))?.pipes);
        used.is_kept.then(|| Held::adopt(&own, used))
    });
    held.collect()
}

/// Takes the lock, from a former logger if there is one: it ends as soon as it has
/// written what it has in hand. Whoever has told it to go takes its place, also when the
/// keeper has died meanwhile: nobody else would read until another one is there. What is
/// held until then; `None`: we were told to go ourselves.
fn take_over(
    queue: &mut EventQueue,
    lock: &LockFile,
    state: &Path,
) -> io::Result<Option<Vec<Held>>> {
    let mut held = Vec::new();
    while !lock.try_take(lock::ALIVE)? {
        let Holder::Pid(pid) = lock.holder(lock::ALIVE)? else { continue };
        let Some(born) = native::born(pid)? else { continue };
        // Asked once more: it may have been another's pid by now.
        if lock.holder(lock::ALIVE)? != Holder::Pid(pid) || !queue.watch_process(pid, born)? {
            continue;
        }
        held = hold_all(state);
        native::send(pid, born, Signal::SIGTERM)?;
        let _ = revive::process(pid);
        loop {
            match queue.next(None)? {
                Some(QueueEvent::Ended { .. }) => break,
                Some(QueueEvent::Signal(Signal::SIGTERM)) => return Ok(None),
                _ => {}
            }
        }
    }
    Ok(Some(held))
}

impl Logger {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            if self.keeper.is_none() && (self.is_idle() || !self.state.exists()) {
                return Ok(());
            }
            let now = Instant::now();
            if self.look_at.is_some_and(|at| at <= now) {
                self.read_gathered();
                continue;
            }
            let due = self.deadline();
            if due.is_some_and(|due| due <= now) {
                // Not last: somebody may be speaking all the time.
                self.on_deadline();
                continue;
            }
            let left = due.map(|due| due.saturating_duration_since(now));
            if left.is_none_or(|left| left > REST) {
                // Nobody speaks: of the code that is mapped here, too, nothing is needed.
                zone::rest(true);
            }
            match self.queue.next(left)? {
                Some(QueueEvent::Readable(BELL)) => self.on_bell(),
                Some(QueueEvent::Readable(KEEPER)) => self.on_keeper(),
                Some(QueueEvent::Readable(token)) => self.on_output(token),
                Some(QueueEvent::Signal(Signal::SIGTERM)) => return Ok(()),
                Some(QueueEvent::Signal(_)) => self.after.go_on(),
                Some(QueueEvent::Ended { .. }) => {}
                None => self.on_deadline(),
            }
        }
    }

    fn is_idle(&self) -> bool {
        let all_are_heard = self.burst.is_over() && self.unheard.is_none();
        self.streams.is_empty() && self.after.is_idle() && all_are_heard
    }

    fn deadline(&self) -> Option<Instant> {
        let rest = self.active.map(|active| active + REST);
        let others = [rest, self.burst.end(), self.unheard, self.look_at];
        self.due.values().copied().chain(others.into_iter().flatten()).min()
    }

    /// The keeper has gone. What still has a service goes on, until another keeper
    /// has another logger.
    fn on_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            self.queue.forget_readable(keeper.as_fd());
        }
        self.on_bell();
        self.look_at_all();
    }

    fn on_bell(&mut self) {
        match self.bell.answer() {
            Rung::All => self.look_at_all(),
            Rung::Names(names) => {
                // Those that are known first: their words are read all the time.
                let (known, new): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|name| self.numbers.contains_key(name));
                let now = self.burst.hear(new, Instant::now());
                known.iter().chain(&now).for_each(|name| self.look_at(name));
            }
        }
    }

    fn look_at_all(&mut self) {
        let entries = match fs::read_dir(self.state.join("s")) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return self.look_again("logger", &e),
        };
        // First, so that its descriptor is free again.
        let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        self.burst = Burst::default();
        for name in names {
            if let Ok(name) = ServiceName::new(&name) {
                self.look_at(&name);
            }
        }
    }

    fn look_at(&mut self, name: &ServiceName) {
        let own = self.state.join("s").join(name.as_str());
        let found = match stream::look(&own) {
            Ok(found) => found,
            Err(e) => return self.look_again(name.as_str(), &e),
        };
        let mut left = None;
        let has_begun = |number: &u64| self.streams.get(number).is_some_and(|s| s.has_begun());
        let number = match (self.numbers.get(name).copied().filter(has_begun), found) {
            (Some(number), _) => number,
            (None, Found::Between | Found::Over) => {
                left = match stream::left(&own, name) {
                    Ok(left) => left,
                    Err(e) => return self.look_again(name.as_str(), &e),
                };
                if left.is_none() {
                    if let Some(&number) = self.numbers.get(name) {
                        self.drop_stream(number);
                    }
                    if request::is_there(&own) {
                        request::answer(&own, &Ok(false));
                    }
                    return;
                }
                self.add(name, own)
            }
            (None, Found::Open(..)) => self.add(name, own),
        };
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let moment = Moment::now();
        // What has ended before we heard of it is heard of once more.
        let learn = |stream: &mut Stream| match left {
            Some((run, used)) => {
                stream.learn(Found::Open(run, used), moment)?;
                stream.learn(stream::look(stream.own())?, moment)
            }
            None => stream.learn(found, moment),
        };
        let learnt = match learn(stream) {
            Err(e) if is_shortage(&e) => {
                // Logs can be opened again.
                self.streams.values_mut().for_each(|stream| stream.close());
                self.streams.get_mut(&number).map_or(Err(e), |stream| learn(stream))
            }
            learnt => learnt,
        };
        match learnt {
            Ok(()) => {}
            // Its pipes stay open: nobody else may hold them by the time we look again.
            Err(e) if is_shortage(&e) => return self.look_again(name.as_str(), &e),
            Err(e) => return self.cannot_hear(name, number, &e),
        }
        let Some(stream) = self.streams.get_mut(&number) else { return };
        for pipe in stream.opened() {
            // What is stuck is listened to when it goes on.
            let Some(file) = stream.pipe(pipe).filter(|_| stream.stuck.is_none()) else { continue };
            if let Err(e) = self.queue.watch_pipe(file.as_fd(), token_of(number, pipe)) {
                return self.cannot_hear(name, number, &e);
            }
        }
        self.work(number);
        self.rotate_on_request(number);
    }

    fn add(&mut self, name: &ServiceName, own: PathBuf) -> u64 {
        // There was a shortage when we first heard of it.
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.next;
        self.next += 1;
        self.streams.insert(number, Box::new(Stream::new(name.clone(), own)));
        self.numbers.insert(name.clone(), number);
        number
    }

    /// It is tried again in a moment; until then it is heard by nobody.
    fn cannot_hear(&mut self, name: &ServiceName, number: u64, error: &io::Error) {
        self.drop_stream(number);
        self.look_again(name.as_str(), error);
    }

    /// All services are looked at again in a moment.
    fn look_again(&mut self, about: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.has_complained, true) {
            messages::say(about, &format!("its output cannot be read: {}", reason(error)));
        }
        self.streams.values_mut().for_each(|stream| stream.close());
        self.unheard = Some(Instant::now() + SHORTAGE);
    }

    fn drop_stream(&mut self, number: u64) {
        let Some(stream) = self.streams.remove(&number) else { return };
        for pipe in PIPES {
            if let Some(file) = stream.pipe(pipe) {
                self.queue.forget_readable(file.as_fd());
            }
        }
        self.due.remove(&number);
        self.numbers.remove(stream.name());
    }

    fn on_output(&mut self, token: u64) {
        let (number, pipe) = of_token(token);
        let Some(stream) = self.streams.get(&number) else { return };
        // It has spoken just before: more is to come.
        if let Some(worked) = stream.worked {
            let gathered = worked + GATHER;
            let now = Instant::now();
            if now < gathered && native::MOVES {
                return self.begin_gathering(number, gathered);
            }
            if now < gathered {
                std::thread::sleep(gathered - now);
            }
        }
        // The bell has rung before the first word of a run.
        if stream.is_news(pipe) {
            self.on_bell();
        }
        self.work(number);
    }

    fn work(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let moment = Moment::now();
        let was_stuck = stream.stuck.is_some();
        let has_more = stream.work(&mut self.shared, moment);
        if has_more {
            // Others have their turn, and there is nothing to wait for.
            stream.worked = None;
        }
        let is_stuck = stream.stuck.is_some();
        if is_stuck != was_stuck {
            // What cannot be written must not wake us all the time.
            for pipe in PIPES {
                let Some(file) = stream.pipe(pipe) else { continue };
                if is_stuck {
                    self.queue.forget_readable(file.as_fd());
                } else {
                    let _ = self.queue.watch_pipe(file.as_fd(), token_of(number, pipe));
                }
            }
        }
        self.active = Some(moment.now);
        match stream.deadline() {
            Some(due) => drop(self.due.insert(number, due)),
            None => drop(self.due.remove(&number)),
        }
        let tasks = stream.after();
        let is_done = stream.is_done() && !has_more;
        tasks.into_iter().for_each(|task| self.after.add(task));
        if is_done {
            self.drop_stream(number);
        }
        if std::mem::take(&mut self.shared.is_short) {
            self.streams.values_mut().for_each(|stream| stream.close());
        }
    }

    fn on_deadline(&mut self) {
        let now = Instant::now();
        if self.burst.end().is_some_and(|end| end <= now) {
            self.burst.take().iter().for_each(|name| self.look_at(name));
        }
        let due = self.due.iter().filter(|(_, due)| **due <= now).map(|(number, _)| *number);
        due.collect::<Vec<u64>>().into_iter().for_each(|number| self.work(number));
        if self.unheard.is_some_and(|again| again <= now) {
            self.unheard = None;
            self.look_at_all();
            self.has_complained = self.unheard.is_some();
        }
        if self.active.is_some_and(|active| active + REST <= now) {
            self.active = None;
            self.streams.values_mut().for_each(|stream| stream.close());
            self.shared.rest();
        }
    }

    /// Somebody has asked for a rotation.
    fn rotate_on_request(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let own = stream.own().to_owned();
        if !request::is_there(&own) {
            return;
        }
        let rotated = stream.rotate(Moment::now());
        request::answer(&own, &rotated);
        let tasks = stream.after();
        tasks.into_iter().for_each(|task| self.after.add(task));
        self.active = Some(Instant::now());
    }
}

fn token_of(number: u64, (which, turn): Pipe) -> u64 {
    FIRST + number * 4 + which as u64 * 2 + u64::from(turn)
}

fn of_token(token: u64) -> (u64, Pipe) {
    let at = token - FIRST;
    (at / 4, PIPES[(at % 4) as usize])
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::logger::pipes::{self, Side};
    use crate::slot::{Phase, Slot, SlotFile};

    #[test]
    fn what_is_held_is_not_lost_with_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        for (name, is_kept) in [("web", true), ("mute", false)] {
            let own = dir.path().join("s").join(name);
            fs::create_dir_all(&own).unwrap();
            let pipes = Use { is_kept, ..Use::default() }.to_byte();
            let slot = Slot { phase: Phase::Up, run: 7, pipes, ..Slot::default() };
            SlotFile::open(&own.join("run")).unwrap().write(&slot).unwrap();
            let pipe = pipes::path(&own, Side::Out, false);
            pipes::make(&pipe).unwrap().write_all(b"lost").unwrap();
            let mut writer = pipes::open(&pipe).unwrap();
            writer.write_all(b"last words").unwrap();
            let held = hold_all(dir.path());
            drop(writer);
            let mut said = [0; 20];
            let read = pipes::open(&pipe).unwrap().read(&mut said);
            assert_eq!(read.is_ok_and(|n| said[..n] == *b"last words"), is_kept, "{name}");
            drop(held);
        }
        assert_eq!(hold_all(&dir.path().join("nowhere")).len(), 0);
    }

    #[test]
    fn tokens_tell_pipes() {
        for number in [0, 1, 77] {
            for pipe in PIPES {
                assert_eq!(of_token(token_of(number, pipe)), (number, pipe));
            }
        }
    }
}
