//! The keeper's loop: waits for whatever comes next, and passes it on.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::peers::Peer;
use super::registry::{Client, Effect, End};
use super::up::{self, Leaving};
use super::{Keeper, LISTENER, Next, now};
use crate::backend::native::QueueEvent;
use crate::control::Frame;
use crate::history::asked::Asked;
use crate::lock;
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::link::{Request, company};
use crate::zone;

/// How long nothing must have happened before the keeper takes its rest.
const SILENCE: Duration = Duration::from_millis(200);

impl Keeper {
    /// Works until something must be done at the bottom of the stack.
    #[inline(never)]
    pub(super) fn serve(&mut self) -> Next {
        loop {
            if let Some(fork) = self.forks.pop_front() {
                return Next::Fork(fork);
            }
            if let Some((client, program)) = self.upgrade.take() {
                return Next::Other(client, program);
            }
            if self.is_foreground {
                if self.leaving != Leaving::No && self.registry.is_empty() && self.has_logger_left()
                {
                    self.end();
                    return Next::End;
                }
                self.patience = None;
            }
            let is_idle = self.registry.is_empty() && self.connections.is_empty();
            if self.patience.is_some_and(|until| until <= now()) || !is_idle {
                self.patience = None;
            }
            if is_idle
                && !self.is_foreground
                && self.patience.is_none()
                && self.has_logger_left()
                && self.try_end()
            {
                return Next::End;
            }
            let heard = self.wait();
            self.has_looked = false;
            self.was_silent = matches!(heard, Ok(None));
            match heard {
                Ok(Some(QueueEvent::Signal(signal))) => self.on_signal(signal),
                Ok(Some(QueueEvent::Readable(LISTENER))) => self.accept(),
                Ok(Some(QueueEvent::Readable(token))) => {
                    self.on_readable(token);
                }
                Ok(Some(QueueEvent::Ended { pid, .. })) => {
                    if let Some(name) = self.called.remove(&pid) {
                        self.worker_gone(&name, End::Killed);
                    }
                }
                Ok(None) => {
                    if self.deaf.is_some_and(|until| until <= now()) {
                        self.listen_again();
                    }
                    self.flush_all();
                    let effects = self.registry.tick(now());
                    self.carry_out(effects);
                    self.tick_logger();
                }
                Err(e) => {
                    // The workers notice, and start a keeper that can wait.
                    messages::say("keeper", &format!("cannot wait for events: {e}"));
                    return Next::End;
                }
            }
        }
    }

    /// Waits for what comes next; `None` when time has passed.
    fn wait(&mut self) -> io::Result<Option<QueueEvent>> {
        if self.is_beginning {
            let heard = self.queue.next(Some(Duration::ZERO))?;
            self.is_beginning = heard.is_some();
            if heard.is_some() {
                return Ok(heard);
            }
        }
        while !self.answers.is_empty() {
            let heard = self.queue.next(Some(Duration::ZERO));
            if !matches!(heard, Ok(None)) {
                return heard;
            }
            self.flush_answers();
        }
        let due = [self.registry.deadline(), self.patience, self.deaf, self.logger.deadline()];
        let due = due.into_iter().flatten().min();
        let left = due.map(|due| due.saturating_sub(now()));
        let nap = (!self.behind.is_empty()).then_some(self.patience_with_peers);
        let left = left.into_iter().chain(nap).min();
        // After a moment of silence: in the middle of work it would only be needed
        // again.
        let left = match left {
            None if !self.was_silent => Some(SILENCE),
            None => {
                self.held.clear();
                zone::rest(true);
                None
            }
            some => some,
        };
        self.queue.next(left)
    }

    /// Ends unless somebody is at the door.
    fn try_end(&mut self) -> bool {
        if !self.lock.try_take(lock::CHANGING).unwrap_or(false) {
            // A starting keeper finds us alive and goes; then we can.
            return false;
        }
        self.accept();
        if self.connections.is_empty() {
            self.unpublish();
            return true;
        }
        let _ = self.lock.release(lock::CHANGING);
        false
    }

    /// Ends, whoever is there: all services were to end, and have.
    fn end(&mut self) {
        // One that is just starting finds us alive, and goes.
        let _ = self.lock.take(lock::CHANGING);
        self.unpublish();
        self.flush_all();
        up::say("all services are stopped");
    }

    /// Whoever connects from now on is refused and starts a new keeper.
    fn unpublish(&self) {
        let _ = fs::remove_file(self.command.state.join("keeper"));
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCHLD => self.reap(),
            // Sent to what we were before: a process of a service whose script said
            // `reraise start`, and which is being stopped.
            Signal::SIGTERM | Signal::SIGINT if self.is_beginning => {
                messages::say("keeper", &format!("{signal} came too early, and is let pass"));
            }
            // The end of the session or of the machine: all services end in
            // order, and what is wanted stays as it was.
            Signal::SIGTERM | Signal::SIGINT => self.leave(&signal.as_str()[3..]),
            Signal::SIGCONT => messages::say("keeper", "was stopped, and goes on"),
            _ => {}
        }
    }

    pub(super) fn on_frame(&mut self, token: u64, frame: &Frame) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if let Peer::Worker(name) = &connection.peer {
            let name = name.clone();
            match frame.split() {
                Some(("yield", rest)) => self.on_yield(name, token, &rest),
                // What another one says who has the service does not count.
                _ if self.links.get(&name) != Some(&token) => {}
                _ => {
                    // Whoever speaks holds them by now.
                    self.held.remove(&name);
                    self.askers.remove(&name);
                    self.overhear(&name, frame);
                    let effects = self.registry.news(&name, frame);
                    self.carry_out(effects);
                }
            }
            return;
        }
        let Some((verb, rest)) = frame.split() else { return };
        match verb {
            "context" => connection.context = rest.bytes().into(),
            "asker" => connection.asker = rest.split().map_or("", |(who, _)| who).to_owned(),
            "hello" => self.on_hello(token, &rest.texts().unwrap_or_default()),
            "upgrade" => self.on_upgrade(token, &rest.texts().unwrap_or_default()),
            "version" => self.on_version(token),
            verb => {
                let Some((name, rest)) = rest.split() else { return };
                let Some(name) = valid(name) else { return };
                let request = match verb {
                    "start" | "start-once" => Request::Start {
                        client: token.to_string(),
                        context: connection.context.clone(),
                        once: verb == "start-once",
                    },
                    "resume" => Request::Resume { client: token.to_string() },
                    "stop" => Request::Stop { now: false, company: company(&rest) },
                    "stop-now" => Request::stop(true),
                    "restart" => Request::Restart,
                    _ => return self.is_too_old_for(token, &name),
                };
                // Whoever gets an answer knows us.
                self.is_beginning = false;
                let who = self.connections.get(&token).map_or("", |c| &c.asker);
                self.askers.insert(name.clone(), Asked::now(verb, who));
                self.on_request(token, name, request);
            }
        }
    }

    /// A request as its worker gets it, with who has asked. A start has no room for
    /// that; one that needs a worker gets it with the fork.
    pub(super) fn framed(&self, name: &ServiceName, request: &Request) -> Frame {
        let asked = self.askers.get(name).filter(|asked| asked.verb == request.word());
        match asked.filter(|_| !matches!(request, Request::Start { .. })) {
            Some(asked) => request.to_frame().before(&asked.to_line()),
            None => request.to_frame(),
        }
    }

    fn on_request(&mut self, client: Client, name: ServiceName, request: Request) {
        if self.leaving != Leaving::No && !matches!(request, Request::Stop { .. }) {
            let refusal = self.refusal(&name).to_frame().after(name.as_str());
            return self.send(Some(client), &refusal);
        }
        if !matches!(request, Request::Start { .. } | Request::Resume { .. })
            && self.adopted.contains_key(&name)
            && !std::mem::replace(&mut self.has_looked, true)
        {
            // What has come to us since is to be ended with it.
            self.assign_orphans(None);
        }
        let effects = self.registry.request(client, name, request);
        self.carry_out(effects);
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Fork(name, task) => {
                    self.need_logger();
                    self.forks.push_back((name, task, Vec::new()));
                }
                Effect::Pass(name, request) => {
                    let token = self.links.get(&name).copied();
                    let fork = self.forks.iter_mut().find(|f| f.0 == name);
                    match (token, fork) {
                        // Not yet forked: it gets it when it is.
                        (None, Some((.., requests))) => requests.push(request),
                        (token, _) => self.send(token, &self.framed(&name, &request)),
                    }
                }
                Effect::Answer(client, frame) => self.send(Some(client), &frame),
                Effect::Rest(name, failures, until) => self.rest(&name, failures, until),
            }
        }
    }
}

pub(super) fn valid(name: &str) -> Option<ServiceName> {
    ServiceName::new(name.as_ref()).ok()
}
