//! `reraise logs --follow`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;

use reraise::backend::Exit;
use reraise::logger::index::Mark;

use super::written::{Log, append, web};
use crate::support::{Done, LIMIT, Sandbox, finish, is_quiet, signal, spawn};

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
        if self.out.buffer().is_empty() {
            assert!(
                !is_quiet(self.out.get_ref().as_fd(), LIMIT),
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
fn following_a_log_that_is_removed_and_made_anew() {
    let s = Sandbox::new();
    let web = Log::new(&s, "web");
    web.say(0.0, "one\n");
    let mut follower = Follower::new(&s, &["web"]);
    follower.says(&["one"]);
    // It is held open here, as by its follower, and says nothing of its end.
    for removed in [&web.directory, &s.l] {
        web.say(1.0, "held\n");
        follower.says(&["held"]);
        fs::remove_dir_all(removed).unwrap();
        Log::new(&s, "web").say(2.0, "new\n");
        follower.says(&["new"]);
    }
    assert_eq!(follower.interrupt(), "");
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
