//! What is told to the user when something cannot be done, and the exit codes.

use std::fmt;

/// The exit codes of `reraise`: a contract for scripts, stated in `--help` and
/// in the README. Where several services fail for different reasons, the code
/// is [`ExitCode::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// All was done.
    Ok = 0,
    /// A service failed: it did not start, or processes outlived its stop.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The service does not run (`status`, `restart`).
    NotRunning = 3,
    /// There is no such service.
    NoService = 4,
    /// The starter script cannot be used as it is.
    Unusable = 5,
    /// Owner or mode of a file forbids it, or `sudo` does.
    Denied = 6,
    /// It took longer than `--wait` or `--timeout` allows.
    TimedOut = 7,
    /// The system could not: disk full, no more processes, an input error.
    System = 8,
}

impl ExitCode {
    /// All of them, with what `--help` says.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Ok, "done"),
        (Self::Failed, "a service failed to start or to stop, or several failed differently"),
        (Self::Usage, "wrong usage"),
        (Self::NotRunning, "not running (status, restart)"),
        (Self::NoService, "no such service"),
        (Self::Unusable, "the starter script cannot be used as it is"),
        (Self::Denied, "owner or mode of a file forbids it, or sudo does"),
        (Self::TimedOut, "took longer than --wait allows"),
        (Self::System, "the system could not (disk full, no more processes, ...)"),
    ];

    /// The code of a command over many services.
    #[must_use]
    pub fn of_all(codes: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::Ok;
        for code in codes.into_iter().filter(|&c| c != Self::Ok) {
            all = if all == Self::Ok || all == code { code } else { return Self::Failed };
        }
        all
    }

    /// From a number that another `reraise` ended with.
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        let known = Self::ALL.iter().find(|(code, _)| *code as i32 == number);
        known.map_or(Self::Failed, |(code, _)| *code)
    }
}

/// Something that cannot be done: the object, what is wrong with it, and what
/// to do. Printed as `reraise: OBJECT: WHAT` and the advice on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A service, a directory, an option.
    pub object: String,
    /// A lower-case fragment without a full stop.
    pub what: String,
    /// One line, best one that can be pasted.
    pub advice: String,
    /// What the program ends with.
    pub code: ExitCode,
}

impl Fault {
    /// A fault of a given kind.
    pub fn new(
        code: ExitCode,
        object: impl fmt::Display,
        what: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        let (object, what, advice) = (object.to_string(), what.to_string(), advice.to_string());
        Self { object, what, advice, code }
    }

    /// A system call that failed on an object.
    pub fn system(object: impl fmt::Display, what: &str, error: &std::io::Error) -> Self {
        let reason = reason(error);
        Self::new(ExitCode::System, object, format!("{what}: {reason}"), hint(error))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reraise: {}: {}", self.object, self.what)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.advice) }
    }
}

/// The system's words for an error, as the rest of a message: lower case, no
/// number. Not from libc, whose words depend on the locale.
#[must_use]
pub fn reason(error: &std::io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(number).desc();
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Whether descriptors or memory have run out, here or for all: what could not be read
/// may be there all the same.
#[must_use]
pub fn is_shortage(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space there (df -h), then try again",
        Some(libc::EROFS) => "the file system is read-only; choose another place",
        Some(libc::EMFILE) => "raise the limit of open files: ulimit -n 4096",
        Some(libc::ENFILE) => "the whole system has too many open files",
        Some(libc::EAGAIN) => "too many processes; see ulimit -u, then try again",
        Some(libc::ENOMEM) => "the system is out of memory; try again later",
        Some(libc::EACCES | libc::EPERM) => "see its owner and mode with: ls -ld",
        Some(libc::ENAMETOOLONG) => "choose a shorter path",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract() {
        for (number, (code, words)) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert!(!words.is_empty());
            assert_eq!(ExitCode::from_number(number as i32), code);
        }
    }

    #[test]
    fn many_services_have_one_code() {
        use ExitCode::{Denied, Failed, NoService, Ok};
        assert_eq!(ExitCode::of_all([]), Ok);
        assert_eq!(ExitCode::of_all([Ok, Ok]), Ok);
        assert_eq!(ExitCode::of_all([Ok, NoService, Ok, NoService]), NoService);
        assert_eq!(ExitCode::of_all([Ok, NoService, Denied]), Failed);
    }

    #[test]
    fn the_object_comes_first() {
        let error = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let fault = Fault::system("web", "cannot write its record", &error);
        assert_eq!(
            fault.to_string(),
            "reraise: web: cannot write its record: no space left on device\n    \
             free some space there (df -h), then try again"
        );
    }
}
