//! What an exit may mean.

use reraise::backend::{Exit, Signal};
use reraise::history::deaths::{Cause, Death};

/// Something to think of, where there is.
pub(super) fn of(death: &Death) -> Option<&'static str> {
    if death.cause != Cause::Itself {
        return None;
    }
    match death.exit {
        Exit::Code(0) => Some("it ended by itself: a service has to stay in the foreground"),
        Exit::Code(126) => Some("126: a shell found a command that it may not execute"),
        Exit::Code(127) => Some("127: a shell did not find a command"),
        Exit::Signal { .. } if death.is_for_memory => {
            Some("it was killed for memory: give it more, or let it use less")
        }
        Exit::Signal { number, .. } if number == Signal::SIGKILL as i32 => {
            Some("KILL came from outside: from somebody, or from the kernel for want of memory")
        }
        Exit::Signal { core: true, .. } => {
            Some("its core dump tells where it crashed: coredumpctl list, or see core(5)")
        }
        Exit::Signal { number, .. } if is_crash(number) => Some("it crashed: a bug in the program"),
        Exit::Signal { .. } => Some("the signal came from outside, and not from Reraise"),
        Exit::Unknown => Some("its supervisors were killed together, and its exit code is lost"),
        Exit::Code(_) => None,
    }
}

fn is_crash(number: i32) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP]
        .into_iter()
        .any(|signal| signal as i32 == number)
}
