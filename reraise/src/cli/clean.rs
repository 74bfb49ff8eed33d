//! `reraise clean`: removes the records of services that do not run.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use reraise::backend::native::{EventQueue, born};
use reraise::error::{ExitCode, Fault};
use reraise::lock::{self, Holder};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;

use super::act::others;
use super::select::select;
use super::state::{State, look};
use super::{Setting, console, elevate};

pub(crate) fn run(setting: &Setting, patterns: &[OsString]) -> Result<ExitCode, Fault> {
    let mut found = select(setting, patterns)?;
    found.faults.iter().for_each(console::fault);
    let mut codes: Vec<_> = found.faults.iter().map(|f| f.code).collect();
    let me = setting.dirs.uid();
    let is_idle = |name: &ServiceName, entry: Option<&Entry>| {
        let state = look(setting, name, entry).state;
        matches!(state, State::SeemsNotRunning | State::Error | State::Done)
    };
    let foreign = if setting.as_owner { Vec::new() } else { others(&mut found, me) };
    for (owner, names) in foreign {
        // Without need nobody is asked for a password.
        let entry = |name: &ServiceName| Entry::find(&setting.dirs.dir, name).ok().flatten();
        let names: Vec<_> = names.into_iter().filter(|n| is_idle(n, entry(n).as_ref())).collect();
        if names.is_empty() {
            continue;
        }
        codes.push(elevate::run(setting, owner, &["clean".into()], &names).unwrap_or_else(|f| {
            console::fault(&f);
            f.code
        }));
    }
    for (name, entry) in &found.services {
        if !is_idle(name, entry.as_ref()) {
            continue;
        }
        let files = Files::of(&setting.dirs.piddir(me), me, name);
        let is_over = || look(setting, name, entry.as_ref()).state != State::SeemsNotRunning;
        let holder = match holder(&files, is_over) {
            Ok(Holder::Nobody) => None,
            Ok(Holder::Pid(pid)) => Some(format!("worker-pid={pid}")),
            Ok(Holder::Elsewhere) => Some("from another container".to_owned()),
            Err(e) => {
                console::fault(&Fault::system(name, "cannot see who supervises it", &e));
                codes.push(ExitCode::System);
                continue;
            }
        };
        // It may have been started while we waited.
        if !is_idle(name, entry.as_ref()) {
            continue;
        }
        if let Some(holder) = holder {
            let what = format!("is supervised, whatever its record says ({holder})");
            let advice = format!("stop it: reraise stop {name}");
            console::fault(&Fault::new(ExitCode::Failed, name, what, advice));
            codes.push(ExitCode::Failed);
            continue;
        }
        match fs::remove_file(&files.record) {
            Ok(()) => console::line(&format!("{name}: clean")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                console::fault(&Fault::system(name, "cannot remove its record", &e));
                codes.push(ExitCode::System);
            }
        }
    }
    Ok(ExitCode::of_all(codes))
}

/// How long a worker that has nothing more to do may take to be gone.
const LEAVING: Duration = Duration::from_secs(2);

/// Who has the service. A worker writes its last record before it goes, so that
/// one that is over is waited for.
fn holder(files: &Files, is_over: impl Fn() -> bool) -> io::Result<Holder> {
    let begun = Instant::now();
    loop {
        let holder = lock::holder_of(&files.file("lock"), 0)?;
        let (Holder::Pid(pid), true) = (holder, is_over()) else { return Ok(holder) };
        let left = LEAVING.saturating_sub(begun.elapsed());
        let mut queue = EventQueue::new(&[])?;
        if let Some(born) = born(pid)?
            && queue.watch_process(pid, born)?
            && queue.next(Some(left))?.is_none()
        {
            return Ok(holder);
        }
    }
}
