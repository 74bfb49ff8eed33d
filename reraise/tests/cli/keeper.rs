//! Keepers and workers that fail, and what is said of it.

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use reraise::record::Phase;

use crate::support::{
    SLEEPER, Sandbox, auto_reraise, is_alive, signal, spawn, wait_for, wait_gone, write_program,
};

#[test]
fn a_worker_that_fails_is_no_silence() {
    let s = Sandbox::new();
    for name in ["web", "other"] {
        s.script(name, SLEEPER);
    }
    // No worker can take a lock that is a directory.
    let lock = s.state().join("s/web/lock");
    fs::create_dir_all(&lock).unwrap();
    let what = "reraise: web: cannot be supervised: is a directory";
    s.reraise(&["start", "web"]).expect(8).says(what);
    s.reraise(&["start", "--wait", "web"]).expect(8).says(what);
    let pid = s.up("other");
    // Its workers go on failing, more and more seldom; yet the keeper can go.
    let keeper = s.keeper();
    signal(keeper, Signal::SIGTERM);
    wait_gone(pid);
    wait_gone(keeper);
    wait_for("nothing to be left", || s.processes().is_empty());
    // Mended.
    fs::remove_dir(&lock).unwrap();
    s.up("web");
}

#[test]
fn a_signal_that_came_before_it_was_the_keeper_is_no_order() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut command = s.program(auto_reraise());
    command.arg("--keeper").arg(&s.p).arg("--quiet");
    // It waits until it can be heard.
    let leave = || {
        SigSet::from(Signal::SIGTERM).thread_block()?;
        Ok(kill(Pid::this(), Signal::SIGTERM)?)
    };
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(leave) };
    let mut keeper = spawn(&mut command);
    let pid = keeper.id().cast_signed();
    wait_for("a keeper", || s.find_keeper() == Some(pid));
    let web = s.up("web");
    assert_eq!(s.keeper(), pid);
    assert!(s.messages().contains("SIGTERM came too early"), "{}", s.messages());
    // Any other one is.
    signal(pid, Signal::SIGTERM);
    wait_gone(web);
    assert!(keeper.wait().unwrap().success());
}

#[test]
fn what_a_keeper_says_does_not_grow_without_end() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let messages = s.state().join("messages");
    fs::OpenOptions::new().write(true).open(&messages).unwrap().set_len(20 << 20).unwrap();
    // It says that it goes on.
    signal(s.keeper(), Signal::SIGCONT);
    wait_for("it to begin anew", || fs::metadata(&messages).unwrap().len() < 1000);
    assert!(s.messages().contains("goes on"));
    s.ok(&["stop", "web"]);
}

#[test]
fn nobody_takes_what_a_keeper_uses_for_old() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    // As systemd-tmpfiles(8) asks before it removes what is old in a directory.
    let is_free = || {
        let directory = fs::File::open(&s.p).unwrap();
        Flock::lock(directory, FlockArg::LockExclusiveNonblock).is_ok()
    };
    assert!(!is_free());
    signal(s.keeper(), Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some() && !is_free());
    s.ok(&["stop", "web"]);
    wait_for("the keeper to end", is_free);
}

#[test]
fn a_keeper_that_never_answers_is_given_up() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    s.ok(&["stop", "web"]);
    wait_for("the keeper to end", || s.find_keeper().is_none());
    // Takes connections, and ends them.
    let listener = UnixListener::bind(s.state().join("keeper")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let what = "reraise: keeper: ended again and again before it answered\n    ";
    for words in [&["start", "web"][..], &["start", "--wait", "web"]] {
        s.reraise(words).expect(8).prints("").says(what);
    }
}

#[test]
fn keepers_that_cannot_start_are_no_storm() {
    let s = Sandbox::new();
    let program = s.public_programs();
    s.script("web", SLEEPER);
    s.run(s.program(&program).args(["start", "web"])).expect(0);
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    let (worker, keeper) = (s.worker("web"), s.keeper());
    let tries = s.fifo("tries");
    let body = format!("#!/bin/sh\necho again >{}\nexit 1\n", tries.shown());
    write_program(&program.with_file_name("auto-reraise"), &body);
    signal(keeper, Signal::SIGKILL);
    // Three may be chance.
    (0..3).for_each(|_| assert_eq!(tries.line(), "again"));
    for seconds in [1, 2] {
        let begun = Instant::now();
        assert_eq!(tries.line(), "again");
        let least = Duration::from_millis(1000 * seconds - 200);
        assert!(begun.elapsed() >= least, "{seconds}: {:?}", begun.elapsed());
    }
    // Meanwhile it does its work.
    signal(pid, Signal::SIGKILL);
    let raised = s.wait_raised("web", pid);
    assert_eq!(s.worker("web"), worker);
    signal(worker, Signal::SIGTERM);
    wait_gone(worker);
    assert!(!is_alive(raised));
}
