//! What the disk and the process table say about the services of a keeper.

use std::fs;
use std::io;

use crate::backend::native;
use crate::backend::{ProcessId, run_entry};
use crate::lock::{self, Holder};
use crate::name::ServiceName;
use crate::paths::Files;
use crate::slot::{self, Slot};
use crate::supervise::link::KeeperCommand;
use crate::supervise::worker::Place;
use crate::wanted::Wanted;

/// A service that a new keeper must know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It has a worker with this pid.
    Worker(i32),
    /// Its worker was interrupted, and no other has come.
    Unwatched,
}

fn names(keeper: &KeeperCommand) -> io::Result<Vec<ServiceName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(keeper.state.join("s"))? {
        names.extend(ServiceName::new(&entry?.file_name()));
    }
    Ok(names)
}

fn current_slot(files: &Files, place: Place) -> Option<Slot> {
    let slot = slot::read(&files.file("run"))?;
    (Place { boot: slot.boot, space: slot.space } == place).then_some(slot)
}

/// Whether a service has a run, or one is due.
pub(super) fn has_run(keeper: &KeeperCommand, me: u32, place: Place, name: &ServiceName) -> bool {
    let slot = current_slot(&Files::of(&keeper.piddir, me, name), place);
    slot.is_some_and(|s| s.phase.is_open())
}

/// All services that have a worker, or should have one.
pub(super) fn services(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
) -> io::Result<Vec<(ServiceName, Found)>> {
    let mut found = Vec::new();
    for name in names(keeper)? {
        let files = Files::of(&keeper.piddir, me, &name);
        match lock::holder_of(&files.file("lock"), lock::ALIVE) {
            // One that was started by hand knows no keeper.
            Ok(Holder::Pid(pid)) => {
                if lock::holder_of(&files.file("lock"), lock::BY_HAND)? != Holder::Pid(pid) {
                    found.push((name, Found::Worker(pid)));
                }
            }
            Ok(Holder::Elsewhere) | Err(_) => {}
            Ok(Holder::Nobody) => {
                if has_run(keeper, me, place, &name) {
                    found.push((name, Found::Unwatched));
                }
            }
        }
    }
    Ok(found)
}

/// The services that are to run, whatever has become of them.
pub(super) fn wanted(keeper: &KeeperCommand, me: u32) -> io::Result<Vec<ServiceName>> {
    let is_wanted = |name: &ServiceName| {
        let files = Files::of(&keeper.piddir, me, name);
        Wanted::read(&files.own).is_some_and(Wanted::is_up)
    };
    Ok(names(keeper)?.into_iter().filter(is_wanted).collect())
}

/// Whether the lock is still held by this pid.
pub(super) fn is_still(keeper: &KeeperCommand, me: u32, name: &ServiceName, pid: i32) -> bool {
    let files = Files::of(&keeper.piddir, me, name);
    lock::holder_of(&files.file("lock"), lock::ALIVE).is_ok_and(|h| h == Holder::Pid(pid))
}

/// The service and the run whose main process has this pid. To be asked about
/// a zombie child of ours, whose pid cannot belong to anybody else.
pub(super) fn run_of(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    pid: i32,
) -> Option<(ServiceName, u64)> {
    names(keeper).ok()?.into_iter().find_map(|name| {
        let slot = current_slot(&Files::of(&keeper.piddir, me, &name), place)?;
        (slot.pid == pid && slot.run != 0 && slot.phase.has_run()).then_some((name, slot.run))
    })
}

/// For each orphan of ours: its identity, and the service and the run that it
/// belongs to, where that is known; `dead` has what belongs to none of them. The
/// main process of a run needs no note.
pub(super) fn assign(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    orphans: &[i32],
    adopted: &[ServiceName],
    dead: Option<&ServiceName>,
) -> Vec<(ProcessId, Option<(ServiceName, u64)>)> {
    let slots: Vec<(&ServiceName, Slot)> = adopted
        .iter()
        .filter_map(|n| Some((n, current_slot(&Files::of(&keeper.piddir, me, n), place)?)))
        .collect();
    let mut found = Vec::new();
    for &pid in orphans {
        let Ok(Some(born)) = native::born(pid) else { continue };
        let own = ProcessId { pid, born };
        if slots.iter().any(|(_, s)| s.process() == own) {
            found.push((own, None));
            continue;
        }
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
        let by_session = slots.iter().find(|(_, s)| session.is_ok_and(|sid| sid.as_raw() == s.pid));
        let by_mark =
            || slots.iter().find(|(_, s)| native::carries(pid, run_entry(s.run).as_bytes()));
        let by_death = || slots.iter().find(|(n, _)| Some(*n) == dead);
        if let Some((name, slot)) = by_session.or_else(by_mark).or_else(by_death) {
            found.push((own, Some(((*name).clone(), slot.run))));
        }
    }
    found
}
