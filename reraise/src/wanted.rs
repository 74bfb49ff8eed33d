//! What the user last asked for. It outlives every process and a reboot.
//!
//! Kept as the target of a symbolic link: that is replaced by one rename, lies
//! in the inode, so that no data block can be missing after a power failure,
//! and needs no flush between a request and its answer.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// To run.
    Up,
    /// Not to run.
    Down,
    /// To run until it ends by itself. What was cut short by a reboot runs
    /// again; what has ended is wanted down from then on.
    Once,
}

impl Wanted {
    /// The word on disk.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Once => "once",
        }
    }

    /// What a start asks for.
    #[must_use]
    pub fn of_start(once: bool) -> Self {
        if once { Self::Once } else { Self::Up }
    }

    /// Whether a run is wanted.
    #[must_use]
    pub fn is_up(self) -> bool {
        match self {
            Self::Up | Self::Once => true,
            Self::Down => false,
        }
    }

    /// What `directory/want` says; `None` when nobody ever asked, or in words
    /// of a later version.
    #[must_use]
    pub fn read(directory: &Path) -> Option<Self> {
        let target = std::fs::read_link(directory.join("want")).ok()?;
        [Self::Up, Self::Down, Self::Once].into_iter().find(|w| target.as_os_str() == w.as_str())
    }

    /// Writes it, unless it says so already.
    ///
    /// # Errors
    /// As `symlink(2)` and `rename(2)`.
    pub fn write(self, directory: &Path) -> io::Result<()> {
        if Self::read(directory) == Some(self) {
            return Ok(());
        }
        let next = directory.join("want.new");
        match symlink(self.as_str(), &next) {
            // Left by one that was killed between the two calls.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&next)?;
                symlink(self.as_str(), &next)?;
            }
            other => other?,
        }
        std::fs::rename(&next, directory.join("want"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Wanted::read(dir.path()), None);
        for wanted in [Wanted::Up, Wanted::Up, Wanted::Down, Wanted::Once, Wanted::Up] {
            wanted.write(dir.path()).unwrap();
            assert_eq!(Wanted::read(dir.path()), Some(wanted));
        }
    }

    #[test]
    fn what_a_killed_writer_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        symlink("down", dir.path().join("want.new")).unwrap();
        Wanted::Up.write(dir.path()).unwrap();
        assert_eq!(Wanted::read(dir.path()), Some(Wanted::Up));
    }
}
