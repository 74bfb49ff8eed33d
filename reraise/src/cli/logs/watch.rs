//! Sleeps until a log changes, or nobody reads any more.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use reraise::backend::native::Notify;

/// How often is looked where the system does not say that something changes.
const EVERY_MILLIS: u16 = 250;

/// Why [`Watch::wait`] has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Standard output is closed.
    Closed,
    /// In these directories something may be new, counted as they were given.
    Look(Vec<usize>),
}

/// Directories that are watched.
pub(super) struct Watch {
    directories: Vec<PathBuf>,
    /// Where the system has such a thing.
    notify: Option<Notify>,
}

impl Watch {
    /// Watches directories, which may not be there yet.
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { notify: Notify::new(&directories), directories }
    }

    /// Sleeps.
    pub(super) fn wait(&mut self) -> io::Result<Wake> {
        if let Some(notify) = &mut self.notify {
            if is_ready(Some(notify.fd()), PollTimeout::NONE)? {
                return Ok(Wake::Closed);
            }
            // One that cannot go on is replaced by looking now and then.
            match notify.changed(&self.directories) {
                Some(changed) => return Ok(Wake::Look(changed)),
                None => self.notify = None,
            }
        }
        if is_ready(None, EVERY_MILLIS.into())? {
            return Ok(Wake::Closed);
        }
        Ok(Wake::Look((0..self.directories.len()).collect()))
    }
}

/// Waits for something to read; whether standard output was closed meanwhile.
fn is_ready(fd: Option<std::os::fd::BorrowedFd<'_>>, limit: PollTimeout) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut fds = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
    fds.extend(fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    loop {
        match poll(&mut fds, limit) {
            Ok(_) => return Ok(fds[0].any().unwrap_or(false)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
