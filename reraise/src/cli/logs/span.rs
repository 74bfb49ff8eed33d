//! Which bytes of which files are to be shown.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reraise::logger::names::{self, CURRENT};

use super::chunk::{Chunk, Span};
use super::file::{Cursor, LogFile};
use super::filter::Grep;

/// From when to when, in microseconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
}

/// A run that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// The last one (1), the one before (2), ...
    Back(usize),
    /// This one, or those whose sixteen hexadecimal digits begin so.
    Id { value: u64, digits: u32 },
}

impl Run {
    /// As it is written: `last`, `-1`, an id or its beginning.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "last" {
            return Some(Self::Back(1));
        }
        if let Some(back) = text.strip_prefix('-') {
            return back.parse().ok().filter(|&back| back > 0).map(Self::Back);
        }
        let is_id = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = u64::from_str_radix(text, 16).ok().filter(|_| is_id)?;
        Some(Self::Id { value, digits: text.len() as u32 })
    }

    /// Whether a run has this id.
    pub(super) fn is(self, run: u64) -> bool {
        match self {
            Self::Back(_) => false,
            Self::Id { value, digits } => run == value || run >> (64 - 4 * digits) == value,
        }
    }
}

/// The files of a log, oldest first; all are open, so that a rotation takes none away.
#[derive(Default)]
pub(super) struct Log {
    pub(super) files: Vec<Arc<LogFile>>,
    /// Older files that cannot be read as they are.
    pub(super) compressed: usize,
    /// The last rotated file's name.
    pub(super) newest: Option<String>,
    /// `current` is the last of the files.
    pub(super) has_current: bool,
}

impl Log {
    /// Opens what may have been said since then; nothing where there is no log.
    pub(super) fn open(directory: &Path, since: Option<i64>) -> Result<Self, (PathBuf, io::Error)> {
        let mut log = Self::default();
        let open = |path: PathBuf| match LogFile::open(&path) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err((path, e)),
        };
        // First: when it is rotated now, it has one of the names below.
        let current = open(directory.join(CURRENT))?;
        let rotated = match names::all_rotated(directory) {
            // There is a log, and no more than that may be seen.
            Err(_) if current.is_some() => Vec::new(),
            rotated => rotated.map_err(|e| (directory.to_owned(), e))?,
        };
        for name in rotated {
            let is_old = since.zip(names::time_of(&name)).is_some_and(|(since, time)| time < since);
            if is_compressed(&name) {
                log.compressed += usize::from(!is_old);
            } else if !is_old && let Some(file) = open(directory.join(&name))? {
                if current.as_ref().is_some_and(|current| current.id == file.id) {
                    break;
                }
                log.files.push(file);
            }
            log.newest = Some(name);
        }
        log.has_current = current.is_some();
        log.files.extend(current);
        Ok(log)
    }

    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        self.compressed == 0
            && self.files.iter().all(|file| file.size().is_ok_and(|size| size == 0))
    }

    /// The last runs, so many at most, and when each was heard of last; the last one first.
    fn last_runs(&self, most: usize) -> io::Result<Vec<(i64, u64)>> {
        let mut seen: Vec<(i64, u64)> = Vec::new();
        for file in self.files.iter().rev() {
            let count = file.index.count()?;
            let mut cursor = Cursor::new(count, count);
            while let Some(entry) = cursor.back(&file.index)? {
                if entry.run != 0 && seen.iter().all(|(_, run)| *run != entry.run) {
                    seen.push((entry.time, entry.run));
                    if seen.len() == most {
                        return Ok(seen);
                    }
                }
            }
        }
        Ok(seen)
    }

    /// What was said in this time and in this run.
    pub(super) fn spans(&self, window: Window, run: Option<Run>) -> io::Result<Vec<Span>> {
        let mut spans = Vec::new();
        for file in self.files.iter().rev() {
            let Some(span) = span(file, window)? else { continue };
            match run {
                None => spans.push(span),
                Some(run) => match of_run(&span, run)? {
                    Some(of_run) => spans.push(of_run),
                    // What is older is of older runs.
                    None if !spans.is_empty() => break,
                    None => {}
                },
            }
        }
        spans.reverse();
        Ok(spans)
    }
}

/// The run before so many others of a service, the last being 1, and whether its logs
/// have heard of it; with those of which is known otherwise when they ended.
pub(super) fn run_back<'a>(
    logs: impl Iterator<Item = &'a Log>,
    known: Vec<(i64, u64)>,
    back: usize,
) -> io::Result<Option<(u64, bool)>> {
    let mut runs: Vec<(i64, u64)> = Vec::new();
    for log in logs {
        for (time, run) in log.last_runs(back)? {
            match runs.iter_mut().find(|(_, known)| *known == run) {
                Some((known, _)) => *known = time.max(*known),
                None => runs.push((time, run)),
            }
        }
    }
    let heard: BTreeSet<u64> = runs.iter().map(|&(_, run)| run).collect();
    // That they have ended is written in the log a moment later.
    runs.retain(|(_, run)| known.iter().all(|(_, other)| other != run));
    runs.extend(known);
    runs.sort_by_key(|&(time, _)| std::cmp::Reverse(time));
    Ok(runs.get(back - 1).map(|&(_, run)| (run, heard.contains(&run))))
}

/// Whether a command has made something else of a rotated file.
pub(super) fn is_compressed(name: &str) -> bool {
    !name.ends_with('Z')
}

/// A file within a time.
fn span(file: &Arc<LogFile>, window: Window) -> io::Result<Option<Span>> {
    // Its size first: the index may then say more than is looked at, but not less.
    let end = file.size()?;
    let count = file.index.count()?;
    let (since, until) = (window.since.unwrap_or(i64::MIN), window.until.unwrap_or(i64::MAX));
    let mut span = Span { file: Arc::clone(file), from: 0, to: end, end, first: 0, last: count };
    if count == 0 {
        let time = file.written()?;
        return Ok((since <= time && time <= until).then_some(span));
    }
    if window.since.is_some() {
        span.first = file.index.first(0..count, |_, time| time >= since)?;
        if span.first == count {
            return Ok(None);
        }
        span.from = if span.first == 0 { 0 } else { file.index.offset(span.first)?.min(end) };
    }
    if window.until.is_some() {
        span.last = file.index.first(span.first..count, |_, time| time > until)?;
        if span.last < count {
            span.to = file.index.offset(span.last)?.min(end);
        }
    }
    Ok((span.first < span.last).then_some(span))
}

/// What of it belongs to a run.
fn of_run(span: &Span, run: Run) -> io::Result<Option<Span>> {
    let mut cursor = Cursor::new(span.first, span.last);
    let mut found: Option<Span> = None;
    while let Some(entry) = cursor.peek(&span.file.index)? {
        let at = cursor.at();
        if run.is(entry.run) {
            let is_first = found.is_none();
            let found = found.get_or_insert_with(|| span.clone());
            if is_first {
                (found.first, found.from) = (at, entry.offset.max(span.from).min(span.to));
            }
            (found.last, found.to) = (at + 1, span.to);
        } else if let Some(found) = &mut found
            && found.last == at
        {
            found.to = entry.offset.min(span.to);
        }
        cursor.step();
    }
    Ok(found)
}

/// Bytes that are read at once on the way back; more when much is asked for.
const BACK: u64 = 64 << 10;
const BACK_MAX: u64 = 1 << 20;

/// Leaves the last lines of these, so many of those that are searched for, or fewer if
/// there are no more; how many. What is older is not read.
pub(super) fn last_lines(
    spans: &mut Vec<Span>,
    lines: u64,
    grep: Option<&Grep>,
) -> io::Result<u64> {
    let mut left = lines;
    let mut kept: Vec<Span> = Vec::new();
    while left > 0
        && let Some(mut span) = spans.pop()
    {
        let mut chunk = Chunk::default();
        let (mut to, mut size) = (span.to, BACK);
        while left > 0 && to > span.from {
            let from = to.saturating_sub(size).max(span.from);
            chunk.load(&span.file, (from, to, span.end), false)?;
            let found = chunk.count(grep);
            if found >= left {
                chunk.rewind();
                let line = (0..=found - left).filter_map(|_| chunk.next_line(grep)).last();
                span.from = line.map_or(span.from, |line| line.offset);
                span.first = span
                    .file
                    .index
                    .first(span.first..span.last, |offset, _| offset >= span.from)?;
            }
            left = left.saturating_sub(found);
            (to, size) = (from, (2 * size).min(BACK_MAX));
        }
        kept.push(span);
    }
    kept.reverse();
    *spans = kept;
    Ok(lines - left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs() {
        for (text, run) in [
            ("last", Some(Run::Back(1))),
            ("-1", Some(Run::Back(1))),
            ("-12", Some(Run::Back(12))),
            ("5f0C", Some(Run::Id { value: 0x5f0c, digits: 4 })),
            ("-0", None),
            ("--1", None),
            ("-", None),
            ("", None),
            ("+1", None),
            ("x", None),
            ("00000000000000000", None),
        ] {
            assert_eq!(Run::parse(text), run, "{text}");
        }
        let run = 0x5f0c_0000_0000_0001;
        let is = |text| Run::parse(text).is_some_and(|wanted| wanted.is(run));
        assert!(is("5f0c") && is("5") && is("5f0c000000000001"));
        assert!(!is("6") && !is("5f0d") && !is("5f0c000000000002") && !is("1"));
        assert!(Run::parse("a1").is_some_and(|wanted| wanted.is(0xa1)));
    }

    /// A file of numbered lines of many lengths.
    fn log(directory: &Path) -> (Log, Vec<String>) {
        let line = |n: usize| format!("{n} {}", "x".repeat(n * 7919 % 300));
        let lines: Vec<String> = (0..5000).map(line).collect();
        std::fs::write(directory.join(CURRENT), lines.join("\n")).unwrap();
        (Log::open(directory, None).unwrap(), lines)
    }

    fn read(span: &Span, piece: u64) -> Vec<String> {
        let (mut chunk, mut at, mut is_start) = (Chunk::default(), span.from, false);
        let mut found = Vec::new();
        while at < span.to {
            let to = span.to.min(at + piece);
            chunk.load(&span.file, (at, to, span.end), is_start).unwrap();
            while let Some(line) = chunk.next_line(None) {
                assert!(line.is_whole);
                found.push(String::from_utf8(chunk.text(line).to_vec()).unwrap());
            }
            (at, is_start) = (chunk.next, is_start || !chunk.is_empty());
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_a_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (log, lines) = log(dir.path());
        let spans = log.spans(Window::default(), None).unwrap();
        for piece in [1, 7, 300, 4096, 1 << 20] {
            assert!(read(&spans[0], piece) == lines, "{piece}");
        }
        // Each line belongs to the piece in which it begins, and to no other.
        let mut all = Vec::new();
        for from in (0..spans[0].to).step_by(97) {
            let to = spans[0].to.min(from + 97);
            all.extend(read(&Span { from, to, ..spans[0].clone() }, 50));
        }
        assert!(all == lines);
    }

    #[test]
    fn lines_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (log, lines) = log(dir.path());
        let grep = Grep::new("^[0-9]*7 ", false).unwrap();
        for count in [0, 1, 2, 400, 4999, 5000, 6000_usize] {
            let mut spans = log.spans(Window::default(), None).unwrap();
            let found = last_lines(&mut spans, count as u64, None).unwrap() as usize;
            assert_eq!(found, count.min(5000));
            let shown: Vec<String> = spans.iter().flat_map(|span| read(span, 1000)).collect();
            assert!(shown == lines[5000 - found..], "{count}");
            let mut spans = log.spans(Window::default(), None).unwrap();
            let found = last_lines(&mut spans, count as u64, Some(&grep)).unwrap() as usize;
            assert_eq!(found, count.min(500));
            let first = spans.first().and_then(|span| read(span, 1000).into_iter().next());
            let expected = (found > 0).then(|| lines[4997 - 10 * (found - 1)].clone());
            assert!(first == expected || found == 500, "{count}: {first:?}");
        }
    }
}
