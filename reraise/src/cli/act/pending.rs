//! One service that a command waits for. Pure: what it hears decides whether
//! the wait is over, and what is printed.

use std::path::PathBuf;

use reraise::error::{ExitCode, Fault};
use reraise::name::ServiceName;
use reraise::service::Entry;
use reraise::supervise::machine::Outcome;
use reraise::supervise::news::News;
use reraise::words;

use super::Verb;
use crate::cli::client::Word;
use crate::cli::state::Seen;

/// See the module.
pub(super) struct Pending {
    /// The worker as the record named it, for the line that is printed.
    worker: Option<i32>,
    /// The process that ran before, though nobody watched it.
    unwatched: Option<i32>,
    /// Where its output goes unless its script says otherwise.
    log: PathBuf,
    /// A worker has the request; what came before was not about it.
    is_taken: bool,
    /// `start` was printed.
    is_launched: bool,
    survivors: Vec<i32>,
}

/// What hearing something made of it.
pub(super) enum Settled {
    NotYet,
    /// Not yet, but this is to be said.
    Warned(Fault),
    /// Done; to be printed.
    Line(String),
    /// Not done; perhaps with a line on standard output as well.
    Fault(Option<String>, Fault),
    /// A worker of no keeper has it.
    Foreign(i32),
}

impl Pending {
    pub(super) fn new(seen: &Seen, log: PathBuf) -> Self {
        Self {
            worker: seen.record.as_ref().and_then(|r| r.worker),
            unwatched: seen.record.as_ref().and_then(|r| r.pid).filter(|_| seen.is_unwatched),
            log,
            is_taken: false,
            is_launched: false,
            survivors: Vec::new(),
        }
    }

    pub(super) fn hear(
        &mut self,
        name: &ServiceName,
        entry: Option<&Entry>,
        verb: Verb,
        word: &Word,
    ) -> Settled {
        let news = match word {
            Word::Ack => {
                self.is_taken = true;
                return match verb {
                    Verb::Stop { wait: false, .. } | Verb::Restart { wait: false } => {
                        Settled::Line(self.line(name, verb))
                    }
                    _ => Settled::NotYet,
                };
            }
            Word::News(news) => news,
        };
        match (news, verb) {
            (News::Fault(fault), _) => {
                Settled::Fault(None, Fault { object: name.to_string(), ..fault.clone() })
            }
            (News::Warning(fault), _) => {
                Settled::Warned(Fault { object: name.to_string(), ..fault.clone() })
            }
            (News::Held(pid), _) => Settled::Foreign(*pid),
            (News::Survivors(pids), _) => {
                self.survivors.clone_from(pids);
                Settled::NotYet
            }
            (News::Already(_), Verb::Start { .. }) => {
                Settled::Line(format!("{name}: skip (because already running)"))
            }
            (News::Already(pid) | News::Launched(pid), Verb::Resume)
                if self.unwatched == Some(*pid) =>
            {
                Settled::Line(format!("{name}: adopt    # (pid={pid})"))
            }
            (News::Already(0), Verb::Resume) => {
                Settled::Line(format!("{name}: skip (because it will start soon)"))
            }
            // By the keeper that we have started: it was faster than our request.
            (News::Already(_) | News::Launched(_), Verb::Resume) => {
                Settled::Line(self.line(name, verb))
            }
            // Nobody may be left who could say that it was launched.
            (
                News::Launched(_) | News::Running(_),
                Verb::Start { wait: None, .. } | Verb::Restart { .. },
            ) if self.is_taken => Settled::Line(self.line(name, verb)),
            (News::Launched(_), Verb::Start { wait: Some(_), .. }) => {
                self.is_launched = true;
                Settled::NotYet
            }
            (News::Running(_), Verb::Start { .. }) if self.is_launched || self.is_taken => {
                Settled::Line(self.line(name, verb))
            }
            // It was stopped, and somebody else has started it since.
            (News::Launched(_), Verb::Stop { .. }) if self.is_taken => {
                Settled::Line(self.line(name, verb))
            }
            (News::Over(outcome), _) if self.is_taken => self.over(name, entry, verb, *outcome),
            (
                News::Launched(_)
                | News::Already(_)
                | News::Running(_)
                | News::Ended(_)
                | News::Essential(_)
                | News::Over(_),
                _,
            ) => Settled::NotYet,
        }
    }

    fn line(&self, name: &ServiceName, verb: Verb) -> String {
        match (verb, self.worker) {
            (Verb::Start { .. } | Verb::Resume, _) => format!("{name}: start"),
            (Verb::Stop { .. }, Some(worker)) => {
                format!("{name}: stop    # (worker-pid={worker})")
            }
            (Verb::Stop { .. }, None) => format!("{name}: stop"),
            (Verb::Restart { .. }, Some(worker)) => {
                format!("{name}: restart    # (worker-pid={worker})")
            }
            (Verb::Restart { .. }, None) => format!("{name}: restart"),
        }
    }

    fn over(
        &self,
        name: &ServiceName,
        entry: Option<&Entry>,
        verb: Verb,
        outcome: Outcome,
    ) -> Settled {
        let failed = |what: String, advice: String| {
            Settled::Fault(None, Fault::new(ExitCode::Failed, name, what, advice))
        };
        let log = format!("see its output: tail {}", self.log.display());
        match (outcome, verb) {
            (Outcome::Stopped, Verb::Stop { .. }) => Settled::Line(self.line(name, verb)),
            (Outcome::Done(_), Verb::Start { .. } | Verb::Resume) => {
                Settled::Line(self.line(name, verb))
            }
            // A stop that was cut short has been finished.
            (Outcome::Stopped, Verb::Resume) => Settled::Line(format!("{name}: stop")),
            (Outcome::NotRunning, Verb::Resume) if self.unwatched.is_some() => {
                Settled::Line(format!("{name}: stop"))
            }
            (Outcome::NotRunning, Verb::Resume) => {
                Settled::Line(format!("{name}: skip (because it is not wanted)"))
            }
            (Outcome::Failed(exit), Verb::Resume) if self.unwatched.is_some() => {
                failed(format!("ended while nobody watched it: {exit}"), log)
            }
            (Outcome::NotRunning | Outcome::Failed(_) | Outcome::Done(_), Verb::Stop { .. })
            | (Outcome::Unlaunchable(_), Verb::Stop { .. }) => {
                Settled::Line(format!("{name}: skip (because not running)"))
            }
            (Outcome::NotRunning, Verb::Restart { .. }) => Settled::Fault(
                Some(format!("{name}: skip (because not running)")),
                Fault::new(
                    ExitCode::NotRunning,
                    name,
                    "restart does not start what is not running",
                    format!("start it: reraise start {name}"),
                ),
            ),
            (Outcome::Survived, _) => failed(
                format!("these processes outlived all signals: {:?}", self.survivors),
                "see what they wait for: ps -o pid,stat,wchan,args -p PID".to_owned(),
            ),
            (Outcome::Stopped | Outcome::NotRunning, _) => failed(
                "was stopped meanwhile by somebody else".to_owned(),
                format!("start it again: reraise start {name}"),
            ),
            (Outcome::Failed(exit), _) => failed(format!("failed to start: {exit}"), log),
            (Outcome::Done(exit), Verb::Restart { .. }) => failed(format!("ended: {exit}"), log),
            (Outcome::Unlaunchable(error), _) => match entry {
                Some(entry) => Settled::Fault(None, words::unlaunchable(name, entry, error)),
                None => {
                    let advice = "put it back, then start it again";
                    let code = ExitCode::NoService;
                    Settled::Fault(None, Fault::new(code, name, "its script is gone", advice))
                }
            },
        }
    }
}
