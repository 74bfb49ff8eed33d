//! Services of other users: the same command is run as their owner, by `sudo`
//! or, for root, by giving up root's privileges.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid};

use reraise::backend::{Elevation, Owner, native};
use reraise::error::{ExitCode, Fault};
use reraise::name::ServiceName;

use super::Setting;
use super::users::{Users, account};

/// What `--as-owner` adds to the exit code, so that an end of `sudo` itself,
/// which has no code of its own, is told from one of ours.
pub(crate) const RAN: u8 = 100;

/// One command for the services of one user.
struct Order<'a> {
    owner: Owner,
    /// The owner's name, or its number.
    user: String,
    /// This program.
    us: PathBuf,
    names: &'a [ServiceName],
}

/// Runs `reraise WORDS NAME…` as the owner. Its output is ours.
pub(crate) fn run(
    setting: &Setting,
    owner: Owner,
    words: &[OsString],
    names: &[ServiceName],
) -> Result<ExitCode, Fault> {
    let us =
        std::env::current_exe().map_err(|e| Fault::system("reraise", "cannot find itself", &e))?;
    let order = Order { owner, user: Users::default().user(owner.uid), us, names };
    let interactive = io::stdin().is_terminal();
    let (mut command, by_sudo) = match native::elevation(owner, interactive) {
        Elevation::None => (Command::new(&order.us), false),
        Elevation::Sudo(prefix) => {
            let mut command = Command::new(&prefix[0]);
            command.args(&prefix[1..]).arg(&order.us);
            (command, true)
        }
        Elevation::Drop(_) => (order.dropped()?, false),
    };
    command.arg(format!("{}={}", super::AS_OWNER, setting.asker()));
    command.args(options(setting, owner.uid)).args(words).arg("--");
    command.args(names.iter().map(ServiceName::as_str));
    // The words of sudo are part of ours, unless it asks for a password.
    if by_sudo && !interactive {
        command.stderr(Stdio::piped());
    }
    if !by_sudo && owner.uid != setting.dirs.uid() {
        // That user may look into what runs as theirs, and take what it has open: root's
        // terminal, to read what is typed there.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = command.spawn().map_err(|e| order.not_spawned(by_sudo, &e))?;
    if let (Some(mut out), Some(mut err)) =
        (child.stdout.take(), child.stderr.take_if(|_| !by_sudo))
    {
        let errors = std::thread::spawn(move || io::copy(&mut err, &mut io::stderr()));
        let _ = io::copy(&mut out, &mut io::stdout());
        let _ = errors.join();
    }
    let output = child
        .wait_with_output()
        .map_err(|e| Fault::system(&order.user, "cannot wait for what runs as it", &e))?;
    let code = output.status.code();
    if let Some(code) = code.and_then(|code| code.checked_sub(i32::from(RAN))).filter(|c| *c >= 0) {
        let _ = io::stderr().write_all(&output.stderr);
        return Ok(ExitCode::from_number(code));
    }
    if by_sudo {
        return Err(order.not_run(String::from_utf8_lossy(&output.stderr).trim()));
    }
    let what = format!("what runs as {} was ended: {}", order.user, output.status);
    Err(order.fault(ExitCode::Failed, &what, "try again"))
}

/// The directories, since neither sudo nor we pass the environment on.
fn options(setting: &Setting, owner: u32) -> Vec<OsString> {
    let mut options: Vec<OsString> = vec!["--dir".into(), setting.dirs.dir.clone().into()];
    options.extend(["--piddir".into(), setting.dirs.piddir(owner).into()]);
    if let Some(given) = setting.dirs.given_logdir() {
        options.extend(["--logdir".into(), given.into()]);
    }
    options
}

impl Order<'_> {
    /// A fault of all its services.
    fn fault(&self, code: ExitCode, what: &str, advice: impl std::fmt::Display) -> Fault {
        let first = self.names.first().map_or("", ServiceName::as_str);
        let object = match self.names.len() {
            0 | 1 => first.to_owned(),
            n => format!("{first} and {} more", n - 1),
        };
        Fault::new(code, object, what, advice)
    }

    fn dropped(&self) -> Result<Command, Fault> {
        let account = account(self.owner.uid).ok_or_else(|| self.nobody())?;
        // Whatever else root's shell had open is not for that user, who may look
        // into what runs as theirs. Here, since a child would close the pipe by
        // which it tells that it could not be executed; and nothing that is open
        // now is of use to us either.
        native::close_from(3);
        let mut command = Command::new(&self.us);
        // As sudo does: a clean environment, with what a login would set.
        command.env_clear();
        for name in ["PATH", "TERM", "LANG", "LC_ALL", "NO_COLOR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", &account.home).env("SHELL", &account.shell);
        command.env("USER", &account.name).env("LOGNAME", &account.name);
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        let gid = Gid::from_raw(account.gid);
        let uid = Uid::from_raw(self.owner.uid);
        let become_owner = move || {
            // Or that user, who may trace what runs as theirs, had root's terminal.
            nix::unistd::setsid()?;
            native::set_groups(&groups)?;
            nix::unistd::setgid(gid)?;
            nix::unistd::setuid(uid)?;
            // It worked only if there is no way back.
            let is_gone = nix::unistd::setuid(Uid::from_raw(0)).is_err()
                && nix::unistd::getuid() == uid
                && nix::unistd::geteuid() == uid
                && nix::unistd::getgid() == gid
                && nix::unistd::getegid() == gid;
            if is_gone { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(become_owner) };
        Ok(command)
    }

    /// Nothing was started at all.
    fn not_spawned(&self, by_sudo: bool, error: &io::Error) -> Fault {
        match error.raw_os_error() {
            Some(libc::ENOENT) if by_sudo => {
                let what = format!("belongs to {}, and sudo is not installed", self.user);
                let advice = format!("install sudo and add this line with visudo: {}", self.rule());
                self.fault(ExitCode::Denied, &what, advice)
            }
            Some(libc::EACCES) if !by_sudo => self.out_of_reach(),
            _ => {
                let fault = Fault::system("", "cannot be run as its owner", error);
                self.fault(fault.code, &fault.what, fault.advice)
            }
        }
    }

    /// sudo has not run us. Why cannot be had from its words, which depend on
    /// the locale; it can be asked.
    fn not_run(&self, said: &str) -> Fault {
        let me = Users::default().user(nix::unistd::geteuid().as_raw());
        if account(self.owner.uid).is_none() {
            return self.nobody();
        }
        let mut ask = Command::new("sudo");
        ask.args(["-n", "-l", "-u", &format!("#{}", self.owner.uid), "--"]).arg(&self.us);
        ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if ask.status().is_ok_and(|status| status.success()) {
            return self.out_of_reach();
        }
        let said = said.lines().next().map(|line| format!(" ({line})")).unwrap_or_default();
        let what = format!("belongs to {}, and sudo does not let {me} act as it{said}", self.user);
        let advice = format!("add this line with visudo: {}", self.rule());
        self.fault(ExitCode::Denied, &what, advice)
    }

    fn nobody(&self) -> Fault {
        let what = format!("belongs to user {}, who has no account here", self.owner.uid);
        self.fault(ExitCode::Denied, &what, "give the script to a user: chown USER SCRIPT")
    }

    fn out_of_reach(&self) -> Fault {
        let what = format!("belongs to {}, who cannot execute {}", self.user, self.us.display());
        let advice = "install both programs for all users, as root: \
                      cargo install --root /usr/local reraise";
        self.fault(ExitCode::Denied, &what, advice)
    }

    fn rule(&self) -> String {
        rule(&self.user, &self.us)
    }
}

/// The line of sudoers that would let us run `us` as `user`.
pub(crate) fn rule(user: &str, us: &Path) -> String {
    let me = Users::default().user(nix::unistd::geteuid().as_raw());
    format!(
        "{} ALL=({}) NOPASSWD: {}   # it lets {me} do whatever {user} can",
        in_sudoers(&me),
        in_sudoers(user),
        escaped(us)
    )
}

/// A user as sudoers(5) wants it: a number after `#`.
fn in_sudoers(user: &str) -> String {
    let is_number = user.bytes().all(|b| b.is_ascii_digit());
    if is_number { format!("#{user}") } else { user.to_owned() }
}

/// A path as sudoers(5) wants it: patterns and separators after a backslash.
fn escaped(path: &Path) -> String {
    let path = path.display().to_string();
    let special = |c: char| matches!(c, ',' | ':' | '=' | '\\' | ' ' | '*' | '?' | '[' | ']' | '!');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_can_be_pasted() {
        let order = |user: &str, us: &str| Order {
            owner: Owner { uid: 70_001, gid: 70_001 },
            user: user.to_owned(),
            us: us.into(),
            names: &[],
        };
        let rule = order("app", "/usr/local/bin/reraise").rule();
        assert!(
            rule.contains(" ALL=(app) NOPASSWD: /usr/local/bin/reraise   # it lets "),
            "{rule}"
        );
        let rule = order("70001", "/opt/a b=c/reraise").rule();
        assert!(rule.contains(r" ALL=(#70001) NOPASSWD: /opt/a\ b\=c/reraise   # "), "{rule}");
    }
}
