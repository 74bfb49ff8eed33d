//! The index of a log file: when what was written, and in which run. A log holds
//! just what the service said, so this stands in a file beside it:
//! `.current.idx` for `current`.
//!
//! It is a row of entries, each of which is true from its offset on. Only the
//! logger appends; a torn last entry is passed over, and written over by the next.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backend::Exit;

/// Length of an entry on disk.
pub const SIZE: usize = 32;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// From here on it was read at that time or later.
    Output,
    /// The run begins here.
    Begin,
    /// The run ends here.
    End(Exit),
    /// So many lines are missing here, since the log could not be written.
    Lost(u32),
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the log file before it.
    pub offset: u64,
    /// Microseconds since 1970.
    pub time: i64,
    /// The run; 0 when it is not known.
    pub run: u64,
    /// What it says.
    pub mark: Mark,
}

/// Of an exit that nobody knows; no wait status is negative.
const UNKNOWN: i32 = -1;

/// An exit as a wait status (wait(2)), for a file; -1 when it is unknown.
#[must_use]
pub fn status_of(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code << 8,
        Exit::Signal { number, core } => number | if core { 0x80 } else { 0 },
        Exit::Unknown => UNKNOWN,
    }
}

/// The exit that [`status_of`] has written.
#[must_use]
pub fn exit_of(status: i32) -> Exit {
    match status {
        UNKNOWN => Exit::Unknown,
        status if status & 0x7f == 0 => Exit::Code(status >> 8 & 0xff),
        status => Exit::Signal { number: status & 0x7f, core: status & 0x80 != 0 },
    }
}

impl Entry {
    /// As it lies on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        let (kind, value) = match self.mark {
            Mark::Output => (1, 0),
            Mark::Begin => (2, 0),
            Mark::End(exit) => (3, status_of(exit).cast_unsigned()),
            Mark::Lost(lines) => (4, lines),
        };
        let mut out = [0; SIZE];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.time.to_le_bytes());
        out[16..24].copy_from_slice(&self.run.to_le_bytes());
        out[24] = kind;
        out[28..].copy_from_slice(&value.to_le_bytes());
        out
    }

    /// From what lies on disk; `None` for nonsense, and for what only a later
    /// version writes.
    #[must_use]
    pub fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let value = (word(24) >> 32) as u32;
        let mark = match bytes[24] {
            1 => Mark::Output,
            2 => Mark::Begin,
            3 => Mark::End(exit_of(value.cast_signed())),
            4 => Mark::Lost(value),
            _ => return None,
        };
        Some(Self { offset: word(0), time: word(8).cast_signed(), run: word(16), mark })
    }
}

/// The index of a log file: `.NAME.idx` beside it.
#[must_use]
pub fn path_of(log: &Path) -> PathBuf {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    log.with_file_name(format!(".{name}.idx"))
}

/// All entries of the index of a log file, in their order; none if there is none.
///
/// # Errors
/// As `open(2)` and `read(2)`, but not that it is not there.
pub fn read(log: &Path) -> io::Result<Vec<Entry>> {
    let mut options = OpenOptions::new();
    // Others may have put a FIFO there.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut bytes = Vec::new();
    match options.open(path_of(log)).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let (whole, _) = bytes.as_chunks::<SIZE>();
    Ok(whole.iter().filter_map(Entry::decode).collect())
}

/// The last entries of the index of a log file, as many as are needed until the first of
/// them is as wanted, and where in the index that stands. An index can be long.
///
/// # Errors
/// As [`read`].
pub fn read_back(log: &Path, is_enough: impl Fn(&Entry) -> bool) -> io::Result<(u64, Vec<Entry>)> {
    const WINDOW: u64 = 128 * SIZE as u64;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = match options.open(path_of(log)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        other => other?,
    };
    let end = file.metadata()?.len() / SIZE as u64 * SIZE as u64;
    let mut window = WINDOW;
    loop {
        let start = end.saturating_sub(window);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut bytes, start)?;
        let (whole, _) = bytes.as_chunks::<SIZE>();
        let entries: Vec<Entry> = whole.iter().filter_map(Entry::decode).collect();
        if start == 0 || entries.first().is_some_and(&is_enough) {
            return Ok((start, entries));
        }
        window *= 4;
    }
}

/// The last entry of an index that is open, and how long its whole entries are.
///
/// # Errors
/// As `read(2)`.
pub fn last(file: &File) -> io::Result<(u64, Option<Entry>)> {
    let end = file.metadata()?.len() / SIZE as u64 * SIZE as u64;
    let mut bytes = [0; SIZE];
    if end == 0 {
        return Ok((0, None));
    }
    file.read_exact_at(&mut bytes, end - SIZE as u64)?;
    Ok((end, Entry::decode(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let exits = [
            Exit::Code(0),
            Exit::Code(255),
            Exit::Signal { number: 9, core: false },
            Exit::Signal { number: 11, core: true },
            Exit::Signal { number: 64, core: false },
            Exit::Unknown,
        ];
        for exit in exits {
            assert_eq!(exit_of(status_of(exit)), exit);
            if exit != Exit::Unknown {
                assert_eq!(Exit::from_status(status_of(exit)), exit);
            }
        }
        let marks = exits.map(Mark::End);
        for mark in marks.into_iter().chain([Mark::Output, Mark::Begin, Mark::Lost(u32::MAX)]) {
            let entry = Entry { offset: u64::MAX, time: -1, run: 7, mark };
            assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
        assert_eq!(Entry::decode(&[0; SIZE]), None);
    }

    #[test]
    fn no_more_is_read_than_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("current");
        assert_eq!(read_back(&log, |_| true).unwrap(), (0, Vec::new()));
        let entry = |at: u64| Entry { offset: 10 * at, time: 0, run: at / 900, mark: Mark::Output };
        let all: Vec<Entry> = (0..1000).map(entry).collect();
        let bytes: Vec<u8> = all.iter().flat_map(Entry::encode).collect();
        std::fs::write(path_of(&log), bytes).unwrap();
        for (run, least) in [(1, 100), (0, 1000), (7, 1)] {
            let (start, found) = read_back(&log, |first| first.run != run).unwrap();
            let before = usize::try_from(start).unwrap() / SIZE;
            assert_eq!(found, all[before..]);
            assert!((least..=(5 * least).max(128)).contains(&found.len()), "{run} {}", found.len());
        }
    }

    #[test]
    fn a_torn_end_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("current");
        assert_eq!(read(&log).unwrap(), []);
        let entry = Entry { offset: 3, time: 4, run: 5, mark: Mark::Begin };
        let mut bytes = entry.encode().to_vec();
        bytes.extend([1; 7]);
        std::fs::write(path_of(&log), &bytes).unwrap();
        assert_eq!(path_of(&log), dir.path().join(".current.idx"));
        assert_eq!(read(&log).unwrap(), [entry]);
        let file = File::open(path_of(&log)).unwrap();
        assert_eq!(last(&file).unwrap(), (SIZE as u64, Some(entry)));
    }
}
