//! From an entry in `$RERAISE_DIR` to a [`Launch`].

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backend::{Launch, Output};
use crate::config::{Config, LogTo, Problem};
use crate::context::Context;
use crate::error::{ExitCode, Fault, reason};
use crate::logger::names::CURRENT;
use crate::logger::rules::Place;
use crate::name::ServiceName;
use crate::paths;
use crate::service::Entry;

/// Whom a worker works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Under {
    /// A keeper in the background, which has no output of its own.
    #[default]
    Keeper,
    /// One in the foreground, `reraise up`.
    Up,
    /// Nobody: it was started by hand, in the foreground.
    Nobody,
}

/// An entry that may be started, and what it says about itself.
pub struct Loaded {
    /// The entry.
    pub entry: Entry,
    /// Its configuration, with defaults for what made no sense.
    pub config: Config,
    /// What made no sense.
    pub problems: Vec<Problem>,
}

/// Looks at a service's entry, refuses what must not be started, and reads the
/// `config_` lines.
///
/// # Errors
/// What is wrong, and how to mend it.
pub fn load(context: &Context, name: &ServiceName) -> Result<Loaded, Fault> {
    let me = nix::unistd::geteuid().as_raw();
    // Through sudo, the directory may belong to whoever called it, also for root:
    // sudoers says that this user may do what we can.
    let caller = context.variable("SUDO_UID").and_then(|uid| uid.parse().ok());
    let trusted: Vec<u32> = [Some(me), caller].into_iter().flatten().collect();
    paths::check_dir(&context.dir, &trusted)?;
    let entry = match Entry::find(&context.dir, name) {
        Ok(Some(entry)) => entry,
        Ok(None) => return Err(no_service(name, &context.dir)),
        Err(e) => return Err(Fault::system(name, "cannot look at its script", &e)),
    };
    // A sticky one keeps what is there from being exchanged; but a file of root's that lies
    // in a directory of somebody else could be moved here.
    let about = fs::metadata(&context.dir)
        .map_err(|e| Fault::system(context.dir.display(), "cannot be read", &e))?;
    if me == 0 && entry.uid == 0 && paths::is_open_to_others(&about) {
        let dir = context.dir.display();
        let what = format!("lies in {dir}, which can be changed by other users");
        return Err(Fault::new(
            ExitCode::Denied,
            name,
            what,
            format!("close it: chmod go-w {dir}"),
        ));
    }
    if entry.uid != me {
        let what = format!("belongs to user {}, and this is user {me}", entry.uid);
        return Err(Fault::new(ExitCode::Denied, name, what, "start it as its owner"));
    }
    entry.check(name)?;
    let (config, problems) = read_config(&entry, context)
        .map_err(|e| Fault::system(name, "cannot read its script", &e))?;
    Ok(Loaded { entry, config, problems })
}

/// A service that is not there.
#[must_use]
pub fn no_service(name: &ServiceName, dir: &Path) -> Fault {
    let what = "no such service";
    let path = dir.join(name.as_str());
    let advice =
        format!("make one: reraise skeleton {name} -- COMMAND, or write {}", path.display());
    Fault::new(ExitCode::NoService, name, what, advice)
}

fn read_config(entry: &Entry, context: &Context) -> io::Result<(Config, Vec<Problem>)> {
    let mut script = match fs::File::open(&entry.program) {
        Ok(script) => script,
        // A program may be executable and not readable; then it says nothing.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Ok((Config::default(), Vec::new()));
        }
        Err(e) => return Err(e),
    };
    Config::read(&mut script, &|name| context.variable(name))
}

/// The fault that the first of several problems makes.
#[must_use]
pub fn config_fault(name: &ServiceName, program: &Path, problem: &Problem) -> Fault {
    let what = format!("{}: {problem}", program.display());
    Fault::new(ExitCode::Unusable, name, what, &problem.advice)
}

/// Where the output of a service is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Where it goes as it is.
    Ours,
    /// Nowhere.
    Nowhere,
    /// To the logger, standard error perhaps apart.
    Logger {
        /// Whether it is.
        is_split: bool,
    },
    /// Into this file: by hand there is no logger.
    File(PathBuf),
}

/// Where the output of a service is to go.
#[must_use]
pub fn destination(
    config: &Config,
    context: &Context,
    name: &ServiceName,
    under: Under,
) -> Destination {
    match (under, &config.log) {
        (Under::Keeper, LogTo::No) => Destination::Nowhere,
        // By hand, the terminal is the log unless the script says otherwise.
        (Under::Up | Under::Nobody, LogTo::No) | (Under::Nobody, LogTo::Default) => {
            Destination::Ours
        }
        (Under::Nobody, LogTo::Yes | LogTo::Path(_)) => {
            let place = Place::of(config, &context.logdir, name);
            let directory = place.map(|place| place.directory).unwrap_or_default();
            Destination::File(directory.join(CURRENT))
        }
        (Under::Keeper | Under::Up, LogTo::Default | LogTo::Yes | LogTo::Path(_)) => {
            Destination::Logger { is_split: config.logging.is_split }
        }
    }
}

fn no_file() -> io::Error {
    io::Error::other("it is no ordinary file")
}

/// Makes a log that the service itself appends to, or sees that it can be written.
///
/// # Errors
/// When it cannot.
pub fn make_log(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    // A FIFO that nobody reads must not hold us up.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = match options.open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let directory = file.parent().unwrap_or(file);
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            options.open(file)?
        }
        // A FIFO that nobody reads, or a socket.
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Err(no_file()),
        other => other?,
    };
    if !opened.metadata()?.is_file() {
        return Err(no_file());
    }
    Ok(())
}

/// What to say about a log that cannot be written. The service runs all the same.
#[must_use]
pub fn log_fault(name: &ServiceName, file: &Path, error: &io::Error) -> Fault {
    let shown = file.display();
    let what = format!("cannot write its log {shown}, its output is dropped: {}", reason(error));
    let place = file.parent().unwrap_or(file).display();
    let advice = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => format!("free some space (df -h {place})"),
        Some(libc::EROFS) => "set config_log, or name another --logdir".to_owned(),
        _ => format!("see: ls -ld {place} {shown}"),
    };
    Fault::new(ExitCode::Ok, name, what, advice)
}

/// What is executed, and in which surroundings.
#[must_use]
pub fn prepare(entry: &Entry, context: &Context, run: u64, output: Output) -> Launch {
    let text = |s: &OsStr| CString::new(s.as_bytes()).unwrap_or_default();
    let program = text(entry.program.as_os_str());
    Launch {
        arguments: vec![program.clone()],
        program,
        environment: context.environment_of(run),
        directory: entry.directory.clone().unwrap_or_else(|| context.cwd.clone()),
        umask: Some(context.umask),
        limits: context.limits.clone(),
        output,
    }
}
