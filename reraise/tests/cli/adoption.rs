//! A worker is replaced, and everything goes on: the run, what is known of it, and
//! what the policy remembers. Also where there is a lack of something.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{
    Fifo, LIMIT, SLEEPER, Sandbox, is_alive, signal, skip_unless_root, skipped, wait_for,
    wait_gone, wait_some, write_program,
};

/// Kills the worker of a service; the record names its successor when this returns.
fn replace_worker(s: &Sandbox, name: &str) {
    let worker = s.worker(name);
    signal(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        let new = s.find_worker(name).filter(|&new| new != worker);
        new.is_some() && s.record(name).is_some_and(|r| r.worker == new)
    });
}

#[test]
fn a_worker_is_replaced_within_a_tenth_of_a_second() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    // The machine may be busy with something else once or twice.
    let times = (0..5).map(|_| {
        let worker = s.worker("web");
        let begun = Instant::now();
        signal(worker, Signal::SIGKILL);
        while s.find_worker("web").is_none_or(|new| new == worker) {
            assert!(begun.elapsed() < LIMIT, "nobody comes");
            std::thread::yield_now();
        }
        begun.elapsed()
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_millis(100), "{best:?}");
    assert_eq!(s.pid("web"), pid);
}

#[test]
fn counters_and_clock_go_on_and_the_policy_too() {
    let s = Sandbox::new();
    let (runs, go) = (s.fifo("runs"), s.fifo("go"));
    let script = |config: &str| {
        let (runs, go) = (runs.shown(), go.shown());
        s.script("web", &format!("{config}\necho $$ >{runs}\nread line <{go}\nexit 3"));
    };
    script("config_start_sec=0");
    let first = s.up("web");
    assert_eq!(runs.number(), first);
    // From here on every run fails to start, and two of them may in a row.
    script("config_start_sec=1000\nconfig_max_retry=2\nconfig_retry_sec=0");
    for raised in 0..4 {
        let before = s.record("web").unwrap();
        let pid = before.pid.unwrap();
        // The first run counts by what its script said when it began.
        if raised > 0 {
            replace_worker(&s, "web");
        }
        let after = s.record("web").unwrap();
        assert_eq!((after.phase, after.pid), (before.phase, Some(pid)), "{raised}");
        let (old, new) = (before.more.unwrap(), after.more.unwrap());
        assert_eq!((new.mono, new.raised, new.born), (old.mono, raised, old.born), "{raised}");
        // It is counted back from now, and may be rounded the other way.
        assert!((after.epoch - before.epoch).abs() <= 1, "{before:?} {after:?}");
        assert_eq!(after.exit, (raised > 0).then_some(3), "{raised}");
        fs::write(&go.path, "go\n").unwrap();
        wait_gone(pid);
        if raised < 3 {
            let next = runs.number();
            wait_for("its record", || s.record("web").is_some_and(|r| r.pid == Some(next)));
        }
    }
    let record = s.wait_phase("web", Phase::Error);
    assert_eq!((record.exit, record.more.unwrap().raised), (Some(3), 3));
    assert!(runs.is_silent(Duration::ZERO), "a further run");
}

/// Takes its place where the workers look for the keeper's program: the first few die
/// before they are one.
fn deadly(s: &Sandbox, program: &Path, deaths: usize, tries: &Fifo) {
    let real = program.with_file_name("real");
    fs::rename(program, &real).unwrap();
    let dead = s.at("dead");
    fs::create_dir(&dead).unwrap();
    let numbers: Vec<String> = (0..deaths).map(|n| n.to_string()).collect();
    let body = format!(
        "#!/bin/sh\necho $$ >{}\nfor n in {}; do\n    mkdir {}/$n 2>/dev/null && kill -9 $$\n\
         done\nexec {} \"$@\"\n",
        tries.shown(),
        numbers.join(" "),
        dead.display(),
        real.display()
    );
    write_program(program, &body);
}

#[test]
fn keepers_that_die_before_they_run_are_followed_by_exactly_one() {
    for deaths in [1, 2, 5] {
        let s = Sandbox::new();
        let program = s.public_programs();
        let names: Vec<String> = (0..8).map(|n| format!("web-{n}")).collect();
        let mut pids = Vec::new();
        for name in &names {
            s.script(name, SLEEPER);
        }
        s.run(s.program(&program).args(["start", "*"])).expect(0);
        for name in &names {
            pids.push(s.wait_phase(name, Phase::Run).pid.unwrap());
        }
        let workers: Vec<i32> = names.iter().map(|name| s.worker(name)).collect();
        let tries = s.fifo("tries");
        deadly(&s, &program.with_file_name("auto-reraise"), deaths, &tries);
        let old = s.keeper();
        signal(old, Signal::SIGKILL);
        let keeper = wait_some("another keeper", || s.find_keeper().filter(|&new| new != old));
        for _ in 0..=deaths {
            tries.number();
        }
        // Whoever came too late is gone in a moment.
        let is_keeper = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(8).any(|part| part == b"--keeper")
        };
        if Path::new("/proc/self/cmdline").exists() {
            wait_for("a single keeper", || {
                s.processes().into_iter().filter(|&pid| is_keeper(pid)).eq([keeper])
            });
        }
        assert_eq!(s.find_keeper(), Some(keeper), "{deaths}");
        for (at, name) in names.iter().enumerate() {
            assert_eq!((s.worker(name), s.pid(name)), (workers[at], pids[at]), "{deaths}");
        }
        // It knows all of them.
        for name in &names {
            replace_worker(&s, name);
        }
        assert!(pids.into_iter().all(is_alive), "{deaths}");
    }
}

/// Changes how many descriptors a process may have, and gives what it was.
#[cfg(target_os = "linux")]
fn limit_descriptors(pid: i32, soft: u64) -> u64 {
    // SAFETY: all-zero is a valid value.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and the pointer is to a live structure.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
    assert_eq!(got, 0);
    let before = std::mem::replace(&mut limit.rlim_cur, soft);
    // SAFETY: the pointer is to a live structure.
    let set =
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    before
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_without_descriptors_raises_its_service_when_it_has_some() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\nconfig_max_retry=0\nexec sleep 1000000");
    let pid = s.up("web");
    let worker = s.worker("web");
    let before = limit_descriptors(worker, 3);
    signal(pid, Signal::SIGKILL);
    wait_for("it to find that", || s.messages().contains("too many open files"));
    limit_descriptors(worker, before);
    let new = s.wait_raised("web", pid);
    assert_eq!((s.worker("web"), s.record("web").unwrap().more.unwrap().raised), (worker, 1));
    s.ok(&["stop", "web"]);
    wait_gone(new);
}

#[cfg(target_os = "linux")]
#[test]
fn a_keeper_without_descriptors_loses_no_service() {
    let s = Sandbox::new();
    for name in ["web", "other"] {
        s.script(name, SLEEPER);
    }
    let pid = s.up("web");
    let (worker, keeper) = (s.worker("web"), s.keeper());
    let before = limit_descriptors(keeper, 3);
    signal(worker, Signal::SIGKILL);
    wait_for("it to find that", || s.messages().contains("cannot fork a worker"));
    // Whoever comes now waits, and does not drive it mad.
    let mut command = s.command(&["start", "other"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = crate::support::spawn(&mut command);
    wait_for("it to be deaf", || s.messages().contains("cannot take a connection"));
    assert!(is_alive(pid));
    limit_descriptors(keeper, before);
    crate::support::finish(child, &command).expect(0).prints("other: start\n");
    wait_for("another worker", || {
        s.find_worker("web").is_some() && s.record("web").unwrap().worker == s.find_worker("web")
    });
    assert_eq!((s.pid("web"), s.find_keeper()), (pid, Some(keeper)));
    let deaf = s.messages().matches("cannot take a connection").count();
    assert!(deaf < 10, "{deaf} times");
}

/// A directory that cannot be written for a while.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        if skip_unless_root("a read-only directory") {
            return None;
        }
        let mount = |words: &[&str]| {
            let done = Command::new("mount").args(words).args([path]).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !mount(&["--bind", path.to_str().unwrap()]) {
            skipped("a directory cannot be mounted here");
            return None;
        }
        let mounted = Self(path);
        if !mount(&["-o", "remount,bind,ro"]) {
            skipped("a directory cannot be made read-only here");
            return None;
        }
        Some(mounted)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[test]
fn records_that_cannot_be_written_for_a_while_lose_no_service() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    let body = format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000000", runs.shown());
    for name in ["web", "other", "third"] {
        s.script(name, &body);
    }
    let (web, other) = (s.up("web"), s.up("other"));
    assert_eq!([runs.number(), runs.number()], [web, other]);
    let (worker, keeper) = (s.worker("other"), s.keeper());
    let Some(read_only) = ReadOnly::new(&s.p) else { return };
    // What runs is raised, once.
    signal(web, Signal::SIGKILL);
    let raised = runs.number();
    assert!(raised != web && is_alive(raised));
    // What does not run is refused, with the reason.
    s.reraise(&["start", "third"]).expect(8).says("read-only file system\n    ");
    // Nobody can replace a worker now, and its service is left alone.
    signal(worker, Signal::SIGKILL);
    wait_for("its successor to fail", || s.messages().contains("other["));
    assert!(is_alive(other));
    let out = s.ok(&["status", "other"]);
    assert!(out.contains("running") && out.contains("unwatched"), "{out}");
    signal(keeper, Signal::SIGKILL);
    wait_gone(keeper);
    s.reraise(&["start", "web"]).expect(8).says("read-only file system\n    ");
    assert!(is_alive(other) && is_alive(raised));
    // Now they can be written again.
    drop(read_only);
    assert_eq!(s.ok(&["start", "other"]), "other: skip (because already running)\n");
    wait_for("its record", || s.record("web").is_some_and(|r| r.pid == Some(raised)));
    assert_eq!((s.pid("other"), s.pid("web")), (other, raised));
    assert!(runs.is_silent(Duration::ZERO), "a further run");
    s.ok(&["stop", "*"]);
    assert!(!is_alive(other) && !is_alive(raised));
    wait_for("nothing to be left", || s.processes().is_empty());
}
