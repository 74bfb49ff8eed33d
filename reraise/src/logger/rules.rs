//! How a service's output is to be kept: what its script says about that, read anew
//! when the script changes, and what follows for the files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::config::{Config, LogTo, Logging};
use crate::context::Context;
use crate::name::ServiceName;
use crate::paths;
use crate::supervise::launch;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Where; `None`: nowhere.
    pub place: Option<Place>,
    /// How.
    pub logging: Logging,
}

/// The directory of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
}

impl Place {
    /// Where a configuration wants the log; `None`: nowhere.
    #[must_use]
    pub fn of(config: &Config, logdir: &Path, name: &ServiceName) -> Option<Self> {
        match &config.log {
            LogTo::No => None,
            LogTo::Default | LogTo::Yes => Some(Self { directory: logdir.join(name.as_str()) }),
            LogTo::Path(path) => Some(Self { directory: path.clone() }),
        }
    }

    /// Refuses a directory where another user could put something in our way.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> io::Result<()> {
        let me = nix::unistd::geteuid().as_raw();
        paths::check_log_dir(&self.directory, me)
            .map_err(|fault| io::Error::other(format!("{} {}", fault.object, fault.what)))
    }

    /// Whether a log could be written there, as far as a look can tell.
    ///
    /// # Errors
    /// What opening it would say.
    pub fn probe(&self) -> io::Result<()> {
        self.check()?;
        let file = self.directory.join(super::names::CURRENT);
        match fs::symlink_metadata(&file) {
            Ok(about) if about.is_dir() => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Ok(about) if about.is_symlink() => {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            Ok(about) if !about.is_file() => return Err(no_file()),
            Ok(_) => {
                let looked = access(&file, AccessFlags::W_OK).map_err(io::Error::from);
                match looked.and_then(|()| has_room(&file)) {
                    // It was rotated just now.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => return other,
                }
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        let mut above = self.directory.ancestors();
        let there = above.find(|path| fs::symlink_metadata(path).is_ok());
        let there = there.unwrap_or(Path::new("/"));
        access(there, AccessFlags::W_OK | AccessFlags::X_OK)?;
        has_room(there)
    }
}

fn has_room(path: &Path) -> io::Result<()> {
    match statvfs(path)?.blocks_available() {
        0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        _ => Ok(()),
    }
}

/// What stands where a log should.
pub(super) fn no_file() -> io::Error {
    io::Error::other("it is no ordinary file")
}

/// The rules of a service, and what they were read from.
#[derive(Debug, Default)]
pub struct Script {
    seen: Option<(PathBuf, Look)>,
}

/// What changes when a file does.
type Look = Option<[i64; 5]>;

fn look(path: &Path) -> Look {
    let about = fs::metadata(path).ok()?;
    let (device, file) = (about.dev().cast_signed(), about.ino().cast_signed());
    Some([device, file, about.ctime(), about.ctime_nsec(), about.size().cast_signed()])
}

impl Script {
    /// The rules, if they may have changed. A script that may not be used, or makes no
    /// sense, changes nothing but is told of.
    ///
    /// # Errors
    /// When descriptors or memory have run out, which says nothing about the script.
    pub fn read(
        &mut self,
        own: &Path,
        name: &ServiceName,
    ) -> io::Result<Option<Result<Rules, String>>> {
        if let Some((path, before)) = &self.seen
            && look(path) == *before
        {
            return Ok(None);
        }
        self.seen = None;
        let Some(context) = Context::kept(&own.join("context"))? else {
            let why = "the surroundings that it was started with are gone";
            return Ok(Some(Err(why.to_owned())));
        };
        let path = context.dir.join(name.as_str());
        let before = look(&path);
        let loaded = match launch::load(&context, name) {
            Ok(loaded) => loaded,
            Err(fault) => {
                // Unless that is only because nothing can be read just now.
                fs::File::open("/")?;
                self.seen = Some((path, before));
                return Ok(Some(Err(fault.what)));
            }
        };
        let place = Place::of(&loaded.config, &context.logdir, name);
        // Where it is a directory, the script is in it.
        let program = loaded.entry.program.clone();
        self.seen = Some((program.clone(), look(&program)));
        Ok(Some(match loaded.problems.first() {
            Some(problem) => Err(format!("{}: {problem}", program.display())),
            None => Ok(Rules { place, logging: loaded.config.logging }),
        }))
    }

    /// What holds while the script cannot be read.
    #[must_use]
    pub fn fallback(own: &Path, name: &ServiceName) -> Rules {
        let context = Context::read(&own.join("context"));
        let place = context.and_then(|c| Place::of(&Config::default(), &c.logdir, name));
        Rules { place, logging: Logging::default() }
    }
}

/// Which of these rotated files (name and length, oldest first) go.
#[must_use]
pub fn pruned<'a>(files: &'a [(String, u64)], logging: &Logging, current: u64) -> Vec<&'a str> {
    let keep = usize::try_from(logging.keep).unwrap_or(usize::MAX);
    // It goes when its command has been run.
    let keep = keep.max(usize::from(logging.after.is_some()));
    let mut total = current;
    let mut kept = 0;
    let mut gone = Vec::new();
    for (name, length) in files.iter().rev() {
        total = total.saturating_add(*length);
        // The newest stays if it may stay at all: a single one larger than all
        // together is evidence all the same.
        if kept >= keep || (total > logging.total && kept > 0) {
            gone.push(name.as_str());
        } else {
            kept += 1;
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let files: Vec<(String, u64)> = (1..=5).map(|n| (n.to_string(), 10)).collect();
        for (keep, total, current, expected) in [
            (10, 1000, 0, &[][..]),
            (3, 1000, 0, &["2", "1"]),
            (0, 1000, 0, &["5", "4", "3", "2", "1"]),
            (10, 35, 5, &["2", "1"]),
            (10, 34, 5, &["3", "2", "1"]),
            (10, 0, 0, &["4", "3", "2", "1"]),
        ] {
            let logging = Logging { keep, total, ..Logging::default() };
            assert_eq!(pruned(&files, &logging, current), expected, "{keep} {total} {current}");
        }
    }

    #[test]
    fn what_a_look_at_a_place_can_tell() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { directory: dir.path().join("a/b") };
        place.probe().unwrap();
        fs::create_dir_all(&place.directory).unwrap();
        let current = place.directory.join("current");
        let errno = || place.probe().unwrap_err().raw_os_error();
        fs::create_dir(&current).unwrap();
        assert_eq!(errno(), Some(libc::EISDIR));
        fs::remove_dir(&current).unwrap();
        std::os::unix::fs::symlink("x", &current).unwrap();
        assert_eq!(errno(), Some(libc::ELOOP));
        fs::remove_file(&current).unwrap();
        nix::unistd::mkfifo(&current, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(place.probe().unwrap_err().to_string().contains("no ordinary file"));
        fs::remove_file(&current).unwrap();
        fs::write(&current, "").unwrap();
        place.probe().unwrap();
    }
}
