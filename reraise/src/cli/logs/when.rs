//! Times: what `--since` and `--until` understand, and as they are shown.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use reraise::error::{ExitCode, Fault};
use reraise::logger::names::days;
use reraise::messages;

/// What may stand there.
const ADVICE: &str = "say 10m, 2h30m, '2026-11-22 06:00', 06:00, yesterday or @EPOCH";

/// Now, in microseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A time of an option, in microseconds since 1970.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(option: &str, text: &str, now: i64) -> Result<i64, Fault> {
    let text = text.trim();
    let hour = if option == "--until" { Twice::Second } else { Twice::First };
    let fault = |what: String| Fault::new(ExitCode::Usage, option, what, ADVICE);
    let known = if let Some(epoch) = text.strip_prefix('@') {
        fraction(epoch)
    } else {
        match text {
            "now" => Some(now),
            "today" => midnight(now, 0, hour),
            "yesterday" => midnight(now, -1, hour),
            _ => {
                let ago = ago(text).map(|micros| now.saturating_sub(micros));
                ago.or_else(|| of_day(text, now, hour))
            }
        }
    };
    known.ok_or_else(|| fault(format!("{text:?} is no time")))
}

/// Which of two moments is meant, where the clock was set back and showed a time twice.
#[derive(Debug, Clone, Copy)]
enum Twice {
    First,
    Second,
}

/// `2h30m` in microseconds.
fn ago(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = &rest[..digits];
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        total = total.checked_add(fraction(number)?.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    (!text.is_empty()).then_some(total)
}

/// Seconds with or without a fraction, in microseconds.
fn fraction(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) || text.ends_with('.') {
        return None;
    }
    let micros: String = part.chars().chain("000000".chars()).take(6).collect();
    whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)
}

/// A date, a time of today, or both.
fn of_day(text: &str, now: i64, hour: Twice) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    let (zone, text) = zone(text)?;
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (date, time.trim_start()),
        None if text.contains(':') => ("", text),
        None => (text, "00:00"),
    };
    let today = local(now.div_euclid(1_000_000))?;
    let (year, month, day) = match date {
        "" | "today" => {
            (i64::from(today.tm_year) + 1900, i64::from(today.tm_mon) + 1, today.tm_mday.into())
        }
        "yesterday" => {
            let day = local(midnight(now, -1, hour)? / 1_000_000)?;
            (i64::from(day.tm_year) + 1900, i64::from(day.tm_mon) + 1, day.tm_mday.into())
        }
        date => {
            let mut parts = date.split('-');
            let mut number = |digits| {
                let part = parts.next()?;
                let is_right = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
                if is_right { part.parse::<i64>().ok() } else { None }
            };
            let found = (number(4)?, number(2)?, number(2)?);
            if parts.next().is_some() {
                return None;
            }
            found
        }
    };
    let next = if month == 12 { days(year + 1, 1, 1) } else { days(year, month + 1, 1) };
    if !(1..=12).contains(&month) || day < 1 || day > next - days(year, month, 1) {
        return None;
    }
    let mut parts = time.splitn(3, ':');
    let number = |part: &str| {
        let is_right = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if is_right { part.parse::<i64>().ok() } else { None }
    };
    let (hours, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let micros = fraction(parts.next().unwrap_or("0"))?;
    if hours > 23 || minute > 59 || micros >= 61_000_000 {
        return None;
    }
    let seconds = match zone {
        Some(east) => days(year, month, day) * 86_400 + hours * 3600 + minute * 60 - east,
        None => epoch((year, month, day), hours * 60 + minute, hour)?,
    };
    Some(seconds * 1_000_000 + micros)
}

/// The seconds east of Greenwich at the end of the text, if it says so, and the rest.
fn zone(text: &str) -> Option<(Option<i64>, &str)> {
    if let Some(rest) = text.strip_suffix(['Z', 'z']) {
        return Some((Some(0), rest.trim_end()));
    }
    // After the time: the date has `-` too.
    let colon = text.find(':').unwrap_or(text.len());
    let Some(at) = text[colon..].find(['+', '-']).map(|at| colon + at) else {
        return Some((None, text));
    };
    let digits: String = text[at + 1..].chars().filter(|&c| c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = (digits[..2].parse::<i64>().ok()?, digits[2..].parse::<i64>().ok()?);
    let east = hours * 3600 + minutes * 60;
    let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
    (hours < 24 && minutes < 60).then_some((Some(sign * east), text[..at].trim_end()))
}

/// The beginning of today, or of a day so many days from it.
fn midnight(now: i64, from_today: i64, hour: Twice) -> Option<i64> {
    let today = local(now.div_euclid(1_000_000))?;
    let day = i64::from(today.tm_mday) + from_today;
    let date = (i64::from(today.tm_year) + 1900, i64::from(today.tm_mon) + 1, day);
    Some(epoch(date, 0, hour)? * 1_000_000)
}

/// A number in another type: the system's are not the same everywhere.
fn number<A, B: TryFrom<A>>(number: A) -> Option<B> {
    number.try_into().ok()
}

/// The local date and time of a moment in seconds since 1970.
fn local(seconds: i64) -> Option<libc::tm> {
    let time: libc::time_t = number(seconds)?;
    // SAFETY: numbers, and pointers for which null is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to what they should, and no other thread changes TZ.
    let found = unsafe { libc::localtime_r(&raw const time, &raw mut tm) };
    (!found.is_null()).then_some(tm)
}

/// The moment of a local date and minute; the day may be one before the first.
fn epoch((year, month, day): (i64, i64, i64), minute: i64, hour: Twice) -> Option<i64> {
    let shown = days(year, month, day).checked_mul(86_400)?.checked_add(minute * 60)?;
    let east = |time: i64| local(time).and_then(|tm| number::<_, i64>(tm.tm_gmtoff));
    // As the clock went the day before, and as it goes the day after.
    let moments = [shown - 86_400, shown + 86_400].map(|near| east(near).map(|east| shown - east));
    let fit = moments.into_iter().flatten().filter(|&time| east(time) == Some(shown - time));
    let found = match hour {
        Twice::First => fit.min(),
        Twice::Second => fit.max(),
    };
    // Otherwise the clock has passed it over, and the system says what comes near.
    found.or_else(|| near((year, month, day), minute))
}

/// The same as mktime(3) sees it.
fn near((year, month, day): (i64, i64, i64), minute: i64) -> Option<i64> {
    // SAFETY: numbers, and pointers for which null is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    tm.tm_year = number(year - 1900)?;
    tm.tm_mon = number(month - 1)?;
    tm.tm_mday = number(day)?;
    tm.tm_hour = number(minute / 60)?;
    tm.tm_min = number(minute % 60)?;
    // The system knows whether there was summer time.
    tm.tm_isdst = -1;
    // SAFETY: it points to what it should, and no other thread changes TZ.
    let time = unsafe { libc::mktime(&raw mut tm) };
    number(time).filter(|&time: &i64| time != -1)
}

/// A time in microseconds since 1970 as RFC 3339 has it, in UTC.
pub(super) fn rfc3339(time: i64) -> String {
    let mut text = messages::utc(time.div_euclid(1_000_000).max(0).cast_unsigned());
    text.pop();
    // To a string: that cannot fail.
    let _ = write!(text, ".{:06}Z", time.rem_euclid(1_000_000));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::clock::local as shown;

    /// 2026-11-29 11:53:00 UTC.
    const NOW: i64 = 1_795_953_180_000_000;

    fn seconds_ago(text: &str) -> Option<i64> {
        parse("--since", text, NOW).ok().map(|time| (NOW - time) / 1_000_000)
    }

    #[test]
    fn so_long_ago() {
        for (text, seconds) in [
            ("10m", 600),
            ("2h30m", 9000),
            ("2h 30min", 9000),
            ("1d", 86_400),
            ("1w", 604_800),
            ("1.5h", 5400),
            ("45s", 45),
            ("now", 0),
            ("0s", 0),
        ] {
            assert_eq!(seconds_ago(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn moments() {
        for (text, expected) in [
            ("@0", 0),
            ("@1795953180.25", NOW + 250_000),
            ("2026-11-29T11:53:00Z", NOW),
            ("2026-11-29 11:53:00.000001Z", NOW + 1),
            ("2026-11-29T12:53:00+01:00", NOW),
            ("2026-11-29T12:53+0100", NOW),
            ("2026-11-29T06:23:00-05:30", NOW),
            ("2028-02-29T00:00:00Z", 1_835_395_200_000_000),
        ] {
            assert_eq!(parse("--since", text, 5).ok(), Some(expected), "{text}");
        }
    }

    #[test]
    fn local_moments_are_shown_as_they_are_typed() {
        for text in ["2026-11-22 06:00:05", "1999-12-31 23:59:59", "2028-02-29 12:00:00"] {
            assert_eq!(shown(parse("--since", text, NOW).unwrap()), text);
        }
        let at = |text: &str| shown(parse("--since", text, NOW).unwrap());
        let today = &shown(NOW)[..10];
        assert_eq!(at("06:00"), format!("{today} 06:00:00"));
        assert_eq!(at("6:00:07"), format!("{today} 06:00:07"));
        assert_eq!(at("today"), format!("{today} 00:00:00"));
        assert_eq!(at("today 05:30"), format!("{today} 05:30:00"));
        assert_eq!(at("2026-11-22"), "2026-11-22 00:00:00");
        assert_eq!(at("2026-11-22T06:00"), "2026-11-22 06:00:00");
        let yesterday = at("yesterday");
        assert!(yesterday.ends_with(" 00:00:00") && yesterday.as_str() < today, "{yesterday}");
        assert_eq!(at("yesterday 06:00")[..10], yesterday[..10]);
        assert_eq!(rfc3339(NOW + 7), "2026-11-29T11:53:00.000007Z");
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "10",
            "10x",
            "m",
            "-5m",
            "1..5m",
            "@",
            "@x",
            "@1.",
            "25:00",
            "06:60",
            "6",
            "06:00:61",
            "2026-13-01",
            "2026-02-29",
            "2026-00-01",
            "2026-1-1",
            "2026-11-22-01",
            "06:00+1",
            "06:00+25:00",
            "soon",
            "2026-11-22 06",
            "99999999999999999999m",
            "9999999999999w",
            "é",
            "1é",
        ] {
            let fault = parse("--since", text, NOW).unwrap_err();
            assert_eq!((fault.object.as_str(), fault.code), ("--since", ExitCode::Usage), "{text}");
        }
    }
}
