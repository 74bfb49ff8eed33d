//! `reraise status`: from the records and the process table alone, so that it is
//! true also when nobody is left to ask.

mod long;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use reraise::backend::native;
use reraise::error::{ExitCode, Fault};
use reraise::failing::Failing;
use reraise::history::deaths::Death;
use reraise::legacy;
use reraise::logger::report::Report;
use reraise::name::ServiceName;
use reraise::paths::{self, Files};
use reraise::record::{Phase, Record};
use reraise::service::Entry;

use super::console::Paint;
use super::select::select;
use super::{Setting, console, deaths};

/// The version of what `--json` prints; it grows when a field changes meaning.
const SCHEMA: u32 = 1;

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
    fn has_details(self) -> bool {
        !matches!(self, Self::NotRunning | Self::NotExecutable | Self::Unknown)
    }

    /// As init scripts answer.
    fn code(self) -> ExitCode {
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

/// Runs `reraise status`.
pub(crate) fn run(
    setting: &Setting,
    patterns: &[OsString],
    long: bool,
    json: bool,
) -> Result<ExitCode, Fault> {
    let found = select(setting, patterns)?;
    let rows = look_at_all(setting, &found.services);
    let last = |name: &ServiceName, entry| last_death(setting, name, entry);
    let lasts: Vec<Option<Death>> = match long || json {
        true => rows.iter().map(|(name, entry, _)| last(name, *entry)).collect(),
        false => Vec::new(),
    };
    let usage = if long {
        long::usage(rows.iter().map(|(.., seen)| seen)).map_err(|e| {
            Fault::new(ExitCode::System, "the processes", format!("cannot be listed: {e}"), "")
        })?
    } else {
        Vec::new()
    };
    let reports: Vec<Report> = match long || json {
        true => rows.iter().map(|(name, entry, _)| report(setting, name, *entry)).collect(),
        false => Vec::new(),
    };
    if json {
        let services: Vec<Value> = rows
            .iter()
            .enumerate()
            .map(|(i, (name, entry, seen))| {
                as_json(name, *entry, seen, usage.get(i), &reports[i], lasts[i])
            })
            .collect();
        console::line(&json!({"version": SCHEMA, "services": services}).to_string());
    } else {
        print(&rows, &usage, &reports, &lasts);
    }
    for (name, entry, seen) in &rows {
        if let Some(trouble) = &seen.trouble {
            let advice = match (seen.state, entry) {
                (State::Unknown, Some(entry)) => {
                    let place = setting.dirs.piddir(entry.uid);
                    format!("see: ls -ld {0} {0}/{name}", place.display())
                }
                _ => format!("look at it, then: reraise clean {name}"),
            };
            console::fault(&Fault::new(seen.state.code(), name, trouble, advice));
        }
    }
    found.faults.iter().for_each(console::fault);
    if patterns.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let codes = rows.iter().map(|(.., seen)| seen.state.code());
    let unknown = found.faults.iter().map(|f| f.code);
    Ok(ExitCode::of_all(codes.chain(unknown)))
}

/// What has become of its output.
fn report(setting: &Setting, name: &ServiceName, entry: Option<&Entry>) -> Report {
    let owner = entry.map_or(setting.dirs.uid(), |e| e.uid);
    Report::read(&Files::of(&setting.dirs.piddir(owner), owner, name).own)
}

/// A service as it is selected, and what a look finds.
type Row<'a> = (&'a ServiceName, Option<&'a Entry>, Seen);

/// Looks at services.
fn look_at_all<'a>(
    setting: &Setting,
    services: &'a BTreeMap<ServiceName, Option<Entry>>,
) -> Vec<Row<'a>> {
    let row = |(name, entry): (&'a ServiceName, &'a Option<Entry>)| {
        (name, entry.as_ref(), look(setting, name, entry.as_ref()))
    };
    services.iter().map(row).collect()
}

fn print(
    rows: &[Row<'_>],
    usage: &[Option<long::Usage>],
    reports: &[Report],
    lasts: &[Option<Death>],
) {
    let silence = Report::default();
    let paint = Paint::new();
    let width = rows.iter().map(|(name, ..)| name.as_str().chars().count()).max();
    let width = width.unwrap_or(0).max(18);
    let mut text = String::new();
    for (i, (name, _, seen)) in rows.iter().enumerate() {
        let state = paint.colour(&format!("{:15}", seen.state.word()), seen.state.colour());
        let _ = write!(text, "{name:width$} {state}");
        match &seen.record {
            Some(record) if seen.state.has_details() => {
                text.push_str(" # (");
                let report = reports.get(i).unwrap_or(&silence);
                details(&mut text, record, seen, usage.get(i).and_then(Option::as_ref), report);
                if let Some(death) = lasts.get(i).and_then(Option::as_ref) {
                    let _ = write!(text, ", last-death=\"{}\"", deaths::summary(death));
                }
                text.push(')');
            }
            _ => text.truncate(text.trim_end().len()),
        }
        text.push('\n');
    }
    // One write, so that a pipe's reader is not woken for each line.
    console::text(text.as_bytes());
}

fn details(
    text: &mut String,
    record: &Record,
    seen: &Seen,
    usage: Option<&long::Usage>,
    report: &Report,
) {
    let pid = Number(record.pid);
    let worker = Number(record.worker);
    let exit = Number(record.exit);
    // To a string: that cannot fail.
    let _ = match seen.state {
        State::Stop => write!(text, "will start soon; last-exitcode={exit}"),
        State::Done | State::Error => write!(text, "exitcode={exit}"),
        _ => write!(text, "pid={pid}, ppid={worker}"),
    };
    let _ = match seen.elapsed {
        Some(seconds) => write!(text, ", elapsed={}", Clock(seconds)),
        None => write!(text, ", elapsed=-"),
    };
    if let Some(more) = record.more.filter(|m| m.raised > 0) {
        let _ = write!(text, ", raised={}", more.raised);
    }
    if let Some(usage) = usage {
        let _ = write!(text, ", {usage}");
        if let Some(words) = report.words() {
            let _ = write!(text, ", {words}");
        }
    }
    if seen.is_unwatched {
        text.push_str(", unwatched");
    }
    if let Some(failing) = seen.failing {
        let _ = write!(text, ", worker-failures={}", failing.failures);
    }
    if seen.is_legacy {
        text.push_str(", by the shell version");
    }
}

/// A number of the record, which may have none there.
struct Number(Option<i32>);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Hours, minutes and seconds.
struct Clock(u64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60, self.0 % 60)
    }
}

/// The last end of a run, where that may be read.
fn last_death(setting: &Setting, name: &ServiceName, entry: Option<&Entry>) -> Option<Death> {
    let owner = entry.map_or(setting.dirs.uid(), |entry| entry.uid);
    let files = Files::of(&setting.dirs.piddir(owner), owner, name);
    deaths::read(&files).pop()
}

fn as_json(
    name: &ServiceName,
    entry: Option<&Entry>,
    seen: &Seen,
    usage: Option<&Option<long::Usage>>,
    report: &Report,
    last_death: Option<Death>,
) -> Value {
    let record = seen.record.as_ref();
    let mut value = json!({
        "name": name.as_str(),
        "state": seen.state.word(),
        "uid": entry.map(|e| e.uid),
        "pid": record.and_then(|r| r.pid),
        "worker_pid": record.and_then(|r| r.worker),
        "exit_code": record.and_then(|r| r.exit),
        "elapsed_sec": seen.elapsed,
        "since_epoch": record.map(|r| r.epoch),
        "continued": record.and_then(|r| r.more).map(|m| m.continued),
        "raised": record.and_then(|r| r.more).map(|m| m.raised),
        "worker_failures": seen.failing.map_or(0, |f| f.failures),
        "watched": record.map(|_| !seen.is_unwatched),
        "output": {
            "lost_lines": report.lost_lines,
            "lost_bytes": report.lost_bytes,
            "removed_bytes": report.removed_bytes,
            "trouble": report.trouble,
        },
        "last_death": last_death.map(|death| deaths::as_json(&death)),
    });
    if let Some(usage) = usage {
        value["tree"] = usage.map_or(Value::Null, long::Usage::to_json);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in
            [(0, "00:00:00"), (59, "00:00:59"), (3661, "01:01:01"), (360_000, "100:00:00")]
        {
            assert_eq!(Clock(seconds).to_string(), text);
        }
    }

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
