//! The other ends of a keeper's connections: workers and the command line.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use super::registry::End;
use super::{Keeper, LISTENER, Token, now};
use crate::control::{Frame, Got, Reader};
use crate::messages;
use crate::name::ServiceName;

/// How long a peer that is behind is left alone, at first and at most.
pub(super) const FIRST_NAP: Duration = Duration::from_millis(2);
const LAST_NAP: Duration = Duration::from_secs(1);
/// How long nobody is listened to when there is no descriptor for a connection.
const DEAF: Duration = Duration::from_secs(1);
/// So many bytes of answers are sent at once.
const BATCH: usize = 1024;
/// Bytes that are kept for a peer.
const OUTBOX_MAX: usize = 16 << 20;

/// The other end of a connection.
pub(super) enum Peer {
    /// Has not said who it is, or is the command line.
    Client,
    /// A worker of this service.
    Worker(ServiceName),
}

pub(super) struct Connection {
    stream: UnixStream,
    reader: Reader,
    pub(super) peer: Peer,
    /// The requests of the command line share one context.
    pub(super) context: Rc<[u8]>,
    /// Who it is, as it says; for whoever wants to know who has asked.
    pub(super) asker: String,
    /// What it has not taken yet.
    outbox: Vec<u8>,
}

impl Keeper {
    pub(super) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(e) = self.connect(stream, Peer::Client) {
                        messages::say("keeper", &format!("cannot take a connection: {e}"));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    messages::say("keeper", &format!("cannot take a connection: {e}"));
                    // It would be heard of again and again.
                    self.queue.forget_readable(self.listener.as_fd());
                    self.deaf = Some(now() + DEAF);
                    return;
                }
            }
        }
    }

    /// Takes connections again, after there was no descriptor for one.
    pub(super) fn listen_again(&mut self) {
        if self.deaf.take().is_some()
            && let Err(e) = self.queue.watch_readable(self.listener.as_fd(), LISTENER)
        {
            messages::say("keeper", &format!("cannot take connections: {e}"));
            self.deaf = Some(now() + DEAF);
        }
    }

    pub(super) fn connect(&mut self, stream: UnixStream, peer: Peer) -> io::Result<u64> {
        stream.set_nonblocking(true)?;
        let token = self.next_token;
        self.next_token += 1;
        self.queue.watch_readable(stream.as_fd(), token)?;
        let reader = Reader::default();
        self.connections.insert(
            token,
            Connection {
                stream,
                reader,
                peer,
                context: Rc::from([]),
                asker: String::new(),
                outbox: Vec::new(),
            },
        );
        Ok(token)
    }

    /// Reads once; whether there may be more.
    pub(super) fn on_readable(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        let mut frames = Vec::new();
        let got = connection.reader.read(&connection.stream, |frame| frames.push(frame));
        for frame in frames {
            self.on_frame(token, &frame);
        }
        if !matches!(got, Ok(Got::Open | Got::Quiet)) {
            self.close(token);
        }
        matches!(got, Ok(Got::Open))
    }

    pub(super) fn close(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(&token) else { return };
        self.queue.forget_readable(connection.stream.as_fd());
        match connection.peer {
            Peer::Client => self.registry.client_gone(token),
            Peer::Worker(name) => {
                if self.links.get(&name) == Some(&token) {
                    self.links.remove(&name);
                }
                match self.workers.values().find(|(worker, _)| *worker == name) {
                    None => self.worker_gone(&name, End::Killed),
                    // A child's end comes as a signal, with the way it ended.
                    Some(&(_, own)) if own == token => {}
                    // One of ours has waited for its place, or does not know yet.
                    Some(&(_, own)) => {
                        self.links.insert(name.clone(), own);
                        let effects = self.registry.reseat(&name);
                        self.carry_out(effects);
                        self.renewal.is_gone(&name);
                        self.go_on_renewing();
                    }
                }
            }
        }
    }

    /// Sends without waiting: what a peer does not take is kept for it.
    pub(super) fn send(&mut self, token: Option<u64>, frame: &Frame) {
        let Some(token) = token else { return };
        let Some(connection) = self.connections.get_mut(&token) else { return };
        frame.append_to(&mut connection.outbox);
        // Whoever is told one by one of a thousand services wakes a thousand times.
        if matches!(connection.peer, Peer::Client) && connection.outbox.len() < BATCH {
            self.answers.insert(token);
            return;
        }
        self.push(token);
    }

    /// Sends what is to be answered; to be called when nothing else is to be done.
    pub(super) fn flush_answers(&mut self) {
        for token in std::mem::take(&mut self.answers) {
            self.push(token);
        }
    }

    fn push(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !flush(connection) {
            let is_client = matches!(connection.peer, Peer::Client);
            if is_client && connection.outbox.len() > OUTBOX_MAX {
                messages::say("keeper", "a client does not read; it is given up");
                self.close(token);
            } else if self.behind.insert(token) {
                self.patience_with_peers = FIRST_NAP;
            }
        }
    }

    /// Tries again to send what is kept for those that are behind.
    pub(super) fn flush_all(&mut self) {
        self.flush_answers();
        let connections = &mut self.connections;
        let before = self.behind.len();
        self.behind.retain(|token| connections.get_mut(token).is_some_and(|c| !flush(c)));
        if self.behind.len() == before {
            self.patience_with_peers = (self.patience_with_peers * 2).min(LAST_NAP);
        }
    }
}

/// Whether everything was taken, or nobody is there to take it.
fn flush(connection: &mut Connection) -> bool {
    let mut stream = &connection.stream;
    while !connection.outbox.is_empty() {
        match stream.write(&connection.outbox) {
            Ok(n) => drop(connection.outbox.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            // Its end is read in a moment.
            Err(_) => connection.outbox.clear(),
        }
    }
    // A large backlog leaves no large buffer behind.
    connection.outbox = Vec::new();
    true
}

#[cfg(test)]
mod tests;
