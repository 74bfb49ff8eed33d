//! `reraise rotate`: begins new log files now.

use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use reraise::error::{ExitCode, Fault};
use reraise::lock::{self, Holder};
use reraise::logger::request::{self, Answer};
use reraise::logger::serve::lock_in;
use reraise::logger::{bell, is_logged};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::revive;

use super::act::others;
use super::select::select;
use super::{Setting, console, elevate};

/// A logger whose disk hangs does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(setting: &Setting, patterns: &[OsString]) -> Result<ExitCode, Fault> {
    let mut found = select(setting, patterns)?;
    found.faults.iter().for_each(console::fault);
    let mut codes: Vec<_> = found.faults.iter().map(|f| f.code).collect();
    let me = setting.dirs.uid();
    let foreign = if setting.as_owner { Vec::new() } else { others(&mut found, me) };
    for (owner, names) in foreign {
        codes.push(elevate::run(setting, owner, &["rotate".into()], &names).unwrap_or_else(|f| {
            console::fault(&f);
            f.code
        }));
    }
    let state = setting.dirs.state(me);
    // All are asked before the first one is waited for.
    let mut asked = Vec::new();
    for name in found.services.keys() {
        let files = Files::of(&setting.dirs.piddir(me), me, name);
        if !is_logged(&files.own) {
            console::line(&format!("{name}: skip (because nothing is written to its log now)"));
            continue;
        }
        match request::ask(&files.own) {
            Ok(()) => {
                bell::ring(&state, name.as_str());
                asked.push((name, files));
            }
            Err(e) => {
                console::fault(&Fault::system(name, "cannot be asked for", &e));
                codes.push(ExitCode::System);
            }
        }
    }
    let end = Instant::now() + PATIENCE;
    for (name, files) in asked {
        match wait(setting, name, &files, end) {
            Ok(line) => console::line(&line),
            Err(fault) => {
                console::fault(&fault);
                codes.push(fault.code);
            }
        }
        request::forget(&files.own);
    }
    Ok(ExitCode::of_all(codes))
}

fn wait(
    setting: &Setting,
    name: &ServiceName,
    files: &Files,
    end: Instant,
) -> Result<String, Fault> {
    let state = setting.dirs.state(setting.dirs.uid());
    let mut nap = Duration::from_millis(1);
    loop {
        match request::answered(&files.own) {
            Some(Answer::Done) => return Ok(format!("{name}: rotate")),
            Some(Answer::Empty) => return Ok(format!("{name}: skip (because its log is empty)")),
            Some(Answer::Failed(why)) => {
                let what = format!("its log cannot be rotated: {why}");
                let advice = format!("see what is said of it: reraise status --long {name}");
                return Err(Fault::new(ExitCode::System, name, what, advice));
            }
            None if Instant::now() >= end => {
                let logger = lock_in(&state);
                let what = match lock::holder_of(&logger, lock::ALIVE) {
                    Ok(Holder::Nobody) => "nobody is there who writes its log",
                    _ => "its log is not written: a disk that hangs, perhaps",
                };
                let advice = "see what is wrong: reraise doctor";
                return Err(Fault::new(ExitCode::TimedOut, name, what, advice));
            }
            None => {
                // The logger may have been stopped, or be a new one that was not told.
                let _ = revive::holder(&lock_in(&state), lock::ALIVE);
                thread::sleep(nap);
                // Another `rotate` has taken the answer.
                let is_asked_anew =
                    request::is_lost(&files.own) && request::ask(&files.own).is_ok();
                if is_asked_anew || nap >= Duration::from_millis(32) {
                    bell::ring(&state, name.as_str());
                } else {
                    nap *= 2;
                }
            }
        }
    }
}
