//! Who has last asked for something to be done with a service: one line of fixed
//! length, written in place. The keeper writes it, to whom the command line says
//! whose it is; or the worker, where nobody but a signal has asked.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
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
    /// Notes it. Without the service's directory, one is made.
    ///
    /// # Errors
    /// As `mkdir(2)`, `open(2)` and `write(2)`.
    pub fn note(path: &Path, verb: &str, who: &str) -> io::Result<()> {
        let who = safe(who);
        let mut line = format!("{} {verb} {who}", now()).into_bytes();
        line.resize(SIZE - 1, b' ');
        line.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW);
        let file = match options.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(path);
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                options.open(path)?
            }
            other => other?,
        };
        file.write_all_at(&line, 0)
    }

    /// What was noted last.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok().filter(|bytes| bytes.len() == SIZE)?;
        let text = str::from_utf8(&bytes).ok()?.strip_suffix('\n')?.trim_end();
        let mut words = text.splitn(3, ' ');
        let time = words.next()?.parse().ok()?;
        let verb = words.next().filter(|verb| !verb.is_empty())?.to_owned();
        Some(Self { time, verb, who: words.next().unwrap_or_default().to_owned() })
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
    use super::*;

    #[test]
    fn the_last_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web/asked");
        assert_eq!(Asked::read(&path), None);
        Asked::note(&path, "start", "user=alice from=12 tty=pts/0 sudo=bob").unwrap();
        Asked::note(&path, "stop", "user=al\nice\u{e9} from=13").unwrap();
        let asked = Asked::read(&path).unwrap();
        assert_eq!((asked.verb.as_str(), asked.who.as_str()), ("stop", "user=al?ice? from=13"));
        assert_eq!((asked.field("from"), asked.field("tty")), (Some("13"), None));
        assert!((now() - asked.time).abs() < 60_000_000);
        Asked::note(&path, "TERM", "").unwrap();
        assert_eq!(Asked::read(&path).unwrap().who, "");
        Asked::note(&path, "stop", &"x".repeat(1000)).unwrap();
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
    }
}
