//! Directories in which something changes: kqueue(2) knows files, each by a descriptor of
//! its own, and says nothing of what is written in a directory. Whoever asks looks now
//! and then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// There is none here.
#[derive(Debug)]
pub struct Notify(OwnedFd);

impl Notify {
    /// `None`.
    #[must_use]
    pub fn new(_directories: &[PathBuf]) -> Option<Self> {
        None
    }

    /// To be waited on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// `None`: it cannot go on.
    pub fn changed(&mut self, _directories: &[PathBuf]) -> Option<Vec<usize>> {
        None
    }
}
