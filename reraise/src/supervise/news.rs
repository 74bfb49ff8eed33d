//! What a worker tells: to the keeper, which passes it on to whoever asked for
//! something to be done with that service.

use crate::backend::{Exit, LaunchError, Step};
use crate::control::Frame;
use crate::error::{ExitCode, Fault};
use crate::supervise::machine::Outcome;

/// One piece of news about a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Its program runs.
    Launched(i32),
    /// It has lasted `start_sec`.
    Running(i32),
    /// It runs already; the answer to a start.
    Already(i32),
    /// These processes outlived the ladder.
    Survivors(Vec<i32>),
    /// Another worker, that the keeper does not know, supervises it; 0 when it
    /// has no number here.
    Held(i32),
    /// Its run ended, and another one may follow.
    Ended(Exit),
    /// It is essential, and has ended for good.
    Essential(Exit),
    /// It cannot be done.
    Fault(Fault),
    /// It is done, but not all is as it should be.
    Warning(Fault),
    /// The worker ends.
    Over(Outcome),
}

impl News {
    /// As it travels.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let n = |number: i32| number.to_string();
        let told = |word: &str, f: &Fault| {
            let (object, what, advice) = (f.object.clone(), f.what.clone(), f.advice.clone());
            vec![word.to_owned(), n(f.code as i32), object, what, advice]
        };
        let fields: Vec<String> = match self {
            Self::Launched(pid) => vec!["launched".into(), n(*pid)],
            Self::Running(pid) => vec!["running".into(), n(*pid)],
            Self::Already(pid) => vec!["already".into(), n(*pid)],
            Self::Held(pid) => vec!["held".into(), n(*pid)],
            Self::Survivors(pids) => {
                ["survivors".into()].into_iter().chain(pids.iter().map(|&p| n(p))).collect()
            }
            Self::Fault(fault) => told("fault", fault),
            Self::Warning(fault) => told("warning", fault),
            Self::Ended(exit) => fields_of("ended", *exit),
            Self::Essential(exit) => fields_of("essential", *exit),
            Self::Over(outcome) => {
                let (word, numbers) = outcome_fields(*outcome);
                let mut fields = vec!["over".to_owned(), word.to_owned()];
                fields.extend(numbers.into_iter().map(n));
                fields
            }
        };
        Frame::new(fields)
    }

    /// From what travelled; `None` for what a later version may say.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        let fields = frame.texts()?;
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<i32>().ok());
        let fault = || {
            let code = ExitCode::from_number(number(1)?);
            Some(Fault::new(code, fields.get(2)?, fields.get(3)?, fields.get(4)?))
        };
        Some(match *fields.first()? {
            "launched" => Self::Launched(number(1)?),
            "running" => Self::Running(number(1)?),
            "already" => Self::Already(number(1)?),
            "held" => Self::Held(number(1)?),
            "survivors" => Self::Survivors((1..fields.len()).filter_map(number).collect()),
            "fault" => Self::Fault(fault()?),
            "warning" => Self::Warning(fault()?),
            "ended" => Self::Ended(exit(number(1), number(2))?),
            "essential" => Self::Essential(exit(number(1), number(2))?),
            "over" => Self::Over(outcome(fields.get(1)?, number(2), number(3))?),
            _ => return None,
        })
    }
}

fn fields_of(word: &str, exit: Exit) -> Vec<String> {
    let numbers = exit_fields(exit).into_iter().map(|n| n.to_string());
    [word.to_owned()].into_iter().chain(numbers).collect()
}

fn exit_fields(exit: Exit) -> [i32; 2] {
    match exit {
        Exit::Code(code) => [0, code],
        Exit::Signal { number, core } => [if core { 2 } else { 1 }, number],
        Exit::Unknown => [3, 0],
    }
}

fn exit(first: Option<i32>, second: Option<i32>) -> Option<Exit> {
    Some(match (first?, second?) {
        (0, code) => Exit::Code(code),
        (1, number) => Exit::Signal { number, core: false },
        (2, number) => Exit::Signal { number, core: true },
        _ => Exit::Unknown,
    })
}

fn outcome_fields(outcome: Outcome) -> (&'static str, Vec<i32>) {
    match outcome {
        Outcome::Stopped => ("stopped", Vec::new()),
        Outcome::Survived => ("survived", Vec::new()),
        Outcome::NotRunning => ("not-running", Vec::new()),
        Outcome::Failed(exit) => ("failed", exit_fields(exit).into()),
        Outcome::Done(exit) => ("done", exit_fields(exit).into()),
        Outcome::Unlaunchable(e) => ("unlaunchable", vec![e.step as i32, e.errno]),
    }
}

fn outcome(word: &str, first: Option<i32>, second: Option<i32>) -> Option<Outcome> {
    Some(match word {
        "stopped" => Outcome::Stopped,
        "survived" => Outcome::Survived,
        "not-running" => Outcome::NotRunning,
        "failed" => Outcome::Failed(exit(first, second)?),
        "done" => Outcome::Done(exit(first, second)?),
        "unlaunchable" => {
            let step = [Step::Fork, Step::Limits, Step::Directory, Step::Output, Step::Exec]
                .into_iter()
                .find(|&s| Some(s as i32) == first)?;
            Outcome::Unlaunchable(LaunchError { step, errno: second? })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_news_travels() {
        let fault = Fault::new(ExitCode::System, "web", "a b", "c\nd");
        let exits = [Exit::Code(3), Exit::Signal { number: 9, core: true }, Exit::Unknown];
        let mut all = vec![
            News::Launched(1),
            News::Running(2),
            News::Already(3),
            News::Held(0),
            News::Survivors(vec![4, 5]),
            News::Survivors(vec![]),
            News::Fault(fault.clone()),
            News::Warning(fault),
            News::Over(Outcome::Stopped),
            News::Over(Outcome::Survived),
            News::Over(Outcome::NotRunning),
            News::Over(Outcome::Unlaunchable(LaunchError { step: Step::Exec, errno: 2 })),
        ];
        all.extend(exits.map(News::Ended));
        all.extend(exits.map(News::Essential));
        all.extend(exits.map(|e| News::Over(Outcome::Failed(e))));
        all.extend(exits.map(|e| News::Over(Outcome::Done(e))));
        for news in all {
            assert_eq!(News::from_frame(&news.to_frame()), Some(news));
        }
        assert_eq!(News::from_frame(&Frame::new(["dance"])), None);
    }
}
