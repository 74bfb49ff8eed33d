//! `start`, `stop`, `restart` and `resume`: asks the keeper for many services at once and
//! waits until each is settled.

mod foreign;
mod line;
mod log;
mod pending;
mod resume;
mod wait;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use reraise::backend::Owner;
use reraise::context::Context;
use reraise::error::{ExitCode, Fault};
use reraise::logger::rules::Place;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot;
use reraise::supervise::launch::{self, Loaded};
use reraise::wanted::Wanted;
use reraise::words;

use super::select::{Selection, select};
use super::state::{Seen, State, look};
use super::{Setting, console, elevate};
use line::Line;
pub(crate) use line::context;
use pending::Pending;
use wait::wait;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verb {
    Start {
        /// Until it has started successfully; for so long at most.
        wait: Option<Option<Duration>>,
        /// A single run.
        once: bool,
    },
    /// What is wanted, where it does not run.
    Resume,
    Stop {
        now: bool,
        wait: bool,
    },
    Restart {
        wait: bool,
    },
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Start { once: false, .. } => "start",
            Self::Start { once: true, .. } => "start-once",
            Self::Resume => "resume",
            Self::Stop { now: true, .. } => "stop-now",
            Self::Stop { now: false, .. } => "stop",
            Self::Restart { .. } => "restart",
        }
    }

    /// The words of the command line that say the same.
    fn command_line(self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        match self {
            Self::Start { wait, once } => {
                words.push("start".into());
                words.extend(once.then(|| "--once".into()));
                match wait {
                    None => {}
                    Some(None) => words.push("--wait".into()),
                    Some(Some(limit)) => {
                        words.push(format!("--wait={}", limit.as_secs_f64()).into())
                    }
                }
            }
            Self::Resume => words.push("resume".into()),
            Self::Stop { now, wait } => {
                words.push("stop".into());
                words.extend(now.then(|| "--now".into()));
                words.extend((!wait).then(|| "--no-wait".into()));
            }
            Self::Restart { wait } => {
                words.push("restart".into());
                words.extend((!wait).then(|| "--no-wait".into()));
            }
        }
        words
    }

    fn limit(self) -> Option<Duration> {
        match self {
            Self::Start { wait, .. } => wait.flatten(),
            Self::Resume | Self::Stop { .. } | Self::Restart { .. } => None,
        }
    }
}

pub(crate) fn run(setting: &Setting, patterns: &[OsString], verb: Verb) -> Result<ExitCode, Fault> {
    let mut found = match verb {
        Verb::Resume => resume::select(setting, patterns)?,
        _ => select(setting, patterns)?,
    };
    found.faults.iter().for_each(console::fault);
    let mut codes: Vec<ExitCode> = found.faults.iter().map(|f| f.code).collect();
    let me = setting.dirs.uid();
    let foreign = if setting.as_owner { Vec::new() } else { others(&mut found, me) };
    for (owner, names) in foreign {
        codes.push(elevate::run(setting, owner, &verb.command_line(), &names).unwrap_or_else(
            |f| {
                console::fault(&f);
                f.code
            },
        ));
    }
    let mut pending = BTreeMap::new();
    let mut line = Line::new(setting, verb, found.services.len());
    let mut places = Vec::new();
    for (name, entry) in &found.services {
        let is_named = found.named.contains(name);
        line.next();
        match precheck(&line, name, entry.as_ref(), is_named, &mut places) {
            Ok(Some(one)) => {
                // Asked for at once: the keeper works while we look at the next.
                // But a keeper that we start here resumes all by itself.
                if verb != Verb::Resume {
                    line.ask(name)?;
                }
                pending.insert(name.clone(), one);
            }
            Ok(None) => {}
            Err(Stay::Code(code)) => codes.push(code),
            Err(Stay::Fault(fault)) => {
                console::fault(&fault);
                codes.push(fault.code);
            }
        }
    }
    if !pending.is_empty() {
        codes.extend(wait(&mut line, pending)?);
    }
    log::warn(places);
    Ok(ExitCode::of_all(codes))
}

/// Takes the services of other users out of the selection.
pub(super) fn others(found: &mut Selection, me: u32) -> Vec<(Owner, Vec<ServiceName>)> {
    let mut by_owner: BTreeMap<u32, (u32, Vec<ServiceName>)> = BTreeMap::new();
    for (name, entry) in &found.services {
        if let Some(entry) = entry.as_ref().filter(|e| e.uid != me) {
            by_owner.entry(entry.uid).or_insert((entry.gid, Vec::new())).1.push(name.clone());
        }
    }
    found.services.retain(|_, entry| entry.as_ref().is_none_or(|e| e.uid == me));
    by_owner.into_iter().map(|(uid, (gid, names))| (Owner { uid, gid }, names)).collect()
}

/// Why a service is not asked for.
enum Stay {
    Fault(Fault),
    Code(ExitCode),
}

/// What needs no keeper is settled here. `Ok(None)`: done.
fn precheck(
    line: &Line<'_>,
    name: &ServiceName,
    entry: Option<&Entry>,
    is_named: bool,
    places: &mut Vec<(ServiceName, Place)>,
) -> Result<Option<Pending>, Stay> {
    let (setting, verb) = (line.setting, line.verb);
    let seen = look(setting, name, entry);
    if seen.is_legacy && matches!(seen.state, State::Running | State::Starting) {
        return foreign::legacy(setting, name, &seen, verb).map(|()| None).map_err(Stay::Fault);
    }
    let log = setting.dirs.logdir(setting.dirs.uid()).join(name.as_str()).join("current");
    match verb {
        Verb::Resume => Ok(resume::precheck(line, name, &seen, is_named, log)),
        Verb::Start { once, .. } => {
            let is_up = matches!(seen.state, State::Running | State::Starting);
            // Also of what runs, somebody may want something else from now on.
            if is_up && !seen.is_unwatched && wanted(setting, name) == Some(Wanted::of_start(once))
            {
                console::line(&format!("{name}: skip (because already running)"));
                return Ok(None);
            }
            let place = startable(line, name).map_err(Stay::Fault)?;
            recordable(setting, name).map_err(Stay::Fault)?;
            places.extend(place.map(|place| (name.clone(), place)));
            Ok(Some(Pending::new(&seen, log)))
        }
        Verb::Stop { .. } if is_idle(setting, name, &seen) => {
            console::line(&format!("{name}: skip (because not running)"));
            Ok(None)
        }
        Verb::Restart { .. } if is_idle(setting, name, &seen) => {
            console::line(&format!("{name}: skip (because not running)"));
            if !is_named {
                return Ok(None);
            }
            let advice = format!("start it: reraise start {name}");
            let what = "restart does not start what is not running";
            console::fault(&Fault::new(ExitCode::NotRunning, name, what, advice));
            Err(Stay::Code(ExitCode::NotRunning))
        }
        Verb::Restart { .. } => {
            let place = restartable(setting, name).map_err(Stay::Fault)?;
            places.extend(place.map(|place| (name.clone(), place)));
            Ok(Some(Pending::new(&seen, log)))
        }
        Verb::Stop { .. } => Ok(Some(Pending::new(&seen, log))),
    }
}

/// Refuses here, in the caller's words, what a worker would refuse; where the log of
/// the others is to be.
fn startable(line: &Line<'_>, name: &ServiceName) -> Result<Option<Place>, Fault> {
    let context = line.context()?;
    let loaded = sound(context, name)?;
    Ok(Place::of(&loaded.config, &context.logdir, name))
}

/// The same for what runs, which is not to be ended when it could not come up again:
/// by what it was started with. Where that is not known, its worker will find out.
fn restartable(setting: &Setting, name: &ServiceName) -> Result<Option<Place>, Fault> {
    let me = setting.dirs.uid();
    let files = Files::of(&setting.dirs.piddir(me), me, name);
    let Some(context) = Context::read(&files.file("context")) else { return Ok(None) };
    let loaded = sound(&context, name)?;
    match words::bad_interpreter(name, &loaded.entry, &context.cwd) {
        Some(fault) => Err(fault),
        None => Ok(Place::of(&loaded.config, &context.logdir, name)),
    }
}

/// A script that may be started, and of which each line makes sense.
fn sound(context: &Context, name: &ServiceName) -> Result<Loaded, Fault> {
    let loaded = launch::load(context, name)?;
    match loaded.problems.split_first() {
        None => Ok(loaded),
        Some((first, rest)) => {
            for problem in rest.iter().rev() {
                console::fault(&launch::config_fault(name, &loaded.entry.program, problem));
            }
            Err(launch::config_fault(name, &loaded.entry.program, first))
        }
    }
}

/// Refuses a service whose record would be somebody else's: in a sticky
/// directory we cannot replace it.
fn recordable(setting: &Setting, name: &ServiceName) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt;
    let me = setting.dirs.uid();
    let piddir = setting.dirs.piddir(me);
    let record = piddir.join(name.as_str());
    let owner = |path| std::fs::symlink_metadata(path).map(|about| about.uid());
    match (owner(&record), owner(&piddir)) {
        (Ok(theirs), Ok(place)) if theirs != me && place != me => {
            let what = format!("its record belongs to user {theirs}, and cannot be replaced");
            let advice = format!(
                "have it removed (as root: rm {}), or use another --piddir",
                record.display()
            );
            Err(Fault::new(ExitCode::Denied, name, what, advice))
        }
        _ => Ok(()),
    }
}

/// Whether there is nothing to stop: no process, no worker, no wish.
fn is_idle(setting: &Setting, name: &ServiceName, seen: &Seen) -> bool {
    match seen.state {
        State::Starting | State::Running | State::Stopping | State::Stop => return false,
        State::NotRunning
        | State::NotExecutable
        | State::Done
        | State::Error
        | State::SeemsNotRunning
        | State::Unknown => {}
    }
    let me = setting.dirs.uid();
    let files = Files::of(&setting.dirs.piddir(me), me, name);
    let is_open = slot::read(&files.file("run")).is_some_and(|s| s.phase.is_open());
    !is_open && !wanted(setting, name).is_some_and(Wanted::is_up)
}

/// What was last asked for.
fn wanted(setting: &Setting, name: &ServiceName) -> Option<Wanted> {
    let me = setting.dirs.uid();
    Wanted::read(&Files::of(&setting.dirs.piddir(me), me, name).own)
}
