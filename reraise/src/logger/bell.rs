//! How a worker tells the logger to look at its service again: a named pipe that
//! takes names. What has changed stands in the run slot, so that nothing is missed
//! when the logger has just died: its successor looks at all services.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::pipes;
use crate::name::ServiceName;

/// Said when a name could not be: all services are to be looked at.
const ALL: &[u8] = b"*\n";

fn path_in(state: &Path) -> PathBuf {
    state.join("bell")
}

fn overflow_in(state: &Path) -> PathBuf {
    state.join("bell.full")
}

/// Tells the logger to look at a service. That there is none is no failure.
pub fn ring(state: &Path, name: &str) {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    // ENXIO: nobody reads.
    let Ok(mut bell) = options.open(path_in(state)) else { return };
    // Up to PIPE_BUF bytes are written whole (pipe(7)).
    if bell.write(format!("{name}\n").as_bytes()).is_err() {
        // It is full. Whoever empties it then looks for this; or has emptied it just
        // now, and hears the second try.
        let _ = File::create(overflow_in(state));
        let _ = bell.write(ALL);
    }
}

/// The logger's end.
pub struct Bell {
    pipe: File,
    state: PathBuf,
    rest: Vec<u8>,
}

/// Whom the logger is to look at.
#[derive(Debug, PartialEq, Eq)]
pub enum Rung {
    /// These.
    Names(Vec<ServiceName>),
    /// All of them.
    All,
}

impl Bell {
    /// Makes it, or takes it over.
    ///
    /// # Errors
    /// As `mkfifo(3)` and `open(2)`.
    pub fn new(state: &Path) -> io::Result<Self> {
        let pipe = pipes::make(&path_in(state))?;
        std::fs::set_permissions(path_in(state), Permissions::from_mode(0o600))?;
        Ok(Self { pipe, state: state.to_owned(), rest: Vec::new() })
    }

    /// To be waited on.
    #[must_use]
    pub fn pipe(&self) -> &File {
        &self.pipe
    }

    /// Who has rung since.
    pub fn answer(&mut self) -> Rung {
        let mut buffer = [0; 4096];
        while let Ok(got @ 1..) = (&self.pipe).read(&mut buffer) {
            self.rest.extend_from_slice(&buffer[..got]);
        }
        let whole = self.rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let said: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = || said.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        let is_full = std::fs::remove_file(overflow_in(&self.state)).is_ok();
        if is_full || lines().any(|line| line == &ALL[..1]) {
            return Rung::All;
        }
        let name = |line: &[u8]| ServiceName::new(str::from_utf8(line).ok()?.as_ref()).ok();
        let mut names: Vec<_> = lines().filter_map(name).collect();
        names.sort_unstable();
        names.dedup();
        Rung::Names(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName::new(name.as_ref()).unwrap()
    }

    #[test]
    fn names_are_heard_once() {
        let dir = tempfile::tempdir().unwrap();
        ring(dir.path(), "nobody");
        let mut bell = Bell::new(dir.path()).unwrap();
        assert_eq!(bell.answer(), Rung::Names(vec![]));
        for name in ["web", "db", "web"] {
            ring(dir.path(), name);
        }
        assert_eq!(bell.answer(), Rung::Names(vec![name("db"), name("web")]));
        assert_eq!(bell.answer(), Rung::Names(vec![]));
    }

    #[test]
    fn when_it_is_full_nobody_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut bell = Bell::new(dir.path()).unwrap();
        let long = "x".repeat(200);
        for _ in 0..1000 {
            ring(dir.path(), &long);
        }
        assert_eq!(bell.answer(), Rung::All);
        assert_eq!(bell.answer(), Rung::Names(vec![]));
    }
}
