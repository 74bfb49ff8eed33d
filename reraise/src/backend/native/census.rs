//! A look at all processes and the marks they carry. It takes as long as there are
//! processes, so that thousands of workers who each need one at the same time would
//! take thousands of times as long. They share it: who finds nobody looking looks,
//! and leaves what was found in a file for all who have been waiting.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{processes, run_mark};
use crate::backend::tree::Relation;
use crate::lock::LockFile;

/// A process, and the run whose mark its environment has; 0 is none.
pub(super) type Seen = (Relation, u64);

/// A waiting one asks again after these times, since thousands may wait. Who takes
/// longer than all of them may have been stopped, and is not waited for.
const NAPS: [u64; 10] = [2, 4, 8, 16, 32, 64, 64, 64, 64, 64];

/// All processes, as a look finds them that begins after this is asked. Those who ask
/// with the same directory share looks.
pub(super) fn take(shared: Option<&Path>) -> io::Result<Vec<Seen>> {
    let Some(directory) = shared else { return look() };
    // Without the file everybody has to look for themselves; no worse than that.
    Sheet::open(&directory.join("census")).map_or_else(|_| look(), |sheet| together(&sheet, &look))
}

fn together(sheet: &Sheet, look: &dyn Fn() -> io::Result<Vec<Seen>>) -> io::Result<Vec<Seen>> {
    let needed = now();
    for nap in NAPS {
        if let Some(found) = sheet.read(needed) {
            return Ok(found);
        }
        if sheet.lock.try_take(0).unwrap_or(false) {
            // Somebody may have ended just now.
            let found = match sheet.read(needed) {
                Some(found) => Ok(found),
                None => {
                    let began = now();
                    look().inspect(|found| sheet.write(began, found))
                }
            };
            let _ = sheet.lock.release(0);
            return found;
        }
        std::thread::sleep(Duration::from_millis(nap));
    }
    look()
}

fn look() -> io::Result<Vec<Seen>> {
    let seen = |p: &super::Process| {
        let relation = Relation { pid: p.pid, ppid: p.ppid, pgid: p.pgid, sid: p.sid };
        (relation, run_mark(p.pid).unwrap_or(0))
    };
    Ok(processes()?.iter().map(seen).collect())
}

/// Nanoseconds of the monotonic clock; never 0.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(1, |t| Duration::from(t).as_nanos() as u64)
        .max(1)
}

/// The file. One at a time writes it, who has the lock; it is written in place,
/// since a rename may wait for the disk. When the look began stands in front, and is
/// 0 while it is written: who finds the same there before and after reading has
/// read what belongs to it.
struct Sheet {
    file: File,
    lock: LockFile,
}

const HEAD: u64 = 16;
const ROW: usize = 24;

impl Sheet {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        // A file of its own: closing any descriptor of it would end the lock.
        Ok(Self { file, lock: LockFile::open(&path.with_extension("lock"))? })
    }

    /// Nobody's loss when it fails: then the others look for themselves.
    fn write(&self, began: u64, found: &[Seen]) {
        let rows: Vec<u8> = found
            .iter()
            .flat_map(|(p, run)| {
                let mut row = [0; ROW];
                let numbers = [p.pid, p.ppid, p.pgid, p.sid];
                let places = row.chunks_exact_mut(4).zip(numbers);
                places.for_each(|(place, n)| place.copy_from_slice(&n.to_le_bytes()));
                row[16..].copy_from_slice(&run.to_le_bytes());
                row
            })
            .collect();
        let head = |began: u64| [began.to_le_bytes(), (rows.len() as u64).to_le_bytes()].concat();
        let written = self
            .file
            .write_all_at(&head(0), 0)
            .and_then(|()| self.file.write_all_at(&rows, HEAD))
            .and_then(|()| self.file.write_all_at(&head(began), 0));
        if written.is_err() {
            let _ = self.file.write_all_at(&head(0), 0);
        }
    }

    /// What a look has found that began at `needed` or later. In the future it is of
    /// an earlier boot.
    fn read(&self, needed: u64) -> Option<Vec<Seen>> {
        let (began, length) = self.head()?;
        if !(needed.max(1)..=now()).contains(&began) {
            return None;
        }
        // Shorter than what is promised: it was not all written.
        let mut rows = vec![0; usize::try_from(length).ok()?.min(MOST)];
        self.file.read_exact_at(&mut rows, HEAD).ok()?;
        if self.head()? != (began, length) {
            return None;
        }
        let (rows, rest) = rows.as_chunks::<ROW>();
        rest.is_empty().then(|| rows.iter().map(seen).collect())
    }

    fn head(&self) -> Option<(u64, u64)> {
        let mut head = [0; HEAD as usize];
        self.file.read_exact_at(&mut head, 0).ok()?;
        let (began, length) = head.split_at(8);
        Some((
            u64::from_le_bytes(began.try_into().ok()?),
            u64::from_le_bytes(length.try_into().ok()?),
        ))
    }
}

/// More than all processes that a system can have (PID_MAX_LIMIT of Linux, 4 million).
const MOST: usize = ROW << 22;

fn seen(row: &[u8; ROW]) -> Seen {
    let number = |at: usize| i32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    let run = row[16..].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
    (Relation { pid: number(0), ppid: number(4), pgid: number(8), sid: number(12) }, run)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn sheet(dir: &tempfile::TempDir) -> Sheet {
        Sheet::open(&dir.path().join("census")).unwrap()
    }

    fn one(pid: i32) -> Vec<Seen> {
        vec![(Relation { pid, ppid: -1, pgid: i32::MAX, sid: 4 }, u64::MAX - 1)]
    }

    fn pids(found: &[Seen]) -> Vec<i32> {
        found.iter().map(|(p, _)| p.pid).collect()
    }

    #[test]
    fn what_was_written_is_read_and_only_by_who_needed_no_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        assert!(sheet.read(0).is_none());
        let began = now();
        sheet.write(began, &[one(7), one(8)].concat());
        let found = sheet.read(began).unwrap();
        assert_eq!(pids(&found), [7, 8]);
        let (p, run) = &found[0];
        assert_eq!((p.ppid, p.pgid, p.sid, *run), (-1, i32::MAX, 4, u64::MAX - 1));
        assert!(sheet.read(began + 1).is_none());
        // A shorter one leaves nothing of the longer.
        sheet.write(began, &one(9));
        assert_eq!(pids(&sheet.read(began).unwrap()), [9]);
        // Of an earlier boot, which was up for longer.
        sheet.write(now() + 3_600_000_000_000, &one(10));
        assert!(sheet.read(0).is_none());
    }

    #[test]
    fn what_is_being_written_or_was_cut_short_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        let began = now();
        sheet.write(began, &one(7));
        sheet.file.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
        assert!(sheet.read(0).is_none());
        sheet.write(began, &one(7));
        sheet.file.set_len(HEAD + 3).unwrap();
        assert!(sheet.read(began).is_none());
        sheet.write(began, &one(7));
        sheet.file.write_all_at(&u64::MAX.to_le_bytes(), 8).unwrap();
        assert!(sheet.read(began).is_none());
    }

    #[test]
    fn everybody_gets_a_look_that_began_after_they_asked() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            Ok(one(looks.get()))
        };
        for n in 1..=3 {
            assert_eq!(pids(&together(&sheet, &look).unwrap()), [n]);
        }
        assert!(together(&sheet, &|| Err(io::ErrorKind::Other.into())).is_err());
        // Its failure is nobody else's.
        assert_eq!(pids(&together(&sheet, &look).unwrap()), [4]);
    }

    /// Another process that has the lock, and writes what it finds again and again,
    /// or nothing; until the pipe ends.
    fn looking(path: &Path, writes: bool) -> io::PipeWriter {
        let (ours, theirs) = io::pipe().unwrap();
        let (mut ready, says) = io::pipe().unwrap();
        // SAFETY: nextest gives this test a process of its own, and the child ends
        // without what belongs to the parent.
        if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }.unwrap() {
            drop(theirs);
            let sheet = Sheet::open(path).unwrap();
            assert!(sheet.lock.try_take(0).unwrap());
            (&says).write_all(b"!").unwrap();
            let mut end = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
            while poll(&mut end, PollTimeout::from(1_u8)).unwrap() == 0 {
                if writes {
                    sheet.write(now(), &one(7));
                }
            }
            super::super::exit_now(0);
        }
        drop(says);
        ready.read_exact(&mut [0]).unwrap();
        theirs
    }

    #[test]
    fn who_finds_another_looking_waits_for_what_it_finds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("census");
        let _other = looking(&path, true);
        let found = together(&Sheet::open(&path).unwrap(), &|| panic!("a second look"));
        assert_eq!(pids(&found.unwrap()), [7]);
    }

    #[test]
    fn who_never_finds_anything_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("census");
        let _other = looking(&path, false);
        let found = together(&Sheet::open(&path).unwrap(), &|| Ok(one(9)));
        assert_eq!(pids(&found.unwrap()), [9]);
    }
}
