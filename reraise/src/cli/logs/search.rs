//! Searching large logs with all processors: the files are cut into pieces, and what
//! is found comes back in their order.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::chunk::{Chunk, Span};
use super::filter::Grep;

/// Bytes of a piece, and those of it that are read at once: so many stay near the
/// processor until they are searched.
const PIECE: u64 = 1 << 20;
const READ: u64 = 96 << 10;
/// More do not help: the memory is not faster.
const THREADS_MAX: usize = 8;

/// What was found in a piece.
#[derive(Default)]
pub(super) struct Found {
    text: Vec<u8>,
    /// Where each line stands in the file, and where its text ends here.
    lines: Vec<(u64, usize)>,
}

struct Job {
    span: Span,
    answer: SyncSender<io::Result<Found>>,
}

/// Threads that search.
#[derive(Clone)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    /// Pieces that one log may have under way.
    depth: usize,
}

impl Pool {
    /// For so many logs.
    /// `is_joined`: nobody asks for the time of a line, and what is found at once comes
    /// as one.
    pub(super) fn new(grep: &Grep, logs: usize, is_joined: bool) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
        let (jobs, inbox) = channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..threads {
            let inbox = Arc::clone(&inbox);
            // Each has what it needs to search; sharing it would be slower.
            let grep = grep.clone();
            std::thread::spawn(move || {
                let mut chunk = Chunk::default();
                loop {
                    let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // Nobody may want to know any more.
                    let _ = job.answer.send(find(&mut chunk, &job.span, &grep, is_joined));
                }
            });
        }
        Self { jobs, depth: (4 * threads / logs.max(1)).max(2) }
    }
}

fn find(chunk: &mut Chunk, span: &Span, grep: &Grep, is_joined: bool) -> io::Result<Found> {
    let mut found = Found::default();
    span.file.prepare()?;
    let (mut at, mut is_start) = (span.from, false);
    while at < span.to {
        let to = span.to.min(at + READ);
        chunk.load(&span.file, (at, to, span.end), is_start)?;
        while let Some(line) = chunk.next_line(Some(grep)) {
            if is_joined && !found.lines.is_empty() {
                found.text.push(b'\n');
                found.lines.clear();
            }
            found.text.extend_from_slice(chunk.text(line));
            found.lines.push((line.offset, found.text.len()));
        }
        (at, is_start) = (chunk.next, is_start || !chunk.is_empty());
    }
    Ok(found)
}

/// The search through one log.
pub(super) struct Search {
    pool: Pool,
    /// What nobody searches yet.
    left: VecDeque<(usize, Span)>,
    under_way: VecDeque<(usize, Receiver<io::Result<Found>>)>,
    found: Found,
    next: usize,
}

impl Search {
    pub(super) fn new(pool: &Pool, spans: impl Iterator<Item = Span>) -> Self {
        let left = spans.enumerate().collect();
        let mut search = Self {
            pool: pool.clone(),
            left,
            under_way: VecDeque::new(),
            found: Found::default(),
            next: 0,
        };
        search.ask();
        search
    }

    /// Has the next pieces searched.
    fn ask(&mut self) {
        while self.under_way.len() < self.pool.depth
            && let Some((number, span)) = self.left.front_mut()
        {
            let (answer, receiver) = sync_channel(1);
            let piece = Span { to: span.to.min(span.from + PIECE), ..span.clone() };
            span.from = piece.to;
            self.under_way.push_back((*number, receiver));
            if span.from >= span.to {
                self.left.pop_front();
            }
            // Without threads, there is no answer, which is seen below.
            let _ = self.pool.jobs.send(Job { span: piece, answer });
        }
    }

    /// Where the next line of a span stands in its file; spans count from 0.
    pub(super) fn next_line(&mut self, number: usize) -> io::Result<Option<u64>> {
        loop {
            if let Some(&(offset, _)) = self.found.lines.get(self.next) {
                self.next += 1;
                return Ok(Some(offset));
            }
            if self.under_way.front().is_none_or(|(of, _)| *of != number) {
                return Ok(None);
            }
            let Some((_, receiver)) = self.under_way.pop_front() else { return Ok(None) };
            self.ask();
            let gone = |_| io::Error::other("a search ended early");
            self.found = receiver.recv().map_err(gone)??;
            self.next = 0;
        }
    }

    /// Its text.
    pub(super) fn text(&self) -> &[u8] {
        let end = |at: usize| self.found.lines.get(at).map_or(0, |&(_, end)| end);
        let from = if self.next < 2 { 0 } else { end(self.next - 2) };
        &self.found.text[from..end(self.next.saturating_sub(1))]
    }
}
