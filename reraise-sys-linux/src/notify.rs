//! Directories in which something changes (inotify(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// inotify(7) over directories, which may not be there yet.
#[derive(Debug)]
pub struct Notify {
    inotify: Inotify,
    watches: BTreeMap<WatchDescriptor, BTreeSet<usize>>,
    /// Those of which only a directory above is there.
    missing: BTreeSet<usize>,
}

impl Notify {
    /// `None` when the system has no more of them.
    #[must_use]
    pub fn new(directories: &[PathBuf]) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let mut new = Self { inotify, watches: BTreeMap::new(), missing: BTreeSet::new() };
        for (number, directory) in directories.iter().enumerate() {
            new.add(number, directory)?;
        }
        Some(new)
    }

    /// To be waited on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
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
    pub fn changed(&mut self, directories: &[PathBuf]) -> Option<Vec<usize>> {
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
