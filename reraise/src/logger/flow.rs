//! From a pipe or a stage onwards: how far a step goes, and what becomes of the bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use super::index::Mark;
use super::side::{BUDGET, Flow, STEP, Shared};
use super::sink::Sink;
use super::stage::{Head, Stage};
use super::stamp::{self, Stamp};
use crate::backend::native::Peephole;
use crate::config::Logging;

/// Bytes up to the next end of a line, or all that can be seen when there is none.
pub(super) fn to_line_end(pipe: &File, shared: &mut Shared) -> io::Result<usize> {
    let mut seen = [0; 4096];
    if shared.hole.is_none() {
        shared.hole = Some(Peephole::new()?);
    }
    let Some(hole) = &shared.hole else { return Ok(0) };
    let got = hole.look(pipe.as_fd(), &mut seen)?;
    Ok(seen[..got].iter().position(|&b| b == b'\n').map_or(got, |at| at + 1))
}

/// Writes the rest of what is staged; whether the log was rotated meanwhile. When it
/// fails, the head says from where to go on.
pub(super) fn deliver(
    sink: &mut Sink,
    stage: Option<&Stage>,
    head: &mut Head,
    text: &[u8],
    logging: &Logging,
    out: &mut Vec<u8>,
) -> io::Result<bool> {
    if head.file == sink.number() {
        // What was written before its writer died is written once more.
        if sink.end() > head.end {
            sink.cut(head.end)?;
        }
    } else {
        // It was rotated meanwhile, or somebody has put another one there.
        (head.file, head.end) = (sink.number(), sink.end());
    }
    let stamp = Stamp::new(logging.time, head.time);
    let mut has_rotated = false;
    loop {
        let at = usize::try_from(head.done).unwrap_or(usize::MAX).min(text.len());
        let rest = &text[at..];
        if rest.is_empty() {
            return Ok(has_rotated);
        }
        if sink.is_due(logging, head.time) && (sink.is_fresh()? || sink.is_overdue(logging)) {
            (head.file, head.end) = (sink.number(), sink.end());
            stage.map_or(Ok(()), |stage| stage.note(head))?;
            sink.rotate(logging, head.time)?;
            has_rotated = true;
            (head.file, head.end) = (sink.number(), sink.end());
            stage.map_or(Ok(()), |stage| stage.note(head))?;
        }
        if sink.run() != head.run {
            sink.mark(head.time, head.run, Mark::Begin)?;
        }
        let room = usize::try_from(logging.size.saturating_sub(sink.end())).unwrap_or(usize::MAX);
        let least = before_times(rest, room.clamp(1, rest.len()), room, &stamp);
        let line_end = rest[least - 1..].iter().position(|&b| b == b'\n');
        let part = &rest[..line_end.map_or(rest.len(), |more| least + more)];
        out.clear();
        stamp::append(out, part, &stamp, sink.is_fresh()?);
        let before = sink.end();
        sink.write(out)?;
        sink.mark_output(before, head.time, head.run)?;
        head.done += part.len() as u64;
        head.end = sink.end();
    }
}

/// About how many of so many bytes fit where there is room, with the times before
/// their lines; at least one.
fn before_times(text: &[u8], bytes: usize, room: usize, stamp: &Stamp) -> usize {
    let mut bytes = bytes;
    while bytes > 1 && bytes.saturating_mul(1 + stamp.length()) > room {
        let lines = text[..bytes].iter().filter(|&&b| b == b'\n').count();
        let grown = bytes + lines * stamp.length();
        if grown <= room {
            break;
        }
        bytes = (bytes * room / grown).max(1);
    }
    bytes
}

/// Reads and forgets.
pub(super) fn discard(pipe: &File, shared: &mut Shared, lost: &mut (u64, u64)) -> Flow {
    shared.text.resize(STEP, 0);
    let mut moved = 0;
    let mut pipe = pipe;
    while moved < BUDGET {
        match pipe.read(&mut shared.text) {
            Ok(0) | Err(_) => return Flow::Empty,
            Ok(got) => {
                count(&shared.text[..got], lost);
                moved += got;
            }
        }
    }
    Flow::More
}

pub(super) fn count(text: &[u8], lost: &mut (u64, u64)) {
    lost.0 += text.iter().filter(|&&b| b == b'\n').count() as u64;
    lost.1 += text.len() as u64;
}
