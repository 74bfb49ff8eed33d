//! `reraise up`: becomes the keeper, in the foreground. What can be refused is
//! refused here, before anything runs.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use reraise::backend::RUN_VARIABLE;
use reraise::context::Context;
use reraise::error::{ExitCode, Fault};
use reraise::keeper;
use reraise::name::ServiceName;
use reraise::paths;
use reraise::supervise::launch;

use super::select::select;
use super::users::Users;
use super::{Setting, act, client, console};

/// Runs `reraise up`. Returns only when it cannot.
pub(crate) fn run(setting: &Setting, patterns: &[OsString]) -> Result<ExitCode, Fault> {
    let me = setting.dirs.uid();
    let context = act::context(setting)?;
    let names = if patterns.is_empty() {
        Vec::new()
    } else {
        let (names, faults) = usable(setting, patterns, &context)?;
        if !faults.is_empty() {
            faults.iter().for_each(console::fault);
            return Ok(ExitCode::of_all(faults.iter().map(|f| f.code)));
        }
        names
    };
    let piddir = setting.dirs.piddir(me);
    let state = paths::prepare_piddir(&piddir, me)?;
    // Not by the environment: what the keeper needs there is not for services.
    let file = keeper::context_file(&state, std::process::id());
    Context::keep(&context.encode(), &file)
        .map_err(|e| Fault::system(file.display(), "cannot be written", &e))?;
    let program = client::worker_program();
    let mut command = Command::new(&program);
    command.arg("--keeper").arg(&piddir).arg("--up");
    command.args(names.iter().map(ServiceName::as_str)).env_remove(RUN_VARIABLE);
    let (variable, value) = keeper::TUNABLES;
    let error = command.env(variable, value).exec();
    let _ = std::fs::remove_file(file);
    Err(client::not_started(&program, &error))
}

/// The services that were named, and why others cannot be brought up.
fn usable(
    setting: &Setting,
    patterns: &[OsString],
    context: &Context,
) -> Result<(Vec<ServiceName>, Vec<Fault>), Fault> {
    let me = setting.dirs.uid();
    let mut found = select(setting, patterns)?;
    let mut faults = std::mem::take(&mut found.faults);
    for (owner, names) in act::others(&mut found, me) {
        let user = Users::default().user(owner.uid);
        let what = format!("belongs to {user}; one `up` runs the services of one user");
        let advice = format!("run another one as {user}, or start it in the background");
        faults.extend(names.iter().map(|n| Fault::new(ExitCode::Denied, n, &what, &advice)));
    }
    for name in found.services.keys() {
        match launch::load(context, name) {
            Ok(loaded) => {
                let program = &loaded.entry.program;
                let fault = |problem| launch::config_fault(name, program, problem);
                faults.extend(loaded.problems.iter().map(fault));
            }
            Err(fault) => faults.push(fault),
        }
    }
    Ok((found.services.into_keys().collect(), faults))
}
