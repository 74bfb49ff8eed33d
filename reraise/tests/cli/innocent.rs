//! A process that is none of our business.

use std::fs;
use std::process::{Child, Command};

use reraise::backend::native;

use crate::support::spawn;

/// It sleeps, whatever records say of it, and ends with the test.
pub(crate) struct Innocent(Child);

impl Innocent {
    pub(crate) fn new() -> Self {
        Self(spawn(Command::new("sleep").arg("1000000").current_dir("/")))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    pub(crate) fn born(&self) -> u64 {
        native::born(self.pid()).unwrap().unwrap()
    }

    /// It lives, and nobody has stopped it.
    #[track_caller]
    pub(crate) fn is_well(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "a stranger was signalled");
        // Where there is no procfs, its life must do.
        let state = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") S"), "{state}");
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
