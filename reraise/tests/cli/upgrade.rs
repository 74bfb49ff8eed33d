//! `reraise upgrade`: other programs, the same services.
//!
//! A build is a file: a copy of the programs is another one. Where something
//! must happen at a certain moment, the new `auto-reraise` is a shell script that
//! stops there and becomes the real one, with the same pid and descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use reraise::control::{self, Frame, Reader};
use reraise::slot::{self, SlotFile};

use crate::support::{
    Done, Fifo, LIMIT, SLEEPER, Sandbox, auto_reraise, finish, is_alive, pause, reraise, signal,
    spawn, wait_for, wait_gone, write_program,
};

/// The programs, once more.
pub(crate) fn install(s: &Sandbox, name: &str) -> PathBuf {
    let dir = s.at(name);
    fs::create_dir(&dir).unwrap();
    for program in [reraise(), auto_reraise()] {
        fs::copy(&program, dir.join(Path::new(&program).file_name().unwrap())).unwrap();
    }
    dir
}

/// Programs of which `auto-reraise` is this script. `$REAL` is a real one of
/// another build.
fn install_script(s: &Sandbox, name: &str, script: &str) -> PathBuf {
    let real = install(s, &format!("{name}-real")).join("auto-reraise");
    let dir = s.at(name);
    fs::create_dir(&dir).unwrap();
    fs::copy(reraise(), dir.join("reraise")).unwrap();
    let text = format!("#!/bin/sh\nREAL='{}'\n{script}\n", real.display());
    write_program(&dir.join("auto-reraise"), &text);
    dir
}

/// What follows after the check, and how it goes on.
fn script_that(does: &str) -> String {
    format!("[ \"$1\" = --check ] && exec \"$REAL\" \"$@\"\n{does}\nexec \"$REAL\" \"$@\"")
}

#[track_caller]
pub(crate) fn upgrade(s: &Sandbox, dir: &Path) -> Done {
    s.run(&mut upgrading(s, dir))
}

fn upgrading(s: &Sandbox, dir: &Path) -> Command {
    let mut command = s.program(dir.join("reraise"));
    command.arg("upgrade").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The directory of the program that a process executes.
fn build(pid: i32) -> PathBuf {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.parent().map(Path::to_owned).unwrap_or_default()
}

/// Waits until each service is watched by a worker of one build with its keeper,
/// and has the process that it had.
#[track_caller]
fn settled(s: &Sandbox, services: &[(&str, i32)]) -> PathBuf {
    let mut seen = Vec::new();
    let mut look = || {
        let keeper = s.find_keeper();
        seen = vec![format!("keeper {keeper:?} {:?}", keeper.map(build))];
        for (name, _) in services {
            let (worker, noted) = (s.find_worker(name), s.record(name).and_then(|r| r.worker));
            seen.push(format!("{name}: {worker:?} {:?}, noted {noted:?}", worker.map(build)));
        }
        let mut all = BTreeSet::from([build(keeper?)]);
        for (name, _) in services {
            let worker = s.find_worker(name)?;
            let is_noted = s.record(name).is_some_and(|r| r.worker == Some(worker));
            all.extend((is_noted && is_alive(worker)).then(|| build(worker)));
            if !is_noted {
                return None;
            }
        }
        (all.len() == 1).then(|| all.pop_first()).flatten()
    };
    let end = Instant::now() + LIMIT;
    let build = loop {
        if let Some(build) = look() {
            break build;
        }
        if Instant::now() >= end {
            panic!("not all of one build: {seen:#?}");
        }
        pause();
    };
    for (name, pid) in services {
        assert_eq!((s.pid(name), is_alive(*pid)), (*pid, true), "{name}");
    }
    build
}

fn start(s: &Sandbox, names: &[&'static str]) -> Vec<(&'static str, i32)> {
    names
        .iter()
        .map(|&name| {
            s.script(name, SLEEPER);
            (name, s.up(name))
        })
        .collect()
}

fn here() -> PathBuf {
    Path::new(&auto_reraise()).parent().unwrap().to_owned()
}

#[test]
fn keeper_and_workers_are_replaced_and_no_service_notices() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c", "d", "e", "f"]);
    s.script(
        "chatty",
        "config_start_sec=0\ni=0\nwhile [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done\nexec sleep 1000000",
    );
    let chatty = s.up("chatty");
    let (keeper, since) = (s.keeper(), s.record("a").unwrap().epoch);
    assert_eq!(settled(&s, &services), here());
    let (one, two) = (install(&s, "one"), install(&s, "two"));
    for dir in [&one, &two, &one] {
        let doctor = || s.run(s.program(dir.join("reraise")).arg("doctor")).out;
        let advice = "    reraise upgrade   # no service is touched\n";
        assert!(doctor().contains(advice), "{}", doctor());
        let done = upgrade(&s, dir).expect(0);
        assert!(!doctor().contains(advice), "{}", doctor());
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("keeper: upgrade    # (pid={keeper}, version={version}, workers=7)\n");
        assert_eq!((done.out, done.err), (line, String::new()));
        assert_eq!(s.keeper(), keeper, "the same process");
        assert_eq!(&settled(&s, &services), dir);
        let out = s.ok(&["status"]);
        assert!(!out.contains("unwatched") && !out.contains("raised="), "{out}");
    }
    assert_eq!(s.record("a").unwrap().epoch, since);
    let done = upgrade(&s, &one).expect(0);
    assert_eq!(done.out, "keeper: skip (because it is of this build already)\n");
    let lines: String = (1..=20000).map(|i| format!("{i}\n")).collect();
    wait_for("its lines", || s.log("chatty").len() >= lines.len());
    assert_eq!((s.log("chatty") == lines, s.pid("chatty")), (true, chatty));
    // They go on as before.
    for (name, pid) in &services[..2] {
        signal(*pid, Signal::SIGKILL);
        s.wait_raised(name, *pid);
        assert_eq!(s.record(name).unwrap().exit, Some(137));
    }
    // Also where a keeper comes from.
    signal(keeper, Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    assert_eq!(build(s.keeper()), one);
    assert_eq!(s.messages(), "");
    s.ok(&["stop", "*"]);
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn where_no_keeper_runs_there_is_nothing_to_do() {
    let s = Sandbox::new();
    assert!(s.ok(&["upgrade"]).starts_with("keeper: skip (because none runs; the next one is "));
    let [_, dir] = ["x", "one"].map(|name| s.at(name));
    assert_eq!((install(&s, "one"), s.find_keeper()), (dir, None));
}

#[test]
fn a_version_that_cannot_start_changes_nothing() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b"]);
    let (keeper, workers) = (s.keeper(), [s.worker("a"), s.worker("b")]);
    let dir = install(&s, "one");
    let program = dir.join("auto-reraise");
    let expect = |words: &str| {
        let done = upgrade(&s, &dir);
        assert!([1, 8].contains(&done.code) && done.out.is_empty(), "{done:?}");
        assert!(done.err.contains(&program.display().to_string()), "{done:?}");
        let done = done.says(words);
        assert_eq!(done.err.lines().count(), 2, "a line of advice: {done:?}");
        assert_eq!((s.keeper(), [s.worker("a"), s.worker("b")]), (keeper, workers), "{words}");
    };
    write_program(&program, "#!/bin/sh\necho no library libfoo.so.7 >&2\nexit 127\n");
    expect("cannot take the place of what runs: no library libfoo.so.7\n");
    write_program(&program, "#!/bin/sh\nkill -SEGV $$\n");
    expect("cannot take the place of what runs: it ended with signal: 11");
    write_program(&program, "#!/bin/sh\necho hello\n");
    expect("cannot take the place of what runs: it ended with exit status: 0");
    fs::write(&program, "not a program at all").unwrap();
    expect("cannot start it: exec format error");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    expect("cannot start it: permission denied");
    // It can be tried, and not executed any more.
    let dir = install_script(&s, "two", "chmod 644 \"$0\"\nexec \"$REAL\" \"$@\"");
    let done = upgrade(&s, &dir).expect(1);
    done.says("reraise: keeper: cannot execute").says("permission denied\n    the old one goes on");
    assert_eq!((s.keeper(), [s.worker("a"), s.worker("b")]), (keeper, workers));
    assert_eq!(settled(&s, &services), here());
    // Nothing of the attempt is left open for others.
    let dir = format!("/proc/{}/fd", s.pid("a"));
    assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
}

#[test]
fn one_that_fails_when_it_is_there_is_replaced_by_the_old_one() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c"]);
    let keeper = s.keeper();
    for (name, does) in
        [("one", "exit 1"), ("two", "kill -KILL $$"), ("three", "shift 4; set -- x")]
    {
        let dir = install_script(&s, name, &script_that(does));
        let done = upgrade(&s, &dir).expect(1);
        done.says("reraise: keeper: the new version (").says(") did not stay up; version ");
        assert_eq!(settled(&s, &services), here(), "{name}");
        assert_ne!(s.keeper(), keeper);
    }
    assert_eq!(upgrade(&s, &install(&s, "good")).expect(0).err, "");
}

/// An upgrade that waits between `execve` and the first thing that the new
/// program does, until it is told to go on.
struct Paused {
    dir: PathBuf,
    said: Fifo,
    go: Fifo,
    keeper: i32,
    child: Child,
    command: Command,
}

impl Paused {
    fn new(s: &Sandbox, name: &str) -> Self {
        let (said, go) = (s.fifo(&format!("{name}-said")), s.fifo(&format!("{name}-go")));
        let script = format!("echo $$ >{}\nread go <{}", said.shown(), go.shown());
        let dir = install_script(s, name, &script_that(&script));
        let keeper = s.keeper();
        let mut command = upgrading(s, &dir);
        let child = spawn(&mut command);
        assert_eq!(said.number(), keeper);
        Self { dir: s.at(&format!("{name}-real")), said, go, keeper, child, command }
    }

    #[track_caller]
    fn finish(self) -> Done {
        fs::write(&self.go.path, "go\n").unwrap();
        finish(self.child, &self.command)
    }
}

#[test]
fn whatever_happens_meanwhile_is_seen_afterwards() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c", "d"]);
    s.script("late", SLEEPER);
    let paused = Paused::new(&s, "one");
    let keeper = paused.keeper;
    // The lock is held all the time, and everybody waits.
    assert_eq!(s.find_keeper(), Some(keeper));
    let asked: Vec<_> = [&["start", "late"][..], &["restart", "b"], &["stop", "d"]]
        .map(|words| {
            let mut command = s.command(words);
            (spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())), command)
        })
        .into_iter()
        .collect();
    // A service falls, and its worker raises it; a worker dies, and nobody is there.
    let (a, b, c, d) = (services[0].1, services[1].1, services[2].1, services[3].1);
    signal(a, Signal::SIGKILL);
    let raised = s.wait_raised("a", a);
    let worker = s.worker("c");
    signal(worker, Signal::SIGKILL);
    wait_gone(worker);
    assert!(s.ok(&["status", "c"]).contains("unwatched"));
    let real = paused.dir.clone();
    assert_eq!(paused.finish().expect(0).err, "");
    for (child, command) in asked {
        finish(child, &command).expect(0);
    }
    assert!(!is_alive(d) && !is_alive(b));
    let now = [("a", raised), ("b", s.pid("b")), ("c", c), ("late", s.pid("late"))];
    assert_eq!((settled(&s, &now), s.keeper()), (real, keeper));
    s.ok(&["stop", "*"]);
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn killed_between_exec_and_its_first_step() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c"]);
    let paused = Paused::new(&s, "one");
    signal(paused.keeper, Signal::SIGKILL);
    // Another one of the old version comes, and is asked once more.
    let second = paused.said.number();
    assert_ne!(second, paused.keeper);
    assert_eq!(s.find_keeper(), Some(second));
    let dir = paused.dir.clone();
    assert_eq!(paused.finish().expect(0).err, "");
    assert_eq!(settled(&s, &services), dir);
}

#[test]
fn killed_before_exec_and_with_a_worker_that_does_not_answer() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c", "d", "e", "f", "g"]);
    // While the new program is tried.
    let (said, go) = (s.fifo("said"), s.fifo("go"));
    let script = format!(
        "[ \"$1\" = --check ] && {{ echo check >{}; read go <{}; }}\nexec \"$REAL\" \"$@\"",
        said.shown(),
        go.shown()
    );
    let dir = install_script(&s, "one", &script);
    let mut command = upgrading(&s, &dir);
    let child = spawn(&mut command);
    assert_eq!(said.line(), "check");
    let keeper = s.keeper();
    signal(keeper, Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    fs::write(&go.path, "go\n").unwrap();
    finish(child, &command).expect(0);
    assert_eq!(settled(&s, &services), s.at("one-real"));
    // While workers are replaced, one of which was stopped: it does not hold them up.
    let two = install(&s, "two");
    let (slow, keeper) = (s.worker("d"), s.keeper());
    signal(slow, Signal::SIGSTOP);
    let mut command = upgrading(&s, &two);
    let child = spawn(&mut command);
    wait_for("one to be replaced", || {
        services.iter().any(|(name, _)| s.find_worker(name).is_some_and(|w| build(w) == two))
    });
    // Unless all are by now, and it has been replaced as well.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    // Whichever build the next keeper is of, all are of it in the end.
    let build = settled(&s, &services);
    let done = finish(child, &command);
    // It may have been all over before.
    assert!(done.code == 0 || build != two, "{done:?}");
}

#[test]
fn workers_and_keepers_are_killed_while_builds_change() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b", "c", "d", "e", "f"]);
    let dirs = [install(&s, "one"), install(&s, "two")];
    for round in 0..20 {
        let mut command = upgrading(&s, &dirs[round % 2]);
        let child = spawn(&mut command);
        for step in 0..round % 7 {
            pause();
            let name = services[(round * 5 + step) % services.len()].0;
            let victim = if step % 3 == 2 { s.find_keeper() } else { s.find_worker(name) };
            if let Some(pid) = victim {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let done = finish(child, &command);
        assert!([0, 1].contains(&done.code), "{done:?}");
        settled(&s, &services);
    }
    let out = s.ok(&["status"]);
    assert!(!out.contains("raised=") && !out.contains("unwatched"), "{out}");
    // What this was good for.
    upgrade(&s, &dirs[0]).expect(0);
    assert_eq!(settled(&s, &services), dirs[0]);
}

#[test]
fn in_the_foreground_it_stays_there() {
    let s = Sandbox::new();
    let go = s.fifo("go");
    s.script("web", SLEEPER);
    s.script(
        "main",
        &format!(
            "config_start_sec=0\nconfig_essential=yes\nconfig_restart=never\nread x <{}\nexit 42",
            go.shown()
        ),
    );
    let mut command = s.command(&["up", "web", "main"]);
    let up = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let keeper = up.id().cast_signed();
    let pid = s.wait_phase("web", reraise::record::Phase::Run).pid.unwrap();
    s.wait_phase("main", reraise::record::Phase::Run);
    let dir = install(&s, "one");
    upgrade(&s, &dir).expect(0);
    assert_eq!((settled(&s, &[("web", pid)]), s.keeper()), (dir, keeper));
    fs::write(&go.path, "\n").unwrap();
    let done = finish(up, &command).expect(42);
    assert_eq!(done.err.matches("web: starting").count(), 1, "{done:?}");
    assert!(done.err.contains("up: main is essential") && done.err.contains("web: stopped"));
    assert!(!is_alive(pid) && s.find_keeper().is_none());
    // Nor is it replaced when it is on its way out.
    let deaf = s.fifo("deaf");
    s.script(
        "slow",
        &format!(
            "config_start_sec=0\nconfig_stop='TERM 1000, KILL 10'\ntrap '' TERM\necho >{}\n\
             exec sleep 1000000",
            deaf.shown()
        ),
    );
    let mut command = s.command(&["up", "slow"]);
    let up = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    deaf.line();
    signal(up.id().cast_signed(), Signal::SIGTERM);
    wait_for("its end to begin", || s.status("slow") == "stopping");
    s.run(&mut upgrading(&s, &s.at("one")))
        .expect(1)
        .says("keeper: is ending, with all its services");
    signal(up.id().cast_signed(), Signal::SIGTERM);
    finish(up, &command).expect(0);
}

#[test]
fn a_worker_that_was_started_by_hand_is_left_alone() {
    let s = Sandbox::new();
    s.script("hand", SLEEPER);
    let mut command = s.program(auto_reraise());
    command.arg("hand").stdout(Stdio::piped()).stderr(Stdio::piped());
    let hand = spawn(&mut command);
    let pid = s.wait_phase("hand", reraise::record::Phase::Run).pid.unwrap();
    let services = start(&s, &["web"]);
    let dir = install(&s, "one");
    upgrade(&s, &dir).expect(0).prints(&format!(
        "keeper: upgrade    # (pid={}, version={}, workers=1)\n",
        s.keeper(),
        env!("CARGO_PKG_VERSION")
    ));
    assert_eq!(settled(&s, &services), dir);
    assert_eq!((s.worker("hand"), s.pid("hand")), (hand.id().cast_signed(), pid));
    signal(hand.id().cast_signed(), Signal::SIGTERM);
    finish(hand, &command).expect(0);
}

/// What somebody hears who says this to the keeper.
fn said_to_keeper(s: &Sandbox, words: &[&str]) -> Vec<String> {
    let stream = UnixStream::connect(s.state().join("keeper")).unwrap();
    control::send(&stream, &Frame::new(words)).unwrap();
    let (mut reader, mut heard) = (Reader::default(), None);
    while heard.is_none() {
        let each = |frame: Frame| {
            heard = Some(frame.texts().unwrap().iter().map(|&text| text.to_owned()).collect());
        };
        reader.read(&stream, each).unwrap();
    }
    heard.unwrap()
}

#[test]
fn what_one_side_does_not_know_it_says() {
    let s = Sandbox::new();
    start(&s, &["web"]);
    let heard = said_to_keeper(&s, &["dance", "web"]);
    assert_eq!(heard[..2], ["web", "fault"]);
    assert!(heard[4].contains("of an earlier version") && heard[5].contains("reraise upgrade"));
    let heard = said_to_keeper(&s, &["version"]);
    assert_eq!((heard[1].as_str(), heard[2].as_str()), ("keeper", env!("CARGO_PKG_VERSION")));
    assert_eq!(heard[4], s.keeper().to_string());
}

#[test]
fn what_a_later_version_has_written_is_refused() {
    let s = Sandbox::new();
    start(&s, &["web"]);
    let pid = s.pid("web");
    s.kill_supervisors(&["web"]);
    let path = s.state().join("s/web/run");
    let old = fs::read(&path).unwrap();
    let mut later = old.clone();
    later[7] = 2;
    fs::write(&path, &later).unwrap();
    for words in [&["start", "web"][..], &["stop", "web"], &["restart", "web"]] {
        let done = s.reraise(words).expect(8);
        done.says("web: its run was recorded by a later version of Reraise (format 2)\n    ");
    }
    let said = s.reraise(&["doctor"]).expect(1).out;
    assert!(said.contains("web: its run was recorded by a later version (format 2)"), "{said}");
    assert!(is_alive(pid), "and nothing was started beside it, or ended");
    assert_eq!(fs::read(&path).unwrap(), later);
    // A program that cannot read it does not take the place of one that can.
    let done = s.run(s.program(auto_reraise()).args(["--check", "--piddir"]).arg(&s.p)).expect(8);
    done.says("web: its run slot was written by a later version of Reraise than ");
    fs::write(&path, &old).unwrap();
    let line = fs::read_to_string(s.p.join("web")).unwrap();
    fs::write(s.p.join("web"), line.replace("v=1", "v=2")).unwrap();
    s.run(s.program(auto_reraise()).args(["--check", "--piddir"]).arg(&s.p)).expect(8);
    s.reraise(&["status", "web"]).says("its record was written by a later version of Reraise");
    fs::write(s.p.join("web"), line).unwrap();
    s.run(s.program(auto_reraise()).args(["--check", "--piddir"]).arg(&s.p)).expect(0);
    assert_eq!(SlotFile::open(&path).unwrap().read(), slot::read(&path));
    assert_eq!(s.ok(&["resume"]), format!("web: adopt    # (pid={pid})\n"));
}

#[test]
fn two_at_a_time_and_the_later_installation_is_what_counts() {
    let s = Sandbox::new();
    let services = start(&s, &["a", "b"]);
    // The one that is tried is replaced before the keeper executes it.
    let later = install(&s, "later");
    let (said, go) = (s.fifo("said"), s.fifo("go"));
    let script = format!("echo check >{}\nread go <{}", said.shown(), go.shown());
    let dir = install_script(&s, "one", &format!("{script}\nexec \"$REAL\" \"$@\""));
    let mut command = upgrading(&s, &dir);
    let child = spawn(&mut command);
    assert_eq!(said.line(), "check");
    fs::rename(later.join("auto-reraise"), dir.join("auto-reraise")).unwrap();
    let other = upgrade(&s, &dir).expect(0);
    assert!(other.out.starts_with("keeper: upgrade"), "{other:?}");
    fs::write(&go.path, "go\n").unwrap();
    let done = finish(child, &command).expect(0);
    assert!(done.out.starts_with("keeper: upgrade"), "{done:?}");
    assert_eq!(settled(&s, &services), dir);
}
