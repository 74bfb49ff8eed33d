//! Sleeps until a log changes, or nobody reads any more.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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
    #[cfg(target_os = "linux")]
    notify: Option<linux::Notify>,
}

impl Watch {
    /// Watches directories, which may not be there yet.
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            notify: linux::Notify::new(&directories),
            directories,
        }
    }

    /// Sleeps.
    pub(super) fn wait(&mut self) -> io::Result<Wake> {
        #[cfg(target_os = "linux")]
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

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::path::{Path, PathBuf};

    use nix::errno::Errno;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

    /// inotify(7), and what its watches stand for.
    pub(super) struct Notify {
        inotify: Inotify,
        watches: BTreeMap<WatchDescriptor, BTreeSet<usize>>,
        /// Those of which only a directory above is there.
        missing: BTreeSet<usize>,
    }

    impl Notify {
        /// `None` when the system has no more of them.
        pub(super) fn new(directories: &[PathBuf]) -> Option<Self> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
            let mut new = Self { inotify, watches: BTreeMap::new(), missing: BTreeSet::new() };
            for (number, directory) in directories.iter().enumerate() {
                new.add(number, directory)?;
            }
            Some(new)
        }

        pub(super) fn fd(&self) -> BorrowedFd<'_> {
            self.inotify.as_fd()
        }

        /// Watches a directory, or the next above that is there.
        fn add(&mut self, number: usize, directory: &Path) -> Option<()> {
            let flags = AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            for path in directory.ancestors() {
                match self.inotify.add_watch(path, flags) {
                    Ok(watch) => {
                        self.watches.entry(watch).or_default().insert(number);
                        if path == directory {
                            self.missing.remove(&number);
                        } else {
                            self.missing.insert(number);
                            // It may have been made just now, before we watched.
                            if directory.is_dir() {
                                return self.add(number, directory);
                            }
                        }
                        return Some(());
                    }
                    Err(Errno::ENOSPC | Errno::ENOMEM) => return None,
                    Err(_) => {}
                }
            }
            None
        }

        /// The directories of which something was said; `None` when it can go on no more.
        pub(super) fn changed(&mut self, directories: &[PathBuf]) -> Option<Vec<usize>> {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN | Errno::EINTR) => Vec::new(),
                Err(_) => return None,
            };
            let mut changed = BTreeSet::new();
            let mut again = BTreeSet::new();
            let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    return Some((0..directories.len()).collect());
                }
                let here = self.watches.get(&event.wd).cloned().unwrap_or_default();
                if event.mask.intersects(gone) {
                    if event.mask.contains(AddWatchFlags::IN_MOVE_SELF) {
                        let _ = self.inotify.rm_watch(event.wd);
                    }
                    self.watches.remove(&event.wd);
                    again.extend(&here);
                }
                changed.extend(here);
            }
            again.extend(changed.intersection(&self.missing));
            for number in again {
                self.add(number, &directories[number])?;
            }
            Some(changed.into_iter().collect())
        }
    }
}
