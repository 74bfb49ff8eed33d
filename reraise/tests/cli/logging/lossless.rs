//! Lines that are numbered, and whatever is killed meanwhile.

use nix::sys::signal::Signal;

use super::{count_in_order, find_logger, kill_logger, logger, rotated, whole};
use crate::support::{Sandbox, is_alive, signal, wait_for, wait_gone, wait_some};
use crate::upgrade::{install, upgrade};

/// Says a number a line for ever, each with a write of its own.
const COUNTER: &str = "i=0\nwhile :; do i=$((i + 1)); echo $i; done";
/// Small files, and all of them.
const KEYS: &str =
    "config_start_sec=0\nconfig_log_size=1M\nconfig_log_keep=100000\nconfig_log_total=100G";

#[track_caller]
fn kill_worker(s: &Sandbox, name: &str) {
    let old = s.worker(name);
    signal(old, Signal::SIGKILL);
    wait_some("another worker", || s.find_worker(name).filter(|&new| new != old));
}

#[test]
fn two_hundred_workers_and_the_keeper_and_the_logger_die_and_not_a_line_is_lost() {
    let s = Sandbox::new();
    s.script("chatty", &format!("{KEYS}\n{COUNTER}"));
    // Whose worker starts another keeper.
    s.script("other", crate::support::SLEEPER);
    let (pid, _) = (s.up("chatty"), s.up("other"));
    let log = s.l.join("chatty");
    let builds = ["one", "two"].map(|name| install(&s, name));
    for round in 0..200 {
        kill_worker(&s, "chatty");
        if round % 50 == 25 {
            upgrade(&s, &builds[round / 50 % 2]).expect(0);
        }
        match round % 10 {
            3 => signal(s.keeper(), Signal::SIGKILL),
            4 | 7 => kill_logger(&s),
            _ => {}
        }
    }
    wait_for("a rotation", || rotated(&log).len() > 1);
    assert_eq!(s.pid("chatty"), pid, "it saw SIGPIPE, say");
    s.ok(&["stop", "*"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let text = whole(&log);
    assert!(text.ends_with(b"\n") && count_in_order(&text) > 100_000);
    for file in rotated(&log) {
        let text = std::fs::read(&file).unwrap();
        assert!(text.ends_with(b"\n"), "{} is cut within a line", file.display());
        assert!((1 << 20..(1 << 20) + 100).contains(&text.len()), "{}", text.len());
    }
}

#[test]
fn with_times_before_the_lines_as_well() {
    let s = Sandbox::new();
    let keys = format!("{KEYS}\nconfig_log_time=tai64n");
    let done = s.fifo("done");
    let said = format!("seq 1 400000\necho done >{}\nexec sleep 1000000", done.shown());
    s.script("chatty", &format!("{keys}\n{said}"));
    s.up("chatty");
    let mut kills = 0;
    let length = || whole(&s.l.join("chatty")).len();
    while done.is_silent(std::time::Duration::ZERO) {
        let before = length();
        wait_for("more lines", || length() > before || !done.is_silent(std::time::Duration::ZERO));
        kill_logger(&s);
        kills += 1;
    }
    assert_eq!(done.line(), "done");
    s.ok(&["stop", "chatty"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    let text = whole(&s.l.join("chatty"));
    let mut numbers = Vec::new();
    for line in text.split_inclusive(|&b| b == b'\n') {
        assert!(line.starts_with(b"@4000") && line[25] == b' ', "{line:?}");
        numbers.extend_from_slice(&line[26..]);
    }
    assert_eq!(count_in_order(&numbers), 400_000, "after {kills} kills");
    assert!(kills > 0);
}

#[test]
fn blocks_of_any_length_come_through_as_they_are() {
    let s = Sandbox::new();
    // All bytes, a line of 1 MB, and no end of line at the end.
    let source = s.at("source");
    let mut bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.push(b'\n');
    bytes.extend(b"\xff\xfe\0 no end");
    std::fs::write(&source, &bytes).unwrap();
    let keys = "config_start_sec=0\nconfig_log_size=64k\nconfig_log_keep=1000";
    s.script("web", &format!("{keys}\ncat {}\nexec sleep 1000000", source.display()));
    s.up("web");
    let log = s.l.join("web");
    wait_for("all of it", || whole(&log).len() >= bytes.len());
    assert!(whole(&log) == bytes);
    // A line that is longer than a file stays in one.
    let longest = rotated(&log).iter().map(|f| f.metadata().unwrap().len()).max().unwrap();
    assert!(longest > 1 << 20);
}

#[test]
fn a_logger_that_is_stopped_is_continued_and_a_keeper_that_dies_leaves_it_at_work() {
    let s = Sandbox::new();
    s.script("chatty", &format!("{KEYS}\n{COUNTER}"));
    let pid = s.up("chatty");
    let log = s.l.join("chatty");
    let length = || whole(&log).len();
    wait_for("a line", || length() > 0);
    signal(logger(&s), Signal::SIGSTOP);
    let before = length();
    wait_for("more lines", || length() > before);
    // The keeper dies, and so does the worker that would replace it, after a moment.
    let (keeper, former) = (s.keeper(), logger(&s));
    signal(keeper, Signal::SIGKILL);
    wait_gone(keeper);
    let before = length();
    wait_for("more lines", || length() > before);
    wait_for("the new keeper's own", || find_logger(&s).is_some_and(|new| new != former));
    wait_gone(former);
    assert!(is_alive(pid));
    s.ok(&["stop", "chatty"]);
    wait_for("the logger to end", || find_logger(&s).is_none());
    count_in_order(&whole(&log));
}

#[test]
fn all_are_killed_and_what_stood_in_the_pipe_is_still_written() {
    let s = Sandbox::new();
    let go = s.fifo("go");
    // It has said more than one pipe holds, so it is in the middle of a write.
    s.script("web", &format!("{KEYS}\nseq 1 200000\necho >{}\nexec sleep 1000000", go.shown()));
    s.up("web");
    let log = s.l.join("web");
    let logger = logger(&s);
    s.kill_supervisors(&["web"]);
    signal(logger, Signal::SIGKILL);
    wait_gone(logger);
    s.ok(&["resume"]);
    assert_eq!(go.line(), "");
    s.ok(&["stop", "web"]);
    wait_for("all of it", || count_in_order(&whole(&log)) == 200_000);
}

#[cfg(target_os = "linux")]
#[test]
fn where_descriptors_have_run_out_nobody_is_forgotten() {
    let s = Sandbox::new();
    let ear = s.fifo("ear");
    let keys = "config_start_sec=0";
    let body =
        format!("{keys}\necho first\nread x <{}\necho more\nexec sleep 1000000", ear.shown());
    s.script("old", &body);
    s.script("new", &format!("{keys}\necho word\nexec sleep 1000000"));
    s.up("old");
    wait_for("a word", || s.log("old") == "first\n");
    let logger = logger(&s);
    let open: Vec<i32> = std::fs::read_dir(format!("/proc/{logger}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let lowest = (0..).find(|fd| !open.contains(fd)).unwrap();
    limit_descriptors(logger, Some(lowest as u64));
    s.up("new");
    std::fs::write(&ear.path, "\n").unwrap();
    wait_for("it to be said", || s.messages().contains("its output cannot be read: "));
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{logger}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = switches();
    wait_for("some more tries", || switches() > before + 5);
    let complaints = s.messages().matches("cannot be read: ").count();
    assert!(complaints == 1, "{}", s.messages());
    limit_descriptors(logger, None);
    wait_for("both", || s.log("new") == "word\n" && s.log("old") == "first\nmore\n");
    s.ok(&["stop", "*"]);
    assert!(!s.messages().contains("logger"), "{}", s.messages());
}

/// Descriptors that a process may have from now on; `None`: as many as it is allowed.
#[cfg(target_os = "linux")]
fn limit_descriptors(pid: i32, soft: Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let kind = libc::RLIMIT_NOFILE;
    // SAFETY: the pointers are null or to a live value.
    let got = unsafe { libc::prlimit(pid, kind, std::ptr::null(), &raw mut limit) };
    limit.rlim_cur = soft.unwrap_or(limit.rlim_max);
    // SAFETY: as above.
    let set = unsafe { libc::prlimit(pid, kind, &raw const limit, std::ptr::null_mut()) };
    assert_eq!((got, set), (0, 0));
}
