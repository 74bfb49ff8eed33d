//! Who has last asked for something to be done with a service: one line of fixed
//! length, written in place. The command line says to the keeper whose it is, that
//! passes it on with each request, and the worker writes it when it has done what was
//! asked for.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::events::now;

/// Length on disk, with the end of the line.
const SIZE: usize = 256;
/// Bytes of who it was that are kept.
const WHO: usize = 180;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// When, microseconds since 1970.
    pub time: i64,
    /// What for: a word of the command line; `leave` for the end of a keeper with all
    /// its services, or the name of a signal.
    pub verb: String,
    /// Who: `user=NAME from=PID tty=NAME sudo=NAME`, or less.
    pub who: String,
}

impl Asked {
    /// Somebody asks now.
    #[must_use]
    pub fn now(verb: &str, who: &str) -> Self {
        Self { time: now(), verb: verb.to_owned(), who: safe(who) }
    }

    /// As a line without its end, which travels and is kept.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("{} {} {}", self.time, self.verb, self.who)
    }

    /// From such a line.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let time = words.next()?.parse().ok()?;
        let verb = words.next().filter(|verb| !verb.is_empty())?.to_owned();
        Some(Self { time, verb, who: safe(words.next().unwrap_or_default()) })
    }

    /// Keeps it.
    ///
    /// # Errors
    /// As `open(2)` and `write(2)`.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut line = self.to_line().into_bytes();
        line.resize(SIZE - 1, b' ');
        line.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(path)?.write_all_at(&line, 0)
    }

    /// What was kept last.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut bytes = [0; SIZE];
        options.open(path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
        Self::from_line(str::from_utf8(&bytes).ok()?.strip_suffix('\n')?.trim_end())
    }

    /// One field of who it was.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.who.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// What may stand in a line: printable, and not too long.
fn safe(who: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    who.chars().take(WHO).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("asked");
        assert_eq!(Asked::read(&path), None);
        let note = |verb: &str, who: &str| Asked::now(verb, who).write(&path).unwrap();
        note("start", "user=alice from=12 tty=pts/0 sudo=bob");
        note("stop", "user=al\nice\u{e9} from=13");
        let asked = Asked::read(&path).unwrap();
        assert_eq!((asked.verb.as_str(), asked.who.as_str()), ("stop", "user=al?ice? from=13"));
        assert_eq!((asked.field("from"), asked.field("tty")), (Some("13"), None));
        assert!((now() - asked.time).abs() < 60_000_000);
        assert_eq!(Asked::from_line(&asked.to_line()), Some(asked));
        note("TERM", "");
        assert_eq!(Asked::read(&path).unwrap().who, "");
        note("stop", &"x".repeat(1000));
        assert_eq!(Asked::read(&path).unwrap().who.len(), WHO);
    }

    #[test]
    fn nonsense_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("asked");
        for byte in [0, b' ', b'\n', b'x', 0xff] {
            fs::write(&path, vec![byte; SIZE]).unwrap();
            assert_eq!(Asked::read(&path), None, "{byte}");
        }
        fs::write(&path, "1 stop").unwrap();
        assert_eq!(Asked::read(&path), None);
        // What other versions send at the end of a request.
        for line in ["", "0", "7", "1 ", "x stop"] {
            assert_eq!(Asked::from_line(line), None, "{line:?}");
        }
    }
}
