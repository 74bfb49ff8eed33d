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
        for (name, found) in scan::services(&self.command, self.me, self.place)? {
            match found {
                scan::Found::Worker(pid) => {
                    // It says hello when it hears the call, or is gone.
                    if let Some(born) = native::born(pid)?
                        && scan::is_still(&self.command, self.me, &name, pid)
                    {
                        native::send(pid, born, Signal::SIGUSR1)?;
                    }
                }
                scan::Found::Unwatched => {
                    self.adopted.insert(name.clone(), ());
                    let effects = self.registry.resume(name);
                    self.carry_out(effects);
                }
            }
        }
        Ok(())
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
                self.links.insert(name.clone(), token);
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
