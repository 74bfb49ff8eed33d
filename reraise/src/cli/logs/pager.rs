//! A pager, as git has one.

use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{SigHandler, Signal, signal};

use reraise::error::{ExitCode, Fault};

/// A pager that runs.
pub(super) struct Pager {
    child: Child,
    command: String,
}

/// The command that is wanted; none for `cat`.
fn command() -> Option<String> {
    let set = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let wanted = set("RERAISE_PAGER").or_else(|| set("PAGER"));
    let wanted = wanted.unwrap_or_else(|| if is_there("less") { "less" } else { "" }.to_owned());
    let wanted = wanted.trim();
    (!wanted.is_empty() && wanted != "cat").then(|| wanted.to_owned())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

impl Pager {
    /// Starts one, if one is wanted; what it reads.
    pub(super) fn start() -> io::Result<Option<(Self, ChildStdin)>> {
        let Some(command) = command() else { return Ok(None) };
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &command]).stdin(Stdio::piped());
        // Short output stays on the screen, colours are colours, and the screen remains.
        for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
            if std::env::var_os(name).is_none() {
                shell.env(name, value);
            }
        }
        let mut child = shell.spawn()?;
        // Ctrl-C is for the pager; we end when it does.
        // SAFETY: to ignore a signal needs no handler that could do harm.
        let _ = unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) };
        let stdin = child.stdin.take();
        Ok(stdin.map(|stdin| (Self { child, command }, stdin)))
    }

    /// Waits until the user has read enough. What it reads must be closed.
    pub(super) fn wait(mut self) -> Result<(), Fault> {
        let status = self.child.wait();
        // As a shell says that it found no such program.
        match status.map(|status| status.code()) {
            Ok(Some(126 | 127)) => {
                let what = "cannot be run as a pager";
                let advice = "set RERAISE_PAGER or PAGER, or say --no-pager";
                Err(Fault::new(ExitCode::Usage, self.command, what, advice))
            }
            _ => Ok(()),
        }
    }
}
