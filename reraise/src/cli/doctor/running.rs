//! What runs, and what is left of what ran.

use reraise::backend::native;
use reraise::lock::{self, Holder};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot::{self, SlotFile};
use reraise::wanted::Wanted;

use super::findings::Findings;
use crate::cli::select::select;
use crate::cli::state::{Seen, State, look};
use crate::cli::{Setting, upgrade};

/// Checks the keeper and every service.
pub(super) fn check(setting: &Setting, found: &mut Findings) {
    let me = setting.dirs.uid();
    let path = setting.dirs.state(me).join("keeper.lock");
    let keeper = lock::holder_of(&path, lock::ALIVE);
    // That there are no scripts was said already.
    let services = select(setting, &[]).map(|s| s.services).unwrap_or_default();
    let (mut runs, mut unwatched) = (0, 0);
    for (name, entry) in &services {
        let seen = look(setting, name, entry.as_ref());
        runs += usize::from(matches!(seen.state, State::Starting | State::Running));
        unwatched += usize::from(seen.is_unwatched);
        one(setting, name, entry.as_ref(), &seen, found);
    }
    match keeper {
        Ok(Holder::Pid(pid)) => {
            found.ok(format!("{runs} service(s) run; keeper is process {pid}"));
            if let Some(difference) = upgrade::difference(setting) {
                found.warning(difference, "reraise upgrade   # no service is touched");
            }
        }
        Ok(Holder::Nobody) if runs == 0 => found.ok("nothing runs, and no keeper is needed"),
        // Those of other users, of the shell version, or started by hand.
        Ok(Holder::Nobody) if unwatched == 0 => {
            found.ok(format!("{runs} service(s) run, none of them under a keeper of yours"));
        }
        Ok(Holder::Nobody) => found.problem(
            "the keeper and its workers are gone, and services run on without them",
            "reraise resume   # adopts them",
        ),
        Ok(Holder::Elsewhere) => found.warning(
            format!(
                "the keeper of {} runs in another container",
                setting.dirs.piddir(me).display()
            ),
            "use another --piddir here",
        ),
        Err(e) => found.problem(
            format!(
                "{}: cannot be asked for its lock: {}",
                path.display(),
                reraise::error::reason(&e)
            ),
            "put RERAISE_PIDDIR on a file system that knows fcntl locks (NFS often does not)",
        ),
    }
}

fn one(
    setting: &Setting,
    name: &ServiceName,
    entry: Option<&Entry>,
    seen: &Seen,
    found: &mut Findings,
) {
    if let Some(trouble) = &seen.trouble {
        let advice = format!("look at it, then: reraise clean {name}");
        return found.problem(format!("{name}: {trouble}"), advice);
    }
    let owner = entry.map_or(setting.dirs.uid(), |e| e.uid);
    let files = Files::of(&setting.dirs.piddir(owner), owner, name);
    let is_wanted = Wanted::read(&files.own).is_some_and(Wanted::is_up);
    let again = format!("reraise start {name}");
    if let Ok(file) = SlotFile::open_to_read(&files.file("run"))
        && let slot::Found::Later(format) = file.look()
    {
        let what = format!("{name}: its run was recorded by a later version (format {format})");
        return found.problem(what, "install that version again; this one leaves it alone");
    }
    let boot = native::boot_id().unwrap_or_default();
    let is_old = seen.record.as_ref().and_then(|r| r.more).is_some_and(|m| m.boot != boot);
    let continued = seen.record.as_ref().and_then(|r| r.more).map_or(0, |m| m.continued);
    if continued > 0 {
        found.warning(
            format!("{name}: its worker was stopped (SIGSTOP) {continued} time(s), and continued"),
            "find who sends signals to processes that are called auto-reraise",
        );
    }
    if let Some(failing) = seen.failing {
        let messages = setting.dirs.state(owner).join("messages");
        return found.problem(
            format!(
                "{name}: its worker has failed {} times, and comes again later; \
                 what runs goes on, but nobody would raise it",
                failing.failures
            ),
            format!("see what it says: tail {}; then try at once: {again}", messages.display()),
        );
    }
    match seen.state {
        _ if seen.is_legacy => found.warning(
            format!("{name}: is run by the shell version"),
            format!("take it over: reraise stop {name}; reraise start {name}"),
        ),
        State::Starting | State::Running | State::Stopping if seen.is_unwatched => {
            found.problem(
                format!("{name}: runs, but nobody would raise it"),
                format!("reraise resume {name}   # adopts it"),
            );
        }
        State::Starting | State::Running if entry.is_none() => found.warning(
            format!("{name}: runs, but its script is gone"),
            format!("put it back, or: reraise stop {name}"),
        ),
        State::SeemsNotRunning if is_old => {
            {
            let advice = if is_wanted { format!("reraise resume {name}") } else { again };
            found.warning(format!("{name}: ran before the last reboot"), advice);
        }
        }
        State::SeemsNotRunning => found.warning(
            format!("{name}: has a record without a process"),
            format!("{again}   # or: reraise clean {name}"),
        ),
        State::Error => {
            let exit = seen.record.as_ref().and_then(|r| r.exit);
            let exit = exit.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
            found.warning(
                format!("{name}: failed to start, and was given up (exit code {exit})"),
                format!("see what it says: tail {}", log(setting, owner, name)),
            );
        }
        State::NotRunning if is_wanted => {
            found.warning(format!("{name}: was asked to run, and does not"), again);
        }
        State::Starting
        | State::Running
        | State::Stopping
        | State::Stop
        | State::Done
        | State::NotRunning
        | State::NotExecutable
        // Its trouble was told above.
        | State::Unknown => {}
    }
}

fn log(setting: &Setting, owner: u32, name: &ServiceName) -> String {
    setting.dirs.logdir(owner).join(name.as_str()).join("current").display().to_string()
}
