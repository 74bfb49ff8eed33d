//! Workers that begin: those of services that were left alone, and what becomes
//! of a fork.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use super::peers::Peer;
use super::registry::End;
use super::serve::valid;
use super::up::Leaving;
use super::{Keeper, Token, now, scan};
use crate::backend::native;
use crate::control::Frame;
use crate::error::Fault;
use crate::messages;
use crate::name::ServiceName;
use crate::revive;
use crate::supervise::link::Request;
use crate::supervise::news::News;

/// Of a worker that is not connected.
const NO_TOKEN: Token = Token::MAX;

impl Keeper {
    /// Calls the workers that an earlier keeper left, or a program before us in this
    /// process, and resumes the services that have lost theirs.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        let mut children = native::children(std::process::id().cast_signed())?;
        children.sort_unstable();
        for (name, found) in scan::services(&self.command, self.me, self.place)? {
            match found {
                scan::Found::Worker(pid) => {
                    let is_ours = children.binary_search(&pid).is_ok();
                    self.call(name, pid, is_ours)?;
                }
                scan::Found::Unwatched => self.resume(name),
            }
        }
        Ok(())
    }

    /// Calls a worker that we have not forked. It says hello when it hears that, or
    /// dies before.
    fn call(&mut self, name: ServiceName, pid: i32, is_child: bool) -> io::Result<()> {
        if let Some(born) = native::born(pid)?
            && scan::is_still(&self.command, self.me, &name, pid)
            && (is_child || self.queue.watch_process(pid, born)?)
        {
            if is_child {
                // Of whose end we are told in another way.
                self.workers.insert(pid, (name.clone(), NO_TOKEN));
            }
            native::send(pid, born, Signal::SIGUSR1)?;
            revive::process(pid)?;
            self.registry.expect(name.clone());
            self.called.insert(pid, name);
        } else if scan::has_run(&self.command, self.me, self.place, &name) {
            self.resume(name);
        }
        Ok(())
    }

    fn resume(&mut self, name: ServiceName) {
        self.adopted.insert(name.clone(), ());
        let effects = self.registry.resume(name);
        self.carry_out(effects);
    }

    /// A worker that we have not forked has said hello: its service, its pid, and the
    /// build of the keeper that forked it.
    pub(super) fn on_hello(&mut self, token: Token, fields: &[&str]) {
        let Some(name) = fields.first().and_then(|name| valid(name)) else { return };
        let pid = fields.get(1).and_then(|pid| pid.parse().ok()).unwrap_or(0);
        if self.links.contains_key(&name) && !scan::is_still(&self.command, self.me, &name, pid) {
            // It is gone, and has a successor already.
            return;
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.peer = Peer::Worker(name.clone());
        // From here on its end is that of its connection, or a child's.
        if self.called.remove(&pid).is_some() && !self.workers.contains_key(&pid) {
            self.queue.forget_process(pid);
        }
        if let Some((_, its)) = self.workers.get_mut(&pid) {
            *its = token;
        }
        self.adopted.insert(name.clone(), ());
        self.registry.hello(name.clone());
        if self.is_foreground
            && let Some(main) = scan::main_of(&self.command, self.me, self.place, &name)
        {
            self.told.knows(&name, main);
        }
        self.links.insert(name.clone(), token);
        let effects = self.registry.reseat(&name);
        self.carry_out(effects);
        if self.leaving != Leaving::No {
            let effects = self.registry.leave(name, self.leaving == Leaving::Hurried);
            return self.carry_out(effects);
        }
        // One that does not say is of a version before this word.
        let build = fields.get(2).and_then(|build| u64::from_str_radix(build, 16).ok());
        if build != Some(self.command.build) {
            self.renewal.add(name, pid);
        }
        self.go_on_renewing();
    }

    /// A worker of ours has found one of an earlier keeper, which has not said
    /// hello; when we looked for such, it was only beginning.
    pub(super) fn on_yield(&mut self, name: ServiceName, token: u64, frame: &Frame) {
        self.yielded.insert(token);
        let pid = frame.split().and_then(|(pid, _)| pid.parse().ok());
        if let (Some(pid), Some(&linked)) = (pid, self.links.get(&name))
            && linked == token
            && let Err(e) = self.call(name.clone(), pid, false)
        {
            messages::say(name.as_str(), &format!("cannot call its worker: {e}"));
        }
    }

    #[inline(never)]
    pub(super) fn has_forked(
        &mut self,
        name: &ServiceName,
        requests: Vec<Request>,
        forked: io::Result<(i32, UnixStream)>,
    ) {
        let connected = forked.and_then(|(pid, stream)| {
            let token = self.connect(stream, Peer::Worker(name.clone()))?;
            self.workers.insert(pid, (name.clone(), token));
            Ok(token)
        });
        match connected {
            Ok(token) => {
                // One that said hello meanwhile has the service, and this one
                // will find that.
                self.links.entry(name.clone()).or_insert(token);
                for request in requests {
                    self.send(Some(token), &self.framed(name, &request));
                }
            }
            Err(e) => {
                messages::say(name.as_str(), &format!("cannot fork a worker: {e}"));
                let fault = Fault::system(name, "cannot start a worker", &e);
                let news = News::Fault(fault).to_frame().after("all");
                let mut effects = self.registry.news(name, &news);
                // Without a run to look after, nobody but the caller wanted it.
                let has_run = scan::has_run(&self.command, self.me, self.place, name);
                let end = if has_run { End::Failed } else { End::Done };
                effects.extend(self.registry.gone(name, end, now()));
                self.carry_out(effects);
            }
        }
    }
}
