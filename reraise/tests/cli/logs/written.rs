//! Logs as the logger writes them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use reraise::backend::Exit;
use reraise::logger::index::{Entry, Mark, path_of};
use reraise::logger::names;

use crate::support::Sandbox;

/// 2026-11-29 11:53:00 UTC, in seconds.
pub(super) const T: i64 = 1_795_953_180;

/// Writes a log.
pub(super) struct Log {
    pub(super) directory: PathBuf,
    pub(super) run: u64,
    rotated: Option<String>,
}

impl Log {
    pub(super) fn new(s: &Sandbox, name: &str) -> Self {
        if !s.d.join(name).exists() {
            s.script(name, "exec sleep 1");
        }
        Self::at(s.l.join(name))
    }

    pub(super) fn at(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        Self { directory, run: 0, rotated: None }
    }

    pub(super) fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    /// Says something of what follows, at a time in seconds after [`T`].
    pub(super) fn mark(&self, after: f64, mark: Mark) {
        let offset = fs::metadata(self.current()).map_or(0, |about| about.len());
        let time = T * 1_000_000 + (after * 1e6) as i64;
        let entry = Entry { offset, time, run: self.run, mark };
        append(&path_of(&self.current()), &entry.encode());
    }

    pub(super) fn begin(&mut self, after: f64, run: u64) {
        self.run = run;
        self.mark(after, Mark::Begin);
    }

    pub(super) fn say(&self, after: f64, text: impl AsRef<[u8]>) {
        self.mark(after, Mark::Output);
        append(&self.current(), text.as_ref());
    }

    pub(super) fn end(&self, after: f64, exit: Exit) {
        self.mark(after, Mark::End(exit));
    }

    pub(super) fn rotate(&mut self, after: f64) -> PathBuf {
        let name = names::next(T * 1_000_000 + (after * 1e6) as i64, self.rotated.as_deref());
        let path = self.directory.join(&name);
        fs::rename(self.current(), &path).unwrap();
        fs::rename(path_of(&self.current()), path_of(&path)).unwrap();
        self.rotated = Some(name);
        append(&self.current(), b"");
        path
    }
}

pub(super) fn append(path: &Path, text: &[u8]) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text).unwrap();
}

/// `@EPOCH` so many seconds after [`T`].
pub(super) fn at(after: i64) -> String {
    format!("@{}", T + after)
}

/// Two runs of `web`, over three files.
pub(super) fn web(s: &Sandbox) -> Log {
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

pub(super) const BEGAN_A: &str = "--- web: run 00000000000000a1 began 2026-11-29 11:53:00\n";
pub(super) const ENDED_A: &str =
    "--- web: run 00000000000000a1 ended 2026-11-29 11:53:04: exit code 1 after 4.5 s\n";
pub(super) const BEGAN_B: &str = "--- web: run 00000000000000b2 began 2026-11-29 11:53:05\n";
