//! A service's entry in `$RERAISE_DIR`: an executable file, a symbolic link to
//! one (another instance of it), or a directory with an executable `run`.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};

use crate::error::{ExitCode, Fault};
use crate::name::ServiceName;
use crate::paths;

/// A look at an entry. The owner is the link's own, as in the shell version:
/// whoever made the link says as whom it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// User and group of the entry itself.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What is executed.
    pub program: PathBuf,
    /// Where a run directory runs; a script runs where `start` was typed.
    pub directory: Option<PathBuf>,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

impl Entry {
    /// Looks at an entry without judging it. `Ok(None)`: there is none.
    ///
    /// # Errors
    /// As `lstat(2)`.
    pub fn find(dir: &Path, name: &ServiceName) -> io::Result<Option<Self>> {
        let path = dir.join(name.as_str());
        let own = nix::sys::stat::lstat(&path);
        Self::from_look(path, own)
    }

    /// The same in a directory that is open: for thousands of them.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_in(
        open: BorrowedFd<'_>,
        dir: &Path,
        name: &ServiceName,
    ) -> io::Result<Option<Self>> {
        let own = fstatat(open, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        Self::from_look(dir.join(name.as_str()), own)
    }

    fn from_look(path: PathBuf, own: nix::Result<FileStat>) -> io::Result<Option<Self>> {
        let own = match own {
            Ok(own) => own,
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let is_a = |kind| own.st_mode & libc::S_IFMT == kind;
        let is_link = is_a(libc::S_IFLNK);
        let is_dir = if is_link {
            fs::metadata(&path).is_ok_and(|target| target.is_dir())
        } else {
            is_a(libc::S_IFDIR)
        };
        let (program, directory) =
            if is_dir { (path.join("run"), Some(path)) } else { (path, None) };
        Ok(Some(Self { uid: own.st_uid, gid: own.st_gid, program, directory, is_link }))
    }

    /// Whether it could be executed, for `status`.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        fs::metadata(&self.program)
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    }

    /// Refuses what must not or cannot be started as its owner.
    ///
    /// # Errors
    /// What is wrong, and how to mend it.
    pub fn check(&self, name: &ServiceName) -> Result<(), Fault> {
        let program = &self.program;
        let shown = program.display();
        let unusable =
            |what: &str, advice: String| Err(Fault::new(ExitCode::Unusable, name, what, advice));
        let about = match fs::metadata(program) {
            Ok(about) => about,
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.directory.is_some() => {
                return unusable(
                    "is a directory without a file named run",
                    format!("write {shown}, then chmod +x {shown}"),
                );
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return unusable("is a symbolic link to nothing", format!("see: ls -l {shown}"));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let me = nix::unistd::geteuid();
                return Err(Fault::new(
                    ExitCode::Denied,
                    name,
                    format!("user {me} cannot reach its script"),
                    format!("let others pass through the directories above {shown}: chmod o+x DIR"),
                ));
            }
            Err(e) => return Err(Fault::system(name, "cannot look at its script", &e)),
        };
        if !about.is_file() {
            return unusable(
                "is neither a file nor a directory with a run file",
                format!("see: ls -l {shown}"),
            );
        }
        if about.permissions().mode() & 0o111 == 0 {
            return unusable("is not executable", format!("chmod +x {shown}"));
        }
        self.check_owners(name, &about)
    }

    fn check_owners(&self, name: &ServiceName, target: &fs::Metadata) -> Result<(), Fault> {
        let denied =
            |what: String, advice: String| Err(Fault::new(ExitCode::Denied, name, what, advice));
        let shown = self.program.display();
        if target.uid() != self.uid && target.uid() != 0 {
            return denied(
                format!(
                    "belongs to user {}, but what it leads to belongs to user {}",
                    self.uid,
                    target.uid()
                ),
                format!("give both to one user: chown -h {} {shown}", target.uid()),
            );
        }
        if paths::is_open_to_others(target) {
            return denied(
                "can be changed by other users".to_owned(),
                format!("chmod go-w {shown}"),
            );
        }
        // A script inside of $RERAISE_DIR is covered by that directory's check.
        if self.is_link || self.directory.is_some() {
            paths::check_ancestors(
                &self.program,
                &[self.uid, target.uid(), directory_owner(&self.program)],
            )
            .map_err(|fault| Fault {
                object: name.to_string(),
                what: format!("{} {}", fault.object, fault.what),
                ..fault
            })?;
        }
        Ok(())
    }
}

/// The owner of the directory that an entry lies in, which has been checked.
fn directory_owner(program: &Path) -> u32 {
    program.parent().and_then(|d| fs::metadata(d).ok()).map_or(0, |m| m.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn entry(dir: &Path, name: &str) -> (Entry, ServiceName) {
        let name = ServiceName::new(name.as_ref()).unwrap();
        (Entry::find(dir, &name).unwrap().unwrap(), name)
    }

    fn script(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path();
        script(&dir.join("good"), 0o755);
        script(&dir.join("plain"), 0o644);
        script(&dir.join("open"), 0o777);
        symlink("good", dir.join("link")).unwrap();
        symlink("nothing", dir.join("dangling")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        fs::create_dir(dir.join("empty")).unwrap();
        fs::create_dir(dir.join("rundir")).unwrap();
        script(&dir.join("rundir/run"), 0o755);
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, what) in [
            ("plain", "is not executable"),
            ("open", "can be changed by other users"),
            ("dangling", "is a symbolic link to nothing"),
            ("empty", "is a directory without a file named run"),
            ("fifo", "is neither a file nor a directory with a run file"),
        ] {
            let (found, service) = entry(dir, name);
            assert_eq!(found.check(&service).unwrap_err().what, what, "{name}");
        }
        let (found, service) = entry(dir, "loop");
        assert!(found.check(&service).unwrap_err().what.starts_with("cannot look at"));
        for name in ["good", "link", "rundir"] {
            let (found, service) = entry(dir, name);
            found.check(&service).unwrap();
        }
        let (found, _) = entry(dir, "rundir");
        assert_eq!(found.directory.as_deref(), Some(dir.join("rundir").as_path()));
        assert_eq!(found.program, dir.join("rundir/run"));
    }

    #[test]
    fn a_missing_one_is_none() {
        let top = tempfile::tempdir().unwrap();
        let name = ServiceName::new("web".as_ref()).unwrap();
        assert_eq!(Entry::find(top.path(), &name).unwrap(), None);
    }
}
