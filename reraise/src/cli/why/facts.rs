//! What can be known about one service.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reraise::backend::native;
use reraise::config::{self, Config, LogTo, Place};
use reraise::context::Context;
use reraise::error::{ExitCode, Fault};
use reraise::history::asked::Asked;
use reraise::history::deaths::{Cause, Death};
use reraise::history::{events, tails};
use reraise::lock::{self, Holder};
use reraise::logger::index;
use reraise::logger::report::Report;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot::{self, Phase};
use reraise::supervise::launch;
use reraise::wanted::Wanted;
use reraise::words;

use crate::cli::state::{State, look};
use crate::cli::{Setting, act, deaths, paste};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) name: String,
    /// Microseconds since 1970.
    pub(super) now: i64,
    pub(super) state: State,
    /// The command that asks its owner, where what its worker keeps is closed to us.
    pub(super) ask_owner: Option<String>,
    /// Its script; `None` when there is none any more.
    pub(super) program: Option<PathBuf>,
    /// Why it could not be started now: what, and what to do.
    pub(super) obstacle: Option<(String, String)>,
    /// What is wrong with its record.
    pub(super) trouble: Option<String>,
    pub(super) pid: Option<i32>,
    /// Seconds in this state.
    pub(super) elapsed: Option<u64>,
    pub(super) raised: u32,
    pub(super) is_unwatched: bool,
    pub(super) is_legacy: bool,
    /// What was lost of its output, and why.
    pub(super) lost: Option<String>,
    /// Whether our keeper lives.
    pub(super) has_keeper: bool,
    /// Its workers have failed so often; the next one comes in so many seconds.
    pub(super) failing: Option<(u32, f64)>,
    pub(super) wanted: Option<Wanted>,
    pub(super) asked: Option<Asked>,
    /// What its worker was doing last; `None` when that was in another boot.
    pub(super) phase: Option<Phase>,
    /// Whether a run ever lasted long enough.
    pub(super) started: bool,
    /// Failed starts in a row.
    pub(super) failures: u32,
    /// Seconds to the next run, or to the next signal of a stop.
    pub(super) until: Option<f64>,
    /// The oldest first.
    pub(super) deaths: Vec<Death>,
    /// What the last launch failed of: what, and what to do.
    pub(super) launch: Option<(String, String)>,
    /// The last lines before the last death.
    pub(super) output: Vec<String>,
    /// Where its output goes.
    pub(super) log: Option<PathBuf>,
    /// What keeper and workers have to say.
    pub(super) messages: PathBuf,
    pub(super) config: Config,
    /// The lines that set keys.
    pub(super) places: BTreeMap<String, Place>,
}

/// Looks.
pub(super) fn gather(setting: &Setting, name: &ServiceName, entry: Option<&Entry>) -> Facts {
    let me = setting.dirs.uid();
    let owner = entry.map_or(me, |entry| entry.uid);
    let piddir = setting.dirs.piddir(owner);
    let files = Files::of(&piddir, owner, name);
    let state_dir = setting.dirs.state(owner);
    // First what changes: a run that ends meanwhile is then told as a death as well.
    let seen = look(setting, name, entry);
    let slot = slot::read(&files.file("run")).filter(is_of_this_boot);
    let deaths = deaths::read(&files);
    let context = Context::read(&files.file("context"));
    let logdir = context.as_ref().map_or_else(|| setting.dirs.logdir(owner), |c| c.logdir.clone());
    let (config, places) = entry.map(|e| read_config(e, context.as_ref())).unwrap_or_default();
    let log = log_of(&config, &logdir, name);
    let now = native::now();
    let left =
        |until: Duration| (!until.is_zero()).then(|| until.saturating_sub(now).as_secs_f64());
    let runs = matches!(seen.state, State::Running | State::Starting | State::Stopping);
    let is_closed = owner != me && fs::read_dir(&files.own).is_err();
    let keeper = lock::holder_of(&state_dir.join("keeper.lock"), lock::ALIVE);
    let record = seen.record.as_ref();
    let more = record.and_then(|record| record.more);
    let obstacle = obstacle(setting, name, entry, seen.state);
    Facts {
        name: name.to_string(),
        now: events::now(),
        state: seen.state,
        ask_owner: is_closed.then(|| paste::as_owner(setting, owner, "why", name)),
        program: entry.map(|entry| entry.program.clone()),
        launch: deaths.last().and_then(|death| launch_fault(name, entry, death, obstacle.as_ref())),
        obstacle: obstacle.map(|fault| (fault.what, fault.advice)),
        trouble: seen.trouble,
        pid: record.and_then(|record| record.pid),
        elapsed: seen.elapsed,
        raised: more.map_or(0, |more| more.raised),
        is_unwatched: seen.is_unwatched,
        is_legacy: seen.is_legacy,
        lost: Report::read(&files.own).words(),
        has_keeper: matches!(keeper, Ok(Holder::Pid(_))),
        failing: seen.failing.map(|f| (f.failures, f.until.saturating_sub(now).as_secs_f64())),
        wanted: Wanted::read(&files.own),
        asked: Asked::read(&files.file("asked")),
        phase: slot.map(|slot| slot.phase),
        started: slot.is_some_and(|slot| slot.started),
        failures: slot.map_or(0, |slot| slot.failures),
        until: slot.and_then(|slot| left(Duration::from_nanos(slot.until))),
        output: deaths.last().map_or_else(Vec::new, |death| {
            said_last(&files.file("tails"), death, log.as_deref().filter(|_| !runs))
        }),
        deaths,
        log,
        messages: state_dir.join("messages"),
        config,
        places,
    }
}

fn is_of_this_boot(slot: &slot::Slot) -> bool {
    let ours = (native::boot_id().unwrap_or_default(), native::pid_space().unwrap_or_default());
    (slot.boot, slot.space) == ours
}

/// What would keep it from being started now.
fn obstacle(
    setting: &Setting,
    name: &ServiceName,
    entry: Option<&Entry>,
    state: State,
) -> Option<Fault> {
    let Some(entry) = entry else {
        let path = setting.dirs.dir.join(name.as_str());
        let advice = match state {
            State::Running | State::Starting | State::Stopping | State::Stop => {
                format!("put it back, or stop the service: reraise stop {name}")
            }
            _ => format!("put it back, or forget the service: reraise clean {name}"),
        };
        let what = format!("its script is gone ({})", path.display());
        return Some(Fault::new(ExitCode::NoService, name, what, advice));
    };
    let context = match act::context(setting) {
        Ok(context) if entry.uid == setting.dirs.uid() => context,
        // Another user's is judged by its owner.
        _ => return entry.check(name).err(),
    };
    match launch::load(&context, name) {
        Err(fault) => Some(fault),
        Ok(loaded) => match loaded.problems.first() {
            Some(problem) => Some(launch::config_fault(name, &entry.program, problem)),
            None => words::bad_interpreter(name, entry, &context.cwd),
        },
    }
}

/// What the last launch failed of.
fn launch_fault(
    name: &ServiceName,
    entry: Option<&Entry>,
    death: &Death,
    obstacle: Option<&Fault>,
) -> Option<(String, String)> {
    let Cause::Launch(error) = death.cause else { return None };
    let fault = entry.map(|entry| words::unlaunchable(name, entry, error));
    let is_same = |obstacle: &&Fault| match &fault {
        // That of a directory is seen by a look at all of them alone.
        Some(fault) => (fault.code, obstacle.code) == (ExitCode::Denied, ExitCode::Denied),
        None => true,
    };
    let fault = obstacle.filter(is_same).cloned().or(fault)?;
    Some((fault.what, fault.advice))
}

fn read_config(entry: &Entry, context: Option<&Context>) -> (Config, BTreeMap<String, Place>) {
    let env = |name: &str| match context {
        Some(context) => context.variable(name),
        None => std::env::var(name).ok(),
    };
    let open = || File::open(&entry.program).ok();
    let config = open().and_then(|mut script| Config::read(&mut script, &env).ok());
    let places = open().and_then(|mut script| config::places(&mut script, &env).ok());
    (config.unwrap_or_default().0, places.unwrap_or_default())
}

fn log_of(config: &Config, logdir: &Path, name: &ServiceName) -> Option<PathBuf> {
    match &config.log {
        LogTo::No => None,
        LogTo::Default | LogTo::Yes => Some(logdir.join(name.as_str()).join("current")),
        LogTo::Path(path) => Some(path.join("current")),
    }
}

/// Bytes of a log that are looked at.
const TAIL: u64 = 4096;
/// Lines that are kept.
const LINES: usize = tails::LINES;

/// How long last words may be on their way to the log after a death, in microseconds.
const ON_THE_WAY: i64 = 300_000;
const NAP: Duration = Duration::from_millis(5);

/// The last lines of the run that died. Of a death that was just now, what was said
/// before may still stand in a pipe: until all of it is read, it is not kept.
fn said_last(tail: &Path, death: &Death, log: Option<&Path>) -> Vec<String> {
    let is_recent = || (0..ON_THE_WAY).contains(&(events::now() - death.ended));
    if log.is_some() && !matches!(death.cause, Cause::Launch(_)) {
        while is_recent() && tails::find(tail, death.run).is_none() {
            std::thread::sleep(NAP);
        }
    }
    last_lines(tail, death, log)
}

/// The last lines of the run that died, as they were kept; else those with which the
/// log ends, if its index says that they are of that run.
fn last_lines(tail: &Path, death: &Death, log: Option<&Path>) -> Vec<String> {
    let text = tails::find(tail, death.run).or_else(|| end_of(log?, death.run));
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    lines[lines.len().saturating_sub(LINES)..].to_vec()
}

/// The end of a log, where that is of this run.
fn end_of(log: &Path, run: u64) -> Option<Vec<u8>> {
    let file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    let index = File::open(index::path_of(log)).ok()?;
    let (mut at, _) = index::last(&index).ok()?;
    let kept = length.saturating_sub(TAIL);
    let mut from = None;
    while at > 0 && from.is_none_or(|from| from > kept) {
        at -= index::SIZE as u64;
        let mut bytes = [0; index::SIZE];
        index.read_exact_at(&mut bytes, at).ok()?;
        match index::Entry::decode(&bytes) {
            Some(entry) if entry.run == run => from = Some(entry.offset),
            Some(_) => break,
            // Of a later version.
            None => {}
        }
    }
    let from = from?.max(kept).min(length);
    let mut text = vec![0; (length - from) as usize];
    file.read_exact_at(&mut text, from).ok()?;
    Some(text)
}
