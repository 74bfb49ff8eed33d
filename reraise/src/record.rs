//! The record, `$RERAISE_PIDDIR/NAME`: one line for people and scripts.
//!
//! `STATE EXITCODE PID PPID EPOCH`, `-` for none, as the shell version writes
//! it, then `key=value` fields. A reader sees the old record or the new one: it
//! is renamed into place. Anybody may have written what is read here, so a
//! record is taken apart with care and believed only where its owner, boot and
//! process identities agree.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use crate::backend::ProcessId;

/// The first field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Runs, not yet for `start_sec`.
    Start,
    /// Runs.
    Run,
    /// Fell, and is raised again; or came to its end.
    Stop,
    /// Fell, and was given up.
    Error,
}

impl Phase {
    const WORDS: [(Self, &'static str); 4] =
        [(Self::Start, "START"), (Self::Run, "RUN"), (Self::Stop, "STOP"), (Self::Error, "ERROR")];

    fn word(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Run => "RUN",
            Self::Stop => "STOP",
            Self::Error => "ERROR",
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The state.
    pub phase: Phase,
    /// The exit code of the last run, where there was one and it is known.
    pub exit: Option<i32>,
    /// The service's process.
    pub pid: Option<i32>,
    /// The worker.
    pub worker: Option<i32>,
    /// Seconds since 1970 when the state began.
    pub epoch: i64,
    /// What the shell version does not write.
    pub more: Option<More>,
}

/// The fields after the fifth. Where they are missing, the shell version wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct More {
    /// Identity of `pid`.
    pub born: u64,
    /// Identity of `worker`.
    pub worker_born: u64,
    /// The boot in which both numbers mean something.
    pub boot: u64,
    /// The pid namespace likewise.
    pub space: u64,
    /// When the state began, seconds of the monotonic clock: right also when
    /// somebody sets the other clock.
    pub mono: u64,
    /// How often the service was raised.
    pub raised: u32,
    /// How often its worker was stopped, by a signal, and continued.
    pub continued: u32,
    /// It is being stopped or restarted.
    pub is_stopping: bool,
    /// It came to its end (`config_restart`), and is not raised again.
    pub is_done: bool,
}

/// More than any record has.
const MOST: usize = 1024;

impl Record {
    /// The process with its identity, where the record has one.
    #[must_use]
    pub fn process(&self) -> Option<ProcessId> {
        Some(ProcessId { pid: self.pid?, born: self.more?.born })
    }

    /// The worker with its identity, where the record has one.
    #[must_use]
    pub fn worker_process(&self) -> Option<ProcessId> {
        Some(ProcessId { pid: self.worker?, born: self.more?.worker_born })
    }

    /// The line, with its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let field = |n: Option<i32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let mut line = format!(
            "{} {} {} {} {}",
            self.phase.word(),
            field(self.exit),
            field(self.pid),
            field(self.worker),
            self.epoch
        );
        if let Some(m) = self.more {
            line += &format!(
                " v=1 born={:x} wborn={:x} boot={:x} ns={:x} mono={} raised={}",
                m.born, m.worker_born, m.boot, m.space, m.mono, m.raised
            );
            if m.continued > 0 {
                line += &format!(" continued={}", m.continued);
            }
            if m.is_stopping {
                line += " stopping=1";
            }
            if m.is_done {
                line += " done=1";
            }
        }
        line.push('\n');
        line
    }

    /// Reads a line. Fields of later versions are passed over; a version that
    /// says it is incompatible (`v=` above 1) is not read.
    #[must_use]
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let text = str::from_utf8(line).ok()?.strip_suffix('\n')?;
        if text.contains('\n') {
            return None;
        }
        let mut fields = text.split_ascii_whitespace();
        let word = fields.next()?;
        let phase = Phase::WORDS.iter().find(|(_, w)| *w == word)?.0;
        let exit = optional(fields.next()?)?;
        let pid = optional(fields.next()?)?.filter(|&pid| pid > 1);
        let worker = optional(fields.next()?)?.filter(|&pid| pid > 1);
        let epoch = fields.next()?.parse().ok()?;
        let more = more(fields)?;
        Some(Self { phase, exit, pid, worker, epoch, more })
    }

    /// Whether it says that a later version wrote it, which we cannot read.
    #[must_use]
    pub fn is_later(line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        let version = text.split_ascii_whitespace().find_map(|field| field.strip_prefix("v="));
        version.and_then(|number| number.parse().ok()).is_some_and(|number: u32| number > 1)
    }

    /// Reads a record that must belong to one of `owners`. `Ok(None)`: there is
    /// none.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a message.
    pub fn read(path: &Path, owners: &[u32]) -> Result<Option<Self>, String> {
        Self::read_in(AT_FDCWD, path, owners)
    }

    /// The same of a path in a directory that is open: for thousands of them.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_in(
        directory: BorrowedFd<'_>,
        path: &Path,
        owners: &[u32],
    ) -> Result<Option<Self>, String> {
        // A FIFO that somebody planted must not hold us up.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(directory, path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err("its record is a symbolic link".to_owned()),
            Err(e) => {
                return Err(format!("cannot read its record: {}", crate::error::reason(&e.into())));
            }
        };
        let bad = |e: io::Error| format!("cannot read its record: {}", crate::error::reason(&e));
        // std's statx(2) asks for more, and there may be thousands.
        let about = nix::sys::stat::fstat(&file).map_err(|e| bad(e.into()))?;
        if about.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err("its record is no ordinary file".to_owned());
        }
        if !owners.contains(&about.st_uid) {
            return Err(format!("its record belongs to user {}", about.st_uid));
        }
        let mut line = [0; MOST];
        let length = (&file).read(&mut line).map_err(bad)?;
        if let Some(record) = Self::from_line(&line[..length]) {
            return Ok(Some(record));
        }
        if Self::is_later(&line[..length]) {
            return Err("its record was written by a later version of Reraise".to_owned());
        }
        Err("its record makes no sense".to_owned())
    }

    /// Puts the record in place, by way of `scratch` on the same file system.
    ///
    /// # Errors
    /// As `open(2)`, `write(2)` and `rename(2)`; the old record is then still
    /// there, whole.
    pub fn write(&self, path: &Path, scratch: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let mut file = options.custom_flags(libc::O_NOFOLLOW).open(scratch)?;
        // Everybody may read it, whatever our umask.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(self.to_line().as_bytes())?;
        std::fs::rename(scratch, path)
    }
}

/// A number, or `-` for none.
fn optional(field: &str) -> Option<Option<i32>> {
    if field == "-" { Some(None) } else { field.parse().ok().map(Some) }
}

fn more<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Option<More>> {
    let mut found = More::default();
    let mut any = false;
    for (key, value) in fields.filter_map(|f| f.split_once('=')) {
        any = true;
        let hex = || u64::from_str_radix(value, 16).ok();
        match key {
            "v" if value != "1" => return None,
            "born" => found.born = hex()?,
            "wborn" => found.worker_born = hex()?,
            "boot" => found.boot = hex()?,
            "ns" => found.space = hex()?,
            "mono" => found.mono = value.parse().ok()?,
            "raised" => found.raised = value.parse().ok()?,
            "continued" => found.continued = value.parse().ok()?,
            "stopping" => found.is_stopping = value == "1",
            "done" => found.is_done = value == "1",
            _ => {}
        }
    }
    Some(any.then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Record {
        let more = More {
            born: 1 << 63 | 5,
            worker_born: 6,
            boot: 7,
            space: 8,
            mono: 9,
            raised: 10,
            continued: 11,
            is_stopping: true,
            is_done: false,
        };
        Record {
            phase: Phase::Run,
            exit: Some(3),
            pid: Some(100),
            worker: Some(99),
            epoch: 1_700_000_000,
            more: Some(more),
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        let mut record = full();
        assert_eq!(Record::from_line(record.to_line().as_bytes()), Some(record.clone()));
        record.more = None;
        record.exit = None;
        assert_eq!(record.to_line(), "RUN - 100 99 1700000000\n");
        assert_eq!(Record::from_line(record.to_line().as_bytes()), Some(record));
    }

    #[test]
    fn nonsense_is_none() {
        for line in [
            "",
            "\n",
            "RUN",
            "RUN - 100 99 17",
            "RUN - 100 99\n",
            "WALK - 100 99 17\n",
            "RUN x 100 99 17\n",
            "RUN - 99999999999 99 17\n",
            "RUN - 100 99 17 v=2\n",
            "RUN - 100 99 17 born=zz\n",
            "RUN - 100 99 17\nRUN - 100 99 17\n",
            "\u{0}\u{0}\u{0}\n",
        ] {
            assert_eq!(Record::from_line(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(Record::from_line(b"RUN - \xff 99 17\n"), None);
    }

    #[test]
    fn pids_that_no_service_has_are_none() {
        for pid in ["0", "1", "-1", "-"] {
            let line = format!("RUN - {pid} {pid} 17\n");
            let record = Record::from_line(line.as_bytes()).unwrap();
            assert_eq!((record.pid, record.worker), (None, None), "{pid}");
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let line = b"RUN - 100 99 17 v=1 born=a wborn=b boot=c ns=d mono=1 raised=0 colour=red\n";
        assert_eq!(Record::from_line(line).unwrap().more.unwrap().born, 10);
    }

    #[test]
    fn every_cut_of_a_record_is_refused_or_shorter() {
        let line = full().to_line();
        for cut in 0..line.len() {
            assert_eq!(Record::from_line(&line.as_bytes()[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_planted_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::getuid().as_raw();
        let path = dir.path().join("web");
        assert_eq!(Record::read(&path, &[me]), Ok(None));
        full().write(&path, &dir.path().join("new")).unwrap();
        assert_eq!(Record::read(&path, &[me]), Ok(Some(full())));
        assert!(Record::read(&path, &[me + 1]).unwrap_err().contains("belongs to"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Record::read(&link, &[me]).unwrap_err().contains("symbolic link"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(Record::read(&fifo, &[me]).unwrap_err().contains("no ordinary file"));
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert!(Record::read(&path, &[me]).unwrap_err().contains("no sense"));
    }
}
