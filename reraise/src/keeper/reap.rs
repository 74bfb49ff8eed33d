//! Children that have ended: workers, adopted runs, and orphans of trees.

use super::registry::End;
use super::{Keeper, now, scan, worker};
use crate::backend::{Exit, ProcessId, native};
use crate::messages;
use crate::name::ServiceName;
use crate::paths::Files;
use crate::slot;
use crate::supervise::strays;

impl Keeper {
    /// Looks at all children that have ended. Before an adopted run is reaped,
    /// its status is put where its worker finds it.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = native::peek_child() {
            if let Some((name, token)) = self.workers.get(&pid).cloned() {
                // Still ours while its last words are read: what closes the
                // connection must not count as a second death.
                self.drain(token);
                self.workers.remove(&pid);
                if self.awaited.remove(&pid).is_some() {
                    self.expected = self.expected.saturating_sub(1);
                }
                let end = match Exit::from_status(status) {
                    Exit::Code(0) => End::Done,
                    Exit::Code(worker::YIELDED) => End::Killed,
                    Exit::Signal { number: libc::SIGKILL | libc::SIGTERM, .. } => End::Killed,
                    _ => End::Failed,
                };
                if end != End::Done {
                    self.adopted.insert(name.clone(), ());
                    self.assign_orphans(Some(&name));
                }
                wait_for(pid);
                self.worker_gone(&name, end);
                continue;
            }
            if let Some((name, run)) = scan::run_of(&self.command, self.me, self.place, pid) {
                let files = Files::of(&self.command.piddir, self.me, &name);
                if let Err(e) = slot::leave_status(&files.file("exit"), run, status) {
                    messages::say(name.as_str(), &format!("cannot keep its exit code: {e}"));
                }
            }
            self.assign_orphans(None);
            self.strays.remove(&pid);
            wait_for(pid);
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
        let was_adopted = end == End::Done && self.adopted.remove(name).is_some();
        let effects = if self.links.contains_key(name) {
            // That of an earlier keeper has said hello, and this one has only
            // found it there.
            self.adopted.insert(name.clone(), ());
            self.registry.reseat(name)
        } else {
            self.registry.gone(name, end, now())
        };
        self.carry_out(effects);
        let has_successor = self.registry.has(name);
        self.renewal.is_gone(name, has_successor);
        // It may have found there a worker that was about to end.
        if was_adopted
            && !has_successor
            && let Err(e) = self.take_over_one(name, &[])
        {
            messages::say(name.as_str(), &format!("cannot be looked after: {e}"));
        }
        self.go_on_renewing();
    }

    /// Gives orphans that came to us to the services they belong to: by the
    /// mark in their environment, by their session, else to the service whose
    /// worker has just died.
    pub(super) fn assign_orphans(&mut self, dead: Option<&ServiceName>) {
        let Ok(children) = native::children(std::process::id().cast_signed()) else { return };
        let unknown: Vec<i32> = children
            .into_iter()
            .filter(|pid| !self.workers.contains_key(pid))
            // A child keeps its pid until we reap it.
            .filter(|pid| !self.strays.contains_key(pid))
            .filter(|pid| native::born(*pid).ok().flatten().is_some())
            .collect();
        if unknown.is_empty() {
            return;
        }
        let adopted: Vec<ServiceName> = self.adopted.keys().cloned().collect();
        for (stray, owner) in
            scan::assign(&self.command, self.me, self.place, &unknown, &adopted, dead)
        {
            self.strays.insert(stray.pid, stray.born);
            if let Some((name, run)) = owner {
                let files = Files::of(&self.command.piddir, self.me, &name);
                let is_alive =
                    |one: &ProcessId| native::born(one.pid).ok().flatten() == Some(one.born);
                if let Err(e) = strays::note(&files, run, stray, is_alive) {
                    let what = format!("cannot note pid {} as its own: {e}", stray.pid);
                    messages::say(name.as_str(), &what);
                }
            }
        }
    }
}

/// Reaps one child of ours that has ended.
fn wait_for(pid: i32) {
    // A real-time signal as the cause is EINVAL to nix, after the reaping.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}
