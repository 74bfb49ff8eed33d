//! `reraise status`: shows what [`state`](super::state) finds, and what is known of the
//! output and the last death.

mod long;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use reraise::error::{ExitCode, Fault};
use reraise::history::deaths::Death;
use reraise::logger::report::Report;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::record::Record;
use reraise::service::Entry;

use super::console::Paint;
use super::select::select;
use super::state::{Seen, State, look};
use super::{Setting, console, deaths};

/// The version of what `--json` prints; it grows when a field changes meaning.
const SCHEMA: u32 = 1;

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
}
