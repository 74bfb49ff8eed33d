//! Where things are, and whether they are safe there.
//!
//! ```text
//! $RERAISE_DIR/NAME                  starter script
//! $RERAISE_PIDDIR/NAME               record
//! $RERAISE_PIDDIR/.reraise-UID/      everything else of one user, mode 0700:
//!     keeper                         the keeper's socket
//!     keeper.lock                    its proof of life
//!     messages                       what keeper and workers have to say
//!     events, events.1               what became of all services, see `history`
//!     s/NAME/                        one service:
//!         lock                       the worker's proof of life
//!         run                        the run slot
//!         exit                       wait status of an adopted run
//!         deaths                         how the last runs ended, see `history`
//!         asked                          who has last asked for something
//!         failing                    how often its workers failed, see `failing`
//!         strays                     orphans that belong to an adopted run
//!         want                       wanted state
//!         context                    environment and so on of the last start
//! $RERAISE_LOGDIR/NAME/current       output
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{ExitCode, Fault};
use crate::name::ServiceName;

/// Longest path of a directory of ours: every name that is appended fits
/// `PATH_MAX` of all systems (1024 on the BSDs and macOS).
const LONGEST: usize = 700;

/// The three directories, as given. `None`: the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `--dir`, `$RERAISE_DIR`.
    pub dir: Option<OsString>,
    /// `--piddir`, `$RERAISE_PIDDIR`.
    pub piddir: Option<OsString>,
    /// `--logdir`, `$RERAISE_LOGDIR`.
    pub logdir: Option<OsString>,
}

/// The three directories, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Starter scripts.
    pub dir: PathBuf,
    /// Records; `None` where it depends on the owner of each service.
    given_piddir: Option<PathBuf>,
    /// Logs; `None` where it depends likewise.
    given_logdir: Option<PathBuf>,
    home: Option<PathBuf>,
    uid: u32,
}

/// The seed's place for records.
const SHARED_PIDDIR: &str = "/var/tmp/reraise";

impl Dirs {
    /// From what was given, for the user `uid`.
    ///
    /// # Errors
    /// When there is no home to put defaults in, or a path is too long.
    pub fn resolve(given: &Given, home: Option<OsString>, uid: u32) -> Result<Self, Fault> {
        let home = home.filter(|h| !h.is_empty()).map(PathBuf::from);
        let absolute = |word: &str, path: &Option<OsString>| match path {
            None => Ok(None),
            Some(path) if path.is_empty() => Err(Fault::new(
                ExitCode::Usage,
                word,
                "is empty",
                format!("unset it, or give a directory: export {word}=\"$HOME/...\""),
            )),
            Some(path) => std::path::absolute(path)
                .map(Some)
                .map_err(|e| Fault::system(word, "cannot be made absolute", &e)),
        };
        let given_piddir = absolute("RERAISE_PIDDIR", &given.piddir)?;
        let given_logdir = absolute("RERAISE_LOGDIR", &given.logdir)?;
        let dir = match absolute("RERAISE_DIR", &given.dir)? {
            Some(dir) => dir,
            None => home.clone().map(|h| h.join("reraise.d")).ok_or_else(|| {
                let what = "is not set, and neither is HOME";
                Fault::new(ExitCode::Usage, "RERAISE_DIR", what, "give it with --dir DIR")
            })?,
        };
        for path in [Some(&dir), given_piddir.as_ref(), given_logdir.as_ref()].into_iter().flatten()
        {
            if path.as_os_str().len() > LONGEST {
                let shown = crate::name::printable(path.as_os_str());
                let what = format!("is too long for a directory ({LONGEST} bytes at most)");
                return Err(Fault::new(ExitCode::Usage, shown, what, "choose a shorter path"));
            }
        }
        Ok(Self { dir, given_piddir, given_logdir, home, uid })
    }

    /// Who asks.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Where the records of a user's services are. By default each user has a
    /// place: the seed's if it is there and theirs, else `/var/tmp/reraise-UID`.
    #[must_use]
    pub fn piddir(&self, owner: u32) -> PathBuf {
        if let Some(given) = &self.given_piddir {
            return given.clone();
        }
        let seed = Path::new(SHARED_PIDDIR);
        match fs::symlink_metadata(seed) {
            Ok(m) if m.is_dir() && m.uid() == owner => seed.to_owned(),
            _ => PathBuf::from(format!("{SHARED_PIDDIR}-{owner}")),
        }
    }

    /// Where the output of a user's services goes.
    #[must_use]
    pub fn logdir(&self, owner: u32) -> PathBuf {
        if owner == self.uid {
            match (&self.given_logdir, &self.home) {
                (Some(given), _) => return given.clone(),
                (None, Some(home)) => return home.join("reraise.log"),
                (None, None) => {}
            }
        }
        self.state(owner).join("log")
    }

    /// The same for an owner of services whom another user's command has
    /// become: where that user wants the logs may be closed to the owner.
    #[must_use]
    pub fn of_owner(mut self) -> Self {
        use nix::unistd::{AccessFlags, access};
        let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
        let is_usable = |dir: &PathBuf| {
            access(dir, wanted).is_ok() && check_ancestors(dir, &[self.uid]).is_ok()
        };
        let given = self.given_logdir.take().filter(is_usable);
        self.given_logdir = Some(given.unwrap_or_else(|| self.state(self.uid).join("log")));
        self
    }

    /// What was given for the logs, if anything was.
    #[must_use]
    pub fn given_logdir(&self) -> Option<&Path> {
        self.given_logdir.as_deref()
    }

    /// What was given for the records, if anything was.
    #[must_use]
    pub fn given_piddir(&self) -> Option<&Path> {
        self.given_piddir.as_deref()
    }

    /// `.reraise-UID` of a user.
    #[must_use]
    pub fn state(&self, owner: u32) -> PathBuf {
        state_of(&self.piddir(owner), owner)
    }
}

/// `.reraise-UID` in a directory of records.
#[must_use]
pub fn state_of(piddir: &Path, owner: u32) -> PathBuf {
    piddir.join(format!(".reraise-{owner}"))
}

/// The files of one service.
#[derive(Debug, Clone)]
pub struct Files {
    /// Its directory, `.reraise-UID/s/NAME`.
    pub own: PathBuf,
    /// Its record.
    pub record: PathBuf,
}

impl Files {
    /// Those of a user's service.
    #[must_use]
    pub fn of(piddir: &Path, owner: u32, name: &ServiceName) -> Self {
        let own = state_of(piddir, owner).join("s").join(name.as_str());
        Self { own, record: piddir.join(name.as_str()) }
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }
}

/// Whether a directory of records is where it is when none was given.
fn is_default_piddir(piddir: &Path, me: u32) -> bool {
    let path = piddir.to_str().and_then(|path| path.strip_prefix(SHARED_PIDDIR));
    path.is_some_and(|rest| rest.is_empty() || rest == format!("-{me}"))
}

/// Makes the directory of records and the state directory in it, and refuses
/// what another user could change.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn prepare_piddir(piddir: &Path, me: u32) -> Result<PathBuf, Fault> {
    if is_default_piddir(piddir, me) {
        make_dir(piddir, 0o755)?;
    } else {
        make_given(piddir, "--piddir")?;
    }
    let about = metadata(piddir)?;
    let shown = piddir.display().to_string();
    if about.uid() != me && !(about.uid() == 0 && about.mode() & 0o1000 != 0) {
        return Err(Fault::new(
            ExitCode::Denied,
            &shown,
            format!("belongs to user {}, who could exchange the records there", about.uid()),
            format!(
                "give it to user {me} (chown {me} {shown}), share it safely (as root: \
                 chown root {shown}; chmod 1777 {shown}), or use another --piddir"
            ),
        ));
    }
    check_ancestors(piddir, &[me])?;
    let state = state_of(piddir, me);
    make_dir(&state, 0o700)?;
    let about = fs::symlink_metadata(&state)
        .map_err(|e| Fault::system(state.display(), "cannot be read", &e))?;
    if !about.is_dir() || about.uid() != me {
        let what = "is not my own directory; somebody else made it";
        let advice = format!("look at it (ls -ld {}), and remove it", state.display());
        return Err(Fault::new(ExitCode::Denied, state.display(), what, advice));
    }
    if about.mode() & 0o077 != 0 {
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))
            .map_err(|e| Fault::system(state.display(), "cannot be made private", &e))?;
    }
    make_dir(&state.join("s"), 0o700)?;
    Ok(state)
}

/// Checks a directory that scripts are started from: it must be there, and only
/// one of `trusted` or root may be able to change it.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn check_dir(dir: &Path, trusted: &[u32]) -> Result<(), Fault> {
    let about = metadata(dir)?;
    if !about.is_dir() {
        let advice = "name a directory with --dir, or with RERAISE_DIR";
        return Err(Fault::new(ExitCode::Usage, dir.display(), "is not a directory", advice));
    }
    check_ancestors(dir, trusted)
}

fn metadata(path: &Path) -> Result<fs::Metadata, Fault> {
    fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Fault::new(
            ExitCode::Usage,
            path.display(),
            "does not exist",
            format!("make it: mkdir -p {}", path.display()),
        ),
        io::ErrorKind::PermissionDenied => closed(path),
        _ => Fault::system(path.display(), "cannot be read", &e),
    })
}

/// What to say about a path that we may not follow: which directory is closed.
#[must_use]
pub fn closed(path: &Path) -> Fault {
    let me = nix::unistd::geteuid();
    let way: Vec<&Path> = path.ancestors().skip(1).collect();
    let is_closed = |step: &&&Path| {
        let entered = fs::metadata(step.join("."));
        entered.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    };
    let what = format!("cannot be reached by user {me}: permission denied");
    let is_mine = |step: &Path| fs::metadata(step).is_ok_and(|m| m.uid() == me.as_raw());
    let advice = match way.iter().rev().find(is_closed) {
        Some(step) if is_mine(step) => format!("open it: chmod u+rx {}", step.display()),
        Some(step) => format!("let others pass through it: chmod o+x {}", step.display()),
        None => format!("see its owner and mode with: ls -ld {}", path.display()),
    };
    Fault::new(ExitCode::Denied, path.display(), what, advice)
}

/// Makes a directory, and those above it, where it is missing.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Fault> {
    let create = || {
        DirBuilder::new().mode(mode).create(path)?;
        // Whatever the umask: who may look at a service's state does not depend
        // on who was the first to start one.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    match create() {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // A symbolic link to a directory is one; whether it is a safe one
            // is checked by those who care.
            if fs::metadata(path).is_ok_and(|m| m.is_dir()) {
                return Ok(());
            }
            let advice = format!("move it away: mv {0} {0}.old", path.display());
            Err(Fault::new(ExitCode::Usage, path.display(), "is not a directory", advice))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            make_dir(path.parent().unwrap_or(path), mode)?;
            create().or_else(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(Fault::system(path.display(), "cannot be made", &e)),
            })
        }
        Err(e) => Err(Fault::system(path.display(), "cannot be made", &e)),
    }
}

/// The same for a directory that the user has named with this option: what is in its
/// way is none of ours, and is not to be moved away.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn make_given(path: &Path, option: &str) -> Result<(), Fault> {
    make_dir(path, 0o755).map_err(|fault| {
        let is_no_directory = match fs::metadata(path) {
            Ok(about) => !about.is_dir(),
            Err(e) => e.kind() == io::ErrorKind::NotADirectory,
        };
        if !is_no_directory {
            return fault;
        }
        let advice = format!("name another one: {option} DIR");
        Fault::new(ExitCode::Usage, path.display(), "is not a directory", advice)
    })
}

/// Whether one user other than the owner could write a file of this mode. A
/// group of the same number as the owner is that user's own group.
#[must_use]
pub fn is_open_to_others(about: &fs::Metadata) -> bool {
    let by_group = about.mode() & 0o020 != 0 && about.gid() != about.uid();
    by_group || about.mode() & 0o002 != 0
}

/// Refuses a path that somebody besides `trusted` and root could exchange: a
/// directory on the way that others can write and that is not sticky, or a
/// symbolic link of a stranger.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn check_ancestors(path: &Path, trusted: &[u32]) -> Result<(), Fault> {
    check_way(path, trusted, |about, _| is_open_to_others(about) && about.mode() & 0o1000 == 0)
}

/// Refuses a directory for a log where somebody besides `me` and root could put a file or
/// a link in our way; what is not there yet is made by us. A group may write where root
/// lets it, as in the `/var/log` of some systems.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn check_log_dir(directory: &Path, me: u32) -> Result<(), Fault> {
    let there = directory.ancestors().find(|step| fs::symlink_metadata(step).is_ok());
    let there = there.unwrap_or(Path::new("/"));
    let is_there =
        |step: &Path| step == there || fs::canonicalize(there).is_ok_and(|real| step == real);
    check_way(there, &[me], |about, step| {
        let by_all = about.mode() & 0o002 != 0;
        let by_group = about.mode() & 0o020 != 0 && about.gid() != about.uid() && about.uid() != 0;
        // In the directory itself even what is mine could be forestalled.
        let is_last = || there == directory && is_there(step);
        (by_all || by_group) && (about.mode() & 0o1000 == 0 || is_last())
    })
}

fn check_way(
    path: &Path,
    trusted: &[u32],
    is_open: impl Fn(&fs::Metadata, &Path) -> bool,
) -> Result<(), Fault> {
    let is_trusted = |uid: u32| uid == 0 || trusted.contains(&uid);
    let mut is_real = path.is_absolute() && !path.components().any(|c| c == Component::ParentDir);
    let mut found = Vec::new();
    for step in path.ancestors() {
        let Ok(about) = fs::symlink_metadata(step) else {
            is_real = false;
            continue;
        };
        is_real &= !about.is_symlink();
        if about.is_symlink() && !is_trusted(about.uid()) {
            let what = format!("is a symbolic link of user {}", about.uid());
            let advice = format!("remove it: rm {}", step.display());
            return Err(Fault::new(ExitCode::Denied, step.display(), what, advice));
        }
        found.push((step.to_owned(), about));
    }
    // Asked for only where it differs: a worker does this before each run.
    if !is_real {
        let real = fs::canonicalize(path)
            .map_err(|e| Fault::system(path.display(), "cannot be reached", &e))?;
        found.clear();
        for step in real.ancestors() {
            found.push((step.to_owned(), metadata(step)?));
        }
    }
    for (step, about) in found {
        if !is_trusted(about.uid()) {
            let what = format!("belongs to user {}, who could change what is in it", about.uid());
            let advice = format!("see: ls -ld {}; use a directory of your own", step.display());
            return Err(Fault::new(ExitCode::Denied, step.display(), what, advice));
        }
        if is_open(&about, &step) {
            let what = "can be changed by other users";
            let advice = format!("close it: chmod go-w {}", step.display());
            return Err(Fault::new(ExitCode::Denied, step.display(), what, advice));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    #[test]
    fn each_user_has_a_default() {
        let dirs = Dirs::resolve(&Given::default(), Some("/home/a".into()), 70_001).unwrap();
        assert_eq!(dirs.dir, Path::new("/home/a/reraise.d"));
        assert_eq!(dirs.piddir(70_001), Path::new("/var/tmp/reraise-70001"));
        assert_eq!(dirs.piddir(70_002), Path::new("/var/tmp/reraise-70002"));
        assert_eq!(dirs.logdir(70_001), Path::new("/home/a/reraise.log"));
        let theirs = "/var/tmp/reraise-70002/.reraise-70002/log";
        assert_eq!(dirs.logdir(70_002), Path::new(theirs));
    }

    #[test]
    fn without_a_home_something_must_be_given() {
        let fault = Dirs::resolve(&Given::default(), None, 1).unwrap_err();
        assert_eq!((fault.object.as_str(), fault.code), ("RERAISE_DIR", ExitCode::Usage));
        let empty = Given { dir: Some(OsString::new()), ..Given::default() };
        assert_eq!(Dirs::resolve(&empty, None, 1).unwrap_err().what, "is empty");
        let long = Given { dir: Some("x".repeat(800).into()), ..Given::default() };
        assert!(Dirs::resolve(&long, None, 1).unwrap_err().what.contains("too long"));
    }

    #[test]
    fn the_state_directory_is_private() {
        let top = tempfile::tempdir().unwrap();
        let piddir = top.path().join("a/b");
        let state = prepare_piddir(&piddir, me()).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        prepare_piddir(&piddir, me()).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let open = top.path().join("open");
        make_dir(&open.join("in"), 0o755).unwrap();
        check_dir(&open.join("in"), &[me()]).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let fault = check_dir(&open.join("in"), &[me()]).unwrap_err();
        assert_eq!(fault.code, ExitCode::Denied);
        assert!(fault.advice.starts_with("close it: chmod go-w"));
        assert!(prepare_piddir(&open, me()).is_err());
        // The sticky bit keeps others from exchanging what is mine.
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        check_dir(&open.join("in"), &[me()]).unwrap();
    }

    #[test]
    fn a_log_is_kept_only_where_nobody_else_can_put_anything() {
        let top = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let (above, log) = (top.path().join("logs"), top.path().join("logs/web"));
        check_log_dir(&log, me()).unwrap();
        make_dir(&log, 0o755).unwrap();
        for (above_mode, log_mode, is_fine) in [
            (0o755, 0o700, true),
            (0o1777, 0o700, true),
            (0o777, 0o700, false),
            (0o755, 0o777, false),
            (0o755, 0o1777, false),
            (0o775, 0o775, true),
        ] {
            mode(&above, above_mode);
            mode(&log, log_mode);
            assert_eq!(check_log_dir(&log, me()).is_ok(), is_fine, "{above_mode:o} {log_mode:o}");
        }
        mode(&above, 0o777);
        mode(&log, 0o700);
        // Also where it is to be made.
        let fault = check_log_dir(&above.join("new"), me()).unwrap_err();
        assert_eq!(
            (fault.code, fault.what.as_str()),
            (ExitCode::Denied, "can be changed by other users")
        );
        // By a link it is the same place.
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&above, &link).unwrap();
        assert!(check_log_dir(&link.join("web"), me()).is_err());
        mode(&above, 0o755);
        check_log_dir(&link.join("web"), me()).unwrap();
        mode(&log, 0o1777);
        assert!(check_log_dir(&link.join("web"), me()).is_err());
        assert!(check_log_dir(&log, me() + 1).is_err());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        let fault = make_dir(&file, 0o755).unwrap_err();
        assert_eq!(fault.what, "is not a directory");
        assert!(fault.advice.starts_with("move it away: mv "), "{fault}");
        // What the user has named is not to be moved away, nor what is above it.
        for path in [file.clone(), file.join("below")] {
            let fault = prepare_piddir(&path, me()).unwrap_err();
            assert_eq!(fault.what, "is not a directory");
            assert_eq!(fault.advice, "name another one: --piddir DIR");
            assert_eq!(fault.object, path.display().to_string());
        }
        for (path, is_default) in [
            ("/var/tmp/reraise", true),
            ("/var/tmp/reraise-7", true),
            ("/var/tmp/reraise-70", false),
            ("/etc/passwd", false),
        ] {
            assert_eq!(is_default_piddir(Path::new(path), 7), is_default, "{path}");
        }
        assert_eq!(check_dir(&file, &[me()]).unwrap_err().what, "is not a directory");
        let none = top.path().join("none");
        assert_eq!(check_dir(&none, &[me()]).unwrap_err().what, "does not exist");
    }
}
