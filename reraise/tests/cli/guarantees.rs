//! What always holds, whatever is killed and however many commands race.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{
    SLEEPER, Sandbox, finish, is_alive, signal, spawn, wait_for, wait_gone, wait_some,
};

/// Counts the runs of its service: one line each, with its pid.
fn counted(fifo: &crate::support::Fifo) -> String {
    format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000000", fifo.shown())
}

/// The runs of a service that live at the same time. A look at all processes
/// takes a while, in which one may end and its successor begin; so whoever was
/// found must still be there afterwards.
#[cfg(target_os = "linux")]
fn runs_at_once(s: &Sandbox) -> Vec<i32> {
    let is_run = |&pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let path = format!("{}/web", s.d.display());
        line.starts_with(b"sleep\0") || String::from_utf8_lossy(&line).contains(&path)
    };
    let mut found: Vec<i32> = s.processes().into_iter().filter(is_run).collect();
    found.retain(is_run);
    found
}

#[cfg(target_os = "linux")]
#[test]
fn fifty_racing_commands_leave_one_process_or_none() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\nconfig_stop='KILL'\nexec sleep 1000000");
    for round in 0..3 {
        let commands: Vec<_> = (0..50)
            .map(|i| {
                let verb = ["start", "stop", "restart", "start", "stop"][(i * 7 + round) % 5];
                let mut command = s.command(&[verb, "web"]);
                (spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())), command)
            })
            .collect();
        let mut most = 0;
        for (child, command) in commands {
            most = most.max(runs_at_once(&s).len());
            let done = finish(child, &command);
            assert!([0, 1, 3].contains(&done.code), "{command:?} {done:?}");
        }
        assert!(most <= 1, "{most} at the same time");
        let left = runs_at_once(&s);
        match s.status("web").as_str() {
            "running" | "starting" => assert_eq!(left, [s.pid("web")]),
            "not-running" => assert!(left.is_empty(), "{left:?}"),
            other => panic!("{other} {left:?}"),
        }
    }
    s.ok(&["stop", "web"]);
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn a_service_outlives_twenty_workers_and_twenty_keepers() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    s.script("web", &counted(&runs));
    let pid = s.up("web");
    assert_eq!(runs.number(), pid);
    for _ in 0..20 {
        let worker = s.worker("web");
        signal(worker, Signal::SIGKILL);
        wait_gone(worker);
        let new = wait_some("another worker", || Some(s.worker("web")).filter(|&w| w != worker));
        wait_for("its name in the record", || {
            s.record("web").is_some_and(|r| r.worker == Some(new))
        });
        assert!(s.ok(&["status", "web"]).contains(&format!("(pid={pid}, ppid={new}, ")));
    }
    for _ in 0..20 {
        let keeper = s.keeper();
        signal(keeper, Signal::SIGKILL);
        wait_gone(keeper);
        wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
        assert_eq!(s.pid("web"), pid);
    }
    assert!(is_alive(pid));
    // It is still theirs.
    signal(pid, Signal::SIGKILL);
    let raised = s.wait_raised("web", pid);
    assert_eq!(runs.number(), raised);
    s.ok(&["stop", "web"]);
    wait_gone(raised);
    assert!(runs.is_silent(Duration::ZERO), "a further run");
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn killed_together_they_lose_no_service() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    for name in ["one", "two"] {
        s.script(name, &counted(&runs));
    }
    s.script("third", SLEEPER);
    let (one, two) = (s.up("one"), s.up("two"));
    assert_eq!([runs.number(), runs.number()], [one, two]);
    s.kill_supervisors(&["one", "two"]);
    assert!(is_alive(one) && is_alive(two));
    let out = s.ok(&["status", "one", "two"]);
    assert_eq!(out.matches("running ").count(), 2, "{out}");
    assert_eq!(out.matches("unwatched").count(), 2, "{out}");
    // Whatever is started next, all are found and adopted.
    s.up("third");
    for (name, pid) in [("one", one), ("two", two)] {
        wait_for("its record", || s.record(name).is_some_and(|r| r.worker == Some(s.worker(name))));
        assert_eq!(s.pid(name), pid);
        let out = s.ok(&["status", name]);
        assert!(out.contains("running") && !out.contains("unwatched"), "{out}");
    }
    assert_eq!(s.ok(&["start", "one"]), "one: skip (because already running)\n");
    signal(one, Signal::SIGKILL);
    let raised = s.wait_raised("one", one);
    assert_eq!(runs.number(), raised);
    // Stop and restart find them too.
    s.kill_supervisors(&["one", "two", "third"]);
    assert!(s.ok(&["stop", "one"]).starts_with("one: stop"));
    wait_gone(raised);
    assert!(s.ok(&["restart", "two"]).starts_with("two: restart"));
    wait_gone(two);
    assert_eq!(s.pid("two"), runs.number());
    assert!(runs.is_silent(Duration::ZERO), "a further run");
}

#[test]
fn one_that_ended_while_nobody_was_left_is_raised() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let pid = s.up("web");
    s.kill_supervisors(&["web"]);
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
    assert_eq!(s.status("web"), "seems-not-running");
    s.up("other");
    let raised = s.wait_raised("web", pid);
    assert!(is_alive(raised));
    // How it ended is gone, unless init leaves it as a zombie, and not invented.
    assert!([None, Some(137)].contains(&s.record("web").unwrap().exit));
}

#[test]
fn the_exit_code_is_known_after_the_worker_was_killed() {
    let s = Sandbox::new();
    let go = s.fifo("go");
    s.script(
        "web",
        &format!("config_start_sec=0\nconfig_restart=never\nread line <{}\nexit 7", go.shown()),
    );
    let pid = s.up("web");
    let worker = s.worker("web");
    signal(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        s.record("web").is_some_and(|r| r.worker.is_some_and(|w| w != worker && is_alive(w)))
    });
    fs::write(&go.path, "go\n").unwrap();
    wait_gone(pid);
    let record = s.wait_phase("web", Phase::Error);
    assert_eq!(record.exit, Some(7));
    assert!(s.reraise(&["status", "web"]).expect(3).out.contains("exitcode=7"));
}

#[test]
fn a_worker_killed_together_with_its_service_is_replaced_and_raises_it() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    s.script("web", &counted(&runs));
    let mut pid = s.up("web");
    assert_eq!(runs.number(), pid);
    for round in 0..10 {
        let worker = s.worker("web");
        let order = if round % 2 == 0 { [worker, pid] } else { [pid, worker] };
        order.into_iter().for_each(|one| signal(one, Signal::SIGKILL));
        let old = std::mem::replace(&mut pid, runs.number());
        assert!(!is_alive(old));
        wait_for("its record", || s.record("web").is_some_and(|r| r.pid == Some(pid)));
        wait_for("its worker", || s.record("web").unwrap().worker == Some(s.worker("web")));
    }
    assert!(runs.is_silent(Duration::ZERO), "a further run");
}

#[test]
fn a_worker_killed_while_it_stops_its_service_goes_on_stopping() {
    let s = Sandbox::new();
    let got = s.fifo("got");
    s.script(
        "web",
        &format!(
            "config_start_sec=0\nconfig_stop='TERM 1000, KILL 10'\nconfig_stop_to=process\n\
             trap 'echo term >{0}' TERM\necho up >{0}\nwhile :; do sleep 1000000 & wait; done",
            got.shown()
        ),
    );
    let pid = s.up("web");
    assert_eq!(got.line(), "up");
    s.ok(&["stop", "--no-wait", "web"]);
    assert_eq!(got.line(), "term");
    let worker = s.worker("web");
    signal(worker, Signal::SIGKILL);
    // Its successor goes on where it was.
    wait_for("another worker", || {
        s.record("web").is_some_and(|r| r.worker.is_some_and(|w| w != worker))
    });
    assert_eq!(s.status("web"), "stopping");
    assert!(got.is_silent(Duration::ZERO), "another TERM");
    signal(s.keeper(), Signal::SIGKILL);
    s.ok(&["stop", "--now", "web"]);
    wait_gone(pid);
    wait_for("nothing to be left", || s.processes().is_empty());
}

/// Context switches of a process so far, of both kinds.
#[cfg(target_os = "linux")]
fn switches(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter(|l| l.contains("ctxt_switches")).map(str::to_owned).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn idle_costs_nothing() {
    let s = Sandbox::new();
    let names = ["one", "two", "three"];
    for name in names {
        s.script(name, SLEEPER);
        s.up(name);
    }
    // One that was adopted, and workers that another keeper forked.
    let (worker, keeper) = (s.worker("one"), s.keeper());
    for pid in [worker, keeper] {
        signal(pid, Signal::SIGKILL);
        wait_gone(pid);
    }
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    // It knows all of them when it can answer for each.
    names.iter().for_each(|name| drop(s.ok(&["start", name])));
    for name in names {
        wait_for("its worker", || s.record(name).unwrap().worker == Some(s.worker(name)));
    }
    let mut all: Vec<i32> = names.iter().map(|name| s.worker(name)).collect();
    all.push(s.keeper());
    let (reader, _writer) = std::io::pipe().unwrap();
    let look = || all.iter().map(|&pid| switches(pid)).collect::<Vec<_>>();
    // The end of the work that we have just caused is not idleness.
    wait_for("them to come to rest", || {
        let before = look();
        crate::support::is_quiet(std::os::fd::AsFd::as_fd(&reader), Duration::from_secs(1));
        before == look()
    });
    let before = look();
    assert!(crate::support::is_quiet(std::os::fd::AsFd::as_fd(&reader), Duration::from_secs(2)));
    assert_eq!(look(), before);
}

#[test]
fn a_reader_never_sees_half_a_record() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let path = s.p.join("web");
    let mut command =
        s.shell_command("for i in 1 2 3 4 5 6 7 8 9 10; do $RERAISE restart web; done");
    let restarts = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let pid = restarts.id().cast_signed();
    let mut seen = 0;
    while is_alive(pid) && seen < 1_000_000 {
        let line = fs::read(&path).unwrap();
        let record = reraise::record::Record::from_line(&line);
        assert!(record.is_some_and(|r| r.more.is_some()), "{:?}", String::from_utf8_lossy(&line));
        seen += 1;
    }
    finish(restarts, &command).expect(0);
    assert!(seen > 10, "{seen}");
}

#[test]
fn nobody_else_gets_in() {
    use std::os::unix::fs::PermissionsExt;
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\necho said\nexec sleep 1000000");
    // Whatever the caller's umask.
    s.shell("umask 0; $RERAISE start web").expect(0);
    wait_for("its log", || s.log("web") == "said\n");
    let mut left = vec![s.p.clone(), s.l.join("web")];
    while let Some(path) = left.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        use std::os::unix::fs::FileTypeExt;
        // Whoever a service has become may reopen its output, which it holds; nobody
        // else comes so far.
        let is_pipe = about.file_type().is_fifo() && path.parent().unwrap().ends_with("s/web");
        if !about.is_symlink() && !is_pipe {
            assert_eq!(about.permissions().mode() & 0o022, 0, "{}", path.display());
        }
    }
    let mode = fs::metadata(s.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
