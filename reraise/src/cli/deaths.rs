//! Ends of runs, for people and programs.

use serde_json::{Value, json};

use reraise::backend::Exit;
use reraise::history::deaths::{self, Cause, Death};
use reraise::paths::Files;
use reraise::slot;

use super::clock;

/// The ends of a service's last runs, the oldest first. A worker that was quicker than
/// its keeper does not know what the run has used, which was left a moment later.
pub(super) fn read(files: &Files) -> Vec<Death> {
    let mut all = deaths::read_all(&files.file("deaths"));
    for death in all.iter_mut().filter(|death| death.usage.is_none()) {
        death.usage = slot::left_usage(&files.file("exit"), death.run);
    }
    all
}

/// How long it lasted, seconds.
pub(super) fn lasted(death: &Death) -> f64 {
    death.lasted as f64 / 1e9
}

/// How it ended and after how long: `exit code 3 after 2 s`.
pub(super) fn summary(death: &Death) -> String {
    match death.cause {
        Cause::Launch(_) => "could not be executed".to_owned(),
        _ if death.is_late => format!("{}, at an unknown time", death.exit),
        _ => format!("{} after {}", exit(death), clock::span(lasted(death))),
    }
}

/// How it ended, with what the kernel says about it.
pub(super) fn exit(death: &Death) -> String {
    let memory = if death.is_for_memory { " (killed for memory)" } else { "" };
    format!("{}{memory}", death.exit)
}

/// For `--json`.
pub(super) fn as_json(death: &Death) -> Value {
    let (code, signal, core) = match death.exit {
        Exit::Code(code) => (Some(code), None, false),
        Exit::Signal { number, core } => (None, Some(number), core),
        Exit::Unknown => (None, None, false),
    };
    let (cause, error) = match death.cause {
        Cause::Itself => ("itself", None),
        Cause::Stop => ("stop", None),
        Cause::Restart => ("restart", None),
        Cause::Launch(error) => ("launch", Some(error)),
    };
    json!({
        "exit": exit(death),
        "code": code,
        "signal": signal,
        "core": core,
        "cause": cause,
        "launch_step": error.map(|e| e.step.word()),
        "launch_errno": error.map(|e| e.errno),
        "killed_for_memory": death.is_for_memory,
        "began_epoch": seconds(death.began),
        "ended_epoch": seconds(death.ended),
        "ended_is_known": !death.is_late,
        "lasted_sec": lasted(death),
        "pid": (death.pid != 0).then_some(death.pid),
        "run": format!("{:016x}", death.run),
        "cpu_ms": death.usage.map(|usage| usage.cpu / 1000),
        "peak_memory_bytes": death.usage.map(|usage| usage.peak),
    })
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
