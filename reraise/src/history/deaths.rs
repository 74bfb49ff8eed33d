//! How the last runs of a service have ended: a ring of slots of fixed length, each
//! with a checksum, written in place. Only the holder of the service's lock writes
//! it, between a death and the next exec: one open, one read, one write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::backend::{Exit, LaunchError, Step, Usage};
use crate::logger::index::{exit_of, status_of};
use crate::slot::checksum;

/// Ends that are remembered.
pub const KEPT: usize = 20;
/// Bytes of a slot: none lies on two pages.
const SLOT: usize = 128;
/// Bytes of the file.
const SIZE: usize = KEPT * SLOT;
/// Of a number that nobody knows.
const UNKNOWN: u64 = u64::MAX;

/// What ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing of ours.
    Itself,
    /// Somebody asked for it to be stopped.
    Stop,
    /// Somebody asked for it to be raised anew.
    Restart,
    /// Its program was not executed at all.
    Launch(LaunchError),
}

/// The end of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Larger than that of every earlier one; given by [`record`].
    pub number: u64,
    /// The run, see [`Slot::run`](crate::slot::Slot::run).
    pub run: u64,
    /// Its main process.
    pub pid: i32,
    /// When it began, microseconds since 1970.
    pub began: i64,
    /// When it ended, likewise.
    pub ended: i64,
    /// How long it lasted, nanoseconds of the monotonic clock.
    pub lasted: u64,
    /// How it ended.
    pub exit: Exit,
    /// What ended it.
    pub cause: Cause,
    /// What its main process has used, and what that has waited for.
    pub usage: Option<Usage>,
    /// The kernel says that it killed something of its control group for memory.
    pub is_for_memory: bool,
    /// Nobody was there when it ended; the times are those when it was found.
    pub is_late: bool,
}

/// Puts it in the place of the oldest. `false`: this run's end is there already;
/// what was not known then is added.
///
/// # Errors
/// As `open(2)` and `write(2)`.
#[inline(never)]
pub fn record(path: &Path, death: &Death) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    let bytes = read(&file)?;
    let mut place = 0;
    let (mut oldest, mut last) = (u64::MAX, 0);
    for at in 0..KEPT {
        let found = Death::decode(slot_at(&bytes, at));
        if let Some(found) = found.filter(|found| found.run == death.run) {
            let better = found.with(death);
            if better != found {
                file.write_all_at(&better.encode(), (at * SLOT) as u64)?;
            }
            return Ok(false);
        }
        let number = found.map_or(0, |found| found.number);
        if number < oldest {
            (place, oldest) = (at, number);
        }
        last = last.max(number);
    }
    let next = Death { number: last + 1, ..*death };
    file.write_all_at(&next.encode(), (place * SLOT) as u64)?;
    Ok(true)
}

/// All that are remembered, the oldest first; none where there is no such file.
#[must_use]
pub fn read_all(path: &Path) -> Vec<Death> {
    let mut all: Vec<Death> = match open(path).and_then(|file| read(&file)) {
        Ok(bytes) => (0..KEPT).filter_map(|at| Death::decode(slot_at(&bytes, at))).collect(),
        Err(_) => Vec::new(),
    };
    all.sort_by_key(|death| death.number);
    all
}

/// The end of this run, if it is remembered.
#[must_use]
#[inline(never)]
pub fn find(path: &Path, run: u64) -> Option<Death> {
    let bytes = read(&open(path).ok()?).ok()?;
    (0..KEPT).find_map(|at| Death::decode(slot_at(&bytes, at)).filter(|death| death.run == run))
}

fn open(path: &Path) -> io::Result<File> {
    // Whose service it is may have put a FIFO there, to hold root up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The whole file, with zeros for what it does not have yet.
fn read(file: &File) -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    let mut length = 0;
    while length < SIZE {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

fn slot_at(bytes: &[u8; SIZE], at: usize) -> &[u8; SLOT] {
    &bytes.as_chunks().0[at]
}

impl Death {
    /// With what a second look at the same end knows better.
    fn with(self, other: &Self) -> Self {
        Self {
            exit: if self.exit == Exit::Unknown { other.exit } else { self.exit },
            usage: self.usage.or(other.usage),
            is_for_memory: self.is_for_memory || other.is_for_memory,
            ..self
        }
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut out = [0; SLOT];
        let (cause, step, errno) = match self.cause {
            Cause::Itself => (0, 0, 0),
            Cause::Stop => (1, 0, 0),
            Cause::Restart => (2, 0, 0),
            Cause::Launch(error) => (3, error.step as u8, error.errno),
        };
        let usage = self.usage.unwrap_or(Usage { cpu: UNKNOWN, peak: UNKNOWN });
        let (began, ended) = (self.began.cast_unsigned(), self.ended.cast_unsigned());
        let words = [self.number, self.run, began, ended, self.lasted, usage.cpu, usage.peak];
        for (at, word) in words.iter().enumerate() {
            out[8 + 8 * at..16 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        out[64..68].copy_from_slice(&status_of(self.exit).to_le_bytes());
        out[68..72].copy_from_slice(&self.pid.to_le_bytes());
        out[72..76].copy_from_slice(&errno.to_le_bytes());
        out[76] = cause;
        out[77] = step;
        out[78] = u8::from(self.is_for_memory);
        out[79] = u8::from(self.is_late);
        let sum = checksum(&out[8..]);
        out[..8].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; SLOT]) -> Option<Self> {
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
        let half = |at: usize| ((word(at) & 0xffff_ffff) as u32).cast_signed();
        if word(16) == 0 || word(0) != checksum(&bytes[8..]) {
            return None;
        }
        let (cpu, peak) = (word(48), word(56));
        let cause = match bytes[76] {
            1 => Cause::Stop,
            2 => Cause::Restart,
            3 => {
                Cause::Launch(LaunchError { step: Step::from_number(bytes[77])?, errno: half(72) })
            }
            _ => Cause::Itself,
        };
        Some(Self {
            number: word(8),
            run: word(16),
            pid: half(68),
            began: word(24).cast_signed(),
            ended: word(32).cast_signed(),
            lasted: word(40),
            exit: exit_of(half(64)),
            cause,
            usage: (cpu != UNKNOWN).then_some(Usage { cpu, peak }),
            is_for_memory: bytes[78] != 0,
            is_late: bytes[79] != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(run: u64) -> Death {
        Death {
            number: 0,
            run,
            pid: 100,
            began: 1_700_000_000_000_000,
            ended: 1_700_000_002_000_000,
            lasted: 2_000_000_000,
            exit: Exit::Code(1),
            cause: Cause::Itself,
            usage: Some(Usage { cpu: 7, peak: 4096 }),
            is_for_memory: false,
            is_late: false,
        }
    }

    #[test]
    fn all_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deaths");
        assert_eq!((read_all(&path), find(&path, 1)), (vec![], None));
        let launch = |step, errno| Cause::Launch(LaunchError { step, errno });
        let causes = [
            Cause::Itself,
            Cause::Stop,
            Cause::Restart,
            launch(Step::Exec, libc::ENOENT),
            launch(Step::Fork, libc::EAGAIN),
        ];
        let exits = [
            Exit::Code(255),
            Exit::Signal { number: 11, core: true },
            Exit::Unknown,
            Exit::Code(0),
        ];
        let mut run = 0;
        for cause in causes {
            for exit in exits {
                run += 1;
                let usage = (run % 2 == 0).then_some(Usage { cpu: u64::MAX - 1, peak: 0 });
                let (is_for_memory, is_late) = (run % 3 == 0, run % 5 == 0);
                let one = Death { exit, cause, usage, is_for_memory, is_late, ..death(run) };
                assert!(record(&path, &one).unwrap());
                assert_eq!(find(&path, run), Some(Death { number: run, ..one }));
            }
        }
        assert_eq!(read_all(&path).len(), KEPT);
    }

    #[test]
    fn the_oldest_makes_room_and_the_order_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deaths");
        for run in 1..=53 {
            assert!(record(&path, &death(run)).unwrap());
            let runs: Vec<u64> = read_all(&path).iter().map(|d| d.run).collect();
            assert!(runs.iter().copied().eq((run.saturating_sub(19)).max(1)..=run), "{runs:?}");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE as u64);
    }

    #[test]
    fn a_run_ends_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deaths");
        let first = Death { exit: Exit::Unknown, usage: None, ..death(5) };
        assert!(record(&path, &first).unwrap());
        assert!(record(&path, &death(6)).unwrap());
        // Judged once more by a successor, who knows how.
        assert!(!record(&path, &Death { is_late: true, ended: 9, ..death(5) }).unwrap());
        assert!(!record(&path, &Death { exit: Exit::Unknown, ..death(6) }).unwrap());
        let all = read_all(&path);
        assert_eq!(all, [Death { number: 1, ..death(5) }, Death { number: 2, ..death(6) }]);
    }

    #[test]
    fn a_torn_slot_is_none_and_the_first_to_be_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deaths");
        for run in 1..=KEPT as u64 {
            record(&path, &death(run)).unwrap();
        }
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 40], 7 * SLOT as u64 + 30).unwrap();
        assert_eq!((find(&path, 8), read_all(&path).len()), (None, KEPT - 1));
        assert!(record(&path, &death(99)).unwrap());
        let runs: Vec<u64> = read_all(&path).iter().map(|d| d.run).collect();
        assert!(runs.contains(&1) && runs.last() == Some(&99) && runs.len() == KEPT, "{runs:?}");
        // Cut in the middle of a slot.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(150).unwrap();
        assert_eq!(read_all(&path).len(), 1);
        assert!(record(&path, &death(100)).unwrap());
        assert_eq!(read_all(&path).len(), 2);
    }

    #[test]
    fn nonsense_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deaths");
        for bytes in [vec![], vec![0; SIZE], vec![0xff; SIZE], vec![1; 3 * SIZE]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!((read_all(&path), find(&path, 0)), (vec![], None));
        }
        assert!(record(&path, &death(1)).unwrap());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(record(&link, &death(2)).is_err());
    }
}
