//! The life of a service: started, raised, given up, stopped.

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{SLEEPER, Sandbox, is_alive, signal, wait_for, wait_gone};

#[test]
fn start_can_wait_for_success() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0.2\nexec sleep 1000000");
    assert_eq!(s.ok(&["start", "--wait", "web"]), "web: start\n");
    assert_eq!(s.record("web").unwrap().phase, Phase::Run);
    s.script("other", "config_start_sec=0.1\nexec sleep 1000000");
    assert_eq!(s.ok(&["start", "--wait=15", "other"]), "other: start\n");
}

#[test]
fn a_first_start_that_fails_is_not_tried_again() {
    let s = Sandbox::new();
    let fifo = s.fifo("runs");
    s.script("web", &format!("echo run >{}\nexit 3", fifo.shown()));
    let done = s.reraise(&["start", "--wait", "web"]).expect(1);
    let done = done.says("reraise: web: failed to start: exit code 3\n    ");
    assert_eq!(done.out, "");
    assert_eq!(fifo.line(), "run");
    let record = s.wait_phase("web", Phase::Error);
    assert_eq!((record.exit, record.pid), (Some(3), None));
    assert_eq!(s.status("web"), "ERROR");
    // Its worker is gone, so nobody can try again.
    wait_for("the keeper to end", || s.find_keeper().is_none());
    assert!(fifo.is_silent(std::time::Duration::ZERO));
    // Without waiting: it did start.
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    assert_eq!(fifo.line(), "run");
    s.wait_phase("web", Phase::Error);
}

#[test]
fn start_waits_no_longer_than_it_was_told() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=1000\nexec sleep 1000000");
    let done = s.reraise(&["start", "--wait=0.2", "web"]).expect(7);
    // A busy machine comes back later, and says so.
    let (_, after) = done.err.split_once("web: has not started successfully after ").unwrap();
    let (seconds, advice) = after.split_once(" s\n    ").unwrap();
    assert!(
        (0.2..5.0).contains(&seconds.parse::<f64>().unwrap()) && !advice.is_empty(),
        "{}",
        done.err
    );
    // It is still being tried.
    assert_eq!(s.status("web"), "starting");
    for wrong in ["--wait=-1", "--wait=nan", "--wait=x", "--wait=1e300"] {
        s.reraise(&["start", wrong, "web"]).expect(2);
    }
}

#[test]
fn success_before_its_time_is_a_failed_start_too() {
    let s = Sandbox::new();
    s.script("web", "exit 0");
    s.reraise(&["start", "--wait", "web"]).expect(1).says("failed to start: exit code 0");
    assert_eq!(s.wait_phase("web", Phase::Error).exit, Some(0));
}

#[test]
fn what_fell_is_raised() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut pid = s.up("web");
    for times in 1..=3 {
        signal(pid, Signal::SIGKILL);
        pid = s.wait_raised("web", pid);
        let out = s.ok(&["status", "web"]);
        assert!(out.contains(&format!("raised={times}")), "{out}");
    }
    let record = s.record("web").unwrap();
    assert_eq!(record.exit, Some(128 + 9));
}

#[test]
fn failed_starts_in_a_row_are_counted_and_then_given_up() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    let flag = s.at("broken");
    s.script(
        "web",
        &format!(
            "config_start_sec=0.2\nconfig_max_retry=2\nconfig_retry_sec=0.05\necho run >{}\n\
             [ -e {} ] && exit 5\nexec sleep 1000000",
            runs.shown(),
            flag.display()
        ),
    );
    s.ok(&["start", "--wait", "web"]);
    std::fs::write(&flag, "").unwrap();
    signal(s.pid("web"), Signal::SIGKILL);
    let record = s.wait_phase("web", Phase::Error);
    assert_eq!(record.exit, Some(5));
    wait_for("the keeper to end", || s.find_keeper().is_none());
    // The good one, the first bad one, and two more tries.
    for _ in 0..4 {
        assert_eq!(runs.line(), "run");
    }
    assert!(runs.is_silent(std::time::Duration::ZERO));
    assert!(s.reraise(&["status", "web"]).expect(3).out.contains("exitcode=5"));
}

#[test]
fn the_configuration_is_read_before_every_run() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    s.script("web", "config_start_sec=1000\nexec sleep 1000000");
    signal(pid, Signal::SIGKILL);
    let new = s.wait_raised("web", pid);
    let record = s.wait_phase("web", Phase::Start);
    assert_eq!(record.pid, Some(new));
    // With a mistake in it, nothing is ended; what is raised all the same goes by what
    // held before.
    s.script("web", "config_start_sec=soon\nexec sleep 1000000");
    s.reraise(&["restart", "web"]).expect(5).says("config_start_sec: `soon` is not");
    assert_eq!(s.pid("web"), new);
    signal(new, Signal::SIGKILL);
    s.wait_raised("web", new);
    assert_eq!(s.status("web"), "starting");
    assert!(s.messages().contains("start_sec"), "{}", s.messages());
}

#[test]
fn restart_of_a_young_service_is_no_failed_start() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=1000\nconfig_max_retry=0\nexec sleep 1000000");
    s.ok(&["start", "web"]);
    for _ in 0..3 {
        let pid = s.pid("web");
        assert!(s.ok(&["restart", "web"]).starts_with("web: restart"));
        let new = s.pid("web");
        assert_ne!(new, pid);
        assert!(is_alive(new));
    }
    assert_eq!(s.status("web"), "starting");
}

#[test]
fn term_to_the_service_restarts_and_term_to_the_worker_stops() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let (pid, worker) = (s.up("web"), s.worker("web"));
    signal(pid, Signal::SIGTERM);
    let new = s.wait_raised("web", pid);
    assert_eq!(s.worker("web"), worker);
    signal(worker, Signal::SIGTERM);
    wait_gone(new);
    wait_gone(worker);
    assert_eq!(s.record("web"), None);
    assert_eq!(s.status("web"), "not-running");
}

#[test]
fn stop_climbs_the_ladder_and_now_skips_to_its_end() {
    let s = Sandbox::new();
    let fifo = s.fifo("got");
    let body = |ladder: &str| {
        format!(
            "config_start_sec=0\nconfig_stop='{ladder}'\nconfig_stop_to=process\n\
             trap 'echo int >{0}' INT\ntrap 'echo term >{0}' TERM\necho up >{0}\n\
             while :; do sleep 1000000 & wait; done",
            fifo.shown()
        )
    };
    s.script("web", &body("INT 0.2, TERM 0.2, KILL 10"));
    s.ok(&["start", "web"]);
    assert_eq!(fifo.line(), "up");
    s.ok(&["stop", "web"]);
    assert_eq!([fifo.line(), fifo.line()], ["int", "term"]);
    s.script("web", &body("INT 1000, TERM 1000, KILL 10"));
    s.ok(&["start", "web"]);
    assert_eq!(fifo.line(), "up");
    s.ok(&["stop", "--no-wait", "web"]);
    assert_eq!(fifo.line(), "int");
    assert_eq!(s.status("web"), "stopping");
    s.ok(&["stop", "--now", "web"]);
    assert_eq!(s.status("web"), "not-running");
    assert!(fifo.is_silent(std::time::Duration::ZERO));
}

#[test]
fn the_keeper_ends_with_its_last_service() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.ok(&["start", "web"]);
    let keeper = s.keeper();
    s.ok(&["stop", "web"]);
    wait_gone(keeper);
    assert!(s.processes().is_empty());
}

#[test]
fn output_goes_to_the_log_and_not_to_the_caller() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\necho to-out\necho to-err >&2\nexec sleep 1000000");
    let done = s.reraise(&["start", "web"]).expect(0);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("web: start\n", ""));
    wait_for("the log", || s.log("web") == "to-out\nto-err\n");
}
