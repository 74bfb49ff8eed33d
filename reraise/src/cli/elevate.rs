//! Services of other users: the same command is run as their owner, by `sudo`
//! or, for root, by giving up root's privileges.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid};

use reraise::backend::{Elevation, Owner};
use reraise::error::{ExitCode, Fault};
use reraise::name::ServiceName;

use super::Setting;
use super::users::{Users, account};

/// Runs `reraise WORDS NAME…` as the owner. Its output is ours.
pub(crate) fn run(
    setting: &Setting,
    owner: Owner,
    words: &[OsString],
    names: &[ServiceName],
) -> Result<ExitCode, Fault> {
    let user = Users::default().user(owner.uid);
    let us = std::env::current_exe()
        .map_err(|e| Fault::system("reraise", "cannot find itself", &e))?;
    let interactive = io::stdin().is_terminal();
    let mut command = match elevation(owner, interactive) {
        Elevation::None => Command::new(&us),
        Elevation::Sudo(prefix) => {
            let mut command = Command::new(&prefix[0]);
            command.args(&prefix[1..]).arg(&us);
            command
        }
        Elevation::Drop(owner) => dropped(&us, owner)?,
    };
    command.args(options(setting, owner.uid)).args(words).arg("--");
    command.args(names.iter().map(ServiceName::as_str));
    // The words of sudo itself are worth nothing without what would mend it.
    let is_sudo = command.get_program() == "sudo";
    if is_sudo && !interactive {
        command.stderr(Stdio::piped());
    }
    let child = command.spawn().map_err(|e| no_sudo(&user, &us, &e))?;
    let output = child
        .wait_with_output()
        .map_err(|e| Fault::system(&user, "cannot wait for what runs as it", &e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if is_sudo && output.status.code() == Some(1) && said.trim_start().starts_with("sudo:") {
        return Err(no_rule(&user, &us, said.trim()));
    }
    if !said.is_empty() {
        use std::io::Write;
        let _ = io::stderr().write_all(&output.stderr);
    }
    Ok(output.status.code().map_or(ExitCode::Failed, ExitCode::from_number))
}

fn elevation(owner: Owner, interactive: bool) -> Elevation {
    use reraise::backend::native::elevation;
    elevation(owner, interactive)
}

/// The directories, since neither sudo nor we pass the environment on.
fn options(setting: &Setting, owner: u32) -> Vec<OsString> {
    let mut options: Vec<OsString> = vec!["--dir".into(), setting.dirs.dir.clone().into()];
    options.extend(["--piddir".into(), setting.dirs.piddir(owner).into()]);
    options.extend(["--logdir".into(), setting.dirs.logdir(owner).into()]);
    options
}

fn dropped(us: &std::path::Path, owner: Owner) -> Result<Command, Fault> {
    let account = account(owner.uid).ok_or_else(|| {
        let what = "has no account here, so its groups are not known";
        Fault::new(ExitCode::Denied, format!("user {}", owner.uid), what, "give the script to a user: chown USER SCRIPT")
    })?;
    let mut command = Command::new(us);
    // As sudo does: a clean environment, with what a login would set.
    command.env_clear();
    for name in ["PATH", "TERM", "LANG", "LC_ALL", "NO_COLOR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("HOME", &account.home).env("USER", &account.name).env("LOGNAME", &account.name);
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    let gid = Gid::from_raw(account.groups.first().copied().unwrap_or(owner.gid));
    let uid = Uid::from_raw(owner.uid);
    let become_owner = move || {
        reraise::backend::native::set_groups(&groups)?;
        nix::unistd::setgid(gid)?;
        nix::unistd::setuid(uid)?;
        // It worked only if there is no way back.
        let is_gone = nix::unistd::setuid(Uid::from_raw(0)).is_err()
            && nix::unistd::getuid() == uid
            && nix::unistd::geteuid() == uid
            && nix::unistd::getegid() == gid;
        if is_gone { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(become_owner) };
    Ok(command)
}

fn no_sudo(user: &str, us: &std::path::Path, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::NotFound {
        let what = "its services need sudo, which is not installed";
        let advice = format!("install sudo and add this line with visudo: {}", rule(user, us));
        return Fault::new(ExitCode::Denied, user, what, advice);
    }
    Fault::system(user, "cannot run anything as it", error)
}

fn no_rule(user: &str, us: &std::path::Path, said: &str) -> Fault {
    let said = said.lines().next().unwrap_or_default().to_owned();
    let what = format!("nothing can be run as it ({said})");
    let advice = format!(
        "add this line with visudo: {}   # it lets you do whatever {user} can",
        rule(user, us)
    );
    Fault::new(ExitCode::Denied, user, what, advice)
}

/// The line of sudoers that would do.
pub(crate) fn rule(user: &str, us: &std::path::Path) -> String {
    let me = Users::default().user(nix::unistd::geteuid().as_raw());
    format!("{me} ALL=({user}) NOPASSWD: {}", us.display())
}
