//! A file of a log and its index, read piece by piece: neither is ever whole in memory.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use reraise::logger::index::{self, Entry, Mark, SIZE};

/// Entries that are read at once; fewer at first.
const WINDOW: u64 = 1024;
const WINDOW_MIN: u64 = 64;

/// A file, and which it is.
pub(super) struct LogFile {
    file: File,
    pub(super) id: (u64, u64),
    pub(super) index: Index,
    /// See [`Self::prepare`].
    cuts: OnceLock<(u64, Vec<u64>)>,
}

/// Device and inode: what a rename leaves.
pub(super) fn id(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Opens an ordinary file; a FIFO in its place must not hold us up.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("is no ordinary file")) }
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let id = id(&file.metadata()?);
        // Without an index all is shown, only when it was said is not known.
        let index = Index { file: open(&index::path_of(path)).ok() };
        Ok(Self { file, id, index, cuts: OnceLock::new() })
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Notes all cuts, when the whole file is to be read, and not only a part.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.cuts.get().is_none() {
            let size = self.size()?;
            // Another thread may have been quicker.
            let _ = self.cuts.set((size, self.index.all_cuts()?));
        }
        Ok(())
    }

    /// Where, in a range, one run ends or begins: a line never goes on there.
    pub(super) fn cuts(&self, bytes: Range<u64>) -> io::Result<Vec<u64>> {
        match self.cuts.get() {
            Some((size, cuts)) if bytes.end <= *size => {
                let place = |offset| cuts.partition_point(|&cut| cut < offset);
                Ok(cuts[place(bytes.start)..place(bytes.end)].to_vec())
            }
            _ => self.index.cuts(bytes),
        }
    }

    /// When it was last written to, in microseconds since 1970.
    pub(super) fn written(&self) -> io::Result<i64> {
        let about = self.file.metadata()?;
        Ok(about.mtime() * 1_000_000 + about.mtime_nsec() / 1000)
    }

    /// As many bytes as there are from a place on, up to the length of the buffer.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            match self.file.read_at(&mut buffer[got..], at + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(got)
    }
}

/// Whether a line ends there, even without a newline.
pub(super) fn is_cut(mark: Mark) -> bool {
    matches!(mark, Mark::Begin | Mark::End(_))
}

/// The index of a file, of which new entries may come.
pub(super) struct Index {
    file: Option<File>,
}

impl Index {
    /// Which file it is, to see whether another has taken its place.
    pub(super) fn id(&self) -> Option<(u64, u64)> {
        Some(id(&self.file.as_ref()?.metadata().ok()?))
    }

    /// Entries that are there now.
    pub(super) fn count(&self) -> io::Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        Ok(file.metadata()?.len() / SIZE as u64)
    }

    /// The entries of a range; `None` for those that only a later version understands.
    fn entries(&self, range: Range<u64>) -> io::Result<Vec<Option<Entry>>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let mut bytes = vec![0; (range.end.saturating_sub(range.start)) as usize * SIZE];
        file.read_exact_at(&mut bytes, range.start * SIZE as u64)?;
        let (whole, _) = bytes.as_chunks::<SIZE>();
        Ok(whole.iter().map(Entry::decode).collect())
    }

    /// One entry, if it is there and makes sense.
    pub(super) fn entry(&self, at: u64) -> io::Result<Option<Entry>> {
        Ok(if at < self.count()? { self.entries(at..at + 1)?.pop().flatten() } else { None })
    }

    /// Offset and time of one that is there, also of one from a later version.
    fn place(&self, at: u64) -> io::Result<(u64, i64)> {
        let mut bytes = [0; 16];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut bytes, at * SIZE as u64)?;
        }
        let (words, _) = bytes.as_chunks::<8>();
        Ok((u64::from_le_bytes(words[0]), i64::from_le_bytes(words[1])))
    }

    pub(super) fn offset(&self, at: u64) -> io::Result<u64> {
        Ok(self.place(at)?.0)
    }

    /// The first entry of a range for which it is so, when it is for all that follow;
    /// the end of the range if there is none.
    pub(super) fn first(
        &self,
        range: Range<u64>,
        is_so: impl Fn(u64, i64) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let (offset, time) = self.place(middle)?;
            if is_so(offset, time) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// All cuts, as fast as they can be read.
    fn all_cuts(&self) -> io::Result<Vec<u64>> {
        let (mut found, mut at) = (Vec::new(), 0);
        let Some(file) = &self.file else { return Ok(found) };
        let mut bytes = vec![0; 64 << 10];
        loop {
            let got = file.read_at(&mut bytes, at)? / SIZE * SIZE;
            let (entries, _) = bytes[..got].as_chunks::<SIZE>();
            let output = Entry { offset: 0, time: 0, run: 0, mark: Mark::Output }.encode()[24];
            let others = entries.iter().filter(|entry| entry[24] != output);
            let cuts = others.filter_map(Entry::decode).filter(|entry| is_cut(entry.mark));
            found.extend(cuts.map(|entry| entry.offset));
            if got == 0 {
                found.dedup();
                return Ok(found);
            }
            at += got as u64;
        }
    }

    fn cuts(&self, bytes: Range<u64>) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        let count = self.count()?;
        let mut at = Cursor::new(self.first(0..count, |offset, _| offset >= bytes.start)?, count);
        while let Some(entry) = at.peek(self)? {
            if entry.offset >= bytes.end {
                break;
            }
            if is_cut(entry.mark) && found.last() != Some(&entry.offset) {
                found.push(entry.offset);
            }
            at.step();
        }
        Ok(found)
    }
}

/// Entries one after the other, forwards or backwards.
pub(super) struct Cursor {
    at: u64,
    end: u64,
    window: Vec<Option<Entry>>,
    /// The number of the first in the window.
    start: u64,
}

impl Cursor {
    /// From one on, before another.
    pub(super) fn new(at: u64, end: u64) -> Self {
        Self { at, end, window: Vec::new(), start: at }
    }

    /// The number of the next.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next one, which stays the next.
    pub(super) fn peek(&mut self, index: &Index) -> io::Result<Option<Entry>> {
        while self.at < self.end {
            if self.at >= self.start + self.window.len() as u64 {
                self.start = self.at;
                let more = (self.window.len() as u64 * 4).clamp(WINDOW_MIN, WINDOW);
                self.window = index.entries(self.at..self.end.min(self.at + more))?;
                if self.window.is_empty() {
                    return Ok(None);
                }
            }
            match self.window[(self.at - self.start) as usize] {
                Some(entry) => return Ok(Some(entry)),
                None => self.at += 1,
            }
        }
        Ok(None)
    }

    /// Goes past those that an other one replaces before an offset.
    pub(super) fn skip_to(&mut self, index: &Index, offset: u64) -> io::Result<()> {
        let next = self.window.last().copied().flatten();
        if self.at < self.end && next.is_none_or(|last| last.offset <= offset) {
            let after = index.first(self.at..self.end, |other, _| other > offset)?;
            self.at = self.at.max(after.saturating_sub(1));
        }
        Ok(())
    }

    /// Goes past the next one.
    pub(super) fn step(&mut self) {
        self.at += 1;
    }

    /// The one before, which becomes the next.
    pub(super) fn back(&mut self, index: &Index) -> io::Result<Option<Entry>> {
        while self.at > 0 {
            if self.at <= self.start || self.window.is_empty() {
                let more = (self.window.len() as u64 * 4).clamp(WINDOW_MIN, WINDOW);
                self.start = self.at.saturating_sub(more);
                self.window = index.entries(self.start..self.at)?;
            }
            self.at -= 1;
            if let Some(Some(entry)) = self.window.get((self.at - self.start) as usize) {
                return Ok(Some(*entry));
            }
        }
        Ok(None)
    }
}
