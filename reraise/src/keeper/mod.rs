//! The keeper: one small process for each user and `$RERAISE_PIDDIR`. It forks
//! a worker for each service and replaces those that die; they replace it. It
//! ends when it has no worker and no client.
//!
//! It is not special. Everything that it knows is in its workers and on disk:
//! when it is killed, one of the workers starts another one (see
//! [`crate::supervise::link`]), which calls those that are there.

pub mod registry;
mod scan;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::backend::Exit;
use crate::backend::native::{self, EventQueue, QueueEvent};
use crate::control::{self, Frame, Got, Reader};
use crate::error::Fault;
use crate::lock::{self, LockFile};
use crate::messages;
use crate::name::ServiceName;
use crate::paths;
use crate::slot;
use crate::supervise::begin::Task;
use crate::supervise::link::{KeeperCommand, Request};
use crate::supervise::news::News;
use crate::supervise::worker::Place;
use crate::zone;
use registry::{Client, Effect, End, Registry};

/// What a keeper says on standard output once it can be connected to.
pub const READY: &str = "ready\n";

/// What a keeper's environment should say; C libraries other than glibc pass it over.
/// It is about memory that each worker would have to itself: the kernel would write
/// the processor's number into the thread's data (rseq(2), since glibc 2.35), and a
/// heap far from everything else would need page tables of its own. What the zones
/// do not take is rare, and each such block is mapped by itself then.
pub const TUNABLES: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.pthread.rseq=0:glibc.malloc.mmap_threshold=1");

/// How long nothing must have happened before the keeper takes its rest.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a peer that is behind is left alone, at first and at most.
const FIRST_NAP: Duration = Duration::from_millis(2);
const LAST_NAP: Duration = Duration::from_secs(1);
/// Bytes that are kept for a peer.
const OUTBOX_MAX: usize = 16 << 20;

/// How long a new keeper waits for its first caller.
const PATIENCE: Duration = Duration::from_secs(10);

/// The token of the listening socket; connections have higher ones.
const LISTENER: u64 = 0;

/// The other end of a connection.
enum Peer {
    /// Has not said who it is, or is the command line.
    Client,
    /// A worker of this service.
    Worker(ServiceName),
}

struct Connection {
    stream: UnixStream,
    reader: Reader,
    peer: Peer,
    /// The requests of the command line share one context.
    context: Rc<[u8]>,
    /// What it has not taken yet.
    outbox: Vec<u8>,
}

struct Keeper {
    command: KeeperCommand,
    place: Place,
    queue: EventQueue,
    listener: UnixListener,
    lock: LockFile,
    registry: Registry,
    connections: BTreeMap<u64, Connection>,
    next_token: u64,
    /// Workers that are our children, and the connection of each.
    workers: BTreeMap<i32, (ServiceName, u64)>,
    /// The connection of each service's worker.
    links: BTreeMap<ServiceName, u64>,
    /// Services whose run's launching worker has died: orphans of theirs come
    /// to us.
    adopted: BTreeMap<ServiceName, ()>,
    /// Workers that are to be forked, from a place where the stack is not deep,
    /// and what they are to be told first.
    forks: VecDeque<(ServiceName, Task, Vec<Request>)>,
    /// Orphans that have been assigned.
    strays: BTreeMap<i32, u64>,
    me: u32,
    /// Connections that are behind with reading, and when to try again: there
    /// is nothing to wait on that would say so, and it is rare and short.
    behind: BTreeSet<u64>,
    /// Nothing has happened for a moment.
    was_silent: bool,
    patience_with_peers: Duration,
    /// Until when a keeper that nobody has called yet waits for whoever
    /// started it.
    patience: Option<Duration>,
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Becomes the keeper, unless there is one; returns when it is not needed any
/// more. Says [`READY`] on standard output when it can be connected to.
///
/// # Errors
/// What the command line should say.
#[inline(never)]
pub fn run(program: PathBuf, piddir: PathBuf) -> Result<(), Fault> {
    let me = nix::unistd::geteuid().as_raw();
    // Whatever else our caller had open stays theirs alone.
    native::close_from(3);
    let shown = piddir.display().to_string();
    let state = paths::prepare_piddir(&piddir, me)?;
    let command = KeeperCommand { program, piddir, state };
    // std's own looks at the environment, which a worker does not have. No
    // captures: it must be there for the workers as well.
    std::panic::set_hook(Box::new(|info| messages::say("panic", &info.to_string())));
    let begun = Keeper::begin(command, me);
    let mut keeper = match begun {
        Ok(Some(keeper)) => keeper,
        Ok(None) => return Ok(()),
        Err(e) => {
            let fault = Fault::system(shown, "no keeper can work there", &e);
            // Standard error may be the messages by now, which nobody waits for.
            let _ = writeln!(io::stdout(), "auto-{fault}");
            return Err(fault);
        }
    };
    // The workers live on from here, on the few frames that there are: each page
    // of stack below this one is one that every service costs.
    while let Some((name, task, requests)) = keeper.serve() {
        let forked = zone::in_common(|| worker::fork(&keeper.command, &name, &task, keeper.place));
        keeper.has_forked(&name, requests, forked);
    }
    Ok(())
}

impl Keeper {
    /// `Ok(None)`: there is one already.
    #[inline(never)]
    fn begin(command: KeeperCommand, me: u32) -> io::Result<Option<Self>> {
        // What follows is of no use to a worker.
        zone::keep_own();
        let lock = LockFile::open(&command.state.join("keeper.lock"))?;
        lock.take(lock::CHANGING)?;
        if !lock.try_take(lock::ALIVE)? {
            return Ok(None);
        }
        settle(&command.state)?;
        let place = Place { boot: native::boot_id()?, space: native::pid_space()? };
        native::become_subreaper()?;
        native::note_ignored();
        let signals =
            [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1];
        let mut queue = EventQueue::new(&signals)?;
        let listener = listen(&command.state)?;
        queue.watch_readable(listener.as_fd(), LISTENER)?;
        let mut keeper = Self {
            command,
            place,
            queue,
            listener,
            lock,
            registry: Registry::default(),
            connections: BTreeMap::new(),
            next_token: LISTENER + 1,
            workers: BTreeMap::new(),
            links: BTreeMap::new(),
            adopted: BTreeMap::new(),
            forks: VecDeque::new(),
            strays: BTreeMap::new(),
            me,
            behind: BTreeSet::new(),
            was_silent: false,
            patience_with_peers: FIRST_NAP,
            patience: Some(now() + PATIENCE),
        };
        announce();
        keeper.take_over()?;
        keeper.lock.release(lock::CHANGING)?;
        Ok(Some(keeper))
    }

    /// Calls the workers that an earlier keeper left, and resumes the services
    /// that have lost theirs.
    fn take_over(&mut self) -> io::Result<()> {
        for (name, found) in scan::services(&self.command, self.me, self.place)? {
            match found {
                scan::Found::Worker(pid) => {
                    // It says hello when it hears the call, or is gone.
                    if let Some(born) = native::born(pid)?
                        && scan::is_still(&self.command, self.me, &name, pid)
                    {
                        native::send(pid, born, Signal::SIGUSR1)?;
                    }
                }
                scan::Found::Unwatched => {
                    self.adopted.insert(name.clone(), ());
                    let effects = self.registry.resume(name);
                    self.carry_out(effects);
                }
            }
        }
        Ok(())
    }

    /// Works until a worker must be forked. `None`: there is nothing more to do.
    #[inline(never)]
    fn serve(&mut self) -> Option<(ServiceName, Task, Vec<Request>)> {
        loop {
            if let Some(fork) = self.forks.pop_front() {
                return Some(fork);
            }
            let is_idle = self.registry.is_empty() && self.connections.is_empty();
            if self.patience.is_some_and(|until| until <= now()) || !is_idle {
                self.patience = None;
            }
            if is_idle && self.patience.is_none() && self.try_end() {
                return None;
            }
            let due = self.registry.deadline().into_iter().chain(self.patience).min();
            let left = due.map(|due| due.saturating_sub(now()));
            let nap = (!self.behind.is_empty()).then_some(self.patience_with_peers);
            let left = left.into_iter().chain(nap).min();
            // After a moment of silence: in the middle of work it would only
            // be needed again.
            let left = match left {
                None if !self.was_silent => Some(SILENCE),
                None => {
                    zone::rest(true);
                    None
                }
                some => some,
            };
            let heard = self.queue.next(left);
            self.was_silent = matches!(heard, Ok(None));
            match heard {
                Ok(Some(QueueEvent::Signal(signal))) => self.on_signal(signal),
                Ok(Some(QueueEvent::Readable(LISTENER))) => self.accept(),
                Ok(Some(QueueEvent::Readable(token))) => {
                    self.on_readable(token);
                }
                // Nothing else is watched.
                Ok(Some(QueueEvent::Ended { .. })) => {}
                Ok(None) => {
                    self.flush_all();
                    let effects = self.registry.tick(now());
                    self.carry_out(effects);
                }
                Err(e) => {
                    // The workers notice, and start a keeper that can wait.
                    messages::say("keeper", &format!("cannot wait for events: {e}"));
                    return None;
                }
            }
        }
    }

    /// Ends unless somebody is at the door.
    fn try_end(&mut self) -> bool {
        if !self.lock.try_take(lock::CHANGING).unwrap_or(false) {
            // A starting keeper finds us alive and goes; then we can.
            return false;
        }
        self.accept();
        if self.connections.is_empty() {
            // Whoever connects from now on is refused and starts a new keeper.
            let _ = fs::remove_file(self.command.state.join("keeper"));
            return true;
        }
        let _ = self.lock.release(lock::CHANGING);
        false
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCHLD => self.reap(),
            // The end of the session or of the machine: all services end in
            // order, and what is wanted stays as it was.
            Signal::SIGTERM | Signal::SIGINT => {
                let effects = self.registry.leave_all();
                self.carry_out(effects);
            }
            _ => {}
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(e) = self.connect(stream, Peer::Client) {
                        messages::say("keeper", &format!("cannot take a connection: {e}"));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    messages::say("keeper", &format!("cannot take a connection: {e}"));
                    return;
                }
            }
        }
    }

    fn connect(&mut self, stream: UnixStream, peer: Peer) -> io::Result<u64> {
        stream.set_nonblocking(true)?;
        let token = self.next_token;
        self.next_token += 1;
        self.queue.watch_readable(stream.as_fd(), token)?;
        let reader = Reader::default();
        self.connections.insert(
            token,
            Connection { stream, reader, peer, context: Rc::from([]), outbox: Vec::new() },
        );
        Ok(token)
    }

    /// Reads once; whether there may be more.
    fn on_readable(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        let mut frames = Vec::new();
        let got = connection.reader.read(&connection.stream, |frame| frames.push(frame));
        for frame in frames {
            self.on_frame(token, &frame);
        }
        if !matches!(got, Ok(Got::Open | Got::Quiet)) {
            self.close(token);
        }
        matches!(got, Ok(Got::Open))
    }

    fn on_frame(&mut self, token: u64, frame: &Frame) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if let Peer::Worker(name) = &connection.peer {
            let name = name.clone();
            let effects = self.registry.news(&name, frame);
            self.carry_out(effects);
            return;
        }
        let Some((verb, rest)) = frame.split() else { return };
        match verb {
            "context" => connection.context = rest.bytes().into(),
            "hello" => {
                if let Some(name) = rest.split().and_then(|(name, _)| valid(name)) {
                    connection.peer = Peer::Worker(name.clone());
                    self.links.insert(name.clone(), token);
                    self.adopted.insert(name.clone(), ());
                    self.registry.hello(name);
                }
            }
            verb => {
                let Some(name) = rest.split().and_then(|(name, _)| valid(name)) else { return };
                let request = match verb {
                    "start" => Request::Start {
                        client: token.to_string(),
                        context: connection.context.clone(),
                    },
                    "stop" => Request::Stop { now: false },
                    "stop-now" => Request::Stop { now: true },
                    "restart" => Request::Restart,
                    _ => return,
                };
                self.on_request(token, name, request);
            }
        }
    }

    fn on_request(&mut self, client: Client, name: ServiceName, request: Request) {
        if !matches!(request, Request::Start { .. }) && self.adopted.contains_key(&name) {
            // What has come to us since is to be ended with it.
            self.assign_orphans(None);
        }
        let effects = self.registry.request(client, name, request);
        self.carry_out(effects);
    }

    fn close(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(&token) else { return };
        self.queue.forget_readable(connection.stream.as_fd());
        match connection.peer {
            Peer::Client => self.registry.client_gone(token),
            Peer::Worker(name) => {
                if self.links.get(&name) == Some(&token) {
                    self.links.remove(&name);
                }
                // A child's end comes as a signal, with the way it ended.
                if !self.workers.values().any(|(w, _)| *w == name) {
                    self.worker_gone(&name, End::Killed);
                }
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Fork(name, task) => self.forks.push_back((name, task, Vec::new())),
                Effect::Pass(name, request) => {
                    // Not yet forked: it gets it when it is.
                    if let Some((.., requests)) = self.forks.iter_mut().find(|f| f.0 == name) {
                        requests.push(request);
                    } else {
                        let token = self.links.get(&name).copied();
                        self.send(token, &request.to_frame());
                    }
                }
                Effect::Answer(client, frame) => self.send(Some(client), &frame),
            }
        }
    }

    /// Sends without waiting: what a peer does not take is kept for it.
    fn send(&mut self, token: Option<u64>, frame: &Frame) {
        let Some(token) = token else { return };
        let Some(connection) = self.connections.get_mut(&token) else { return };
        frame.append_to(&mut connection.outbox);
        if !flush(connection) {
            let is_client = matches!(connection.peer, Peer::Client);
            if is_client && connection.outbox.len() > OUTBOX_MAX {
                messages::say("keeper", "a client does not read; it is given up");
                self.close(token);
            } else if self.behind.insert(token) {
                self.patience_with_peers = FIRST_NAP;
            }
        }
    }

    /// Tries again to send what is kept for those that are behind.
    fn flush_all(&mut self) {
        let connections = &mut self.connections;
        let before = self.behind.len();
        self.behind.retain(|token| connections.get_mut(token).is_some_and(|c| !flush(c)));
        if self.behind.len() == before {
            self.patience_with_peers = (self.patience_with_peers * 2).min(LAST_NAP);
        }
    }

    #[inline(never)]
    fn has_forked(
        &mut self,
        name: &ServiceName,
        requests: Vec<Request>,
        forked: io::Result<(i32, UnixStream)>,
    ) {
        let connected = forked.and_then(|(pid, stream)| {
            let token = self.connect(stream, Peer::Worker(name.clone()))?;
            self.workers.insert(pid, (name.clone(), token));
            Ok(token)
        });
        match connected {
            Ok(token) => {
                self.links.insert(name.clone(), token);
                for request in requests {
                    self.send(Some(token), &request.to_frame());
                }
            }
            Err(e) => {
                messages::say(name.as_str(), &format!("cannot fork a worker: {e}"));
                let fault = Fault::system(name, "cannot start a worker", &e);
                let news = News::Fault(fault).to_frame().after("all");
                let mut effects = self.registry.news(name, &news);
                // Without a run to look after, nobody but the caller wanted it.
                let has_run = scan::has_run(&self.command, self.me, self.place, name);
                let end = if has_run { End::Failed } else { End::Done };
                effects.extend(self.registry.gone(name, end, now()));
                self.carry_out(effects);
            }
        }
    }

    /// Looks at all children that have ended. Before an adopted run is reaped,
    /// its status is put where its worker finds it.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = native::peek_child() {
            if let Some((name, token)) = self.workers.get(&pid).cloned() {
                // Still ours while its last words are read: what closes the
                // connection must not count as a second death.
                self.drain(token);
                self.workers.remove(&pid);
                let end = match Exit::from_status(status) {
                    Exit::Code(0) => End::Done,
                    Exit::Signal { number: libc::SIGKILL | libc::SIGTERM, .. } => End::Killed,
                    _ => End::Failed,
                };
                if end != End::Done {
                    self.adopted.insert(name.clone(), ());
                    self.assign_orphans(Some(&name));
                }
                wait_for(pid);
                self.worker_gone(&name, end);
                continue;
            }
            if let Some((name, run)) = scan::run_of(&self.command, self.me, self.place, pid) {
                let files = paths::Files::of(&self.command.piddir, self.me, &name);
                if let Err(e) = slot::leave_status(&files.file("exit"), run, status) {
                    messages::say(name.as_str(), &format!("cannot keep its exit code: {e}"));
                }
            }
            self.assign_orphans(None);
            self.strays.remove(&pid);
            wait_for(pid);
        }
    }

    /// Reads what a dead worker has said last, up to the end, which closes the
    /// connection.
    fn drain(&mut self, token: u64) {
        // To the end of what is there. A child that it forked last may hold the
        // other side a moment longer; nothing more is said there.
        while self.connections.contains_key(&token) && self.on_readable(token) {}
        self.close(token);
    }

    fn worker_gone(&mut self, name: &ServiceName, end: End) {
        if end == End::Done {
            self.adopted.remove(name);
        }
        let effects = if self.links.contains_key(name) {
            // That of an earlier keeper has said hello, and this one has only
            // found it there.
            self.adopted.insert(name.clone(), ());
            self.registry.reseat(name)
        } else {
            self.registry.gone(name, end, now())
        };
        self.carry_out(effects);
    }

    /// Gives orphans that came to us to the services they belong to: by the
    /// mark in their environment, by their session, else to the service whose
    /// worker has just died.
    fn assign_orphans(&mut self, dead: Option<&ServiceName>) {
        let Ok(children) = native::children(std::process::id().cast_signed()) else { return };
        let unknown: Vec<i32> = children
            .into_iter()
            .filter(|pid| !self.workers.contains_key(pid))
            .filter(|pid| {
                let born = native::born(*pid).ok().flatten();
                born.is_some() && self.strays.get(pid).copied() != born
            })
            .collect();
        if unknown.is_empty() {
            return;
        }
        let adopted: Vec<ServiceName> = self.adopted.keys().cloned().collect();
        for (pid, born, name) in
            scan::assign(&self.command, self.me, self.place, &unknown, &adopted, dead)
        {
            self.strays.insert(pid, born);
            if let Some(name) = name {
                let files = paths::Files::of(&self.command.piddir, self.me, &name);
                let stray = crate::backend::ProcessId { pid, born };
                if let Err(e) = crate::supervise::launch::note_stray(&files, stray) {
                    messages::say(name.as_str(), &format!("cannot note pid {pid} as its own: {e}"));
                }
            }
        }
    }
}

/// Whether everything was taken, or nobody is there to take it.
fn flush(connection: &mut Connection) -> bool {
    let mut stream = &connection.stream;
    while !connection.outbox.is_empty() {
        match stream.write(&connection.outbox) {
            Ok(n) => drop(connection.outbox.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            // Its end is read in a moment.
            Err(_) => connection.outbox.clear(),
        }
    }
    // A large backlog leaves no large buffer behind.
    connection.outbox = Vec::new();
    true
}

fn valid(name: &str) -> Option<ServiceName> {
    ServiceName::new(name.as_ref()).ok()
}

/// Reaps one child of ours that has ended.
fn wait_for(pid: i32) {
    // A real-time signal as the cause is EINVAL to nix, after the reaping.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

/// Leaves the terminal, the directory and the limits of whoever started us.
fn settle(state: &Path) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Fails when we lead a session already, which is what is wanted.
    let _ = nix::unistd::setsid();
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let path = state.join("messages");
    if fs::metadata(&path).is_ok_and(|m| m.len() > MESSAGES_MAX) {
        fs::rename(&path, state.join("messages.1"))?;
    }
    let messages = options.append(true).create(true).open(&path)?;
    nix::unistd::dup2_stderr(&messages)?;
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // macOS refuses "unlimited" here; what we have must then do.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Ok(())
}

/// Bytes of `messages` before a new keeper begins a new file.
const MESSAGES_MAX: u64 = 1 << 20;

fn listen(state: &Path) -> io::Result<UnixListener> {
    // Of an earlier keeper; we hold the lock that says it is dead.
    match fs::remove_file(state.join("keeper")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = control::with_short_path(state, "keeper", |path| UnixListener::bind(path))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells who started us, and lets go of their standard output.
fn announce() {
    let mut out = io::stdout();
    // Nobody reads it when a worker started us.
    let _ = out.write_all(READY.as_bytes()).and_then(|()| out.flush());
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
