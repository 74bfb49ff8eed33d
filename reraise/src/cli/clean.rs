//! `reraise clean`: removes the records of services that do not run.

use std::ffi::OsString;
use std::fs;

use reraise::error::{ExitCode, Fault};
use reraise::lock::{self, Holder};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;

use super::act::others;
use super::select::select;
use super::status::{State, look};
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
        let files = Files::of(&setting.dirs.piddir(me), me, name);
        let holder = lock::holder_of(&files.file("lock"), 0);
        let is_held = !matches!(holder, Ok(Holder::Nobody));
        if is_held || !is_idle(name, entry.as_ref()) {
            continue;
        }
        match fs::remove_file(&files.record) {
            Ok(()) => console::line(&format!("{name}: clean")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                console::fault(&Fault::system(name, "cannot remove its record", &e));
                codes.push(ExitCode::System);
            }
        }
    }
    Ok(ExitCode::of_all(codes))
}
