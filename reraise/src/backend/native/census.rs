//! A look at all processes and the marks they carry. It takes as long as there are
//! processes, so that thousands of workers who each need one at the same time would
//! take thousands of times as long. They share it: who finds nobody looking looks,
//! and leaves what was found, in order, in a file for all who have been waiting.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{is_stopped, processes, run_mark};
use crate::backend::tree::{Key, Look, Seen};
use crate::lock::{Holder, LockFile};

/// A waiting one asks again after these times, since thousands may wait. In
/// milliseconds.
const FIRST_NAP: u64 = 2;
const LONGEST_NAP: u64 = 128;
/// Who takes longer than this is asked whether it has been stopped; in nanoseconds.
const PATIENCE: u64 = 500_000_000;
/// No look takes longer than this.
const LONGEST: u64 = 60_000_000_000;

/// Asks all processes, as a look finds them that begins after this is called. Those
/// who name the same directory share looks; then the question may be asked again.
pub(super) fn ask<T>(shared: Option<&Path>, question: Question<'_, T>) -> io::Result<T> {
    let alone = || question(&look()?);
    let Some(directory) = shared else { return alone() };
    // Without the file everybody has to look for themselves; no worse than that.
    let Ok(sheet) = Sheet::open(&directory.join("census")) else { return alone() };
    together(&sheet, &look, question)
}

type Question<'a, T> = &'a dyn Fn(&dyn Look) -> io::Result<T>;

fn together<T>(
    sheet: &Sheet,
    look: &dyn Fn() -> io::Result<Vec<Seen>>,
    question: Question<'_, T>,
) -> io::Result<T> {
    let needed = now();
    let mut nap = FIRST_NAP;
    loop {
        if let Some(answer) = sheet.ask(needed, question) {
            return Ok(answer);
        }
        if sheet.lock.try_take(0).unwrap_or(false) {
            // Somebody may have ended just now.
            let answer = sheet.ask(needed, question).map_or_else(
                || {
                    let began = now();
                    let found = look()?;
                    sheet.write(began, &found);
                    question(&found)
                },
                Ok,
            );
            let _ = sheet.lock.release(0);
            return answer;
        }
        let waited = now().saturating_sub(needed);
        if waited > LONGEST || waited > PATIENCE && sheet.is_stuck() {
            return question(&look()?);
        }
        std::thread::sleep(Duration::from_millis(nap));
        nap = (nap * 2).min(LONGEST_NAP);
    }
}

fn look() -> io::Result<Vec<Seen>> {
    let seen = |p: &super::Process| Seen {
        pid: p.pid,
        ppid: p.ppid,
        pgid: p.pgid,
        sid: p.sid,
        run: run_mark(p.pid).unwrap_or(0),
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
/// since a rename may wait for the disk. In front stand when the look began, which is
/// 0 while it is written, and how many processes it found: who finds the same there
/// before and after reading has read what belongs to it. Then all processes follow in
/// the order of each [`Key`], so that a reader needs to read a few of them only.
struct Sheet {
    file: File,
    lock: LockFile,
}

const HEAD: u64 = 16;
const ROW: usize = 24;
/// So many rows are read at once.
const SOME: u64 = 64;

impl Sheet {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        // A file of its own: closing any descriptor of it would end the lock.
        Ok(Self { file, lock: LockFile::open(&path.with_extension("lock"))? })
    }

    /// Who looks has been stopped.
    fn is_stuck(&self) -> bool {
        matches!(self.lock.holder(0), Ok(Holder::Pid(pid)) if is_stopped(pid).unwrap_or(false))
    }

    /// Nobody's loss when it fails: then the others look for themselves.
    fn write(&self, began: u64, found: &[Seen]) {
        let mut rows = Vec::with_capacity(found.len() * ROW * Key::ALL.len());
        let mut sorted = found.to_vec();
        for key in Key::ALL {
            sorted.sort_unstable_by_key(|seen| key.of(seen));
            sorted.iter().for_each(|seen| rows.extend_from_slice(&row_of(seen)));
        }
        let head = |began: u64| [began.to_le_bytes(), (found.len() as u64).to_le_bytes()].concat();
        let written = self
            .file
            .write_all_at(&head(0), 0)
            .and_then(|()| self.file.write_all_at(&rows, HEAD))
            .and_then(|()| self.file.write_all_at(&head(began), 0));
        if written.is_err() {
            let _ = self.file.write_all_at(&head(0), 0);
        }
    }

    /// The answer of a look that began at `needed` or later, if there is one. In the
    /// future it is of an earlier boot.
    fn ask<T>(&self, needed: u64, question: Question<'_, T>) -> Option<T> {
        let (began, count) = self.head()?;
        if !(needed.max(1)..=now()).contains(&began) {
            return None;
        }
        let answer = question(&Rows { file: &self.file, count }).ok()?;
        (self.head()? == (began, count)).then_some(answer)
    }

    fn head(&self) -> Option<(u64, u64)> {
        let mut head = [0; HEAD as usize];
        self.file.read_exact_at(&mut head, 0).ok()?;
        let (began, count) = head.split_at(8);
        Some((
            u64::from_le_bytes(began.try_into().ok()?),
            u64::from_le_bytes(count.try_into().ok()?),
        ))
    }
}

/// What is in a [`Sheet`].
struct Rows<'a> {
    file: &'a File,
    count: u64,
}

impl Rows<'_> {
    /// Up to so many of those that follow in the order of this key, at most [`SOME`].
    fn read(&self, key: Key, from: u64, most: u64) -> io::Result<Vec<Seen>> {
        let mut rows = [0; ROW * SOME as usize];
        let rows = &mut rows[..ROW * self.count.saturating_sub(from).min(most) as usize];
        let place = (key as u64).checked_mul(self.count).and_then(|n| n.checked_add(from));
        let place = place.and_then(|n| n.checked_mul(ROW as u64)?.checked_add(HEAD));
        // Shorter than what is promised: it was not all written.
        self.file.read_exact_at(rows, place.ok_or(io::ErrorKind::InvalidData)?)?;
        Ok(rows.as_chunks::<ROW>().0.iter().map(seen_in).collect())
    }
}

impl Look for Rows<'_> {
    fn having(&self, key: Key, number: u64) -> io::Result<Vec<Seen>> {
        // The first that may have it is between these two.
        let (mut low, mut high) = (0, self.count);
        while high - low > SOME {
            let middle = low + (high - low) / 2;
            let is_before = |seen: &Seen| key.of(seen) < number;
            let at = if self.read(key, middle, 1)?.first().is_some_and(is_before) {
                &mut low
            } else {
                &mut high
            };
            *at = middle;
        }
        let mut found = Vec::new();
        loop {
            let rows = self.read(key, low, SOME)?;
            let is_over = rows.last().is_none_or(|last| key.of(last) > number);
            found.extend(rows.into_iter().filter(|seen| key.of(seen) == number));
            if is_over {
                return Ok(found);
            }
            low += SOME;
        }
    }
}

fn row_of(seen: &Seen) -> [u8; ROW] {
    let mut row = [0; ROW];
    let numbers = [seen.pid, seen.ppid, seen.pgid, seen.sid];
    let places = row.chunks_exact_mut(4).zip(numbers);
    places.for_each(|(place, n)| place.copy_from_slice(&n.to_le_bytes()));
    row[16..].copy_from_slice(&seen.run.to_le_bytes());
    row
}

fn seen_in(row: &[u8; ROW]) -> Seen {
    let number = |at: usize| i32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    let run = row[16..].iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
    Seen { pid: number(0), ppid: number(4), pgid: number(8), sid: number(12), run }
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

    fn one(pid: i32) -> Seen {
        Seen { pid, ppid: -1, pgid: i32::MAX, sid: 4, run: u64::MAX - 1 }
    }

    /// All that it has, in the order of their pids.
    fn all(look: &dyn Look) -> io::Result<Vec<Seen>> {
        let mut found = look.having(Key::Session, 4)?;
        found.sort_by_key(|seen| seen.pid);
        Ok(found)
    }

    fn pids(look: &dyn Look) -> io::Result<Vec<i32>> {
        Ok(all(look)?.iter().map(|seen| seen.pid).collect())
    }

    #[test]
    fn what_was_written_is_read_and_only_by_who_needed_no_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        assert!(sheet.ask(0, &pids).is_none());
        let began = now();
        sheet.write(began, &[one(7), one(8)]);
        assert_eq!(sheet.ask(began, &all).unwrap(), [one(7), one(8)]);
        assert!(sheet.ask(began + 1, &pids).is_none());
        // A shorter one leaves nothing of the longer.
        sheet.write(began, &[one(9)]);
        assert_eq!(sheet.ask(began, &pids).unwrap(), [9]);
        // Of an earlier boot, which was up for longer.
        sheet.write(now() + 3_600_000_000_000, &[one(10)]);
        assert!(sheet.ask(0, &pids).is_none());
    }

    #[test]
    fn what_is_being_written_or_was_cut_short_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        let began = now();
        sheet.write(began, &[one(7)]);
        sheet.file.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
        assert!(sheet.ask(0, &pids).is_none());
        sheet.write(began, &[one(7)]);
        sheet.file.set_len(HEAD + 3).unwrap();
        assert!(sheet.ask(began, &pids).is_none());
        for count in [2, SOME, u64::MAX / ROW as u64, u64::MAX] {
            sheet.file.set_len(0).unwrap();
            sheet.write(began, &[one(7)]);
            sheet.file.write_all_at(&count.to_le_bytes(), 8).unwrap();
            assert!(sheet.ask(began, &pids).is_none(), "{count}");
        }
        // While the question was asked.
        sheet.write(began, &[one(7)]);
        let answer = sheet.ask(began, &|_| {
            sheet.write(began + 1, &[one(8)]);
            Ok(())
        });
        assert!(answer.is_none());
    }

    #[test]
    fn the_file_answers_every_question_as_the_look_does() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        for count in [0, 1, 2, 63, 64, 65, 128, 1000] {
            // Groups of one, of three, of a hundred; numbers that are not there.
            let seen = |n: i32| Seen {
                pid: 2 * n + 3,
                ppid: n / 3,
                pgid: 1,
                sid: n / 100 * 5,
                run: u64::from(n.cast_unsigned() % 7) << 60,
            };
            let look: Vec<Seen> = (0..count).map(seen).collect();
            sheet.write(now(), &look);
            for key in Key::ALL {
                let numbers = look.iter().map(|seen| key.of(seen));
                let beside = numbers.flat_map(|n| [n.saturating_sub(1), n, n + 1]);
                for number in beside.chain([0, u64::MAX]) {
                    let sorted = |look: &dyn Look| {
                        let mut found = look.having(key, number)?;
                        found.sort_by_key(|seen| seen.pid);
                        Ok(found)
                    };
                    let case = format!("{count} {key:?} {number}");
                    assert_eq!(sheet.ask(0, &sorted).unwrap(), sorted(&look).unwrap(), "{case}");
                }
            }
        }
    }

    #[test]
    fn everybody_gets_a_look_that_began_after_they_asked() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = sheet(&dir);
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            Ok(vec![one(looks.get())])
        };
        for n in 1..=3 {
            assert_eq!(together(&sheet, &look, &pids).unwrap(), [n]);
        }
        assert!(together(&sheet, &|| Err(io::ErrorKind::Other.into()), &pids).is_err());
        // Its failure is nobody else's.
        assert_eq!(together(&sheet, &look, &pids).unwrap(), [4]);
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
                    sheet.write(now(), &[one(7)]);
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
        let sheet = Sheet::open(&path).unwrap();
        let found = together(&sheet, &|| panic!("a second look"), &pids);
        assert_eq!(found.unwrap(), [7]);
    }

    #[test]
    fn who_is_stopped_while_looking_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("census");
        let _other = looking(&path, false);
        let sheet = Sheet::open(&path).unwrap();
        let Ok(Holder::Pid(pid)) = sheet.lock.holder(0) else { panic!("nobody is looking") };
        let signal = |which| {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), which).unwrap();
        };
        signal(nix::sys::signal::SIGSTOP);
        let found = together(&sheet, &|| Ok(vec![one(9)]), &pids);
        signal(nix::sys::signal::SIGCONT);
        assert_eq!(found.unwrap(), [9]);
    }
}
