//! A log on disk: a directory with `current`, what it was before, and an index beside
//! each ([`index`], [`names`]). Whoever is killed here leaves something from which the
//! next one goes on: the end of the file says where.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::index::{self, Entry, Mark};
use super::names::{self, CURRENT};
use super::rotated;
use super::rules::{self, Place};
use crate::backend::native;
use crate::config::Logging;
use crate::error::reason;
use crate::history::tails;

/// An entry of the index is worth its bytes after so many of the log, or after so
/// many microseconds: as close are the times by which several logs are put in order.
const MARK_BYTES: u64 = 320;
const MARK_TIME: i64 = 10_000;
/// A rotation that is refused is tried again after so many microseconds.
const AGAIN: i64 = 500_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Sink {
    directory: PathBuf,
    file: File,
    /// Bytes of `current`.
    end: u64,
    index: Option<File>,
    index_end: u64,
    last: Option<Entry>,
    /// When `current` was begun, in microseconds since 1970.
    begun: i64,
    /// Whether what was written last ended a line, if anybody has looked.
    is_fresh: Option<bool>,
    /// See [`Sink::number`].
    number: u64,
    /// It could not be rotated: when that is tried again, and why.
    unrotated: Option<(i64, String)>,
}

impl Sink {
    /// Opens a log, or begins it.
    pub(super) fn open(place: &Place, time: i64) -> io::Result<Self> {
        place.check()?;
        let directory = place.directory.clone();
        let path = directory.join(CURRENT);
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
                rotated::heal(&directory)?;
            }
            _ => {}
        }
        let file = open_to_write(&path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(rules::no_file());
        }
        if about.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        let mut sink = Self {
            directory,
            file,
            end: about.len(),
            index: None,
            index_end: 0,
            last: None,
            begun: time,
            is_fresh: None,
            number: about.ino(),
            unrotated: None,
        };
        sink.read_index(time);
        Ok(sink)
    }

    fn read_index(&mut self, time: i64) {
        let Ok(file) = open_to_read(&index::path_of(&self.path())) else { return };
        let mut first = [0; index::SIZE];
        if file.read_exact_at(&mut first, 0).is_ok() {
            // The clock may have been set back since.
            self.begun = Entry::decode(&first).map_or(time, |entry| entry.time.min(time));
        }
        if let Ok((end, last)) = index::last(&file) {
            (self.index_end, self.last) = (end, last);
        }
        // Somebody has truncated the log, say.
        let _ = self.trim_index();
    }

    /// Takes back what the index says about what is behind the end.
    fn trim_index(&mut self) -> io::Result<()> {
        if self.last.is_none_or(|last| last.offset <= self.end) {
            return Ok(());
        }
        let path = index::path_of(&self.path());
        let (start, found) = index::read_back(&self.path(), |first| first.offset <= self.end)?;
        let kept = found.iter().position(|entry| entry.offset > self.end).unwrap_or(found.len());
        self.index_end = start + (kept * index::SIZE) as u64;
        self.last = found[..kept].last().copied();
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(path)?.set_len(self.index_end)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(CURRENT)
    }

    /// Bytes of `current`.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether what was written last ended a line.
    pub(super) fn is_fresh(&mut self) -> io::Result<bool> {
        if let Some(is_fresh) = self.is_fresh {
            return Ok(is_fresh);
        }
        let mut last = *b"\n";
        if self.end > 0 {
            self.file.read_exact_at(&mut last, self.end - 1)?;
        }
        self.is_fresh = Some(last == *b"\n");
        Ok(last == *b"\n")
    }

    /// The run that the index says it is in.
    pub(super) fn run(&self) -> u64 {
        match self.last {
            Some(Entry { mark: Mark::End(_), .. }) | None => 0,
            Some(entry) => entry.run,
        }
    }

    /// Tells `current` from what it was before, and from others.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is as long as we have made it.
    pub(super) fn is_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|ours| ours.len() == self.end)
    }

    /// Whether this is still the file that has the name.
    pub(super) fn is_there(&self) -> bool {
        let there = fs::symlink_metadata(self.path());
        let ours = self.file.metadata();
        matches!((there, ours), (Ok(there), Ok(ours))
            if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }

    /// Notes the time of what has just been written from this offset on, unless the
    /// entry before is as good.
    pub(super) fn mark_output(&mut self, offset: u64, time: i64, run: u64) -> io::Result<()> {
        if let Some(last) = self.last
            && last.run == run
            && !matches!(last.mark, Mark::End(_))
            && (last.offset == offset || offset.saturating_sub(last.offset) < MARK_BYTES)
            && (0..MARK_TIME).contains(&(time - last.time))
        {
            return Ok(());
        }
        self.append(Entry { offset, time, run, mark: Mark::Output })
    }

    /// Notes in the index what is so from here on.
    pub(super) fn mark(&mut self, time: i64, run: u64, mark: Mark) -> io::Result<()> {
        self.mark_at(self.end, time, run, mark)
    }

    /// Notes what is so from there on, where nothing later was noted.
    pub(super) fn mark_at(
        &mut self,
        offset: u64,
        time: i64,
        run: u64,
        mark: Mark,
    ) -> io::Result<()> {
        self.append(Entry { offset, time, run, mark })
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        if self.index.is_none() {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o640);
            let options = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            self.index = Some(options.open(index::path_of(&self.path()))?);
        }
        if let Some(index) = &self.index {
            index.write_all_at(&entry.encode(), self.index_end)?;
        }
        if self.index_end == 0 {
            self.begun = entry.time;
        }
        self.index_end += index::SIZE as u64;
        self.last = Some(entry);
        Ok(())
    }

    /// Moves bytes from a pipe to the end, see [`native::move_bytes`].
    pub(super) fn take(&mut self, pipe: &File, most: usize) -> io::Result<usize> {
        let moved = native::move_bytes(pipe.as_fd(), self.file.as_fd(), self.end, most)?;
        self.end += moved as u64;
        self.is_fresh = None;
        Ok(moved)
    }

    /// Writes to the end. When that fails, nothing was written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(e) = self.file.write_all_at(bytes, self.end) {
            // What stands behind the end is written over, or cut by the next one.
            let _ = self.file.set_len(self.end);
            return Err(e);
        }
        self.end += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.is_fresh = Some(*last == b'\n');
        }
        Ok(())
    }

    /// Takes back what was written from here on.
    pub(super) fn cut(&mut self, end: u64) -> io::Result<()> {
        self.file.set_len(end)?;
        self.end = end;
        self.trim_index()?;
        self.is_fresh = None;
        Ok(())
    }

    /// How long it takes until it is too old; `None` where it never is.
    pub(super) fn left(&self, logging: &Logging, time: i64) -> Option<Duration> {
        let past = Duration::from_micros(u64::try_from(time - self.begun).unwrap_or(0));
        Some(logging.age.filter(|_| self.end > 0)?.saturating_sub(past))
    }

    /// Whether it is due to be rotated, at the next end of a line.
    pub(super) fn is_due(&self, logging: &Logging, time: i64) -> bool {
        let is_old = self.left(logging, time).is_some_and(|left| left.is_zero());
        let is_left = |(again, _): &(i64, String)| (1..=AGAIN).contains(&(again - time));
        // Its index may not outgrow it.
        self.end > 0
            && (is_old || self.end.max(self.index_end) >= logging.size)
            && !self.unrotated.as_ref().is_some_and(is_left)
    }

    /// Why it grows longer than it should.
    pub(super) fn unrotated(&self) -> Option<&str> {
        self.unrotated.as_ref().map(|(_, why)| why.as_str())
    }

    /// Whether it has grown too long for waiting for the end of a line.
    pub(super) fn is_overdue(&self, logging: &Logging) -> bool {
        self.end >= logging.size.saturating_mul(2).saturating_add(4 << 20)
    }

    /// As [`Self::try_rotate`]. Where no file may be made, what is there goes on: that is
    /// better than nothing.
    pub(super) fn rotate(&mut self, logging: &Logging, time: i64) -> io::Result<()> {
        match self.try_rotate(logging, time) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.is_there() => {
                let shown = self.path();
                let why = format!("{}: it cannot be rotated: {}", shown.display(), reason(&e));
                self.unrotated = Some((time + AGAIN, why));
                Ok(())
            }
            other => other,
        }
    }

    /// Makes what is there a rotated file and begins a new one.
    pub(super) fn try_rotate(&mut self, logging: &Logging, time: i64) -> io::Result<()> {
        self.unrotated = None;
        if self.end == 0 {
            return Ok(());
        }
        let (path, run) = (self.path(), self.run());
        let last = names::all_rotated(&self.directory)?.pop();
        let name = names::next(time, last.as_deref());
        let target = self.directory.join(&name);
        if logging.after.is_some() {
            // First: it must not be forgotten if we are killed.
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o640);
            options.custom_flags(libc::O_NOFOLLOW).open(rotated::todo_of(&target))?;
        }
        fs::rename(&path, &target)?;
        // Its index second: without it we, or the next one, would find one alone.
        self.index = None;
        match fs::rename(index::path_of(&path), index::path_of(&target)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.file = open_to_write(&path)?;
        self.number = self.file.metadata()?.ino();
        (self.end, self.index_end, self.last) = (0, 0, None);
        (self.begun, self.is_fresh) = (time, Some(true));
        self.mark(time, run, Mark::Output)?;
        self.prune(logging)
    }

    /// Removes rotated files that are too many.
    pub(super) fn prune(&self, logging: &Logging) -> io::Result<()> {
        rotated::prune(&self.directory, logging, self.end)
    }

    /// Lines of `current`.
    pub(super) fn lines(&self) -> io::Result<u64> {
        let mut text = vec![0; 64 << 10];
        let (mut at, mut lines) = (0, 0);
        loop {
            match self.file.read_at(&mut text, at)? {
                0 => return Ok(lines),
                got => {
                    lines += text[..got].iter().filter(|&&b| b == b'\n').count() as u64;
                    at += got as u64;
                }
            }
        }
    }

    /// Empties `current`; how long it was. The run that speaks goes on.
    pub(super) fn clear(&mut self, time: i64) -> io::Result<u64> {
        let run = self.run();
        let length = std::mem::take(&mut self.end);
        self.file.set_len(0)?;
        self.index = None;
        match fs::remove_file(index::path_of(&self.path())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        (self.index_end, self.last, self.is_fresh) = (0, None, Some(true));
        if run != 0 {
            self.mark(time, run, Mark::Output)?;
        }
        Ok(length)
    }

    /// The last lines of the run that is just being written.
    pub(super) fn tail(&self, run: u64) -> io::Result<Vec<u8>> {
        let mut text = tail_of(&self.path(), run)?;
        // What was rotated a moment ago.
        if text.len() < tails::LENGTH
            && let Some(name) = names::all_rotated(&self.directory)?.last()
        {
            let mut before = tail_of(&self.directory.join(name), run)?;
            before.append(&mut text);
            text = before;
        }
        Ok(tails::end_of(&text).to_vec())
    }
}

/// What a run has said at the end of one file, as far as it is kept.
fn tail_of(log: &Path, run: u64) -> io::Result<Vec<u8>> {
    let file = match open_to_read(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    let is_enough = |first: &Entry| {
        first.run != run || first.offset.saturating_add(tails::LENGTH as u64) <= length
    };
    let (_, entries) = index::read_back(log, is_enough)?;
    let mut start = None;
    let mut end = None;
    for entry in &entries {
        match (start, entry.run == run) {
            (None, true) => start = Some(entry.offset),
            (Some(_), true) if matches!(entry.mark, Mark::End(_)) => end = Some(entry.offset),
            (Some(_), false) => end = end.or(Some(entry.offset)),
            _ => {}
        }
    }
    let Some(start) = start else { return Ok(Vec::new()) };
    let end = end.unwrap_or(u64::MAX).min(length);
    let start = start.max(end.saturating_sub(tails::LENGTH as u64));
    let mut text = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
    file.read_exact_at(&mut text, start)?;
    Ok(text)
}

/// Not O_APPEND, which splice(2) refuses: nobody else writes it.
fn open_to_write(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o640);
    // A FIFO that nobody reads must not hold us up.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Others may have put a link there, or a FIFO.
fn open_to_read(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests;
