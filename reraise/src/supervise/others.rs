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
    let mut add = |path: &Path| {
        if let Ok(Holder::Pid(pid)) = lock::holder_of(path, lock::ALIVE) {
            found.push(pid);
        }
    };
    add(&state.join("keeper.lock"));
    add(&logger::serve::lock_in(&state));
    let mut runs = Vec::new();
    for entry in fs::read_dir(state.join("s")).into_iter().flatten().flatten() {
        let Ok(name) = ServiceName::new(&entry.file_name()) else { continue };
        if name == *own {
            continue;
        }
        let files = Files::of(piddir, me, &name);
        add(&files.file("lock"));
        runs.extend(slot::read(&files.file("run")).filter(|slot| {
            Place { boot: slot.boot, space: slot.space } == place && slot.phase.has_run()
        }));
    }
    let is_alive =
        |run: &slot::Slot| native::born(run.pid).is_ok_and(|born| born == Some(run.born));
    found.extend(runs.iter().filter(|run| is_alive(run)).map(|run| run.pid));
    found
}
