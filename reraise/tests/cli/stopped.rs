//! Keeper and workers that somebody has stopped (SIGSTOP).

use std::time::Duration;

use nix::sys::signal::Signal;
use reraise::backend::native;
use reraise::record::Phase;

use crate::support::{SLEEPER, Sandbox, is_alive, signal, wait_for, wait_gone};

fn is_stopped(pid: i32) -> bool {
    native::is_stopped(pid).unwrap()
}

/// Stops a process for good: until somebody continues it.
fn stop(pid: i32) {
    // A worker that has still something to say would continue its keeper.
    wait_for("the stop", || {
        signal(pid, Signal::SIGSTOP);
        is_stopped(pid)
    });
}

/// How often the worker of a service has been continued, by its record.
fn continued(s: &Sandbox, name: &str) -> u32 {
    s.record(name).and_then(|r| r.more).map_or(0, |more| more.continued)
}

#[test]
fn a_keeper_continues_its_workers() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let worker = s.worker("web");
    for round in 1..=3 {
        signal(worker, Signal::SIGSTOP);
        wait_for("it to be counted", || continued(&s, "web") == round);
    }
    // It is the same one, and its service has not noticed.
    assert_eq!((s.worker("web"), s.pid("web")), (worker, pid));
    assert!(s.messages().contains("its worker was stopped, and goes on (3)"));
    assert!(s.ok(&["status", "--json", "web"]).contains("\"continued\":3"));
    let doctor = s.reraise(&["doctor"]).out;
    assert!(doctor.contains("web: its worker was stopped (SIGSTOP) 3 time(s)"), "{doctor}");
    // The count is of this start.
    s.ok(&["stop", "web"]);
    s.up("web");
    assert_eq!(continued(&s, "web"), 0);
}

#[test]
fn a_service_that_dies_while_its_worker_is_stopped_is_raised_once() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    s.script("web", &format!("echo $$ >{}\n{SLEEPER}", runs.shown()));
    let mut pid = s.up("web");
    assert_eq!(runs.number(), pid);
    for round in 1..=10 {
        let worker = s.worker("web");
        signal(worker, Signal::SIGSTOP);
        signal(pid, Signal::SIGKILL);
        pid = s.wait_raised("web", pid);
        assert_eq!(runs.number(), pid);
        wait_for("it to be counted", || continued(&s, "web") == round);
        assert_eq!(s.worker("web"), worker);
    }
    assert!(runs.is_silent(Duration::ZERO), "a further run");
}

#[test]
fn what_stops_a_service_is_nobodys_business() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let pid = s.up("web");
    let worker = s.worker("web");
    // Adopted, so that the keeper hears of it.
    signal(worker, Signal::SIGKILL);
    wait_for("another worker", || s.find_worker("web").is_some_and(|new| new != worker));
    stop(pid);
    // The keeper has worked since, and has looked at its children.
    s.up("other");
    let other = s.pid("other");
    signal(other, Signal::SIGKILL);
    s.wait_raised("other", other);
    assert!(is_stopped(pid));
    // A stop ends it all the same.
    s.ok(&["stop", "web"]);
    wait_gone(pid);
}

#[test]
fn a_worker_continues_its_keeper() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let (pid, other) = (s.up("web"), s.up("other"));
    let (keeper, orphaned) = (s.keeper(), s.worker("other"));
    stop(keeper);
    // Nobody hears of this one, until a worker has something to say.
    signal(orphaned, Signal::SIGKILL);
    wait_gone(orphaned);
    let mut pid = pid;
    // At once, or when nothing was heard of the keeper for a moment.
    wait_for("the keeper to go on", || {
        signal(pid, Signal::SIGKILL);
        pid = s.wait_raised("web", pid);
        !is_stopped(keeper)
    });
    wait_for("another worker", || s.find_worker("other").is_some_and(|new| new != orphaned));
    assert_eq!((s.keeper(), is_alive(other)), (keeper, true));
    wait_for("its word", || s.messages().contains("keeper[") && s.messages().contains("goes on"));
}

#[test]
fn a_command_continues_whom_it_waits_for() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    for verb in ["restart", "stop", "start"] {
        s.reraise(&["start", "web", "other"]).expect(0);
        s.wait_phase("web", Phase::Run);
        if verb == "start" {
            s.ok(&["stop", "web"]);
        }
        let worker = s.find_worker("web");
        let keeper = s.keeper();
        stop(keeper);
        worker.into_iter().for_each(stop);
        assert!(s.ok(&[verb, "web"]).starts_with(&format!("web: {verb}")));
        assert_eq!(s.keeper(), keeper);
    }
}

#[test]
fn a_command_continues_a_worker_of_an_earlier_keeper() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let pid = s.up("web");
    s.up("other");
    let (worker, keeper) = (s.worker("web"), s.keeper());
    signal(keeper, Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    // It knows all of them when it has answered.
    s.ok(&["restart", "other"]);
    stop(worker);
    assert!(s.ok(&["restart", "web"]).starts_with("web: restart"));
    wait_gone(pid);
    assert_eq!((s.worker("web"), continued(&s, "web")), (worker, 1));
}

#[test]
fn a_new_keeper_continues_those_that_it_calls() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    s.up("web");
    s.up("other");
    let (worker, keeper) = (s.worker("web"), s.keeper());
    // In this order it hears nothing of the worker any more.
    stop(keeper);
    stop(worker);
    signal(keeper, Signal::SIGKILL);
    wait_for("it to go on", || !is_stopped(worker));
    wait_for("it to be counted", || continued(&s, "web") == 1);
    assert_ne!(s.keeper(), keeper);
}

#[cfg(target_os = "linux")]
#[test]
fn a_keeper_that_is_stopped_while_it_begins_does_not_hold_up_a_command() {
    use crate::support::{finish, spawn};
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    // It waits for this lock; so does whoever comes next.
    std::fs::create_dir_all(s.state()).unwrap();
    let mut command = s.command(&["start", "web"]);
    let lock = reraise::lock::LockFile::open(&s.state().join("keeper.lock")).unwrap();
    lock.take(reraise::lock::CHANGING).unwrap();
    let start =
        spawn(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    // Not while it is still a copy of the command, which waits for its exec.
    let is_keeper = |pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.ends_with("auto-reraise")
    };
    let find = || native::children(start.id().cast_signed()).unwrap().into_iter().find(is_keeper);
    wait_for("a keeper that begins", || find().is_some());
    signal(find().unwrap(), Signal::SIGSTOP);
    lock.release(reraise::lock::CHANGING).unwrap();
    finish(start, &command).expect(0).prints("web: start\n");
}
