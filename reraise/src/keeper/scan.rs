//! What the disk and the process table say about the services of a keeper.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::backend::ProcessId;
use crate::backend::native;
use crate::error::is_shortage;
use crate::lock::{self, Holder};
use crate::name::ServiceName;
use crate::paths::Files;
use crate::record::Record;
use crate::slot::{self, Phase, Slot, SlotFile};
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
    slot::read(&files.file("run")).filter(|slot| is_of(slot, place))
}

fn is_of(slot: &Slot, place: Place) -> bool {
    Place { boot: slot.boot, space: slot.space } == place
}

/// Whether a service has a run, or one is due, or something is left to be written down.
pub(super) fn has_run(keeper: &KeeperCommand, me: u32, place: Place, name: &ServiceName) -> bool {
    let files = Files::of(&keeper.piddir, me, name);
    match SlotFile::open_to_read(&files.file("run")) {
        Ok(file) => {
            let slot = file.read().filter(|slot| is_of(slot, place));
            slot.is_some_and(|s| s.phase.is_open() || is_unfinished(&files, me, &s))
        }
        // What cannot be read just now may be there all the same.
        Err(e) => is_shortage(&e),
    }
}

/// Whether its worker was killed before it could write down that it is over.
fn is_unfinished(files: &Files, me: u32, slot: &Slot) -> bool {
    if slot.phase != Phase::Over {
        return false;
    }
    let record = Record::read(&files.record, &[me]).ok().flatten();
    // The shell version's is its own business.
    record.is_some_and(|r| r.more.is_some() && r.worker.is_some())
}

/// The main process of a service's run.
pub(super) fn main_of(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    name: &ServiceName,
) -> Option<i32> {
    let slot = current_slot(&Files::of(&keeper.piddir, me, name), place)?;
    (slot.run != 0 && slot.phase.has_run()).then_some(slot.pid)
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
            Err(e) if is_shortage(&e) => return Err(e),
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

/// A child of the keeper that is not its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Child {
    /// The main process of this service's run.
    Main(ServiceName),
    /// An orphan of this run.
    Stray(ServiceName, u64),
}

/// The run whose main process has this pid, if it is the one that this service has.
/// To be asked about a zombie child of ours, whose pid cannot belong to anybody else.
pub(super) fn run_with(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    name: &ServiceName,
    pid: i32,
) -> Option<u64> {
    let slot = current_slot(&Files::of(&keeper.piddir, me, name), place)?;
    is_main(&slot, pid).then_some(slot.run)
}

/// The same when the service is not known either.
pub(super) fn run_of(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    pid: i32,
) -> Option<(ServiceName, u64)> {
    let slots = names(keeper).ok()?.into_iter().filter_map(|name| {
        let slot = current_slot(&Files::of(&keeper.piddir, me, &name), place)?;
        is_main(&slot, pid).then_some((name, slot))
    });
    let (name, slot) = slots.max_by_key(|(_, slot)| slot.born)?;
    Some((name, slot.run))
}

/// Whether the slot's run has this pid. One of which only remnants are left has lost it,
/// and another service's run may have got it; identities grow with time.
fn is_main(slot: &Slot, pid: i32) -> bool {
    slot.pid == pid && slot.run != 0 && slot.phase.has_run()
}

/// What these children of ours are, where that is known; `dead` has what belongs to
/// none of the adopted services.
pub(super) fn assign(
    keeper: &KeeperCommand,
    me: u32,
    place: Place,
    children: &[i32],
    adopted: &[ServiceName],
    dead: Option<&ServiceName>,
) -> Vec<(ProcessId, Child)> {
    let slots: Vec<(&ServiceName, Slot)> = adopted
        .iter()
        .filter_map(|n| Some((n, current_slot(&Files::of(&keeper.piddir, me, n), place)?)))
        .collect();
    // Thousands may have come at once.
    let by_main: HashMap<(i32, u64), usize> =
        (0..).zip(&slots).map(|(i, (_, s))| ((s.pid, s.born), i)).collect();
    // Of two with one pid the former has ended, and lost it.
    let mut by_pid: HashMap<i32, usize> = HashMap::new();
    for (i, (_, slot)) in (0..).zip(&slots) {
        let at = by_pid.entry(slot.pid).or_insert(i);
        if slot.born > slots[*at].1.born {
            *at = i;
        }
    }
    let by_run: HashMap<u64, usize> = (0..).zip(&slots).map(|(i, (_, s))| (s.run, i)).collect();
    let mut found = Vec::new();
    for &pid in children {
        let Ok(Some(born)) = native::born(pid) else { continue };
        let own = ProcessId { pid, born };
        if let Some(&at) = by_main.get(&(pid, born)) {
            found.push((own, Child::Main(slots[at].0.clone())));
            continue;
        }
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
        let by_session = session.ok().and_then(|sid| by_pid.get(&sid.as_raw()));
        let by_mark = || by_run.get(&native::run_mark(pid)?);
        let owner = by_session.or_else(by_mark).map(|&at| &slots[at]);
        let by_death = || slots.iter().find(|(n, _)| Some(*n) == dead);
        if let Some((name, slot)) = owner.or_else(by_death) {
            found.push((own, Child::Stray((*name).clone(), slot.run)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

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
    struct Orphan(std::process::Child);

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
    fn an_orphan_is_given_by_its_marks_and_else_to_the_one_that_died() {
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
            found.into_iter().find_map(|(_, child)| match child {
                Child::Stray(name, _) => Some(name),
                Child::Main(_) => None,
            })
        };
        for (orphan, adopted, dead, expected) in [
            (&bare, &[&one][..], Some(&one), Some(&one)),
            (&bare, &[&one], None, None),
            // Whether it can be another's is for the caller to know, who saw who died.
            (&bare, &[&one, &two], Some(&one), Some(&one)),
            (&bare, &[&one, &two], None, None),
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
    fn the_main_process_of_a_run_is_no_orphan() {
        let scene = Scene::new();
        let main = Orphan::new(&[("RERAISE_RUN", "0000000000000008")]);
        let born = native::born(main.pid()).unwrap().unwrap();
        let slot = Slot { phase: Phase::Up, pid: main.pid(), born, run: 7, ..Slot::default() };
        let one = scene.service("one", slot);
        let two = scene.service("two", Slot { phase: Phase::Up, run: 8, pid: 1, ..slot });
        let adopted = [one.clone(), two.clone()];
        let found = assign(&scene.keeper(), scene.me, HERE, &[main.pid()], &adopted, Some(&two));
        let main = ProcessId { pid: main.pid(), born };
        assert_eq!(found, [(main, Child::Main(one.clone()))]);
        // A run that has ended had this pid before, and is still in its slot.
        for name in ["a", "z"] {
            let stale = Slot { phase: Phase::Clearing, born: born - 1, run: 9, ..slot };
            let adopted = [one.clone(), scene.service(name, stale)];
            let found = assign(&scene.keeper(), scene.me, HERE, &[main.pid], &adopted, None);
            assert_eq!(found, [(main, Child::Main(one.clone()))]);
            let run = run_of(&scene.keeper(), scene.me, HERE, main.pid);
            assert_eq!(run, Some((one.clone(), 7)));
        }
        // Another one had this pid.
        scene.service("one", Slot { born: born + 1, ..slot });
        let found = assign(&scene.keeper(), scene.me, HERE, &[main.pid], &adopted, None);
        assert_eq!(found, [(main, Child::Stray(one, 7))]);
    }

    #[test]
    fn what_is_over_and_does_not_say_so_is_looked_after() {
        let scene = Scene::new();
        let slot = |phase| Slot { phase, pid: 77, run: 7, ..Slot::default() };
        let more = Some(crate::record::More::default());
        let record = Record {
            phase: crate::record::Phase::Run,
            exit: None,
            pid: Some(77),
            worker: Some(76),
            epoch: 0,
            more,
        };
        for (phase, record, expected) in [
            (Phase::Over, Some(&record), true),
            (Phase::Stopped, Some(&record), false),
            (Phase::Over, Some(&Record { worker: None, ..record.clone() }), false),
            // Of the shell version, or removed since.
            (Phase::Over, Some(&Record { more: None, ..record.clone() }), false),
            (Phase::Over, None, false),
        ] {
            let name = scene.service("web", slot(phase));
            let files = Files::of(scene.dir.path(), scene.me, &name);
            let _ = fs::remove_file(&files.record);
            if let Some(record) = record {
                record.write(&files.record, &files.file("record.new")).unwrap();
            }
            let found = has_run(&scene.keeper(), scene.me, HERE, &name);
            assert_eq!(found, expected, "{phase:?} {record:?}");
        }
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
            assert_eq!(found(HERE, 77), is_open.then_some((name.clone(), 7)), "{phase:?}");
            let run = run_with(&scene.keeper(), scene.me, HERE, &name, 77);
            assert_eq!(run, is_open.then_some(7), "{phase:?}");
            assert_eq!(found(HERE, 78), None);
            assert_eq!(found(Place { boot: 9, ..HERE }, 77), None);
        }
    }
}
