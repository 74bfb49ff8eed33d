//! What the commands print and end with.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reraise::lock::LockFile;
use serde_json::Value;

use crate::support::{SLEEPER, Sandbox, finish, spawn, wait_for, wait_gone};

/// The word that a program prints.
fn word_of(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn list_has_names_and_owners_in_columns() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let long = "a-name-of-more-than-twenty-columns";
    let owner = format!("# user={}, group={}", word_of("id", "-un"), word_of("id", "-gn"));
    assert_eq!(s.ok(&["list"]), format!("web                  {owner}\n"));
    s.script(long, SLEEPER);
    // The columns widen, and stay columns.
    let expected = format!("{long} {owner}\n{:34} {owner}\n", "web");
    assert_eq!(s.ok(&["list"]), expected);
    assert_eq!(s.ok(&["list", "we?"]), format!("web                  {owner}\n"));
}

#[test]
fn list_as_json() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let value: Value = serde_json::from_str(&s.ok(&["list", "--json"])).unwrap();
    assert_eq!(value["version"], 1);
    let services = value["services"].as_array().unwrap();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0]["name"], "web");
    assert_eq!(services[0]["user"], word_of("id", "-un"));
    assert_eq!(services[0]["group"], word_of("id", "-gn"));
}

#[test]
fn status_has_name_state_and_details_in_columns() {
    let s = Sandbox::new();
    s.script("run", SLEEPER);
    s.script("young", "config_start_sec=1000\nexec sleep 1000000");
    s.script("down", SLEEPER);
    s.script("broken", "exit 3");
    fs::write(s.d.join("plain"), "#!/bin/sh\n").unwrap();
    s.up("run");
    s.ok(&["start", "young"]);
    s.reraise(&["start", "--wait", "broken"]).expect(1);
    let out = s.ok(&["status"]);
    let lines: Vec<&str> = out.lines().collect();
    let pids = |name: &str| format!("pid={}, ppid={}", s.pid(name), s.worker(name));
    let begins = [
        "broken             ERROR           # (exitcode=3, elapsed=00:00:".to_owned(),
        "down               not-running".to_owned(),
        "plain              not-executable".to_owned(),
        format!("run                running         # ({}, elapsed=00:00:", pids("run")),
        // The seed's line has no more than these two.
        "young              starting        # (".to_owned(),
    ];
    assert_eq!(lines.len(), begins.len(), "{out}");
    for (line, begin) in lines.iter().zip(&begins) {
        assert!(line.starts_with(begin), "{line:?} does not start with {begin:?}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
    assert_eq!(lines[1], begins[1]);
    assert_eq!(lines[2], begins[2]);
    let young = lines[4];
    assert!(young.contains(&format!("ppid={}", s.worker("young"))), "{young}");
    assert!(young.contains("elapsed=00:00:"), "{young}");
}

#[test]
fn status_answers_as_init_scripts_do() {
    let s = Sandbox::new();
    s.script("up", SLEEPER);
    s.script("young", "config_start_sec=1000\nexec sleep 1000000");
    s.script("down", SLEEPER);
    s.ok(&["start", "up", "young"]);
    for (arguments, code) in [
        (&["status", "up"][..], 0),
        (&["status", "young"], 0),
        (&["status", "up", "young"], 0),
        (&["status", "down"], 3),
        (&["status", "nobody"], 4),
        (&["status", "up", "nobody"], 4),
        (&["status", "up", "down"], 3),
        (&["status", "down", "nobody"], 1),
        // Everything: a report, not a question.
        (&["status"], 0),
    ] {
        let done = s.reraise(arguments);
        assert_eq!(done.code, code, "{arguments:?}: {done:?}");
    }
}

#[test]
fn status_as_json() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("down", SLEEPER);
    s.up("web");
    let value: Value = serde_json::from_str(&s.ok(&["status", "--json"])).unwrap();
    assert_eq!(value["version"], 1);
    let (down, web) = (&value["services"][0], &value["services"][1]);
    assert_eq!((&down["name"], &down["state"]), (&"down".into(), &"not-running".into()));
    assert_eq!((&web["name"], &web["state"]), (&"web".into(), &"running".into()));
    assert_eq!(web["pid"], s.pid("web"));
    assert_eq!(web["worker_pid"], s.worker("web"));
    assert_eq!(web["watched"], true);
    assert!(down["pid"].is_null());
}

#[test]
fn status_long_counts_the_whole_tree() {
    let s = Sandbox::new();
    let fifo = s.fifo("up");
    s.script(
        "web",
        &format!(
            "config_start_sec=0\nsleep 1000000 &\nsleep 1000000 &\necho up >{}\nwait",
            fifo.shown()
        ),
    );
    s.ok(&["start", "web"]);
    assert_eq!(fifo.line(), "up");
    let out = s.ok(&["status", "--long", "web"]);
    assert!(out.contains("processes=3, memory="), "{out}");
    let value: Value = serde_json::from_str(&s.ok(&["status", "-l", "--json"])).unwrap();
    assert_eq!(value["services"][0]["tree"]["processes"], 3);
}

#[test]
fn start_stop_and_restart_print_a_line_each() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    let (pid, worker) = (s.pid("web"), s.worker("web"));
    assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
    let line = format!("web: restart    # (worker-pid={worker})\n");
    assert_eq!(s.ok(&["restart", "web"]), line);
    assert_ne!(s.pid("web"), pid);
    wait_gone(pid);
    let (pid, worker) = (s.pid("web"), s.worker("web"));
    assert_eq!(s.ok(&["stop", "web"]), format!("web: stop    # (worker-pid={worker})\n"));
    // It waited.
    wait_gone(pid);
    assert_eq!(s.record("web"), None);
    assert_eq!(s.ok(&["stop", "web"]), "web: skip (because not running)\n");
}

#[test]
fn without_waiting_the_lines_are_the_same() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\nconfig_stop='TERM 1, KILL'\ntrap '' TERM\nsleep 1000000");
    s.ok(&["start", "web"]);
    let (pid, worker) = (s.pid("web"), s.worker("web"));
    let line = format!("web: stop    # (worker-pid={worker})\n");
    assert_eq!(s.ok(&["stop", "--no-wait", "web"]), line);
    wait_gone(pid);
    s.script("other", SLEEPER);
    s.ok(&["start", "other"]);
    let (pid, worker) = (s.pid("other"), s.worker("other"));
    let line = format!("other: restart    # (worker-pid={worker})\n");
    assert_eq!(s.ok(&["restart", "--no-wait", "other"]), line);
    s.wait_raised("other", pid);
}

#[test]
fn patterns_select_and_one_without_match_is_an_error_of_its_own() {
    let s = Sandbox::new();
    for name in ["http-1", "http-2", "ftp-1"] {
        s.script(name, SLEEPER);
    }
    let done = s.reraise(&["start", "http-*", "smtp-*", "nobody", "ftp-?"]).expect(4);
    let mut lines: Vec<&str> = done.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["ftp-1: start", "http-1: start", "http-2: start"]);
    let done = done.says("reraise: smtp-*: matches no service\n    ");
    done.says("reraise: nobody: no such service\n    ");
    assert_eq!(s.ok(&["status", "http-[13]"]).lines().count(), 1);
    let done = s.reraise(&["stop", "http-[2-9]", "zzz*"]).expect(4).says("zzz*");
    assert!(done.out.starts_with("http-2: stop    # (worker-pid="), "{done:?}");
    assert_eq!(s.ok(&["stop", "*"]).lines().filter(|l| l.contains(": stop ")).count(), 2);
}

#[test]
fn restart_does_not_start_what_is_not_running() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.reraise(&["restart", "web"])
        .expect(3)
        .prints("web: skip (because not running)\n")
        .says("reraise: web: restart does not start what is not running\n    ");
    // Where no service was named, nobody is disappointed.
    assert_eq!(s.ok(&["restart", "*"]), "web: skip (because not running)\n");
    assert_eq!(s.status("web"), "not-running");
}

#[test]
fn clean_removes_what_is_over_and_nothing_else() {
    let s = Sandbox::new();
    s.script("broken", "exit 3");
    s.script("web", SLEEPER);
    s.up("web");
    s.reraise(&["start", "--wait", "broken"]).expect(1);
    fs::write(s.p.join("old"), "RUN - 4000000 4000001 1700000000\n").unwrap();
    assert_eq!(s.status("old"), "seems-not-running");
    let out = s.ok(&["clean"]);
    assert_eq!(out, "broken: clean\nold: clean\n");
    assert_eq!((s.status("web"), s.status("broken")), ("running".into(), "not-running".into()));
    s.reraise(&["status", "old"]).expect(4);
    assert_eq!(s.ok(&["clean"]), "");
}

#[test]
fn clean_waits_for_a_worker_that_is_just_leaving() {
    let s = Sandbox::new();
    s.script("web", "exit 3");
    for _ in 0..50 {
        s.reraise(&["start", "--wait", "web"]).expect(1);
        assert_eq!(s.ok(&["clean", "web"]), "web: clean\n");
    }
    // One that takes its time.
    s.script("other", "exit 3");
    for _ in 0..10 {
        s.reraise(&["start", "--wait", "other", "web"]).expect(1);
        wait_for("the keeper to end", || s.find_keeper().is_none());
        let mut leaving = Holder::of(&s.state().join("s/web/lock"));
        let mut command = s.command(&["clean", "other", "web"]);
        let mut cleaning = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut out = BufReader::new(cleaning.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "other: clean\n");
        // Now it is at the next, or about to be.
        leaving.end();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "other: clean\nweb: clean\n");
        finish(cleaning, &command).expect(0);
    }
}

#[test]
fn clean_says_what_it_leaves() {
    let s = Sandbox::new();
    s.script("web", "exit 3");
    s.reraise(&["start", "--wait", "web"]).expect(1);
    wait_for("the keeper to end", || s.find_keeper().is_none());
    let holder = Holder::of(&s.state().join("s/web/lock"));
    let pid = holder.0.id();
    let done = s.reraise(&["clean", "web"]).expect(1).prints("");
    done.says(&format!("web: is supervised, whatever its record says (worker-pid={pid})\n    "));
    assert_eq!(s.status("web"), "ERROR");
}

/// A process that has a lock, until its input ends.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        let mut command = Command::new("/bin/cat");
        let path = path.to_owned();
        let take = move || {
            let lock = LockFile::open(&path)?;
            assert!(lock.try_take(0)?);
            // Past its exec: a lock ends with its descriptor.
            // SAFETY: a flag of a descriptor that is open.
            unsafe { libc::fcntl(lock.number(), libc::F_SETFD, 0) };
            std::mem::forget(lock);
            Ok(())
        };
        // SAFETY: the child is a copy of a process that does nothing else here.
        unsafe { command.pre_exec(take) };
        Self(spawn(command.stdin(Stdio::piped()).stdout(Stdio::null())))
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn skeleton_prints_a_script_that_works_when_pasted() {
    let s = Sandbox::new();
    let script = s.ok(&["skeleton"]);
    s.script("web", &script);
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    assert_eq!(s.status("web"), "starting");
}

#[test]
fn skeleton_writes_one_that_is_ready_and_overwrites_none() {
    let s = Sandbox::new();
    // The directory is made as well.
    fs::remove_dir(&s.d).unwrap();
    let done = s.reraise(&["skeleton", "web", "--", "sleep", "1000000"]).expect(0);
    assert!(done.out.contains("reraise start web"), "{done:?}");
    let script = fs::read(s.d.join("web")).unwrap();
    let done = s.reraise(&["skeleton", "web", "--", "true"]).expect(1);
    assert!(done.err.starts_with("reraise: web: exists already"), "{done:?}");
    assert_eq!(fs::read(s.d.join("web")).unwrap(), script);
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    s.reraise(&["skeleton", "web"]).expect(2).says("no command");
    s.reraise(&["skeleton", "a/b", "--", "true"]).expect(2).says("contains `/`");
}

#[test]
fn help_and_version() {
    let s = Sandbox::new();
    let version = format!("reraise {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(s.ok(&["--version"]), version);
    let help = s.ok(&["--help"]);
    for word in ["list", "status", "start", "stop", "restart", "clean", "skeleton", "Exit codes:"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
    for wrong in [&[][..], &["dance"], &["start"], &["start", "--fast", "web"]] {
        let done = s.reraise(wrong).expect(2);
        assert_eq!(done.out, "");
        assert_ne!(done.err, "");
    }
}

#[test]
fn wrong_usage_is_said_in_two_lines_with_what_was_meant() {
    let s = Sandbox::new();
    s.script("website", SLEEPER);
    for (words, expected) in [
        (&["strat", "web"][..], "strat: no such command\n    did you mean: reraise start web\n"),
        (
            &["strat", "a b", "*"],
            "strat: no such command\n    did you mean: reraise start 'a b' '*'\n",
        ),
        (&["dance"], "dance: no such command\n    see all commands: reraise --help\n"),
        (
            &["start"],
            "start: names no service\n    name one, or mean all of them: reraise start '*'\n",
        ),
        (
            &["start", "--wiat=3", "web"],
            "--wiat: no such option of start\n    did you mean: reraise start --wait=3 web\n",
        ),
        (&["--jsn", "list"], "--jsn: no such option\n    see what there is: reraise --help\n"),
        (
            &["stop", "--fast", "web"],
            "--fast: no such option of stop\n    see what there is: reraise stop --help\n",
        ),
        (&["-x"], "-x: no such option\n    see what there is: reraise --help\n"),
        (
            &["demo", "web"],
            "web: demo takes no such argument\n    see what it takes: reraise demo --help\n",
        ),
        (
            &["start", "--wait=soon", "web"],
            "--wait: soon is no value for it\n    see what it takes: reraise start --help\n",
        ),
        (&["list", "--dir"], "--dir: needs a value\n    see what it takes: reraise list --help\n"),
        (
            &["list", "--json", "--json"],
            "--json: is given twice\n    see how it is used: reraise list --help\n",
        ),
    ] {
        let done = s.reraise(words).expect(2).prints("");
        assert_eq!(done.err, format!("reraise: {expected}"), "{words:?}");
    }
    let odd = OsStr::from_bytes(b"st\xff\nrt");
    let done = s.run(&mut s.command(&[odd, "web".as_ref()])).expect(2);
    assert_eq!((done.err.lines().count(), done.out.as_str()), (2, ""), "{done:?}");
    // And a service that is not there.
    for verb in ["start", "stop", "status", "restart", "list"] {
        let done = s.reraise(&[verb, "websit"]).expect(4);
        let words = "no such service\n    did you mean website? See what there is: reraise list\n";
        assert_eq!(done.err, format!("reraise: websit: {words}"), "{verb}");
    }
    s.reraise(&["start", "mail"]).expect(4).says("make one: reraise skeleton mail -- ");
}

#[test]
fn who_says_nothing_is_told_what_there_is_to_say() {
    let s = Sandbox::new();
    // With and without the directories in the environment, which are options too.
    let bare = s.run(s.command::<&str>(&[]).env_clear()).expect(2);
    for done in [bare, s.reraise(&[]).expect(2), s.reraise(&["--dir", "d"]).expect(2)] {
        assert_eq!(done.out, "");
        assert!(done.err.starts_with("reraise: Keeps services alive without root."), "{done:?}");
        for word in ["list", "status", "start", "stop", "restart", "clean", "doctor"] {
            assert!(done.err.contains(&format!("\n  {word} ")), "{word} is not in {}", done.err);
        }
        assert!(done.err.contains("\n  reraise start web "), "{}", done.err);
    }
}

#[test]
fn what_is_not_for_users_is_never_named() {
    let s = Sandbox::new();
    for words in [&[][..], &["--help"], &["demo-serve"], &["demo-server"], &["--as-owne", "list"]] {
        let done = s.reraise(words);
        let said: String = [done.out, done.err].concat();
        // But for the words that were said.
        let said = said.replace(&format!("reraise: {}:", words.first().unwrap_or(&"-")), "");
        for hidden in ["demo-server", "as-owner"] {
            assert!(!said.contains(hidden), "{words:?} {said}");
        }
    }
}
