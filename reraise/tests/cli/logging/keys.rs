//! Each key, and that an edit takes effect while the service runs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{find_logger, kill_logger, rotated, whole};
use crate::support::{Fifo, Sandbox, finish, is_alive, spawn, wait_for};

/// A service that says what is written to its FIFO, a line at a time.
struct Echo {
    s: Sandbox,
    ear: fs::File,
    pid: i32,
}

impl Echo {
    fn new(keys: &str) -> Self {
        let s = Sandbox::new();
        let ear = s.at("ear");
        nix::unistd::mkfifo(&ear, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opened = fs::OpenOptions::new().read(true).write(true).open(&ear).unwrap();
        let mut echo = Self { s, ear: opened, pid: 0 };
        echo.edit(keys);
        echo.pid = echo.s.up("web");
        echo
    }

    /// The script with other keys.
    fn edit(&self, keys: &str) {
        let ear = self.s.at("ear");
        let body = format!(
            "config_start_sec=0\n{keys}\nwhile read -r line <{}; do\ncase $line in \
             err*) echo \"$line\" >&2 ;; *) echo \"$line\" ;; esac\ndone",
            ear.display()
        );
        self.s.script("web", &body);
    }

    fn say(&self, line: &str) {
        (&self.ear).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.s.l.join("web")
    }

    /// Says it until the log is as it should be: an edit is noticed after a moment.
    #[track_caller]
    fn say_until(&self, line: &str, mut is_so: impl FnMut(&Self) -> bool) {
        wait_for(&format!("the effect of {line}"), || {
            self.say(line);
            is_so(self)
        });
        assert_eq!(self.s.pid("web"), self.pid, "it was not restarted");
    }
}

fn text(path: &std::path::Path) -> String {
    String::from_utf8(fs::read(path).unwrap_or_default()).unwrap()
}

#[test]
fn log_size_and_log_keep_and_log_total() {
    let echo = Echo::new("config_log_size=100\nconfig_log_keep=3");
    let line = "x".repeat(49);
    echo.say_until(&line, |e| rotated(&e.log()).len() == 3);
    // What is still on its way may remove one while we look.
    let lengths = || {
        let files = rotated(&echo.log()).into_iter();
        files.map(|file| fs::metadata(file).map(|about| about.len())).collect::<Result<Vec<_>, _>>()
    };
    wait_for("three whole files", || lengths().is_ok_and(|lengths| lengths == [100; 3]));
    // Files and what belongs to them: three, current, and an index for each.
    wait_for("the rest to be pruned", || fs::read_dir(echo.log()).unwrap().count() <= 8);
    // Without another rotation.
    echo.edit("config_log_size=10M\nconfig_log_keep=1");
    echo.say_until("word", |e| rotated(&e.log()).len() == 1);
    echo.edit("config_log_size=100\nconfig_log_keep=10\nconfig_log_total=250");
    echo.say_until(&line, |e| rotated(&e.log()).len() == 2);
    echo.edit("config_log_size=1k\nconfig_log_keep=0");
    echo.say_until(&line, |e| rotated(&e.log()).is_empty());
}

#[test]
fn log_age() {
    let echo = Echo::new("config_log_age=1");
    echo.say_until("line", |e| rotated(&e.log()).len() >= 2);
    // Also where nothing more is said.
    let echo = Echo::new("config_log_age=1");
    echo.say("line");
    wait_for("a rotation", || rotated(&echo.log()).len() == 1);
    assert_eq!(whole(&echo.log()), b"line\n");
    assert!(!echo.log().join("stderr").exists(), "they share one log");
}

#[test]
fn log_time() {
    let echo = Echo::new("config_log_time=none");
    let last = |e: &Echo| {
        String::from_utf8(whole(&e.log())).unwrap().lines().last().unwrap_or_default().to_owned()
    };
    echo.say_until("plain", |e| last(e) == "plain");
    for (kind, digits) in [("epoch", 10), ("tai64n", 25), ("iso", 32)] {
        echo.edit(&format!("config_log_time={kind}"));
        echo.say_until(kind, |e| {
            let line = last(e);
            let Some((time, said)) = line.split_once(' ') else { return false };
            said == kind
                && match kind {
                    "epoch" => {
                        time.split_once('.').is_some_and(|(s, u)| s.len() == digits && u.len() == 6)
                    }
                    "tai64n" => time.starts_with("@4000000") && time.len() == digits,
                    _ => time.len() == digits && time.as_bytes()[10] == b'T',
                }
        });
    }
    echo.edit("config_log_time=none");
    echo.say_until("plain again", |e| last(e) == "plain again");
}

#[test]
fn log_to_another_place_and_to_none() {
    let echo = Echo::new("");
    echo.say_until("one", |e| text(&e.log().join("current")).contains("one\n"));
    let other = echo.s.at("other place");
    echo.edit(&format!("config_log='{}'", other.display()));
    echo.say_until("two", |_| text(&other.join("current")).contains("two\n"));
    echo.edit("config_log=no");
    // What is not kept is not said to be lost.
    wait_for("silence", || {
        let before = text(&other.join("current")).len();
        (0..10).for_each(|_| echo.say("three"));
        echo.s.ok(&["status", "web"]);
        text(&other.join("current")).len() == before
    });
    assert!(!echo.s.ok(&["status", "--long", "web"]).contains("dropped"));
    echo.edit("config_log=yes");
    echo.say_until("four", |e| text(&e.log().join("current")).contains("four\n"));
}

#[test]
fn log_stderr_has_a_log_of_its_own_from_the_next_run_on() {
    let mut echo = Echo::new("");
    echo.say("out 1");
    echo.say("err 1");
    wait_for("both", || echo.s.log("web") == "out 1\nerr 1\n");
    echo.edit("config_log_stderr=separate");
    echo.say("err 2");
    wait_for("still both", || echo.s.log("web") == "out 1\nerr 1\nerr 2\n");
    echo.s.ok(&["restart", "web"]);
    echo.pid = echo.s.pid("web");
    echo.say("out 3");
    echo.say("err 3");
    let errors = echo.log().join("stderr/current");
    wait_for("each", || {
        echo.s.log("web").ends_with("err 2\nout 3\n") && text(&errors) == "err 3\n"
    });
    kill_logger(&echo.s);
    echo.say("err 4");
    wait_for("it again", || text(&errors) == "err 3\nerr 4\n");
}

#[test]
fn log_after_is_run_for_each_file_and_again_after_a_failure() {
    let s = Sandbox::new();
    let ran: Fifo = s.fifo("ran");
    let broken = s.at("broken");
    fs::write(&broken, "").unwrap();
    let after = s.at("after");
    crate::support::write_program(
        &after,
        &format!(
            "#!/bin/sh\n[ -e {0} ] && {{ echo broken >{1}; exit 1; }}\n\
             gzip \"$1\" && echo \"$WHO $1\" >{1}\n",
            broken.display(),
            ran.shown()
        ),
    );
    s.script(
        "web",
        &format!(
            "config_start_sec=0\nconfig_log_size=1k\nconfig_log_after=\"{} x y\"\n\
             while read -r line <{}; do seq 1 400; done",
            after.display(),
            s.fifo("ear").shown()
        ),
    );
    // The command gets the file as its last argument.
    let wrapper = s.at("wrapper");
    crate::support::write_program(
        &wrapper,
        &format!("#!/bin/sh\n[ \"$1 $2\" = 'x y' ] && exec {} \"$3\"\n", after.display()),
    );
    let script = fs::read_to_string(s.d.join("web")).unwrap();
    let script = script.replace(
        &format!("\"{} x y\"", after.display()),
        &format!("\"{} x y\"", wrapper.display()),
    );
    s.script("web", &script);
    let mut command = s.command(&["start", "web"]);
    s.run(command.env("WHO", "me")).expect(0);
    // Read-write: while the service is busy, nobody else has it open.
    let mut ear = fs::OpenOptions::new().read(true).write(true).open(s.at("ear")).unwrap();
    ear.write_all(b"1\n").unwrap();
    assert_eq!(ran.line(), "broken");
    wait_for("it to be said", || s.messages().contains("config_log_after failed for "));
    let log = s.l.join("web");
    assert!(rotated(&log).iter().all(|file| file.extension().is_some_and(|e| e != "gz")));
    fs::remove_file(&broken).unwrap();
    // At the next rotation all that were left out have their turn.
    let all = || rotated(&log);
    ear.write_all(b"1\n").unwrap();
    wait_for("each to be compressed", || {
        let _ = (!ran.is_silent(std::time::Duration::ZERO)).then(|| {
            let line = ran.line();
            assert!(line == "broken" || line.starts_with("me /"), "{line}");
        });
        let files = all();
        files.len() > 1 && files.iter().all(|file| file.extension().is_some_and(|e| e == "gz"))
    });
    let is_todo = |e: &fs::DirEntry| e.file_name().to_string_lossy().ends_with(".todo");
    wait_for("nothing to be left to do", || {
        !fs::read_dir(&log).unwrap().flatten().any(|e| is_todo(&e))
    });
    s.ok(&["stop", "web"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
}

#[test]
fn a_command_that_hangs_holds_up_no_other_log() {
    let s = Sandbox::new();
    let (hung, ran) = (s.fifo("hung"), s.fifo("ran"));
    let body = |command: &str| {
        format!("config_start_sec=0\nconfig_log_after='{command} #'\necho line\nexec sleep 1000000")
    };
    s.script("bad", &body(&format!("echo $$ >{}; sleep 1000000; :", hung.shown())));
    s.script("good", &body(&format!("echo done >{}; :", ran.shown())));
    for name in ["bad", "good"] {
        s.up(name);
        wait_for("a line", || s.log(name) == "line\n");
    }
    s.ok(&["rotate", "bad"]);
    let pid: i32 = hung.line().parse().unwrap();
    s.ok(&["rotate", "good"]);
    assert_eq!(ran.line(), "done");
    s.ok(&["stop", "*"]);
    assert!(is_alive(pid));
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("the logger to end", || find_logger(&s).is_none());
}

#[test]
fn log_after_sees_what_is_not_kept_and_no_signal_is_blocked_for_it() {
    let s = Sandbox::new();
    let seen = s.fifo("seen");
    let after = s.at("after");
    let text =
        format!("#!/bin/sh\necho $(grep SigBlk /proc/$$/status) $(cat \"$1\") >{}\n", seen.shown());
    crate::support::write_program(&after, &text);
    let keys = "config_start_sec=0\nconfig_log_size=5\nconfig_log_keep=0";
    s.script(
        "web",
        &format!(
            "{keys}\nconfig_log_after={}\necho word\necho more\nexec sleep 1000000",
            after.display()
        ),
    );
    s.up("web");
    let blocked = if cfg!(target_os = "linux") { "SigBlk: 0000000000000000 " } else { "" };
    assert_eq!(seen.line(), format!("{blocked}word"));
    wait_for("it to be gone", || rotated(&s.l.join("web")).is_empty());
    assert_eq!(s.log("web"), "more\n");
}

#[test]
fn an_edit_that_makes_no_sense_is_said_and_changes_nothing() {
    let echo = Echo::new("config_log_time=epoch");
    let last = |e: &Echo| {
        String::from_utf8(whole(&e.log())).unwrap().lines().last().unwrap_or_default().to_owned()
    };
    echo.say_until("one", |e| last(e).ends_with(" one"));
    echo.edit("config_log_time=often");
    echo.say_until("two", |e| {
        last(e).ends_with(" two")
            && e.s.messages().contains("its log is kept as before: ")
            && e.s.messages().contains("config_log_time: `often` is not understood")
    });
}

#[test]
fn a_script_that_others_can_change_is_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let echo = Echo::new("");
    echo.say_until("one", |e| text(&e.log().join("current")).contains("one\n"));
    let proof = echo.s.at("proof");
    echo.edit(&format!("config_log_size=10\nconfig_log_after='touch {};'", proof.display()));
    let script = echo.s.d.join("web");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).unwrap();
    echo.say_until("two", |e| e.s.messages().contains("its log is kept as before: "));
    assert!(!proof.exists() && rotated(&echo.log()).is_empty());
}

#[test]
fn a_script_that_redirects_its_own_output_goes_on_working() {
    let s = Sandbox::new();
    let own = s.at("own.log");
    s.script(
        "web",
        &format!(
            "config_start_sec=0\necho first\necho by name >/dev/stdout\n\
             echo as an error >/dev/stderr\nexec >>{} 2>&1\necho second\nexec sleep 1000000",
            own.display()
        ),
    );
    s.up("web");
    wait_for("both", || text(&own) == "second\n" && s.log("web").lines().count() == 3);
    assert_eq!(s.log("web"), "first\nby name\nas an error\n");
}

#[test]
fn several_that_rotate_at_once_are_all_answered() {
    let echo = Echo::new("");
    let s = &echo.s;
    for round in 0..5 {
        echo.say("line");
        wait_for("it", || s.log("web") == "line\n");
        let all: Vec<_> = (0..6)
            .map(|_| {
                let mut command = s.command(&["rotate", "web"]);
                let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
                (child, command)
            })
            .collect();
        for (child, command) in all {
            let done = finish(child, &command).expect(0);
            let answers = ["web: rotate\n", "web: skip (because its log is empty)\n"];
            assert!(answers.contains(&done.out.as_str()) && done.err.is_empty(), "{done:?}");
        }
        assert_eq!(rotated(&echo.log()).len(), round + 1);
    }
}

#[test]
fn rotate_begins_new_files_now() {
    let echo = Echo::new("");
    let s = &echo.s;
    s.script("quiet", crate::support::SLEEPER);
    s.script("down", crate::support::SLEEPER);
    s.up("quiet");
    echo.say("one");
    wait_for("it", || s.log("web") == "one\n");
    let down = "down: skip (because nothing is written to its log now)\n";
    let quiet = "quiet: skip (because its log is empty)\n";
    assert_eq!(s.ok(&["rotate"]), format!("{down}{quiet}web: rotate\n"));
    assert_eq!((rotated(&echo.log()).len(), s.log("web").as_str()), (1, ""));
    assert_eq!(s.ok(&["rotate", "web"]), "web: skip (because its log is empty)\n");
    echo.say("two");
    wait_for("it", || s.log("web") == "two\n");
    // A logger that was stopped, or killed a moment ago, does it all the same.
    crate::support::signal(super::logger(s), Signal::SIGSTOP);
    assert_eq!(s.ok(&["rotate", "w*"]), "web: rotate\n");
    echo.say("three");
    wait_for("it", || s.log("web") == "three\n");
    crate::support::signal(super::logger(s), Signal::SIGKILL);
    assert_eq!(s.ok(&["rotate", "web"]), "web: rotate\n");
    assert_eq!(whole(&echo.log()), b"one\ntwo\nthree\n");
    s.reraise(&["rotate", "nobody"]).expect(4).says("nobody: no such service");
    assert_eq!(s.pid("web"), echo.pid);
}
