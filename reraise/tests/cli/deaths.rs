//! Deaths that come together, each found by `ci/chaos` once.

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
