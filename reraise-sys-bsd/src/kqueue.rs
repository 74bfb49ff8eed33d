//! One place to wait for everything: kqueue(2) with `EVFILT_SIGNAL`,
//! `EVFILT_PROC` for processes that are not our children, and `EVFILT_READ`. No
//! `EVFILT_TIMER` is armed: the deadline goes to kevent(2) as a timespec.
//!
//! A kqueue is not inherited by fork(2), only its number is: a process that is
//! forked later must make a queue of its own, and may drop this one, which then
//! closes nothing.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::{c_int, timespec};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::unistd::{Pid, getpid};

pub use crate::event::{Event, Identify};

/// How often a process is looked at that the kernel does not let us watch.
const LOOK: Duration = Duration::from_secs(1);
/// OpenBSD cuts longer times short, macOS refuses very long ones.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// `NOTE_EXIT`, with the wait status in the event's data.
    EventWithStatus,
    /// `NOTE_EXIT` alone.
    Event,
    /// Looking now and then.
    Looking,
}

/// On the BSDs `NOTE_EXIT` carries the wait status: kqueue(2) of FreeBSD and
/// OpenBSD say so, in NetBSD and DragonFly the kernel does it. On macOS it is
/// asked for, and refused (EACCES) for a process that is not our child, before
/// the kernels that allow it to whoever may signal the process.
#[cfg(not(target_os = "macos"))]
const WITH_STATUS: FilterFlag = FilterFlag::NOTE_EXIT;
#[cfg(target_os = "macos")]
const WITH_STATUS: FilterFlag = FilterFlag::NOTE_EXIT.union(FilterFlag::NOTE_EXITSTATUS);

struct Watched {
    identity: u64,
    by: By,
}

/// Waits for signals, descriptors and the ends of foreign processes, which are
/// told apart as `I` says.
pub struct Queue<I> {
    kqueue: ManuallyDrop<Kqueue>,
    owner: Pid,
    /// Signals that came before the kqueue was there.
    early: Vec<Signal>,
    watched: BTreeMap<i32, Watched>,
    readable: BTreeMap<RawFd, u64>,
    /// See [`Self::watch_pipe`].
    #[cfg(target_os = "macos")]
    pipes: BTreeMap<RawFd, u64>,
    system: PhantomData<I>,
}

impl<I> Drop for Queue<I> {
    fn drop(&mut self) {
        // In a forked child the number may be another file's by now.
        if getpid() == self.owner {
            // SAFETY: the queue is not used again.
            unsafe { ManuallyDrop::drop(&mut self.kqueue) };
        }
    }
}

impl<I: Identify> Queue<I> {
    /// Blocks the given signals for this process and collects them from now on.
    /// They also get a handler, which is never called: a signal whose default
    /// is to be ignored, or that was ignored by who started us, would leave no
    /// trace while blocked, and an ignored SIGCHLD would leave no zombies.
    /// A process that is forked later must make a queue of its own.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        for &signal in signals {
            // SAFETY: the handler does nothing, which is safe at any moment.
            unsafe { sigaction(signal, &action) }?;
        }
        let kqueue = Kqueue::new()?;
        fcntl(kqueue.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let changes: Vec<KEvent> = signals
            .iter()
            .map(|&s| change(s as usize, EventFilter::EVFILT_SIGNAL, EvFlags::EV_ADD))
            .collect();
        kqueue.kevent(&changes, &mut [], None)?;
        // What came before the registration makes no event, but is pending.
        // What comes between makes both; one signal too many does no harm.
        let early = signals.iter().copied().filter(|&s| take(s)).collect();
        Ok(Self {
            kqueue: ManuallyDrop::new(kqueue),
            owner: getpid(),
            early,
            watched: BTreeMap::new(),
            readable: BTreeMap::new(),
            #[cfg(target_os = "macos")]
            pipes: BTreeMap::new(),
            system: PhantomData,
        })
    }

    /// Reports the end of a process that is not our child. `false`: that
    /// process is gone already (it may be a zombie), and no event will come.
    /// The identity is compared after the kernel has attached the event to the
    /// process, so the event is that process's own. NetBSD and OpenBSD refuse
    /// another user's process and one that changed its user: such a one is
    /// looked at once a second.
    ///
    /// # Errors
    /// When descriptors or kernel memory have run out.
    pub fn watch_process(&mut self, pid: i32, identity: u64) -> io::Result<bool> {
        if self.watched.get(&pid).is_some_and(|w| w.identity == identity) {
            return Ok(true);
        }
        if pid <= 0 {
            return Ok(false);
        }
        // An event that is still there would belong to the pid's last owner.
        self.forget_process(pid);
        let Some(by) = self.attach(pid)? else { return Ok(false) };
        self.watched.insert(pid, Watched { identity, by });
        match I::born(pid) {
            Ok(Some(found)) if found == identity => Ok(true),
            other => {
                self.forget_process(pid);
                other.map(|_| false)
            }
        }
    }

    /// Registers for the end of whatever has this pid; `None`: nothing has, or
    /// a zombie (ESRCH, except on FreeBSD and DragonFly).
    fn attach(&self, pid: i32) -> io::Result<Option<By>> {
        let mut refused = By::Looking;
        for (flags, by) in [(WITH_STATUS, By::EventWithStatus), (FilterFlag::NOTE_EXIT, By::Event)]
        {
            let add = KEvent::new(
                pid as usize,
                EventFilter::EVFILT_PROC,
                EvFlags::EV_ADD | EvFlags::EV_ONESHOT,
                flags,
                0,
                0,
            );
            match self.kqueue.kevent(&[add], &mut [], None) {
                Ok(_) => {
                    refused = by;
                    break;
                }
                Err(Errno::ESRCH) => return Ok(None),
                Err(Errno::EACCES | Errno::EPERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(refused))
    }

    /// Takes back [`Self::watch_process`].
    pub fn forget_process(&mut self, pid: i32) {
        if self.watched.remove(&pid).is_some_and(|w| w.by != By::Looking) {
            self.delete(pid as usize, EventFilter::EVFILT_PROC);
        }
    }

    /// Reports input (or the end of input, or an error) on a descriptor for as
    /// long as it is there.
    ///
    /// # Errors
    /// As `kevent(2)`.
    pub fn watch_readable(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let add = change(fd as usize, EventFilter::EVFILT_READ, EvFlags::EV_ADD);
        self.kqueue.kevent(&[add], &mut [], None)?;
        self.readable.insert(fd, token);
        Ok(())
    }

    /// The same for a named pipe that is held open for writing as well.
    ///
    /// macOS wakes kevent(2), and so poll(2), only when a write(2) to it is done; one
    /// that is longer than the pipe and waits for its reader would wait for ever.
    /// select(2) is woken by each piece (bsd/miscfs/fifofs/fifo_vnops.c of xnu).
    ///
    /// # Errors
    /// As `kevent(2)`.
    pub fn watch_pipe(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        #[cfg(not(target_os = "macos"))]
        return self.watch_readable(fd, token);
        #[cfg(target_os = "macos")]
        {
            self.pipes.insert(fd.as_raw_fd(), token);
            Ok(())
        }
    }

    /// Takes back [`Self::watch_readable`]; to be called before it is closed.
    pub fn forget_readable(&mut self, fd: BorrowedFd<'_>) {
        #[cfg(target_os = "macos")]
        if self.pipes.remove(&fd.as_raw_fd()).is_some() {
            return;
        }
        if self.readable.remove(&fd.as_raw_fd()).is_some() {
            self.delete(fd.as_raw_fd() as usize, EventFilter::EVFILT_READ);
        }
    }

    /// The next event, or `None` when the time is over. Without a time it waits
    /// for ever. The time is never cut short.
    ///
    /// # Errors
    /// Only what makes further waiting useless.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Event>> {
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(signal) = self.early.pop() {
                return Ok(Some(Event::Signal(signal)));
            }
            if let Some(ended) = self.look()? {
                return Ok(Some(ended));
            }
            let left = end.map(|e| e.saturating_duration_since(Instant::now()));
            let mut one = [change(0, EventFilter::EVFILT_READ, EvFlags::empty())];
            let nap = self.nap(left);
            #[cfg(target_os = "macos")]
            let nap = match self.select(nap) {
                Some(token) => return Ok(Some(Event::Readable(token))),
                None if self.pipes.is_empty() => nap,
                None => Some(timespec { tv_sec: 0, tv_nsec: 0 }),
            };
            match self.kqueue.kevent(&[], &mut one, nap) {
                Ok(0) if end.is_some_and(|e| e <= Instant::now()) => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    if let Some(event) = self.translate(&one[0]) {
                        return Ok(Some(event));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until a pipe or the kqueue has something (select(2) takes a kqueue, see
    /// kqueue(2)), or the time is over; the token of a pipe that has. A descriptor above
    /// those that select takes is said to have something now and then: whoever reads it
    /// finds out.
    #[cfg(target_os = "macos")]
    fn select(&mut self, nap: Option<timespec>) -> Option<u64> {
        const NOW_AND_THEN: Duration = Duration::from_millis(250);
        if self.pipes.is_empty() {
            return None;
        }
        let kqueue = self.kqueue.as_fd().as_raw_fd();
        let is_within = |fd: RawFd| (fd as usize) < libc::FD_SETSIZE;
        let (within, above): (Vec<RawFd>, Vec<RawFd>) =
            self.pipes.keys().copied().chain([kqueue]).partition(|&fd| is_within(fd));
        // SAFETY: all-zero is an empty set.
        let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
        for &fd in &within {
            // SAFETY: it is below FD_SETSIZE, and the set lives.
            unsafe { libc::FD_SET(fd, &raw mut set) };
        }
        let nap = nap.map(|nap| Duration::new(nap.tv_sec as u64, nap.tv_nsec as u32));
        let nap = nap.into_iter().chain((!above.is_empty()).then_some(NOW_AND_THEN)).min();
        let mut time = nap.map(|nap| libc::timeval {
            tv_sec: nap.as_secs() as _,
            tv_usec: nap.subsec_micros() as _,
        });
        let time = time.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
        let most = within.iter().copied().max().unwrap_or(0) + 1;
        let null = std::ptr::null_mut;
        // SAFETY: the set and the time live, and the other two are null.
        let ready = unsafe { libc::select(most, &raw mut set, null(), null(), time) };
        // SAFETY: below FD_SETSIZE.
        let has = |fd: &RawFd| ready > 0 && unsafe { libc::FD_ISSET(*fd, &raw const set) };
        let found = within.iter().find(|fd| **fd != kqueue && has(fd));
        let found = found.or_else(|| above.iter().find(|fd| **fd != kqueue && ready == 0));
        found.and_then(|fd| self.pipes.get(fd).copied())
    }

    fn nap(&self, left: Option<Duration>) -> Option<timespec> {
        let looking = self.watched.values().any(|w| w.by == By::Looking);
        let most = if looking { Some(LOOK) } else { left.map(|_| LONGEST) };
        let nap = left.into_iter().chain(most).min()?;
        Some(timespec { tv_sec: nap.as_secs() as _, tv_nsec: nap.subsec_nanos() as _ })
    }

    fn look(&mut self) -> io::Result<Option<Event>> {
        let mut gone = None;
        for (&pid, watched) in self.watched.iter().filter(|(_, w)| w.by == By::Looking) {
            if I::born(pid)? != Some(watched.identity) {
                gone = Some((pid, watched.identity));
                break;
            }
        }
        Ok(gone.map(|(pid, identity)| {
            self.watched.remove(&pid);
            Event::Ended { pid, status: I::exit_status(pid, identity) }
        }))
    }

    fn translate(&mut self, event: &KEvent) -> Option<Event> {
        match event.filter().ok()? {
            EventFilter::EVFILT_SIGNAL => {
                let signal = Signal::try_from(event.ident() as c_int).ok()?;
                // Or it would be reported again after an exec of ours.
                take(signal);
                Some(Event::Signal(signal))
            }
            EventFilter::EVFILT_PROC => {
                let pid = event.ident() as i32;
                let watched = self.watched.remove(&pid)?;
                let status = match watched.by {
                    By::EventWithStatus => Some(event.data() as i32 & 0xffff),
                    By::Event | By::Looking => I::exit_status(pid, watched.identity),
                };
                Some(Event::Ended { pid, status })
            }
            EventFilter::EVFILT_READ => {
                self.readable.get(&(event.ident() as RawFd)).map(|&t| Event::Readable(t))
            }
            _ => None,
        }
    }

    fn delete(&self, ident: usize, filter: EventFilter) {
        let delete = change(ident, filter, EvFlags::EV_DELETE);
        // ENOENT says that it has fired or was closed, which is as good.
        let _ = self.kqueue.kevent(&[delete], &mut [], None);
    }
}

fn change(ident: usize, filter: EventFilter, flags: EvFlags) -> KEvent {
    KEvent::new(ident, filter, flags, FilterFlag::empty(), 0, 0)
}

extern "C" fn nothing(_: c_int) {}

/// Takes a blocked signal that is pending (`sigpending(2)`, `sigwait(2)`).
fn take(signal: Signal) -> bool {
    // SAFETY: all-zero is a valid sigset_t.
    let mut pending: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live sigset_t.
    let answer = unsafe { libc::sigpending(&raw mut pending) };
    // SAFETY: the set is initialised and lives.
    if answer != 0 || unsafe { libc::sigismember(&raw const pending, signal as c_int) } != 1 {
        return false;
    }
    let one: SigSet = std::iter::once(signal).collect();
    one.wait().is_ok()
}
