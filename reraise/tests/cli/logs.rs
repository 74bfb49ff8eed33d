//! `reraise logs`, on logs that are written here as the logger writes them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use reraise::backend::Exit;
use reraise::logger::index::{Entry, Mark, path_of};
use reraise::logger::names;

use crate::support::{
    Done, Sandbox, as_ordinary, finish, is_quiet, is_root, signal, skip_unless_root, spawn,
    write_program,
};

/// 2026-11-29 11:53:00 UTC, in seconds.
const T: i64 = 1_795_953_180;

/// Writes a log.
struct Log {
    directory: PathBuf,
    run: u64,
    rotated: Option<String>,
}

impl Log {
    fn new(s: &Sandbox, name: &str) -> Self {
        if !s.d.join(name).exists() {
            s.script(name, "exec sleep 1");
        }
        Self::at(s.l.join(name))
    }

    fn at(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        Self { directory, run: 0, rotated: None }
    }

    fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    /// Says something of what follows, at a time in seconds after [`T`].
    fn mark(&self, after: f64, mark: Mark) {
        let offset = fs::metadata(self.current()).map_or(0, |about| about.len());
        let time = T * 1_000_000 + (after * 1e6) as i64;
        let entry = Entry { offset, time, run: self.run, mark };
        append(&path_of(&self.current()), &entry.encode());
    }

    fn begin(&mut self, after: f64, run: u64) {
        self.run = run;
        self.mark(after, Mark::Begin);
    }

    fn say(&self, after: f64, text: impl AsRef<[u8]>) {
        self.mark(after, Mark::Output);
        append(&self.current(), text.as_ref());
    }

    fn end(&self, after: f64, exit: Exit) {
        self.mark(after, Mark::End(exit));
    }

    fn rotate(&mut self, after: f64) -> PathBuf {
        let name = names::next(T * 1_000_000 + (after * 1e6) as i64, self.rotated.as_deref());
        let path = self.directory.join(&name);
        fs::rename(self.current(), &path).unwrap();
        fs::rename(path_of(&self.current()), path_of(&path)).unwrap();
        self.rotated = Some(name);
        append(&self.current(), b"");
        path
    }
}

fn append(path: &Path, text: &[u8]) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text).unwrap();
}

/// `@EPOCH` so many seconds after [`T`].
fn at(after: i64) -> String {
    format!("@{}", T + after)
}

/// Two runs of `web`, over three files.
fn web(s: &Sandbox) -> Log {
    let mut log = Log::new(s, "web");
    log.begin(0.0, 0xa1);
    log.say(0.1, "one\n");
    log.say(1.0, "two\nthree\n");
    log.rotate(2.0);
    log.say(3.0, "four\n");
    log.end(4.5, Exit::Code(1));
    log.begin(5.0, 0xb2);
    log.say(5.0, "five\n");
    log.rotate(6.0);
    log.say(7.0, "six\nseven\n");
    log
}

const BEGAN_A: &str = "--- web: run 00000000000000a1 began 2026-11-29 11:53:00\n";
const ENDED_A: &str =
    "--- web: run 00000000000000a1 ended 2026-11-29 11:53:04: exit code 1 after 4.5 s\n";
const BEGAN_B: &str = "--- web: run 00000000000000b2 began 2026-11-29 11:53:05\n";

#[test]
fn all_of_a_service() {
    let s = Sandbox::new();
    web(&s);
    let all = format!("{BEGAN_A}one\ntwo\nthree\nfour\n{ENDED_A}{BEGAN_B}five\nsix\nseven\n");
    assert_eq!(s.ok(&["logs", "web"]), all);
    assert_eq!(s.ok(&["logs"]), all);
    assert_eq!(s.ok(&["logs", "w*", "-n", "all", "--no-pager"]), all);
    // Its script, but not its log, is gone.
    fs::remove_file(s.d.join("web")).unwrap();
    assert_eq!(s.ok(&["logs", "web"]), all);
}

#[test]
fn the_last_lines() {
    let s = Sandbox::new();
    web(&s);
    let last = |n: &str| s.ok(&["logs", "web", "-n", n]);
    assert_eq!(last("0"), "");
    assert_eq!(last("1"), "seven\n");
    assert_eq!(last("2"), "six\nseven\n");
    assert_eq!(last("4"), format!("four\n{ENDED_A}{BEGAN_B}five\nsix\nseven\n"));
    assert_eq!(last("6"), format!("two\nthree\nfour\n{ENDED_A}{BEGAN_B}five\nsix\nseven\n"));
    assert_eq!(last("100"), s.ok(&["logs", "web"]));
    assert_eq!(s.ok(&["logs", "web", "-n2", "--grep", "^f|^t"]), "four\nfive\n");
    // Of all services together, and not of each.
    let mut db = Log::new(&s, "db");
    db.begin(6.9, 0xd);
    db.say(6.9, "old\n");
    db.say(7.5, "new\n");
    assert_eq!(s.ok(&["logs", "-n", "3"]), "web | six\nweb | seven\ndb  | new\n");
}

#[test]
fn lines_of_a_large_log_from_its_end() {
    let s = Sandbox::new();
    let log = Log::new(&s, "big");
    let text: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    log.say(0.0, &text);
    log.say(1.0, "last\n");
    let expected: String = (170_001..200_000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(s.ok(&["logs", "big", "-n", "30000"]), expected + "last\n");
    assert_eq!(s.ok(&["logs", "big", "-n", "2", "--grep", "99$"]), "line 199899\nline 199999\n");
    assert_eq!(s.ok(&["logs", "big", "--grep", "line 1999.9$"]).lines().count(), 10);
    assert_eq!(s.ok(&["logs", "big", "--grep", "line 1999..$"]).lines().count(), 100);
    assert!(s.ok(&["logs", "big"]).starts_with(&text));
}

#[test]
fn from_when_to_when() {
    let s = Sandbox::new();
    let log = web(&s);
    let from = |since: i64, until: i64| {
        s.ok(&["logs", "web", "--since", &at(since), "--until", &at(until)])
    };
    assert_eq!(from(1, 3), "two\nthree\nfour\n");
    assert_eq!(from(5, 6), format!("{BEGAN_B}five\n"));
    assert_eq!(from(7, 7), "six\nseven\n");
    assert_eq!(from(8, 9), "");
    assert_eq!(
        s.ok(&["logs", "web", "--since", &at(4)]),
        format!("{ENDED_A}{BEGAN_B}five\nsix\nseven\n")
    );
    assert_eq!(s.ok(&["logs", "web", "--until", &at(0)]), BEGAN_A);
    // Local time is that of TZ.
    let mut east = s.command(&["logs", "web", "--since", "2026-11-29 13:53:07"]);
    assert_eq!(s.run(east.env("TZ", "XYZ-2")).expect(0).out, "six\nseven\n");
    let mut east = s.command(&["logs", "web", "--run", "a1", "-n1"]);
    s.run(east.env("TZ", "XYZ-2")).expect(0).says_out("ended 2026-11-29 13:53:04");
    assert_eq!(s.ok(&["logs", "web", "--since", "0s"]), "");
    // A rotated file that is older is not even opened.
    let old = log.directory.join(names::rotated((T + 2) * 1_000_000));
    fs::remove_file(&old).unwrap();
    fs::create_dir(&old).unwrap();
    assert_eq!(from(3, 4), "four\n");
}

#[test]
fn the_lines_of_a_run() {
    let s = Sandbox::new();
    web(&s);
    let run = |run: &str| s.ok(&["logs", "web", "--run", run]);
    let last = format!("{BEGAN_B}five\nsix\nseven\n");
    let first = format!("{BEGAN_A}one\ntwo\nthree\nfour\n{ENDED_A}");
    for id in ["last", "-1", "b2", "B2", "00000000000000b2", "00000000000000b"] {
        assert_eq!(run(id), last, "{id}");
    }
    for id in ["-2", "00000000000000a1"] {
        assert_eq!(run(id), first, "{id}");
    }
    assert_eq!(s.ok(&["logs", "--run=-2", "-n1"]), format!("four\n{ENDED_A}"));
    assert_eq!(s.ok(&["logs", "--run", "-2", "--grep", "o$"]), "two\n");
    let done = s.reraise(&["logs", "web", "--run", "-3"]).expect(0);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", "web: has no run -3\n"));
    let done = s.reraise(&["logs", "web", "--run", "c3"]).expect(4);
    let advice = "their ids stand where runs begin: reraise logs NAME";
    assert_eq!(done.err, format!("reraise: --run c3: no such run in these logs\n    {advice}\n"));
}

#[test]
fn how_runs_end() {
    let s = Sandbox::new();
    let mut log = Log::new(&s, "web");
    log.begin(0.0, 1);
    // Its last words are no line, and those of the next are not part of them.
    log.say(0.0, "panic: ");
    log.end(61.0, Exit::Signal { number: 11, core: true });
    log.begin(62.0, 2);
    log.say(62.0, "hello\n");
    log.mark(63.0, Mark::Lost(12));
    append(&log.current(), b"reraise: 12 lines (99 bytes) were dropped here\n");
    log.end(64.0, Exit::Unknown);
    let shown = s.ok(&["logs", "web"]);
    let expected = "--- web: run 0000000000000001 began 2026-11-29 11:53:00\n\
        panic: \n\
        --- web: run 0000000000000001 ended 2026-11-29 11:54:01: signal SEGV \
        (core dumped) after 61 s\n\
        --- web: run 0000000000000002 began 2026-11-29 11:54:02\n\
        hello\n\
        reraise: 12 lines (99 bytes) were dropped here\n\
        --- web: run 0000000000000002 ended 2026-11-29 11:54:04: unknown exit code after 2 s\n";
    assert_eq!(shown, expected);
    assert_eq!(s.ok(&["logs", "web", "--grep", "^hello"]), "hello\n");
    assert_eq!(s.ok(&["logs", "web", "--grep", "panic: $"]), "panic: \n");
    assert_eq!(s.ok(&["logs", "web", "-n1"]).lines().count(), 2);
}

#[test]
fn several_services_by_time() {
    let s = Sandbox::new();
    let (a, b) = (Log::new(&s, "a"), Log::new(&s, "bee"));
    for n in 0..200 {
        a.say(f64::from(n), format!("a{n}\n"));
        b.say(f64::from(n) + f64::from(n % 2) / 2.0, format!("b{n}\n"));
    }
    let lines: String = (0..200).map(|n| format!("a   | a{n}\nbee | b{n}\n")).collect();
    assert_eq!(s.ok(&["logs"]), lines);
    assert_eq!(
        s.ok(&["logs", "bee", "a", "--grep", "99"]),
        "a   | a99\nbee | b99\na   | a199\nbee | b199\n"
    );
}

#[test]
fn searching_with_many_threads_keeps_the_order() {
    let s = Sandbox::new();
    let mut logs = [Log::new(&s, "a"), Log::new(&s, "b")];
    let mut expected = String::new();
    for n in 0..40 {
        for (log, name) in logs.iter_mut().zip(["a", "b"]) {
            let filler = "x".repeat(2000);
            let block: String = (0..60).map(|k| format!("{n} {k} {filler}\n")).collect();
            log.say(f64::from(n), format!("{block}{n} match {filler}\n"));
            expected += &format!("{name} | {n} match {filler}\n");
            if n % 10 == 9 {
                log.rotate(f64::from(n) + 0.5);
            }
        }
    }
    assert_eq!(s.ok(&["logs", "--grep", "match"]), expected);
    assert_eq!(s.ok(&["logs", "--grep", "MATCH", "-i"]), expected);
    assert_eq!(s.ok(&["logs", "--grep", "MATCH"]), "");
}

#[test]
fn bytes_are_as_they_were() {
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    let mut text = b"\xff\xfe\x00\x1b[2J caf\xc3\xa9\r\n".to_vec();
    text.extend(std::iter::repeat_n(b'y', 1 << 20));
    text.extend(b"\n\n\x07end\n");
    log.say(0.0, &text);
    let out = |words: &[&str]| {
        let done = s.command(words).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        done.stdout
    };
    assert!(out(&["logs", "web"]) == text);
    assert!(out(&["logs", "web", "--grep", ""]) == text);
    assert_eq!(out(&["logs", "web", "-n2"]), b"\n\x07end\n");
    assert_eq!(out(&["logs", "web", "--grep", r"(?-u)^\xff"]), &text[..15]);
    assert_eq!(out(&["logs", "web", "--grep", "yyyy"]).len(), (1 << 20) + 1);
    // The last line has no end yet.
    log.say(0.0, "more");
    assert_eq!(out(&["logs", "web", "-n1"]), b"more\n");
}

#[test]
fn a_long_line_in_pieces_of_runs() {
    let s = Sandbox::new();
    let mut log = Log::new(&s, "web");
    let mut expected = String::new();
    // Lines and runs end at every place of the blocks that are read.
    for n in 0..400_u32 {
        let text = format!("{n} {}", "z".repeat((n * 37 % 5000) as usize));
        log.run = u64::from(n / 3 + 1);
        if n % 3 == 0 {
            log.begin(f64::from(n), log.run);
        }
        let end = if n % 3 == 2 { "" } else { "\n" };
        log.say(f64::from(n), format!("{text}{end}"));
        expected += &format!("{text}\n");
    }
    assert!(s.ok(&["logs", "web", "--grep", "^[0-9]+ "]) == expected);
    let shown = s.ok(&["logs", "web"]);
    let lines: String =
        shown.lines().filter(|l| !l.starts_with("---")).map(|l| format!("{l}\n")).collect();
    assert!(lines == expected);
    assert_eq!(s.ok(&["logs", "web", "--run", "-1", "--grep", "^\\d+"]).lines().count(), 1);
}

#[test]
fn json() {
    let s = Sandbox::new();
    let mut log = Log::new(&s, "web");
    log.begin(0.0, 0xa1);
    log.say(0.5, b"say \"hi\"\nbad \xff\n");
    log.mark(1.0, Mark::Lost(3));
    log.end(2.5, Exit::Code(7));
    log.begin(3.0, 0xb2);
    log.end(4.0, Exit::Signal { number: 9, core: false });
    let expected = r#"{"service":"web","time":"2026-11-29T11:53:00.000000Z","run":"00000000000000a1","event":"begin"}
{"service":"web","time":"2026-11-29T11:53:00.500000Z","run":"00000000000000a1","stream":"both","text":"say \"hi\""}
{"service":"web","time":"2026-11-29T11:53:00.500000Z","run":"00000000000000a1","stream":"both","text":"bad �","raw":"62616420ff"}
{"service":"web","time":"2026-11-29T11:53:01.000000Z","run":"00000000000000a1","event":"lost","lines":3}
{"service":"web","time":"2026-11-29T11:53:02.500000Z","run":"00000000000000a1","event":"end","exit_code":7,"after_sec":2.5}
{"service":"web","time":"2026-11-29T11:53:03.000000Z","run":"00000000000000b2","event":"begin"}
{"service":"web","time":"2026-11-29T11:53:04.000000Z","run":"00000000000000b2","event":"end","exit_code":null,"signal":9,"core":false,"after_sec":1}
"#;
    assert_eq!(s.ok(&["logs", "web", "--json"]), expected);
    for line in expected.lines() {
        serde_json(line);
    }
    let found = s.ok(&["logs", "web", "--json", "--grep", "hi"]);
    assert_eq!(found, expected.lines().nth(1).unwrap().to_owned() + "\n");
}

/// Fails unless Python, where it is there, takes it for JSON.
fn serde_json(line: &str) {
    let parsed = Command::new("python3")
        .args(["-c", "import json, sys; json.loads(sys.argv[1])", line])
        .status();
    assert!(parsed.map_or(true, |status| status.success()), "{line}");
}

#[test]
fn standard_error_apart() {
    let s = Sandbox::new();
    let mut out = Log::new(&s, "web");
    let mut err = Log::at(out.directory.join("stderr"));
    for log in [&mut out, &mut err] {
        log.begin(0.0, 1);
    }
    out.say(1.0, "out 1\n");
    err.say(2.0, "err 2\n");
    out.say(3.0, "out 3\n");
    err.end(4.0, Exit::Code(0));
    out.end(4.0, Exit::Code(0));
    let lines = s.ok(&["logs", "web"]);
    assert_eq!(lines.lines().collect::<Vec<_>>()[1..4], ["out 1", "err 2", "out 3"]);
    assert_eq!(lines.matches("---").count(), 2, "{lines}");
    let lines = s.ok(&["logs", "web", "--stderr"]);
    assert_eq!(lines.lines().collect::<Vec<_>>()[1..2], ["err 2"]);
    assert_eq!(lines.matches("---").count(), 2, "{lines}");
    let lines = s.ok(&["logs", "web", "--json", "--grep", "err|out 3"]);
    assert!(lines.contains(r#""stream":"stderr","text":"err 2""#), "{lines}");
    assert!(lines.contains(r#""stream":"stdout","text":"out 3""#), "{lines}");
    Log::new(&s, "db").say(0.0, "x\n");
    let done = s.reraise(&["logs", "db", "--stderr"]).expect(0);
    let note = "db: keeps standard error with the rest (config_log_stderr=merge)\n";
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", note));
}

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
fn compressed_files_are_named() {
    let s = Sandbox::new();
    let log = web(&s);
    for after in [2, 6] {
        let path = log.directory.join(names::rotated((T + after) * 1_000_000));
        fs::rename(&path, path.with_extension("000000Z.gz")).unwrap();
    }
    let done = s.reraise(&["logs", "web"]).expect(0).prints("six\nseven\n");
    assert_eq!(done.err, "web: 2 older files are compressed, and not searched\n");
    let done = s.reraise(&["logs", "web", "--since", &at(3)]).expect(0).prints("six\nseven\n");
    assert_eq!(done.err, "web: 1 older file is compressed, and not searched\n");
    s.ok(&["logs", "web", "--since", &at(7)]);
    s.ok(&["logs", "web", "-n1"]);
}

#[test]
fn where_the_log_is() {
    let s = Sandbox::new();
    let elsewhere = s.at("elsewhere");
    s.script("web", &format!("config_log={}\nexec true", elsewhere.display()));
    let note = |name: &str, what: &str| {
        let done = s.reraise(&["logs", name]).expect(0);
        assert_eq!((done.out.as_str(), done.err), ("", format!("{name}: {what}\n")));
    };
    note("web", "has said nothing yet");
    Log::at(elsewhere).say(0.0, "here\n");
    assert_eq!(s.ok(&["logs", "web"]), "here\n");
    s.script("off", "config_log=no\nexec true");
    note("off", "keeps no log (config_log=no)");
    // Nothing was said, but there is a file.
    append(&Log::new(&s, "mute").current(), b"");
    note("mute", "has said nothing yet");
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
    let mut command = s.program(public);
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
    assert!(
        done.err.contains("\n    read it as its owner: sudo -u root reraise logs web\n"),
        "{done:?}"
    );
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

/// `reraise logs` that follows.
struct Follower {
    child: Child,
    out: BufReader<ChildStdout>,
    words: Vec<String>,
}

impl Follower {
    fn new(s: &Sandbox, words: &[&str]) -> Self {
        let all = [&["logs", "-f"], words].concat();
        let mut command = s.command(&all);
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, words: all.into_iter().map(str::to_owned).collect() }
    }

    /// The next line, which must come.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        let limit = crate::support::LIMIT;
        if self.out.buffer().is_empty() {
            assert!(
                !is_quiet(self.out.get_ref().as_fd(), limit),
                "waited in vain: {:?}",
                self.words
            );
        }
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn says(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line(), *line);
        }
    }

    /// Ends it as Ctrl-C does; what it said on standard error.
    #[track_caller]
    fn interrupt(self) -> String {
        signal(self.child.id().cast_signed(), Signal::SIGINT);
        let done = finish(self.child, &Command::new("reraise logs -f"));
        assert_eq!(done.code, 128 + 2, "{done:?}");
        done.err
    }
}

#[test]
fn following_across_rotation_and_restart() {
    let s = Sandbox::new();
    let mut log = web(&s);
    let mut follower = Follower::new(&s, &["web", "-n1"]);
    follower.says(&["seven"]);
    log.say(8.0, "eight\n");
    follower.says(&["eight"]);
    // A line comes when it is whole.
    log.say(8.0, "ni");
    log.say(8.0, "ne\nten\nelev");
    follower.says(&["nine", "ten"]);
    log.say(8.0, "en\n");
    follower.says(&["eleven"]);
    // Several at once, and one of them empty.
    log.say(9.0, "before\n");
    log.rotate(9.0);
    log.say(10.0, "between\n");
    log.rotate(10.0);
    log.mark(11.0, Mark::Output);
    log.rotate(11.0);
    log.say(12.0, "after\n");
    follower.says(&["before", "between", "after"]);
    log.say(13.0, "no line");
    log.end(13.0, Exit::Code(3));
    follower.says(&[
        "no line",
        "--- web: run 00000000000000b2 ended 2026-11-29 11:53:13: exit code 3 after 8 s",
    ]);
    log.begin(14.0, 0xc3);
    follower.says(&["--- web: run 00000000000000c3 began 2026-11-29 11:53:14"]);
    log.say(14.0, "again\n");
    log.end(15.5, Exit::Code(0));
    follower.says(&[
        "again",
        "--- web: run 00000000000000c3 ended 2026-11-29 11:53:15: exit code 0 after 1.5 s",
    ]);
    // Rotated, and compressed, before anybody looks: what was not seen then is not to be seen.
    log.say(16.0, "seen\n");
    follower.says(&["seen"]);
    let path = log.rotate(17.0);
    fs::rename(&path, path.with_extension("000000Z.gz")).unwrap();
    log.say(18.0, "new\n");
    follower.says(&["new"]);
    // Somebody empties it.
    File::create(log.current()).unwrap();
    log.say(19.0, "x\n");
    follower.says(&["x"]);
    assert_eq!(follower.interrupt(), "");
}

#[test]
fn following_what_is_not_there_yet() {
    let s = Sandbox::new();
    s.script("web", "exec true");
    s.script("db", "exec true");
    let mut follower = Follower::new(&s, &["--grep", "o"]);
    let expected = b"db: has said nothing yet\nweb: has said nothing yet\n";
    let mut note = vec![0; expected.len()];
    follower.child.stderr.as_mut().unwrap().read_exact(&mut note).unwrap();
    assert_eq!(note, expected);
    Log::new(&s, "web").say(0.0, "one\nlast\n");
    follower.says(&["web | one"]);
    let db = Log::new(&s, "db");
    append(&db.current(), b"without an index: no time\n");
    follower.says(&["db  | without an index: no time"]);
    Log::at(s.l.join("db/stderr")).say(0.0, "and\nof standard error\n");
    follower.says(&["db  | of standard error"]);
    assert_eq!(follower.interrupt(), "");
}

#[test]
fn following_many() {
    let s = Sandbox::new();
    let (web, db) = (Log::new(&s, "web"), Log::new(&s, "db"));
    web.say(0.0, "w0\n");
    db.say(1.0, "d1\n");
    let mut follower = Follower::new(&s, &[]);
    follower.says(&["web | w0", "db  | d1"]);
    for n in 2..50 {
        web.say(f64::from(n), format!("w{n}\n"));
        follower.says(&[&format!("web | w{n}")]);
        db.say(f64::from(n), format!("d{n}\n"));
        follower.says(&[&format!("db  | d{n}")]);
    }
    // The log is moved away as a whole, and made anew.
    fs::rename(&web.directory, s.at("away")).unwrap();
    Log::new(&s, "web").say(60.0, "new\n");
    follower.says(&["web | new"]);
    follower.interrupt();
}

#[test]
fn following_ends_with_its_reader() {
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    log.say(0.0, "one\n");
    let mut follower = Follower::new(&s, &["web"]);
    follower.says(&["one"]);
    drop(follower.out);
    // Although nothing is written any more.
    let done = finish(follower.child, &Command::new("reraise logs -f"));
    assert_eq!(done, Done { code: 0, out: String::new(), err: String::new() });
}

/// Runs `reraise` on a terminal; what it shows there, and its exit code.
#[track_caller]
fn on_terminal(s: &Sandbox, words: &[&str], set: &[(&str, &str)]) -> (String, i32) {
    let pty = nix::pty::openpty(None, None).unwrap();
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let mut command = s.command(words);
    command.env("TERM", "xterm").envs(set.iter().copied());
    command.stdout(Stdio::from(pty.slave.try_clone().unwrap()));
    let child = spawn(command.stderr(Stdio::piped()));
    drop(command);
    drop(pty.slave);
    let mut shown = Vec::new();
    let mut master = File::from(pty.master);
    let mut buffer = [0; 4096];
    // EIO: nobody has it open any more.
    while let Ok(got @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..got]);
    }
    let done = finish(child, &s.command(words));
    let shown = String::from_utf8_lossy(&shown).replace("\r\n", "\n");
    (shown + &done.err, done.code)
}

#[test]
fn on_a_terminal() {
    let s = Sandbox::new();
    let mut log = Log::new(&s, "web");
    log.begin(0.0, 1);
    log.say(0.0, "\x1b[31mred\x07 \x1b[2J\tx\r\n");
    let began = "--- web: run 0000000000000001 began 2026-11-29 11:53:00";
    let line = "\x1b[31mred\\x07 \\x1b[2J\tx\x1b[0m";
    let none = [("PAGER", "cat")];
    let (shown, code) = on_terminal(&s, &["logs", "web"], &none);
    assert_eq!((shown, code), (format!("\x1b[2m{began}\x1b[0m\n{line}\n"), 0));
    Log::new(&s, "db").say(1.0, "d\n");
    let (shown, _) = on_terminal(&s, &["logs", "--grep", "red|d"], &none);
    assert_eq!(shown, format!("\x1b[33mweb |\x1b[0m {line}\n\x1b[36mdb  |\x1b[0m d\n"));
    let plain = [("PAGER", ""), ("NO_COLOR", "1")];
    let (shown, _) = on_terminal(&s, &["logs", "web", "-n1"], &plain);
    assert!(shown.ends_with(&format!("{line}\n")), "{shown:?}");
    let (shown, _) = on_terminal(&s, &["logs", "db"], &plain);
    assert_eq!(shown, "d\n");
}

#[test]
fn the_pager() {
    let s = Sandbox::new();
    Log::new(&s, "web").say(0.0, "line\n");
    let pager = s.at("my pager");
    write_program(&pager, "#!/bin/sh\necho \"LESS=$LESS\"\nsed 's/^/> /'\n");
    let pager = format!("'{}'", pager.display());
    let show = |words: &[&str], set: &[(&str, &str)]| on_terminal(&s, words, set).0;
    let web = ["logs", "web"];
    assert_eq!(show(&web, &[("PAGER", &pager)]), "LESS=FRX\n> line\n");
    assert_eq!(show(&web, &[("PAGER", &pager), ("LESS", "S")]), "LESS=S\n> line\n");
    assert_eq!(show(&web, &[("PAGER", "false"), ("RERAISE_PAGER", &pager)]), "LESS=FRX\n> line\n");
    assert_eq!(show(&web, &[("PAGER", &pager), ("RERAISE_PAGER", "cat")]), "line\n");
    assert_eq!(show(&["logs", "web", "--no-pager"], &[("PAGER", &pager)]), "line\n");
    // One that ends early, and one that is not there.
    assert_eq!(on_terminal(&s, &web, &[("PAGER", "true")]), (String::new(), 0));
    let (shown, code) = on_terminal(&s, &web, &[("PAGER", "/nonexistent/pager")]);
    assert_eq!(code, 2);
    let fault = "reraise: /nonexistent/pager: cannot be run as a pager\n    \
        set RERAISE_PAGER or PAGER, or say --no-pager\n";
    assert!(shown.ends_with(fault), "{shown}");
    // In a pipe there is none.
    let mut command = s.command(&web);
    s.run(command.env("PAGER", &pager)).expect(0).prints("line\n");
}
