//! A worker, or the keeper, is killed before each of its calls to the system in
//! turn, while it does something. Whatever the moment: one run if one is wanted and
//! none if not, no run is ended for it, and nothing is left behind.
//!
//! A call that nobody else can see is passed over: whoever is killed before it has
//! left the same as one that is killed before the next.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use reraise::record::Phase;

use crate::support::{
    Done, Fifo, LIMIT, Sandbox, auto_reraise, finish, is_alive, pause, reraise, say, signal,
    skipped, spawn, wait_for, wait_gone, wait_some,
};

/// Calls of which nobody else can tell whether they were made, once whoever made
/// them is dead.
const INVISIBLE: [libc::c_long; 42] = [
    libc::SYS_brk,
    libc::SYS_chdir,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_pidfd_open,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_umask,
];

/// The older ones, which some architectures never had.
#[cfg(target_arch = "x86_64")]
const INVISIBLE_TOO: [libc::c_long; 7] = [
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
];
#[cfg(not(target_arch = "x86_64"))]
const INVISIBLE_TOO: [libc::c_long; 0] = [];

/// A process that we hold by ptrace(2).
pub(crate) struct Traced(Pid);

/// A call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    /// Whether somebody else can tell that it was made.
    fn is_visible(&self) -> bool {
        let makes = (libc::O_CREAT | libc::O_TRUNC) as u64;
        let locks = [libc::F_SETLK, libc::F_SETLKW].map(|how| how as u64);
        let is_look = match self.number {
            libc::SYS_openat => self.arguments[2] & makes == 0,
            libc::SYS_fcntl => !locks.contains(&self.arguments[1]),
            _ => false,
        };
        !is_look && !INVISIBLE.contains(&self.number) && !INVISIBLE_TOO.contains(&self.number)
    }
}

enum Next {
    /// It is about to make this call.
    Call(Call),
    /// It has forked this process, which is held as well.
    Forked(Pid),
    /// What was waited for has come, and it has been let go.
    Free,
    /// It has ended.
    Ended,
}

/// The first call of a worker after it has let a process through its gate.
pub(crate) fn after_the_gate() -> impl Fn(&Call) -> bool {
    let is_open = std::cell::Cell::new(false);
    move |call| {
        // A single byte.
        let is_key = call.number == libc::SYS_write && call.arguments[2] == 1;
        is_open.replace(is_open.get() || is_key)
    }
}

/// What became of whoever was to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    /// It was through before.
    Through,
}

impl Traced {
    /// Holds a process from now on; `None` where we may not.
    pub(crate) fn seize(pid: i32, options: Options) -> Option<Self> {
        match ptrace::seize(Pid::from_raw(pid), options | Options::PTRACE_O_TRACESYSGOOD) {
            Ok(()) => Some(Self(Pid::from_raw(pid))),
            Err(e @ (Errno::EPERM | Errno::ENOSYS)) => {
                skipped(&format!("ptrace is not permitted here: {e}"));
                None
            }
            Err(e) => panic!("ptrace of {pid}: {e}"),
        }
    }

    /// The same, and it stands still.
    pub(crate) fn stop(pid: i32) -> Option<Self> {
        let traced = Self::seize(pid, Options::empty())?;
        ptrace::interrupt(traced.0).unwrap();
        waitpid(traced.0, Some(WaitPidFlag::__WALL)).unwrap();
        Some(traced)
    }

    /// Lets it go on to the next event.
    fn next(&self, resume: bool, is_enough: &mut impl FnMut() -> bool) -> Next {
        let end = Instant::now() + LIMIT;
        if resume {
            // It may have been killed by somebody else.
            let _ = ptrace::syscall(self.0, None);
        }
        let mut looks = 0;
        loop {
            let signal =
                match waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                    WaitStatus::StillAlive => {
                        looks += 1;
                        if looks < 200 {
                            std::thread::yield_now();
                            continue;
                        }
                        if is_enough() {
                            return self.let_go();
                        }
                        assert!(Instant::now() < end, "{} does nothing any more", self.0);
                        pause();
                        continue;
                    }
                    WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Next::Ended,
                    WaitStatus::PtraceSyscall(_) => match entered(self.0) {
                        Some(call) => return Next::Call(call),
                        None => None,
                    },
                    WaitStatus::PtraceEvent(
                        _,
                        _,
                        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE,
                    ) => {
                        let child = ptrace::getevent(self.0).unwrap();
                        return Next::Forked(Pid::from_raw(i32::try_from(child).unwrap()));
                    }
                    WaitStatus::Stopped(_, signal) => Some(signal),
                    _ => None,
                };
            let _ = ptrace::syscall(self.0, signal);
        }
    }

    fn let_go(&self) -> Next {
        ptrace::interrupt(self.0).unwrap();
        match waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Next::Ended,
            _ => {
                ptrace::detach(self.0, None).unwrap();
                Next::Free
            }
        }
    }

    /// Kills it before it makes one of these calls; nobody hears of that yet.
    fn kill_before(&self, one: libc::c_long, other: libc::c_long) {
        loop {
            match self.next(true, &mut || false) {
                Next::Call(call) if [one, other].contains(&call.number) => break,
                Next::Call(_) | Next::Forked(_) => {}
                Next::Free | Next::Ended => panic!("it never makes that call"),
            }
        }
        kill(self.0, Signal::SIGKILL).unwrap();
    }

    /// Waits until it is dead, after it was killed. Its parent hears of that when we
    /// have.
    fn bury(&self) {
        while !matches!(self.next(false, &mut || false), Next::Ended) {}
    }

    /// Kills it before it makes a visible call for the n-th time, unless it has had
    /// enough before.
    fn kill_at(&self, calls: usize, is_enough: impl FnMut() -> bool) -> End {
        self.kill_at_one(Call::is_visible, calls, is_enough)
    }

    /// The same for calls of some kind.
    pub(crate) fn kill_at_one(
        &self,
        is_one: impl Fn(&Call) -> bool,
        calls: usize,
        mut is_enough: impl FnMut() -> bool,
    ) -> End {
        let mut left = calls;
        loop {
            match self.next(true, &mut is_enough) {
                Next::Call(call) if !is_one(&call) => {}
                Next::Call(_) if left > 0 => left -= 1,
                Next::Call(_) => {
                    kill(self.0, Signal::SIGKILL).unwrap();
                    self.bury();
                    return End::Killed;
                }
                Next::Forked(_) => {}
                Next::Free | Next::Ended => return End::Through,
            }
        }
    }
}

/// The call that a process is about to make; `None` when it comes from one.
fn entered(pid: Pid) -> Option<Call> {
    // SAFETY: all-zero is a valid value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to it.
    let got =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid.as_raw(), size, &raw mut info) };
    if got <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: that is what `op` says is there.
    let entry = unsafe { info.u.entry };
    Some(Call { number: entry.nr.cast_signed() as libc::c_long, arguments: entry.args })
}

/// A sandbox with a service that keeps its keeper there.
struct Scene {
    s: Sandbox,
    /// Each run writes its pid here.
    runs: Fifo,
    begun: Instant,
}

/// On a machine that is busy with something else, the last calls are left out.
const ENOUGH: Duration = Duration::from_secs(12);

impl Scene {
    fn new() -> Self {
        let s = Sandbox::new();
        let runs = s.fifo("runs");
        s.script(
            "web",
            &format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000000", runs.shown()),
        );
        let scene = Self { s, runs, begun: Instant::now() };
        let pid = scene.s.up("web");
        assert_eq!(scene.runs.number(), pid);
        scene
    }

    fn is_late(&self, calls: usize) -> bool {
        let is_late = calls > 5 && self.begun.elapsed() > ENOUGH;
        if is_late {
            skipped("the last calls, since the machine is slow");
        }
        is_late
    }

    /// Another service like it.
    fn another(&self, number: usize) -> String {
        let name = format!("web-{number}");
        symlink("web", self.s.d.join(&name)).unwrap();
        name
    }

    /// The same, which runs; its process.
    fn running(&self, number: usize) -> (String, i32) {
        let name = self.another(number);
        let pid = self.s.up(&name);
        assert_eq!(self.runs.number(), pid);
        (name, pid)
    }

    fn command(&self, words: &[&str]) -> (Command, Child) {
        let mut command = self.s.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(&mut command);
        (command, child)
    }

    /// The runs that have said so, and live.
    fn heard(&self) -> Vec<i32> {
        let mut all = Vec::new();
        while !self.runs.is_silent(Duration::ZERO) {
            all.push(self.runs.number());
        }
        all.retain(|&pid| is_alive(pid));
        all
    }

    /// Waits until it runs, once, and the record says so; its process.
    fn settled(&self, name: &str, killed: i32, mut heard: Vec<i32>, case: &str) -> i32 {
        let survivor = heard.first().copied();
        let record = wait_some(&format!("{name} to run again: {case}"), || {
            let record = self.s.record(name)?;
            let worker = self.s.find_worker(name).filter(|&worker| worker != killed);
            let is_up = record.phase == Phase::Run && record.pid.is_some_and(is_alive);
            (is_up && worker.is_some() && record.worker == worker).then_some(record)
        });
        let pid = record.pid.unwrap();
        while !heard.contains(&pid) {
            heard.push(self.runs.number());
        }
        heard.retain(|&pid| is_alive(pid));
        assert_eq!(heard, [pid], "{case}");
        assert!(survivor.is_none_or(|one| one == pid), "{case}: {survivor:?} was replaced");
        pid
    }

    /// Nothing is left of it, nor will be.
    fn gone(&self, name: &str, pids: &[i32], case: &str) {
        wait_for(&format!("its worker to end: {case}"), || self.s.find_worker(name).is_none());
        assert!(!pids.iter().any(|&pid| is_alive(pid)), "{case}");
        assert!(self.heard().is_empty(), "{case}");
        assert_eq!(self.s.record(name), None, "{case}");
        assert_eq!(self.s.status(name), "not-running", "{case}");
    }

    /// Nothing at all is left.
    fn end(self, calls: usize) {
        say(&format!("{calls} calls"));
        assert!(calls > 5, "only {calls} calls");
        self.s.ok(&["stop", "*"]);
        wait_for("nothing to be left", || self.s.processes().is_empty());
    }
}

/// For a keeper whose next worker is to be held.
pub(crate) const FORKS: Options = Options::PTRACE_O_TRACEFORK.union(Options::PTRACE_O_TRACECLONE);

/// Lets a keeper go on until it has forked a worker, which is held from its first call.
pub(crate) fn forked(keeper: &Traced) -> Traced {
    let Next::Forked(worker) = keeper.next(false, &mut || false) else { panic!("no fork") };
    waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
    // Its own children are let alone.
    ptrace::setoptions(worker, Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::detach(keeper.0, None).unwrap();
    Traced(worker)
}

/// Whether it has said all that it has to say.
fn is_over(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

fn end_of(command: &Command, child: Child) -> Done {
    finish(child, command)
}

#[test]
fn a_worker_that_starts_a_service() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let name = scene.another(calls);
        let Some(keeper) = Traced::seize(scene.s.keeper(), FORKS) else { return };
        let (command, mut child) = scene.command(&["start", &name]);
        let worker = forked(&keeper);
        let end = worker.kill_at(calls, || {
            let is_up = || scene.s.record(&name).is_some_and(|r| r.phase == Phase::Run);
            is_over(&mut child) && is_up()
        });
        let heard = scene.heard();
        let done = end_of(&command, child).expect(0);
        assert!(
            ["start\n", "skip (because already running)\n"]
                .map(|w| format!("{name}: {w}"))
                .contains(&done.out),
            "{calls}: {done:?}"
        );
        if end == End::Through {
            return scene.end(calls);
        }
        let pid = scene.settled(&name, worker.0.as_raw(), heard, &format!("call {calls}"));
        scene.s.ok(&["stop", &name]);
        scene.gone(&name, &[pid], &format!("call {calls}"));
    }
}

#[test]
fn a_worker_that_raises_what_fell() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let (name, old) = scene.running(calls);
        let Some(worker) = Traced::stop(scene.s.worker(&name)) else { return };
        signal(old, Signal::SIGKILL);
        let end = worker.kill_at(calls, || {
            scene.s.record(&name).is_some_and(|r| r.phase == Phase::Run && r.pid != Some(old))
        });
        if end == End::Through {
            return scene.end(calls);
        }
        let case = format!("call {calls}");
        let pid = scene.settled(&name, worker.0.as_raw(), scene.heard(), &case);
        assert_ne!(pid, old);
        scene.s.ok(&["stop", &name]);
        scene.gone(&name, &[pid, old], &case);
    }
}

#[test]
fn a_worker_that_stops_a_service() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let (name, pid) = scene.running(calls);
        let Some(worker) = Traced::stop(scene.s.worker(&name)) else { return };
        let (command, child) = scene.command(&["stop", &name]);
        let end = worker.kill_at(calls, || false);
        let done = end_of(&command, child).expect(0);
        let said = ["stop    # (worker-pid=", "stop\n", "skip (because not running)\n"];
        let is_said = said.iter().any(|words| done.out.starts_with(&format!("{name}: {words}")));
        assert!(is_said, "{calls}: {done:?}");
        scene.gone(&name, &[pid], &format!("call {calls}"));
        if end == End::Through {
            return scene.end(calls);
        }
    }
}

#[test]
fn a_worker_that_restarts_a_service() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let (name, old) = scene.running(calls);
        let Some(worker) = Traced::stop(scene.s.worker(&name)) else { return };
        let (command, mut child) = scene.command(&["restart", &name]);
        let end = worker.kill_at(calls, || {
            let is_up = || scene.s.record(&name).is_some_and(|r| r.phase == Phase::Run);
            is_over(&mut child) && is_up()
        });
        let case = format!("call {calls}");
        let mut heard = scene.heard();
        heard.retain(|&pid| pid != old);
        end_of(&command, child).expect(0);
        wait_gone(old);
        if end == End::Through {
            return scene.end(calls);
        }
        let pid = scene.settled(&name, worker.0.as_raw(), heard, &case);
        scene.s.ok(&["stop", &name]);
        scene.gone(&name, &[pid, old], &case);
    }
}

#[test]
fn a_worker_that_adopts_a_service() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let (name, pid) = scene.running(calls);
        let former = scene.s.worker(&name);
        let Some(keeper) = Traced::seize(scene.s.keeper(), FORKS) else { return };
        signal(former, Signal::SIGKILL);
        let worker = forked(&keeper);
        let new = Some(worker.0.as_raw());
        let end = worker.kill_at(calls, || {
            scene.s.record(&name).is_some_and(|r| r.worker == new && r.phase == Phase::Run)
        });
        if end == End::Through {
            return scene.end(calls);
        }
        let case = format!("call {calls}");
        let found = scene.settled(&name, worker.0.as_raw(), vec![pid], &case);
        let raised = scene.s.record(&name).unwrap().more.unwrap().raised;
        assert_eq!((found, raised), (pid, 0), "{case}");
        scene.s.ok(&["stop", &name]);
        scene.gone(&name, &[pid], &case);
    }
}

#[test]
fn a_worker_that_goes_on_stopping_a_service() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let (name, pid) = scene.running(calls);
        // It was told to stop, and dies before it can send the signal.
        let Some(former) = Traced::stop(scene.s.worker(&name)) else { return };
        let (command, child) = scene.command(&["stop", &name]);
        former.kill_before(libc::SYS_pidfd_send_signal, libc::SYS_kill);
        let Some(keeper) = Traced::seize(scene.s.keeper(), FORKS) else { return };
        former.bury();
        let worker = forked(&keeper);
        let end = worker.kill_at(calls, || false);
        end_of(&command, child).expect(0);
        scene.gone(&name, &[pid], &format!("call {calls}"));
        if end == End::Through {
            return scene.end(calls);
        }
    }
}

#[test]
fn a_worker_that_gives_up() {
    let scene = Scene::new();
    let go = scene.s.fifo("go");
    let body = format!(
        "config_start_sec=0\nconfig_restart=never\necho $$ >{}\nread line <{}\nexit 3",
        scene.runs.shown(),
        go.shown()
    );
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let name = format!("job-{calls}");
        scene.s.script(&name, &body);
        let pid = scene.s.up(&name);
        assert_eq!(scene.runs.number(), pid);
        let Some(worker) = Traced::stop(scene.s.worker(&name)) else { return };
        fs::write(&go.path, "go\n").unwrap();
        let end = worker.kill_at(calls, || false);
        let case = format!("call {calls}");
        let record = scene.s.wait_phase(&name, Phase::Error);
        wait_for(&format!("its worker to end: {case}"), || scene.s.find_worker(&name).is_none());
        // Whoever had seen how may have been killed before it could write that down.
        assert!([None, Some(3)].contains(&record.exit), "{case}: {record:?}");
        assert_eq!((record.worker, record.pid), (None, None), "{case}");
        assert!(scene.heard().is_empty(), "{case}: a further run");
        if end == End::Through {
            assert_eq!(record.exit, Some(3));
            return scene.end(calls);
        }
    }
}

#[test]
fn a_keeper_that_becomes_another_program() {
    let scene = Scene::new();
    let s = &scene.s;
    let pid = s.pid("web");
    let dir = s.at("bin");
    fs::create_dir(&dir).unwrap();
    fs::copy(reraise(), dir.join("reraise")).unwrap();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        // Another file is another build.
        let new = dir.join("new");
        fs::copy(auto_reraise(), &new).unwrap();
        fs::rename(&new, dir.join("auto-reraise")).unwrap();
        let build = fs::metadata(dir.join("auto-reraise")).unwrap().ino();
        let Some(keeper) = Traced::stop(s.keeper()) else { return };
        let mut command = s.program(dir.join("reraise"));
        command.arg("upgrade").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let end = keeper.kill_at(calls, || is_over(&mut child));
        let done = end_of(&command, child);
        // Whoever dies as the new one has not stayed up, and the old one goes on.
        assert!(done.code == 0 || end == End::Killed && done.code == 1, "{calls}: {done:?}");
        let case = format!("call {calls}");
        let program = |pid: i32| Some(fs::metadata(format!("/proc/{pid}/exe")).ok()?.ino());
        wait_for(&format!("all to be of one build: {case}"), || {
            let all = [s.find_keeper(), s.find_worker("web")].map(|one| program(one?));
            let is_new = all[0] == Some(build);
            all[0].is_some() && all[0] == all[1] && (is_new || done.code != 0)
        });
        wait_for(&format!("its record: {case}"), || {
            s.record("web").is_some_and(|r| r.worker == s.find_worker("web"))
        });
        assert!(is_alive(pid) && scene.heard().is_empty(), "{case}");
        assert_eq!(s.pid("web"), pid, "{case}");
        if end == End::Through {
            return scene.end(calls);
        }
    }
}

#[test]
fn a_keeper_that_forks_a_worker() {
    let scene = Scene::new();
    for calls in 0.. {
        if scene.is_late(calls) {
            return scene.end(calls);
        }
        let name = scene.another(calls);
        let old = scene.s.keeper();
        let Some(keeper) = Traced::stop(old) else { return };
        let (command, mut child) = scene.command(&["start", &name]);
        let end = keeper.kill_at(calls, || is_over(&mut child));
        let heard = scene.heard();
        let done = end_of(&command, child).expect(0);
        assert!(done.out.starts_with(&format!("{name}: s")), "{calls}: {done:?}");
        if end == End::Through {
            return scene.end(calls);
        }
        let case = format!("call {calls}");
        let pid = scene.settled(&name, old, heard, &case);
        wait_for("another keeper", || scene.s.find_keeper().is_some_and(|new| new != old));
        scene.s.ok(&["stop", &name]);
        scene.gone(&name, &[pid], &case);
    }
}
