//! Forking a worker.

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;

use crate::backend::native::{self, Native};
use crate::control;
use crate::error::Fault;
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::launch::Under;
use crate::supervise::link::{KeeperCommand, Link};
use crate::supervise::news::News;
use crate::supervise::others;
use crate::supervise::worker::{Ended, Place};

/// What a worker ends with that makes room for another one.
pub(super) const YIELDED: i32 = 3;

/// What a worker is given. All of it was copied into the common zone.
struct Given {
    assignment: Assignment,
    keeper: KeeperCommand,
    title: CString,
    socket: UnixStream,
}

/// Forks a worker; its pid and our end of the connection to it. To be called in
/// the common zone: what the keeper keeps for itself, a worker does not inherit.
pub(super) fn fork(
    keeper: &KeeperCommand,
    name: &ServiceName,
    task: &Task,
    place: Place,
    under: Under,
) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let title = CString::new(format!("auto-reraise {name}")).unwrap_or_default();
    let assignment = Assignment {
        piddir: keeper.piddir.clone(),
        name: name.clone(),
        task: task.apart(),
        place,
        link: Link::none(),
        under,
    };
    let given = Given { assignment, keeper: keeper.clone(), title, socket: theirs };
    Ok((native::fork_with(given, live)?, ours))
}

/// The life of a worker.
fn live(given: Given) -> ! {
    let Given { assignment, keeper, title, socket } = given;
    let socket = native::keep_only(socket);
    native::set_title(&title);
    if assignment.under == Under::Up {
        // What is typed at the keeper's terminal is for the keeper.
        let _ = nix::unistd::setsid();
    }
    let name = assignment.name.clone();
    let voice = socket.try_clone();
    let link = Link::new(socket, &name, keeper);
    let assignment = Assignment { link, ..assignment };
    let ended = Native::new(&begin::SIGNALS).and_then(|mut backend| {
        others::spare(&mut backend, &assignment);
        begin::supervise(backend, assignment)
    });
    native::exit_now(match ended {
        Ok(Ended::Yielded) => YIELDED,
        Ok(Ended::Over(_) | Ended::NotMine) => 0,
        Err(e) => {
            messages::say(name.as_str(), &format!("its worker failed: {e}"));
            // Whoever waits for us is told as well.
            let fault = Fault::system(&name, "cannot be supervised", &e);
            let news = News::Fault(fault).to_frame().after("all");
            let _ = voice.and_then(|voice| control::send(&voice, &news));
            1
        }
    })
}
