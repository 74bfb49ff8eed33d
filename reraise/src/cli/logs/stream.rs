//! What one log says, line by line, with time and run.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use reraise::backend::Exit;
use reraise::history::deaths;
use reraise::logger::index::{Entry, Mark};

use super::chunk::{Chunk, Line, Span};
use super::file::Cursor;
use super::filter::Grep;
use super::merge::Ordered;
use super::search::{Pool, Search};
use super::span::{Log, Run};

/// Bytes that are read at once; less when many logs are read side by side.
const PIECE: u64 = 256 << 10;
const PIECE_MIN: u64 = 16 << 10;

/// What a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    /// Standard output and standard error.
    Both,
    Stdout,
    Stderr,
}

/// Where something comes from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// Which of the services.
    pub(super) service: usize,
    pub(super) channel: Channel,
    pub(super) directory: PathBuf,
    /// What is remembered of its runs.
    pub(super) deaths: PathBuf,
}

/// Something that is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A line; the rest of one that is not whole follows.
    Line { is_whole: bool },
    /// The run begins.
    Begin,
    /// It ended; after so many microseconds.
    End(Exit, Option<i64>),
    /// So many lines are missing.
    Lost(u32),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// In microseconds since 1970.
    pub(super) time: i64,
    /// 0 when it is not known.
    pub(super) run: u64,
    pub(super) what: What,
}

/// What is wanted of a log.
#[derive(Clone, Default)]
pub(super) struct Wish {
    pub(super) grep: Option<Arc<Grep>>,
    pub(super) run: Option<Run>,
    /// Beginnings and ends of runs too.
    pub(super) marks: bool,
    /// It is read while it is written.
    pub(super) is_news: bool,
}

enum Source {
    Read { chunk: Chunk, at: u64, is_start: bool, piece: u64 },
    Search(Search),
}

/// See the module.
pub(super) struct Stream {
    pub(super) origin: Origin,
    wish: Wish,
    spans: VecDeque<Span>,
    source: Source,
    /// The span that is read now, and how many were before it.
    span: Option<(Span, Cursor)>,
    number: usize,
    /// The next line, if it was looked for, and there is one.
    line: Option<Option<(u64, Option<Line>)>>,
    shown: Option<Line>,
    time: i64,
    run: u64,
    /// The run that began last, and when.
    pub(super) began: (u64, i64),
    pub(super) head: Option<Head>,
    /// The rest of a line comes next.
    is_midway: bool,
}

impl Ordered for Stream {
    fn time(&self) -> Option<i64> {
        self.head.map(|head| if self.is_midway { i64::MIN } else { head.time })
    }

    fn advance(&mut self) -> io::Result<()> {
        let what = self.head.take().map(|head| head.what);
        self.is_midway = what == Some(What::Line { is_whole: false });
        self.go_on()
    }
}

impl Stream {
    /// Reads some spans. With a pool, they are searched by many.
    pub(super) fn new(
        origin: Origin,
        wish: Wish,
        spans: Vec<Span>,
        pool: Option<&Pool>,
        logs: usize,
    ) -> Self {
        let source = match pool {
            Some(pool) => Source::Search(Search::new(pool, spans.iter().cloned())),
            None => {
                let piece = (4 * PIECE / logs.max(1) as u64).clamp(PIECE_MIN, PIECE);
                Source::Read { chunk: Chunk::default(), at: 0, is_start: false, piece }
            }
        };
        Self {
            origin,
            wish,
            spans: spans.into(),
            source,
            span: None,
            number: 0,
            line: None,
            shown: None,
            time: 0,
            run: 0,
            began: (0, 0),
            head: None,
            is_midway: false,
        }
    }

    /// The text of the line that comes next.
    pub(super) fn text(&self) -> &[u8] {
        match (&self.source, self.shown) {
            (Source::Read { chunk, .. }, Some(line)) => chunk.text(line),
            (Source::Read { .. }, None) => &[],
            (Source::Search(search), _) => search.text(),
        }
    }

    fn go_on(&mut self) -> io::Result<()> {
        self.shown = None;
        loop {
            if self.span.is_none() && !self.begin_span()? {
                return Ok(());
            }
            let line = match self.line {
                Some(line) => line,
                None => {
                    let line = self.next_line()?;
                    self.line = Some(line);
                    line
                }
            };
            let Some((span, cursor)) = &mut self.span else { return Ok(()) };
            if let Some((offset, _)) = line
                && !self.wish.marks
            {
                cursor.skip_to(&span.file.index, offset)?;
            }
            if let Some(entry) = cursor.peek(&span.file.index)?
                && line.is_none_or(|(offset, _)| entry.offset <= offset)
            {
                let at = cursor.at();
                cursor.step();
                if self.take(entry, at)? {
                    return Ok(());
                }
                continue;
            }
            self.line = None;
            let Some((_, line)) = line else {
                self.span = None;
                self.number += 1;
                continue;
            };
            if self.wish.run.is_none_or(|run| run.is(self.run)) {
                self.shown = line;
                let is_whole = line.is_none_or(|line| line.is_whole);
                let what = What::Line { is_whole };
                self.head = Some(Head { time: self.time, run: self.run, what });
                return Ok(());
            }
        }
    }

    fn begin_span(&mut self) -> io::Result<bool> {
        let Some(span) = self.spans.pop_front() else { return Ok(false) };
        let index = &span.file.index;
        let before = match span.first.checked_sub(1) {
            Some(before) => index.entry(before)?,
            // What stands before the first entry was said before it, or when nobody knows.
            None => index.entry(0)?.map(|first| Entry { run: 0, ..first }),
        };
        (self.time, self.run) = match before {
            Some(before) => (before.time, before.run),
            None => (span.file.written()?, 0),
        };
        // What was said just now stands in the index a moment later.
        if self.wish.is_news && span.from < span.to {
            let written = span.file.written()?;
            self.time = if written - self.time > 1_000_000 { written } else { self.time };
        }
        if let Source::Read { at, is_start, .. } = &mut self.source {
            (*at, *is_start) = (span.from, false);
        }
        let cursor = Cursor::new(span.first, span.last);
        self.span = Some((span, cursor));
        Ok(true)
    }

    fn next_line(&mut self) -> io::Result<Option<(u64, Option<Line>)>> {
        let Some((span, _)) = &self.span else { return Ok(None) };
        let grep = self.wish.grep.as_deref();
        match &mut self.source {
            Source::Search(search) => {
                Ok(search.next_line(self.number)?.map(|offset| (offset, None)))
            }
            Source::Read { chunk, at, is_start, piece } => loop {
                if let Some(line) = chunk.next_line(grep) {
                    return Ok(Some((line.offset, Some(line))));
                }
                if *at >= span.to {
                    return Ok(None);
                }
                let to = span.to.min(*at + *piece);
                chunk.load(&span.file, (*at, to, span.end), *is_start)?;
                (*at, *is_start) = (chunk.next, *is_start || !chunk.is_empty());
            },
        }
    }

    /// Believes an entry; whether there is something to show.
    fn take(&mut self, entry: Entry, at: u64) -> io::Result<bool> {
        (self.time, self.run) = (entry.time, entry.run);
        let is_wanted = self.wish.marks && self.wish.run.is_none_or(|run| run.is(entry.run));
        if entry.mark == Mark::Begin {
            self.began = (entry.run, entry.time);
        }
        let what = match entry.mark {
            Mark::Output => return Ok(false),
            _ if !is_wanted => return Ok(false),
            Mark::Begin => What::Begin,
            Mark::Lost(lines) => What::Lost(lines),
            Mark::End(exit) => {
                let known = deaths::find(&self.origin.deaths, entry.run);
                let lasted = match (known, self.began) {
                    (Some(death), _) if !death.is_late => Some(death.lasted as i64 / 1000),
                    (_, (run, began)) if run == entry.run => Some(entry.time - began),
                    _ => self.look_up_begin(entry.run, at)?.map(|began| entry.time - began),
                };
                What::End(exit, lasted)
            }
        };
        self.head = Some(Head { time: entry.time, run: entry.run, what });
        Ok(true)
    }

    /// When the run began that ends with this entry of the present file.
    fn look_up_begin(&self, run: u64, at: u64) -> io::Result<Option<i64>> {
        let Some((span, _)) = &self.span else { return Ok(None) };
        let mut at = at;
        let all = Log::open(&self.origin.directory, None).unwrap_or_default().files;
        let earlier = all.iter().rev().skip_while(|file| file.id != span.file.id).skip(1);
        for file in std::iter::once(&span.file).chain(earlier) {
            let mut cursor = Cursor::new(at.min(file.index.count()?), u64::MAX);
            while let Some(entry) = cursor.back(&file.index)? {
                match entry.mark {
                    Mark::Begin if entry.run == run => return Ok(Some(entry.time)),
                    // Another run: its beginning was not written down.
                    _ if entry.run != run && entry.run != 0 => return Ok(None),
                    _ => {}
                }
            }
            at = u64::MAX;
        }
        Ok(None)
    }
}
