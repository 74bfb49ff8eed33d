//! How a keeper takes its place: away from whoever started it, and where it can
//! be found.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::READY;
use super::upgrade::{self, Inheritance};
use crate::backend::native::{self, EventQueue};
use crate::control;
use crate::error::{ExitCode, Fault};
use crate::lock::{self, Holder, LockFile};
use crate::messages;

/// How long `reraise up` waits for a keeper that is about to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes the lock of this keeper, and holds the other one of the change. Who has
/// it instead, if somebody does.
pub(super) fn claim(lock: &LockFile, is_patient: bool) -> io::Result<Holder> {
    let mut is_patient = is_patient;
    loop {
        lock.take(lock::CHANGING)?;
        if lock.try_take(lock::ALIVE)? {
            return Ok(Holder::Nobody);
        }
        let holder = lock.holder(lock::ALIVE)?;
        // Or an ending one could not end.
        lock.release(lock::CHANGING)?;
        match holder {
            // It has just ended.
            Holder::Nobody => {}
            Holder::Pid(pid) if is_patient => {
                is_patient = false;
                let mut queue = EventQueue::new(&[])?;
                if let Some(born) = native::born(pid)?
                    && queue.watch_process(pid, born)?
                {
                    queue.next(Some(PATIENCE))?;
                }
            }
            holder => return Ok(holder),
        }
    }
}

/// Takes over what the program before us in this process has left, and holds the
/// lock of the change.
pub(super) fn inherit(state: &Path, left: Inheritance) -> Result<(LockFile, UnixListener), Fault> {
    let take = || {
        let lock = LockFile::from_descriptor(native::inherited(left.lock)?);
        let listener = UnixListener::from(native::inherited(left.listener)?);
        let is_ours = lock.is(&state.join("keeper.lock"))? && lock.try_take(lock::ALIVE)?;
        listener.local_addr()?;
        lock.take(lock::CHANGING)?;
        Ok::<_, io::Error>((lock, listener, is_ours))
    };
    match take() {
        Ok((lock, listener, true)) => Ok((lock, listener)),
        Ok((.., false)) | Err(_) => Err(upgrade::bad_inheritance()),
    }
}

/// There can be but one.
pub(super) fn taken(holder: Holder) -> Fault {
    let (what, advice) = match holder {
        Holder::Pid(pid) => (
            format!("runs already (pid={pid})"),
            format!("use it: reraise start NAME; or end it with all its services: kill {pid}"),
        ),
        Holder::Elsewhere | Holder::Nobody => (
            "runs already, in another container".to_owned(),
            "give each container a RERAISE_PIDDIR of its own".to_owned(),
        ),
    };
    Fault::new(ExitCode::Failed, "keeper", what, advice)
}

/// Many systems remove what nobody has touched for weeks from /var/tmp. tmpfiles.d(5)
/// leaves a directory alone that somebody has locked with flock(2): everything of a
/// service that runs for so long is still needed. Workers and logger do not inherit it.
pub(super) fn keep_from_ageing(piddir: &Path) -> Option<Flock<fs::File>> {
    let directory = fs::File::open(piddir).ok()?;
    Flock::lock(directory, FlockArg::LockSharedNonblock).ok()
}

/// Leaves the directory and the limits of whoever started us, and in the
/// background their terminal.
pub(super) fn leave_caller(state: &Path, is_foreground: bool) -> io::Result<()> {
    if is_foreground {
        messages::say_to_foreground();
    } else {
        leave_terminal(state)?;
    }
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    native::raise_limits();
    Ok(())
}

fn leave_terminal(state: &Path) -> io::Result<()> {
    // Fails when we lead a session already, which is what is wanted.
    let _ = nix::unistd::setsid();
    let mut options = fs::OpenOptions::new();
    options.mode(0o600);
    let path = state.join("messages");
    if fs::metadata(&path).is_ok_and(|m| m.len() > MESSAGES_MAX) {
        fs::rename(&path, state.join("messages.1"))?;
    }
    let messages = options.append(true).create(true).open(&path)?;
    nix::unistd::dup2_stderr(&messages)?;
    messages::say_to_file();
    Ok(())
}

/// Bytes of `messages` before a new keeper begins a new file.
const MESSAGES_MAX: u64 = 1 << 20;

pub(super) fn listen(state: &Path) -> io::Result<UnixListener> {
    // Of an earlier keeper; we hold the lock that says it is dead.
    match fs::remove_file(state.join("keeper")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = control::with_short_path(state, "keeper", |path| UnixListener::bind(path))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells who started us, and lets go of their standard output.
pub(super) fn announce(is_quiet: bool) {
    let mut out = io::stdout();
    // Nobody reads it when a worker started us, whose output may be a terminal.
    if !is_quiet {
        let _ = out.write_all(READY.as_bytes()).and_then(|()| out.flush());
    }
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
