//! `reraise skeleton`.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use reraise::error::{ExitCode, Fault};
use reraise::name::{ServiceName, printable};
use reraise::{paths, skeleton};

use super::{Setting, console};

/// Prints a script to edit.
pub(crate) fn print() -> ExitCode {
    console::text(skeleton::skeleton().as_bytes());
    ExitCode::Ok
}

/// Writes a script for a command, ready to start.
pub(crate) fn write(
    setting: &Setting,
    name: &OsStr,
    command: &[OsString],
) -> Result<ExitCode, Fault> {
    let name = ServiceName::new(name)
        .map_err(|e| Fault::new(ExitCode::Usage, printable(name), e, e.advice()))?;
    if command.is_empty() {
        let what = "no command for it was given";
        let advice =
            format!("for example: reraise skeleton {name} -- python3 -u -m http.server 8000");
        return Err(Fault::new(ExitCode::Usage, name, what, advice));
    }
    let here = std::env::current_dir()
        .map_err(|e| Fault::system("the present directory", "cannot be found", &e))?;
    let script = skeleton::skeleton_for(command, &here)
        .map_err(|what| Fault::new(ExitCode::Usage, &name, what, "see: reraise skeleton --help"))?;
    let dir = &setting.dirs.dir;
    paths::make_given(dir, "--dir")?;
    paths::check_dir(dir, &[setting.dirs.uid()])?;
    let path = dir.join(name.as_str());
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o755).open(&path) {
        Ok(mut file) => {
            if let Err(e) = file.write_all(&script) {
                // Half a script must not be started.
                let _ = std::fs::remove_file(&path);
                return Err(Fault::system(path.display(), "cannot be written", &e));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let what = format!("exists already ({})", path.display());
            let advice = "choose another name, or edit that one; it stays as it is";
            return Err(Fault::new(ExitCode::Failed, name, what, advice));
        }
        Err(e) => return Err(Fault::system(path.display(), "cannot be made", &e)),
    }
    console::line(&format!("{}: written; now: reraise start {name}", path.display()));
    Ok(ExitCode::Ok)
}
