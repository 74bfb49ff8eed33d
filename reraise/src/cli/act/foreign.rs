//! Services that a worker without a keeper supervises: one of the shell version,
//! or one started by hand. They obey signals.

use nix::sys::signal::Signal;

use reraise::backend::ProcessId;
use reraise::backend::native::{EventQueue, QueueEvent, born, send};
use reraise::error::{ExitCode, Fault};
use reraise::legacy;
use reraise::lock::{self, Holder};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::slot::{self, Phase};
use reraise::wanted::Wanted;

use super::Verb;
use super::pending::Settled;
use crate::cli::Setting;
use crate::cli::console;
use crate::cli::state::Seen;

/// Does it to a service of the shell version.
pub(super) fn legacy(
    setting: &Setting,
    name: &ServiceName,
    seen: &Seen,
    verb: Verb,
) -> Result<(), Fault> {
    let cannot = |e: std::io::Error| Fault::system(name, "cannot be signalled", &e);
    let found = seen.record.as_ref().map(legacy::find).transpose().map_err(cannot)?.flatten();
    let Some(found) = found else {
        let what = "was run by the shell version and has just ended";
        return Err(Fault::new(ExitCode::Failed, name, what, "try again"));
    };
    let worker = found.worker.pid;
    match verb {
        Verb::Start { .. } | Verb::Resume => {
            console::line(&format!("{name}: skip (because already running)"))
        }
        Verb::Stop { wait, .. } => {
            end(found.worker, &[Signal::SIGTERM], wait).map_err(cannot)?;
            let me = setting.dirs.uid();
            let files = Files::of(&setting.dirs.piddir(me), me, name);
            // From before the shell version took it over, it may be wanted up.
            if Wanted::read(&files.own).is_some() {
                let cannot = |e: std::io::Error| {
                    Fault::system(name, "cannot note that it is wanted down", &e)
                };
                Wanted::Down.write(&files.own).map_err(cannot)?;
            }
            console::line(&format!("{name}: stop    # (worker-pid={worker})"));
        }
        Verb::Restart { wait } => {
            end(found.service, &[Signal::SIGTERM], wait).map_err(cannot)?;
            console::line(&format!("{name}: restart    # (worker-pid={worker})"));
        }
    }
    Ok(())
}

/// Signals a process and waits for its end.
fn end(process: ProcessId, signals: &[Signal], wait: bool) -> std::io::Result<()> {
    let mut queue = EventQueue::new(&[])?;
    let mut is_there = queue.watch_process(process.pid, process.born)?;
    for &signal in signals {
        is_there = is_there && send(process.pid, process.born, signal)?;
    }
    if !is_there || !wait {
        return Ok(());
    }
    loop {
        if let Some(QueueEvent::Ended { pid, .. }) = queue.next(None)?
            && pid == process.pid
        {
            return Ok(());
        }
    }
}

/// Does it to a service whose worker was started by hand.
pub(super) fn held(setting: &Setting, name: &ServiceName, pid: i32, verb: Verb) -> Settled {
    let line = |word: &str| Settled::Line(format!("{name}: {word}    # (worker-pid={pid})"));
    let me = setting.dirs.uid();
    let files = Files::of(&setting.dirs.piddir(me), me, name);
    let asked = match verb {
        Verb::Start { .. } | Verb::Resume => {
            return Settled::Line(format!("{name}: skip (because already running)"));
        }
        _ if pid == 0 => {
            let what = "is supervised in another container";
            let advice = "do it there, or give each container its own RERAISE_PIDDIR";
            let fault = Fault::new(ExitCode::Failed, name, what, advice);
            return Settled::Fault(None, fault);
        }
        Verb::Stop { wait, now } => {
            // The second one is meant; of one kind, two might count as one.
            let signals: &[Signal] =
                if now { &[Signal::SIGINT, Signal::SIGTERM] } else { &[Signal::SIGTERM] };
            let ended = holder(setting, name, pid)
                .and_then(|worker| end(worker, signals, wait))
                // To TERM alone it does not say so: it may be the machine's end.
                .and_then(|()| Wanted::Down.write(&files.own));
            let phase = slot::read(&files.file("run")).map(|slot| slot.phase);
            if ended.is_ok() && wait && phase == Some(Phase::Stopping) {
                let what = "processes outlived all signals";
                let fault =
                    Fault::new(ExitCode::Failed, name, what, "see what they wait for: ps -ef");
                return Settled::Fault(None, fault);
            }
            ended.map(|()| line("stop"))
        }
        Verb::Restart { .. } => holder(setting, name, pid)
            .and_then(|worker| send(worker.pid, worker.born, Signal::SIGUSR2))
            .map(|_| line("restart")),
    };
    asked.unwrap_or_else(|e| {
        Settled::Fault(None, Fault::system(name, "cannot signal its worker", &e))
    })
}

/// The worker: identified first, and holding the lock afterwards.
fn holder(setting: &Setting, name: &ServiceName, pid: i32) -> std::io::Result<ProcessId> {
    let me = setting.dirs.uid();
    let files = Files::of(&setting.dirs.piddir(me), me, name);
    let born = born(pid)?;
    match (born, lock::holder_of(&files.file("lock"), 0)?) {
        (Some(born), Holder::Pid(holder)) if holder == pid => Ok(ProcessId { pid, born }),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}
