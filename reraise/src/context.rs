//! The surroundings of the `start` that brought a service up: environment,
//! working directory, umask, limits and directories. Kept for every later run,
//! so that a service does not depend on who started the keeper; mode 0600, as
//! an environment holds secrets.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::getrlimit;

use crate::backend::native;
use crate::backend::{Environment, Limit, RUN_VARIABLE, run_entry};
use crate::error::is_shortage;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// `$RERAISE_DIR`.
    pub dir: PathBuf,
    /// `$RERAISE_LOGDIR`.
    pub logdir: PathBuf,
    /// The working directory.
    pub cwd: PathBuf,
    /// The umask.
    pub umask: u32,
    /// All limits.
    pub limits: Vec<Limit>,
    /// Without the mark of any run.
    pub environment: Environment,
}

/// The first line of the file.
const MAGIC: &[u8] = b"reraise context 1";

/// How it begins in every version.
const MAGIC_OF_ALL: &[u8] = b"reraise context ";

/// Whether these are surroundings in the format of a later version.
#[must_use]
pub fn is_later(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC_OF_ALL) && bytes.split(|&b| b == 0).next() != Some(MAGIC)
}

/// Whether such ones are kept.
#[must_use]
pub fn is_kept_by_later(path: &Path) -> bool {
    is_later(&std::fs::read(path).unwrap_or_default())
}

/// The present umask. It can only be read by setting it.
#[must_use]
pub fn umask() -> u32 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    wide(mask.bits()) as u32
}

/// Some systems have a narrower type here, or a signed one.
fn wide(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

impl Context {
    /// Ours, as it is now.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn current(dir: &Path, logdir: &Path) -> io::Result<Self> {
        let mut limits = Vec::new();
        for &resource in native::KEPT_LIMITS {
            let (soft, hard) = getrlimit(resource)?;
            let (soft, hard) = (wide(soft), wide(hard));
            limits.push(Limit { resource: resource as i32, soft, hard });
        }
        let marker = |name: &OsStr| name == RUN_VARIABLE;
        let environment = std::env::vars_os().filter(|(name, _)| !marker(name)).map(|(n, v)| {
            let mut entry = n;
            entry.push("=");
            entry.push(v);
            entry
        });
        Ok(Self {
            dir: dir.to_owned(),
            logdir: logdir.to_owned(),
            cwd: std::env::current_dir()?,
            umask: umask(),
            limits,
            environment: environment.collect(),
        })
    }

    /// The value of a variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        self.environment.value(name).map(|v| String::from_utf8_lossy(v).into_owned())
    }

    /// The environment for a launch, with the mark of the run.
    #[must_use]
    pub fn environment_of(&self, run: u64) -> Environment {
        let mut environment = self.environment.clone();
        environment.push(run_entry(run));
        environment
    }

    /// As it is kept and sent: fields that end with NUL.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut field = |key: &str, value: &[u8]| {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
            out.push(0);
        };
        field("", MAGIC);
        field("dir=", self.dir.as_os_str().as_bytes());
        field("logdir=", self.logdir.as_os_str().as_bytes());
        field("cwd=", self.cwd.as_os_str().as_bytes());
        field("umask=", format!("{:o}", self.umask).as_bytes());
        for l in &self.limits {
            field("limit=", format!("{} {} {}", l.resource, l.soft, l.hard).as_bytes());
        }
        for entry in self.environment.iter() {
            field("env=", entry.to_bytes());
        }
        field("", b"end");
        out
    }

    /// Reads what [`Self::encode`] wrote, whole or not at all.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.strip_suffix(b"\0end\0")?.split(|&b| b == 0);
        if fields.next()? != MAGIC {
            return None;
        }
        let path = |value: &[u8]| PathBuf::from(OsString::from_vec(value.to_vec()));
        let mut found = Self {
            dir: PathBuf::new(),
            logdir: PathBuf::new(),
            cwd: PathBuf::new(),
            umask: 0o022,
            limits: Vec::new(),
            environment: Environment::default(),
        };
        found.environment.reserve(bytes.len());
        for field in fields {
            let at = field.iter().position(|&b| b == b'=')?;
            let (key, value) = (&field[..at], &field[at + 1..]);
            match key {
                b"dir" => found.dir = path(value),
                b"logdir" => found.logdir = path(value),
                b"cwd" => found.cwd = path(value),
                b"umask" => {
                    found.umask = u32::from_str_radix(str::from_utf8(value).ok()?, 8).ok()?;
                }
                b"limit" => {
                    let mut numbers = str::from_utf8(value).ok()?.split(' ');
                    let resource = numbers.next()?.parse().ok()?;
                    let soft = numbers.next()?.parse().ok()?;
                    let hard = numbers.next()?.parse().ok()?;
                    found.limits.push(Limit { resource, soft, hard });
                }
                b"env" => found.environment.push(OsStr::from_bytes(value)),
                _ => {}
            }
        }
        found.dir.is_absolute().then_some(found)
    }

    /// Reads the kept one; `None` when there is none that makes sense.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        Self::decode(&std::fs::read(path).ok()?)
    }

    /// The same for whoever must not take one that cannot be read just now for none.
    ///
    /// # Errors
    /// When descriptors or memory have run out.
    pub fn kept(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::decode(&bytes)),
            Err(e) if is_shortage(&e) => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// Keeps an encoded one, replacing the old one in a single step.
    ///
    /// # Errors
    /// As `open(2)`, `write(2)` and `rename(2)`.
    pub fn keep(encoded: &[u8], path: &Path) -> io::Result<()> {
        let scratch = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&scratch)?.write_all(encoded)?;
        std::fs::rename(&scratch, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let mut context = Context::current(Path::new("/d"), Path::new("/l")).unwrap();
        context.environment.push(OsString::from_vec(b"ODD=\xff\n=x".to_vec()));
        assert_eq!(Context::decode(&context.encode()), Some(context.clone()));
        assert_eq!(context.limits.len(), native::KEPT_LIMITS.len());
    }

    #[test]
    fn one_of_a_later_version_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context");
        assert!(!is_kept_by_later(&path));
        let mut bytes = Context::current(Path::new("/d"), Path::new("/l")).unwrap().encode();
        std::fs::write(&path, &bytes).unwrap();
        assert!(!is_kept_by_later(&path));
        bytes[MAGIC.len() - 1] = b'2';
        std::fs::write(&path, &bytes).unwrap();
        assert!(is_kept_by_later(&path) && Context::read(&path).is_none());
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(!is_kept_by_later(&path));
    }

    #[test]
    fn a_torn_one_is_none() {
        let whole = Context::current(Path::new("/d"), Path::new("/l")).unwrap().encode();
        for cut in 0..whole.len() {
            assert_eq!(Context::decode(&whole[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_service_never_inherits_the_mark_of_another_run() {
        let mut context = Context::current(Path::new("/d"), Path::new("/l")).unwrap();
        context.environment = ["A=1"].into_iter().collect();
        let entries = ["A=1", "RERAISE_RUN=00000000000000ab"].into_iter().collect();
        assert_eq!(context.environment_of(0xab), entries);
    }
}
