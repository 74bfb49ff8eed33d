//! Forking a worker.

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;

use crate::backend::native::{self, Native};
use crate::control;
use crate::error::Fault;
use crate::history::asked::Asked;
use crate::messages;
use crate::name::ServiceName;
use crate::paths;
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::launch::Under;
use crate::supervise::link::{KeeperCommand, Link};
use crate::supervise::news::News;
use crate::supervise::others;
use crate::supervise::worker::Place;

/// What a worker is given. All of it was copied into the common zone.
struct Given {
    assignment: Assignment,
    keeper: KeeperCommand,
    title: CString,
    socket: UnixStream,
    asked: Option<Asked>,
}

/// Forks a worker; its pid and our end of the connection to it. To be called in
/// the common zone: what the keeper keeps for itself, a worker does not inherit.
pub(super) fn fork(
    keeper: &KeeperCommand,
    name: &ServiceName,
    task: &Task,
    place: Place,
    under: Under,
    asked: Option<&Asked>,
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
    let (keeper, asked) = (keeper.clone(), asked.cloned());
    let given = Given { assignment, keeper, title, socket: theirs, asked };
    Ok((native::fork_with(given, live)?, ours))
}

/// The life of a worker.
fn live(given: Given) -> ! {
    let Given { assignment, keeper, title, socket, asked } = given;
    let socket = native::keep_only(socket);
    native::set_title(&title);
    if assignment.under == Under::Up {
        // What is typed at the keeper's terminal is for the keeper.
        let _ = nix::unistd::setsid();
    }
    let name = assignment.name.clone();
    let voice = socket.try_clone();
    let link = Link::new(socket, &name, keeper).asked_by(asked);
    let assignment = Assignment { link, ..assignment };
    let ended = Native::new(&begin::SIGNALS).and_then(|mut backend| {
        backend.spare(others::of(&assignment));
        backend.share_looks(paths::state_of(&assignment.piddir, nix::unistd::geteuid().as_raw()));
        begin::supervise(backend, assignment)
    });
    native::exit_now(match ended {
        Ok(_) => 0,
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
