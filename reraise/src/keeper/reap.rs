//! Children that have ended: workers, adopted runs, and orphans of trees.

use std::time::Duration;

use super::registry::End;
use super::{Keeper, now, scan};
use crate::backend::{Exit, ProcessId, native};
use crate::failing::Failing;
use crate::messages;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::revive;
use crate::slot;
use crate::supervise::strays;

impl Keeper {
    /// Looks at all children that have ended. Before an adopted run is reaped,
    /// its status is put where its worker finds it.
    pub(super) fn reap(&mut self) {
        let mut workers = Vec::new();
        let mut has_come = false;
        while let Ok(Some((pid, status))) = native::peek_child(true) {
            if libc::WIFSTOPPED(status) {
                native::note_stop(pid);
                // Services may be stopped by whoever likes to.
                if self.workers.contains_key(&pid) {
                    let _ = revive::process(pid);
                }
                self.revive_logger(pid);
                continue;
            }
            if let Some((name, token)) = self.workers.get(&pid).cloned() {
                let end = self.end_of_worker(pid, &name, token, status);
                if end != End::Done {
                    self.adopted.insert(name.clone(), ());
                    has_come = true;
                }
                workers.push((name, end));
            } else if self.logger_gone(pid, status) {
                // Its own children, if it has left any, are known by their session.
            } else {
                self.leave_status(pid, status);
                self.strays.remove(&pid);
                has_come = true;
            }
            wait_for(pid);
        }
        // What they have left is ours since they ended; who was done has left nothing. All
        // at once: each listing of
        // our children takes as long as there are children.
        if has_come {
            let mut left = workers.iter().filter(|(_, end)| *end != End::Done);
            let dead = left.next().filter(|_| left.next().is_none()).map(|(name, _)| name);
            self.assign_orphans(dead);
        }
        for (name, end) in workers {
            self.worker_gone(&name, end);
        }
    }

    /// What a dead worker has said last, and how it ended.
    fn end_of_worker(&mut self, pid: i32, name: &ServiceName, token: u64, status: i32) -> End {
        // Still ours while its last words are read: what closes the connection
        // must not count as a second death.
        self.drain(token);
        self.workers.remove(&pid);
        self.called.remove(&pid);
        if let exit @ Exit::Signal { number, .. } = Exit::from_status(status)
            && ![libc::SIGKILL, libc::SIGTERM].contains(&number)
        {
            messages::say(name.as_str(), &format!("its worker ended: {exit}"));
        }
        let has_yielded = self.yielded.remove(&token);
        match Exit::from_status(status) {
            // Whom it has found may be gone meanwhile.
            Exit::Code(0) if has_yielded => End::Killed,
            Exit::Code(0) => End::Done,
            Exit::Signal { number: libc::SIGKILL | libc::SIGTERM, .. } => End::Killed,
            _ => End::Failed,
        }
    }

    /// Puts the status of an adopted run where its worker finds it.
    fn leave_status(&self, pid: i32, status: i32) {
        let (command, me, place) = (&self.command, self.me, self.place);
        let run = match self.strays.get(&pid) {
            Some(Some(name)) => {
                scan::run_with(command, me, place, name, pid).map(|run| (name.clone(), run))
            }
            Some(None) => None,
            // It has come and ended since we last looked.
            None => scan::run_of(command, me, place, pid),
        };
        let Some((name, run)) = run else { return };
        let files = Files::of(&command.piddir, me, &name);
        if let Err(e) = slot::leave_status(&files.file("exit"), run, status) {
            messages::say(name.as_str(), &format!("cannot keep its exit code: {e}"));
        }
        if let Some(usage) = native::usage_of_ended(pid) {
            let _ = slot::leave_usage(&files.file("exit"), run, usage);
        }
    }

    /// Reads what a dead worker has said last, up to the end, which closes the
    /// connection.
    pub(super) fn drain(&mut self, token: u64) {
        // To the end of what is there. A child that it forked last may hold the
        // other side a moment longer; nothing more is said there.
        while self.connections.contains_key(&token) && self.on_readable(token) {}
        self.close(token);
    }

    pub(super) fn worker_gone(&mut self, name: &ServiceName, end: End) {
        if end == End::Done {
            self.adopted.remove(name);
        }
        let effects = if self.links.contains_key(name) {
            // That of an earlier keeper has said hello, and has all requests.
            self.adopted.insert(name.clone(), ());
            Vec::new()
        } else if self.called.values().any(|called| called == name) {
            self.registry.defer(name);
            Vec::new()
        } else {
            if end != End::Done {
                self.hold_pipes(name);
            }
            self.registry.gone(name, end, now())
        };
        self.carry_out(effects);
        self.renewal.is_gone(name);
        self.go_on_renewing();
    }

    /// Says that the workers of a service keep failing.
    pub(super) fn rest(&self, name: &ServiceName, failures: u32, until: Duration) {
        let seconds = until.saturating_sub(now()).as_secs_f64().ceil();
        let what = format!("its worker has failed {failures} times; the next in {seconds} s");
        messages::say(name.as_str(), &what);
        let files = Files::of(&self.command.piddir, self.me, name);
        if let Err(e) = (Failing { failures, until }).write(&files.file("failing")) {
            messages::say(name.as_str(), &format!("cannot note that its worker fails: {e}"));
        }
    }

    /// Gives orphans that came to us to the services they belong to: by the
    /// mark in their environment, by their session, else to the service whose
    /// worker has just died.
    pub(super) fn assign_orphans(&mut self, dead: Option<&ServiceName>) {
        let Ok(children) = native::children(std::process::id().cast_signed()) else { return };
        let unknown: Vec<i32> = children
            .into_iter()
            .filter(|pid| !self.workers.contains_key(pid))
            .filter(|pid| !self.strays.contains_key(pid))
            .filter(|pid| !self.is_of_logger(*pid))
            .filter(|pid| native::born(*pid).ok().flatten().is_some())
            .collect();
        if unknown.is_empty() {
            return;
        }
        let adopted: Vec<ServiceName> = self.adopted.keys().cloned().collect();
        // A guess would end some day what is another's: that of a worker which
        // is dead as well, and not reaped yet.
        let is_alive = |&pid: &i32| native::born(pid).ok().flatten().is_some();
        let dead = dead.filter(|_| adopted.len() == 1 && self.workers.keys().all(is_alive));
        for (own, child) in
            scan::assign(&self.command, self.me, self.place, &unknown, &adopted, dead)
        {
            match child {
                scan::Child::Main(name) => drop(self.strays.insert(own.pid, Some(name))),
                scan::Child::Stray(name, run) => {
                    self.strays.insert(own.pid, None);
                    self.note_stray(&name, run, own);
                }
            }
        }
    }

    /// Whether it is a logger, or was started by one for a rotated file.
    fn is_of_logger(&self, pid: i32) -> bool {
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
        self.logger.is(pid) || session.is_ok_and(|session| self.logger.is(session.as_raw()))
    }

    fn note_stray(&self, name: &ServiceName, run: u64, stray: ProcessId) {
        let files = Files::of(&self.command.piddir, self.me, name);
        let is_alive = |one: &ProcessId| native::born(one.pid).ok().flatten() == Some(one.born);
        if let Err(e) = strays::note(&files, run, stray, is_alive) {
            let what = format!("cannot note pid {} as its own: {e}", stray.pid);
            messages::say(name.as_str(), &what);
        }
    }
}

/// Reaps one child of ours that has ended.
fn wait_for(pid: i32) {
    // A real-time signal as the cause is EINVAL to nix, after the reaping.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}
