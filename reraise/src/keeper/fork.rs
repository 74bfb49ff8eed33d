//! Workers that begin: those of services that were left alone, and what becomes
//! of a fork.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use super::peers::Peer;
use super::registry::End;
use super::{Keeper, now, scan};
use crate::backend::native;
use crate::error::Fault;
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::link::Request;
use crate::supervise::news::News;

impl Keeper {
    /// Calls the workers that an earlier keeper left, and resumes the services
    /// that have lost theirs.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        // Not those of a keeper that we have not been.
        let mut children = native::children(std::process::id().cast_signed())?;
        children.sort_unstable();
        for name in scan::names(&self.command)? {
            self.take_over_one(&name, &children)?;
        }
        Ok(())
    }

    /// Looks after one service: calls its worker, or resumes it. `children` are
    /// ours, in order.
    pub(super) fn take_over_one(&mut self, name: &ServiceName, children: &[i32]) -> io::Result<()> {
        // Its worker may end while we look at it.
        while !self.has_taken_over(name, children)? {}
        Ok(())
    }

    fn has_taken_over(&mut self, name: &ServiceName, children: &[i32]) -> io::Result<bool> {
        match scan::find(&self.command, self.me, self.place, name) {
            None => {}
            Some(scan::Found::Worker(pid)) if self.workers.contains_key(&pid) => {}
            Some(scan::Found::Worker(pid)) => {
                let Some(born) = native::born(pid)? else { return Ok(false) };
                if !scan::is_still(&self.command, self.me, name, pid) {
                    return Ok(false);
                }
                // Whose end we are told of in another way.
                let is_ours = children.binary_search(&pid).is_ok();
                if !is_ours && !self.queue.watch_process(pid, born)? {
                    return Ok(false);
                }
                self.awaited.insert(pid, name.clone());
                if is_ours {
                    self.inherit_worker(name, pid);
                }
                // It says hello when it hears the call, or is gone.
                native::send(pid, born, Signal::SIGUSR1)?;
            }
            Some(scan::Found::Unwatched) => {
                self.adopted.insert(name.clone(), ());
                let effects = self.registry.resume(name.clone());
                self.carry_out(effects);
            }
        }
        Ok(true)
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
                // Unless one that was there before has said hello meanwhile: this
                // one finds that, and goes.
                self.links.entry(name.clone()).or_insert(token);
                for request in requests {
                    self.send(Some(token), &request.to_frame());
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
