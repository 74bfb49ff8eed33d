//! What state a service is in: judged from its record and the process table alone, so
//! that it is true also when nobody is left to ask.

use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use reraise::backend::native;
use reraise::error::ExitCode;
use reraise::failing::Failing;
use reraise::legacy;
use reraise::name::ServiceName;
use reraise::paths::{self, Files};
use reraise::record::{Phase, Record};
use reraise::service::Entry;

use super::Setting;

/// The state of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    NotRunning,
    NotExecutable,
    Starting,
    Running,
    Stopping,
    /// Fell, and is raised again soon.
    Stop,
    /// Ended, and that was the end of its work.
    Done,
    Error,
    SeemsNotRunning,
    /// Another user's, and not to be seen.
    Unknown,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NotExecutable => "not-executable",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stop => "stop",
            Self::Done => "done",
            Self::Error => "ERROR",
            Self::SeemsNotRunning => "seems-not-running",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn colour(self) -> u8 {
        match self {
            Self::Running => 32,
            Self::Starting | Self::Stopping | Self::Stop => 33,
            Self::NotExecutable | Self::Error | Self::SeemsNotRunning | Self::Unknown => 31,
            Self::NotRunning | Self::Done => 2,
        }
    }

    /// Whether there is more to say.
    pub(crate) fn has_details(self) -> bool {
        !matches!(self, Self::NotRunning | Self::NotExecutable | Self::Unknown)
    }

    /// As init scripts answer.
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Starting | Self::Running | Self::Stopping => ExitCode::Ok,
            Self::NotRunning
            | Self::NotExecutable
            | Self::Stop
            | Self::Done
            | Self::Error
            | Self::SeemsNotRunning => ExitCode::NotRunning,
            Self::Unknown => ExitCode::NoService,
        }
    }
}

/// What one look at a service finds.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) record: Option<Record>,
    /// Runs, and its worker is gone.
    pub(crate) is_unwatched: bool,
    /// Its workers keep failing, and there is none just now.
    pub(crate) failing: Option<Failing>,
    /// The shell version runs it.
    pub(crate) is_legacy: bool,
    /// Seconds in this state.
    pub(crate) elapsed: Option<u64>,
    /// Something about the record is odd.
    pub(crate) trouble: Option<String>,
}

/// Looks at a service.
pub(crate) fn look(setting: &Setting, name: &ServiceName, entry: Option<&Entry>) -> Seen {
    let owner = entry.map_or(setting.dirs.uid(), |e| e.uid);
    let is_ours = owner == setting.dirs.uid();
    let record = || match is_ours {
        true => setting.record(name),
        false => Record::read(&setting.dirs.piddir(owner).join(name.as_str()), &[owner]),
    };
    // A run may end, and its record be replaced, between our two looks.
    let keeper = setting.keeper().filter(|_| is_ours);
    let mut seen = interpret(record(), entry, keeper);
    for _ in 0..3 {
        if seen.state != State::SeemsNotRunning {
            break;
        }
        seen = interpret(record(), entry, keeper);
    }
    if seen.is_unwatched || seen.state == State::SeemsNotRunning {
        seen.failing = failing(&setting.dirs.piddir(owner), owner, name);
        if seen.failing.is_some() && seen.state == State::SeemsNotRunning {
            seen.state = State::Stop;
        }
    }
    if seen.trouble.is_some() && owner != setting.dirs.uid() {
        seen.state = State::Unknown;
    }
    seen
}

/// What the keeper says of a service without a worker.
fn failing(piddir: &Path, owner: u32, name: &ServiceName) -> Option<Failing> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?.into();
    let keeper = paths::state_of(piddir, owner).join("keeper.lock");
    Failing::read(&Files::of(piddir, owner, name).file("failing"), &keeper, now)
}

fn interpret(
    read: Result<Option<Record>, String>,
    entry: Option<&Entry>,
    keeper: Option<i32>,
) -> Seen {
    let blank = |state| Seen {
        state,
        record: None,
        is_unwatched: false,
        failing: None,
        is_legacy: false,
        elapsed: None,
        trouble: None,
    };
    let record = match read {
        Ok(Some(record)) => record,
        Ok(None) if entry.is_none_or(Entry::is_executable) => return blank(State::NotRunning),
        Ok(None) => return blank(State::NotExecutable),
        Err(trouble) => return Seen { trouble: Some(trouble), ..blank(State::SeemsNotRunning) },
    };
    let is_here = is_of_this_boot(&record);
    let elapsed = Some(elapsed(&record, is_here));
    let lives = |process: Option<reraise::backend::ProcessId>| {
        is_here && process.is_some_and(|p| native::born(p.pid).ok().flatten() == Some(p.born))
    };
    let is_watched = is_here && keeper.is_some_and(|keeper| is_watched(&record, keeper));
    let worker = is_watched || lives(record.worker_process());
    let (state, is_unwatched, is_legacy) = match record.phase {
        Phase::Error => (State::Error, false, record.more.is_none()),
        Phase::Stop if record.more.is_some_and(|m| m.is_done) => (State::Done, false, false),
        Phase::Stop if worker => (State::Stop, false, false),
        Phase::Start | Phase::Run if is_watched || lives(record.process()) => {
            let state = match record.phase {
                _ if record.more.is_some_and(|m| m.is_stopping) => State::Stopping,
                Phase::Start => State::Starting,
                _ => State::Running,
            };
            (state, !worker, false)
        }
        Phase::Start | Phase::Run if legacy::find(&record).is_ok_and(|l| l.is_some()) => (
            if record.phase == Phase::Start { State::Starting } else { State::Running },
            false,
            true,
        ),
        // Its worker is just about to write what has happened.
        Phase::Start | Phase::Run if worker => (State::Stop, false, false),
        Phase::Start | Phase::Run | Phase::Stop => (State::SeemsNotRunning, false, false),
    };
    let record = Some(record);
    Seen { state, record, is_unwatched, failing: None, is_legacy, elapsed, trouble: None }
}

/// Whether a worker of this keeper is there, whose record is to be believed: when its
/// service ends it says so at once, and whoever stops it is told by the keeper. The
/// session of a keeper has none but its workers. To ask for a session is cheap; what
/// tells a process from a later one with its pid costs four system calls.
fn is_watched(record: &Record, keeper: i32) -> bool {
    let session = |pid| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
    record.pid.is_some()
        && record.worker.is_some_and(|pid| session(pid).is_ok_and(|sid| sid.as_raw() == keeper))
}

fn is_of_this_boot(record: &Record) -> bool {
    use std::sync::OnceLock;
    static PLACE: OnceLock<(u64, u64)> = OnceLock::new();
    let ours = PLACE.get_or_init(|| {
        (native::boot_id().unwrap_or_default(), native::pid_space().unwrap_or_default())
    });
    record.more.is_some_and(|m| (m.boot, m.space) == *ours)
}

fn elapsed(record: &Record, is_here: bool) -> u64 {
    let clock = |id| clock_gettime(id).map_or(0, |t| t.tv_sec()).cast_unsigned();
    match record.more {
        Some(more) if is_here => clock(ClockId::CLOCK_MONOTONIC).saturating_sub(more.mono),
        // Another boot, or the shell version: the other clock must do.
        _ => clock(ClockId::CLOCK_REALTIME).saturating_sub(record.epoch.max(0).cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> Result<Option<Record>, String> {
        Ok(Some(Record::from_line(line.as_bytes()).unwrap()))
    }

    #[test]
    fn a_record_without_its_process_is_not_believed() {
        let boot = native::boot_id().unwrap();
        let space = native::pid_space().unwrap();
        let me = std::process::id();
        let born = native::born(me.cast_signed()).unwrap().unwrap();
        let with = |born: u64, boot: u64, space: u64| {
            let rest =
                format!("v=1 born={born:x} wborn=1 boot={boot:x} ns={space:x} mono=0 raised=0");
            interpret(line(&format!("RUN - {me} 2 0 {rest}\n")), None, None)
        };
        assert_eq!(with(born, boot, space).state, State::Running);
        assert!(with(born, boot, space).is_unwatched);
        // A stranger has the pid, another boot, another container.
        assert_eq!(with(born ^ 1, boot, space).state, State::SeemsNotRunning);
        assert_eq!(with(born, boot ^ 1, space).state, State::SeemsNotRunning);
        assert_eq!(with(born, boot, space ^ 1).state, State::SeemsNotRunning);
    }

    #[test]
    fn the_shell_versions_records_are_understood() {
        let parent = native::parent();
        let me = std::process::id();
        let seen = interpret(line(&format!("RUN - {me} {parent} 0\n")), None, None);
        assert_eq!((seen.state, seen.is_legacy), (State::Running, true));
        let seen = interpret(line(&format!("RUN - {me} {me} 0\n")), None, None);
        assert_eq!(seen.state, State::SeemsNotRunning);
        assert_eq!(interpret(line("ERROR 3 - - 0\n"), None, None).state, State::Error);
        assert_eq!(
            interpret(line("STOP 3 - 4000000 0\n"), None, None).state,
            State::SeemsNotRunning
        );
    }
}
