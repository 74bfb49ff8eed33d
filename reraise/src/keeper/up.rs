//! The keeper in the foreground, `reraise up`: it brings services up when it
//! begins, says what becomes of them, and ends all of them before it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::registry::NOBODY;
use super::{Keeper, scan};
use crate::backend::Exit;
use crate::control::Frame;
use crate::error::{ExitCode, reason};
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::supervise::news::News;

/// Whether all services are being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Leaving {
    /// They are not.
    #[default]
    No,
    /// In order.
    Asked,
    /// Without patience.
    Hurried,
}

impl Leaving {
    /// What one more request makes of it.
    fn further(self) -> Self {
        match self {
            Self::No => Self::Asked,
            Self::Asked | Self::Hurried => Self::Hurried,
        }
    }
}

/// Where `reraise up` leaves its surroundings for the keeper that it becomes.
#[must_use]
pub fn context_file(state: &Path, pid: u32) -> PathBuf {
    state.join(format!("up.{pid}"))
}

/// Takes what was left for us.
pub(super) fn take_context(state: &Path) -> io::Result<Vec<u8>> {
    let path = context_file(state, std::process::id());
    let context = fs::read(&path)?;
    fs::remove_file(&path)?;
    Ok(context)
}

impl Keeper {
    /// Starts what was named, or what is wanted.
    pub(super) fn bring_up(&mut self, names: &[ServiceName]) -> io::Result<()> {
        let context: Rc<[u8]> = take_context(&self.command.state)?.into();
        let client = NOBODY.to_string();
        let start =
            || Request::Start { client: client.clone(), context: Rc::clone(&context), once: false };
        let resume = || Request::Resume { client: client.clone() };
        let wanted = if names.is_empty() { scan::wanted(&self.command, self.me)? } else { vec![] };
        if names.is_empty() && wanted.is_empty() {
            say("nothing is wanted; waiting for: reraise start NAME");
        }
        let named = names.iter().map(|name| (name.clone(), start()));
        for (name, request) in named.chain(wanted.into_iter().map(|name| (name, resume()))) {
            let effects = self.registry.request(NOBODY, name, request);
            self.carry_out(effects);
        }
        self.registry.client_gone(NOBODY);
        Ok(())
    }

    /// Ends all services, and what is wanted stays as it is; asked once more,
    /// without patience.
    pub(super) fn leave(&mut self, why: &str) {
        let before = self.leaving;
        self.leaving = before.further();
        if self.leaving == before {
            return;
        }
        let now = self.leaving == Leaving::Hurried;
        if self.is_foreground {
            let count = self.registry.names().count();
            let how = if now { ", without patience" } else { "" };
            say(&format!("{why}: stopping {count} service(s){how}"));
        }
        let effects = self.registry.leave_all(now);
        self.carry_out(effects);
    }

    /// Says what a worker has told, and acts on what concerns all.
    pub(super) fn overhear(&mut self, name: &ServiceName, frame: &Frame) {
        if !self.is_foreground {
            return;
        }
        let Some(news) = heard(frame) else { return };
        if let Some(line) = line(&news)
            && self.told.is_new(name, &news)
        {
            messages::say(name.as_str(), &line);
        }
        match news {
            News::Essential(exit) if self.leaving == Leaving::No => {
                self.code = code(exit);
                self.leave(&format!("{name} is essential"));
            }
            News::Over(Outcome::Survived) if self.code == 0 => self.code = ExitCode::Failed as u8,
            _ => {}
        }
    }

    /// What a client is told while all are being ended.
    pub(super) fn refusal(&self, name: &ServiceName) -> News {
        use crate::error::Fault;
        let what = "cannot be started while all services are being stopped";
        let advice = "wait until the keeper has ended, then try again";
        News::Fault(Fault::new(ExitCode::Failed, name, what, advice))
    }
}

/// What has been said of each service's process: a worker that adopts it says it once
/// more, for clients that may be waiting.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<ServiceName, (i32, bool)>);

impl Told {
    /// What we know before anybody says it.
    pub(super) fn knows(&mut self, name: &ServiceName, pid: i32) {
        self.0.insert(name.clone(), (pid, false));
    }

    fn is_new(&mut self, name: &ServiceName, news: &News) -> bool {
        let (pid, is_running) = match *news {
            News::Launched(pid) => (pid, false),
            News::Running(pid) => (pid, true),
            _ => return true,
        };
        let before = self.0.insert(name.clone(), (pid, is_running));
        let Some((_, was_running)) = before.filter(|(before, _)| *before == pid) else {
            return true;
        };
        self.0.insert(name.clone(), (pid, was_running || is_running));
        is_running && !was_running
    }
}

/// Something about all services.
pub(super) fn say(what: &str) {
    messages::say("up", what);
}

/// The news that concern everybody, and those for nobody but us.
fn heard(frame: &Frame) -> Option<News> {
    let (verb, rest) = frame.split()?;
    match verb {
        "all" => News::from_frame(&rest),
        "to" => {
            let (client, news) = rest.split()?;
            (client == NOBODY.to_string()).then(|| News::from_frame(&news)).flatten()
        }
        _ => None,
    }
}

/// The exit code that is passed on: what a shell would say. What nobody knows is
/// a failure, and not invented.
fn code(exit: Exit) -> u8 {
    exit.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ExitCode::Failed as u8)
}

/// News as a line; `None` where there is nothing to say.
fn line(news: &News) -> Option<String> {
    Some(match news {
        News::Launched(pid) => format!("starting (pid={pid})"),
        News::Running(pid) => format!("running (pid={pid})"),
        News::Already(0) => "will start soon".to_owned(),
        News::Already(pid) => format!("runs already (pid={pid})"),
        News::Held(pid) => format!("is supervised by another worker (pid={pid})"),
        News::Ended(exit) => format!("ended: {exit}"),
        News::Survivors(pids) => format!("these processes outlived all signals: {pids:?}"),
        News::Fault(fault) | News::Warning(fault) => format!("{}; {}", fault.what, fault.advice),
        News::Over(Outcome::Stopped) => "stopped".to_owned(),
        News::Over(Outcome::Failed(exit)) => format!("given up: {exit}"),
        News::Over(Outcome::Done(exit)) => format!("done: {exit}"),
        News::Over(Outcome::Unlaunchable(error)) => {
            let error = io::Error::from_raw_os_error(error.errno);
            format!("cannot be executed: {}", reason(&error))
        }
        News::Over(Outcome::Survived | Outcome::NotRunning) | News::Essential(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_hurries_and_the_third_is_nothing_new() {
        let mut leaving = Leaving::No;
        for expected in [Leaving::Asked, Leaving::Hurried, Leaving::Hurried] {
            leaving = leaving.further();
            assert_eq!(leaving, expected);
        }
    }

    #[test]
    fn nothing_is_said_twice_of_one_process() {
        let [a, b] = ["a", "b"].map(|name| ServiceName::new(name.as_ref()).unwrap());
        let mut told = Told::default();
        told.knows(&b, 9);
        for (name, news, is_new) in [
            (&a, News::Launched(7), true),
            (&a, News::Launched(7), false),
            (&a, News::Running(7), true),
            (&a, News::Launched(7), false),
            (&a, News::Running(7), false),
            (&a, News::Ended(Exit::Unknown), true),
            (&a, News::Launched(8), true),
            (&a, News::Running(8), true),
            (&b, News::Launched(9), false),
            (&b, News::Running(9), true),
            (&b, News::Running(10), true),
        ] {
            assert_eq!(told.is_new(name, &news), is_new, "{name} {news:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (exit, expected) in [
            (Exit::Code(0), 0),
            (Exit::Code(255), 255),
            (Exit::Signal { number: 9, core: false }, 137),
            (Exit::Signal { number: 11, core: true }, 139),
            (Exit::Signal { number: 64, core: false }, 192),
            (Exit::Unknown, 1),
        ] {
            assert_eq!(code(exit), expected, "{exit}");
        }
    }

    #[test]
    fn what_is_for_others_is_not_overheard() {
        let news = News::Already(7);
        let to = |client: &str| news.to_frame().after(client).after("to");
        assert_eq!(heard(&to("0")), Some(News::Already(7)));
        assert_eq!(heard(&to("1")), None);
        assert_eq!(heard(&news.to_frame().after("all")), Some(News::Already(7)));
        assert_eq!(heard(&Frame::new(["ack"])), None);
    }
}
