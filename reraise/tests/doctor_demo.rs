//! `reraise demo` and `reraise doctor`, the programs that users run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A home of its own. What was started there is stopped, also when a test fails.
struct Home {
    top: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("d")).unwrap();
        Self { top }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reraise"));
        let beside = Path::new(env!("CARGO_BIN_EXE_reraise")).parent().unwrap();
        command.env("PATH", format!("{}:/usr/bin:/bin", beside.display()));
        command.env("TMPDIR", self.top.path()).env_remove("NO_COLOR").stdin(Stdio::null());
        for (variable, name) in
            [("RERAISE_DIR", "d"), ("RERAISE_PIDDIR", "p"), ("RERAISE_LOGDIR", "l")]
        {
            command.env(variable, self.path(name));
        }
        command
    }

    fn reraise(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path("d").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the doctor prints, and its exit code.
    fn doctor(&self) -> (String, i32) {
        let done = self.reraise(&["doctor"]);
        assert_eq!(text(&done.stderr), "");
        (text(&done.stdout), done.status.code().unwrap())
    }

    /// Fields 3 and 4 of a record: the service and its worker.
    fn pids(&self, name: &str) -> (i32, i32) {
        let record = fs::read_to_string(self.path("p").join(name)).unwrap();
        let fields: Vec<_> = record.split_ascii_whitespace().collect();
        (fields[2].parse().unwrap(), fields[3].parse().unwrap())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.command().args(["stop", "--now", "*"]).output();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Whether any process has this text on its command line or in its environment.
#[cfg(target_os = "linux")]
fn is_mentioned(text: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<i32>().is_ok())).any(|e| {
        ["cmdline", "environ"].iter().any(|file| {
            let bytes = fs::read(e.path().join(file)).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    })
}

#[cfg(not(target_os = "linux"))]
fn is_mentioned(text: &str) -> bool {
    let listed = Command::new("ps").args(["-axww", "-o", "command"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).contains(text)
}

/// Its scratch directories are in $TMPDIR, which is ours.
fn assert_nothing_left(home: &Home) {
    let scratch = home.path("reraise-demo-").display().to_string();
    assert!(!is_mentioned(&scratch), "a process of the demonstration lives");
    let left: Vec<_> =
        fs::read_dir(home.top.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["d"]);
}

#[test]
fn demo_keeps_what_it_promises_and_leaves_nothing() {
    let home = Home::new();
    let done = home.reraise(&["demo"]);
    let said = text(&done.stdout);
    assert_eq!((text(&done.stderr).as_str(), done.status.code()), ("", Some(0)), "{said}");
    for part in ["web: start", "Hello from web", "raised in", "supervised again", "nothing is left"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.lines().count() <= 40, "more than a screen: {said}");
    assert_nothing_left(&home);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for (signal, seen) in [(Signal::SIGINT, "$ reraise start"), (Signal::SIGTERM, "raised in")] {
        let home = Home::new();
        let mut command = home.command();
        command.arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (mut said, mut byte) = (String::new(), [0]);
        while !said.contains(seen) && out.read(&mut byte).unwrap() == 1 {
            said.push(char::from(byte[0]));
        }
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        out.read_to_string(&mut said).unwrap();
        let done = child.wait_with_output().unwrap();
        let expected = format!("reraise: demo: was interrupted by {signal}\n");
        assert!(text(&done.stderr).starts_with(&expected), "{said}{}", text(&done.stderr));
        assert_eq!(done.status.code(), Some(1));
        assert_nothing_left(&home);
    }
}

#[test]
fn a_demo_that_cannot_be_says_why() {
    let home = Home::new();
    let done = home.command().arg("demo").env("TMPDIR", home.path("none")).output().unwrap();
    let said = text(&done.stderr);
    assert!(said.contains("demo: cannot make a directory in"), "{said}");
    assert!(said.contains("\n    choose another: TMPDIR=DIR reraise demo"), "{said}");
    assert_eq!(done.status.code(), Some(8));
}

#[test]
fn doctor_is_content_with_a_good_set_up() {
    let home = Home::new();
    home.script("web", "#!/bin/sh\nconfig_start_sec=0.1\nexec sleep 1000\n");
    let (said, code) = home.doctor();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ok: nothing runs"), "{said}");
    assert!(!home.path("p").exists() && !home.path("l").exists(), "it changed something");

    assert!(home.reraise(&["start", "web"]).status.success());
    let (said, code) = home.doctor();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ok: 1 service(s) run; keeper is process "), "{said}");
    assert!(said.contains("ok: reraise and auto-reraise "), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
}

#[test]
fn doctor_says_what_is_wrong_and_how_to_mend_it() {
    let home = Home::new();
    home.script("bad", "#!/no/such/sh\n");
    home.script("conf", "#!/bin/sh\nconfig_strat_sec=3\n");
    home.script("two words", "#!/bin/sh\n");
    for name in ["one", "other"] {
        home.script(name, "#!/bin/sh\nconfig_log=/var/log/both\n");
    }
    symlink("nowhere", home.path("d/lost")).unwrap();
    fs::create_dir_all(home.path("d/runit/log")).unwrap();
    home.script("runit/run", "#!/bin/sh\nexec sleep 1000\n");
    fs::create_dir(home.path("p")).unwrap();
    fs::set_permissions(home.path("p"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(home.path("l"), "").unwrap();
    let (said, code) = home.doctor();
    assert_eq!(code, 1, "{said}");
    for part in [
        "problem: bad: its interpreter /no/such/sh does not exist\n    install it, or correct",
        "line 2: config_strat_sec: unknown key\n    did you mean config_start_sec?\n",
        "warning: two words: cannot be a service: service name contains a space\n    rename",
        "problem: lost: is a symbolic link to nothing\n",
        "warning: other: its config_log is that of one as well: /var/log/both\n    give each",
        "warning: runit: log of its directory is not honoured\n    the output goes to",
        "/p: can be changed by other users\n    close it: chmod go-w",
        "/l: is not a directory\n    name another one: --logdir DIR\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn doctor_finds_services_that_nobody_watches_and_old_records() {
    let home = Home::new();
    home.script("web", "#!/bin/sh\nexec sleep 1000\n");
    home.script("old", "#!/bin/sh\nexec sleep 1000\n");
    assert!(home.reraise(&["start", "web", "old"]).status.success());
    let (old, worker) = home.pids("old");
    let (_, other) = home.pids("web");
    let lock = home.doctor().0;
    let keeper = lock.split("keeper is process ").nth(1).unwrap().lines().next().unwrap();
    // Keeper first and stopped, or the others would be replaced meanwhile.
    let keeper: i32 = keeper.parse().unwrap();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in [keeper, worker, other] {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    // They are gone when their locks are; the service when its record is idle.
    let gone = |what: &str| {
        let begun = std::time::Instant::now();
        loop {
            let (said, code) = home.doctor();
            if said.contains(what) {
                assert_eq!(code, 1, "{said}");
                return said;
            }
            assert!(begun.elapsed().as_secs() < 10, "{what}: {said}");
        }
    };
    gone("problem: web: runs, but nobody would raise it\n    reraise resume web   # adopts it");
    let said = gone("warning: old: has a record without a process\n    reraise start old");
    assert!(said.contains("problem: the keeper and its workers are gone"), "{said}");
    assert!(home.reraise(&["start", "web", "old"]).status.success());
    assert_eq!(home.doctor().1, 0);
}
