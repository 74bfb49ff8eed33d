//! What `reraise logs` does with bad input, odd logs and readers that leave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use reraise::logger::index::path_of;

use super::written::{Log, append, at, web};
use crate::support::{STRANGER, Sandbox, as_ordinary, is_root, skip_unless_root, wait_for};

#[test]
fn without_an_index() {
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    append(&log.current(), b"old one\nold two\n");
    assert_eq!(s.ok(&["logs", "web"]), "old one\nold two\n");
    assert_eq!(s.ok(&["logs", "web", "-n1"]), "old two\n");
    assert_eq!(s.ok(&["logs", "web", "--since", "10m"]), "old one\nold two\n");
    assert_eq!(s.ok(&["logs", "web", "--until", "10m"]), "");
    assert!(s.ok(&["logs", "web", "--json"]).contains(r#""run":null"#));
    // From some place on there is one; and entries of bytes that are not there.
    log.say(0.0, "new\n");
    append(&path_of(&log.current()), b"torn");
    assert_eq!(s.ok(&["logs", "web"]), "old one\nold two\nnew\n");
    assert_eq!(s.ok(&["logs", "web", "--since", &at(0), "-n9"]), "old one\nold two\nnew\n");
}

#[test]
fn bad_input() {
    let s = Sandbox::new();
    web(&s);
    let times = "say 10m, 2h30m, '2026-11-22 06:00', 06:00, yesterday or @EPOCH";
    for (words, code, message, advice) in [
        (&["--since", "soon"][..], 2, "--since: \"soon\" is no time", times),
        (&["--until", "-5m"], 2, "--until: \"-5m\" is no time", times),
        (
            &["--since", "5m", "--until", "10m"],
            2,
            "--until: lies before --since",
            "10m is ten minutes ago: --since 20m --until 10m",
        ),
        (
            &["--grep", "("],
            2,
            "--grep: \"(\": unclosed group",
            r"it is a regular expression; \ before a character takes it as it is: \[",
        ),
        (
            &["--run", "first"],
            2,
            "--run: \"first\" is none",
            "say last, -1, -2 or an id as in $RERAISE_RUN",
        ),
        (
            &["--run", "-0"],
            2,
            "--run: \"-0\" is none",
            "say last, -1, -2 or an id as in $RERAISE_RUN",
        ),
        (&["-n", "-1"], 2, "", ""),
        (&["-n", "ten"], 2, "--lines: \"ten\" is none", "say a number of lines, or all"),
        (&["--follow", "--until", "1m"], 2, "", ""),
        (&["-i"], 2, "", ""),
        (
            &["x*"],
            4,
            "x*: matches no service",
            &format!("see what is in {}: reraise list", s.d.display()),
        ),
    ] {
        let done = s.reraise(&[&["logs"], words].concat()).expect(code);
        assert_eq!(done.out, "");
        if !message.is_empty() {
            assert_eq!(done.err, format!("reraise: {message}\n    {advice}\n"));
        }
    }
    let done = s.reraise(&["logs", "none", "web"]).expect(4).says("reraise: none: no such service");
    assert!(done.out.ends_with("seven\n"), "{done:?}");
    // What is no file does not hold us up.
    let log = Log::new(&s, "fifo");
    nix::unistd::mkfifo(&log.current(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    s.reraise(&["logs", "fifo"]).expect(8).says("reraise: fifo: ").says("is no ordinary file");
}

#[test]
fn a_closed_log() {
    if skip_unless_root("a log of another user") {
        return;
    }
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    log.say(0.0, "secret\n");
    fs::set_permissions(&log.directory, fs::Permissions::from_mode(0o700)).unwrap();
    let public = s.public_programs();
    let mut command = s.program(&public);
    command.args(["logs", "web", "--logdir"]).arg(&s.l);
    // Theirs is looked for where services of root keep theirs.
    let done = s.run(as_ordinary(&mut command)).expect(0);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", "web: has said nothing yet\n"));
    s.give(&s.d.join("web"));
    let done = s.run(&mut command).expect(6).says("reraise: web: its log is closed to you (");
    assert!(is_root() && done.err.contains("\n    see its owner and mode: ls -ld "), "{done:?}");
    let mine = s.p.join(".reraise-0/log/web");
    fs::create_dir_all(&mine).unwrap();
    fs::set_permissions(s.p.join(".reraise-0"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::lchown(s.d.join("web"), Some(0), Some(0)).unwrap();
    let done = s.run(&mut command).expect(6);
    let (public, d, p, l) = (public.display(), s.d.display(), s.p.display(), s.l.display());
    let command = format!("{public} --dir {d} --piddir {p} --logdir {l} logs web");
    done.says(&format!("\n    read it as its owner: sudo -u root {command}\n"));
}

#[test]
fn a_log_of_which_its_owner_alone_knows_where_it_is() {
    if skip_unless_root("a service of another user") {
        return;
    }
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\necho hello\nexec sleep 1000000");
    s.give_all();
    s.give(&s.d.join("web"));
    let public = s.public_programs();
    let mut start = s.program(&public);
    start.args(["start", "web"]).env("RERAISE_LOGDIR", s.at("home/logs"));
    s.run(as_ordinary(&mut start)).expect(0);
    let current = s.at("home/logs/web/current");
    wait_for("its words", || fs::read_to_string(&current).is_ok_and(|text| text == "hello\n"));
    // Root sees where; another user does not.
    assert_eq!(s.ok(&["logs", "web", "--grep", ""]), "hello\n");
    let mut other = s.program(&public);
    other.args(["logs", "web"]).uid(STRANGER - 1).gid(STRANGER - 1);
    let done = s.run(&mut other).expect(6).says("web: where its log is, its owner alone can see (");
    assert!(done.out.is_empty() && done.err.contains("\n    read it as its owner: "), "{done:?}");
}

#[test]
fn nobody_reads_any_more() {
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    log.say(0.0, "line\n".repeat(200_000));
    for words in ["", "--json", "--grep line", "-n 150000"] {
        let script = format!("{{ $RERAISE logs web {words}; echo $? >&2; }} | head -n 1");
        let done = s.shell(&script).expect(0);
        assert_eq!(done.err, "0\n", "{words}");
        assert_eq!(done.out.lines().count(), 1);
    }
    // A full disk is another matter.
    if Path::new("/dev/full").exists() {
        s.shell("$RERAISE logs web >/dev/full")
            .expect(8)
            .says("standard output: cannot be written");
    }
}
