//! `reraise up`: the keeper in the foreground.

use std::fs;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use reraise::record::Phase;
use reraise::wanted::Wanted;

use crate::support::{
    Done, SLEEPER, Sandbox, finish, is_alive, signal, spawn, wait_for, wait_gone, wait_some,
};

/// One that runs, and what it was started with.
struct Up {
    child: Child,
    command: Command,
}

impl Up {
    fn of(s: &Sandbox, names: &[&str]) -> Self {
        let mut command = s.command(&[&["up"], names].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(&mut command);
        Self { child, command }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    #[track_caller]
    fn finish(self) -> Done {
        finish(self.child, &self.command)
    }
}

/// Ends on TERM only when it has come so often, and says so each time.
fn stubborn(got: &crate::support::Fifo) -> String {
    format!(
        "config_start_sec=0\nconfig_stop='TERM 1000, KILL 10'\nconfig_stop_to=process\n\
         trap 'echo term >{0}' TERM\necho up >{0}\nwhile :; do sleep 1000000 & wait; done",
        got.shown()
    )
}

#[test]
fn it_says_what_happens_and_ends_with_all_its_services() {
    let s = Sandbox::new();
    s.script("web", &format!("{SLEEPER} # it is silent"));
    s.script("db", "config_start_sec=0\necho to the log\nexec sleep 1000000");
    s.script("talker", "config_start_sec=0\nconfig_log=no\necho to stdout\nexec sleep 1000000");
    s.script("other", SLEEPER);
    let up = Up::of(&s, &["web", "db", "talker"]);
    assert_eq!(s.keeper(), up.pid(), "it is the keeper itself");
    for name in ["web", "db", "talker"] {
        s.wait_phase(name, Phase::Run);
    }
    assert_eq!(s.status("other"), "not-running");
    let (web, db) = (s.pid("web"), s.pid("db"));
    // Other commands find it.
    s.up("other");
    assert_eq!(s.keeper(), up.pid());
    s.ok(&["stop", "other"]);
    signal(db, Signal::SIGKILL);
    let db = s.wait_raised("db", db);
    s.wait_phase("db", Phase::Run);
    // A terminal that goes away.
    up.signal(Signal::SIGHUP);
    assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
    let pid = up.pid();
    up.signal(Signal::SIGTERM);
    let done = up.finish().expect(0);
    [web, db].into_iter().for_each(|pid| assert!(!is_alive(pid)));
    assert_eq!(s.find_keeper(), None);
    for line in [
        format!("web: starting (pid={web})"),
        format!("web: running (pid={web})"),
        "db: ended: signal KILL".to_owned(),
        format!("db: running (pid={db})"),
        "other: stopped".to_owned(),
        "up: TERM: stopping 3 service(s)".to_owned(),
        "web: stopped".to_owned(),
        "up: all services are stopped".to_owned(),
    ] {
        let line = format!("reraise: {line}\n");
        assert_eq!(done.err.matches(&line).count(), 1, "{line}{done:?}");
    }
    assert_eq!((done.out.as_str(), s.log("talker").as_str()), ("to stdout\n", ""), "{pid}");
    assert_eq!(s.log("db"), "to the log\nto the log\n");
    assert_eq!(s.messages(), "");
    // What was up is wanted still.
    for (name, wanted) in [("web", Wanted::Up), ("other", Wanted::Down)] {
        assert_eq!(Wanted::read(&s.state().join("s").join(name)), Some(wanted), "{name}");
    }
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn without_names_it_brings_up_what_is_wanted() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let up = Up::of(&s, &[]);
    assert_eq!(s.keeper(), up.pid());
    s.up("web");
    s.up("other");
    s.ok(&["stop", "other"]);
    // It stays when there is nothing to do.
    s.ok(&["stop", "web"]);
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    assert_eq!(s.keeper(), up.pid());
    up.signal(Signal::SIGINT);
    let done = up.finish().expect(0);
    assert!(done.err.contains("nothing is wanted"), "{done:?}");
    let up = Up::of(&s, &[]);
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    assert_eq!(s.status("other"), "not-running");
    up.signal(Signal::SIGTERM);
    let done = up.finish().expect(0);
    assert!(done.err.contains(&format!("web: running (pid={pid})")), "{done:?}");
}

#[test]
fn what_it_cannot_do_is_refused_before_anything_runs() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("bad", "config_start_sec=soon\nexec sleep 1");
    let done = s.reraise(&["up", "web", "nobody"]).expect(4);
    assert!(done.err.contains("reraise: nobody: no such service"), "{done:?}");
    s.reraise(&["up", "*"]).expect(5).says("config_start_sec: `soon` is not a number of seconds");
    s.reraise(&["up", "no-*"]).expect(4);
    assert_eq!((s.find_keeper(), s.record("web")), (None, None));
}

#[test]
fn there_is_but_one() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let keeper = s.keeper();
    for names in [&["web"][..], &[]] {
        let done = Up::of(&s, names).finish().expect(1);
        let line =
            format!("reraise: keeper: runs already (pid={keeper})\n    use it: reraise start");
        assert!(done.err.starts_with(&line), "{done:?}");
    }
    assert_eq!((s.keeper(), s.pid("web"), is_alive(pid)), (keeper, pid, true));
    // One that is just ending is waited for.
    for _ in 0..5 {
        s.shell(
            "$RERAISE stop web; $RERAISE up web & pid=$!
            until $RERAISE status web; do :; done; kill $pid; wait $pid",
        )
        .expect(0);
        s.up("web");
    }
    // What it was to be given is not left lying about.
    let left: Vec<_> = fs::read_dir(s.state()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("up.")), "{left:?}");
}

#[test]
fn the_second_term_hurries() {
    let s = Sandbox::new();
    let got = s.fifo("got");
    s.script("web", &stubborn(&got));
    s.script("other", SLEEPER);
    let up = Up::of(&s, &["web"]);
    assert_eq!(got.line(), "up");
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    up.signal(Signal::SIGTERM);
    assert_eq!(got.line(), "term");
    wait_for("its record", || s.status("web") == "stopping");
    // Nothing new begins meanwhile.
    let done = s.reraise(&["start", "other"]).expect(1);
    done.says("reraise: other: cannot be started while all services are being stopped\n    ");
    // Nor is anything forgotten when the worker dies.
    let worker = s.worker("web");
    signal(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        s.record("web").is_some_and(|r| r.worker.is_some_and(|w| w != worker))
    });
    assert_eq!(s.status("web"), "stopping");
    up.signal(Signal::SIGTERM);
    let done = up.finish().expect(0);
    assert!(!is_alive(pid) && done.err.contains("TERM: stopping 1 service(s), without patience"));
    assert_eq!(s.find_keeper(), None);
}

#[test]
fn the_end_of_an_essential_service_is_the_end_of_all() {
    let s = Sandbox::new();
    let go = s.fifo("go");
    s.script("web", SLEEPER);
    let head = "config_start_sec=0\nconfig_essential=yes";
    for (name, body, code) in [
        ("never", format!("config_restart=never\nread x <{}\nexit 42", go.shown()), 42),
        ("done", format!("config_restart=on-failure\nread x <{}\nexit 0", go.shown()), 0),
        ("killed", format!("config_restart=never\nread x <{}\nkill -9 $$", go.shown()), 137),
        ("failing", format!("config_start_sec=10\nread x <{}\nexit 7", go.shown()), 7),
    ] {
        s.script(name, &format!("{head}\n{body}"));
        let up = Up::of(&s, &["web", name]);
        let web = s.wait_phase("web", Phase::Run).pid.unwrap();
        wait_some("its run", || s.record(name)?.pid);
        // Its worker may die before.
        let worker = s.worker(name);
        signal(worker, Signal::SIGKILL);
        wait_for("another worker", || {
            s.record(name).is_some_and(|r| r.worker.is_some_and(|w| w != worker && is_alive(w)))
        });
        assert_eq!(s.keeper(), up.pid());
        fs::write(&go.path, "\n").unwrap();
        let done = up.finish().expect(code);
        assert!(done.err.contains(&format!("up: {name} is essential: stopping")), "{done:?}");
        assert!(!is_alive(web), "{name}");
        fs::remove_file(s.d.join(name)).unwrap();
    }
}

#[test]
fn an_essential_service_that_is_raised_or_stopped_ends_nothing() {
    let s = Sandbox::new();
    s.script("web", &format!("config_essential=yes\n{SLEEPER}"));
    let up = Up::of(&s, &["web"]);
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    signal(pid, Signal::SIGKILL);
    s.wait_raised("web", pid);
    s.ok(&["stop", "web"]);
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    assert_eq!(s.keeper(), up.pid());
    up.signal(Signal::SIGTERM);
    up.finish().expect(0);
    // One that cannot be executed has ended for good.
    s.script("lost", "#!/nonexistent/interpreter\nconfig_essential=yes");
    Up::of(&s, &["lost"]).finish().expect(127).says("lost: cannot be executed: no such file");
}

#[test]
fn in_the_background_nobody_is_essential() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("job", "config_start_sec=0\nconfig_restart=never\nconfig_essential=yes\nexit 3");
    let pid = s.up("web");
    s.ok(&["start", "job"]);
    s.wait_phase("job", Phase::Error);
    assert!(is_alive(pid));
    assert_eq!(s.status("web"), "running");
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_has_to_read_what_it_says() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    // Each is raised a few times at once, and then once a second.
    let names: Vec<String> = (0..40).map(|n| format!("web-{n}")).collect();
    for name in &names {
        s.script(name, &format!("config_start_sec=0\necho $$ >{}\nexit 0", runs.shown()));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut up = Up::of(&s, &names);
    use std::io::Read;
    let mut unread = up.child.stderr.take().unwrap();
    nix::fcntl::fcntl(&unread, nix::fcntl::FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
    for _ in 0..200 {
        assert!(runs.number() > 0);
    }
    s.ok(&["stop", "*"]);
    up.signal(Signal::SIGTERM);
    assert!(up.child.wait().unwrap().success());
    let mut text = String::new();
    unread.read_to_string(&mut text).unwrap();
    let told = text.matches(": ended: ").count();
    assert!((10..190).contains(&told), "{told}");
    assert!(text.lines().all(|line| line.starts_with("reraise: ")), "whole lines");
}

#[test]
fn killed_by_force_it_leaves_its_services_to_a_keeper_in_the_background() {
    let s = Sandbox::new();
    s.script("web", &format!("config_log=no\n{SLEEPER}"));
    let up = Up::of(&s, &["web"]);
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    let old = up.pid();
    up.signal(Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != old));
    assert_eq!((s.pid("web"), is_alive(pid)), (pid, true));
    let keeper = s.keeper();
    let done = Up::of(&s, &[]).finish().expect(1);
    assert!(done.err.contains(&format!("runs already (pid={keeper})")), "{done:?}");
    s.ok(&["stop", "web"]);
    wait_gone(keeper);
    // Nobody but the service has written there.
    assert_eq!(up.finish().out, "");
    assert_eq!(s.status("web"), "not-running");
}

#[test]
fn what_runs_unwatched_is_adopted_and_ends_with_it() {
    let s = Sandbox::new();
    for name in ["web", "other"] {
        s.script(name, SLEEPER);
        s.up(name);
    }
    let (web, other) = (s.pid("web"), s.pid("other"));
    s.kill_supervisors(&["web", "other"]);
    let up = Up::of(&s, &["web"]);
    for (name, pid) in [("web", web), ("other", other)] {
        wait_for("its worker", || {
            s.record(name).is_some_and(|r| r.worker.is_some_and(|w| s.find_worker(name) == Some(w)))
        });
        assert_eq!(s.pid(name), pid);
    }
    up.signal(Signal::SIGTERM);
    let done = up.finish().expect(0);
    assert!(done.err.contains(&format!("web: runs already (pid={web})")), "{done:?}");
    assert!(!is_alive(web) && !is_alive(other));
}

#[test]
fn what_is_typed_at_its_terminal_is_for_the_keeper_alone() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let up = Up::of(&s, &["web"]);
    s.wait_phase("web", Phase::Run);
    let group = |pid: i32| nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).unwrap();
    assert_ne!(group(s.worker("web")), group(up.pid()));
    assert_ne!(group(s.pid("web")), group(up.pid()));
    up.signal(Signal::SIGTERM);
    up.finish().expect(0);
}
