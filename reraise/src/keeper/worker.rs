//! Forking a worker.

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;

use crate::backend::native::{self, Native};
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::link::{KeeperCommand, Link};
use crate::supervise::worker::Place;

/// Forks a worker; its pid and our end of the connection to it.
pub(super) fn fork(
    keeper: &KeeperCommand,
    name: &ServiceName,
    task: Task,
    place: Place,
) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    if let Some(pid) = native::fork_plainly()? {
        return Ok((pid, ours));
    }
    let theirs = native::keep_only(theirs);
    native::set_title(&CString::new(format!("auto-reraise {name}")).unwrap_or_default());
    let link = Link::new(theirs, name, keeper.clone());
    let assignment = Assignment {
        piddir: keeper.piddir.clone(),
        name: name.clone(),
        task,
        place,
        link,
        is_foreground: false,
    };
    let ended = Native::new(&begin::SIGNALS).and_then(|b| begin::supervise(b, assignment));
    native::exit_now(match ended {
        Ok(_) => 0,
        Err(e) => {
            messages::say(name.as_str(), &format!("its worker failed: {e}"));
            1
        }
    })
}
