//! Who belongs to no service's tree although it may descend from one: the keeper
//! and the workers, whom a script can have started with `reraise start`, and the
//! runs of other services. Who holds a lock says that it is one; a run is in its
//! slot, and may have lost its worker.

use std::fs;
use std::path::Path;

use crate::backend::native;
use crate::lock::{self, Holder};
use crate::logger;
use crate::name::ServiceName;
use crate::paths::{Files, state_of};
use crate::slot;
use crate::supervise::begin::Assignment;
use crate::supervise::worker::Place;

/// What a worker's system asks when it needs to know whom to spare.
pub fn of(given: &Assignment) -> impl Fn() -> Vec<i32> + 'static {
    let (piddir, own, place) = (given.piddir.clone(), given.name.clone(), given.place);
    move || pids(&piddir, &own, place)
}

/// Their pids, as they are now. To be asked by the worker of `own`, whose lock
/// must not be opened a second time: it would end.
#[must_use]
pub fn pids(piddir: &Path, own: &ServiceName, place: Place) -> Vec<i32> {
    let me = nix::unistd::geteuid().as_raw();
    let state = state_of(piddir, me);
    let mut found = Vec::new();
    let mut add = |path: &Path, byte| {
        if let Ok(Holder::Pid(pid)) = lock::holder_of(path, byte) {
            found.push(pid);
        }
    };
    let keeper = state.join("keeper.lock");
    // One that is about to be the keeper as well: a TERM that reaches it then would
    // be taken for an order to the keeper, to end all services.
    add(&keeper, lock::CHANGING);
    add(&keeper, lock::ALIVE);
    add(&logger::serve::lock_in(&state), lock::ALIVE);
    let mut runs = Vec::new();
    for entry in fs::read_dir(state.join("s")).into_iter().flatten().flatten() {
        let Ok(name) = ServiceName::new(&entry.file_name()) else { continue };
        if name == *own {
            continue;
        }
        let files = Files::of(piddir, me, &name);
        add(&files.file("lock"), lock::ALIVE);
        runs.extend(slot::read(&files.file("run")).filter(|slot| {
            Place { boot: slot.boot, space: slot.space } == place && slot.phase.has_run()
        }));
    }
    let is_alive =
        |run: &slot::Slot| native::born(run.pid).is_ok_and(|born| born == Some(run.born));
    found.extend(runs.iter().filter(|run| is_alive(run)).map(|run| run.pid));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use crate::lock::LockFile;

    #[test]
    fn a_keeper_is_spared_and_one_that_is_about_to_be_it_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let state = state_of(dir.path(), nix::unistd::geteuid().as_raw());
        fs::create_dir_all(&state).unwrap();
        let own = ServiceName::new("web".as_ref()).unwrap();
        for byte in [lock::ALIVE, lock::CHANGING] {
            let lock = LockFile::open(&state.join("keeper.lock")).unwrap();
            let hold = move || {
                native::set_inherited(&lock, true)?;
                lock.try_take(byte).map(|_| ())
            };
            let mut command = Command::new("/bin/cat");
            // SAFETY: two system calls, and no memory is asked for.
            unsafe { command.pre_exec(hold) };
            let mut holder = command.stdin(Stdio::piped()).spawn().unwrap();
            let found = pids(dir.path(), &own, Place::default());
            drop(holder.stdin.take());
            holder.wait().unwrap();
            assert_eq!(found, [holder.id().cast_signed()]);
            assert_eq!(pids(dir.path(), &own, Place::default()), [0; 0]);
        }
    }
}
