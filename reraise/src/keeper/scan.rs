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

/// All services that were ever started.
pub(super) fn names(keeper: &KeeperCommand) -> io::Result<Vec<ServiceName>> {
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

/// Whether a service has a worker, or should have one.
pub(super) fn find(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    name: &ServiceName,
) -> Option<Found> {
    let files = Files::of(&keeper.piddir, me, name);
    match lock::holder_of(&files.file("lock"), 0) {
        Ok(Holder::Pid(pid)) => Some(Found::Worker(pid)),
        Ok(Holder::Elsewhere) | Err(_) => None,
        Ok(Holder::Nobody) => has_run(keeper, me, place, name).then_some(Found::Unwatched),
    }
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
    lock::holder_of(&files.file("lock"), 0).is_ok_and(|h| h == Holder::Pid(pid))
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
/// belongs to, where that is known. The main process of a run needs no note.
pub(super) fn assign(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    orphans: &[i32],
    adopted: &[ServiceName],
    dead: Option<&ServiceName>,
) -> Vec<(ProcessId, Option<(ServiceName, u64)>)> {
    let slot = |name: &ServiceName| current_slot(&Files::of(&keeper.piddir, me, name), place);
    let living = |&pid: &i32| Some(ProcessId { pid, born: native::born(pid).ok().flatten()? });
    let (mut found, mut orphans) = (Vec::new(), orphans.iter().filter_map(living).collect());
    let mut take_mains = |orphans: &mut Vec<ProcessId>, slot: &Slot| {
        found.extend(orphans.extract_if(.., |own| *own == slot.process()).map(|own| (own, None)));
    };
    // Mostly nothing else has come to us, and then one slot is enough.
    if let Some(slot) = dead.and_then(&slot) {
        take_mains(&mut orphans, &slot);
    }
    if orphans.is_empty() {
        return found;
    }
    let slots: Vec<(&ServiceName, Slot)> =
        adopted.iter().filter_map(|name| Some((name, slot(name)?))).collect();
    slots.iter().for_each(|(_, slot)| take_mains(&mut orphans, slot));
    for own in orphans {
        let pid = own.pid;
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
        let by_session = slots.iter().find(|(_, s)| session.is_ok_and(|sid| sid.as_raw() == s.pid));
        let by_mark =
            || slots.iter().find(|(_, s)| native::carries(pid, run_entry(s.run).as_bytes()));
        // With one candidate only: a guess would end some day what is another's.
        let by_death = || slots.iter().find(|(n, _)| Some(*n) == dead && adopted.len() == 1);
        if let Some((name, slot)) = by_session.or_else(by_mark).or_else(by_death) {
            found.push((own, Some(((*name).clone(), slot.run))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{Phase, SlotFile};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    const HERE: Place = Place { boot: 1, space: 2 };

    struct Scene {
        dir: tempfile::TempDir,
        me: u32,
    }

    impl Scene {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), me: nix::unistd::geteuid().as_raw() }
        }

        fn keeper(&self) -> KeeperCommand {
            let piddir = self.dir.path().to_owned();
            let state = crate::paths::state_of(&piddir, self.me);
            KeeperCommand { program: "/nonexistent".into(), piddir, state, build: 0 }
        }

        /// A service, and what its slot says.
        fn service(&self, name: &str, slot: Slot) -> ServiceName {
            let name = ServiceName::new(name.as_ref()).unwrap();
            let files = Files::of(self.dir.path(), self.me, &name);
            fs::create_dir_all(&files.own).unwrap();
            let slot = Slot { boot: HERE.boot, space: HERE.space, ..slot };
            SlotFile::open(&files.file("run")).unwrap().write(&slot).unwrap();
            name
        }
    }

    /// A process in a session of its own, with this environment; it ends with
    /// its input.
    struct Orphan(Child);

    impl Orphan {
        fn new(environment: &[(&str, &str)]) -> Self {
            let mut command = Command::new("/bin/cat");
            command.env_clear().envs(environment.iter().copied());
            let leave = || nix::unistd::setsid().map(drop).map_err(Into::into);
            // SAFETY: one system call.
            unsafe { command.pre_exec(leave) };
            Self(command.stdin(Stdio::piped()).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }
    }

    impl Drop for Orphan {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn an_orphan_is_given_by_its_marks_and_by_a_death_only_where_that_is_no_guess() {
        let scene = Scene::new();
        let slot = |pid, run| Slot { phase: Phase::Up, pid, run, ..Slot::default() };
        let one = scene.service("one", slot(i32::MAX, 7));
        let two = scene.service("two", slot(i32::MAX - 1, 8));
        let bare = Orphan::new(&[]);
        let marked = Orphan::new(&[("RERAISE_RUN", "0000000000000008")]);
        let given = |orphan: &Orphan, adopted: &[&ServiceName], dead| {
            let adopted: Vec<_> = adopted.iter().map(|&name| name.clone()).collect();
            let found = assign(&scene.keeper(), scene.me, HERE, &[orphan.pid()], &adopted, dead);
            assert!(found.iter().all(|(stray, _)| stray.pid == orphan.pid()));
            found.into_iter().find_map(|(_, owner)| owner).map(|(name, _)| name)
        };
        for (orphan, adopted, dead, expected) in [
            (&bare, &[&one][..], Some(&one), Some(&one)),
            (&bare, &[&one], None, None),
            // It may be that of the other one as well.
            (&bare, &[&one, &two], Some(&one), None),
            (&bare, &[&one, &two], Some(&two), None),
            (&marked, &[&one, &two], Some(&one), Some(&two)),
            (&marked, &[&one, &two], None, Some(&two)),
        ] {
            let case = format!("{adopted:?} {dead:?}");
            assert_eq!(given(orphan, adopted, dead).as_ref(), expected, "{case}");
        }
        // By its session.
        scene.service("one", slot(bare.pid(), 7));
        assert_eq!(given(&bare, &[&one, &two], Some(&two)), Some(one));
    }

    #[test]
    fn a_run_has_a_process_only_in_some_phases() {
        let scene = Scene::new();
        for (phase, is_open) in [
            (Phase::Idle, false),
            (Phase::Launching, true),
            (Phase::Up, true),
            (Phase::Delay, false),
            (Phase::Stopping, true),
            (Phase::Restarting, true),
            (Phase::Clearing, true),
            (Phase::Over, false),
        ] {
            let name = scene.service("web", Slot { phase, pid: 77, run: 7, ..Slot::default() });
            let found = |place, pid| run_of(&scene.keeper(), scene.me, place, pid);
            // The pid of one that has ended may be an orphan's of another service by now.
            assert_eq!(found(HERE, 77), is_open.then_some((name, 7)), "{phase:?}");
            assert_eq!(found(HERE, 78), None);
            assert_eq!(found(Place { boot: 9, ..HERE }, 77), None);
        }
    }
}
