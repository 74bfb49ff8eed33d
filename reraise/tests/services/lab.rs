//! A service under observation: its tree, whether it answers, how soon.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use reraise::backend::{ProcessId, native};
use reraise::lock::{self, Holder};
use reraise::record::Record;

use crate::people::Person;
use crate::support::{LIMIT, Sandbox, is_alive, signal, wait_for, wait_some};

/// A successor that takes longer has been waited for by somebody.
const SOON: Duration = Duration::from_secs(5);

/// A service in a sandbox, perhaps of another owner than the one who commands.
pub(crate) struct Lab {
    pub(crate) s: Sandbox,
    name: &'static str,
    owner: Person,
}

impl Lab {
    /// A service of whoever runs the tests.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { s: Sandbox::new(), name, owner: Person::me() }
    }

    /// A service of an ordinary user; root becomes that user for it.
    pub(crate) fn of_ordinary_user(name: &'static str) -> Option<Self> {
        let owner = Person::ordinary()?;
        let s = Sandbox::new();
        if owner != Person::me() {
            // Where more than one user keeps records.
            fs::set_permissions(&s.p, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        Some(Self { s, name, owner })
    }

    pub(crate) fn owner(&self) -> &Person {
        &self.owner
    }

    /// A directory that belongs to the service.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.s.at(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        self.owner.give(&path);
        path
    }

    /// Writes the starter script.
    pub(crate) fn script(&self, body: &str) {
        self.owner.give(&self.s.script(self.name, body));
    }

    fn record(&self) -> Option<Record> {
        Record::read(&self.s.p.join(self.name), &[self.owner.uid]).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.s.p.join(format!(".reraise-{}", self.owner.uid))
    }

    /// What the service has written, wherever its owner may keep it.
    pub(crate) fn log(&self) -> String {
        let ours =
            if self.owner == Person::me() { self.s.l.clone() } else { self.state().join("log") };
        // It has said nothing yet, perhaps.
        fs::read_to_string(ours.join(self.name).join("current")).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        wait_some("the pid", || self.record()?.pid)
    }

    fn worker(&self) -> Option<i32> {
        let lock = self.state().join("s").join(self.name).join("lock");
        match lock::holder_of(&lock, lock::ALIVE) {
            Ok(Holder::Pid(pid)) => Some(pid),
            _ => None,
        }
    }

    /// The main process and all its descendants.
    #[track_caller]
    pub(crate) fn tree(&self) -> Vec<ProcessId> {
        let mut pids = vec![self.pid()];
        let all = native::processes().unwrap();
        let mut next = 0;
        while let Some(&parent) = pids.get(next) {
            pids.extend(all.iter().filter(|p| p.ppid == parent).map(|p| p.pid));
            next += 1;
        }
        let known = |pid| Some(ProcessId { pid, born: native::born(pid).unwrap()? });
        pids.into_iter().filter_map(known).collect()
    }

    /// Starts it and waits for its first answer.
    #[track_caller]
    pub(crate) fn start(&self, ping: impl FnMut() -> bool) {
        let begun = Instant::now();
        assert_eq!(self.s.ok(&["start", self.name]), format!("{}: start\n", self.name));
        self.answers(ping);
        println!("{}: answers {:?} after start", self.name, begun.elapsed());
        self.runs();
    }

    #[track_caller]
    fn answers(&self, ping: impl FnMut() -> bool) {
        wait_for(&format!("an answer of {}\n{}", self.name, self.log()), ping);
    }

    /// `start` and an adoption are over a moment before this is so.
    #[track_caller]
    fn runs(&self) {
        wait_for("running", || self.s.status(self.name) == "running");
    }

    /// Kills the main process alone, waits until a successor answers, and sees
    /// that nothing of the old tree is left then.
    #[track_caller]
    pub(crate) fn kill_and_see_it_raised(&self, mut ping: impl FnMut() -> bool) {
        let old = self.tree();
        let main = old[0].pid;
        let begun = Instant::now();
        signal(main, Signal::SIGKILL);
        let new = spin("a successor", || self.record()?.pid.filter(|&pid| pid != main));
        let raised = begun.elapsed();
        spin("an answer", || ping().then_some(()));
        let answered = begun.elapsed();
        println!(
            "{}: {main} and {} more gone, raised as {new} after {raised:?}, answers after {answered:?}",
            self.name,
            old.len() - 1
        );
        assert!(raised < SOON, "raised only after {raised:?}");
        assert_eq!(alive(&old), [], "left of the run before");
        assert_eq!(self.pid(), new, "raised twice");
    }

    /// Kills the worker alone: the service must not notice.
    #[track_caller]
    pub(crate) fn kill_worker(&self, mut ping: impl FnMut() -> bool) {
        let (tree, worker) = (self.tree(), self.worker().unwrap());
        signal(worker, Signal::SIGKILL);
        wait_for("another worker", || {
            let new = self.worker().filter(|&new| new != worker);
            new.is_some() && self.record().is_some_and(|record| record.worker == new)
        });
        assert_eq!(self.pid(), tree[0].pid);
        // Some of the others may have been about to end: who served the last ping.
        assert_eq!(alive(&tree[..1]), tree[..1]);
        assert!(ping());
        self.runs();
    }

    /// Restarts it.
    #[track_caller]
    pub(crate) fn restart(&self, ping: impl FnMut() -> bool) {
        let old = self.tree();
        let worker = self.worker().unwrap();
        let said = self.s.ok(&["restart", self.name]);
        assert_eq!(said, format!("{}: restart    # (worker-pid={worker})\n", self.name));
        assert_eq!(alive(&old), [], "left of the run before");
        self.answers(ping);
        assert_ne!(self.pid(), old[0].pid);
    }

    /// Stops it: when the command returns, nothing is left.
    #[track_caller]
    pub(crate) fn stop(&self, mut ping: impl FnMut() -> bool) {
        let (tree, worker) = (self.tree(), self.worker().unwrap());
        let begun = Instant::now();
        let said = self.s.ok(&["stop", self.name]);
        assert_eq!(said, format!("{}: stop    # (worker-pid={worker})\n", self.name));
        assert_eq!(alive(&tree), [], "left after stop");
        println!("{}: {} processes gone {:?} after stop", self.name, tree.len(), begun.elapsed());
        assert!(!ping());
        assert_eq!(self.record(), None);
        self.s.reraise(&["status", self.name]).expect(3);
        // Worker and keeper have nothing to do any more.
        wait_for("the end of worker and keeper", || self.s.processes().is_empty());
        assert!(!is_alive(worker));
    }
}

/// Waits for a moment that is to be measured.
#[track_caller]
fn spin<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::yield_now();
    }
}

/// Those that still live.
fn alive(processes: &[ProcessId]) -> Vec<ProcessId> {
    let lives = |p: &&ProcessId| native::born(p.pid).unwrap() == Some(p.born);
    processes.iter().filter(lives).copied().collect()
}

/// A port that nobody listens to.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Says something to a server on this machine; what it answers, up to the end of
/// one read.
pub(crate) fn ask_tcp(port: u16, words: &[u8]) -> Option<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask(stream, words)
}

/// The same through a socket in the file system.
pub(crate) fn ask_unix(path: &Path, words: &[u8]) -> Option<String> {
    let stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask(stream, words)
}

fn ask(mut stream: impl Read + Write, words: &[u8]) -> Option<String> {
    stream.write_all(words).ok()?;
    let mut buffer = [0; 4096];
    let got = stream.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..got]).into_owned())
}
