//! `resume`: what lives unwatched is adopted, and what is wanted and does not run
//! is raised. Fit for boot entries: it says nothing of what is as it should be.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use reraise::backend::native;
use reraise::error::Fault;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot::{self, Phase, Slot};
use reraise::wanted::Wanted;

use super::line::Line;
use super::pending::Pending;
use super::wanted;
use crate::cli::select::{self, Selection};
use crate::cli::state::{Seen, State};
use crate::cli::{Setting, console};

/// What was named; otherwise whatever has ever been started, and the services of
/// others, of which only they know what is wanted.
pub(super) fn select(setting: &Setting, patterns: &[OsString]) -> Result<Selection, Fault> {
    if !patterns.is_empty() {
        return select::select(setting, patterns);
    }
    let me = setting.dirs.uid();
    // That there is no directory of scripts is no news to somebody who has none.
    let mut found = select::select(setting, patterns).unwrap_or_default();
    found.services.retain(|_, entry| entry.as_ref().is_some_and(|e| e.uid != me));
    let place = setting.dirs.state(me).join("s");
    let own = match fs::read_dir(&place) {
        Ok(own) => own,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(Fault::system(place.display(), "cannot be read", &e)),
    };
    let names = own.flatten().flat_map(|e| ServiceName::new(&e.file_name()));
    found.services.extend(names.map(|name| {
        let entry = Entry::find(&setting.dirs.dir, &name).unwrap_or(None);
        (name, entry.filter(|e| e.uid == me))
    }));
    Ok(found)
}

/// What is to be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Its worker, or the next one, is asked.
    Ask,
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Decides. `phase` is what the slot says, if that is of this boot.
fn need(state: State, is_unwatched: bool, wanted: Option<Wanted>, phase: Phase) -> Need {
    let is_wanted = wanted.is_some_and(Wanted::is_up);
    match state {
        State::Starting | State::Running if !is_unwatched => Need::Nothing("already running"),
        State::Stop => Need::Nothing("it will start soon"),
        State::Stopping if !is_unwatched && !is_wanted => Need::Nothing("it is being stopped"),
        // Whatever was begun here is gone on with.
        _ if phase.is_open() => Need::Ask,
        _ if !is_wanted => Need::Nothing("it is not wanted"),
        _ if phase == Phase::Over => Need::Nothing("it has ended by itself"),
        State::Starting
        | State::Running
        | State::Stopping
        | State::NotRunning
        | State::NotExecutable
        | State::Done
        | State::Error
        | State::SeemsNotRunning
        | State::Unknown => Need::Ask,
    }
}

/// What needs no keeper is settled here.
pub(super) fn precheck(
    line: &Line<'_>,
    name: &ServiceName,
    seen: &Seen,
    is_named: bool,
    log: PathBuf,
) -> Option<Pending> {
    let setting = line.setting;
    match need(seen.state, seen.is_unwatched, wanted(setting, name), phase(setting, name)) {
        Need::Ask => Some(Pending::new(seen, log)),
        Need::Nothing(why) => {
            if is_named && !setting.as_owner {
                console::line(&format!("{name}: skip (because {why})"));
            }
            None
        }
    }
}

fn phase(setting: &Setting, name: &ServiceName) -> Phase {
    let me = setting.dirs.uid();
    let files = Files::of(&setting.dirs.piddir(me), me, name);
    let here = (native::boot_id().ok(), native::pid_space().ok());
    let is_here = |slot: &Slot| (Some(slot.boot), Some(slot.space)) == here;
    slot::read(&files.file("run")).filter(is_here).map_or(Phase::Idle, |slot| slot.phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [Option<Wanted>; 4] =
        [None, Some(Wanted::Up), Some(Wanted::Once), Some(Wanted::Down)];
    const STATES: [State; 10] = [
        State::NotRunning,
        State::NotExecutable,
        State::Starting,
        State::Running,
        State::Stopping,
        State::Stop,
        State::Done,
        State::Error,
        State::SeemsNotRunning,
        State::Unknown,
    ];

    #[test]
    fn whatever_is_seen() {
        for state in STATES {
            for wanted in WANTED {
                for phase in Phase::ALL {
                    for is_unwatched in [false, true] {
                        let need = need(state, is_unwatched, wanted, phase);
                        let case = format!("{state:?} {is_unwatched} {wanted:?} {phase:?}");
                        // What runs unwatched is always adopted, or ended.
                        let lives =
                            matches!(state, State::Starting | State::Running | State::Stopping);
                        if lives && is_unwatched && phase.is_open() {
                            assert_eq!(need, Need::Ask, "{case}");
                        }
                        // What is watched and up needs nobody.
                        if matches!(state, State::Starting | State::Running) && !is_unwatched {
                            assert!(matches!(need, Need::Nothing(_)), "{case}");
                        }
                        // What nobody wants is not asked for unless it was begun.
                        if !wanted.is_some_and(Wanted::is_up) && !phase.is_open() {
                            assert!(matches!(need, Need::Nothing(_)), "{case}");
                        }
                        // What is wanted and gone is raised, unless it had its end.
                        let is_gone = matches!(state, State::NotRunning | State::SeemsNotRunning);
                        if is_gone && wanted.is_some_and(Wanted::is_up) {
                            assert_eq!(need == Need::Ask, phase != Phase::Over, "{case}");
                        }
                    }
                }
            }
        }
    }
}
