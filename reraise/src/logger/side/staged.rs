//! The way of output whose lines get their times: by way of the [`Stage`], so that nothing is
//! only in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use super::super::flow::deliver;
use super::super::stage::{Head, Stage};
use super::{BUDGET, Flow, STEP, Shared, Side, Turn, goes_on};
use crate::backend::native;
use crate::config::Logging;
use crate::error::is_shortage;

impl Side {
    /// By way of the stage, where each line gets its time.
    pub(super) fn pump_staged(
        &mut self,
        pipe: &File,
        turn: Turn<'_>,
        shared: &mut Shared,
        mut budget: usize,
    ) -> io::Result<Flow> {
        let Turn { run, rules, moment } = turn;
        let mut moved = 0;
        while goes_on(pipe, moved, &mut budget) {
            if native::MOVES && native::unread(pipe.as_fd()) == 0 {
                return Ok(Flow::Empty);
            }
            let Some(sink) = &self.sink else { break };
            let (file, end) = (sink.number(), sink.end());
            let head = Head { done: 0, file, end, time: moment.wall, run };
            let mut text = std::mem::take(&mut shared.text);
            if let Err(e) =
                self.take_in(&head, pipe, STEP.min(budget.saturating_sub(moved).max(1)), &mut text)
            {
                shared.text = text;
                return Err(e);
            }
            moved += text.len();
            self.staged = Some((head, text));
            self.deliver_staged(&rules.logging, shared)?;
        }
        Ok(if moved < BUDGET { Flow::Empty } else { Flow::More })
    }

    /// Takes bytes out of the pipe and into the stage; where that cannot be written, into
    /// memory alone: then they are gone if we are killed, and not before.
    fn take_in(
        &mut self,
        head: &Head,
        mut pipe: &File,
        most: usize,
        text: &mut Vec<u8>,
    ) -> io::Result<()> {
        let staged = match self.stage.take() {
            Some(stage) => Ok(stage),
            None => Stage::open(&self.stage_path()),
        }
        .and_then(|stage| {
            let filled = stage.fill(head, pipe, most, text);
            self.stage = Some(stage);
            filled
        });
        match staged {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock && !is_shortage(&e) => {
                // Not what was staged before, and is in the log.
                self.stage = self.stage.take().filter(|stage| stage.clear().is_err());
                text.resize(most, 0);
                let got = pipe.read(text)?;
                text.truncate(got);
                Ok(())
            }
            other => other,
        }
    }

    /// Writes what is staged; what cannot be written stays.
    pub(super) fn deliver_staged(
        &mut self,
        logging: &Logging,
        shared: &mut Shared,
    ) -> io::Result<()> {
        let Some((mut head, text)) = self.staged.take() else { return Ok(()) };
        let Some(sink) = &mut self.sink else {
            self.staged = Some((head, text));
            return Ok(());
        };
        let stage = self.stage.as_ref();
        let delivered = deliver(sink, stage, &mut head, &text, logging, &mut shared.out);
        match delivered {
            Ok(has_rotated) => {
                self.has_rotated |= has_rotated && logging.after.is_some();
                shared.text = text;
                stage.map_or(Ok(()), Stage::clear)
            }
            Err(e) => {
                let _ = stage.map(|stage| stage.note(&head));
                self.staged = Some((head, text));
                Err(e)
            }
        }
    }
}
