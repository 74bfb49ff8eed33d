//! `reraise events`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{SLEEPER, Sandbox, signal, wait_for};

/// Service and event of each line.
fn words(out: &str) -> Vec<String> {
    let word = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        format!("{} {}", words.next().unwrap(), words.next().unwrap())
    };
    out.lines().map(word).collect()
}

#[test]
fn a_life_in_lines() {
    let s = Sandbox::new();
    assert_eq!(s.ok(&["events"]), "");
    s.script("web", SLEEPER);
    s.script("job", "config_restart=on-failure\nexit 0");
    let pid = s.up("web");
    signal(pid, Signal::SIGKILL);
    let pid = s.wait_raised("web", pid);
    s.wait_phase("web", Phase::Run);
    s.ok(&["restart", "web"]);
    s.wait_raised("web", pid);
    wait_for("it to run", || s.ok(&["events", "web"]).matches("running").count() == 3);
    s.ok(&["stop", "web"]);
    s.ok(&["start", "job"]);
    wait_for("its end", || s.ok(&["events", "job"]).contains("done"));
    let out = s.ok(&["events", "web"]);
    assert_eq!(
        words(&out),
        [
            "web starting",
            "web running",
            "web ended",
            "web starting",
            "web running",
            "web restarting",
            "web ended",
            "web starting",
            "web running",
            "web stopping",
            "web ended",
            "web stopped",
        ]
    );
    let line = |word: &str| out.lines().find(|line| line.contains(word)).unwrap();
    assert!(line("ended").contains("signal KILL after "), "{out}");
    assert!(line("stopping").contains(" (reraise stop, pid "), "{out}");
    assert!(line("restarting").contains(" (reraise restart, pid "), "{out}");
    assert!(out.contains("as asked (stop)") && out.contains("as asked (restart)"), "{out}");
    let out = s.ok(&["events", "j*"]);
    assert_eq!(words(&out), ["job starting", "job ended", "job done"]);
    assert_eq!(s.ok(&["events", "-n", "2"]).lines().count(), 2);
    // One that is there no more is remembered; one that never was is an error.
    fs::remove_file(s.d.join("web")).unwrap();
    assert_eq!(s.ok(&["events", "web"]).lines().count(), 12);
    s.reraise(&["events", "nobody"]).expect(4).says("no such service");
    let json = s.ok(&["events", "--json", "-n", "1", "web"]);
    assert!(json.starts_with('{') && json.contains("\"event\":\"stopped\""), "{json}");
    assert!(json.contains("\"version\":1") && json.contains("\"run\":\""), "{json}");
}

#[test]
fn what_happens_is_followed() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    s.up("other");
    // Not with `-n 0`: what happens before it has begun to look would not be shown.
    let mut command = s.command(&["events", "-f", "web"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || words(&lines.next().unwrap().unwrap()).remove(0);
    let pid = s.up("web");
    assert_eq!([next(), next()], ["web starting", "web running"]);
    signal(s.worker("web"), Signal::SIGKILL);
    assert_eq!(next(), "web adopted");
    signal(pid, Signal::SIGKILL);
    assert_eq!([next(), next(), next()], ["web ended", "web starting", "web running"]);
    assert_eq!(s.ok(&["events", "-n", "0", "web"]), "");
    drop(lines);
    // Nobody reads it any more, and it finds that without an event.
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_start_that_fails_waits_and_is_given_up() {
    let s = Sandbox::new();
    let go = s.at("go");
    fs::write(&go, "").unwrap();
    let body = format!("[ -e {0} ] && rm {0} && sleep 0.4\nexit 3", go.display());
    s.script("web", &format!("config_start_sec=0.3\nconfig_retry_sec=0.1\n{body}"));
    s.ok(&["start", "web"]);
    s.wait_phase("web", Phase::Error);
    wait_for("its end", || s.ok(&["events"]).contains("given up: exit code 3"));
    let out = s.ok(&["events"]);
    let all = words(&out);
    assert_eq!(all.last().unwrap(), "web failed");
    assert_eq!(all.iter().filter(|word| *word == "web ended").count(), 4, "{out}");
    assert!(out.contains("waiting       for 0.1"), "{out}");
    s.script("odd", "#!/no/such/interpreter\n");
    s.reraise(&["start", "odd"]).expect(5);
    wait_for("its end", || s.ok(&["events", "odd"]).contains("failed"));
    assert_eq!(words(&s.ok(&["events", "odd"])), ["odd cannot-start", "odd failed"]);
}
