//! The last lines of each of the last runs, kept when the log itself may have been
//! rotated away: a ring of slots of fixed length. Only the logger writes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Runs that are remembered.
pub const RUNS: usize = 20;
/// Lines that are kept of each.
pub const LINES: usize = 20;
/// Bytes of a slot.
const SLOT: usize = 4096;
/// Bytes before the text: checksum, run, number, length.
const HEAD: usize = 32;
/// Bytes of text that are kept of a run; of longer last lines only their end.
pub const LENGTH: usize = SLOT - HEAD;

/// The end of what a run has said: its last lines, as they stand in the log, cut at
/// the front to what is kept.
#[must_use]
pub fn end_of(text: &[u8]) -> &[u8] {
    let text = &text[text.len().saturating_sub(LENGTH)..];
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match ends.map(|(at, _)| at).nth(LINES - 1) {
        Some(at) => &text[at + 1..],
        None => text,
    }
}

/// Keeps the last lines of a run, in the place of the oldest or of its own.
///
/// # Errors
/// As `open(2)` and `write(2)`.
pub fn keep(path: &Path, run: u64, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    let slots: Vec<Option<Slot>> = (0..RUNS).map(|at| Slot::read(&file, at)).collect();
    let own = slots.iter().position(|slot| slot.as_ref().is_some_and(|s| s.run == run));
    let number = |slot: &Option<Slot>| slot.as_ref().map_or(0, |s| s.number);
    let oldest = (0..RUNS).min_by_key(|&at| number(&slots[at])).unwrap_or(0);
    let last = slots.iter().map(number).max().unwrap_or(0);
    let text = end_of(text).to_vec();
    Slot { run, number: last + 1, text }.write(&file, own.unwrap_or(oldest))
}

/// The last lines of a run, if they were kept.
#[must_use]
pub fn find(path: &Path, run: u64) -> Option<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    (0..RUNS).filter_map(|at| Slot::read(&file, at)).find(|s| s.run == run).map(|s| s.text)
}

struct Slot {
    run: u64,
    /// Larger than that of every earlier one.
    number: u64,
    text: Vec<u8>,
}

impl Slot {
    fn read(file: &File, at: usize) -> Option<Self> {
        let mut bytes = [0; SLOT];
        file.read_exact_at(&mut bytes, (at * SLOT) as u64).ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let length = usize::try_from(word(24)).ok().filter(|&length| length <= LENGTH)?;
        (word(0) == crate::slot::checksum(&bytes[8..])).then(|| Self {
            run: word(8),
            number: word(16),
            text: bytes[HEAD..HEAD + length].to_vec(),
        })
    }

    fn write(&self, file: &File, at: usize) -> io::Result<()> {
        let mut bytes = [0; SLOT];
        bytes[8..16].copy_from_slice(&self.run.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&(self.text.len() as u64).to_le_bytes());
        bytes[HEAD..HEAD + self.text.len()].copy_from_slice(&self.text);
        let sum = crate::slot::checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&bytes, (at * SLOT) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let lines: String = (0..30).map(|n| format!("line {n}\n")).collect();
        let kept = end_of(lines.as_bytes());
        assert!(kept.starts_with(b"line 10\n") && kept.ends_with(b"line 29\n"));
        assert_eq!(end_of(b"one\ntwo"), b"one\ntwo");
        assert_eq!(end_of(b""), b"");
        let long = [b'x'; 2 * LENGTH];
        assert_eq!(end_of(&long).len(), LENGTH);
    }

    #[test]
    fn the_oldest_run_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tails");
        assert_eq!(find(&path, 1), None);
        for run in 1..=25 {
            keep(&path, run, format!("run {run}\n").as_bytes()).unwrap();
        }
        assert_eq!(find(&path, 5), None);
        assert_eq!(find(&path, 6).as_deref(), Some(&b"run 6\n"[..]));
        keep(&path, 25, b"more\n").unwrap();
        assert_eq!(find(&path, 25).as_deref(), Some(&b"more\n"[..]));
        assert_eq!(find(&path, 6).as_deref(), Some(&b"run 6\n"[..]));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (RUNS * SLOT) as u64);
    }
}
