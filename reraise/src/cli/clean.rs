//! `reraise clean`: removes the records of services that do not run.

use std::ffi::OsString;
use std::fs;

use reraise::error::{ExitCode, Fault};
use reraise::lock::{self, Holder};
use reraise::paths::Files;

use super::select::select;
use super::status::{State, look};
use super::{Setting, console};

pub(crate) fn run(setting: &Setting, patterns: &[OsString]) -> Result<ExitCode, Fault> {
    let found = select(setting, patterns)?;
    found.faults.iter().for_each(console::fault);
    let mut codes: Vec<_> = found.faults.iter().map(|f| f.code).collect();
    for (name, entry) in &found.services {
        let me = setting.dirs.uid();
        if entry.as_ref().is_some_and(|e| e.uid != me) {
            continue;
        }
        let files = Files::of(&setting.dirs.piddir(me), me, name);
        let seen = look(setting, name, entry.as_ref());
        let is_idle = matches!(seen.state, State::SeemsNotRunning | State::Error | State::Done);
        let holder = lock::holder_of(&files.file("lock"), 0);
        let is_held = !matches!(holder, Ok(Holder::Nobody));
        if !is_idle || is_held {
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
