//! What the keeper knows of its workers, and what follows when one of them
//! speaks, dies or is asked for something. Pure: it answers with effects, which
//! `keeper/mod.rs` carries out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::Frame;
use crate::name::ServiceName;
use crate::supervise::begin::Task;
use crate::supervise::link::Request;
use crate::supervise::news::News;

/// A connection of the command line.
pub type Client = u64;

/// The client of what the keeper itself asks for.
pub const NOBODY: Client = 0;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Fork a worker.
    Fork(ServiceName, Task),
    /// Pass a request on to a worker.
    Pass(ServiceName, Request),
    /// Send a client news of a service.
    Answer(Client, Frame),
    /// A worker that was to make room has done so, and its successor is there;
    /// or it has heard, and does so as soon as it can.
    Renewed(ServiceName),
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It had nothing more to do.
    Done,
    /// Somebody killed it.
    Killed,
    /// It failed, which is a bug of ours or a lack of something.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Taken,
    /// It has said that it goes.
    Leaving,
    /// Its workers keep failing; the next one comes at this time.
    Resting(Duration),
}

#[derive(Debug)]
struct Service {
    seat: Seat,
    /// Requests that no worker has acknowledged, oldest first.
    pending: Vec<(Client, Request)>,
    /// What the worker was forked for, while it has said nothing.
    in_hand: Option<(Client, Request)>,
    failures: u32,
}

impl Service {
    fn new(seat: Seat, pending: Vec<(Client, Request)>) -> Self {
        Self { seat, pending, in_hand: None, failures: 0 }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<ServiceName, Service>,
    listeners: BTreeMap<ServiceName, BTreeSet<Client>>,
}

/// Longest rest between two workers of a service.
const REST_MAX: Duration = Duration::from_secs(60);

impl Registry {
    /// Whether a service has a worker, or is to have one.
    #[must_use]
    pub fn has(&self, name: &ServiceName) -> bool {
        self.services.contains_key(name)
    }

    /// Whether there is no worker, and none is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The services that have a worker, or are to have one.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// A client asks for something.
    #[must_use]
    pub fn request(&mut self, client: Client, name: ServiceName, request: Request) -> Vec<Effect> {
        self.listeners.entry(name.clone()).or_default().insert(client);
        match self.services.get_mut(&name) {
            Some(service) => {
                service.pending.push((client, request.clone()));
                match service.seat {
                    Seat::Taken => vec![Effect::Pass(name, request)],
                    // Whoever comes next gets it.
                    Seat::Leaving => Vec::new(),
                    Seat::Resting(_) => self.fill(&name),
                }
            }
            None => {
                let pending = vec![(client, request)];
                let service = Service::new(Seat::Leaving, pending);
                self.services.insert(name.clone(), service);
                self.fill(&name)
            }
        }
    }

    /// Forks a worker for the oldest request, or to resume.
    fn fill(&mut self, name: &ServiceName) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(name) else { return Vec::new() };
        service.seat = Seat::Taken;
        let mut effects = Vec::new();
        let task = match service.pending.iter().position(|(_, request)| !is_about_worker(request)) {
            None => Task::Resume,
            Some(first) => {
                let (client, request) = service.pending.remove(first);
                service.in_hand = Some((client, request.clone()));
                // It is in the worker's hands from the beginning.
                effects.push(Effect::Answer(client, told(name, &Frame::new(["ack"]))));
                task_of(request)
            }
        };
        effects.push(Effect::Fork(name.clone(), task));
        for (_, request) in &service.pending {
            effects.push(Effect::Pass(name.clone(), request.clone()));
        }
        effects
    }

    /// A service without a worker is to have one that resumes it.
    #[must_use]
    pub fn resume(&mut self, name: ServiceName) -> Vec<Effect> {
        if self.services.contains_key(&name) {
            return Vec::new();
        }
        let service = Service::new(Seat::Leaving, Vec::new());
        self.services.insert(name.clone(), service);
        self.fill(&name)
    }

    /// A worker that another keeper forked introduces itself.
    pub fn hello(&mut self, name: ServiceName) {
        let service = Service::new(Seat::Taken, Vec::new());
        self.services.entry(name).or_insert(service).seat = Seat::Taken;
    }

    /// A worker of ours has found that one which said hello has the service:
    /// the requests are the latter's.
    #[must_use]
    pub fn reseat(&mut self, name: &ServiceName) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(name) else { return Vec::new() };
        service.seat = Seat::Taken;
        let requests = service.pending.iter();
        requests.map(|(_, request)| Effect::Pass(name.clone(), request.clone())).collect()
    }

    /// A worker speaks.
    #[must_use]
    pub fn news(&mut self, name: &ServiceName, frame: &Frame) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(name) else { return Vec::new() };
        let Some((verb, rest)) = frame.split() else { return Vec::new() };
        let is_leave = service.in_hand.as_ref().is_some_and(is_leave);
        let is_fault = || matches!(News::from_frame(&rest), Some(News::Fault(_)));
        // Whoever asked is told of a fault, and asks again; for a leave nobody does.
        if !is_leave || verb != "all" || !is_fault() {
            service.in_hand = None;
        }
        match verb {
            "ack" if !service.pending.is_empty() => {
                let (client, request) = service.pending.remove(0);
                if is_about_worker(&request) {
                    return vec![Effect::Renewed(name.clone())];
                }
                vec![Effect::Answer(client, told(name, &Frame::new(["ack"])))]
            }
            "all" => {
                match News::from_frame(&rest) {
                    Some(News::Over(_) | News::Held(_)) => service.seat = Seat::Leaving,
                    Some(News::Running(_)) => service.failures = 0,
                    _ => {}
                }
                let frame = told(name, &rest);
                let all = self.listeners.get(name).into_iter().flatten();
                all.map(|&client| Effect::Answer(client, frame.clone())).collect()
            }
            "to" => match rest.split() {
                Some((client, news)) => match client.parse() {
                    Ok(client) => vec![Effect::Answer(client, told(name, &news))],
                    Err(_) => Vec::new(),
                },
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// A worker is gone.
    #[must_use]
    pub fn gone(&mut self, name: &ServiceName, end: End, now: Duration) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(name) else { return Vec::new() };
        // What it took, and died before it could say anything, is not done.
        if let Some(taken) = service.in_hand.take().filter(|_| end != End::Done) {
            service.pending.insert(0, taken);
        }
        // It has gone, whatever for; its successor is asked to say so.
        for (_, request) in &mut service.pending {
            if *request == Request::Yield {
                *request = Request::Present;
            }
        }
        let is_leaving = service.pending.iter().any(is_leave);
        let is_about_service = |asked: &(_, _)| !is_leave(asked) && !is_about_worker(&asked.1);
        let is_wanted = service.pending.iter().any(is_about_service);
        if end == End::Done && !is_wanted {
            self.services.remove(name);
            return Vec::new();
        }
        match end {
            // Requests that came too late for it are its successor's.
            End::Done | End::Killed => self.fill(name),
            End::Failed => {
                service.failures += 1;
                let rest = rest(service.failures);
                if rest.is_zero() {
                    return self.fill(name);
                }
                // It cannot be ended in order, and we are to end.
                if is_leaving && !is_wanted {
                    self.services.remove(name);
                    return Vec::new();
                }
                service.seat = Seat::Resting(now + rest);
                Vec::new()
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let until = |s: &Service| match s.seat {
            Seat::Resting(until) => Some(until),
            Seat::Taken | Seat::Leaving => None,
        };
        self.services.values().filter_map(until).min()
    }

    /// Time has passed.
    #[must_use]
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let is_due = |s: &Service| matches!(s.seat, Seat::Resting(until) if until <= now);
        let due: Vec<_> =
            self.services.iter().filter(|(_, s)| is_due(s)).map(|(n, _)| n.clone()).collect();
        due.iter().flat_map(|name| self.fill(name)).collect()
    }

    /// A client has gone. What it asked for is done all the same.
    pub fn client_gone(&mut self, client: Client) {
        self.listeners.retain(|_, clients| {
            clients.remove(&client);
            !clients.is_empty()
        });
    }

    /// Tells a worker to make room for one of our build.
    #[must_use]
    pub fn renew(&mut self, name: &ServiceName) -> Vec<Effect> {
        match self.services.get_mut(name) {
            Some(service) if service.seat == Seat::Taken => {
                service.pending.push((NOBODY, Request::Yield));
                vec![Effect::Pass(name.clone(), Request::Yield)]
            }
            _ => Vec::new(),
        }
    }

    /// Ends all services; what is wanted stays as it is. Whoever comes after a
    /// worker that has not heard it hears it.
    #[must_use]
    pub fn leave_all(&mut self, now: bool) -> Vec<Effect> {
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        names.into_iter().flat_map(|name| self.leave(name, now)).collect()
    }

    /// Ends one service, likewise.
    #[must_use]
    pub fn leave(&mut self, name: ServiceName, now: bool) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(&name) else { return Vec::new() };
        let leave = Request::Leave { now };
        match service.seat {
            Seat::Taken => {
                service.pending.push((NOBODY, leave.clone()));
                vec![Effect::Pass(name, leave)]
            }
            // It is going, and nobody is to come after it.
            Seat::Leaving if service.pending.is_empty() => Vec::new(),
            Seat::Leaving => {
                service.pending.push((NOBODY, leave));
                Vec::new()
            }
            Seat::Resting(_) => {
                service.pending.push((NOBODY, leave));
                self.fill(&name)
            }
        }
    }
}

fn is_leave(asked: &(Client, Request)) -> bool {
    matches!(asked.1, Request::Leave { .. })
}

/// Whether it is about the worker, and not about its service.
fn is_about_worker(request: &Request) -> bool {
    matches!(request, Request::Yield | Request::Present)
}

/// What a worker is forked for that is to do this.
fn task_of(request: Request) -> Task {
    match request {
        Request::Start { client, context, once } => Task::Start { client, context, once },
        Request::Resume { client } => Task::Raise { client },
        Request::Stop { now } => Task::Stop { now },
        Request::Leave { now } => Task::Leave { now },
        Request::Restart => Task::Restart,
        Request::Yield | Request::Present => Task::Resume,
    }
}

/// 0, 1, 2, 4 … seconds: a bug of ours must not become a storm.
fn rest(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(6)).min(REST_MAX),
    }
}

fn told(name: &ServiceName, frame: &Frame) -> Frame {
    frame.after(name.as_str())
}

#[cfg(test)]
mod walk;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ExitCode, Fault};
    use crate::supervise::machine::Outcome;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text.as_ref()).unwrap()
    }

    fn start(client: Client) -> Request {
        Request::Start { client: client.to_string(), context: [].into(), once: false }
    }

    fn over() -> Frame {
        News::Over(Outcome::Stopped).to_frame().after("all")
    }

    fn forks(effects: &[Effect]) -> usize {
        effects.iter().filter(|e| matches!(e, Effect::Fork(..))).count()
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn fifty_starts_fork_one_worker() {
        let mut registry = Registry::default();
        let all: usize = (0..50)
            .map(|client| forks(&registry.request(client, name("web"), start(client))))
            .sum();
        assert_eq!(all, 1);
    }

    #[test]
    fn what_a_leaving_worker_has_not_taken_goes_to_the_next() {
        let web = name("web");
        let mut registry = Registry::default();
        let _ = registry.request(1, web.clone(), start(1));
        // Passed on before the keeper heard that it leaves.
        assert_eq!(registry.request(2, web.clone(), start(2)).len(), 1);
        let _ = registry.news(&web, &over());
        // Comes after that: kept.
        assert_eq!(registry.request(3, web.clone(), Request::Stop { now: false }), []);
        let effects = registry.gone(&web, End::Done, NOW);
        assert_eq!(forks(&effects), 1);
        assert!(effects.contains(&Effect::Pass(web.clone(), Request::Stop { now: false })));
        // Taken by the worker: no further fork for it.
        let _ = registry.news(&web, &Frame::new(["ack"]));
        let _ = registry.news(&web, &over());
        assert_eq!(registry.gone(&web, End::Done, NOW), []);
        assert_eq!(registry.names().count(), 0);
    }

    #[test]
    fn what_a_worker_took_and_said_nothing_about_is_its_successors() {
        let web = name("web");
        let mut registry = Registry::default();
        let task = Task::Start { client: "1".into(), context: [].into(), once: false };
        let _ = registry.request(1, web.clone(), start(1));
        for end in [End::Killed, End::Failed, End::Killed] {
            let effects = registry.gone(&web, end, NOW);
            assert!(effects.contains(&Effect::Fork(web.clone(), task.clone())), "{effects:?}");
        }
        // It has spoken: what it took is noted where a successor finds it.
        let _ = registry.news(&web, &News::Launched(7).to_frame().after("all"));
        let effects = registry.gone(&web, End::Killed, NOW);
        assert_eq!(effects, [Effect::Fork(web, Task::Resume)]);
    }

    #[test]
    fn requests_go_to_the_worker_that_was_there_before() {
        let web = name("web");
        let mut registry = Registry::default();
        assert_eq!(forks(&registry.request(1, web.clone(), start(1))), 1);
        registry.hello(web.clone());
        let stop = Request::Stop { now: false };
        let _ = registry.news(&web, &News::Held(7).to_frame().after("all"));
        assert_eq!(registry.request(2, web.clone(), stop.clone()), []);
        assert_eq!(registry.reseat(&web), [Effect::Pass(web.clone(), stop)]);
        let restart = Effect::Pass(web.clone(), Request::Restart);
        assert_eq!(registry.request(3, web, Request::Restart), [restart]);
    }

    #[test]
    fn a_killed_worker_is_replaced_at_once_for_ever() {
        let web = name("web");
        let mut registry = Registry::default();
        let _ = registry.resume(web.clone());
        for _ in 0..100 {
            let effects = registry.gone(&web, End::Killed, NOW);
            assert_eq!(effects, [Effect::Fork(web.clone(), Task::Resume)]);
        }
    }

    #[test]
    fn a_failing_worker_comes_more_and_more_seldom() {
        let web = name("web");
        let mut registry = Registry::default();
        let _ = registry.resume(web.clone());
        assert_eq!(forks(&registry.gone(&web, End::Failed, NOW)), 1);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(registry.gone(&web, End::Failed, NOW), []);
            let due = registry.deadline().unwrap();
            assert_eq!(due, NOW + Duration::from_secs(seconds));
            assert_eq!(registry.tick(due - Duration::from_millis(1)), []);
            assert_eq!(forks(&registry.tick(due)), 1);
        }
        // It lasts: forgiven.
        let _ = registry.news(&web, &News::Running(7).to_frame().after("all"));
        assert_eq!(forks(&registry.gone(&web, End::Failed, NOW)), 1);
    }

    #[test]
    fn all_leave_wherever_they_are() {
        let mut registry = Registry::default();
        let leave = |of: &str| Effect::Pass(name(of), Request::Leave { now: false });
        // One has a worker, one is just leaving, one too and is wanted again, and
        // the workers of one have failed.
        for (client, of) in [(1, "runs"), (2, "goes"), (3, "comes"), (4, "fails")] {
            let _ = registry.request(client, name(of), start(client));
        }
        let launched = News::Launched(7).to_frame().after("all");
        let _ = registry.news(&name("runs"), &launched);
        let _ = registry.news(&name("goes"), &over());
        let _ = registry.news(&name("comes"), &over());
        let _ = registry.request(5, name("comes"), start(5));
        let _ = registry.news(&name("fails"), &launched);
        let _ = registry.gone(&name("fails"), End::Failed, NOW);
        let _ = registry.gone(&name("fails"), End::Failed, NOW);
        assert!(registry.deadline().is_some());
        let effects = registry.leave_all(false);
        assert_eq!(forks(&effects), 1, "{effects:?}");
        assert!(effects.contains(&leave("runs")), "{effects:?}");
        assert!(
            effects.contains(&Effect::Fork(name("fails"), Task::Leave { now: false })),
            "{effects:?}"
        );
        assert_eq!(
            (registry.deadline(), registry.gone(&name("goes"), End::Done, NOW)),
            (None, vec![])
        );
        // The order of what was asked for is kept.
        let effects = registry.gone(&name("comes"), End::Done, NOW);
        assert!(matches!(effects[1], Effect::Fork(_, Task::Start { .. })), "{effects:?}");
        assert_eq!(effects[2..], [leave("comes")]);
        // Killed before it has heard of it: its successor does.
        let effects = registry.gone(&name("runs"), End::Killed, NOW);
        assert!(
            effects.contains(&Effect::Fork(name("runs"), Task::Leave { now: false })),
            "{effects:?}"
        );
        // Whose request is acknowledged is not mixed up.
        let _ = registry.request(6, name("runs"), Request::Restart);
        let acknowledged = registry.news(&name("runs"), &Frame::new(["ack"]));
        assert!(matches!(acknowledged[..], [Effect::Answer(6, _)]), "{acknowledged:?}");
        for of in ["runs", "comes"] {
            let _ = registry.news(&name(of), &over());
            assert_eq!(registry.gone(&name(of), End::Done, NOW), []);
        }
        // Who cannot be ended in order is left after another try.
        let fault = Fault::new(ExitCode::System, "fails", "cannot be supervised", "");
        let _ = registry.news(&name("fails"), &News::Fault(fault).to_frame().after("all"));
        assert_eq!(registry.gone(&name("fails"), End::Failed, NOW), []);
        assert!(registry.is_empty(), "{registry:?}");
    }

    #[test]
    fn news_reach_those_who_asked() {
        let web = name("web");
        let mut registry = Registry::default();
        let _ = registry.request(1, web.clone(), start(1));
        let _ = registry.request(2, name("db"), start(2));
        let news = News::Launched(7).to_frame();
        let expected = [Effect::Answer(1, news.after("web"))];
        assert_eq!(registry.news(&web, &news.after("all")), expected);
        let answer = News::Already(7).to_frame().after("2").after("to");
        assert!(matches!(registry.news(&web, &answer)[..], [Effect::Answer(2, _)]));
        registry.client_gone(1);
        assert_eq!(registry.news(&web, &news.after("all")), []);
    }
}
