//! `auto-reraise NAME` by hand: in the foreground, without a keeper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use reraise::record::Phase;
use reraise::wanted::Wanted;

use crate::support::{
    Done, SLEEPER, Sandbox, auto_reraise, finish, is_alive, signal, spawn, wait_for, wait_gone,
};

/// One that runs, and what it was started with.
struct Foreground {
    child: Child,
    command: Command,
}

impl Foreground {
    fn of(s: &Sandbox, name: &str) -> Self {
        let mut command = s.program(auto_reraise());
        command.arg(name).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(&mut command);
        Self { child, command }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    #[track_caller]
    fn finish(self) -> Done {
        finish(self.child, &self.command)
    }
}

/// Says that it is up, on standard output.
const TALKER: &str = "config_start_sec=0\necho hello\nexec sleep 1000000";

#[test]
fn its_output_stays_where_it_is_and_term_stops_it() {
    let s = Sandbox::new();
    let fifo = s.fifo("said");
    let shown = fifo.shown();
    s.script(
        "web",
        &format!("config_start_sec=0\necho hello\necho said >{shown}\nexec sleep 1000000"),
    );
    let web = Foreground::of(&s, "web");
    let record = s.wait_phase("web", Phase::Run);
    assert_eq!(record.worker, Some(web.pid()));
    assert_eq!(s.worker("web"), web.pid());
    let pid = record.pid.unwrap();
    assert_eq!(fifo.line(), "said");
    // It is raised there too.
    signal(pid, Signal::SIGKILL);
    let pid = s.wait_raised("web", pid);
    assert_eq!(fifo.line(), "said");
    assert_eq!(s.find_keeper(), None);
    signal(web.pid(), Signal::SIGTERM);
    let done = web.finish().expect(0);
    assert_eq!(done.out, "hello\nhello\n");
    assert!(!is_alive(pid));
    assert_eq!(s.record("web"), None);
    assert_eq!(s.log("web"), "");
}

#[test]
fn the_commands_work_on_it() {
    let s = Sandbox::new();
    s.script("web", TALKER);
    let web = Foreground::of(&s, "web");
    let worker = web.pid();
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    assert_eq!(s.status("web"), "running");
    let skip = "web: skip (because already running)\n";
    assert_eq!(s.ok(&["start", "web"]), skip);
    let line = format!("web: restart    # (worker-pid={worker})\n");
    assert_eq!(s.ok(&["restart", "web"]), line);
    let new = s.wait_raised("web", pid);
    s.wait_phase("web", Phase::Run);
    let own = s.state().join("s/web");
    assert_eq!(Wanted::read(&own), Some(Wanted::Up));
    assert_eq!(s.ok(&["stop", "web"]), format!("web: stop    # (worker-pid={worker})\n"));
    wait_gone(new);
    web.finish().expect(0);
    // A signal alone says nothing about tomorrow; the command does.
    assert_eq!(Wanted::read(&own), Some(Wanted::Down));
    wait_for("the keeper to go", || s.find_keeper().is_none());
    assert_eq!(s.status("web"), "not-running");
}

#[test]
fn a_second_one_is_refused() {
    let s = Sandbox::new();
    s.script("web", TALKER);
    let web = Foreground::of(&s, "web");
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    let done = Foreground::of(&s, "web").finish();
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.err.contains("web: ") && done.err.contains("already"), "{done:?}");
    assert_eq!(s.pid("web"), pid);
    signal(web.pid(), Signal::SIGINT);
    web.finish().expect(0);
    // Nor beside one that has a keeper.
    let pid = s.up("web");
    assert_ne!(Foreground::of(&s, "web").finish().code, 0);
    assert_eq!((s.pid("web"), is_alive(pid)), (pid, true));
}

#[test]
fn it_ends_with_the_fault_of_its_service() {
    let s = Sandbox::new();
    s.script("web", "exit 7");
    let done = Foreground::of(&s, "web").finish().expect(1);
    assert!(done.err.contains("auto-reraise: web: failed to start: exit code 7"), "{done:?}");
    let done = Foreground::of(&s, "nobody").finish().expect(4);
    assert!(done.err.contains("auto-reraise: nobody: no such service"), "{done:?}");
    Foreground::of(&s, "a/b").finish().expect(2);
    Foreground::of(&s, "--fast").finish().expect(2);
    s.script("lost", "#!/nonexistent/interpreter");
    Foreground::of(&s, "lost").finish().expect(5).says("/nonexistent/interpreter");
    // Refused when it is to be raised.
    let body = format!("config_max_retry=0\n{SLEEPER}");
    for (name, code, words) in [
        ("open", 6, "open: can be changed by other users"),
        ("gone", 4, "gone: its script is gone"),
    ] {
        let path = s.script(name, &body);
        let one = Foreground::of(&s, name);
        let pid = s.wait_phase(name, Phase::Run).pid.unwrap();
        match name {
            "open" => fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
        signal(pid, Signal::SIGKILL);
        one.finish().expect(code).says(words);
    }
}

/// Its script starts another service, whose keeper and worker are below it then.
fn nested(s: &Sandbox) -> (Foreground, i32, i32) {
    let up = s.fifo("up");
    let reraise = crate::support::reraise();
    s.script("other", SLEEPER);
    s.script(
        "web",
        &format!(
            "config_start_sec=0\n{} start other\necho up >{}\nsleep 1000000",
            reraise.display(),
            up.shown()
        ),
    );
    let web = Foreground::of(s, "web");
    assert_eq!(up.line(), "up");
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    (web, pid, s.wait_phase("other", Phase::Run).pid.unwrap())
}

#[test]
fn what_its_service_started_with_reraise_is_not_its_own() {
    // The keeper as it was, one that a worker has started, and a run that lost both.
    for killed in ["nobody", "keeper", "keeper and worker"] {
        let s = Sandbox::new();
        let (web, pid, other) = nested(&s);
        let (keeper, worker) = (s.keeper(), s.worker("other"));
        match killed {
            "nobody" => {}
            "keeper" => {
                signal(keeper, Signal::SIGKILL);
                wait_for("another keeper", || s.find_keeper().is_some_and(|k| k != keeper));
            }
            _ => {
                for one in [Signal::SIGSTOP, Signal::SIGKILL] {
                    [keeper, worker].into_iter().for_each(|pid| signal(pid, one));
                }
                [keeper, worker].into_iter().for_each(wait_gone);
            }
        }
        // Nor is it in the way of a successor, who comes when nothing is left.
        signal(pid, Signal::SIGKILL);
        let raised = s.wait_raised("web", pid);
        signal(web.pid(), Signal::SIGTERM);
        web.finish().expect(0);
        assert!(!is_alive(raised) && is_alive(other), "{killed}");
        if killed != "keeper and worker" {
            assert!(is_alive(s.worker("other")) && is_alive(s.keeper()), "{killed}");
            assert_eq!(s.worker("other"), worker, "{killed}");
        }
        assert_eq!(s.ok(&["start", "other"]), "other: skip (because already running)\n");
        assert_eq!(s.pid("other"), other);
        s.ok(&["stop", "other"]);
        wait_gone(other);
        wait_for("nothing to be left", || s.processes().is_empty());
    }
}

#[test]
fn one_below_another_is_a_service_of_its_own() {
    let s = Sandbox::new();
    s.script("inner", TALKER);
    let worker = auto_reraise();
    let body = format!("config_start_sec=0\n{} inner &\nexec sleep 1000000", worker.display());
    s.script("outer", &body);
    let outer = Foreground::of(&s, "outer");
    let pid = s.wait_phase("outer", Phase::Run).pid.unwrap();
    let inner = s.wait_phase("inner", Phase::Run).pid.unwrap();
    assert_eq!(
        s.ok(&["stop", "outer"]),
        format!("outer: stop    # (worker-pid={})\n", outer.pid())
    );
    assert!(!is_alive(pid) && is_alive(inner) && is_alive(s.worker("inner")));
    drop(s.ok(&["stop", "inner"]));
    wait_gone(inner);
    outer.finish().expect(0);
}

#[test]
fn what_it_leaves_when_killed_is_adopted_by_the_next_start() {
    let s = Sandbox::new();
    s.script("web", TALKER);
    let web = Foreground::of(&s, "web");
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    signal(web.pid(), Signal::SIGKILL);
    wait_gone(web.pid());
    assert!(is_alive(pid));
    assert!(s.ok(&["status", "web"]).contains("unwatched"));
    s.ok(&["start", "web"]);
    wait_for("a worker", || s.record("web").is_some_and(|r| r.worker == Some(s.worker("web"))));
    assert_eq!(s.pid("web"), pid);
    s.ok(&["stop", "web"]);
    wait_gone(pid);
    web.finish();
}

#[test]
fn a_keeper_that_finds_it_there_does_not_wait_for_its_hello() {
    let s = Sandbox::new();
    s.script("web", TALKER);
    s.script("other", SLEEPER);
    let web = Foreground::of(&s, "web");
    s.wait_phase("web", Phase::Run);
    s.up("other");
    // Commands still reach it, and nothing else is waited for.
    let out = s.ok(&["restart", "web"]);
    assert_eq!(out, format!("web: restart    # (worker-pid={})\n", web.pid()));
    s.ok(&["stop", "other"]);
    wait_for("the end of the keeper", || s.find_keeper().is_none());
    signal(web.pid(), Signal::SIGTERM);
    web.finish().expect(0);
}
