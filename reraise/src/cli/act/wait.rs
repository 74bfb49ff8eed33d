//! Waiting until each service that was asked for is settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reraise::error::{ExitCode, Fault};
use reraise::lock;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::revive;
use reraise::service::Entry;

use super::line::Line;
use super::pending::{Pending, Settled};
use super::{Verb, foreign};
use crate::cli::client::{BLINK, Heard, Word};
use crate::cli::console::Progress;
use crate::cli::{Setting, console};

/// Keepers in a row that end without a word, before it is no accident any more.
const ENDS_MAX: u32 = 20;

/// Waits until all is settled, and asks again when the keeper dies before.
pub(super) fn wait(
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
                    revive_all(line, pending.keys())?;
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
            Settled::Warned(fault) => {
                console::fault(&fault);
                continue;
            }
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
            Settled::NotYet | Settled::Warned(_) | Settled::Foreign(_) => {}
        }
    }
}

fn timed_out(name: &ServiceName, after: Duration) -> ExitCode {
    let what = format!("has not started successfully after {:.1} s", after.as_secs_f64());
    let advice = format!("it is still being tried: reraise status {name}");
    console::fault(&Fault::new(ExitCode::TimedOut, name, what, advice));
    ExitCode::TimedOut
}

/// Continues whom we wait for, where somebody has stopped them.
fn revive_all<'a>(
    line: &Line<'_>,
    names: impl Iterator<Item = &'a ServiceName>,
) -> Result<(), Fault> {
    let (piddir, state) = line.place()?;
    revive::keeper(state);
    for name in names {
        let files = Files::of(piddir, line.setting.dirs.uid(), name);
        // What cannot be done is to be waited for.
        let _ = revive::holder(&files.file("lock"), lock::ALIVE);
    }
    Ok(())
}

/// What is wanted is to outlive a power failure. The first flush commits the
/// journal for all; a file system that cannot is no reason to fail.
fn keep_wishes(piddir: &std::path::Path, me: u32, names: &[ServiceName]) {
    for name in names {
        let own = Files::of(piddir, me, name).own;
        let _ = std::fs::File::open(own).and_then(|dir| dir.sync_all());
    }
}
