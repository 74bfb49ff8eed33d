//! Why a program could not be executed, in words that say what to do.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::backend::{LaunchError, Step};
use crate::error::{ExitCode, Fault, reason};
use crate::name::ServiceName;
use crate::service::Entry;

/// The fault that a failed launch makes.
#[must_use]
pub fn unlaunchable(name: &ServiceName, entry: &Entry, error: LaunchError) -> Fault {
    let io = std::io::Error::from_raw_os_error(error.errno);
    let program = &entry.program;
    let shown = program.display();
    let unusable =
        |what: String, advice: String| Fault::new(ExitCode::Unusable, name, what, advice);
    match (error.step, error.errno) {
        (Step::Fork, _) => Fault::system(name, "cannot start a process", &io),
        // A hard limit can be lowered by everybody and raised by root alone.
        (Step::Limits, libc::EPERM) => Fault::new(
            ExitCode::System,
            name,
            "its limits (ulimit -H -a) are higher than those that the keeper was started under",
            "end the keeper, which goes with its last service (reraise stop '*'), then start \
             them again from here; or lower them before: ulimit -H -n NUMBER",
        ),
        (Step::Limits, _) => Fault::system(name, "cannot set its limits", &io),
        (Step::Directory, _) => Fault::new(
            ExitCode::Failed,
            name,
            format!("cannot enter its working directory: {}", reason(&io)),
            "start it from a directory that its user may enter: cd / first",
        ),
        (Step::Output, _) => Fault::system(name, "cannot open its log", &io),
        (Step::Exec, libc::ENOEXEC) => unusable(
            "has no #! line, and is no program of this machine".to_owned(),
            format!("make #!/bin/sh the first line of {shown}"),
        ),
        (Step::Exec, libc::ENOENT) => match interpreter(program) {
            Some(missing) if !is_there(&missing) => unusable(
                format!("its interpreter {missing} does not exist (first line of {shown})"),
                "install it, or correct the #! line".to_owned(),
            ),
            _ if !program.exists() => Fault::new(
                ExitCode::NoService,
                name,
                format!("its script is gone ({shown})"),
                "put it back, then start it again",
            ),
            _ => unusable(
                format!("its script, or what executes it, was missing ({shown})"),
                "see that it is there, then start it again".to_owned(),
            ),
        },
        // Refused by us: what for can still be seen, or has been mended.
        (Step::Exec, libc::EPERM) => entry.check(name).err().unwrap_or_else(|| {
            let what = "owner or mode, its own or of a directory above it, forbade to execute it";
            Fault::new(ExitCode::Denied, name, what, "see what is left of that: reraise doctor")
        }),
        (Step::Exec, libc::EACCES) => match interpreter(program) {
            _ if let Err(fault) = entry.check(name) => fault,
            Some(interpreter) => unusable(
                format!("its script or the interpreter {interpreter} may not be executed"),
                format!("chmod +x {shown}, or see: ls -l {interpreter}"),
            ),
            None => {
                unusable("its script may not be executed".to_owned(), format!("chmod +x {shown}"))
            }
        },
        (Step::Exec, libc::ETXTBSY) => unusable(
            "its script is open for writing".to_owned(),
            "close the editor or the copy that writes it, then try again".to_owned(),
        ),
        (Step::Exec, _) => Fault::system(name, "cannot be executed", &io),
    }
}

/// Whether an interpreter is. From here, that cannot be said of a relative one.
fn is_there(interpreter: &str) -> bool {
    let path = Path::new(interpreter);
    path.is_absolute() && path.exists()
}

/// What execve(2) would say of the `#!` line, where a service runs in this directory
/// unless it has its own.
#[must_use]
pub fn bad_interpreter(name: &ServiceName, entry: &Entry, cwd: &Path) -> Option<Fault> {
    let path = entry.directory.as_deref().unwrap_or(cwd).join(interpreter(&entry.program)?);
    let errno = access(&path, AccessFlags::X_OK).err()? as i32;
    Some(unlaunchable(name, entry, LaunchError { step: Step::Exec, errno }))
}

/// What stands behind `#!`, if anything.
#[must_use]
pub fn interpreter(program: &Path) -> Option<String> {
    let mut head = [0; 256];
    let read = File::open(program).ok()?.read(&mut head).ok()?;
    let line = head[..read].strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let word = text.split([' ', '\t']).find(|word| !word.is_empty())?;
    // A carriage return at the end of the line is part of its last word.
    Some(word.replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn interpreters_are_judged_as_by_the_kernel() {
        let top = tempfile::tempdir().unwrap();
        let name = ServiceName::new("web".as_ref()).unwrap();
        symlink("/bin/sh", top.path().join("sh")).unwrap();
        for (line, expected) in [
            ("#!/bin/sh", None),
            ("#! \t/bin/sh\t-e", None),
            ("#!/bin/sh -e\r", None),
            ("#!./sh", None),
            ("#!", None),
            ("echo", None),
            ("#!/bin/sh\r", Some("its interpreter /bin/sh\\r does not exist")),
            ("#!./no-sh", Some("its interpreter ./no-sh does not exist")),
            ("#!/dev/null", Some("its script or the interpreter /dev/null may not be")),
        ] {
            let path = top.path().join("web");
            fs::write(&path, format!("{line}\n")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            let entry = Entry::find(top.path(), &name).unwrap().unwrap();
            let found = bad_interpreter(&name, &entry, top.path()).map(|fault| fault.what);
            let is_so = match (&found, expected) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_so, "{line:?}: {found:?}");
        }
    }

    #[test]
    fn what_was_refused_is_named_while_it_can_be_seen() {
        let top = tempfile::tempdir().unwrap();
        let name = ServiceName::new("web".as_ref()).unwrap();
        let path = top.path().join("web");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let entry = Entry::find(top.path(), &name).unwrap().unwrap();
        let said = |errno| {
            let fault = unlaunchable(&name, &entry, LaunchError { step: Step::Exec, errno });
            (fault.code as i32, fault.what)
        };
        for (mode, errno, code, what) in [
            (0o777, libc::EPERM, 6, "can be changed by other users"),
            (0o644, libc::EACCES, 5, "is not executable"),
            // Mended since.
            (0o755, libc::EPERM, 6, "owner or mode"),
            (0o755, libc::EACCES, 5, "its script or the interpreter /bin/sh may not"),
            (0o755, libc::ENOENT, 5, "its script, or what executes it, was missing"),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (found, words) = said(errno);
            assert!(found == code && words.starts_with(what), "{mode:o}: {found} {words}");
        }
        fs::remove_file(&path).unwrap();
        let (found, words) = said(libc::ENOENT);
        assert!(found == 4 && words.starts_with("its script is gone"), "{found} {words}");
    }
}
