//! A part of a file in memory, and the lines in it: it is searched as a whole, and
//! only what is found is looked at line by line.

use std::io;
use std::sync::Arc;

use memchr::{memchr, memrchr};

use super::file::LogFile;
use super::filter::Grep;

/// Of a longer line, pieces are shown, and only the first is searched.
pub(super) const LINE_MAX: usize = 64 << 20;

/// What is read beyond the lines that are wanted.
const MORE: u64 = 1 << 10;

/// What is read at once to find the end of a line.
const STEP: usize = 64 << 10;

/// Bytes of a file that are to be shown, and what the index says of them.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) file: Arc<LogFile>,
    /// Lines that begin here or later,
    pub(super) from: u64,
    /// and before this.
    pub(super) to: u64,
    /// The bytes of the last line end here at the latest.
    pub(super) end: u64,
    /// The first entry that counts,
    pub(super) first: u64,
    /// and the first that does not.
    pub(super) last: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Chunk {
    /// Where the first byte stands in the file.
    base: u64,
    bytes: Vec<u8>,
    /// Pieces in which lines end only with a newline, or where the piece does.
    parts: Vec<(usize, usize)>,
    /// Where the next chunk goes on.
    pub(super) next: u64,
    part: usize,
    at: usize,
    /// The last line goes on, and is too long to be taken whole.
    is_cut_short: bool,
}

/// Where a line stands in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) offset: u64,
    from: usize,
    to: usize,
    /// Its end is there too; else the next piece of it follows.
    pub(super) is_whole: bool,
}

impl Chunk {
    /// Reads the lines that begin from `from` on and before `to`. `is_start`: a line is
    /// known to begin at `from`.
    pub(super) fn load(
        &mut self,
        file: &LogFile,
        (from, to, end): (u64, u64, u64),
        is_start: bool,
    ) -> io::Result<()> {
        self.parts.clear();
        (self.part, self.at, self.next, self.is_cut_short) = (0, 0, to, false);
        let to = to.min(end);
        if from >= to {
            return Ok(());
        }
        let before = u64::from(from > 0 && !is_start);
        self.base = from - before;
        // With a little more, where the last line often ends.
        let wanted = (to - self.base) as usize;
        self.read(file, 0, wanted + (end - to).min(MORE) as usize)?;
        let got = wanted.min(self.bytes.len());
        if got as u64 <= before {
            return Ok(());
        }
        let cuts = file.cuts(from..to)?;
        let start = if is_start || from == 0 || self.bytes[0] == b'\n' {
            before as usize
        } else {
            let line = memchr(b'\n', &self.bytes[..got]).map_or(got, |at| at + 1);
            line.min(cuts.first().map_or(got, |cut| (cut - self.base) as usize))
        };
        if start >= got {
            return Ok(());
        }
        self.complete(file, got, end)?;
        let mut stop = self.bytes.len();
        if stop > got {
            let beyond = file.cuts(to..self.base + stop as u64)?;
            stop = beyond.first().map_or(stop, |cut| (cut - self.base) as usize);
        }
        self.next = self.base + stop as u64;
        let mut piece = start;
        for cut in cuts.into_iter().map(|cut| (cut - self.base) as usize) {
            if cut > piece && cut < stop {
                self.parts.push((piece, cut));
                piece = cut;
            }
        }
        if piece < stop {
            self.parts.push((piece, stop));
        }
        self.at = start;
        Ok(())
    }

    /// Reads on behind what is there.
    fn read(&mut self, file: &LogFile, have: usize, more: usize) -> io::Result<()> {
        self.bytes.resize(have + more, 0);
        let got = file.read(&mut self.bytes[have..], self.base + have as u64)?;
        self.bytes.truncate(have + got);
        Ok(())
    }

    /// Reads on to the end of the last line that begins in the first bytes.
    fn complete(&mut self, file: &LogFile, first: usize, end: u64) -> io::Result<()> {
        if self.bytes[first - 1] == b'\n' {
            self.bytes.truncate(first);
            return Ok(());
        }
        let mut seen = first;
        loop {
            let have = self.bytes.len();
            if let Some(at) = memchr(b'\n', &self.bytes[seen..]) {
                self.bytes.truncate(seen + at + 1);
                return Ok(());
            }
            if have >= LINE_MAX {
                self.is_cut_short = true;
                return Ok(());
            }
            let left = end.saturating_sub(self.base + have as u64);
            self.read(file, have, (STEP as u64).min(left) as usize)?;
            if self.bytes.len() == have {
                return Ok(());
            }
            seen = have;
        }
    }

    /// The next line, or the next that is searched for.
    pub(super) fn next_line(&mut self, grep: Option<&Grep>) -> Option<Line> {
        loop {
            let &(from, to) = self.parts.get(self.part)?;
            let found = if self.at >= to {
                None
            } else {
                match grep {
                    None => Some(self.at),
                    Some(grep) => {
                        grep.find(&self.bytes[from..to], self.at - from).map(|at| from + at)
                    }
                }
            };
            // Behind the last newline there is no line, although an expression may match.
            if let Some(found) = found.filter(|&at| at < to || self.bytes[to - 1] != b'\n') {
                let start = memrchr(b'\n', &self.bytes[self.at..found]);
                let start = start.map_or(self.at, |at| self.at + at + 1);
                let end = memchr(b'\n', &self.bytes[found..to]).map_or(to, |at| found + at);
                self.at = end + 1;
                let is_last = self.part + 1 == self.parts.len();
                let is_whole = end < to || !(is_last && self.is_cut_short);
                let offset = self.base + start as u64;
                return Some(Line { offset, from: start, to: end, is_whole });
            }
            self.part += 1;
            self.at = to;
        }
    }

    /// Its bytes without the end.
    pub(super) fn text(&self, line: Line) -> &[u8] {
        &self.bytes[line.from..line.to]
    }

    /// Whether no line begins in it.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The lines that are in it, or those that are searched for.
    pub(super) fn count(&mut self, grep: Option<&Grep>) -> u64 {
        if grep.is_none() {
            let lines = self.parts.iter().map(|&(from, to)| {
                let part = &self.bytes[from..to];
                let ends = memchr::memchr_iter(b'\n', part).count() as u64;
                ends + u64::from(part.last() != Some(&b'\n'))
            });
            return lines.sum();
        }
        let mut count = 0;
        while self.next_line(grep).is_some() {
            count += 1;
        }
        self.rewind();
        count
    }

    /// Goes back to the first line.
    pub(super) fn rewind(&mut self) {
        self.part = 0;
        self.at = self.parts.first().map_or(0, |&(from, _)| from);
    }
}
