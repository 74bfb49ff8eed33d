//! What the keeper knows of its workers, and what follows when one of them
//! speaks, dies or is asked for something. Pure: it answers with effects, which
//! `keeper/mod.rs` carries out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::Frame;
use crate::error::{ExitCode, Fault};
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
    /// So many workers have failed; say that the next comes at this time.
    Rest(ServiceName, u32, Duration),
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
    /// It is another keeper's, has been called, and has not said hello.
    Called,
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
    /// How many workers have failed, and when the last one did.
    failures: u32,
    failed: Duration,
}

impl Service {
    fn new(seat: Seat, pending: Vec<(Client, Request)>) -> Self {
        Self { seat, pending, in_hand: None, failures: 0, failed: Duration::ZERO }
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
/// A worker that fails so long after another has nothing to do with that.
const FORGIVEN: Duration = Duration::from_secs(180);

impl Registry {
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
                    // Whoever comes next, or says hello, gets it.
                    Seat::Leaving | Seat::Called => Vec::new(),
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
        if service.pending.is_empty() {
            return vec![Effect::Fork(name.clone(), Task::Resume)];
        }
        let (client, first) = service.pending.remove(0);
        service.in_hand = Some((client, first.clone()));
        let task = match first {
            Request::Start { client, context, once } => Task::Start { client, context, once },
            Request::Resume { client } => Task::Raise { client },
            Request::Stop { now, .. } => Task::Stop { now },
            Request::Leave { now } => Task::Leave { now },
            Request::Restart => Task::Restart,
        };
        // It is in the worker's hands from the beginning.
        let mut effects = vec![Effect::Answer(client, told(name, &Frame::new(["ack"])))];
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

    /// A worker that another keeper forked has been called. What is asked of it
    /// waits for it.
    pub fn expect(&mut self, name: ServiceName) {
        self.services.entry(name).or_insert(Service::new(Seat::Called, Vec::new()));
    }

    /// A worker of ours has found that another one has the service, which has
    /// been called: what it was forked for is the latter's.
    pub fn defer(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.seat = Seat::Called;
        if let Some(taken) = service.in_hand.take() {
            service.pending.insert(0, taken);
        }
    }

    /// A worker that another keeper forked introduces itself.
    pub fn hello(&mut self, name: ServiceName) {
        self.defer(&name);
        let service = Service::new(Seat::Taken, Vec::new());
        self.services.entry(name).or_insert(service).seat = Seat::Taken;
    }

    /// The worker that has the service is another one now: the requests are
    /// the latter's.
    #[must_use]
    pub fn reseat(&mut self, name: &ServiceName) -> Vec<Effect> {
        self.defer(name);
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
                let (client, _) = service.pending.remove(0);
                vec![Effect::Answer(client, told(name, &Frame::new(["ack"])))]
            }
            "all" => {
                if let Some(News::Over(_) | News::Held(_)) = News::from_frame(&rest) {
                    service.seat = Seat::Leaving;
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
        let is_only_leaving = service.pending.iter().all(is_leave);
        if end == End::Done && is_only_leaving {
            self.services.remove(name);
            return Vec::new();
        }
        match end {
            // Requests that came too late for it are its successor's.
            End::Done | End::Killed => self.fill(name),
            End::Failed => {
                let is_forgiven = now.saturating_sub(service.failed) > FORGIVEN;
                service.failures = if is_forgiven { 1 } else { service.failures + 1 };
                service.failed = now;
                let failures = service.failures;
                let rest = rest(failures);
                if rest.is_zero() {
                    return self.fill(name);
                }
                // It cannot be ended in order, and we are to end.
                if is_only_leaving && !service.pending.is_empty() {
                    self.services.remove(name);
                    return Vec::new();
                }
                service.seat = Seat::Resting(now + rest);
                let mut effects = vec![Effect::Rest(name.clone(), failures, now + rest)];
                let news = told(name, &News::Fault(keeps_failing(name, failures)).to_frame());
                let all = self.listeners.get(name).into_iter().flatten();
                effects.extend(all.map(|&client| Effect::Answer(client, news.clone())));
                effects
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let until = |s: &Service| match s.seat {
            Seat::Resting(until) => Some(until),
            Seat::Taken | Seat::Leaving | Seat::Called => None,
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
            Seat::Leaving | Seat::Called => {
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

/// For whoever waits: it may take long.
fn keeps_failing(name: &ServiceName, failures: u32) -> Fault {
    let what = format!("its worker has failed {failures} times in a row");
    Fault::new(ExitCode::System, name, what, "see what it says: reraise doctor")
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
mod tests;
