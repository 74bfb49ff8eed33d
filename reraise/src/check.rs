//! `auto-reraise --check`: whether this program can do its work here. The one
//! that is about to be replaced asks, before it is too late.

use std::fs;
use std::path::Path;

use crate::backend::native::{self, EventQueue};
use crate::context;
use crate::error::{ExitCode, Fault};
use crate::name::ServiceName;
use crate::paths::{self, Files};
use crate::record::Record;
use crate::slot::{Found, SlotFile};
use crate::version::{VERSION, own_build};

/// What it says when all is well: which version and build it is of.
///
/// # Errors
/// What it cannot do here, or cannot read of what is in the directory of records.
pub fn run(program: &Path, piddir: Option<&Path>) -> Result<String, Fault> {
    let system =
        |what: &'static str| move |e: std::io::Error| Fault::system("auto-reraise", what, &e);
    native::boot_id().map_err(system("cannot tell this boot from others"))?;
    native::pid_space().map_err(system("cannot tell its processes from others"))?;
    EventQueue::new(&[]).map_err(system("cannot wait for events"))?;
    let build = own_build(program).map_err(system("cannot find itself"))?;
    if let Some(piddir) = piddir {
        let me = nix::unistd::geteuid().as_raw();
        let services = paths::state_of(piddir, me).join("s");
        let names = fs::read_dir(services).into_iter().flatten().flatten();
        for name in names.flat_map(|entry| ServiceName::new(&entry.file_name())) {
            readable(&Files::of(piddir, me, &name), &name)?;
        }
    }
    Ok(format!("auto-reraise {VERSION} build={build:x}\n"))
}

/// Refuses what a later version has written.
fn readable(files: &Files, name: &ServiceName) -> Result<(), Fault> {
    let later = |what: &str| {
        let what = format!("{what} was written by a later version of Reraise than {VERSION}");
        Err(Fault::new(ExitCode::System, name, what, "install that version, or a later one"))
    };
    if let Ok(slot) = SlotFile::open_to_read(&files.file("run"))
        && let Found::Later(_) = slot.look()
    {
        return later("its run slot");
    }
    if context::is_kept_by_later(&files.file("context")) {
        return later("what it was started with");
    }
    let line = fs::read(&files.record).unwrap_or_default();
    if Record::is_later(&line) {
        return later("its record");
    }
    Ok(())
}
