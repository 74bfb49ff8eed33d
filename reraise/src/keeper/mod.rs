//! The keeper: one small process for each user and `$RERAISE_PIDDIR`. It forks
//! a worker for each service and replaces those that die; they replace it. It
//! ends when it has no worker and no client.
//!
//! It is not special. Everything that it knows is in its workers and on disk:
//! when it is killed, one of the workers starts another one (see
//! [`crate::supervise::link`]), which calls those that are there.
//!
//! | file | what |
//! |---|---|
//! | [`registry`] | what follows from what happens: decisions, and nothing else |
//! | `serve` | the loop, and who asks for what |
//! | `peers` | the connections |
//! | `fork`, `worker`, `logger` | its children: workers, and the one that writes what services say |
//! | `reap` | children that have ended |
//! | `scan` | what disk and process table say |
//! | `settle` | how it takes its place |
//! | `upgrade`, `renewal` | another program in its place, and for its workers |
//! | `up` | in the foreground; the end of all services |

mod fork;
mod logger;
mod peers;
mod reap;
pub mod registry;
mod renewal;
mod scan;
mod serve;
mod settle;
mod up;
mod upgrade;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::signal::Signal;

use crate::backend::native::{self, EventQueue, now};
use crate::error::Fault;
use crate::history::asked::Asked;
use crate::lock::{self, Holder, LockFile};
use crate::logger::pipes::Held;
use crate::messages;
use crate::name::ServiceName;
use crate::paths;
use crate::supervise::begin::Task;
use crate::supervise::launch::Under;
use crate::supervise::link::{KeeperCommand, Request};
use crate::supervise::worker::Place;
use crate::version::own_build;
use crate::zone;
use peers::Connection;
use registry::{Client, Registry};
use renewal::Renewal;
pub use up::context_file;
use up::{Leaving, Told};
pub use upgrade::{Inheritance, KEEPER};

/// What a keeper says on standard output once it can be connected to.
pub const READY: &str = "ready\n";

/// What a keeper's environment should say; C libraries other than glibc pass it over.
/// It is about memory that each worker would have to itself: the kernel would write
/// the processor's number into the thread's data (rseq(2), since glibc 2.35), and a
/// heap far from everything else would need page tables of its own. What the zones
/// do not take is rare, and each such block is mapped by itself then.
pub const TUNABLES: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.pthread.rseq=0:glibc.malloc.mmap_threshold=1");

/// How long a new keeper waits for its first caller.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of a connection. Never given twice.
type Token = u64;

/// The token of the listening socket; connections have higher ones.
const LISTENER: Token = 0;

/// A worker that is to be forked, and what it is to be told first.
type Fork = (ServiceName, Task, Vec<Request>);

struct Keeper {
    command: KeeperCommand,
    place: Place,
    queue: EventQueue,
    listener: UnixListener,
    lock: LockFile,
    _unaged: Option<Flock<File>>,
    registry: Registry,
    connections: BTreeMap<u64, Connection>,
    next_token: u64,
    /// When to listen again, see `peers`.
    deaf: Option<Duration>,
    /// Workers that are our children, and the connection of each.
    workers: BTreeMap<i32, (ServiceName, u64)>,
    /// The connection of each service's worker.
    links: BTreeMap<ServiceName, u64>,
    /// Services whose run's launching worker has died: orphans of theirs come
    /// to us.
    adopted: BTreeMap<ServiceName, ()>,
    /// Workers that are to be forked, from a place where the stack is not deep,
    /// and what they are to be told first.
    forks: VecDeque<Fork>,
    /// Who has last asked something of a service whose worker has not spoken since.
    askers: BTreeMap<ServiceName, Asked>,
    /// Children that are no workers and whose services are known: for the main
    /// process of a run its service, for others nothing. A child keeps its pid until
    /// we reap it.
    strays: BTreeMap<i32, Option<ServiceName>>,
    /// They have been looked for since we last heard of anything.
    has_looked: bool,
    /// Workers that have been called, and have not said hello.
    called: BTreeMap<i32, ServiceName>,
    /// Workers of ours that have found another one in their place.
    yielded: BTreeSet<Token>,
    me: u32,
    /// Connections that are behind with reading, and when to try again: there
    /// is nothing to wait on that would say so, and it is rare and short.
    behind: BTreeSet<u64>,
    /// Clients that are to be sent what is kept for them.
    answers: BTreeSet<Token>,
    /// Nothing has happened for a moment.
    was_silent: bool,
    patience_with_peers: Duration,
    /// Until when a keeper that nobody has called yet waits for whoever
    /// started it.
    patience: Option<Duration>,
    /// See `up`.
    is_foreground: bool,
    /// Nothing was heard yet that was said to a keeper.
    is_beginning: bool,
    leaving: Leaving,
    told: Told,
    /// What it ends with.
    code: u8,
    /// See `upgrade`: who wants us to become which program.
    upgrade: Option<(Client, PathBuf)>,
    /// Clients that are told what we are.
    watchers: BTreeSet<Client>,
    renewal: Renewal,
    logger: logger::Logger,
    /// Pipes of services that have no worker for a moment.
    held: BTreeMap<ServiceName, Held>,
}

/// What interrupts the keeper's loop.
enum Next {
    /// A worker is to be forked.
    Fork(Fork),
    /// It is to become another program.
    Other(Client, PathBuf),
    /// There is nothing more to do.
    End,
}

/// How a keeper is to be.
#[derive(Debug, Clone)]
pub struct Orders {
    /// `auto-reraise`.
    pub program: PathBuf,
    /// `$RERAISE_PIDDIR`.
    pub piddir: PathBuf,
    /// In the foreground, with these services; none: with what is wanted.
    pub up: Option<Vec<ServiceName>>,
    /// Nobody waits for [`READY`].
    pub is_quiet: bool,
    /// What the program before us in this process has left.
    pub inherited: Option<Inheritance>,
}

/// Becomes the keeper, unless there is one; returns when it is not needed any
/// more, with an exit code. Says [`READY`] on standard output when it can be
/// connected to.
///
/// # Errors
/// What the command line should say.
#[inline(never)]
pub fn run(orders: Orders) -> Result<u8, Fault> {
    let me = nix::unistd::geteuid().as_raw();
    // Whatever else our caller had open stays theirs alone.
    let kept = orders.inherited.map(|i| [i.lock, i.listener]);
    native::close_all_but(kept.as_ref().map_or(&[], |kept| &kept[..]));
    let is_foreground = orders.up.is_some();
    // std's own looks at the environment, which a worker does not have. No
    // captures: it must be there for the workers as well.
    std::panic::set_hook(Box::new(|info| messages::say("panic", &info.to_string())));
    let mut keeper = match Keeper::begin(orders, me) {
        Ok(Some(keeper)) => keeper,
        Ok(None) => return Ok(0),
        Err(fault) => {
            if !is_foreground {
                // Standard error may be the messages by now, which nobody waits for.
                let _ = writeln!(io::stdout(), "auto-{fault}");
            }
            return Err(fault);
        }
    };
    // The workers live on from here, on the few frames that there are: each page
    // of stack below this one is one that every service costs.
    loop {
        match keeper.serve() {
            Next::Fork((name, task, requests)) => {
                let forked = zone::in_common(|| {
                    let asked = keeper.askers.get(&name);
                    let (place, under) = (keeper.place, keeper.under());
                    worker::fork(&keeper.command, &name, &task, place, under, asked)
                });
                keeper.has_forked(&name, requests, forked);
            }
            Next::Other(client, program) => keeper.become_other(client, &program),
            Next::End => return Ok(keeper.code),
        }
    }
}

impl Keeper {
    /// `Ok(None)`: there is one already.
    #[inline(never)]
    fn begin(orders: Orders, me: u32) -> Result<Option<Self>, Fault> {
        // What follows is of no use to a worker.
        zone::keep_own();
        let Orders { program, piddir, up, is_quiet, inherited } = orders;
        let shown = piddir.display().to_string();
        let state = paths::prepare_piddir(&piddir, me)?;
        let system = |e: io::Error| Fault::system(&shown, "no keeper can work there", &e);
        let build = own_build(&program).map_err(system)?;
        let command = KeeperCommand { program, piddir, state, build };
        if let Some(inherited) = inherited {
            let (lock, listener) = settle::inherit(&command.state, inherited)?;
            return Self::settled(command, me, lock, Some(listener), up, true)
                .map(Some)
                .map_err(system);
        }
        let lock = LockFile::open(&command.state.join("keeper.lock")).map_err(system)?;
        match settle::claim(&lock, up.is_some()).map_err(system)? {
            Holder::Nobody => {}
            holder if up.is_some() => {
                let _ = up::take_context(&command.state);
                return Err(settle::taken(holder));
            }
            _ => return Ok(None),
        }
        let begun = Self::settled(command, me, lock, None, up, is_quiet);
        begun.map(Some).map_err(system)
    }

    /// Takes its place, which nobody else has.
    fn settled(
        command: KeeperCommand,
        me: u32,
        lock: LockFile,
        inherited: Option<UnixListener>,
        up: Option<Vec<ServiceName>>,
        is_quiet: bool,
    ) -> io::Result<Self> {
        let is_new = inherited.is_none();
        settle::leave_caller(&command.state, up.is_some())?;
        let place = Place { boot: native::boot_id()?, space: native::pid_space()? };
        native::become_subreaper()?;
        native::note_ignored();
        native::prepare_title();
        let signals = [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGCONT,
        ];
        let mut keeper = Self::new(command, me, lock, place, &signals, inherited)?;
        keeper.is_foreground = up.is_some();
        keeper.is_beginning = is_new && up.is_none();
        if up.is_none() {
            settle::announce(is_quiet);
        }
        keeper.find_former_logger();
        keeper.need_logger();
        keeper.take_over()?;
        if let Some(names) = up.filter(|_| is_new) {
            keeper.bring_up(&names)?;
        }
        keeper.lock.release(lock::CHANGING)?;
        // Whoever has ended before there was a queue.
        keeper.reap();
        Ok(keeper)
    }

    /// One that can be connected to, and knows of nothing; its listening socket may
    /// have been left for it.
    fn new(
        command: KeeperCommand,
        me: u32,
        lock: LockFile,
        place: Place,
        signals: &[Signal],
        inherited: Option<UnixListener>,
    ) -> io::Result<Self> {
        let mut queue = EventQueue::new(signals)?;
        let listener = match inherited {
            Some(left) => left,
            None => settle::listen(&command.state)?,
        };
        queue.watch_readable(listener.as_fd(), LISTENER)?;
        Ok(Self {
            _unaged: settle::keep_from_ageing(&command.piddir),
            command,
            place,
            queue,
            listener,
            lock,
            registry: Registry::default(),
            connections: BTreeMap::new(),
            next_token: LISTENER + 1,
            deaf: None,
            workers: BTreeMap::new(),
            links: BTreeMap::new(),
            adopted: BTreeMap::new(),
            forks: VecDeque::new(),
            askers: BTreeMap::new(),
            strays: BTreeMap::new(),
            has_looked: false,
            called: BTreeMap::new(),
            yielded: BTreeSet::new(),
            me,
            behind: BTreeSet::new(),
            answers: BTreeSet::new(),
            was_silent: false,
            patience_with_peers: peers::FIRST_NAP,
            patience: Some(now() + PATIENCE),
            is_foreground: false,
            is_beginning: false,
            leaving: Leaving::No,
            told: Told::default(),
            code: 0,
            upgrade: None,
            watchers: BTreeSet::new(),
            renewal: Renewal::default(),
            logger: logger::Logger::default(),
            held: BTreeMap::new(),
        })
    }

    fn under(&self) -> Under {
        if self.is_foreground { Under::Up } else { Under::Keeper }
    }
}
