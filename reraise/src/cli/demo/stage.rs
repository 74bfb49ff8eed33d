//! Where the demonstration takes place: a private directory, the commands that
//! are run in it, and the processes that come of them. Ctrl-C is an event here,
//! so that [`Stage::clear`] is always reached.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;

use reraise::backend::ProcessId;
use reraise::backend::native::{EventQueue, QueueEvent, born, carries, processes, send};
use reraise::error::{ExitCode, Fault, reason};
use reraise::lock::{self, Holder};
use reraise::record::Record;
use reraise::{paths, skeleton};

use super::console;

/// How long a fact is waited for. It is there in milliseconds; a machine may be
/// busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the record is looked at while its change is waited for.
const LOOK: Duration = Duration::from_micros(500);
/// Marks every process of the demonstration in its environment.
const MARK: &str = "RERAISE_DEMO";

const TICKER: &str = "\
#!/bin/sh
config_start_sec=0.2
while echo tick; do sleep 1; done
";

/// See the module.
pub(crate) struct Stage {
    dir: PathBuf,
    program: PathBuf,
    queue: EventQueue,
    /// The FIFO that each run of web writes its port into.
    port: Option<File>,
    heard: Vec<u8>,
    /// Whoever was seen to belong to the demonstration.
    seen: BTreeSet<ProcessId>,
    has_started: bool,
}

/// A run of the web server, as it said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Web {
    pub(crate) port: u16,
    pub(crate) pid: i32,
}

/// A promise that was not kept.
pub(crate) fn broken(what: impl std::fmt::Display) -> Fault {
    Fault::new(ExitCode::Failed, "demo", what, "see what is wrong here: reraise doctor")
}

fn failed(what: &str) -> impl Fn(io::Error) -> Fault {
    move |e| Fault::system("demo", what, &e)
}

impl Stage {
    /// Makes the directory, and takes signals from now on.
    pub(crate) fn new() -> Result<Self, Fault> {
        let program = std::env::current_exe().map_err(failed("cannot find its own program"))?;
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let queue = EventQueue::new(&signals).map_err(failed("cannot take signals"))?;
        let top = std::path::absolute(std::env::temp_dir()).map_err(failed("has no directory"))?;
        let dir = nix::unistd::mkdtemp(&top.join("reraise-demo-XXXXXX")).map_err(|e| {
            let what =
                format!("cannot make a directory in {}: {}", top.display(), reason(&e.into()));
            Fault::new(ExitCode::System, "demo", what, "choose another: TMPDIR=DIR reraise demo")
        })?;
        let (heard, seen) = (Vec::new(), BTreeSet::new());
        Ok(Self { dir, program, queue, port: None, heard, seen, has_started: false })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the starter scripts.
    pub(crate) fn write_services(&mut self) -> Result<(), Fault> {
        let fifo = self.dir.join("port");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|e| failed("cannot make a FIFO")(e.into()))?;
        // Writing too: so it never has an end, whoever opens and closes it.
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let port = options.open(&fifo).map_err(failed("cannot open a FIFO"))?;
        self.queue.watch_readable(port.as_fd(), 1).map_err(failed("cannot wait"))?;
        self.port = Some(port);

        let command: [OsString; 3] =
            [self.program.clone().into(), crate::cli::DEMO_SERVER.into(), fifo.into()];
        let web = skeleton::skeleton_for(&command, Path::new("/")).map_err(broken)?;
        // So young a service counts as started, and is raised when it falls.
        let head = b"#!/bin/sh\n";
        let rest = web.strip_prefix(head).unwrap_or(&web);
        let web = [head, b"config_start_sec=0.2\n".as_slice(), rest].concat();
        let scripts = self.dir.join("d");
        let cannot = failed("cannot write its services");
        fs::create_dir(&scripts).map_err(&cannot)?;
        for (name, text) in [("web", web.as_slice()), ("ticker", TICKER.as_bytes())] {
            let path = scripts.join(name);
            fs::write(&path, text).map_err(&cannot)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(&cannot)?;
        }
        Ok(())
    }

    /// Runs `reraise WORDS`, and shows it and what it says.
    pub(crate) fn command(&mut self, words: &[&str]) -> Result<(), Fault> {
        self.check_signals()?;
        let shown = words.join(" ").replace('*', "'*'");
        console::line(&format!("$ reraise {shown}"));
        console::flush();
        let (status, said) = self.run(words)?;
        // An empty line parts it from what follows; a stop is followed by its proof.
        let end = if words[0] == "status" { "\n" } else { "" };
        console::line(&format!("{}{end}", said.trim_end()));
        self.check_signals()?;
        if !status.success() {
            return Err(broken(format!("reraise {shown} failed ({status})")));
        }
        self.family().map(|_| ())
    }

    fn run(&mut self, words: &[&str]) -> Result<(ExitStatus, String), Fault> {
        let cannot = failed("cannot run reraise");
        let (mut ours, theirs) = io::pipe().map_err(&cannot)?;
        let mut command = Command::new(&self.program);
        for (option, name) in [("--dir", "d"), ("--piddir", "p"), ("--logdir", "l")] {
            command.arg(option).arg(self.dir.join(name));
        }
        command.args(words).env(MARK, &self.dir).stdin(Stdio::null());
        command.stderr(theirs.try_clone().map_err(&cannot)?).stdout(theirs);
        // What we block to hear of it would stay blocked in all that comes of it.
        let unblock = || SigSet::all().thread_unblock().map_err(io::Error::from);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(unblock) };
        self.has_started = true;
        let mut child = command.spawn().map_err(&cannot)?;
        // Our copies of the pipe's end.
        drop(command);
        let mut said = Vec::new();
        ours.read_to_end(&mut said).map_err(&cannot)?;
        let status = child.wait().map_err(&cannot)?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }

    /// Waits for a web server to say where it serves.
    pub(crate) fn next_web(&mut self) -> Result<Web, Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.heard.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=at).collect();
                let text = String::from_utf8_lossy(&line);
                let web = text.trim_end().split_once(' ').and_then(|(port, pid)| {
                    Some(Web { port: port.parse().ok()?, pid: pid.parse().ok()? })
                });
                return web.ok_or_else(|| broken(format!("the web server said {text:?}")));
            }
            let left = end.saturating_duration_since(Instant::now());
            if !self.event(left)? {
                return Err(broken("no web server has come up"));
            }
        }
    }

    /// The service and its worker, as its record says.
    pub(crate) fn service(&self, name: &str) -> Result<(ProcessId, ProcessId), Fault> {
        let me = nix::unistd::geteuid().as_raw();
        let record = Record::read(&self.piddir().join(name), &[me])
            .map_err(|trouble| broken(format!("{name}: {trouble}")))?;
        let both = record.and_then(|r| Some((r.process()?, r.worker_process()?)));
        both.ok_or_else(|| broken(format!("{name} does not run")))
    }

    /// Waits until the record of web names what `is_so` wants.
    pub(crate) fn until_recorded(
        &mut self,
        otherwise: &str,
        is_so: impl Fn(i32, i32) -> bool,
    ) -> Result<(), Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok((service, worker)) = self.service("web")
                && is_so(service.pid, worker.pid)
            {
                return self.family().map(|_| ());
            }
            if Instant::now() > end {
                return Err(broken(otherwise));
            }
            self.event(LOOK)?;
        }
    }

    /// Kills a process, and says when.
    pub(crate) fn kill(&mut self, process: ProcessId, why: &str) -> Result<Instant, Fault> {
        self.check_signals()?;
        console::line(&format!("{:<24} # {why}", format!("$ kill -9 {}", process.pid)));
        console::flush();
        let now = Instant::now();
        match send(process.pid, process.born, Signal::SIGKILL) {
            Ok(true) => Ok(now),
            Ok(false) => Err(broken(format!("process {} was gone already", process.pid))),
            Err(e) => Err(failed("cannot kill its own process")(e)),
        }
    }

    /// Everything that lives and belongs to the demonstration.
    pub(crate) fn family(&mut self) -> Result<BTreeSet<ProcessId>, Fault> {
        let all = processes().map_err(failed("cannot list processes"))?;
        let us = std::process::id().cast_signed();
        let mark = [MARK.as_bytes(), b"=", self.dir.as_os_str().as_bytes()].concat();
        let lock =
            paths::state_of(&self.piddir(), nix::unistd::geteuid().as_raw()).join("keeper.lock");
        let mut pids: BTreeSet<i32> =
            self.seen.iter().filter(|p| lives(p)).map(|p| p.pid).collect();
        pids.extend(all.iter().map(|p| p.pid).filter(|&pid| pid != us && carries(pid, &mark)));
        if let Ok(Holder::Pid(keeper)) = lock::holder_of(&lock, lock::ALIVE) {
            pids.insert(keeper);
        }
        for name in ["web", "ticker"] {
            let both = self.service(name).map_or(Vec::new(), |(a, b)| vec![a, b]);
            pids.extend(both.iter().filter(|p| lives(p)).map(|p| p.pid));
        }
        // Their descendants, however deep.
        let mut before = 0;
        while before != pids.len() {
            before = pids.len();
            pids.extend(
                all.iter().filter(|p| pids.contains(&p.ppid)).map(|p| p.pid).collect::<Vec<_>>(),
            );
        }
        let found: BTreeSet<ProcessId> = pids
            .into_iter()
            .filter_map(|pid| Some(ProcessId { pid, born: born(pid).ok()?? }))
            .collect();
        self.seen.extend(&found);
        Ok(found)
    }

    /// Waits until all of it has ended; who has not.
    pub(crate) fn until_gone(&mut self) -> Result<Vec<i32>, Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.family()?;
            let Some(one) = left.first() else { return Ok(Vec::new()) };
            let watched = self.queue.watch_process(one.pid, one.born);
            if watched.map_err(failed("cannot wait"))? {
                if Instant::now() > end {
                    return Ok(left.iter().map(|p| p.pid).collect());
                }
                // An interrupt changes nothing: this is how it all ends anyway.
                let left = end.saturating_duration_since(Instant::now());
                self.queue.next(Some(left)).map_err(failed("cannot wait"))?;
            }
        }
    }

    /// Ends what still runs, and removes the directory.
    pub(crate) fn clear(&mut self) -> Result<(), Fault> {
        let mut left = Vec::new();
        if self.has_started {
            if !self.family()?.is_empty() {
                self.run(&["stop", "--now", "*"])?;
                self.until_gone()?;
            }
            left = self.slay()?;
        }
        self.port = None;
        fs::remove_dir_all(&self.dir)
            .map_err(|e| Fault::system(self.dir.display(), "cannot be removed", &e))?;
        if left.is_empty() { Ok(()) } else { Err(broken(format!("cannot end {left:?}"))) }
    }

    /// The last resort, for a demonstration that went wrong.
    fn slay(&mut self) -> Result<Vec<i32>, Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.family()?;
            if left.is_empty() || Instant::now() > end {
                return Ok(left.iter().map(|p| p.pid).collect());
            }
            for process in &left {
                // One that is gone meanwhile is no trouble.
                let _ = send(process.pid, process.born, Signal::SIGKILL);
            }
            self.queue.next(Some(LOOK)).map_err(failed("cannot wait"))?;
        }
    }

    /// Shows what keeper and workers had to say, before it is removed.
    pub(crate) fn tell_messages(&self) {
        let state = paths::state_of(&self.piddir(), nix::unistd::geteuid().as_raw());
        let text = fs::read_to_string(state.join("messages")).unwrap_or_default();
        text.lines().for_each(|line| console::line(&format!("  {line}")));
    }

    fn piddir(&self) -> PathBuf {
        self.dir.join("p")
    }

    /// Waits for an event, and says whether there was one. A signal is a fault.
    fn event(&mut self, limit: Duration) -> Result<bool, Fault> {
        match self.queue.next(Some(limit)).map_err(failed("cannot wait"))? {
            None => return Ok(false),
            Some(QueueEvent::Signal(signal)) => {
                let what = format!("was interrupted by {signal}");
                let advice = "its services were stopped and its directory was removed";
                return Err(Fault::new(ExitCode::Failed, "demo", what, advice));
            }
            Some(QueueEvent::Readable(_)) => {
                let mut piece = [0; 64];
                match self.port.as_mut().map(|port| port.read(&mut piece)) {
                    Some(Ok(n)) => self.heard.extend_from_slice(&piece[..n]),
                    Some(Err(e)) if e.kind() != io::ErrorKind::WouldBlock => {
                        return Err(failed("cannot hear of the web server")(e));
                    }
                    _ => {}
                }
            }
            Some(QueueEvent::Ended { .. }) => {}
        }
        Ok(true)
    }

    fn check_signals(&mut self) -> Result<(), Fault> {
        while self.event(Duration::ZERO)? {}
        Ok(())
    }
}

fn lives(process: &ProcessId) -> bool {
    born(process.pid).ok().flatten() == Some(process.born)
}
