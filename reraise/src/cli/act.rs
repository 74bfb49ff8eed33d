//! `start`, `stop` and `restart`: asks the keeper for many services at once and
//! waits until each is settled.

mod foreign;
mod pending;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reraise::backend::Owner;
use reraise::context::Context;
use reraise::control::Frame;
use reraise::error::{ExitCode, Fault};
use reraise::name::ServiceName;
use reraise::paths::{self, Files};
use reraise::service::Entry;
use reraise::slot;
use reraise::supervise::launch;
use reraise::wanted::Wanted;

use super::client::{Client, Heard, Word};
use super::console::Progress;
use super::select::{Selection, select};
use super::status::{Seen, State, look};
use super::users::Users;
use super::{Setting, console, elevate};
use pending::{Pending, Settled};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verb {
    Start {
        /// Until it has started successfully; for so long at most.
        wait: Option<Option<Duration>>,
    },
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
            Self::Start { .. } => "start",
            Self::Stop { now: true, .. } => "stop-now",
            Self::Stop { now: false, .. } => "stop",
            Self::Restart { .. } => "restart",
        }
    }

    /// The words of the command line that say the same.
    fn command_line(self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        match self {
            Self::Start { wait } => {
                words.push("start".into());
                match wait {
                    None => {}
                    Some(None) => words.push("--wait".into()),
                    Some(Some(limit)) => {
                        words.push(format!("--wait={}", limit.as_secs_f64()).into())
                    }
                }
            }
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
            Self::Start { wait } => wait.flatten(),
            Self::Stop { .. } | Self::Restart { .. } => None,
        }
    }
}

/// Keepers in a row that end without a word, before it is no accident any more.
const ENDS_MAX: u32 = 20;

/// How long something takes before a progress line appears: a blink.
const BLINK: Duration = Duration::from_millis(400);

pub(crate) fn run(setting: &Setting, patterns: &[OsString], verb: Verb) -> Result<ExitCode, Fault> {
    let mut found = select(setting, patterns)?;
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
    let mut line = Line::new(setting, verb);
    for (name, entry) in &found.services {
        match precheck(&line, name, entry.as_ref(), found.named.contains(name)) {
            // Asked for at once: the keeper works while we look at the next.
            Ok(Some(one)) => {
                line.ask(name)?;
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
) -> Result<Option<Pending>, Stay> {
    let (setting, verb) = (line.setting, line.verb);
    let seen = look(setting, name, entry);
    if seen.is_legacy && matches!(seen.state, State::Running | State::Starting) {
        return foreign::legacy(name, &seen, verb).map(|()| None).map_err(Stay::Fault);
    }
    let worker = seen.record.as_ref().and_then(|r| r.worker);
    let log = setting.dirs.logdir(setting.dirs.uid()).join(name.as_str()).join("current");
    match verb {
        Verb::Start { .. } => {
            if matches!(seen.state, State::Running | State::Starting) && !seen.is_unwatched {
                console::line(&format!("{name}: skip (because already running)"));
                return Ok(None);
            }
            startable(line, name).map_err(Stay::Fault)?;
            recordable(setting, name).map_err(Stay::Fault)?;
            Ok(Some(Pending::new(worker, log)))
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
        Verb::Stop { .. } | Verb::Restart { .. } => Ok(Some(Pending::new(worker, log))),
    }
}

/// Refuses here, in the caller's words, what a worker would refuse.
fn startable(line: &Line<'_>, name: &ServiceName) -> Result<(), Fault> {
    let loaded = launch::load(line.context()?, name)?;
    match loaded.problems.split_first() {
        None => Ok(()),
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

fn context(setting: &Setting) -> Result<Context, Fault> {
    let me = setting.dirs.uid();
    let context = Context::current(&setting.dirs.dir, &setting.dirs.logdir(me)).map_err(|e| {
        let fault = Fault::system("the present directory", "cannot be entered by a service", &e);
        Fault { advice: "go to one that exists: cd".to_owned(), ..fault }
    })?;
    Ok(if is_closed(&context.cwd) { Context { cwd: "/".into(), ..context } } else { context })
}

/// Whether we may not enter a directory: sudo leaves us where its caller was.
fn is_closed(dir: &std::path::Path) -> bool {
    let seen = std::fs::metadata(dir.join("."));
    seen.is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Says that a service does not start where its `start` was typed.
fn mention_directory() {
    if let Ok(dir) = std::env::current_dir()
        && is_closed(&dir)
    {
        let me = Users::default().user(nix::unistd::geteuid().as_raw());
        let what = format!("{me} may not enter it, so what is started now runs in /");
        let advice = "for another place, begin the script with: cd DIR || exit";
        console::fault(&Fault::new(ExitCode::Ok, dir.display(), what, advice));
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
    !is_open && !Wanted::read(&files.own).is_some_and(Wanted::is_up)
}

/// The line to the keeper, opened when it is needed.
struct Line<'a> {
    setting: &'a Setting,
    verb: Verb,
    place: OnceCell<(PathBuf, PathBuf)>,
    context: OnceCell<Context>,
    client: Option<Client>,
}

impl<'a> Line<'a> {
    fn new(setting: &'a Setting, verb: Verb) -> Self {
        let (place, context) = (OnceCell::new(), OnceCell::new());
        Self { setting, verb, place, context, client: None }
    }

    /// `$RERAISE_PIDDIR` and `.reraise-UID`, made and checked.
    fn place(&self) -> Result<&(PathBuf, PathBuf), Fault> {
        if self.place.get().is_none() {
            let me = self.setting.dirs.uid();
            let piddir = self.setting.dirs.piddir(me);
            let state = paths::prepare_piddir(&piddir, me)?;
            if matches!(self.verb, Verb::Start { .. }) {
                mention_directory();
            }
            let _ = self.place.set((piddir, state));
        }
        Ok(self.place.get_or_init(Default::default))
    }

    /// Our surroundings, which a service gets.
    fn context(&self) -> Result<&Context, Fault> {
        if self.context.get().is_none() {
            let _ = self.context.set(context(self.setting)?);
        }
        self.context.get().ok_or_else(|| Fault::new(ExitCode::System, "context", "is missing", ""))
    }

    /// The connection; a new one knows our surroundings.
    fn client(&mut self) -> Result<&mut Client, Fault> {
        if self.client.is_none() {
            let (piddir, state) = self.place()?;
            let client = Client::connect(piddir, state)?;
            client.send(&Frame::from_bytes(self.context()?.encode()).after("context"));
            self.client = Some(client);
        }
        let none = || Fault::new(ExitCode::System, "keeper", "cannot be reached", "");
        self.client.as_mut().ok_or_else(none)
    }

    fn ask(&mut self, name: &ServiceName) -> Result<(), Fault> {
        let frame = Frame::new([self.verb.word(), name.as_str()]);
        self.client()?.send(&frame);
        Ok(())
    }
}

/// Waits until all is settled, and asks again when the keeper dies before.
fn wait(
    line: &mut Line<'_>,
    mut pending: BTreeMap<ServiceName, Pending>,
) -> Result<Vec<ExitCode>, Fault> {
    let (setting, verb) = (line.setting, line.verb);
    let names: Vec<ServiceName> = pending.keys().cloned().collect();
    let begun = Instant::now();
    let end = verb.limit().map(|limit| begun + limit);
    let mut progress = Progress::new();
    let mut codes = Vec::new();
    let mut ends = 0;
    while !pending.is_empty() {
        if line.client.is_none() {
            for name in pending.keys() {
                line.ask(name)?;
            }
        }
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| end <= now) {
                progress.clear();
                codes.extend(pending.keys().map(|name| timed_out(name, now - begun)));
                pending.clear();
                break;
            }
            let left = end.map(|end| end - now);
            let nap = Some(left.map_or(BLINK, |left| left.min(BLINK)));
            let heard = line
                .client()?
                .hear(nap)
                .map_err(|e| Fault::system("keeper", "cannot be understood", &e))?;
            match heard {
                Heard::Words(words) => {
                    ends = 0;
                    progress.clear();
                    settle(setting, verb, &words, &mut pending, &mut codes);
                }
                Heard::Silence => {
                    let first = pending.keys().next().map_or("", ServiceName::as_str);
                    let seconds = begun.elapsed().as_secs();
                    progress.show(&format!(
                        "{}: {} left of {} ({first}), {seconds} s",
                        verb.word(),
                        pending.len(),
                        names.len()
                    ));
                }
                Heard::End => {
                    line.client = None;
                    ends += 1;
                    if ends > ENDS_MAX {
                        let what = "ended again and again before it answered";
                        let advice = "see what it says: reraise doctor";
                        return Err(Fault::new(ExitCode::System, "keeper", what, advice));
                    }
                    break;
                }
            }
            if pending.is_empty() {
                break;
            }
        }
    }
    progress.clear();
    keep_wishes(&line.place()?.0, setting.dirs.uid(), &names);
    Ok(codes)
}

fn settle(
    setting: &Setting,
    verb: Verb,
    words: &[(ServiceName, Word)],
    pending: &mut BTreeMap<ServiceName, Pending>,
    codes: &mut Vec<ExitCode>,
) {
    for (name, word) in words {
        let Some(one) = pending.get_mut(name) else { continue };
        let entry = Entry::find(&setting.dirs.dir, name).ok().flatten();
        let settled = match one.hear(name, entry.as_ref(), verb, word) {
            Settled::NotYet => continue,
            Settled::Foreign(pid) => foreign::held(setting, name, pid, verb),
            other => other,
        };
        pending.remove(name);
        match settled {
            Settled::Line(line) => console::line(&line),
            Settled::Fault(line, fault) => {
                line.iter().for_each(|line| console::line(line));
                console::fault(&fault);
                codes.push(fault.code);
            }
            Settled::NotYet | Settled::Foreign(_) => {}
        }
    }
}

fn timed_out(name: &ServiceName, after: Duration) -> ExitCode {
    let what = format!("has not started successfully after {:.1} s", after.as_secs_f64());
    let advice = format!("it is still being tried: reraise status {name}");
    console::fault(&Fault::new(ExitCode::TimedOut, name, what, advice));
    ExitCode::TimedOut
}

/// What is wanted is to outlive a power failure. The first flush commits the
/// journal for all; a file system that cannot is no reason to fail.
fn keep_wishes(piddir: &std::path::Path, me: u32, names: &[ServiceName]) {
    for name in names {
        let own = Files::of(piddir, me, name).own;
        let _ = std::fs::File::open(own).and_then(|dir| dir.sync_all());
    }
}
