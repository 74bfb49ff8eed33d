//! The entries of `$RERAISE_DIR`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use reraise::config::{Config, LogTo};
use reraise::error::{Fault, reason};
use reraise::name::{ServiceName, printable};
use reraise::service::Entry;
use reraise::supervise::launch::config_fault;
use reraise::words::interpreter;

use super::findings::Findings;
use crate::cli::Setting;

/// What runit and daemontools read in a service directory and we do not, and
/// what to do instead.
const IGNORED: &[(&str, &str)] = &[
    ("log", "the output goes to $RERAISE_LOGDIR/NAME/current; config_log says otherwise"),
    ("down", "reraise stop NAME   # is remembered"),
    ("finish", "let the run file do it after its command, without exec"),
    ("check", "start --wait waits for config_start_sec instead"),
    ("control", "config_stop says which signals end the service"),
    ("env", "export the variables in the run file, or: exec envdir ./env COMMAND"),
    ("conf", "let the run file read it: . ./conf"),
    ("timeout-kill", "config_stop says how long to wait: \"TERM 30, KILL 10\""),
    ("notification-fd", "start --wait waits for config_start_sec instead"),
];

/// Endings of the copies that editors and packages leave.
const COPIES: &[&str] =
    &["~", ".bak", ".old", ".orig", ".rej", ".swp", ".tmp", ".dpkg-old", ".dpkg-new", ".rpmsave"];

/// The first bytes of programs: ELF, and Mach-O in both orders and as a bundle.
const PROGRAMS: &[&[u8]] = &[
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
];

/// Checks every entry; the services among them.
pub(super) fn check(setting: &Setting, found: &mut Findings) -> Vec<(ServiceName, Entry)> {
    let dir = &setting.dirs.dir;
    let mut entries: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
        // Said already.
        Err(_) => return Vec::new(),
    };
    entries.sort();
    let before = found.count();
    let mut services = Vec::new();
    let mut logs = BTreeMap::new();
    for file in entries.iter().filter(|f| !is_hidden(f)) {
        match ServiceName::new(file) {
            Ok(name) => {
                if let Some(entry) = one(dir, &name, &mut logs, found) {
                    services.push((name, entry));
                }
            }
            Err(e) => {
                found.warning(format!("{}: cannot be a service: {e}", printable(file)), e.advice())
            }
        }
    }
    if services.is_empty() {
        found.warning("there is no service yet", "reraise skeleton NAME -- COMMAND");
    } else if found.count() == before {
        found.ok(format!("{} service(s), all in order", services.len()));
    }
    services
}

fn is_hidden(file: &OsStr) -> bool {
    file.as_encoded_bytes().starts_with(b".")
}

/// Where each log is kept that has a place of its own, and whose it is.
type Logs = BTreeMap<PathBuf, ServiceName>;

fn one(dir: &Path, name: &ServiceName, logs: &mut Logs, found: &mut Findings) -> Option<Entry> {
    let entry = match Entry::find(dir, name) {
        Ok(entry) => entry?,
        Err(e) => {
            found.fault(&Fault::system(name, "cannot look at its script", &e));
            return None;
        }
    };
    if let Err(fault) = entry.check(name) {
        match fault.what.as_str() {
            // Perhaps no service at all, or put aside.
            "is not executable" => {
                let what = format!("{name}: is not executable, so it cannot be started");
                found.warning(what, format!("{}   # if it is a service", fault.advice));
            }
            _ => found.fault(&fault),
        }
    } else {
        if let Some(ending) = COPIES.iter().find(|e| name.as_str().ends_with(**e)) {
            found.warning(
                format!("{name}: looks like a copy (`{ending}`), but `start '*'` starts it"),
                format!("chmod -x {0}   # or remove it", entry.program.display()),
            );
        }
        beginning(name, &entry.program, found);
    }
    if let Some(config) = configuration(name, &entry, found)
        && let LogTo::Path(path) = config.log
        && let Some(other) =
            logs.insert(fs::canonicalize(&path).unwrap_or(path.clone()), name.clone())
    {
        found.warning(
            format!("{name}: its config_log is that of {other} as well: {}", path.display()),
            "give each service a directory of its own: their lines are mixed there",
        );
    }
    if let Some(directory) = &entry.directory {
        run_directory(name, directory, found);
    }
    Some(entry)
}

/// What the kernel will make of the file.
fn beginning(name: &ServiceName, program: &Path, found: &mut Findings) {
    let mut head = [0; 256];
    let Ok(length) = File::open(program).and_then(|mut f| f.read(&mut head)) else { return };
    let head = &head[..length];
    let shown = program.display();
    let Some(interpreter) = interpreter(program) else {
        if !PROGRAMS.iter().any(|magic| head.starts_with(magic)) {
            found.problem(
                format!("{name}: has no #! line, and is no program"),
                format!("make #!/bin/sh the first line of {shown}"),
            );
        }
        return;
    };
    if !Path::new(&interpreter).exists() {
        let advice = match interpreter.strip_suffix("\\r") {
            Some(_) => format!("its lines end as on Windows; mend it: sed -i 's/\\r$//' {shown}"),
            None => format!("install it, or correct the first line of {shown}"),
        };
        found.problem(format!("{name}: its interpreter {interpreter} does not exist"), advice);
        return;
    }
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if interpreter.ends_with("/env")
        && let Some(word) = line.split_ascii_whitespace().nth(1)
        && !word.starts_with('-')
        && !word.contains('=')
        && super::system::in_path(word).is_none()
    {
        let what = format!("{name}: its interpreter {word} is not in your PATH");
        found.problem(what, format!("install it, or write its whole path into {shown}"));
    }
}

fn configuration(name: &ServiceName, entry: &Entry, found: &mut Findings) -> Option<Config> {
    let program = &entry.program;
    if !fs::metadata(program).is_ok_and(|m| m.is_file()) {
        return None;
    }
    let lookup = |variable: &str| std::env::var(variable).ok();
    let read = File::open(program).and_then(|mut script| Config::read(&mut script, &lookup));
    match read {
        Ok((config, problems)) => {
            problems.iter().for_each(|p| found.fault(&config_fault(name, program, p)));
            return Some(config);
        }
        Err(e) if entry.uid == nix::unistd::geteuid().as_raw() => found.problem(
            format!("{name}: its script cannot be read: {}", reason(&e)),
            format!("chmod u+r {}", program.display()),
        ),
        Err(e) => found.warning(
            format!("{name}: its config lines were not checked: {}", reason(&e)),
            format!("let user {} run: reraise doctor", entry.uid),
        ),
    }
    None
}

fn run_directory(name: &ServiceName, directory: &Path, found: &mut Findings) {
    for (file, instead) in IGNORED {
        if fs::symlink_metadata(directory.join(file)).is_ok() {
            found.warning(
                format!("{name}: {file} of its directory is not honoured"),
                instead.replace("NAME", name.as_str()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn script(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is said of one entry, made by `make` at the path that it gets.
    fn said(file: &str, make: impl FnOnce(&Path)) -> String {
        let top = tempfile::tempdir().unwrap();
        make(&top.path().join(file));
        let mut found = Findings::default();
        one(top.path(), &ServiceName::new(file.as_ref()).unwrap(), &mut Logs::new(), &mut found);
        found.text().replace(&top.path().display().to_string(), "DIR")
    }

    #[test]
    fn scripts_that_will_not_run() {
        for (file, text, mode, expected) in [
            ("good", "#!/bin/sh\n", 0o755, ""),
            ("plain", "#!/bin/sh\n", 0o644, "Warning: plain: is not executable, so"),
            ("open", "#!/bin/sh\n", 0o777, "Problem: open: can be changed by other users"),
            ("none", "echo\n", 0o755, "Problem: none: has no #! line, and is no program"),
            ("gone", "#!/no/sh\n", 0o755, "Problem: gone: its interpreter /no/sh does not exist"),
            ("dos", "#!/bin/sh\r\n", 0o755, "Problem: dos: its interpreter /bin/sh\\r does not"),
            ("env", "#!/usr/bin/env no-such\n", 0o755, "Problem: env: its interpreter no-such is"),
            ("web~", "#!/bin/sh\n", 0o755, "Warning: web~: looks like a copy (`~`)"),
            ("elf", "\x7fELF", 0o755, ""),
        ] {
            let found = said(file, |path| script(path, text, mode));
            assert!(
                found.starts_with(expected) && expected.is_empty() == found.is_empty(),
                "{found}"
            );
        }
        assert!(
            said("lost", |path| symlink("no", path).unwrap()).contains("symbolic link to nothing")
        );
    }

    #[test]
    fn configuration_is_judged_with_file_and_line() {
        let text = "#!/bin/sh\nconfig_start_sec=x\nconfig_lgo=no\nconfig_ready=fd:3\n";
        let found = said("web", |path| script(path, text, 0o755));
        let lines: Vec<_> = found.lines().collect();
        assert_eq!(lines.len(), 3, "{found}");
        assert!(
            lines[0].starts_with("Problem: web: DIR/web: line 2: config_start_sec:"),
            "{found}"
        );
        assert!(lines[1].ends_with("did you mean config_log?"), "{found}");
        assert!(lines[2].contains("config_ready is not supported by this version"), "{found}");
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        let found = said("web", |path| {
            fs::create_dir_all(path.join("log")).unwrap();
            script(&path.join("run"), "#!/bin/sh\n", 0o755);
            script(&path.join("finish"), "#!/bin/sh\n", 0o755);
        });
        assert!(found.contains("Warning: web: log of its directory is not honoured"), "{found}");
        assert!(found.contains("$RERAISE_LOGDIR/web/current"), "{found}");
        assert!(found.contains("Warning: web: finish of its directory"), "{found}");
    }
}
