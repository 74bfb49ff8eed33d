//! The keeper's logger: a child that is forked again when it ends. What services say
//! meanwhile waits in their pipes.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Keeper, now};
use crate::backend::{Exit, native};
use crate::lock::{self, Holder};
use crate::logger::pipes::{Held, Use};
use crate::logger::serve::{self, Orders, lock_in};
use crate::messages;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::revive;
use crate::slot;
use crate::zone;

/// How long an ending keeper waits for its logger: what services have said last is
/// written by then, unless the disk hangs.
const PATIENCE: Duration = Duration::from_secs(1);
/// A logger that ends so soon has failed.
const SOON: Duration = Duration::from_secs(1);
/// Of so many services at a time the pipes are held: descriptors are for workers.
const HELD: usize = 500;
/// The longest rest before the next one.
const LONGEST: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Logger {
    /// Our child.
    pid: Option<i32>,
    /// It ends when this is closed and no service is left.
    socket: Option<UnixStream>,
    began: Duration,
    failures: u32,
    /// When the next one is forked.
    again: Option<Duration>,
    /// It was told that it is not needed any more, and may take until then.
    leaving: Option<Duration>,
    /// Our child as well, from before; it ends when the other takes over.
    former: Option<i32>,
}

impl Logger {
    /// When something is to be done.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.again.into_iter().chain(self.leaving).min()
    }

    /// Whether this child, or the leader of this session, is a logger.
    pub(super) fn is(&self, pid: i32) -> bool {
        self.pid == Some(pid) || self.former == Some(pid)
    }
}

impl Keeper {
    /// Takes note of a logger that is our child already: it is no orphan of any
    /// service. That of another keeper ends unseen, and its pid may come to mean a
    /// service's.
    pub(super) fn find_former_logger(&mut self) {
        let is_ours = |pid| {
            let ours = native::children(std::process::id().cast_signed());
            ours.is_ok_and(|ours| ours.contains(&pid))
        };
        if let Ok(Holder::Pid(pid)) = lock::holder_of(&lock_in(&self.command.state), lock::ALIVE)
            && is_ours(pid)
        {
            self.logger.former = Some(pid);
        }
    }

    /// Forks a logger, unless there is one.
    pub(super) fn need_logger(&mut self) {
        let is_there = self.logger.pid.is_some() && self.logger.leaving.is_none();
        if is_there || self.logger.again.is_some() {
            return;
        }
        if self.logger.pid.is_some() {
            // It is on its way out, and hands over.
            self.logger.former = self.logger.pid;
        }
        self.logger.leaving = None;
        self.logger.began = now();
        match zone::in_common(|| fork(&self.command.state)) {
            Ok((pid, socket)) => {
                (self.logger.pid, self.logger.socket) = (Some(pid), Some(socket));
            }
            Err(e) => {
                messages::say("logger", &format!("cannot be forked: {e}"));
                self.logger.pid = None;
                self.rest_logger();
            }
        }
    }

    fn rest_logger(&mut self) {
        self.logger.failures += 1;
        let seconds = 1 << (self.logger.failures - 1).min(5);
        self.logger.again = Some(now() + Duration::from_secs(seconds).min(LONGEST));
    }

    /// A child of ours has ended, with this wait status; whether it was the logger.
    pub(super) fn logger_gone(&mut self, pid: i32, status: i32) -> bool {
        if self.logger.former == Some(pid) && self.logger.pid != Some(pid) {
            self.logger.former = None;
            return true;
        }
        if self.logger.pid != Some(pid) {
            return false;
        }
        (self.logger.pid, self.logger.socket) = (None, None);
        if self.logger.leaving.take().is_some() {
            return true;
        }
        let exit = Exit::from_status(status);
        match exit {
            // Somebody killed it, or another one took over.
            Exit::Code(0) | Exit::Signal { number: libc::SIGKILL | libc::SIGTERM, .. } => {}
            // A bug of ours, or a lack of something.
            _ => {
                messages::say("logger", &format!("has ended: {exit}"));
                if now().saturating_sub(self.logger.began) < SOON {
                    self.rest_logger();
                    return true;
                }
            }
        }
        self.logger.failures = 0;
        self.need_logger();
        true
    }

    /// Holds the pipes of a service that has no worker for a moment: if the service
    /// ends as well, and the logger, what it has said last is still there. Not where
    /// thousands have lost theirs at once.
    pub(super) fn hold_pipes(&mut self, name: &ServiceName) {
        let files = Files::of(&self.command.piddir, self.me, name);
        let slot = slot::read(&files.file("run"));
        let used = slot.map(|slot| Use::from_byte(slot.pipes)).unwrap_or_default();
        if used.is_kept && self.held.len() < HELD {
            self.held.insert(name.clone(), Held::adopt(&files.own, used));
        }
    }

    /// It was stopped by somebody, and goes on.
    pub(super) fn revive_logger(&self, pid: i32) {
        if self.logger.is(pid) {
            let _ = revive::process(pid);
        }
    }

    /// Time has passed.
    pub(super) fn tick_logger(&mut self) {
        if self.logger.again.is_some_and(|again| again <= now()) {
            self.logger.again = None;
            self.need_logger();
        }
    }

    /// Whether nothing of the logger keeps us from ending: it is told, and has ended
    /// or taken too long.
    pub(super) fn has_logger_left(&mut self) -> bool {
        self.logger.again = None;
        if self.logger.pid.is_none() {
            return true;
        }
        self.logger.socket = None;
        let until = *self.logger.leaving.get_or_insert_with(|| now() + PATIENCE);
        until <= now()
    }
}

/// What a logger is given. All of it was copied into the common zone.
struct Given {
    orders: Orders,
    socket: UnixStream,
}

fn fork(state: &Path) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let given = Box::new(Given { orders: Orders { state: state.to_owned() }, socket: theirs });
    Ok((native::fork_with(given, live)?, ours))
}

/// The life of a logger.
#[expect(clippy::boxed_local, reason = "as `fork_with` gives it")]
fn live(given: Box<Given>) -> ! {
    zone::begin_own();
    let Given { orders, socket } = *given;
    let socket = native::keep_only(socket);
    native::forget_environment();
    native::set_title(c"auto-reraise (logger)");
    // What is typed at a terminal is for the keeper; and the commands that we run for
    // rotated files are known by this session.
    let _ = nix::unistd::setsid();
    let served = serve::run(&orders, socket);
    native::exit_now(match served {
        Ok(()) => 0,
        Err(e) => {
            messages::say("logger", &format!("failed: {e}"));
            1
        }
    })
}
