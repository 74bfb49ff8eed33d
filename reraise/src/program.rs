//! The program `auto-reraise`: its command line, taken apart by hand, since a
//! worker must stay small.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode as Code;

use crate::backend::native::{self, Native};
use crate::check;
use crate::context::Context;
use crate::error::{ExitCode, Fault};
use crate::keeper::{self, Inheritance, Orders};
use crate::lock::{self, Holder};
use crate::name::{ServiceName, printable};
use crate::paths::{self, Dirs, Files, Given};
use crate::supervise::begin::{self, Assignment, Task};
use crate::supervise::launch::{self, Under};
use crate::supervise::link::Link;
use crate::supervise::machine::Outcome;
use crate::supervise::others;
use crate::supervise::worker::Place;

const USAGE: &str = "\
Usage: auto-reraise [--dir DIR] [--piddir DIR] [--logdir DIR] NAME

Supervises the service NAME in the foreground, without a keeper: for systemd,
a container, or a look at what it does. Its output stays where it is, unless the
script sets config_log. TERM stops it, a second TERM hurries.

To supervise in the background, say: reraise start NAME
";

/// Runs the program.
#[must_use]
pub fn main() -> Code {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match run(&arguments) {
        Ok(code) => code,
        Err(fault) => {
            let mut text = fault.to_string();
            // `reraise up` is what was typed.
            if !arguments.iter().any(|word| word == "--up") {
                text = text.replacen("reraise:", "auto-reraise:", 1);
            }
            let _ = writeln!(std::io::stderr(), "{text}");
            fault.code as u8
        }
    };
    Code::from(code)
}

fn run(arguments: &[OsString]) -> Result<u8, Fault> {
    let mut given = Given {
        dir: std::env::var_os("RERAISE_DIR"),
        piddir: std::env::var_os("RERAISE_PIDDIR"),
        logdir: std::env::var_os("RERAISE_LOGDIR"),
    };
    let mut keeper_for = None;
    let (mut is_up, mut is_quiet, mut is_check) = (false, false, false);
    let mut inherited = None;
    let mut names = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            let missing = || usage(&printable(word), "needs a value");
            words.next().cloned().ok_or_else(missing)
        };
        match word.to_str() {
            Some("--help" | "-h") => return say(USAGE),
            Some("--version" | "-V") => {
                return say(concat!("auto-reraise ", env!("CARGO_PKG_VERSION"), "\n"));
            }
            Some("--dir") => given.dir = Some(value()?),
            Some("--piddir") => given.piddir = Some(value()?),
            Some("--logdir") => given.logdir = Some(value()?),
            // How `reraise`, and our own workers, start a keeper.
            Some("--up") if keeper_for.is_some() => is_up = true,
            Some("--inherit") if keeper_for.is_some() => {
                let word = value()?;
                let left = word.to_str().and_then(Inheritance::from_word);
                inherited = Some(left.ok_or_else(|| usage("--inherit", "makes no sense"))?);
            }
            Some("--check") => is_check = true,
            Some("--quiet") if keeper_for.is_some() => is_quiet = true,
            Some("--keeper") => keeper_for = Some(PathBuf::from(value()?)),
            Some(option) if option.starts_with('-') => {
                return Err(usage(option, "is no option"));
            }
            _ => names.push(named(word)?),
        }
    }
    let own = || {
        std::env::current_exe().map_err(|e| Fault::system("auto-reraise", "cannot find itself", &e))
    };
    if is_check {
        return say(&check::run(&own()?, given.piddir.map(PathBuf::from).as_deref())?);
    }
    if let Some(piddir) = keeper_for {
        let up = is_up.then_some(names);
        return keeper::run(Orders { program: own()?, piddir, up, is_quiet, inherited });
    }
    let mut names = names.into_iter();
    let Some(name) = names.next() else { return Err(usage("NAME", "is missing")) };
    if let Some(further) = names.next() {
        return Err(usage(further.as_str(), "is one name too many"));
    }
    foreground(&given, name).map(|code| code as u8)
}

fn named(word: &OsString) -> Result<ServiceName, Fault> {
    ServiceName::new(word).map_err(|e| Fault::new(ExitCode::Usage, printable(word), e, e.advice()))
}

fn usage(object: &str, what: &str) -> Fault {
    Fault::new(ExitCode::Usage, object, what, "see: auto-reraise --help")
}

fn say(text: &str) -> Result<u8, Fault> {
    let failed = |e: std::io::Error| Fault::system("standard output", "cannot be written", &e);
    std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    Ok(0)
}

#[inline(never)]
fn foreground(given: &Given, name: ServiceName) -> Result<ExitCode, Fault> {
    let me = nix::unistd::geteuid().as_raw();
    let dirs = Dirs::resolve(given, std::env::var_os("HOME"), me)?;
    let piddir = dirs.piddir(me);
    paths::prepare_piddir(&piddir, me)?;
    let system = |e: std::io::Error| Fault::system(&name, "cannot be supervised", &e);
    let context = Context::current(&dirs.dir, &dirs.logdir(me)).map_err(system)?;
    let loaded = launch::load(&context, &name)?;
    if let Some(problem) = loaded.problems.first() {
        return Err(launch::config_fault(&name, &loaded.entry.program, problem));
    }
    let files = Files::of(&piddir, me, &name);
    match lock::holder_of(&files.file("lock"), 0).map_err(system)? {
        Holder::Nobody => {}
        Holder::Pid(pid) => {
            let what = format!("is supervised already (worker-pid={pid})");
            let advice = format!("stop it first: reraise stop {name}");
            return Err(Fault::new(ExitCode::Failed, &name, what, advice));
        }
        Holder::Elsewhere => {
            let what = "is supervised from another container";
            return Err(Fault::new(ExitCode::Failed, &name, what, "use another --piddir here"));
        }
    }
    let place = Place {
        boot: native::boot_id().map_err(system)?,
        space: native::pid_space().map_err(system)?,
    };
    let mut backend = Native::new(&begin::SIGNALS).map_err(system)?;
    let task = Task::Start { client: String::new(), context: context.encode().into(), once: false };
    let link = Link::none();
    let assignment =
        Assignment { piddir, name: name.clone(), task, place, link, under: Under::Nobody };
    backend.spare(others::of(&assignment));
    backend.share_looks(paths::state_of(&assignment.piddir, nix::unistd::geteuid().as_raw()));
    match begin::supervise(backend, assignment).map_err(system)? {
        Some(Outcome::Stopped | Outcome::Done(_)) => Ok(ExitCode::Ok),
        Some(Outcome::Failed(exit)) => Err(Fault::new(
            ExitCode::Failed,
            &name,
            format!("failed to start: {exit}"),
            "its own output says why",
        )),
        Some(Outcome::Unlaunchable(error)) => {
            Err(crate::words::unlaunchable(&name, &loaded.entry, error))
        }
        Some(Outcome::Survived) => Err(Fault::new(
            ExitCode::Failed,
            &name,
            "was stopped, but processes outlived all signals",
            "see what they wait for: ps -ef",
        )),
        Some(Outcome::NotRunning) | None => Ok(ExitCode::Failed),
    }
}
