//! What happened to the services of a user: `.reraise-UID/events`, a line for each
//! change of state,
//!
//! ```text
//! EPOCH_MICROS NAME RUN PID EVENT key=value…
//! ```
//!
//! with `-` for a run or process that there is not. Whoever writes appends one or a
//! few lines by a single write, and keeps no descriptor. A file that has become too
//! long is renamed to `events.1`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::{Exit, Signal};
use crate::lock::LockFile;

/// The file's name.
pub const FILE: &str = "events";
/// That of the one before.
pub const FORMER: &str = "events.1";
/// Bytes after which another file begins.
pub const LIMIT: u64 = 1 << 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its program runs.
    Starting,
    /// It has lasted `start_sec`.
    Running,
    /// The main process ended: `exit`, `core`, `memory`, `lasted` (seconds), `cause`.
    Ended,
    /// It is raised again after `delay` seconds.
    Waiting,
    /// It is being ended: `asked`, and who.
    Stopping,
    /// It is being ended to be raised anew: likewise.
    Restarting,
    /// It was ended as asked.
    Stopped,
    /// It was given up: `exit`.
    Failed,
    /// It came to its end: `exit`.
    Done,
    /// Its program could not be executed: `step`, `errno`.
    CannotStart,
    /// Another worker has taken over: `worker`.
    Adopted,
    /// Processes outlived all signals: `pids`.
    Survivors,
}

impl Kind {
    const WORDS: [(Self, &'static str); 12] = [
        (Self::Starting, "starting"),
        (Self::Running, "running"),
        (Self::Ended, "ended"),
        (Self::Waiting, "waiting"),
        (Self::Stopping, "stopping"),
        (Self::Restarting, "restarting"),
        (Self::Stopped, "stopped"),
        (Self::Failed, "failed"),
        (Self::Done, "done"),
        (Self::CannotStart, "cannot-start"),
        (Self::Adopted, "adopted"),
        (Self::Survivors, "survivors"),
    ];

    /// Its word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// An exit as a word: a code, a signal's name, `?`.
#[must_use]
pub fn exit_word(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => code.to_string(),
        Exit::Signal { number, .. } => match Signal::try_from(number) {
            Ok(signal) => signal.as_str()[3..].to_owned(),
            Err(_) => format!("signal-{number}"),
        },
        Exit::Unknown => "?".to_owned(),
    }
}

/// Appends a line to what is to be written; `more` are its fields, `key=value`.
pub fn compose(text: &mut String, name: &str, run: u64, pid: i32, kind: Kind, more: &str) {
    use std::fmt::Write as _;
    let _ = write!(text, "{} {name} ", now());
    // To a string: that cannot fail.
    let _ = if run == 0 { write!(text, "- ") } else { write!(text, "{run:016x} ") };
    let _ = if pid <= 0 { write!(text, "- ") } else { write!(text, "{pid} ") };
    text.push_str(kind.word());
    if !more.is_empty() {
        text.push(' ');
        text.push_str(more);
    }
    text.push('\n');
}

/// Appends lines to the file in this directory.
///
/// # Errors
/// As `open(2)` and `write(2)`.
#[inline(never)]
pub fn append(state: &Path, text: &str) -> io::Result<()> {
    append_up_to(state, text, LIMIT)
}

fn append_up_to(state: &Path, text: &str, limit: u64) -> io::Result<()> {
    let path = state.join(FILE);
    let mut file = open(&path)?;
    if file.metadata()?.len() >= limit && make_room(&file, &path)? {
        file = open(&path)?;
    }
    file.write_all(text.as_bytes())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Renames it, unless another one is at it: that one's lock says so, or that the file
/// is not the one with this name any more. `false`: it is to be written all the same.
fn make_room(file: &File, path: &Path) -> io::Result<bool> {
    let lock = LockFile::from_descriptor(file.try_clone()?.into());
    if !lock.try_take(0)? {
        return Ok(false);
    }
    if lock.is(path)? {
        fs::rename(path, path.with_file_name(FORMER))?;
    }
    Ok(true)
}

/// One line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since 1970.
    pub time: i64,
    /// The service.
    pub name: String,
    /// The run, if there is one.
    pub run: Option<u64>,
    /// The main process, if there is one.
    pub pid: Option<i32>,
    /// What happened; a later version may know further words.
    pub kind: String,
    /// The rest.
    pub fields: Vec<(String, String)>,
}

impl Event {
    /// From a line without its end; `None` for nonsense.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        // None of ours has any, and a terminal would obey.
        if line.contains(char::is_control) {
            return None;
        }
        let mut words = line.split(' ');
        let time = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        let run = match words.next()? {
            "-" => None,
            run => Some(u64::from_str_radix(run, 16).ok()?),
        };
        let pid = match words.next()? {
            "-" => None,
            pid => Some(pid.parse().ok()?),
        };
        let kind = words.next().filter(|kind| !kind.is_empty())?.to_owned();
        let pair = |word: &str| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Some(Self { time, name, run, pid, kind, fields: words.filter_map(pair).collect() })
    }

    /// One of the fields.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// Reads events as they come: what is there, and later what has been added.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    rest: Vec<u8>,
}

impl Reader {
    /// From the first of what is kept in this directory.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        let path = state.join(FILE);
        let file = read_only(&path.with_file_name(FORMER));
        Self { file, path, offset: 0, rest: Vec::new() }
    }

    /// Hands out the whole lines that have come since the last look.
    pub fn read(&mut self, mut each: impl FnMut(&str)) {
        loop {
            self.read_on(&mut each);
            let Some(next) = self.successor() else { return };
            // What was added just before it was renamed.
            self.read_on(&mut each);
            (self.file, self.offset) = (Some(next), 0);
            self.rest.clear();
        }
    }

    /// The file that is written now, if ours is not.
    fn successor(&self) -> Option<File> {
        let next = read_only(&self.path)?;
        let identity = |file: &File| file.metadata().ok().map(|m| (m.dev(), m.ino()));
        let is_same = self.file.as_ref().is_some_and(|file| identity(file) == identity(&next));
        (!is_same).then_some(next)
    }

    fn read_on(&mut self, each: &mut impl FnMut(&str)) {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else { return };
        let mut chunk = vec![0; 64 << 10];
        loop {
            let got = match file.read_at(&mut chunk, self.offset) {
                Ok(0) | Err(_) => break,
                Ok(got) => got,
            };
            self.offset += got as u64;
            self.rest.extend_from_slice(&chunk[..got]);
            let end = self.rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            for line in self.rest[..end].split(|&b| b == b'\n') {
                if let Ok(line) = str::from_utf8(line) {
                    each(line);
                }
            }
            self.rest.drain(..end);
        }
    }
}

fn read_only(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut Reader) -> Vec<String> {
        let mut lines = Vec::new();
        reader.read(|line| lines.extend((!line.is_empty()).then(|| line.to_owned())));
        lines
    }

    #[test]
    fn lines_come_back() {
        let mut text = String::new();
        compose(&mut text, "web", 0xab, 7, Kind::Ended, "exit=1 lasted=2.001");
        compose(&mut text, "web", 0, 0, Kind::Stopped, "");
        let events: Vec<Event> = text.lines().map(|line| Event::parse(line).unwrap()).collect();
        assert_eq!((events[0].run, events[0].pid), (Some(0xab), Some(7)));
        assert_eq!((events[0].kind.as_str(), events[0].field("exit")), ("ended", Some("1")));
        assert_eq!((events[1].run, events[1].pid, events[1].fields.len()), (None, None, 0));
        for nonsense in [
            "",
            "x",
            "1 web",
            "1 web - -",
            "1 web - - ",
            "1 web z - ended",
            "a b c d e",
            "1 w\u{1b} - - ended",
        ] {
            assert_eq!(Event::parse(nonsense), None, "{nonsense:?}");
        }
        for (kind, word) in Kind::WORDS {
            assert_eq!(kind.word(), word);
        }
        let name = "n".repeat(crate::name::NAME_MAX);
        let mut text = String::new();
        compose(&mut text, &name, u64::MAX, i32::MAX, Kind::Restarting, &"x".repeat(180));
        // What all systems write whole, see PIPE_BUF.
        assert!(text.len() <= 512, "{}", text.len());
    }

    #[test]
    fn a_long_file_makes_room_and_a_reader_follows() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path());
        assert_eq!(all(&mut reader), [""; 0]);
        let mut read = Vec::new();
        for n in 0..100 {
            append_up_to(dir.path(), &format!("{n}\n"), 50).unwrap();
            if n % 7 == 0 {
                read.extend(all(&mut reader));
            }
        }
        read.extend(all(&mut reader));
        assert!(read.iter().map(|line| line.parse::<u32>().unwrap()).eq(0..100), "{read:?}");
        let length = |name| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(length(FILE) < 60 && length(FORMER) < 60);
        // One that comes late reads what is left.
        let late = all(&mut Reader::new(dir.path()));
        assert!(late.len() > 15 && late.last().unwrap() == "99", "{late:?}");
    }

    #[test]
    fn a_cut_line_is_not_read_before_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path());
        append(dir.path(), "one\ntw").unwrap();
        assert_eq!(all(&mut reader), ["one"]);
        append(dir.path(), "o\n").unwrap();
        assert_eq!(all(&mut reader), ["two"]);
    }

    #[test]
    fn exits_as_words() {
        for (exit, word) in [
            (Exit::Code(3), "3"),
            (Exit::Signal { number: 11, core: true }, "SEGV"),
            (Exit::Signal { number: 64, core: false }, "signal-64"),
            (Exit::Unknown, "?"),
        ] {
            assert_eq!(exit_word(exit), word);
        }
    }
}
