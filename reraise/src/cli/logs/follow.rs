//! What is said from now on, across rotation and restart.

use std::fs;
use std::io;
use std::sync::Arc;

use memchr::memrchr;
use reraise::logger::index;
use reraise::logger::names::{self, CURRENT};

use super::chunk::{LINE_MAX, Span};
use super::file::{Cursor, LogFile, id, is_cut};
use super::span::{Log, is_compressed};
use super::stream::Origin;

/// The end of a log.
pub(super) struct Tail {
    pub(super) origin: Origin,
    /// What was `current` when last looked.
    held: Option<Held>,
    /// The last rotated file that is done with.
    newest: Option<String>,
    /// The run that began last, and when.
    pub(super) began: (u64, i64),
}

struct Held {
    file: Arc<LogFile>,
    /// What is shown already.
    offset: u64,
    entry: u64,
    /// How it begins.
    head: Vec<u8>,
}

impl Tail {
    /// The end of a log of which some is to be shown now: of those spans, what is not
    /// whole yet is taken away.
    pub(super) fn new(origin: Origin, log: &Log, spans: &mut [Span]) -> io::Result<Self> {
        let current = log.files.last().filter(|_| log.has_current);
        let mut held = None;
        if let Some(file) = current {
            let size = file.size()?;
            let offset = whole(file, 0, size)?;
            let count = file.index.count()?;
            let entry = file.index.first(0..count, |at, _| at > offset)?;
            for span in spans.iter_mut().filter(|span| span.file.id == file.id) {
                (span.to, span.end) = (span.to.min(offset), span.end.min(offset));
                span.last = span.last.min(entry).max(span.first);
            }
            held = Some(Held { offset, entry, ..Held::new(Arc::clone(file)) });
        }
        let newest = log.newest.clone();
        Ok(Self { origin, held, newest, began: (0, 0) })
    }

    /// What has been said since.
    pub(super) fn more(&mut self) -> io::Result<Vec<Span>> {
        let mut spans = Vec::new();
        if self.held.is_none() {
            spans.extend(self.step_over()?);
        }
        while let Some(file) = self.held.as_ref().map(|held| held.file.id) {
            // First: once there is another, nothing comes to this one any more.
            let now = fs::symlink_metadata(self.origin.directory.join(CURRENT));
            let is_replaced = now.is_ok_and(|now| id(&now) != file);
            self.renew_index()?;
            if let Some(held) = &mut self.held {
                spans.push(held.more(is_replaced)?);
            }
            if !is_replaced {
                break;
            }
            spans.extend(self.step_over()?);
        }
        spans.retain(|span| span.from < span.to || span.first < span.last);
        Ok(spans)
    }

    /// Takes the index that has been made since, if it belongs to what is held.
    fn renew_index(&mut self) -> io::Result<()> {
        let path = self.origin.directory.join(CURRENT);
        let Some(held) = &mut self.held else { return Ok(()) };
        let Ok(now) = fs::symlink_metadata(index::path_of(&path)) else { return Ok(()) };
        if held.file.index.id() == Some(id(&now)) {
            return Ok(());
        }
        match LogFile::open(&path) {
            Ok(file) if file.id == held.file.id => {
                // Its logger has emptied it, and began anew.
                if held.file.index.id().is_some() {
                    held.offset = 0;
                }
                (held.file, held.entry) = (Arc::new(file), 0);
                Ok(())
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// From a file that has been rotated to the present one, and what was between.
    fn step_over(&mut self) -> io::Result<Vec<Span>> {
        let old = self.held.take().map(|held| held.file.id);
        let open = |name: &str| match LogFile::open(&self.origin.directory.join(name)) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        // First: when it is rotated now, it has one of the names below.
        let current = open(CURRENT)?;
        let mut between = Vec::new();
        let mut newest = self.newest.take();
        for name in names::all_rotated(&self.origin.directory)? {
            if is_compressed(&name) || newest.as_ref().is_some_and(|newest| name <= *newest) {
                continue;
            }
            match open(&name)? {
                Some(file) if current.as_ref().is_some_and(|now| now.id == file.id) => break,
                Some(file) if Some(file.id) == old => between.clear(),
                Some(file) => between.push(file),
                None => {}
            }
            newest = Some(name);
        }
        self.newest = newest;
        self.held = current.map(Held::new);
        between.into_iter().map(|file| Held::new(file).more(true)).collect()
    }
}

impl Held {
    fn new(file: Arc<LogFile>) -> Self {
        Self { file, offset: 0, entry: 0, head: Vec::new() }
    }

    /// What has come; with what is no whole line only if nothing comes to it any more.
    fn more(&mut self, is_final: bool) -> io::Result<Span> {
        let size = self.file.size()?;
        let count = self.file.index.count()?;
        let mut head = vec![0; HEAD.min(size as usize)];
        let got = self.file.read(&mut head, 0)?;
        head.truncate(got);
        if size >= self.offset {
            self.head = head;
        } else if head.starts_with(&self.head) {
            // Its logger has taken the end back, to write the same once more.
            return Ok(self.span(self.offset, self.entry));
        } else {
            // Somebody has emptied it; what the index says of it is no longer so.
            *self = Self { entry: count, ..Self::new(Arc::clone(&self.file)) };
        }
        let to = if is_final { size } else { whole(&self.file, self.offset, size)? };
        let last = if is_final {
            count.max(self.entry)
        } else {
            self.file.index.first(self.entry..count.max(self.entry), |offset, _| offset > to)?
        };
        Ok(self.span(to, last))
    }

    /// From what is shown already to these, which are then.
    fn span(&mut self, to: u64, last: u64) -> Span {
        let (from, first) = (self.offset, self.entry);
        (self.offset, self.entry) = (to, last);
        Span { file: Arc::clone(&self.file), from, to, end: to, first, last }
    }
}

/// Bytes by which a file is known that was not emptied.
const HEAD: usize = 64;

/// Bytes that are looked at at once.
const STEP: u64 = 16 << 10;

/// The end of the last line that is whole, or of a run.
fn whole(file: &LogFile, from: u64, size: u64) -> io::Result<u64> {
    let mut to = size;
    let mut end = from;
    let mut bytes = vec![0; STEP as usize];
    while to > from {
        let start = to.saturating_sub(STEP).max(from);
        let got = file.read(&mut bytes[..(to - start) as usize], start)?;
        if let Some(at) = memrchr(b'\n', &bytes[..got]) {
            end = start + at as u64 + 1;
            break;
        }
        to = start;
    }
    // It is no line that one could wait for.
    if size - end > LINE_MAX as u64 {
        return Ok(size);
    }
    let count = file.index.count()?;
    let mut cursor = Cursor::new(file.index.first(0..count, |offset, _| offset > size)?, count);
    while let Some(entry) = cursor.back(&file.index)?.filter(|entry| entry.offset > end) {
        if is_cut(entry.mark) {
            return Ok(entry.offset);
        }
    }
    Ok(end)
}
