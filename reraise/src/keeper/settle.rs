//! How a keeper takes its place: away from whoever started it, and where it can
//! be found.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::READY;
use crate::control;

/// Leaves the terminal, the directory and the limits of whoever started us.
pub(super) fn leave_caller(state: &Path) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
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
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // macOS refuses "unlimited" here; what we have must then do.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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
pub(super) fn announce() {
    let mut out = io::stdout();
    // Nobody reads it when a worker started us.
    let _ = out.write_all(READY.as_bytes()).and_then(|()| out.flush());
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
