//! Services that run as other users.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use reraise::backend::native::elevation;
use reraise::backend::{Elevation, Owner};
use reraise::name::ServiceName;
use reraise::service::Entry;

use super::findings::Findings;
use super::system::in_path;
use crate::cli::users::{Users, account};
use crate::cli::{Setting, elevate};

/// Checks the owners of these services.
pub(super) fn check(setting: &Setting, services: &[(ServiceName, Entry)], found: &mut Findings) {
    let me = setting.dirs.uid();
    let mut owners: BTreeMap<u32, (u32, Vec<&str>)> = BTreeMap::new();
    for (name, entry) in services.iter().filter(|(_, entry)| entry.uid != me) {
        owners.entry(entry.uid).or_insert((entry.gid, Vec::new())).1.push(name.as_str());
    }
    for (uid, (gid, names)) in owners {
        one(setting, Owner { uid, gid }, &names.join(", "), found);
    }
}

fn one(setting: &Setting, owner: Owner, names: &str, found: &mut Findings) {
    let user = Users::default().user(owner.uid);
    let services = format!("services of {user} ({names})");
    match elevation(owner, false) {
        Elevation::None => {}
        Elevation::Drop(_) if account(owner.uid).is_none() => found.problem(
            format!("{services}: user {user} has no account here"),
            "give the scripts to a user: chown USER SCRIPT",
        ),
        Elevation::Drop(_) => found.ok(format!("{services}: run as {user}")),
        Elevation::Sudo(prefix) => {
            let Ok(us) = std::env::current_exe() else { return };
            let rule = format!("add this line with visudo: {}", elevate::rule(&user, &us));
            match sudo(&prefix, &us) {
                Answer::Yes => found.ok(format!("{services}: sudo lets you run them")),
                Answer::Asks => found.warning(
                    format!("{services}: sudo asks for a password, so only a terminal will do"),
                    rule,
                ),
                Answer::No => {
                    found.problem(format!("{services}: sudo does not let you run them"), rule)
                }
                Answer::Missing => found.problem(
                    format!("{services}: need sudo, which is not installed"),
                    format!("install sudo, and {rule}"),
                ),
            }
        }
    }
    records(&setting.dirs.piddir(owner.uid), owner.uid, &user, found);
    reachable(&setting.dirs.dir, owner, &user, found);
}

enum Answer {
    Yes,
    Asks,
    No,
    Missing,
}

/// Asks sudo whether it would, without doing it.
fn sudo(prefix: &[std::ffi::OsString], us: &Path) -> Answer {
    if in_path("sudo").is_none() {
        return Answer::Missing;
    }
    // `sudo -n -l -u #UID -- PROGRAM`
    let mut command = Command::new(&prefix[0]);
    command.arg("-l").args(&prefix[1..]).arg(us).args(["status", "--", "x"]).env("LC_ALL", "C");
    match command.stdin(Stdio::null()).output() {
        Ok(done) if done.status.success() => Answer::Yes,
        Ok(done) if String::from_utf8_lossy(&done.stderr).contains("password is required") => {
            Answer::Asks
        }
        _ => Answer::No,
    }
}

fn records(piddir: &Path, owner: u32, user: &str, found: &mut Findings) {
    let Ok(about) = fs::metadata(piddir) else { return };
    if about.uid() != owner && !(about.uid() == 0 && about.mode() & 0o1000 != 0) {
        let shown = piddir.display();
        found.problem(
            format!("{shown}: {user} cannot keep records there"),
            format!("as root: chown root {shown}; chmod 1777 {shown}   # or unset RERAISE_PIDDIR"),
        );
    }
}

/// Their supervisor reads the scripts as they.
fn reachable(dir: &Path, owner: Owner, user: &str, found: &mut Findings) {
    let Ok(real) = fs::canonicalize(dir) else { return };
    let closed = real
        .ancestors()
        .find(|step| fs::metadata(step).is_ok_and(|about| !may_pass(&about, owner)));
    if let Some(step) = closed.filter(|_| owner.uid != 0) {
        let shown = step.display();
        found.warning(
            format!("{shown}: {user} may not be able to pass through it"),
            format!("chmod o+x {shown}"),
        );
    }
}

fn may_pass(about: &fs::Metadata, owner: Owner) -> bool {
    let bit = match () {
        () if about.uid() == owner.uid => 0o100,
        () if about.gid() == owner.gid => 0o010,
        () => 0o001,
    };
    about.mode() & bit != 0
}
