//! A place where a worker is put through its paces: one service, `web`, whose
//! program does what the test says, and a keeper's end of the connection. What
//! the worker does becomes a story, a line for each thing and its second.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::backend::fake::{Behaviour, Fake};
use crate::backend::{
    Elevation, Event, Exit, Launch, Owner, ProcessBackend, ProcessId, Signal, Tree,
};
use crate::context::Context;
use crate::control::{self, Frame, Got, Reader};
use crate::history::events;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::record::Record;
use crate::slot::{self, Slot};
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::launch::Under;
use crate::supervise::link::{KeeperCommand, Link, Request};
use crate::supervise::machine::Outcome;
use crate::supervise::news::News;
use crate::supervise::worker::Place;
use crate::wanted::Wanted;

/// How a worker came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It had nothing more to do.
    Over(Outcome),
    /// It had nothing to do at all, and said why.
    Declined,
    /// It would wait for ever.
    Quiet,
    /// The test has seen enough of it.
    TimeUp,
    /// It was killed in the middle of something.
    Killed,
    /// It could not go on, so that another one is to try.
    Failed,
}

/// What a killed worker unwinds with.
struct Kill;

type Hook = Box<dyn FnOnce(&UnixStream)>;

#[derive(Default)]
struct Shared {
    story: Vec<String>,
    /// What happens at each input, in their order.
    hooks: VecDeque<Hook>,
    peer: Option<UnixStream>,
    reader: Reader,
    record: Option<String>,
    signals_seen: usize,
    acks: usize,
}

pub(super) struct Bench {
    pub(super) fake: Fake,
    pub(super) files: Files,
    pub(super) dir: tempfile::TempDir,
    pub(super) place: Place,
    pub(super) under: Under,
    /// Whether the program has no children, so that no two processes may live.
    pub(super) is_single: bool,
    shared: Rc<RefCell<Shared>>,
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Bench {
    /// A service with these configuration lines that does this at each run.
    pub(super) fn new(config: &str, runs: impl IntoIterator<Item = Behaviour>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["d", "p", "l"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
        }
        let fake = Fake::new();
        let owner = nix::unistd::geteuid().as_raw();
        let files = Files::of(&dir.path().join("p"), owner, &name());
        let place = Place { boot: 1, space: 2 };
        let shared = Rc::default();
        let bench =
            Self { fake, files, dir, place, under: Under::Keeper, is_single: false, shared };
        bench.write_script(config);
        bench.fake.programs(bench.script().to_str().unwrap(), runs);
        bench
    }

    pub(super) fn script(&self) -> PathBuf {
        self.dir.path().join("d/web")
    }

    pub(super) fn write_script(&self, config: &str) {
        write_script(&self.script(), config);
    }

    pub(super) fn context(&self) -> Rc<[u8]> {
        let part = |name| self.dir.path().join(name);
        let (limits, environment) = (Vec::new(), ["A=1"].into_iter().collect());
        let (dir, logdir, cwd) = (part("d"), part("l"), "/".into());
        Context { dir, logdir, cwd, umask: 0o022, limits, environment }.encode().into()
    }

    pub(super) fn start(&self) -> Task {
        Task::Start { client: "7".into(), context: self.context(), once: false }
    }

    pub(super) fn start_request(&self) -> Request {
        Request::Start { client: "8".into(), context: self.context(), once: false }
    }

    pub(super) fn start_once(&self) -> Task {
        Task::Start { client: "7".into(), context: self.context(), once: true }
    }

    pub(super) fn start_once_request(&self) -> Request {
        Request::Start { client: "8".into(), context: self.context(), once: true }
    }

    /// Something happens at that second.
    pub(super) fn at(&self, second: u64, hook: impl FnOnce() + 'static) {
        self.hook(second, Box::new(|_| hook()));
    }

    /// The keeper does this at that second.
    pub(super) fn at_peer(&self, second: u64, act: impl FnOnce(&UnixStream) + 'static) {
        self.hook(second, Box::new(act));
    }

    /// The keeper passes these on at that second, in one piece.
    pub(super) fn ask(&self, second: u64, requests: impl IntoIterator<Item = Request>) {
        let requests: Vec<_> = requests.into_iter().collect();
        let send = move |peer: &UnixStream| {
            for request in &requests {
                control::send(peer, &request.to_frame()).unwrap();
            }
        };
        self.hook(second, Box::new(send));
    }

    fn hook(&self, second: u64, hook: Hook) {
        self.shared.borrow_mut().hooks.push_back(hook);
        self.fake.input(secs(second));
    }

    /// A worker does this, until it has nothing to do.
    pub(super) fn run(&self, task: Task) -> End {
        self.work(task, None, None)
    }

    /// A worker does this, and is killed at that second.
    pub(super) fn run_until(&self, task: Task, second: u64) -> End {
        self.work(task, Some(secs(second)), None)
    }

    /// A worker does this, and is killed before it calls the system for the
    /// n-th time.
    pub(super) fn run_calls(&self, task: Task, calls: usize) -> End {
        self.work(task, None, Some(calls))
    }

    /// Another worker comes after one that was killed.
    pub(super) fn resume(&self) -> End {
        self.fake.crash();
        self.run(Task::Resume)
    }

    fn work(&self, task: Task, until: Option<Duration>, calls: Option<usize>) -> End {
        let (theirs, ours) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let (shared, files) = (Rc::clone(&self.shared), self.files.clone());
        shared.borrow_mut().peer = Some(ours);
        let fake = self.fake.clone();
        let left = Cell::new(calls);
        let backend = Watched {
            fake,
            shared: Rc::clone(&shared),
            files,
            until,
            left,
            is_single: self.is_single,
        };
        let mut last_look = backend.again();
        let piddir = self.dir.path().join("p");
        let state = self.dir.path().to_owned();
        let keeper = KeeperCommand { program: "/".into(), piddir: piddir.clone(), state, build: 1 };
        let (name, place, under) = (name(), self.place, self.under);
        let link = Link::new(theirs, &name, keeper);
        let given = Assignment { piddir, name, task, place, link, under };
        let ended = catch_unwind(AssertUnwindSafe(|| begin::supervise(backend, given)));
        last_look.observe();
        match ended {
            Ok(Ok(Some(outcome))) => End::Over(outcome),
            Ok(Ok(None)) => End::Declined,
            Ok(Err(e)) if e.to_string() == TIME_UP => End::TimeUp,
            Ok(Err(e)) if e.to_string() == "nothing will ever happen" => End::Quiet,
            Ok(Err(e)) => {
                shared.borrow_mut().story.push(format!("failed: {e}"));
                End::Failed
            }
            Err(thrown) if thrown.is::<Kill>() => End::Killed,
            Err(thrown) => resume_unwind(thrown),
        }
    }

    /// What has happened since the last time.
    pub(super) fn story(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.borrow_mut().story)
    }

    /// The events, without times and numbers that differ.
    pub(super) fn events(&self) -> Vec<String> {
        let state = self.files.own.parent().and_then(Path::parent).unwrap();
        let text = std::fs::read_to_string(state.join("events")).unwrap_or_default();
        let line = |line: &str| {
            let event = events::Event::parse(line).unwrap();
            assert_eq!(event.name, "web");
            let fields = event.fields.iter().filter(|(key, _)| key != "worker");
            fields.fold(event.kind.clone(), |line, (key, value)| format!("{line} {key}={value}"))
        };
        text.lines().map(line).collect()
    }

    /// How many requests the workers have acknowledged.
    pub(super) fn acks(&self) -> usize {
        self.shared.borrow().acks
    }

    pub(super) fn record(&self) -> Option<Record> {
        Record::read(&self.files.record, &[nix::unistd::geteuid().as_raw()]).unwrap()
    }

    pub(super) fn slot_file(&self) -> Option<Slot> {
        slot::read(&self.files.file("run"))
    }

    pub(super) fn slot(&self) -> Slot {
        slot::read(&self.files.file("run")).unwrap()
    }

    pub(super) fn wanted(&self) -> Option<Wanted> {
        Wanted::read(&self.files.own)
    }

    /// The main process of the last launch.
    pub(super) fn main(&self) -> ProcessId {
        self.fake.started().last().unwrap().process
    }

    /// Lets time pass while there is no worker.
    pub(super) fn wait(&self, second: u64) {
        let mut fake = self.fake.clone();
        while fake.now() < secs(second) {
            let _ = fake.next_event(Some(secs(second))).unwrap();
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.fake.now()
    }

    /// The seconds of all launches.
    pub(super) fn launches(&self) -> Vec<f64> {
        self.fake.started().iter().map(|s| s.at.as_secs_f64()).collect()
    }
}

fn name() -> ServiceName {
    ServiceName::new("web".as_ref()).unwrap()
}

pub(super) fn write_script(path: &Path, config: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{config}\nexec web\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

const TIME_UP: &str = "the time of the test is up";

/// The in-memory system, looked at before each event.
struct Watched {
    fake: Fake,
    shared: Rc<RefCell<Shared>>,
    files: Files,
    until: Option<Duration>,
    /// Calls until the kill.
    left: Cell<Option<usize>>,
    is_single: bool,
}

impl Watched {
    fn again(&self) -> Self {
        let (fake, shared) = (self.fake.clone(), Rc::clone(&self.shared));
        let files = self.files.clone();
        Self { fake, shared, files, until: None, left: Cell::new(None), is_single: self.is_single }
    }

    /// Here the worker may be killed.
    fn call(&self) {
        match self.left.get() {
            Some(0) => resume_unwind(Box::new(Kill)),
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }

    fn observe(&mut self) {
        let mut shared = self.shared.borrow_mut();
        let second = self.fake.now().as_secs();
        let say = |story: &mut Vec<String>, what: String| story.push(format!("{second} {what}"));
        let main = self.fake.started().last().map(|s| s.process);
        let sent = self.fake.sent();
        let new = &sent[shared.signals_seen..];
        for s in new.iter().filter(|s| s.signal != Signal::SIGCONT) {
            let whom = if Some(s.process) == main { "main" } else { "other" };
            let gone = if s.arrived { "" } else { ", gone" };
            let line = format!("{} {} to {whom}{gone}", s.at.as_secs(), &s.signal.as_str()[3..]);
            shared.story.push(line);
        }
        shared.signals_seen = sent.len();
        let record = std::fs::read_to_string(&self.files.record).ok();
        let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let shown = record.as_deref().map(words);
        if shown != shared.record {
            say(&mut shared.story, shown.clone().unwrap_or_else(|| "no record".to_owned()));
            shared.record = shown;
        }
        let Shared { story, peer, reader, acks, .. } = &mut *shared;
        let Some(stream) = peer else { return };
        let mut frames = Vec::new();
        loop {
            let before = frames.len();
            let got = reader.read(stream, |frame| frames.push(frame)).unwrap();
            if got == Got::End || frames.len() == before {
                break;
            }
        }
        for frame in frames {
            if frame == Frame::new(["ack"]) {
                *acks += 1;
            } else {
                say(story, told(&frame));
            }
        }
        if self.is_single {
            assert!(self.fake.living().len() <= 1, "two runs live: {story:#?}");
        }
    }
}

/// A piece of news without pids, which say nothing here.
fn told(frame: &Frame) -> String {
    let (verb, mut rest) = frame.split().unwrap();
    if verb == "to" {
        rest = rest.split().unwrap().1;
    }
    match News::from_frame(&rest).unwrap() {
        News::Launched(_) => "launched".to_owned(),
        News::Running(_) => "running".to_owned(),
        News::Already(_) => "already".to_owned(),
        News::Fault(fault) => format!("fault: {}", fault.what),
        News::Warning(fault) => format!("warning: {}", fault.what),
        News::Survivors(pids) => format!("{} survivors", pids.len()),
        News::Held(_) => "held".to_owned(),
        News::Ended(exit) => format!("ended: {exit}"),
        News::Essential(exit) => format!("essential: {exit}"),
        News::Over(outcome) => format!("over: {outcome:?}"),
    }
}

impl ProcessBackend for Watched {
    fn spawn(&mut self, launch: Launch) -> io::Result<ProcessId> {
        self.call();
        self.fake.spawn(launch)
    }

    fn release(&mut self, process: ProcessId) -> io::Result<()> {
        self.call();
        self.fake.release(process)
    }

    fn signal(&mut self, process: ProcessId, signal: Signal) -> io::Result<bool> {
        self.call();
        self.fake.signal(process, signal)
    }

    fn identify(&mut self, pid: i32) -> io::Result<Option<ProcessId>> {
        self.call();
        let is_us = pid == std::process::id().cast_signed();
        if is_us { Ok(Some(self.fake.us())) } else { self.fake.identify(pid) }
    }

    fn watch(&mut self, process: ProcessId) -> io::Result<bool> {
        self.call();
        self.fake.watch(process)
    }

    fn members(&mut self, tree: &Tree) -> io::Result<Vec<ProcessId>> {
        self.call();
        self.fake.members(tree)
    }

    fn keeps_orphans(&self) -> bool {
        self.fake.keeps_orphans()
    }

    fn listen(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.fake.listen(fd)
    }

    fn unlisten(&mut self, fd: BorrowedFd<'_>) {
        self.fake.unlisten(fd);
    }

    fn next_event(&mut self, deadline: Option<Duration>) -> io::Result<Event> {
        self.observe();
        self.call();
        let due = [deadline, self.until].into_iter().flatten().min();
        let event = self.fake.next_event(due)?;
        let now = self.fake.now();
        if event == Event::Deadline && deadline.is_none_or(|d| d > now) {
            return Err(io::Error::other(TIME_UP));
        }
        if event == Event::Input {
            let hook = self.shared.borrow_mut().hooks.pop_front();
            if let (Some(hook), Some(peer)) = (hook, &self.shared.borrow().peer) {
                hook(peer);
            }
        }
        Ok(event)
    }

    fn has_begun(&self, process: ProcessId, run: u64) -> bool {
        self.call();
        self.fake.has_begun(process, run)
    }

    fn end_of(&self, process: ProcessId) -> Exit {
        self.call();
        self.fake.end_of(process)
    }

    fn pause(&mut self, time: Duration) {
        self.call();
        self.fake.pause(time);
    }

    fn now(&self) -> Duration {
        self.call();
        self.fake.now()
    }

    fn owner(&self, path: &Path) -> io::Result<Owner> {
        self.fake.owner(path)
    }

    fn elevation(&self, owner: Owner, interactive: bool) -> Elevation {
        self.fake.elevation(owner, interactive)
    }
}
