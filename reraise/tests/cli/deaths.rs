//! Deaths that come together, each found by `ci/chaos` once.

use std::fs;

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{SLEEPER, Sandbox, is_alive, signal, wait_for, wait_gone};

/// Kills processes in one moment for their keeper: it looks when all are dead.
fn kill_behind(keeper: i32, all: &[i32]) {
    signal(keeper, Signal::SIGSTOP);
    all.iter().for_each(|&pid| signal(pid, Signal::SIGKILL));
    all.iter().for_each(|&pid| wait_gone(pid));
    signal(keeper, Signal::SIGCONT);
}

/// Waits until the record names the worker that holds the lock, and not this one.
fn wait_adopted(s: &Sandbox, name: &str, old: i32) {
    wait_for("another worker", || {
        let worker = s.find_worker(name).filter(|&worker| worker != old);
        worker.is_some() && s.record(name).is_some_and(|r| r.worker == worker)
    });
}

#[test]
fn a_service_whose_worker_died_with_anothers_is_not_taken_for_its_rest() {
    let s = Sandbox::new();
    let names = ["one", "two"];
    let mains = names.map(|name| {
        s.script(name, SLEEPER);
        s.up(name)
    });
    let workers = names.map(|name| s.worker(name));
    kill_behind(s.keeper(), &workers);
    (0..2).for_each(|at| wait_adopted(&s, names[at], workers[at]));
    // What each has left is ended before its next run: nothing, that is.
    for at in 0..2 {
        signal(mains[at], Signal::SIGKILL);
        s.wait_raised(names[at], mains[at]);
        if at == 0 {
            assert!(is_alive(mains[1]), "ended together with the other");
        }
    }
    for name in names {
        s.wait_phase(name, Phase::Run);
    }
}

#[test]
fn a_worker_that_dies_while_a_new_keeper_calls_it_is_replaced() {
    let s = Sandbox::new();
    let names = ["one", "two", "three"];
    let mains = names.map(|name| {
        s.script(name, SLEEPER);
        s.up(name)
    });
    for round in 0..30 {
        let name = names[round % names.len()];
        let (keeper, worker) = (s.keeper(), s.worker(name));
        signal(keeper, Signal::SIGKILL);
        // It looks for them as soon as it has the lock.
        wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
        signal(worker, Signal::SIGKILL);
        wait_adopted(&s, name, worker);
    }
    assert!(mains.into_iter().all(is_alive));
}

#[test]
fn no_line_is_lost_or_doubled_while_a_hundred_workers_die() {
    let s = Sandbox::new();
    s.script("chatty", "config_start_sec=0\ni=0\nwhile :; do i=$((i + 1)); echo $i; done");
    // Whose worker starts another keeper.
    s.script("other", SLEEPER);
    let (pid, _) = (s.up("chatty"), s.up("other"));
    let length = || fs::metadata(s.l.join("chatty/current")).unwrap().len();
    for round in 0..100 {
        let (worker, before) = (s.worker("chatty"), length());
        signal(worker, Signal::SIGKILL);
        if round % 10 == 9 {
            signal(s.keeper(), Signal::SIGKILL);
        }
        wait_adopted(&s, "chatty", worker);
        wait_for("more lines", || length() > before);
    }
    assert_eq!(s.pid("chatty"), pid, "it saw SIGPIPE, say");
    s.ok(&["stop", "chatty"]);
    let log = s.log("chatty");
    let numbers = log.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(log.ends_with('\n') && numbers.clone().count() > 100);
    assert!(numbers.eq(1..=log.lines().count()));
}

#[test]
fn workers_that_keep_failing_are_no_storm_and_the_service_is_left_alone() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let worker = s.worker("web");
    // No worker can take this for a lock.
    let lock = s.state().join("s/web/lock");
    fs::rename(&lock, s.at("lock")).unwrap();
    fs::create_dir(&lock).unwrap();
    signal(worker, Signal::SIGKILL);
    wait_for("the third failure", || s.messages().contains("has failed 3 times"));
    let out = s.ok(&["status", "web"]);
    assert!(out.contains("running") && out.contains("unwatched, worker-failures=3"), "{out}");
    assert!(s.ok(&["status", "--json", "web"]).contains("\"worker_failures\":3"));
    let doctor = s.reraise(&["doctor"]).out;
    assert!(doctor.contains("problem: web: its worker has failed 3 times"), "{doctor}");
    // Each says one line, and the keeper one of each but the first.
    assert!(s.messages().matches(" web[").count() <= 6, "{}", s.messages());
    assert!(is_alive(pid));
    // Who asks for something is told; for that it was tried at once.
    s.reraise(&["restart", "web"]).expect(8).says("web: cannot be supervised");
    assert!(is_alive(pid));
    fs::remove_dir(&lock).unwrap();
    fs::rename(s.at("lock"), &lock).unwrap();
    assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
    wait_adopted(&s, "web", worker);
    let out = s.ok(&["status", "web"]);
    assert!(!out.contains("unwatched") && !out.contains("failures"), "{out}");
    assert_eq!(s.pid("web"), pid);
}
