//! Resource limits: which ones a service keeps of its `start`, and what the processes
//! that look after it allow themselves instead.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::Limit;

/// The limits of a `start` that are kept for its service. What a system lacks, or nix
/// does not name there, is not in its list.
pub const KEPT_LIMITS: &[Resource] = &[
    #[cfg(target_os = "linux")]
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_STACK,
];

/// Allows us whatever we may allow ourselves (setrlimit(2)): what our caller was limited
/// to is for the service that was started there. What the system refuses stays as it was.
/// A file that grows too long is an error then, and no signal.
pub fn raise_limits() {
    for resource in [
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_DATA,
        #[cfg(target_os = "linux")]
        Resource::RLIMIT_AS,
    ] {
        let Ok((soft, hard)) = getrlimit(resource) else { continue };
        let raise = |to| setrlimit(resource, to, hard).is_ok();
        if !raise(hard) && resource == Resource::RLIMIT_NOFILE {
            raise(instead_of(soft, hard));
        }
    }
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// The soft limit where the hard one is refused for it: macOS gives "unlimited" for
/// the latter, and for the former takes min(`OPEN_MAX`, hard) only (setrlimit(2),
/// COMPATIBILITY) in the kernels that do not cut it themselves.
fn instead_of(soft: rlim_t, hard: rlim_t) -> rlim_t {
    /// sys/syslimits.h of macOS.
    const OPEN_MAX: rlim_t = 10_240;
    hard.min(OPEN_MAX).max(soft)
}

/// Sets one for the present process; allowed between fork and exec.
pub(super) fn set(limit: Limit) -> nix::Result<()> {
    let value = libc::rlimit { rlim_cur: number(limit.soft), rlim_max: number(limit.hard) };
    // SAFETY: the pointer is to a live structure.
    let answer = unsafe { libc::setrlimit(limit.resource as _, &raw const value) };
    Errno::result(answer).map(drop)
}

/// A limit as this system writes it; above its infinity is infinity.
fn number(limit: u64) -> rlim_t {
    const INFINITY: i128 = libc::RLIM_INFINITY as i128;
    i128::from(limit).min(INFINITY) as rlim_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_refused_is_not_lowered_instead() {
        let infinity = libc::RLIM_INFINITY;
        for (soft, hard, expected) in [
            (256, infinity, 10_240),
            (256, 4096, 4096),
            (20_000, infinity, 20_000),
            (infinity, infinity, infinity),
        ] {
            assert_eq!(instead_of(soft, hard), expected, "{soft} of {hard}");
        }
    }
}
