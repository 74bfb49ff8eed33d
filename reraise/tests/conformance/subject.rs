//! What a case needs besides the trait: programs that both kinds of backend
//! can run, and a hand outside the supervisor.

use std::time::Duration;

use reraise::backend::{Event, Exit, Launch, ProcessBackend, ProcessId, Scope, Signal, Tree};

/// What a program does. Those that wait do so until they are killed, or until
/// the suite is gone; they announce that they have got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Exits(i32),
    DiesOf(Signal),
    Waits,
    IgnoresTerm,
    /// Waits, and so does a child of it.
    HasChild,
    /// Waits, and so does a child of it in a session of its own.
    HasDaemon,
    /// Ends when it has left a process behind that waits in a session of its own.
    LeavesDaemon,
    /// The same, and what it leaves has an empty environment and another title.
    LeavesBareDaemon,
    IsMissing,
    LacksInterpreter,
    IsNotExecutable,
}

/// A backend under test.
pub(crate) trait Subject: Sized {
    type Backend: ProcessBackend;

    fn new() -> Self;
    fn backend(&mut self) -> &mut Self::Backend;
    /// How the program is launched, marked as of this run.
    fn launch(&mut self, program: Program, run: u64) -> Launch;
    /// The supervisor goes, and another one takes its place.
    fn succeed(&mut self);
    /// A signal from elsewhere to us.
    fn signal_us(&mut self, signal: Signal);
    /// Waits until it has ended, without reaping it.
    fn await_zombie(&mut self, process: ProcessId);
    /// Takes one announcement out of the input.
    fn take_announcement(&mut self);
    /// Gives us input.
    fn announce(&mut self);
    /// A file of ours.
    fn our_file(&self) -> std::path::PathBuf;
    /// Our own pid.
    fn us(&self) -> i32;

    fn next(&mut self) -> Event {
        self.backend().next_event(None).unwrap()
    }

    /// Whatever has happened already.
    fn pending(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let now = self.backend().now();
        loop {
            match self.backend().next_event(Some(now)).unwrap() {
                Event::Deadline => return events,
                Event::Input => {
                    self.take_announcement();
                    events.push(Event::Input);
                }
                event => events.push(event),
            }
        }
    }

    fn spawn(&mut self, program: Program) -> ProcessId {
        let launch = self.launch(program, RUN);
        self.backend().spawn(launch.clone()).unwrap()
    }

    /// Launches a program that ends by itself.
    fn start(&mut self, program: Program) -> ProcessId {
        let process = self.spawn(program);
        self.backend().release(process).unwrap();
        assert_eq!(self.next(), Event::Launched(process));
        process
    }

    /// Waits until all of these have come, in whatever order.
    fn await_all(&mut self, wanted: &[Event]) {
        let mut wanted = wanted.to_vec();
        while !wanted.is_empty() {
            let event = self.next();
            let at = wanted.iter().position(|w| *w == event);
            wanted.remove(at.unwrap_or_else(|| panic!("unexpected: {event:?}")));
            if event == Event::Input {
                self.take_announcement();
            }
        }
    }

    fn await_announcement(&mut self) {
        self.await_all(&[Event::Input]);
    }

    /// Launches a program that waits, and waits until it does.
    fn start_waiting(&mut self, program: Program) -> ProcessId {
        self.start_run(program, RUN)
    }

    fn start_run(&mut self, program: Program, run: u64) -> ProcessId {
        let launch = self.launch(program, run);
        let process = self.backend().spawn(launch.clone()).unwrap();
        self.backend().release(process).unwrap();
        self.await_all(&[Event::Launched(process), Event::Input]);
        process
    }

    /// Launches a program that ends when it has left something behind.
    fn start_leaving(&mut self, program: Program) -> ProcessId {
        let process = self.spawn(program);
        self.backend().release(process).unwrap();
        let ended = Event::Ended(process, Exit::Code(0));
        self.await_all(&[Event::Launched(process), ended, Event::Input]);
        process
    }

    fn kill(&mut self, process: ProcessId) {
        assert!(self.backend().signal(process, Signal::SIGKILL).unwrap());
    }

    fn members(&mut self, tree: &Tree) -> Vec<ProcessId> {
        let mut members = self.backend().members(tree).unwrap();
        members.sort_unstable();
        members
    }

    /// The members besides the main process.
    fn others(&mut self, tree: &Tree) -> Vec<ProcessId> {
        let mut members = self.members(tree);
        members.retain(|m| *m != tree.main);
        members
    }

    /// Passes the time.
    fn pass(&mut self, time: Duration) {
        let end = self.backend().now() + time;
        assert_eq!(self.backend().next_event(Some(end)).unwrap(), Event::Deadline);
    }
}

/// The run of most cases.
pub(crate) const RUN: u64 = 0;

pub(crate) fn ours(main: ProcessId) -> Tree {
    Tree { main, run: run_number(RUN), is_ours: true, strays: Vec::new(), scope: Scope::Tree }
}

pub(crate) fn adopted(main: ProcessId) -> Tree {
    Tree { is_ours: false, ..ours(main) }
}

/// Runs of suites that go on at the same time differ.
pub(crate) fn run_number(run: u64) -> u64 {
    0xC0FF_EE00_0000_0000 | u64::from(std::process::id()) << 8 | run
}

pub(crate) fn killed() -> Exit {
    Exit::Signal { number: Signal::SIGKILL as i32, core: false }
}
