//! A service whose workers keep failing: the keeper rests before it forks the
//! next one, and says so in a file, since there is no worker that could.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::lock::{self, Holder};

/// What the keeper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    /// How many workers have failed, one soon after the other.
    pub failures: u32,
    /// When the next one comes, on the monotonic clock.
    pub until: Duration,
}

impl Failing {
    /// Leaves it for whoever asks.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let keeper = std::process::id();
        fs::write(path, format!("{keeper} {} {}\n", self.failures, self.until.as_millis()))
    }

    /// What the keeper that lives now has left; `None` when it said nothing, or
    /// when that is over at `now`.
    #[must_use]
    pub fn read(path: &Path, keeper_lock: &Path, now: Duration) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut numbers = text.strip_suffix('\n')?.split(' ').map(|n| n.parse::<u64>().ok());
        let keeper = i32::try_from(numbers.next()??).ok()?;
        let failures = u32::try_from(numbers.next()??).ok()?;
        let until = Duration::from_millis(numbers.next()??);
        let lives = lock::holder_of(keeper_lock, lock::ALIVE).ok()? == Holder::Pid(keeper);
        (lives && until >= now).then_some(Self { failures, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_a_keeper_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lock) = (dir.path().join("failing"), dir.path().join("keeper.lock"));
        let failing = Failing { failures: 3, until: Duration::from_millis(5000) };
        failing.write(&path).unwrap();
        // Nobody holds the lock.
        assert_eq!(Failing::read(&path, &lock, Duration::ZERO), None);
        for nonsense in ["", "\n", "1 2\n", "1 2 x\n", "1 2 3", "99999999999 2 3\n"] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(Failing::read(&path, &lock, Duration::ZERO), None, "{nonsense:?}");
        }
    }
}
