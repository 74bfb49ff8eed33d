//! The run slot: what a worker must know to take over a run that another worker
//! launched. It is written in place, because a rename over an existing file is
//! flushed by some file systems and this stands between a death and the next
//! exec; so it carries a checksum, and a reader that meets it half written reads
//! again. Only the holder of the service's lock writes it.
//!
//! The wait status of an adopted run lies in a file of its own, since another
//! process writes it: the keeper, before it reaps.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::backend::{Exit, ProcessId, Usage};

/// What a worker was doing when it last wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Phase {
    /// No run, and none due.
    #[default]
    Idle = 0,
    /// A process waits at the gate, or has just passed it.
    Launching = 1,
    /// The program runs.
    Up = 2,
    /// Nothing runs; it is raised again at [`Slot::until`].
    Delay = 3,
    /// It is being ended for good.
    Stopping = 4,
    /// It is being ended to be raised again.
    Restarting = 5,
    /// It ended; what it left is being ended.
    Clearing = 6,
    /// It ended by itself, and is not raised any more.
    Over = 7,
    /// It was stopped. What is wanted says whether it is to come back.
    Stopped = 8,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot {
    /// What the worker was doing.
    pub phase: Phase,
    /// Whether a run of this service ever lasted `start_sec`.
    pub started: bool,
    /// Failed starts in a row.
    pub failures: u32,
    /// Successful runs in a row that were over in a moment.
    pub hasty: u8,
    /// The main process of the run.
    pub pid: i32,
    /// Its identity.
    pub born: u64,
    /// The run's number, see [`crate::backend::RUN_VARIABLE`].
    pub run: u64,
    /// This boot; pids of another mean nothing.
    pub boot: u64,
    /// This pid namespace; likewise.
    pub space: u64,
    /// When the program began, nanoseconds of the monotonic clock.
    pub since: u64,
    /// The end of a delay, or of the present step of a stop; nanoseconds of the
    /// monotonic clock.
    pub until: u64,
    /// How many steps of the stop are behind it.
    pub rung: u8,
    /// How often the service was raised since it was started.
    pub raised: u32,
    /// The run is there only to be ended before the first one of a new start.
    pub is_remnant: bool,
    /// Where its output goes, see [`Use`](crate::logger::pipes::Use).
    pub pipes: u8,
    /// How often its worker was stopped and continued since then.
    pub continued: u32,
    /// How the last run ended, where one has.
    pub last: Option<Exit>,
    /// That was the end of its work, and no failure.
    pub is_done: bool,
}

/// Length on disk.
const SIZE: usize = 96;
/// The first bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"reraise\x01";

impl Phase {
    /// All of them, each at the place of its number.
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::Launching,
        Self::Up,
        Self::Delay,
        Self::Stopping,
        Self::Restarting,
        Self::Clearing,
        Self::Over,
        Self::Stopped,
    ];

    /// Whether there is, or may be, a run, or one is due.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Launching
            | Self::Up
            | Self::Delay
            | Self::Stopping
            | Self::Restarting
            | Self::Clearing => true,
            Self::Idle | Self::Over | Self::Stopped => false,
        }
    }

    /// Whether there is, or may be, a run.
    #[must_use]
    pub fn has_run(self) -> bool {
        self.is_open() && self != Self::Delay
    }
}

impl Slot {
    /// The process of the run.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        ProcessId { pid: self.pid, born: self.born }
    }

    fn encode(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = self.phase as u8;
        out[9] = u8::from(self.started);
        out[10] = self.hasty;
        out[11] = self.rung;
        out[12..16].copy_from_slice(&self.failures.to_le_bytes());
        out[16..20].copy_from_slice(&self.pid.to_le_bytes());
        out[20..24].copy_from_slice(&self.raised.to_le_bytes());
        let numbers = [self.born, self.run, self.boot, self.space, self.since, self.until];
        for (i, number) in numbers.iter().enumerate() {
            out[24 + 8 * i..32 + 8 * i].copy_from_slice(&number.to_le_bytes());
        }
        out[72] = self.pipes;
        out[73] = u8::from(self.is_remnant);
        (out[74], out[75]) = encode_exit(self.last);
        out[75] |= u8::from(self.is_done) << 7;
        out[76..80].copy_from_slice(&self.continued.to_le_bytes());
        let sum = checksum(&out[..SIZE - 8]);
        out[SIZE - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; SIZE]) -> Option<Found> {
        let number =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
        if bytes[..7] == MAGIC[..7] && bytes[7] > MAGIC[7] {
            return Some(Found::Later(bytes[7]));
        }
        if bytes[..8] != MAGIC || number(SIZE - 8) != checksum(&bytes[..SIZE - 8]) {
            return None;
        }
        let half = |at: usize| (number(at) & 0xffff_ffff) as u32;
        // A version with further ones has another number in front.
        let phase = Phase::ALL.get(usize::from(bytes[8])).copied().unwrap_or_default();
        Some(Found::Slot(Self {
            phase,
            started: bytes[9] != 0,
            failures: half(12),
            hasty: bytes[10],
            rung: bytes[11],
            pid: half(16).cast_signed(),
            raised: half(20),
            continued: half(76),
            born: number(24),
            run: number(32),
            boot: number(40),
            space: number(48),
            since: number(56),
            until: number(64),
            pipes: bytes[72],
            is_remnant: bytes[73] != 0,
            last: decode_exit(bytes[74], bytes[75] & 0x7f),
            is_done: bytes[75] & 0x80 != 0,
        }))
    }
}

/// An exit as two bytes: its number, and of which kind it is.
fn encode_exit(exit: Option<Exit>) -> (u8, u8) {
    match exit {
        None => (0, 0),
        Some(Exit::Code(code)) => (code as u8, 1),
        Some(Exit::Signal { number, core: false }) => (number as u8, 2),
        Some(Exit::Signal { number, core: true }) => (number as u8, 3),
        Some(Exit::Unknown) => (0, 4),
    }
}

fn decode_exit(number: u8, kind: u8) -> Option<Exit> {
    let number = i32::from(number);
    match kind {
        1 => Some(Exit::Code(number)),
        2 | 3 => Some(Exit::Signal { number, core: kind == 3 }),
        4 => Some(Exit::Unknown),
        _ => None,
    }
}

/// What the file of a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing sensible, or it is not there.
    Nothing,
    /// A slot.
    Slot(Slot),
    /// Something of a later version of Reraise, in this format.
    Later(u8),
}

/// FNV-1a, 64 bits: tells a torn write, which is all that is asked of it.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The slot's file, held open by the worker so that a write needs no lookup.
#[derive(Debug)]
pub struct SlotFile(File);

impl SlotFile {
    /// Opens or makes it.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(path).map(Self)
    }

    /// Opens one for somebody who does not write it.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map(Self)
    }

    /// Writes it in place.
    ///
    /// # Errors
    /// As `write(2)`; a full disk only when the file is new.
    pub fn write(&self, slot: &Slot) -> io::Result<()> {
        self.0.write_all_at(&slot.encode(), 0)
    }

    /// What is in it.
    #[must_use]
    pub fn look(&self) -> Found {
        let mut bytes = [0; SIZE];
        // A writer needs far less time for 96 bytes than we for another look.
        let found = (0..8).find_map(|_| {
            self.0.read_exact_at(&mut bytes, 0).ok()?;
            Slot::decode(&bytes)
        });
        found.unwrap_or(Found::Nothing)
    }

    /// What is in it; `None` when that is nothing that we can read.
    #[must_use]
    pub fn read(&self) -> Option<Slot> {
        match self.look() {
            Found::Slot(slot) => Some(slot),
            Found::Nothing | Found::Later(_) => None,
        }
    }
}

/// Reads a slot for someone who does not write it.
#[must_use]
pub fn read(path: &Path) -> Option<Slot> {
    SlotFile::open_to_read(path).ok()?.read()
}

/// Leaves the wait status of run `run` for its worker.
///
/// # Errors
/// As `open(2)` and `write(2)`.
pub fn leave_status(path: &Path, run: u64, status: i32) -> io::Result<()> {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&run.to_le_bytes());
    bytes[8..12].copy_from_slice(&status.to_le_bytes());
    let sum = checksum(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)?.write_all_at(&bytes, 0)
}

/// The wait status that was left for run `run`.
#[must_use]
pub fn left_status(path: &Path, run: u64) -> Option<i32> {
    let bytes = fs::read(path).ok()?;
    let bytes: &[u8; 24] = bytes.first_chunk()?;
    let word =
        |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
    let is_whole = word(16) == checksum(&bytes[..16]) && word(0) == run;
    is_whole.then(|| i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]))
}

/// Leaves beside the status what run `run` has used.
///
/// # Errors
/// As `open(2)` and `write(2)`.
pub fn leave_usage(path: &Path, run: u64, usage: Usage) -> io::Result<()> {
    let words = [run, usage.cpu, usage.peak];
    let mut bytes = [0; 32];
    for (at, word) in words.iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let sum = checksum(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum.to_le_bytes());
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all_at(&bytes, 24)
}

/// What run `run` has used, if that was left.
#[must_use]
pub fn left_usage(path: &Path, run: u64) -> Option<Usage> {
    let bytes = fs::read(path).ok()?;
    let bytes: &[u8; 32] = bytes.get(24..)?.first_chunk()?;
    let word =
        |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
    let is_whole = word(24) == checksum(&bytes[..24]) && word(0) == run;
    is_whole.then(|| Usage { cpu: word(8), peak: word(16) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Slot {
        Slot {
            phase: Phase::Restarting,
            started: true,
            failures: 3,
            hasty: 8,
            rung: 9,
            pid: -7,
            born: u64::MAX,
            run: 1,
            boot: 2,
            space: 3,
            since: 4,
            until: 5,
            raised: 6,
            pipes: 5,
            is_remnant: true,
            continued: 7,
            last: Some(Exit::Signal { number: 11, core: true }),
            is_done: true,
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        let dir = tempfile::tempdir().unwrap();
        let file = SlotFile::open(&dir.path().join("run")).unwrap();
        assert_eq!(file.read(), None);
        file.write(&sample()).unwrap();
        assert_eq!(file.read(), Some(sample()));
        assert_eq!(read(&dir.path().join("run")), Some(sample()));
    }

    #[test]
    fn every_phase_comes_back() {
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
            let slot = Slot { phase, ..sample() };
            assert_eq!(Slot::decode(&slot.encode()), Some(Found::Slot(slot)));
        }
    }

    #[test]
    fn every_exit_comes_back() {
        let codes = [0, 1, 255].map(Exit::Code);
        let signals = [(9, false), (64, false), (11, true)];
        let signals = signals.map(|(number, core)| Exit::Signal { number, core });
        let known = codes.into_iter().chain(signals).chain([Exit::Unknown]).map(Some);
        for (last, is_done) in known.chain([None]).flat_map(|l| [(l, false), (l, true)]) {
            let slot = Slot { last, is_done, ..sample() };
            assert_eq!(Slot::decode(&slot.encode()), Some(Found::Slot(slot)));
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let whole = sample().encode();
        for bit in 0..SIZE * 8 {
            let mut torn = whole;
            torn[bit / 8] ^= 1 << (bit % 8);
            // A bit of the version makes it one that is refused.
            let seen = Slot::decode(&torn);
            assert!(matches!(seen, None | Some(Found::Later(_))), "bit {bit}");
            assert_eq!(seen.is_some(), (57..64).contains(&bit), "bit {bit}");
        }
    }

    #[test]
    fn any_mixture_of_two_writes_is_seen() {
        let (old, new) = (Slot::default().encode(), sample().encode());
        for cut in 1..SIZE {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            assert!(torn == old || torn == new || Slot::decode(&torn).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut bytes = sample().encode().to_vec();
        bytes[7] = 2;
        // It may be longer, but no shorter.
        for more in [0, 100] {
            bytes.resize(SIZE + more, 7);
            fs::write(&path, &bytes).unwrap();
            let file = SlotFile::open(&path).unwrap();
            assert_eq!((file.look(), file.read()), (Found::Later(2), None));
        }
        fs::write(&path, b"").unwrap();
        assert_eq!(SlotFile::open(&path).unwrap().look(), Found::Nothing);
    }

    #[test]
    fn a_status_is_for_one_run_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit");
        assert_eq!(left_status(&path, 9), None);
        leave_status(&path, 9, 256).unwrap();
        assert_eq!(left_status(&path, 9), Some(256));
        assert_eq!(left_status(&path, 8), None);
        assert_eq!(left_usage(&path, 9), None);
        let usage = Usage { cpu: 5, peak: u64::MAX };
        leave_usage(&path, 9, usage).unwrap();
        assert_eq!((left_status(&path, 9), left_usage(&path, 9)), (Some(256), Some(usage)));
        assert_eq!(left_usage(&path, 8), None);
        fs::write(&path, b"torn").unwrap();
        assert_eq!(left_status(&path, 9), None);
    }
}
