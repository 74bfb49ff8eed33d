//! What a worker is asked for, by way of its keeper.

use std::io;

use crate::backend::ProcessBackend;
use crate::context::Context;
use crate::error::{ExitCode, Fault};
use crate::supervise::link::Request;
use crate::supervise::machine::{Input, State};
use crate::supervise::news::News;
use crate::supervise::plan::{self, Raising};
use crate::supervise::worker::Worker;
use crate::wanted::Wanted;

impl<B: ProcessBackend> Worker<B> {
    pub(super) fn on_requests(&mut self) -> io::Result<()> {
        for (request, asked) in self.link.receive(&mut self.backend)? {
            if matches!(self.machine.state(), State::Over(_)) {
                // We are leaving; the keeper gives the rest to our successor.
                break;
            }
            // In the order in which they came.
            self.note_stop();
            self.asked = asked.or(self.asked.take());
            match request {
                Some(Request::Start { client, context, once }) => {
                    self.on_start(&client, &context, once)?;
                }
                Some(Request::Resume { client }) => self.on_resume(&client)?,
                Some(Request::Stop { now, company }) => {
                    // The signal first, since it takes effect meanwhile; the
                    // rest when the service has ended, or in a moment. If we
                    // are killed in between, the request was not acknowledged,
                    // and our successor gets it. A second request is not a
                    // second TERM: it only waits.
                    let is_first = !self.is_ending();
                    self.feed(if now { Input::StopNow } else { Input::Stop })?;
                    self.owes_stop = true;
                    match self.others {
                        // Its signal is on its way, and whatever comes of it keeps.
                        Some(_) if is_first => {
                            let patience = company.patience(self.backend.now());
                            self.backend.pause(patience);
                        }
                        Some(_) => {}
                        None => self.note_stop(),
                    }
                    continue;
                }
                Some(Request::Leave { now }) => {
                    self.note_asked("leave");
                    self.feed(if now { Input::StopNow } else { Input::Stop })?;
                }
                Some(Request::Restart) => self.feed(Input::Restart)?,
                None => self.refuse(),
            }
            self.link.acknowledge();
        }
        Ok(())
    }

    /// What was asked for is kept, and acknowledged.
    pub(super) fn note_stop(&mut self) {
        if std::mem::take(&mut self.owes_stop) {
            self.want(Wanted::Down);
            self.link.acknowledge();
        }
    }

    /// The same where the service has ended, which is told in the same breath.
    pub(super) fn note_stop_last(&mut self) {
        if self.owes_stop && matches!(self.machine.state(), State::Over(_)) {
            self.owes_stop = false;
            self.want(Wanted::Down);
            self.link.acknowledge_with_next();
        }
    }

    /// Brings it up if that is wanted.
    fn on_resume(&mut self, client: &str) -> io::Result<()> {
        match plan::raising(Wanted::read(&self.files.own), self.machine.state()) {
            Raising::Already => {
                let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
                self.link.answer(client, &News::Already(pid));
                Ok(())
            }
            Raising::Start => self.feed(Input::Start),
            Raising::Wait => Ok(()),
        }
    }

    /// Asked for something that only a later version knows.
    fn refuse(&mut self) {
        let what = "its worker is of an earlier version, and does not know what was asked for";
        let advice = "replace it, the service goes on: reraise upgrade";
        self.tell_fault(&Fault::new(ExitCode::System, &self.name, what, advice));
    }

    fn on_start(&mut self, client: &str, encoded: &[u8], once: bool) -> io::Result<()> {
        let wanted = Wanted::of_start(once);
        match self.machine.state() {
            State::Launching | State::Starting { .. } | State::Running => {
                let pid = self.tree.as_ref().map_or(0, |t| t.main.pid);
                self.want(wanted);
                self.machine.set_once(once);
                self.link.answer(client, &News::Already(pid));
                return Ok(());
            }
            State::Down | State::Delay { .. } | State::Clearing { .. } | State::Stopping { .. } => {
            }
            // We are leaving; the keeper asks our successor.
            State::Over(_) => return Ok(()),
        }
        if Context::decode(encoded).is_some()
            && let Err(e) = Context::keep(encoded, &self.files.file("context"))
        {
            self.say(&format!("cannot keep the new surroundings: {e}"));
        }
        self.want(wanted);
        self.machine.set_once(once);
        self.was_signalled = false;
        self.feed(Input::Start)
    }
}
