//! What keeper and workers have to say, a line each on standard error: that is
//! `.reraise-UID/messages`, the terminal of a worker started by hand, or wherever
//! `reraise up` leaves it.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Somebody reads along, who has clocks of their own.
static IS_FOREGROUND: AtomicBool = AtomicBool::new(false);

/// From now on, and in what is forked from now on, lines are for a terminal or
/// for whoever collects the output of a container: without time and pid.
pub fn say_to_foreground() {
    IS_FOREGROUND.store(true, Ordering::Relaxed);
}

/// Standard error is a file of our own, which may not grow without end.
static IS_OUR_FILE: AtomicBool = AtomicBool::new(false);

/// Bytes of it. What is beyond that is forgotten together: a service that falls every
/// second says as much in a week.
const FILE_MAX: u64 = 16 << 20;

/// From now on, and in what is forked from now on, standard error is that file, opened to
/// append.
pub fn say_to_file() {
    IS_OUR_FILE.store(true, Ordering::Relaxed);
}

fn bound_file() {
    let stderr = std::io::stderr();
    if IS_OUR_FILE.load(Ordering::Relaxed)
        && fstat(&stderr).is_ok_and(|about| about.st_size.cast_unsigned() > FILE_MAX)
    {
        let _ = ftruncate(&stderr, 0);
    }
}

/// What a pipe takes without waiting when it takes anything (PIPE_BUF is at
/// least 512 everywhere, and 4096 on Linux).
const LINE_MAX: usize = 512;

/// Says it. A full disk or a closed terminal is no reason to stop supervising,
/// nor is one that nobody reads from.
pub fn say(who: &str, what: &str) {
    let what = what.escape_debug();
    // One write, so that lines of several processes do not mix.
    if !IS_FOREGROUND.load(Ordering::Relaxed) {
        bound_file();
        let line = format!("{} {who}[{}]: {what}\n", stamp(), std::process::id());
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    let mut line = format!("reraise: {who}: {what}");
    let mut end = line.len().min(LINE_MAX - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push('\n');
    let stderr = std::io::stderr();
    let mut one = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut one, PollTimeout::ZERO) == Ok(1) {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// The present time in UTC, as RFC 3339 writes it.
fn stamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    utc(now)
}

/// Seconds since 1970 as `2026-11-22T06:00:00Z`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let time = seconds % 86_400;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day since 1970-01-01, counted in eras of 400 years
/// that begin in March, so that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
