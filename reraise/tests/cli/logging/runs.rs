//! Which run has said what.

use std::fs;

use nix::sys::signal::Signal;
use reraise::backend::Exit;
use reraise::history::tails;
use reraise::logger::index::{self, Mark};
use reraise::logger::{names, pipes};
use reraise::record::Phase;

use super::{find_logger, kill_logger, logger, rotated};
use crate::steps::{End, FORKS, Traced, after_the_gate, forked};
use crate::support::{SLEEPER, Sandbox, signal, spawn, wait_for, wait_some};

/// What each run of a service has said, in order, with its exit.
pub(super) fn runs(s: &Sandbox, name: &str) -> Vec<(String, Option<Exit>)> {
    let directory = s.l.join(name);
    let mut found: Vec<(u64, String, Option<Exit>)> = Vec::new();
    for log in names::all(&directory).unwrap() {
        let text = fs::read(&log).unwrap_or_default();
        let entries = index::read(&log).unwrap();
        for (at, entry) in entries.iter().enumerate() {
            let end = entries.get(at + 1).map_or(text.len(), |next| next.offset as usize);
            let part = &text[(entry.offset as usize).min(text.len())..end.min(text.len())];
            let part = String::from_utf8_lossy(part).into_owned();
            match (entry.mark, found.last_mut()) {
                (Mark::End(exit), Some(last)) => last.2 = Some(exit),
                (_, Some(last)) if last.0 == entry.run => last.1 += &part,
                _ => found.push((entry.run, part, None)),
            }
        }
    }
    // A file that is begun between two runs.
    found.retain(|(run, text, _)| *run != 0 || !text.is_empty());
    found.into_iter().map(|(_, text, exit)| (text, exit)).collect()
}

#[test]
fn each_word_belongs_to_the_run_that_said_it() {
    let s = Sandbox::new();
    let count = s.at("count");
    fs::write(&count, "0").unwrap();
    let body = format!(
        "config_start_sec=0\nn=$(($(cat {0}) + 1)); echo $n >{0}\necho run $n begins\n\
         until grep -qs \"run $n begins\" {1}; do sleep 0.01; done\n[ $n = 7 ] && exec sleep 1000000\necho run $n ends\nexit $n",
        count.display(),
        // A logger that is two runs late cannot tell them apart.
        s.l.join("web/current").display()
    );
    s.script("web", &body);
    s.reraise(&["start", "web"]).expect(0);
    wait_for("the last run", || s.log("web").contains("run 7 begins\n"));
    s.ok(&["stop", "web"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let runs = runs(&s, "web");
    assert_eq!(runs.len(), 7, "{runs:?}");
    for (n, (text, exit)) in (1..).zip(&runs) {
        let ends = if n < 7 { format!("run {n} ends\n") } else { String::new() };
        assert_eq!(*text, format!("run {n} begins\n{ends}"));
        assert!(exit.is_some(), "run {n} has no end: {runs:?}");
    }
}

#[test]
fn also_when_the_logger_was_killed_between_two_runs() {
    let s = Sandbox::new();
    let go = s.at("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body = format!(
        "config_start_sec=0\necho one\nwhile ! read -r x <{}; do :; done\necho two",
        go.display()
    );
    s.script("web", &body);
    s.up("web");
    let log = || s.log("web");
    wait_for("the first word", || log() == "one\n");
    for round in 2..6 {
        // Nobody reads while one run says its last word and the next its first.
        let (pid, old) = (s.pid("web"), logger(&s));
        signal(old, Signal::SIGSTOP);
        signal(s.keeper(), Signal::SIGSTOP);
        fs::write(&go, "\n").unwrap();
        s.wait_raised("web", pid);
        signal(old, Signal::SIGKILL);
        signal(s.keeper(), Signal::SIGCONT);
        wait_some("another logger", || find_logger(&s).filter(|&new| new != old));
        let expected = "one\ntwo\n".repeat(round - 1) + "one\n";
        wait_for("what was said meanwhile", || log() == expected);
    }
    kill_logger(&s);
    s.ok(&["stop", "web"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let runs = runs(&s, "web");
    let texts: Vec<&str> = runs.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["one\ntwo\n", "one\ntwo\n", "one\ntwo\n", "one\ntwo\n", "one\n"]);
}

#[test]
fn a_logger_that_is_late_does_not_take_the_next_run_before_this_one() {
    let s = Sandbox::new();
    let (ear, said) = (s.at("ear"), s.fifo("said"));
    nix::unistd::mkfifo(&ear, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body = format!(
        "echo begins\necho >{}\nwhile ! read -r x <{}; do :; done\necho ends\nexit 3",
        said.shown(),
        ear.display()
    );
    s.script("web", &format!("config_start_sec=0\n{body}"));
    s.up("web");
    for round in 1..6 {
        said.line();
        let so_far = "begins\nends\n".repeat(round - 1) + "begins\n";
        wait_for("the first word", || s.log("web") == so_far);
        let Some(held) = Traced::stop(logger(&s)) else { return };
        fs::write(&ear, "\n").unwrap();
        wait_for("the next run to speak", || !said.is_silent(std::time::Duration::ZERO));
        held.kill_at_one(|_| false, 0, || true);
        wait_for("both", || s.log("web").len() >= so_far.len() + 12);
        assert_eq!(s.log("web"), format!("{so_far}ends\nbegins\n"));
    }
    s.ok(&["stop", "web"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let runs = runs(&s, "web");
    assert!(runs.len() == 6 && runs[..5].iter().all(|run| run.0 == "begins\nends\n"), "{runs:?}");
}

/// A service that counts its runs; each ends when it hears something at its ear.
fn counting(s: &Sandbox) -> std::path::PathBuf {
    let (count, ear) = (s.at("count"), s.at("ear"));
    fs::write(&count, "1\n").unwrap();
    nix::unistd::mkfifo(&ear, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body = format!(
        "read n <{0}\necho $((n+1)) >{0}\necho run $n\nwhile ! read -r x <{1}; do :; done\nexit 3",
        count.display(),
        ear.display()
    );
    s.script("web", &format!("config_start_sec=0\n{body}"));
    ear
}

#[test]
fn what_the_first_run_to_be_raised_says_when_its_worker_dies_at_the_gate() {
    let s = Sandbox::new();
    let ear = counting(&s);
    s.up("web");
    wait_for("the first run", || s.log("web") == "run 1\n");
    let Some(worker) = Traced::stop(s.worker("web")) else { return };
    // So that there is no other one until it has spoken.
    signal(s.keeper(), Signal::SIGSTOP);
    fs::write(&ear, "\n").unwrap();
    assert_eq!(worker.kill_at_one(after_the_gate(), 0, || false), End::Killed);
    wait_for("the second run", || s.log("web") == "run 1\nrun 2\n");
    fs::write(&ear, "\n").unwrap();
    signal(s.keeper(), Signal::SIGCONT);
    wait_for("the third run", || s.log("web") == "run 1\nrun 2\nrun 3\n");
    s.ok(&["stop", "web"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let texts: Vec<String> = runs(&s, "web").into_iter().map(|run| run.0).collect();
    assert_eq!(texts, ["run 1\n", "run 2\n", "run 3\n"]);
}

#[test]
fn what_a_run_says_that_is_started_again_when_its_worker_dies_at_the_gate() {
    let s = Sandbox::new();
    counting(&s);
    s.script("other", SLEEPER);
    s.up("other");
    s.up("web");
    let mut expected = "run 1\n".to_owned();
    for n in 2..5 {
        wait_for("the run before", || s.log("web") == expected);
        s.ok(&["stop", "web"]);
        let Some(keeper) = Traced::seize(s.keeper(), FORKS) else { return };
        let mut start = spawn(&mut s.command(&["start", "web"]));
        let worker = forked(&keeper);
        signal(s.keeper(), Signal::SIGSTOP);
        // It would continue the keeper.
        start.kill().unwrap();
        start.wait().unwrap();
        assert_eq!(worker.kill_at_one(after_the_gate(), 0, || false), End::Killed);
        expected += &format!("run {n}\n");
        wait_for("the words", || s.log("web") == expected);
        signal(s.keeper(), Signal::SIGCONT);
    }
    s.ok(&["stop", "*"]);
}

#[test]
fn a_run_that_is_over_before_the_logger_looks_has_said_its_words() {
    let s = Sandbox::new();
    let go = s.at("go");
    let keys = "config_start_sec=0.3\nconfig_max_retry=2\nconfig_retry_sec=3";
    let first = format!("[ -e {0} ] && rm {0} && sleep 0.4", go.display());
    s.script("web", &format!("{keys}\n{first}\necho word\nexit 3"));
    fs::write(&go, "").unwrap();
    s.ok(&["start", "web"]);
    // It is raised at once, and again; then after a delay, in which no run speaks.
    wait_for("the end of the third run", || {
        s.log("web") == "word\n".repeat(3) && runs(&s, "web").last().is_some_and(|r| r.1.is_some())
    });
    let Some(held) = Traced::stop(logger(&s)) else { return };
    s.wait_phase("web", Phase::Error);
    held.kill_at_one(|_| false, 0, || true);
    wait_for("the logger to end", || find_logger(&s).is_none());
    assert_eq!(s.log("web"), "word\n".repeat(4));
    assert_eq!(runs(&s, "web").last(), Some(&("word\n".to_owned(), Some(Exit::Code(3)))));
}

#[test]
fn the_last_words_of_a_service_that_is_stopped_while_there_is_no_logger() {
    for time in ["none", "epoch"] {
        let s = Sandbox::new();
        let keys = format!("config_start_sec=0\nconfig_log_time={time}");
        s.script("other", SLEEPER);
        let ear = s.at("ear");
        nix::unistd::mkfifo(&ear, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let body = format!("trap 'echo last; exit 4' TERM\necho first\nread x <{}", ear.display());
        s.script("web", &format!("{keys}\n{body}"));
        s.up("other");
        s.up("web");
        wait_for("the first word", || s.log("web").ends_with("first\n"));
        let old = logger(&s);
        let Some(held) = Traced::stop(old) else { return };
        // Its worker would hold it for half a second only.
        let _pipe = pipes::open(&pipes::path(&s.state().join("s/web"), pipes::Side::Out, false));
        s.ok(&["stop", "web"]);
        wait_for("its worker to end", || s.find_worker("web").is_none());
        // Before it has made another call.
        held.kill_at_one(|_| true, 0, || false);
        wait_for("the last word", || s.log("web").ends_with("last\n"));
        wait_for("its end", || {
            let runs = runs(&s, "web");
            runs.len() == 1 && runs[0].1 == Some(Exit::Code(4))
        });
        let run = index::read(&s.l.join("web/current")).unwrap()[0].run;
        let tail = tails::find(&s.state().join("s/web/tails"), run).unwrap();
        assert!(tail.ends_with(b"last\n"));
    }
}

#[test]
fn the_last_lines_of_a_run_outlive_its_log() {
    let s = Sandbox::new();
    s.script(
        "web",
        "config_start_sec=0\nconfig_log_size=1k\nconfig_log_keep=1\n\
         seq 1 5000\necho the end >&2\nexit 3",
    );
    s.reraise(&["start", "--once", "web"]).expect(0);
    wait_for("its end", || s.status("web") == "ERROR" || s.status("web") == "done");
    let tails = s.state().join("s/web/tails");
    let run = wait_some("its last lines", || {
        let entries = index::read(&s.l.join("web/current")).ok()?;
        let run = entries.last()?.run;
        tails::find(&tails, run).map(|_| run)
    });
    let expected: String =
        (4982..=5000).map(|n| format!("{n}\n")).collect::<String>() + "the end\n";
    assert_eq!(String::from_utf8(tails::find(&tails, run).unwrap()).unwrap(), expected);
    assert_eq!(rotated(&s.l.join("web")).len(), 1);
    fs::remove_dir_all(s.l.join("web")).unwrap();
    assert!(tails::find(&tails, run).is_some());
}

#[test]
fn services_that_are_started_together_are_all_heard() {
    let s = Sandbox::new();
    let names: Vec<String> = (0..12).map(|number| format!("web-{number}")).collect();
    for name in &names {
        s.script(name, "config_start_sec=0\necho word\nexec sleep 1000000");
    }
    s.ok(&["start", "*"]);
    for name in &names {
        wait_for(name, || s.log(name).lines().count() == 1 && runs(&s, name).len() == 1);
    }
}
