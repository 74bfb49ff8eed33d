//! Forking a worker.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::net::UnixStream;

use crate::backend::native::{self, Native};
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::link::{KeeperCommand, Link};
use crate::supervise::worker::Place;

/// Forks a worker; its pid and our end of the connection to it. To be called in
/// the common zone: all that the worker is given is copied there before, since
/// it does not inherit what the keeper keeps for itself.
pub(super) fn fork(
    keeper: &KeeperCommand,
    name: &ServiceName,
    task: &Task,
    place: Place,
) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let title = CString::new(format!("auto-reraise {name}")).unwrap_or_default();
    let assignment = Assignment {
        piddir: keeper.piddir.clone(),
        name: name.clone(),
        task: task.clone(),
        place,
        link: Link::none(),
        is_foreground: false,
    };
    let keeper = keeper.clone();
    match native::fork_plainly()? {
        Some(pid) => Ok((pid, ours)),
        None => be(assignment, keeper, &title, theirs),
    }
}

/// The life of a worker.
#[inline(never)]
fn be(assignment: Assignment, keeper: KeeperCommand, title: &CStr, socket: UnixStream) -> ! {
    let socket = native::keep_only(socket);
    native::set_title(title);
    let name = assignment.name.clone();
    let link = Link::new(socket, &name, keeper);
    let assignment = Assignment { link, ..assignment };
    let ended = Native::new(&begin::SIGNALS).and_then(|b| begin::supervise(b, assignment));
    native::exit_now(match ended {
        Ok(_) => 0,
        Err(e) => {
            messages::say(name.as_str(), &format!("its worker failed: {e}"));
            1
        }
    })
}
