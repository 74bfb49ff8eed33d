//! A place for each test: directories, the programs run in them, facts to wait
//! for, and nothing left behind.

#[path = "guard.rs"]
mod guard;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use reraise::backend::{ProcessId, native};
use reraise::lock::{self, Holder};
use reraise::record::{Phase, Record};

/// How long any one fact is waited for. Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that starts successfully at once and then sleeps.
pub(crate) const SLEEPER: &str = "config_start_sec=0\nexec sleep 1000000";

/// Whether this is root, who can do what some tests need.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// For whoever reads about a test that failed.
#[expect(clippy::print_stdout, reason = "the harness keeps it for the report")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Says why a test, or the rest of it, is left out.
pub(crate) fn skipped(why: &str) {
    say(&format!("skipped: {why}"));
}

/// Says why a test was left out. Use: `if skip_unless_root("chown") { return; }`.
pub(crate) fn skip_unless_root(what: &str) -> bool {
    if !is_root() {
        skipped(&format!("{what} needs root"));
    }
    !is_root()
}

/// A user who is neither root nor us.
pub(crate) const STRANGER: u32 = 65534;

/// We, unless we are root: then somebody who is not.
pub(crate) fn ordinary() -> u32 {
    if is_root() { STRANGER } else { nix::unistd::geteuid().as_raw() }
}

/// A command as [`ordinary`] runs it.
pub(crate) fn as_ordinary(command: &mut Command) -> &mut Command {
    if is_root() { command.uid(ordinary()).gid(ordinary()) } else { command }
}

/// How a command ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// The exit code; 128 and the signal if one ended it.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// Fails unless it ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        // A program that panics ends with 101 and says so, whatever was expected.
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Fails unless this stands in its standard error.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.err.contains(words), "no {words:?} in {self:#?}");
        self
    }

    /// Fails unless this stands in its standard output.
    #[track_caller]
    pub(crate) fn says_out(self, words: &str) -> Self {
        assert!(self.out.contains(words), "no {words:?} in {self:#?}");
        self
    }

    /// Fails unless its standard output is this.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.out, text, "{self:#?}");
        self
    }
}

/// Directories of its own for a test, and the programs run in them. Whatever
/// has been started there is gone when it is dropped, and also when the test is
/// killed before, see [`guard`].
pub(crate) struct Sandbox {
    root: tempfile::TempDir,
    /// `$RERAISE_DIR`.
    pub(crate) d: PathBuf,
    /// `$RERAISE_PIDDIR`.
    pub(crate) p: PathBuf,
    /// `$RERAISE_LOGDIR`.
    pub(crate) l: PathBuf,
    /// Processes that nothing but their pid connects with the sandbox.
    known: RefCell<Vec<ProcessId>>,
    guarded: guard::Guarded,
}

impl Sandbox {
    /// An empty one.
    pub(crate) fn new() -> Self {
        // As getcwd(3) has it: on macOS the place for such things is behind a link.
        let place = std::env::temp_dir().canonicalize().unwrap();
        let root = tempfile::Builder::new().prefix("reraise-it-").tempdir_in(place).unwrap();
        let guarded = guard::Guarded::new(root.path());
        let at = |name: &str| root.path().join(name);
        let (d, p, l) = (at("d"), at("p"), at("l"));
        for path in [root.path(), &d, &p, &l, &at("home")] {
            if !path.is_dir() {
                fs::create_dir(path).unwrap();
            }
            // Whatever our umask: other users may look, and change nothing.
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { d, p, l, known: RefCell::new(Vec::new()), root, guarded }
    }

    /// A path in the sandbox.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// One of our programs with the sandbox's environment and nothing else.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.at("home"))
            .env("LANG", "C")
            .env("RERAISE_DIR", &self.d)
            .env("RERAISE_PIDDIR", &self.p)
            .env("RERAISE_LOGDIR", &self.l)
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// `reraise ARGUMENTS`, to be changed before it is run.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.program(reraise());
        command.args(arguments);
        command
    }

    /// Runs `reraise ARGUMENTS`.
    #[track_caller]
    pub(crate) fn reraise(&self, arguments: &[&str]) -> Done {
        self.run(&mut self.command(arguments))
    }

    /// Runs `reraise ARGUMENTS`, which must succeed and complain of nothing;
    /// what it prints.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.reraise(arguments).expect(0);
        assert_eq!(done.err, "", "{arguments:?}");
        done.out
    }

    /// Starts a service that starts successfully at once; its process.
    #[track_caller]
    pub(crate) fn up(&self, name: &str) -> i32 {
        assert_eq!(self.ok(&["start", name]), format!("{name}: start\n"));
        self.wait_phase(name, Phase::Run).pid.unwrap()
    }

    /// Runs a shell script; `$RERAISE` and `$AUTO_RERAISE` are the programs.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> Done {
        self.run(&mut self.shell_command(script))
    }

    /// The same, to be changed before it is run.
    pub(crate) fn shell_command(&self, script: &str) -> Command {
        let mut command = self.program("/bin/sh");
        command.args(["-c", script]).env("RERAISE", reraise()).env("AUTO_RERAISE", auto_reraise());
        command
    }

    /// Runs a command until it has ended and nobody holds its output any more.
    /// One that takes too long has failed.
    #[track_caller]
    pub(crate) fn run(&self, command: &mut Command) -> Done {
        finish(spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())), command)
    }

    /// Writes an executable starter script; without a first line of its own it
    /// is one for `/bin/sh`.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.d.join(name);
        let head = if body.starts_with("#!") { "" } else { "#!/bin/sh\n" };
        write_program(&path, &format!("{head}{body}\n"));
        path
    }

    /// A FIFO that services write their facts to.
    pub(crate) fn fifo(&self, name: &str) -> Fifo {
        Fifo::new(self.at(name))
    }

    /// The record of a service, if it has one.
    #[track_caller]
    pub(crate) fn record(&self, name: &str) -> Option<Record> {
        let me = nix::unistd::geteuid().as_raw();
        Record::read(&self.p.join(name), &[me]).unwrap()
    }

    /// `.reraise-UID`.
    pub(crate) fn state(&self) -> PathBuf {
        self.p.join(format!(".reraise-{}", nix::unistd::geteuid()))
    }

    /// The process of a service that runs.
    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> i32 {
        wait_some(&format!("the pid of {name}"), || self.record(name)?.pid)
    }

    /// The worker of a service, if it has one: whoever holds its lock.
    pub(crate) fn find_worker(&self, name: &str) -> Option<i32> {
        holder(&self.state().join("s").join(name).join("lock"))
    }

    /// The worker of a service.
    #[track_caller]
    pub(crate) fn worker(&self, name: &str) -> i32 {
        wait_some(&format!("the worker of {name}"), || self.find_worker(name))
    }

    /// The keeper, if there is one: whoever holds its lock.
    pub(crate) fn find_keeper(&self) -> Option<i32> {
        holder(&self.state().join("keeper.lock"))
    }

    /// The keeper.
    #[track_caller]
    pub(crate) fn keeper(&self) -> i32 {
        wait_some("the keeper", || self.find_keeper())
    }

    /// Waits until the record says this.
    #[track_caller]
    pub(crate) fn wait_phase(&self, name: &str, phase: Phase) -> Record {
        wait_some(&format!("{phase:?} of {name}"), || {
            self.record(name).filter(|r| r.phase == phase)
        })
    }

    /// Waits until a service runs in another process than this one, and has
    /// been raised according to its record.
    #[track_caller]
    pub(crate) fn wait_raised(&self, name: &str, old: i32) -> i32 {
        wait_some(&format!("{name} to be raised"), || {
            let record = self.record(name)?;
            let is_up = matches!(record.phase, Phase::Run | Phase::Start);
            record.pid.filter(|&pid| is_up && pid != old && is_alive(pid))
        })
    }

    /// The first line of a service's `status`, its state alone.
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> String {
        let out = self.reraise(&["status", name]).out;
        out.split_whitespace().nth(1).unwrap_or_else(|| panic!("status: {out:?}")).to_owned()
    }

    /// What a service has written to its log.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.l.join(name).join("current")).unwrap_or_default()
    }

    /// What keeper and workers had to say.
    pub(crate) fn messages(&self) -> String {
        fs::read_to_string(self.state().join("messages")).unwrap_or_default()
    }

    /// Copies of the programs that every user can reach; `reraise`.
    pub(crate) fn public_programs(&self) -> PathBuf {
        let dir = self.at("bin");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        for program in [reraise(), auto_reraise()] {
            let copy = dir.join(Path::new(&program).file_name().unwrap());
            fs::copy(&program, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        }
        dir.join("reraise")
    }

    /// For root: a file becomes that of [`ordinary`].
    pub(crate) fn give(&self, path: &Path) {
        if is_root() {
            std::os::unix::fs::lchown(path, Some(ordinary()), Some(ordinary())).unwrap();
        }
    }

    /// For root: all directories become those of [`ordinary`].
    pub(crate) fn give_all(&self) {
        for path in [&self.at(""), &self.d, &self.p, &self.l, &self.at("home")] {
            self.give(path);
        }
    }

    /// A process that must be gone at the end, although nothing shows that it
    /// belongs to the sandbox.
    pub(crate) fn knows(&self, pid: i32) -> i32 {
        // A bare pid may be another test's by the time that it is killed here.
        if let Some(born) = native::born(pid).unwrap() {
            let known = ProcessId { pid, born };
            self.known.borrow_mut().push(known);
            self.guarded.knows(known);
        }
        pid
    }

    /// All processes of the sandbox. While a process executes another program
    /// it shows nothing for a moment, so that only a second look is sure.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        processes_in(self.root.path(), &self.known.borrow())
    }

    /// Kills keeper and workers so that none can replace another.
    pub(crate) fn kill_supervisors(&self, names: &[&str]) {
        let mut all: Vec<i32> = names.iter().map(|name| self.worker(name)).collect();
        all.insert(0, self.keeper());
        for pid in &all {
            signal(*pid, Signal::SIGSTOP);
        }
        for pid in &all {
            signal(*pid, Signal::SIGKILL);
        }
        all.into_iter().for_each(wait_gone);
    }

    /// Ends all processes of the sandbox at once: first nobody can act any more,
    /// then all are killed.
    pub(crate) fn kill_all(&self) {
        end_all(self.root.path(), &self.known.borrow());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let messages = self.messages();
            say(&format!("messages of keeper and workers:\n{messages}"));
            let all = self.processes();
            say(&format!("processes: {all:?}"));
            all.into_iter().for_each(|pid| say(&about(pid)));
        }
        let end = Instant::now() + LIMIT;
        loop {
            self.kill_all();
            let left = self.processes();
            if left.is_empty() && self.processes().is_empty() {
                return;
            }
            if Instant::now() >= end {
                if !std::thread::panicking() {
                    panic!("processes {left:?} could not be ended");
                }
                return;
            }
            pause();
        }
    }
}

/// See [`Sandbox::processes`].
fn processes_in(root: &Path, known: &[ProcessId]) -> BTreeSet<i32> {
    let all = native::processes().unwrap();
    let me = std::process::id().cast_signed();
    let mark = [b"RERAISE_PIDDIR=", root.join("p").as_os_str().as_encoded_bytes()].concat();
    let path = root.as_os_str().as_encoded_bytes();
    let has_path = |pid: i32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|text| text.windows(path.len()).any(|part| part == path))
    };
    // A worker whose keeper another worker started has neither, but its lock.
    let has_open = |pid: i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if !program.ends_with("auto-reraise") {
            return false;
        }
        let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        let mut targets = all.flatten().flat_map(|e| fs::read_link(e.path()));
        targets.any(|target| target.starts_with(root))
    };
    let is_marked = |pid: i32| {
        native::carries(pid, &mark)
            || ["cmdline", "environ"].into_iter().any(|file| has_path(pid, file))
            || has_open(pid)
    };
    let mut ours: BTreeSet<i32> = all.iter().map(|p| p.pid).filter(|&pid| is_marked(pid)).collect();
    let is_still = |known: &&ProcessId| native::born(known.pid).unwrap() == Some(known.born);
    ours.extend(known.iter().filter(is_still).map(|known| known.pid));
    ours.remove(&me);
    loop {
        let before = ours.len();
        let belongs = |p: &&native::Process| ours.contains(&p.ppid) || ours.contains(&p.sid);
        let more: Vec<i32> = all.iter().filter(belongs).map(|p| p.pid).collect();
        ours.extend(more.into_iter().filter(|&pid| pid != me));
        if ours.len() == before {
            return ours;
        }
    }
}

/// See [`Sandbox::kill_all`].
fn end_all(root: &Path, known: &[ProcessId]) {
    let mut stopped = BTreeSet::new();
    loop {
        let found = processes_in(root, known);
        let new: Vec<i32> = found.difference(&stopped).copied().collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            stopped.insert(pid);
        }
    }
    for &pid in &stopped {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// What procfs says about a process, for whoever wonders why it is still there.
fn about(pid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let wanted = ["State", "PPid", "ShdPnd", "SigPnd", "SigBlk", "SigIgn"];
    let status = read("status");
    let lines = status.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w)));
    let facts: Vec<&str> = lines.collect();
    format!("{pid} {:?} at {:?}: {}", read("cmdline"), read("wchan"), facts.join(", "))
}

fn holder(path: &Path) -> Option<i32> {
    match lock::holder_of(path, lock::ALIVE) {
        Ok(Holder::Pid(pid)) => Some(pid),
        _ => None,
    }
}

/// The program `reraise`, also when the tests run from an archive.
pub(crate) fn reraise() -> OsString {
    let moved = std::env::var_os("NEXTEST_BIN_EXE_reraise");
    moved.unwrap_or_else(|| env!("CARGO_BIN_EXE_reraise").into())
}

/// The program `auto-reraise`.
pub(crate) fn auto_reraise() -> OsString {
    let moved = std::env::var_os("NEXTEST_BIN_EXE_auto-reraise");
    moved.unwrap_or_else(|| env!("CARGO_BIN_EXE_auto-reraise").into())
}

/// Writes a file that can be executed at once. Another test that forks while it
/// is open would make that `ETXTBSY`, so that it is written elsewhere and by
/// another process.
pub(crate) fn write_program(path: &Path, text: &str) {
    let new = path.with_file_name(format!(".{}.new", path.file_name().unwrap().to_string_lossy()));
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "umask 022; cat >\"$1\" && chmod 755 \"$1\" && mv -f \"$1\" \"$2\"", "sh"])
        .args([&new, path])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut writer.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// A command that has been started, and ends with the sandbox if not before.
#[track_caller]
pub(crate) fn spawn(command: &mut Command) -> std::process::Child {
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Waits for a command's end and for the end of its output.
#[track_caller]
pub(crate) fn finish(child: std::process::Child, command: &Command) -> Done {
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap().into(),
        Err(_) => {
            let is_running = is_alive(pid.as_raw());
            let _ = kill(pid, Signal::SIGKILL);
            let what = if is_running { "runs" } else { "has ended, but its output is held open" };
            let words: Vec<_> = command.get_args().collect();
            panic!("after {PATIENCE:?}, {:?} {words:?} {what}", command.get_program());
        }
    }
}

/// Whether a process lives; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    native::born(pid).unwrap().is_some()
}

/// Sends a signal to a process that must be there.
#[track_caller]
pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
}

/// Lets others run for a moment. Not for waiting until something has happened
/// by itself: for looking at a fact again.
pub(crate) fn pause() {
    let _ = poll(&mut [], PollTimeout::from(1_u8));
}

/// Waits until something can be seen.
#[track_caller]
pub(crate) fn wait_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "waited for {what} in vain");
        pause();
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_some(what, || is_so().then_some(()));
}

/// Waits for the end of a process.
#[track_caller]
pub(crate) fn wait_gone(pid: i32) {
    wait_for(&format!("the end of process {pid}"), || !is_alive(pid));
}

/// Fails when this can be read from within the time given: the other tests wait
/// for facts, and this one for the absence of any.
pub(crate) fn is_quiet(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap() == 0
}

/// A FIFO that is read here; whoever writes to it never waits.
pub(crate) struct Fifo {
    pub(crate) path: PathBuf,
    file: File,
    rest: RefCell<Vec<u8>>,
}

impl Fifo {
    fn new(path: PathBuf) -> Self {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o622)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o622)).unwrap();
        let mut options = OpenOptions::new();
        // Read-write: there is never an end, and writers need no other reader.
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        Self { path, file: file.unwrap(), rest: RefCell::new(Vec::new()) }
    }

    /// For a script: `echo up >PATH`.
    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// The next line, without its end.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let mut rest = self.rest.borrow_mut();
            if let Some(at) = rest.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = rest.drain(..=at).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            let shown = String::from_utf8_lossy(&rest).into_owned();
            assert!(!left.is_zero(), "waited for a line in vain: {} {shown:?}", self.shown());
            is_quiet(self.file.as_fd(), left);
            let mut buffer = [0; 4096];
            if let Ok(got) = (&self.file).read(&mut buffer) {
                rest.extend_from_slice(&buffer[..got]);
            }
        }
    }

    /// The next line, a number.
    #[track_caller]
    pub(crate) fn number(&self) -> i32 {
        let line = self.line();
        line.trim().parse().unwrap_or_else(|_| panic!("no number: {line:?}"))
    }

    /// Whether nothing has been written, and nothing is within the time given.
    pub(crate) fn is_silent(&self, time: Duration) -> bool {
        self.rest.borrow().is_empty() && is_quiet(self.file.as_fd(), time)
    }
}
