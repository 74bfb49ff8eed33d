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
use crate::supervise::worker::{Place, Worker};

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
    let given = Box::new(Given { assignment, keeper, title, socket: theirs, asked });
    Ok((native::fork_with(given, live)?, ours))
}

/// The life of a worker. It waits on this frame: what comes before has frames of its own.
fn live(given: Box<Given>) -> ! {
    let name = given.assignment.name.clone();
    let mut voice = None;
    let ended = match begin(given, &mut voice) {
        Ok(Some(worker)) => settled(worker).run().map(drop),
        Ok(None) => Ok(()),
        Err(e) => Err(e),
    };
    native::exit_now(match ended {
        Ok(()) => 0,
        Err(e) => {
            has_failed(&name, voice.as_ref(), &e);
            1
        }
    })
}

#[inline(never)]
fn begin(
    given: Box<Given>,
    voice: &mut Option<UnixStream>,
) -> io::Result<Option<Box<Worker<Native>>>> {
    let Given { assignment, keeper, title, socket, asked } = *given;
    let socket = native::keep_only(socket);
    native::set_title(&title);
    if assignment.under == Under::Up {
        // What is typed at the keeper's terminal is for the keeper.
        let _ = nix::unistd::setsid();
    }
    *voice = socket.try_clone().ok();
    let link = Link::new(socket, &assignment.name, keeper).asked_by(asked);
    let assignment = Assignment { link, ..assignment };
    let mut backend = Native::new(&begin::SIGNALS)?;
    backend.spare(others::of(&assignment));
    backend.share_looks(paths::state_of(&assignment.piddir, nix::unistd::geteuid().as_raw()));
    begin::begin(backend, assignment)
}

/// Moves it to where it lies together with what else stays: what was needed for a moment
/// is gone now.
fn settled(worker: Box<Worker<Native>>) -> Box<Worker<Native>> {
    let before = (&raw const *worker).addr();
    let worker = moved(worker);
    // Where it stood in its own way, it goes back there, and down.
    if (&raw const *worker).addr() < before { worker } else { moved(worker) }
}

/// In a function of its own: the former box is freed at the end of it.
#[inline(never)]
fn moved(worker: Box<Worker<Native>>) -> Box<Worker<Native>> {
    Box::new(*worker)
}

/// Says why, and tells whoever waits for it as well.
#[cold]
#[inline(never)]
fn has_failed(name: &ServiceName, voice: Option<&UnixStream>, error: &io::Error) {
    messages::say(name.as_str(), &format!("its worker failed: {error}"));
    let fault = Fault::system(name, "cannot be supervised", error);
    let news = News::Fault(fault).to_frame().after("all");
    let _ = voice.map(|voice| control::send(voice, &news));
}
