//! Stopped means gone: whatever a service has started ends with it, and before
//! its successor begins.
//!
//! The services here are this program itself, executed once more with a variable
//! that says what to be: no interpreter is on every machine, and a shell cannot
//! empty its environment or change its title.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, fork, setsid};

use reraise::backend::native;

use crate::support::{
    Fifo, Sandbox, as_ordinary, finish, is_alive, signal, skipped, spawn, wait_for, wait_gone,
};

/// The variable, and the words that it may say.
const ROLE: &str = "RERAISE_TEST_ROLE";

/// In a service: becomes what the variable says, and never returns.
fn play(role: &str) -> ! {
    let path = std::env::var("FACTS").unwrap();
    let say = |what: String| {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    };
    let me = || std::process::id();
    let sleep = || -> ! {
        loop {
            nix::unistd::pause();
        }
    };
    match role {
        // A child in the group, and one in a session of its own.
        "family" => {
            for is_leader in [false, true] {
                if is_child() {
                    if is_leader {
                        setsid().unwrap();
                    }
                    say(me().to_string());
                    sleep();
                }
            }
            say(me().to_string());
            sleep()
        }
        // A daemon as of old: forked twice, with no environment and a title of
        // its own. TERM does not impress it if it is stubborn.
        "daemon" | "stubborn" => {
            if is_child() {
                setsid().unwrap();
                if is_child() {
                    if role == "stubborn" {
                        let all = SigSet::all();
                        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).unwrap();
                    }
                    say(me().to_string());
                    let program = CString::new("/bin/sleep").unwrap();
                    let title = CString::new("nobody: idle").unwrap();
                    let seconds = CString::new("1000000").unwrap();
                    let environment: [CString; 0] = [];
                    let _ = nix::unistd::execve(&program, &[title, seconds], &environment);
                    unreachable!("/bin/sleep");
                }
                exit_now();
            }
            let _ = nix::sys::wait::wait();
            say(me().to_string());
            sleep()
        }
        // A master that lets its child hold the port.
        "master" => {
            let address = std::env::var("ADDRESS").unwrap();
            let listener = TcpListener::bind(&address);
            match listener {
                Ok(listener) => {
                    if is_child() {
                        say(format!("child {}", me()));
                        sleep();
                    }
                    drop(listener);
                    say(format!("master {}", me()));
                    sleep()
                }
                Err(e) => {
                    say(format!("error {e}"));
                    std::process::exit(1)
                }
            }
        }
        // Root's in every respect, so that its service's user cannot end it.
        "untouchable" => {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).unwrap();
            say(me().to_string());
            sleep()
        }
        other => panic!("no such role: {other}"),
    }
}

/// Forks; whether this is the child.
fn is_child() -> bool {
    // SAFETY: the roles are played before the harness has started a thread that
    // matters to the child, which calls simple things only.
    matches!(unsafe { fork() }.unwrap(), ForkResult::Child)
}

fn exit_now() -> ! {
    // SAFETY: it has nothing to clean up.
    unsafe { libc::_exit(0) }
}

/// No test: the door through which a service enters its role.
#[test]
fn role() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

/// A script that does not exec and starts this program in a role.
fn script(facts: &Fifo, role: &str, lines: &str, exec: &str) -> String {
    let this = std::env::current_exe().unwrap();
    format!(
        "config_start_sec=0\n{lines}\nexport {ROLE}={role} FACTS={}\n\
         {exec} {} --exact tree::role --nocapture --test-threads=1",
        facts.shown(),
        this.display()
    )
}

/// Stops it, once with and once without a worker that knows it from birth.
fn all_end(role: &str, processes: usize, stop: &[&str]) {
    for kill_worker in [false, true] {
        let s = Sandbox::new();
        let facts = s.fifo("facts");
        s.script("web", &script(&facts, role, "config_stop='TERM 1, KILL 10'", ""));
        s.ok(&["start", "web"]);
        let mut pids: Vec<i32> = (0..processes).map(|_| s.knows(facts.number())).collect();
        pids.push(s.pid("web"));
        assert!(pids.iter().all(|&pid| is_alive(pid)));
        if kill_worker {
            let worker = s.worker("web");
            signal(worker, Signal::SIGKILL);
            wait_for("another worker", || {
                s.record("web").is_some_and(|r| r.worker.is_some_and(|w| w != worker))
            });
        }
        assert!(s.ok(stop).starts_with("web: stop"));
        // When the command has returned they are gone, not soon.
        let left: Vec<&i32> = pids.iter().filter(|&&pid| is_alive(pid)).collect();
        assert!(left.is_empty(), "{role}, {kill_worker}: {left:?} of {pids:?}");
        wait_for("nothing to be left", || s.processes().is_empty());
    }
}

#[test]
fn children_in_the_group_and_out_of_the_session_end() {
    all_end("family", 3, &["stop", "web"]);
}

/// Where orphans are init's, nothing tells whose such a daemon was.
fn leaves_no_trace() -> bool {
    if !native::KEEPS_ORPHANS {
        skipped("orphans do not come back to us here");
    }
    !native::KEEPS_ORPHANS
}

#[test]
fn a_daemon_without_environment_and_with_another_title_ends() {
    if leaves_no_trace() {
        return;
    }
    all_end("daemon", 2, &["stop", "web"]);
}

#[test]
fn a_daemon_that_blocks_all_signals_ends() {
    if leaves_no_trace() {
        return;
    }
    all_end("stubborn", 2, &["stop", "web"]);
    all_end("stubborn", 2, &["stop", "--now", "web"]);
}

#[test]
fn they_end_also_when_nobody_was_left_to_watch() {
    let s = Sandbox::new();
    let facts = s.fifo("facts");
    s.script("web", &script(&facts, "family", "", ""));
    s.ok(&["start", "web"]);
    let pids = [(); 3].map(|()| s.knows(facts.number()));
    let (keeper, worker) = (s.keeper(), s.worker("web"));
    for one in [Signal::SIGSTOP, Signal::SIGKILL] {
        [keeper, worker].into_iter().for_each(|pid| signal(pid, one));
    }
    wait_gone(worker);
    assert!(s.ok(&["stop", "web"]).starts_with("web: stop"));
    assert!(!pids.into_iter().any(is_alive), "{pids:?}");
}

#[test]
fn what_is_left_of_a_run_ends_before_the_next_begins() {
    let s = Sandbox::new();
    let facts = s.fifo("facts");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lines = format!("export ADDRESS={address}");
    s.script("web", &script(&facts, "master", &lines, "exec"));
    s.ok(&["start", "web"]);
    // The master and its child, in any order.
    let both = || {
        let mut found = [0, 0];
        for _ in 0..2 {
            let line = facts.line();
            let (who, pid) = line.split_once(' ').unwrap();
            let at = match who {
                "child" => 0,
                "master" => 1,
                _ => panic!("{line}"),
            };
            found[at] = s.knows(pid.parse().unwrap());
        }
        found
    };
    let mut old = both();
    for round in 0..6 {
        if round % 2 == 1 {
            signal(s.worker("web"), Signal::SIGKILL);
        }
        signal(old[1], Signal::SIGKILL);
        // Its successor could bind, so that the child was gone before.
        let new = both();
        assert!(!is_alive(old[0]) && !is_alive(old[1]), "{old:?} {new:?}");
        old = new;
        wait_for("its record", || s.record("web").is_some_and(|r| r.pid == Some(old[1])));
        wait_for("its worker", || s.record("web").unwrap().worker == Some(s.worker("web")));
    }
    s.ok(&["restart", "web"]);
    let new = both();
    assert!(!is_alive(old[0]) && !is_alive(old[1]), "{old:?} {new:?}");
}

#[test]
fn detached_ones_may_live_if_the_script_says_so() {
    let s = Sandbox::new();
    let facts = s.fifo("facts");
    s.script("web", &script(&facts, "daemon", "config_detach=yes", "exec"));
    s.ok(&["start", "web"]);
    let pids = [(); 2].map(|()| s.knows(facts.number()));
    let main = s.pid("web");
    let daemon = pids.into_iter().find(|&pid| pid != main).unwrap();
    // It is named.
    let words = format!("these processes live on (config_detach=yes): {daemon}\n    ");
    s.reraise(&["stop", "web"]).expect(0).says(&words).says(&format!("kill {daemon}\n"));
    assert!(is_alive(daemon) && !is_alive(main));
}

/// What outlives KILL: here a process that its service's user may not signal.
#[test]
fn survivors_are_named() {
    if crate::support::skip_unless_root("a process that another user's service may not signal") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;

    let s = Sandbox::new();
    let program = s.public_programs();
    s.give_all();
    let copy = s.at("bin/test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    let facts = s.fifo("facts");
    let path = s.script(
        "web",
        &format!(
            "config_start_sec=0\nconfig_stop='KILL 0.2'\nexport {ROLE}=untouchable FACTS={}\n\
             {} --exact tree::role --nocapture --test-threads=1 &\nexec sleep 1000000",
            facts.shown(),
            copy.display()
        ),
    );
    s.give(&path);
    let run = |verb: &str| {
        let mut command = s.program(&program);
        s.run(as_ordinary(command.args([verb, "web"])))
    };
    run("start").expect(0);
    let survivor = s.knows(facts.number());
    let done = run("stop").expect(1);
    done.says("these processes outlived all signals").says(&survivor.to_string());
    assert!(is_alive(survivor));
    signal(survivor, Signal::SIGKILL);
    wait_gone(survivor);
    // Also where a worker without a keeper has it.
    let mut command = s.program(program.with_file_name("auto-reraise"));
    as_ordinary(command.arg("web")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let web = spawn(&mut command);
    let survivor = s.knows(facts.number());
    run("stop").expect(1).says("processes outlived all signals");
    let said = format!("these processes outlived all signals: [{survivor}]");
    // It holds the output of its worker.
    signal(survivor, Signal::SIGKILL);
    finish(web, &command).expect(1).says(&said);
}
