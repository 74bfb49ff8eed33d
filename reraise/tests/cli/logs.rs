//! `reraise logs`, on logs that are written here as the logger writes them.

mod follow;
mod odd;
mod terminal;
mod written;

use std::fs;
use std::process::Command;

use reraise::backend::Exit;
use reraise::logger::index::Mark;
use reraise::logger::names;

use crate::support::{Sandbox, wait_for};
use written::{BEGAN_A, BEGAN_B, ENDED_A, Log, T, append, at, web};

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
fn an_hour_that_comes_twice() {
    let s = Sandbox::new();
    let log = Log::new(&s, "web");
    // 2025-10-26 00:30 UTC; an hour later it is 02:30 once more.
    let first = -34_514_580.0;
    for (after, text) in
        [(-60.0, "02:29\n"), (0.0, "02:30\n"), (3600.0, "02:30 again\n"), (3660.0, "02:31 again\n")]
    {
        log.say(first + after, text);
    }
    let shown = |option: &str, time: &str| {
        let mut command = s.command(&["logs", "web", option, time]);
        s.run(command.env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")).expect(0).out
    };
    assert_eq!(shown("--since", "2025-10-26 02:30"), "02:30\n02:30 again\n02:31 again\n");
    assert_eq!(shown("--until", "2025-10-26 02:30"), "02:29\n02:30\n02:30 again\n");
    assert_eq!(shown("--since", "2025-10-26 02:30+01:00"), "02:30 again\n02:31 again\n");
    assert_eq!(shown("--until", "2025-10-26 01:59"), "");
    // One that does not come at all is near to others.
    assert_eq!(shown("--since", "2025-03-30 02:30").lines().count(), 4);
    assert_eq!(shown("--until", "2025-03-30 02:30"), "");
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
    // A run that said nothing else.
    err.begin(5.0, 2);
    err.say(5.0, "err 5\n");
    assert!(s.ok(&["logs", "web", "--run", "last"]).ends_with("\nerr 5\n"));
    assert_eq!(s.ok(&["logs", "web", "--run", "-2"]).lines().count(), 5);
    Log::new(&s, "db").say(0.0, "x\n");
    let done = s.reraise(&["logs", "db", "--stderr"]).expect(0);
    let note = "db: keeps standard error with the rest (config_log_stderr=merge)\n";
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", note));
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
fn the_log_is_where_its_start_has_put_it() {
    let s = Sandbox::new();
    let theirs = s.at("theirs");
    let body = "config_start_sec=0\necho hello\nexec sleep 1000000";
    let script = s.script("web", body);
    s.run(s.command(&["start", "web"]).env("RERAISE_LOGDIR", &theirs)).expect(0);
    let current = theirs.join("web/current");
    wait_for("its words", || fs::read_to_string(&current).is_ok_and(|text| text == "hello\n"));
    let said = || s.ok(&["logs", "web", "--grep", ""]);
    assert_eq!(said(), "hello\n");
    // It says nothing more, so that nobody has made the other place yet.
    let new = s.at("new");
    s.script("web", &format!("config_log={}\n{body}", new.display()));
    assert_eq!(said(), "hello\n");
    Log::at(new).say(0.0, "new\n");
    assert_eq!(said(), "new\n");
    fs::remove_file(script).unwrap();
    assert_eq!(said(), "hello\n");
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
    assert_eq!(s.ok(&["logs"]), "web | here\n");
    // Nothing was said, but there is a file.
    append(&Log::new(&s, "mute").current(), b"");
    note("mute", "has said nothing yet");
}
