//! Directories in which something changes (inotify(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// inotify(7) over directories, which may not be there yet, or be taken away.
#[derive(Debug)]
pub struct Notify {
    inotify: Inotify,
    /// For whom something is watched: a directory itself, or the way to it, of which
    /// the next name matters and no other.
    watches: BTreeMap<WatchDescriptor, BTreeMap<usize, Option<OsString>>>,
}

impl Notify {
    /// `None` when the system has no more of them.
    #[must_use]
    pub fn new(directories: &[PathBuf]) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let mut new = Self { inotify, watches: BTreeMap::new() };
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

    /// Watches a directory and those above, for it says nothing itself of its end while
    /// somebody has a file open that was in it.
    fn add(&mut self, number: usize, directory: &Path) -> Option<()> {
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR
            // What others want of the same directory stays.
            | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let mut way: Vec<(&Path, Option<OsString>)> = Vec::new();
        for path in directory.ancestors() {
            let below = way.last().and_then(|(path, _)| path.file_name());
            way.push((path, below.map(ToOwned::to_owned)));
        }
        let mut new = BTreeMap::new();
        // From above: what is made or taken away meanwhile is then told.
        for (path, name) in way.into_iter().rev() {
            let flags = if name.is_none() { names | AddWatchFlags::IN_MODIFY } else { names };
            match self.inotify.add_watch(path, flags) {
                Ok(watch) => _ = new.insert(watch, name),
                Err(Errno::ENOSPC | Errno::ENOMEM) => return None,
                Err(_) => {}
            }
        }
        if new.is_empty() {
            return None;
        }
        self.watches.retain(|watch, whose| {
            if !new.contains_key(watch) && whose.remove(&number).is_some() && whose.is_empty() {
                let _ = self.inotify.rm_watch(*watch);
            }
            !whose.is_empty()
        });
        for (watch, name) in new {
            self.watches.entry(watch).or_default().insert(number, name);
        }
        Some(())
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
        let gone =
            AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                changed.extend(0..directories.len());
                again.extend(0..directories.len());
            }
            for (&number, name) in self.watches.get(&event.wd).into_iter().flatten() {
                let is_on_way = name.is_some() && *name == event.name;
                if is_on_way || event.mask.intersects(gone) {
                    again.insert(number);
                } else if name.is_none() {
                    changed.insert(number);
                }
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watches.remove(&event.wd);
            }
        }
        for &number in &again {
            self.add(number, &directories[number])?;
        }
        changed.append(&mut again);
        Some(changed.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_directory_is_taken_away_step_by_step_and_made_anew() {
        let top = tempfile::tempdir().unwrap();
        let all = [top.path().join("logs/web"), top.path().join("logs/db")];
        let file = all[0].join("current");
        fs::create_dir_all(&all[0]).unwrap();
        fs::write(&file, "").unwrap();
        let mut notify = Notify::new(&all).unwrap();
        let mut changed = || notify.changed(&all).unwrap();
        assert_eq!(changed(), [0; 0]);
        for round in 0..3 {
            fs::write(&file, "1").unwrap();
            assert_eq!(changed(), [0], "{round}");
            let held = File::open(&file).unwrap();
            // Looked at after each step: what comes next is told all the same.
            fs::remove_file(&file).unwrap();
            assert_eq!(changed(), [0]);
            fs::remove_dir(&all[0]).unwrap();
            assert_eq!(changed(), [0]);
            fs::remove_dir(top.path().join("logs")).unwrap();
            assert_eq!(changed(), [0, 1]);
            fs::create_dir_all(&all[0]).unwrap();
            assert!(changed().contains(&0));
            fs::write(&file, "2").unwrap();
            assert_eq!(changed(), [0]);
            drop(held);
        }
        // What others make on the way is nothing to us.
        fs::write(top.path().join("logs/x"), "").unwrap();
        fs::write(top.path().join("x"), "").unwrap();
        assert_eq!(changed(), [0; 0]);
        fs::create_dir(&all[1]).unwrap();
        assert_eq!(changed(), [1]);
    }
}
