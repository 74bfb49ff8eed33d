//! Why a program could not be executed, in words that say what to do.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::backend::{LaunchError, Step};
use crate::error::{ExitCode, Fault, reason};
use crate::service::Entry;

/// The fault that a failed launch makes.
#[must_use]
pub fn unlaunchable(name: impl fmt::Display, entry: &Entry, error: LaunchError) -> Fault {
    let io = std::io::Error::from_raw_os_error(error.errno);
    let program = &entry.program;
    let shown = program.display();
    let unusable =
        |what: String, advice: String| Fault::new(ExitCode::Unusable, &name, what, advice);
    match (error.step, error.errno) {
        (Step::Fork, _) => Fault::system(&name, "cannot start a process", &io),
        // A hard limit can be lowered by everybody and raised by root alone.
        (Step::Limits, libc::EPERM) => Fault::new(
            ExitCode::System,
            &name,
            "its limits (ulimit -H -a) are higher than those that the keeper was started under",
            "end the keeper, which goes with its last service (reraise stop '*'), then start \
             them again from here; or lower them before: ulimit -H -n NUMBER",
        ),
        (Step::Limits, _) => Fault::system(&name, "cannot set its limits", &io),
        (Step::Directory, _) => Fault::new(
            ExitCode::Failed,
            &name,
            format!("cannot enter its working directory: {}", reason(&io)),
            "start it from a directory that its user may enter: cd / first",
        ),
        (Step::Output, _) => Fault::system(&name, "cannot open its log", &io),
        (Step::Exec, libc::ENOEXEC) => unusable(
            "has no #! line, and is no program of this machine".to_owned(),
            format!("make #!/bin/sh the first line of {shown}"),
        ),
        (Step::Exec, libc::ENOENT) => match interpreter(program) {
            Some(missing) => unusable(
                format!("its interpreter {missing} does not exist (first line of {shown})"),
                "install it, or correct the #! line".to_owned(),
            ),
            None => unusable(
                format!("its script is gone ({shown})"),
                "put it back, then start it again".to_owned(),
            ),
        },
        (Step::Exec, libc::EACCES) => match interpreter(program) {
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
        (Step::Exec, _) => Fault::system(&name, "cannot be executed", &io),
    }
}

/// What stands behind `#!`, if anything.
#[must_use]
pub fn interpreter(program: &Path) -> Option<String> {
    let mut head = [0; 256];
    let read = File::open(program).ok()?.read(&mut head).ok()?;
    let line = head[..read].strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let word = text.split_ascii_whitespace().next()?;
    // A carriage return at the end of the line is part of the name.
    Some(if line.ends_with(b"\r") { format!("{word}\\r") } else { word.to_owned() })
}
