//! What is done when a log cannot be written: the disk is full, say, or has gone.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::super::flow::{count, discard};
use super::super::names;
use super::super::report::Report;
use super::super::rotated;
use super::super::rules::Rules;
use super::{Flow, Moment, Shared, Side, Turn};
use crate::config::LogFull;
use crate::error::{is_shortage, reason};

/// When a log that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The same where descriptors had run out.
const SHORTAGE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) again: Instant,
}

impl Side {
    /// It could not be written.
    pub(super) fn fail(
        &mut self,
        error: &io::Error,
        pipe: &File,
        turn: Turn<'_>,
        shared: &mut Shared,
        report: &mut Report,
    ) -> Flow {
        let Turn { rules, moment, .. } = turn;
        let errno = error.raw_os_error().unwrap_or(0);
        if is_shortage(error) {
            // Of no log in particular: it waits in the pipe for a moment.
            shared.is_short = true;
            self.close();
            return Flow::Stuck(moment.now + SHORTAGE);
        }
        let is_full = matches!(errno, libc::ENOSPC | libc::EDQUOT);
        if is_full && rules.logging.full == LogFull::DropOldest {
            let removed = self.make_room(rules, moment).unwrap_or(0);
            if removed > 0 {
                report.removed_bytes += removed;
                // A rotation may have come half-way.
                self.close();
                // At once; the pipe, which may be empty by now, would not call us.
                return Flow::Stuck(moment.now);
            }
        }
        self.close();
        let place = self.place(rules).map(|place| place.directory).unwrap_or_default();
        let why = format!("{}: {}", place.join(names::CURRENT).display(), reason(error));
        report.trouble = Some(why);
        let again = moment.now + RETRY;
        self.trouble = Some(Trouble { again });
        match rules.logging.full {
            LogFull::Block => Flow::Stuck(again),
            LogFull::DropOldest | LogFull::DropNew => self.drop_it(pipe, shared, report),
        }
    }

    /// Removes what is oldest; how many bytes.
    fn make_room(&mut self, rules: &Rules, moment: Moment) -> io::Result<u64> {
        let Some(place) = self.place(rules) else { return Ok(0) };
        if let Some(removed) = rotated::remove_oldest(&place.directory)? {
            return Ok(removed.max(1));
        }
        match &mut self.sink {
            Some(sink) if sink.end() > 0 => {
                let lines = sink.lines().unwrap_or(0);
                let removed = sink.clear(moment.wall)?;
                self.lost.0 += lines;
                self.lost.1 += removed;
                if let Some((head, _)) = &mut self.staged {
                    head.end = 0;
                }
                Ok(removed)
            }
            _ => Ok(0),
        }
    }

    /// Drops what is in the pipe, and in the stage.
    pub(super) fn drop_it(
        &mut self,
        pipe: &File,
        shared: &mut Shared,
        report: &mut Report,
    ) -> Flow {
        let mut lost = (0, 0);
        if let Some((head, text)) = self.staged.take() {
            let rest = &text[usize::try_from(head.done).unwrap_or(0).min(text.len())..];
            count(rest, &mut lost);
            if let Some(stage) = &self.stage {
                let _ = stage.clear();
            }
        }
        let flow = discard(pipe, shared, &mut lost);
        report.lost_lines += lost.0;
        report.lost_bytes += lost.1;
        self.lost.0 += lost.0;
        self.lost.1 += lost.1;
        flow
    }
}
