//! Standard output and error. Neither panics when the other side is gone, and
//! the first failure of standard output ends nothing: what was asked for is done,
//! and what was lost is said at the end.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use reraise::error::Fault;

/// The first failure of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Remembers a failure of standard output; whether there is none.
pub(crate) fn remember(done: io::Result<()>) -> bool {
    match done {
        Ok(()) => true,
        Err(e) => {
            let _ = FAILED.set(e);
            false
        }
    }
}

/// A line on standard output.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    remember(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")));
}

/// Much text on standard output, as it is; whether it could be written.
pub(crate) fn text(text: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    remember(out.write_all(text).and_then(|()| out.flush()))
}

/// What cannot be done, on standard error.
pub(crate) fn fault(fault: &Fault) {
    let text = if wants_colour(&io::stderr()) {
        let plain = fault.to_string();
        let (head, advice) = plain.split_once('\n').unwrap_or((&plain, ""));
        let advice = if advice.is_empty() { String::new() } else { format!("\n{advice}") };
        format!("\x1b[31m{head}\x1b[0m{advice}\n")
    } else {
        format!("{fault}\n")
    };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Much text on standard error, as it is.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes what was kept back.
pub(crate) fn flush() {
    remember(io::stdout().flush());
}

/// Ends the output of this program. That nobody reads any more is no fault.
pub(crate) fn end() -> Result<(), Fault> {
    flush();
    match FAILED.get() {
        Some(e) if !matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EBADF)) => {
            Err(Fault::system("standard output", "cannot be written", e))
        }
        _ => Ok(()),
    }
}

fn wants_colour(stream: &impl IsTerminal) -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    let allowed = *ASKED.get_or_init(|| {
        std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
    });
    allowed && stream.is_terminal()
}

/// A colour for a state, or none in a pipe.
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub(crate) fn new() -> Self {
        Self { on: wants_colour(&io::stdout()) }
    }

    /// For anything that is no terminal.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { on: false }
    }

    /// The text in green, yellow (33) or whatever the code says.
    pub(crate) fn colour(&self, text: &str, code: u8) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line that is overwritten, on a terminal only, and only after a moment.
pub(crate) struct Progress {
    on: bool,
    shown: bool,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new() -> Self {
        Self { on: io::stderr().is_terminal(), shown: false }
    }

    /// Shows it, cut to one line.
    pub(crate) fn show(&mut self, text: &str) {
        if self.on {
            let text: String = text.chars().take(78).collect();
            let _ = io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
            self.shown = true;
        }
    }

    /// Takes it away.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            let _ = io::stderr().write_all(b"\r\x1b[K");
            self.shown = false;
        }
    }
}
