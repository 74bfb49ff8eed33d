//! One place to wait for everything: epoll(7) over a signalfd(2), the pidfds of
//! processes that are not our children, and descriptors. No timer is armed:
//! the deadline goes to `epoll_pwait2`, or rounded up to `epoll_wait`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::identity;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// One of the signals that the queue was made for.
    Signal(Signal),
    /// A watched process has ended; its wait status where the kernel tells.
    Ended {
        /// Its process id.
        pid: i32,
        /// As `waitpid(2)` would give it.
        status: Option<i32>,
    },
    /// The descriptor watched under this token has input, or its end.
    Readable(u64),
}

const SIGNALS: u64 = u64::MAX;
const PROCESS: u64 = 1 << 62;
/// How often a process is looked at where there is no pidfd to wait on.
const LOOK: Duration = Duration::from_secs(1);

struct Watched {
    identity: u64,
    fd: Option<OwnedFd>,
}

/// Waits for signals, descriptors and the ends of foreign processes.
pub struct EventQueue {
    epoll: Epoll,
    signals: SignalFd,
    watched: BTreeMap<i32, Watched>,
}

impl EventQueue {
    /// Blocks the given signals for this process and collects them from now on.
    /// A process that is forked later must make a queue of its own.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(Self { epoll, signals, watched: BTreeMap::new() })
    }

    /// Reports the end of a process that is not our child. `false`: that
    /// process is gone already, and no event will come.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    pub fn watch_process(&mut self, pid: i32, identity: u64) -> io::Result<bool> {
        if self.watched.get(&pid).is_some_and(|w| w.identity == identity) {
            return Ok(true);
        }
        let fd = identity::open(pid)?;
        if identity::born(pid)? != Some(identity) {
            return Ok(false);
        }
        // A former holder of this pid, of whose end nobody has asked yet.
        self.take(pid);
        if let Some(fd) = &fd {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, PROCESS | pid as u64);
            self.epoll.add(fd, event)?;
        }
        self.watched.insert(pid, Watched { identity, fd });
        Ok(true)
    }

    /// Takes back [`Self::watch_process`].
    pub fn forget_process(&mut self, pid: i32) {
        self.take(pid);
    }

    /// Closing the pidfd would not do: a process that we have forked may hold a
    /// copy, and epoll(7) goes on reporting until the last one is closed.
    fn take(&mut self, pid: i32) -> Option<Watched> {
        let watched = self.watched.remove(&pid)?;
        if let Some(fd) = &watched.fd {
            // An error would say that it is not there, which is what is asked.
            let _ = self.epoll.delete(fd);
        }
        Some(watched)
    }

    /// Reports input (or the end of input, or an error) on a descriptor for as
    /// long as it is there. Tokens are below 2^62.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn watch_readable(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        debug_assert!(token < PROCESS);
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// The same for a named pipe that is held open for writing as well.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn watch_pipe(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.watch_readable(fd, token)
    }

    /// Takes back [`Self::watch_readable`]; to be called before it is closed.
    pub fn forget_readable(&mut self, fd: BorrowedFd<'_>) {
        // An error would say that it was not watched, which is what is asked.
        let _ = self.epoll.delete(fd);
    }

    /// The next event, or `None` when the time is over. Without a time it waits
    /// for ever. The time is never cut short, only rounded up.
    ///
    /// # Errors
    /// Only what makes further waiting useless.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Event>> {
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if !identity::has_pidfd()
                && let Some(ended) = self.look()?
            {
                return Ok(Some(ended));
            }
            let left = end.map(|e| e.saturating_duration_since(Instant::now()));
            let mut one = [EpollEvent::empty()];
            match self.epoll.wait(&mut one, self.nap(left)) {
                Ok(0) if left.is_some_and(|l| l <= Duration::from_millis(i32::MAX as u64)) => {
                    if end.is_some_and(|e| e <= Instant::now()) {
                        return Ok(None);
                    }
                }
                Ok(0) => {}
                Ok(_) => {
                    if let Some(event) = self.translate(one[0].data())? {
                        return Ok(Some(event));
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Milliseconds, rounded up; shorter where a process must be looked at.
    fn nap(&self, left: Option<Duration>) -> EpollTimeout {
        let look = (!identity::has_pidfd() && !self.watched.is_empty()).then_some(LOOK);
        let nap = match (left, look) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match nap {
            None => EpollTimeout::NONE,
            Some(d) => {
                let ms = d.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
                EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::ZERO)
            }
        }
    }

    #[inline(never)]
    fn look(&mut self) -> io::Result<Option<Event>> {
        let mut gone = None;
        for (&pid, watched) in &self.watched {
            if identity::born(pid)? != Some(watched.identity) {
                gone = Some((pid, watched.identity));
                break;
            }
        }
        Ok(gone.map(|(pid, identity)| {
            self.watched.remove(&pid);
            Event::Ended { pid, status: identity::exit_status(pid, identity, None) }
        }))
    }

    #[inline(never)]
    fn translate(&mut self, data: u64) -> io::Result<Option<Event>> {
        if data == SIGNALS {
            let Some(info) = self.signals.read_signal()? else { return Ok(None) };
            return Ok(Signal::try_from(info.ssi_signo as i32).ok().map(Event::Signal));
        }
        if data & PROCESS == 0 {
            return Ok(Some(Event::Readable(data)));
        }
        let pid = (data & !PROCESS) as i32;
        let Some(watched) = self.take(pid) else { return Ok(None) };
        let held = watched.fd.as_ref().map(AsFd::as_fd);
        let status = identity::exit_status(pid, watched.identity, held);
        Ok(Some(Event::Ended { pid, status }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_forgotten_process_is_silent_though_a_fork_holds_its_pidfd() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let mut queue = EventQueue::new(&[]).unwrap();
        assert!(queue.watch_process(pid, identity::born(pid).unwrap().unwrap()).unwrap());
        let held = queue.watched[&pid].fd.as_ref().map(|fd| fd.try_clone().unwrap());
        queue.forget_process(pid);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(queue.next(Some(Duration::ZERO)).unwrap(), None);
        drop(held);
    }

    #[test]
    fn the_end_of_a_process_is_reported_once() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let mut queue = EventQueue::new(&[]).unwrap();
        assert!(queue.watch_process(pid, identity::born(pid).unwrap().unwrap()).unwrap());
        let held = queue.watched[&pid].fd.as_ref().map(|fd| fd.try_clone().unwrap());
        drop(child.stdin.take());
        assert_eq!(queue.next(None).unwrap(), Some(Event::Ended { pid, status: Some(0) }));
        assert_eq!(queue.next(Some(Duration::ZERO)).unwrap(), None);
        child.wait().unwrap();
        drop(held);
    }
}
