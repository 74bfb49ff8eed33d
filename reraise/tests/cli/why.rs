//! `reraise why`, and the memory of deaths behind it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use reraise::backend::{Exit, LaunchError, Step};
use reraise::history::deaths::{self, Cause, Death};
use reraise::record::Phase;

use crate::support::{
    SLEEPER, Sandbox, as_ordinary, signal, skip_unless_root, wait_for, wait_gone,
};

/// Ends of runs that are remembered, the oldest first.
fn deaths(s: &Sandbox, name: &str) -> Vec<Death> {
    deaths::read_all(&s.state().join("s").join(name).join("deaths"))
}

fn wait_deaths(s: &Sandbox, name: &str, count: usize) -> Vec<Death> {
    wait_for("deaths", || deaths(s, name).len() >= count);
    deaths(s, name)
}

/// The output of `why`, with its lines joined: where they break depends on paths.
#[track_caller]
fn why(s: &Sandbox, name: &str) -> String {
    let out = s.ok(&["why", name]);
    assert!(out.lines().count() <= 24, "{out}");
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "no {words:?} in: {text}");
    }
}

#[test]
fn a_loop_of_crashes_is_one_pattern() {
    let s = Sandbox::new();
    let go = s.at("go");
    let lines = "config_start_sec=0.3\nconfig_max_retry=3\nconfig_retry_sec=0.01";
    let body = format!("[ -e {0} ] && rm {0} && sleep 0.4\necho no port; exit 3", go.display());
    s.script("web", &format!("{lines}\n{body}"));
    fs::write(&go, "").unwrap();
    s.ok(&["start", "web"]);
    s.wait_phase("web", Phase::Error);
    let all = deaths(&s, "web");
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all.iter().all(|d| (d.exit, d.cause) == (Exit::Code(3), Cause::Itself)), "{all:?}");
    assert!(all[0].lasted >= 300_000_000 && all[0].began < all[0].ended, "{all:?}");
    assert!(all.iter().all(|d| d.usage.is_some_and(|u| u.peak > 0)), "{all:?}");
    // What it said last may take a moment on its way to the log.
    wait_for("its last words", || why(&s, "web").contains("no port"));
    let text = why(&s, "web");
    says(
        &text,
        &[
            "web: given up ",
            " s ago: exit code 3",
            "wanted up; last asked by ",
            "5 deaths in ",
            "always exit code 3",
            "said last",
            "no port",
            "rule config_max_retry=3 (line 3): it was failed start 4 in a row",
            "next nothing, until somebody starts it",
            "reraise start web",
        ],
    );
    let status = s.reraise(&["status", "--json", "web"]).expect(3).out;
    says(&status, &["\"last_death\":{", "\"code\":3,", "\"exit\":\"exit code 3\"", "\"raised\":4"]);
    let json = s.ok(&["why", "--json", "web"]);
    says(&json, &["\"version\":1", "\"key\":\"max_retry\",\"line\":3", "\"failed_starts\":4"]);
}

#[test]
fn a_run_that_says_nothing_has_not_the_words_of_another() {
    let s = Sandbox::new();
    let go = s.at("go");
    let lines = "config_start_sec=0.3\nconfig_max_retry=0\nconfig_retry_sec=0.01";
    let first = format!("[ -e {0} ] && rm {0} && echo hello && sleep 0.4 && exit 0", go.display());
    s.script("web", &format!("{lines}\n{first}\nexit 9"));
    fs::write(&go, "").unwrap();
    s.ok(&["start", "web"]);
    s.wait_phase("web", Phase::Error);
    let all = deaths(&s, "web");
    let [first, last] = all[..] else { panic!("{all:?}") };
    assert_eq!((first.exit, last.exit), (Exit::Code(0), Exit::Code(9)));
    let text = why(&s, "web");
    says(&text, &["exit code 9", "said last (nothing, as far as its log knows)"]);
    assert!(!text.contains("hello"), "{text}");
    says(&s.ok(&["why", "--json", "web"]), &["\"last_lines\":[]"]);
    let logs = |run: &str| s.reraise(&["logs", "web", "--run", run]).expect(0);
    for run in ["last", "-1"] {
        assert_eq!(logs(run).err, format!("web: run {:016x} has said nothing\n", last.run));
        assert_eq!(logs(run).out, "");
    }
    let done = logs("-2").says_out("\nhello\n");
    assert!(done.err.is_empty() && done.out.contains(&format!("{:016x}", first.run)), "{done:?}");
    assert_eq!(logs("-3").err, "web: has no run -3\n");
    // What was not kept of it is still at the end of the log, and the other run is not.
    let tails = s.state().join("s/web/tails");
    fs::remove_file(&tails).unwrap();
    assert!(!why(&s, "web").contains("hello"));
    s.script("web", "config_start_sec=0\nconfig_restart=never\necho bye; exit 9");
    s.ok(&["start", "web"]);
    wait_deaths(&s, "web", 3);
    s.wait_phase("web", Phase::Error);
    wait_for("its last lines", || tails.exists());
    fs::remove_file(&tails).unwrap();
    let text = why(&s, "web");
    says(&text, &["said last bye"]);
    assert!(!text.contains("hello"), "{text}");
}

#[test]
fn who_has_stopped_it() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    says(&why(&s, "web"), &["web: not running: it was never started", "to do reraise start web"]);
    s.up("web");
    let text = why(&s, "web");
    says(&text, &["web: running for ", "wanted up; last asked by ", "(reraise start, pid "]);
    s.run(s.command(&["stop", "web"]).env("SUDO_USER", "alice")).expect(0);
    let all = deaths(&s, "web");
    let term = Exit::Signal { number: libc::SIGTERM, core: false };
    assert_eq!((all.len(), all[0].exit, all[0].cause), (1, term, Cause::Stop));
    let text = why(&s, "web");
    says(
        &text,
        &["web: stopped by alice as ", "(reraise stop, pid ", "as asked (stop): signal TERM"],
    );
    // By a signal to the worker it stays wanted.
    s.up("web");
    let worker = s.worker("web");
    signal(worker, Signal::SIGTERM);
    wait_gone(worker);
    wait_for("its end", || s.record("web").is_none());
    says(
        &why(&s, "web"),
        &["although it is wanted: stopped by signal TERM to its worker", "reraise resume web"],
    );
    s.reraise(&["why", "nobody"]).expect(4).says("no such service");
}

#[test]
fn what_cannot_be_executed() {
    let s = Sandbox::new();
    let path = s.script("closed", "exec true");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    says(&why(&s, "closed"), &["closed: cannot be started", "is not executable", "chmod +x "]);
    s.script("odd", "#!/no/such/interpreter\n");
    says(
        &why(&s, "odd"),
        &["never started", "its interpreter /no/such/interpreter does not exist"],
    );
    s.reraise(&["start", "odd"]).expect(5);
    let all = deaths(&s, "odd");
    assert!(matches!(all[..], [Death { cause: Cause::Launch(_), .. }]), "{all:?}");
    let text = why(&s, "odd");
    says(
        &text,
        &["odd: given up ", "it cannot be executed", "/no/such/interpreter does not exist"],
    );
    assert_eq!(text.matches("does not exist").count(), 1, "{text}");
    // A script that is taken away while it runs.
    let path = s.script("web", SLEEPER);
    s.up("web");
    fs::remove_file(path).unwrap();
    says(
        &why(&s, "web"),
        &[
            "web: running",
            "as it is now, it cannot be started: its script is gone",
            "put it back, or stop the service: reraise stop web",
        ],
    );
    assert!(s.ok(&["stop", "web"]).starts_with("web: stop "));
}

#[test]
fn what_could_not_be_raised_again() {
    let s = Sandbox::new();
    let body = format!("config_max_retry=0\n{SLEEPER}");
    for (name, errno, what, advice) in [
        ("gone", libc::ENOENT, "its script is gone", "put it back"),
        ("open", libc::EPERM, "can be changed by other users", "chmod go-w "),
    ] {
        let path = s.script(name, &body);
        let pid = s.up(name);
        match name {
            "gone" => fs::remove_file(path).unwrap(),
            _ => fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap(),
        }
        signal(pid, Signal::SIGTERM);
        s.wait_phase(name, Phase::Error);
        let all = wait_deaths(&s, name, 2);
        let launch = Cause::Launch(LaunchError { step: Step::Exec, errno });
        assert_eq!((all[0].pid, all[0].cause, all.len()), (pid, Cause::Itself, 2), "{all:?}");
        assert_eq!((all[1].pid, all[1].cause, all[1].lasted), (0, launch, 0), "{all:?}");
        let text = why(&s, name);
        let given_up = format!("{name}: given up ");
        says(&text, &[&given_up, "ago: it cannot be executed", "1 death, at ", what, advice]);
        says(&text, &["could not be executed before that: once signal TERM"]);
        assert_eq!(text.matches(what).count(), 1, "{text}");
        // What its script said is gone with it.
        assert_eq!(text.contains(" rule "), name == "open", "{text}");
        assert!(!text.contains("may not be executed"), "{text}");
    }
}

#[test]
fn a_signal_and_what_it_may_mean() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\nconfig_restart=never\nkill -SEGV $$");
    s.ok(&["start", "web"]);
    s.wait_phase("web", Phase::Error);
    let all = deaths(&s, "web");
    assert!(matches!(all[..], [Death { exit: Exit::Signal { number: 11, .. }, .. }]), "{all:?}");
    let text = why(&s, "web");
    says(&text, &["given up", "signal SEGV", "rule config_restart=never (line 3)", "crashed"]);
}

#[test]
fn the_end_of_an_adopted_run_is_known_and_kept_once() {
    let s = Sandbox::new();
    let ready = s.fifo("ready");
    let body = "trap 'exit 7' TERM\necho >";
    let rest = "\nwhile :; do sleep 0.02; done";
    s.script("web", &format!("config_start_sec=0\n{body}{}{rest}", ready.shown()));
    let mut pid = s.up("web");
    for round in 1..=5 {
        ready.line();
        let worker = s.worker("web");
        signal(worker, Signal::SIGKILL);
        wait_for("another worker", || {
            let new = s.find_worker("web").filter(|&new| new != worker);
            new.is_some() && s.record("web").is_some_and(|r| r.worker == new)
        });
        signal(pid, Signal::SIGTERM);
        pid = s.wait_raised("web", pid);
        let all = wait_deaths(&s, "web", round);
        assert_eq!(all.len(), round, "{all:?}");
        assert!(all.iter().all(|d| (d.exit, d.cause) == (Exit::Code(7), Cause::Itself)), "{all:?}");
    }
}

#[test]
fn a_worker_killed_together_with_its_service_leaves_one_death_for_each_run() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut pid = s.up("web");
    for round in 1..=10 {
        let worker = s.worker("web");
        // In either order, and at once.
        let both = if round % 2 == 0 { [worker, pid] } else { [pid, worker] };
        both.iter().for_each(|&one| signal(one, Signal::SIGKILL));
        pid = s.wait_raised("web", pid);
        wait_for("another worker", || {
            s.record("web").is_some_and(|r| r.pid == Some(pid) && r.worker == s.find_worker("web"))
        });
        let all = wait_deaths(&s, "web", round);
        let mut runs: Vec<u64> = all.iter().map(|d| d.run).collect();
        runs.sort_unstable();
        runs.dedup();
        assert_eq!((all.len(), runs.len()), (round, round), "{all:?}");
        let kill = Exit::Signal { number: libc::SIGKILL, core: false };
        assert!(all.iter().all(|d| d.exit == kill || d.exit == Exit::Unknown), "{all:?}");
    }
}

#[test]
fn what_runs_while_nobody_watches() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    s.kill_supervisors(&["web"]);
    says(&why(&s, "web"), &["and nobody watches it", "reraise resume web # adopts it"]);
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
    let text = why(&s, "web");
    says(&text, &["web: gone, and its worker as well", "reraise resume web"]);
    s.reraise(&["resume", "web"]).expect(0);
    s.wait_raised("web", pid);
    let all = wait_deaths(&s, "web", 1);
    // Where init has not reaped it yet, the system still tells how it ended.
    let kill = Exit::Signal { number: libc::SIGKILL, core: false };
    assert!(all[0].exit == Exit::Unknown || all[0].exit == kill, "{all:?}");
    assert_eq!((all.len(), all[0].is_late), (1, true));
}

#[test]
fn a_ring_that_cannot_be_written_stops_nothing() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    fs::create_dir_all(s.state().join("s/web/deaths")).unwrap();
    fs::remove_file(s.state().join("events")).unwrap();
    fs::create_dir(s.state().join("events")).unwrap();
    signal(pid, Signal::SIGKILL);
    s.wait_raised("web", pid);
    s.wait_phase("web", Phase::Run);
    says(&why(&s, "web"), &["web: running"]);
    s.ok(&["stop", "web"]);
    assert_eq!(s.ok(&["events"]), "");
}

/// A control group in which little memory may be used; gone when it is dropped.
#[cfg(target_os = "linux")]
struct Group(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Group {
    fn new() -> Option<Self> {
        let name = format!("reraise-test-{}", std::process::id());
        [("memory", "memory.limit_in_bytes"), ("", "memory.max")].into_iter().find_map(
            |(top, limit)| {
                let path = std::path::Path::new("/sys/fs/cgroup").join(top).join(&name);
                fs::create_dir(&path).ok()?;
                let group = Self(path);
                fs::write(group.0.join(limit), "60000000").ok()?;
                Some(group)
            },
        )
    }
}

#[cfg(target_os = "linux")]
impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_was_killed_for_memory() {
    let Some(group) = Group::new() else {
        return crate::support::skipped("no control group can be made here");
    };
    let s = Sandbox::new();
    let eat = "x=xxxxxxxxxxxxxxxx\nwhile :; do x=$x$x; done";
    s.script("web", &format!("config_start_sec=0.01\nconfig_restart=never\nsleep 0.1\n{eat}"));
    let procs = group.0.join("cgroup.procs");
    let start = format!("echo $$ >{} && exec \"$RERAISE\" start web", procs.display());
    s.shell(&start).expect(0);
    s.wait_phase("web", Phase::Error);
    let all = deaths(&s, "web");
    assert!(all.len() == 1 && all[0].is_for_memory, "{all:?}");
    says(&why(&s, "web"), &["signal KILL (killed for memory)", "give it more"]);
    // Also of one that another one follows at once.
    let again = s.at("again");
    let rest = format!("[ -e {0} ] && exec sleep 1000000\n: >{0}", again.display());
    s.script("next", &format!("config_start_sec=0.01\n{rest}\nsleep 0.1\n{eat}"));
    let start = start.replace("start web", "start next");
    s.shell(&start).expect(0);
    wait_for("its second run", || s.ok(&["events", "next"]).matches("starting").count() == 2);
    assert!(deaths(&s, "next")[0].is_for_memory);
    let events = s.ok(&["events", "next"]);
    let ended = events.find("for memory").expect(&events);
    assert!(events.rfind("starting").is_some_and(|begun| ended < begun), "{events}");
    s.ok(&["stop", "next"]);
    wait_for("an empty group", || fs::read_to_string(&procs).is_ok_and(|text| text.is_empty()));
    // By somebody's hand it is not said.
    s.script("hand", SLEEPER);
    let pid = s.up("hand");
    signal(pid, Signal::SIGKILL);
    let all = wait_deaths(&s, "hand", 1);
    assert!(!all[0].is_for_memory, "{all:?}");
}

#[test]
fn workers_that_keep_failing_are_named() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let worker = s.worker("web");
    // No worker can take this for a lock.
    let lock = s.state().join("s/web/lock");
    fs::rename(&lock, s.at("lock")).unwrap();
    fs::create_dir(&lock).unwrap();
    signal(worker, Signal::SIGKILL);
    wait_for("the third failure", || s.messages().contains("has failed 3 times"));
    // It is said just before it is noted.
    wait_for("it to be noted", || why(&s, "web").contains("its worker has failed "));
    let text = why(&s, "web");
    says(&text, &["nobody watches it", "its worker has failed ", "another worker comes in "]);
    says(&text, &["# says why", "reraise doctor"]);
    fs::remove_dir(&lock).unwrap();
    fs::rename(s.at("lock"), &lock).unwrap();
    s.ok(&["start", "web"]);
    wait_for("another worker", || s.find_worker("web").is_some_and(|new| new != worker));
}

#[test]
fn what_is_anothers_is_said_to_be() {
    if skip_unless_root("another user") {
        return;
    }
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let reraise = s.public_programs();
    let done = s.run(as_ordinary(s.program(&reraise).args(["why", "web"])));
    let done = done.expect(0);
    let text = done.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let running = format!("pid {pid}");
    says(&text, &["web: running for", &running, "wanted known to its owner alone"]);
    let (d, p) = (s.d.display(), s.p.display());
    let todo = format!("to do sudo -u root {} --dir {d} --piddir {p} --logdir ", reraise.display());
    says(&text, &[&todo, " why web # knows more"]);
    // On one line, for pasting.
    assert!(done.out.contains(" why web   # knows more\n"), "{}", done.out);
    assert_eq!(done.out.lines().filter(|line| line.contains("sudo -u")).count(), 1);
    assert!(!text.contains("happened"), "{text}");
}
