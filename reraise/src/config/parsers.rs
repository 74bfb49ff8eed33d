//! Turns the text of each kind of value into its type, or says what is wrong
//! with it.

use std::iter;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::shown;
use super::values::{ExitSet, Ladder, LogFull, LogTime, LogTo, Restart, Rung, StopTo};
use crate::backend::Signal;

/// The words that stand for values, in any case of letters.
pub(super) type Words<T> = &'static [(&'static str, T)];

pub(super) const RESTART: Words<Restart> =
    &[("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)];
pub(super) const STOP_TO: Words<StopTo> =
    &[("tree", StopTo::Tree), ("group", StopTo::Group), ("process", StopTo::Process)];
pub(super) const YES_NO: Words<bool> =
    &[("yes", true), ("no", false), ("true", true), ("false", false), ("1", true), ("0", false)];

pub(super) const STDERR: Words<bool> = &[("merge", false), ("separate", true)];
pub(super) const LOG_TIME: Words<LogTime> = &[
    ("none", LogTime::None),
    ("iso", LogTime::Iso),
    ("epoch", LogTime::Epoch),
    ("tai64n", LogTime::Tai64n),
];
pub(super) const LOG_FULL: Words<LogFull> = &[
    ("drop-oldest", LogFull::DropOldest),
    ("drop-new", LogFull::DropNew),
    ("block", LogFull::Block),
];

pub(super) fn one_of<T: Copy>(words: Words<T>, text: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| *value).ok_or_else(|| format!("`{}` is not understood", shown(text)))
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{}` is not a number of seconds", shown(text));
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    if [whole, fraction].iter().any(|d| d.is_empty() || !d.bytes().all(|b| b.is_ascii_digit())) {
        return Err(bad());
    }
    let whole = u32::from_str(whole).map_err(|_| format!("`{}` is too long", shown(text)))?;
    let digits = fraction.bytes().chain(iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Ok(Duration::new(whole.into(), nanos))
}

pub(super) fn max_retry(text: &str) -> Result<Option<u32>, String> {
    let word = text.trim();
    if word.eq_ignore_ascii_case("unlimited") {
        return Ok(None);
    }
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return word.parse().map(Some).map_err(|_| format!("`{}` is too large", shown(word)));
    }
    Err(format!("`{}` is not a whole number", shown(text)))
}

/// Digits and perhaps one letter behind them, which stands for a factor.
fn scaled(text: &str, units: &[(char, u64)]) -> Option<Result<u64, String>> {
    let word = text.trim();
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &word[digits.len()..];
    let mut letters = unit.chars();
    let factor = match (letters.next(), letters.next()) {
        (None, _) => 1,
        (Some(letter), None) => units.iter().find(|(l, _)| l.eq_ignore_ascii_case(&letter))?.1,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    Some(number.ok_or_else(|| format!("`{}` is too large", shown(word))))
}

/// A number of bytes; k, M, G and T are powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let units = [('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30), ('t', 1 << 40)];
    scaled(text, &units).unwrap_or_else(|| Err(format!("`{}` is not a size", shown(text))))
}

/// A time in seconds, minutes, hours, days or weeks.
pub(super) fn age(text: &str) -> Result<Option<Duration>, String> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)];
    match scaled(text, &units) {
        Some(Ok(0)) | None => Err(format!("`{}` is not a time", shown(text))),
        Some(seconds) => seconds.map(|seconds| Some(Duration::from_secs(seconds))),
    }
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    let word = text.trim();
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{}` is not a whole number", shown(text)));
    }
    word.parse().map_err(|_| format!("`{}` is too large", shown(word)))
}

/// What a shell is to run; `none` for nothing.
pub(super) fn command(text: &str) -> Result<Option<String>, String> {
    match text.trim() {
        word if word.eq_ignore_ascii_case("none") => Ok(None),
        word if word.contains('\0') => Err("command contains a NUL byte".to_owned()),
        word => Ok(Some(word.to_owned())),
    }
}

/// A signal by its name, with or without `SIG`.
fn signal(name: &str) -> Result<Signal, String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).map_err(|_| format!("`{}` is not a signal", shown(name)))
}

fn signal_or_number(word: &str) -> Result<Signal, String> {
    match word.parse::<i32>() {
        Ok(number) => Signal::try_from(number).map_err(|_| format!("there is no signal {number}")),
        Err(_) => signal(word),
    }
}

pub(super) fn ok_exit(text: &str) -> Result<ExitSet, String> {
    let mut set = ExitSet::default();
    let mut words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err("value is empty".to_owned());
    }
    for word in words {
        if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let code = word.parse().map_err(|_| format!("`{}` is not an exit code", shown(word)));
            set.insert_code(code?);
        } else {
            set.insert_signal(signal(word)?);
        }
    }
    Ok(set)
}

pub(super) fn ladder(text: &str) -> Result<Ladder, String> {
    let words: Vec<&str> = text.split(',').collect();
    if words.len() > Ladder::RUNGS_MAX {
        return Err(format!("there are {} signals, more than {}", words.len(), Ladder::RUNGS_MAX));
    }
    let mut rungs = Vec::with_capacity(words.len());
    for (number, rung) in words.iter().enumerate() {
        let mut parts = rung.split_whitespace();
        let signal = match parts.next() {
            Some(word) => signal_or_number(word)?,
            None => return Err(format!("signal {} is missing", number + 1)),
        };
        let wait = match parts.next() {
            Some(word) => seconds(word)?,
            None if number + 1 == words.len() => Duration::from_secs(10),
            None => return Err(format!("`{}` has no seconds to wait", shown(rung.trim()))),
        };
        if let Some(more) = parts.next() {
            return Err(format!("`{}` comes before a comma", shown(more)));
        }
        rungs.push(Rung { signal, wait });
    }
    let last = rungs.pop().ok_or("value is empty")?;
    Ok(Ladder::new(rungs, last))
}

pub(super) fn log(text: &str) -> Result<LogTo, String> {
    match one_of(YES_NO, text) {
        Ok(true) => Ok(LogTo::Yes),
        Ok(false) => Ok(LogTo::No),
        Err(_) if text.contains('\0') => Err("path contains a NUL byte".to_owned()),
        Err(_) if Path::new(text).is_absolute() => Ok(LogTo::Path(text.into())),
        Err(_) => Err(format!("`{}` is not an absolute path", shown(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Exit;

    #[test]
    fn numbers_of_seconds() {
        let cases = [
            ("0", Ok(Duration::ZERO)),
            ("10", Ok(Duration::from_secs(10))),
            (" 10 ", Ok(Duration::from_secs(10))),
            ("007", Ok(Duration::from_secs(7))),
            ("0.5", Ok(Duration::from_millis(500))),
            ("1.050", Ok(Duration::from_millis(1050))),
            ("0.0000000019", Ok(Duration::from_nanos(1))),
            ("4294967295", Ok(Duration::from_secs(4_294_967_295))),
            ("4294967296", Err("`4294967296` is too long")),
            (".5", Err("`.5` is not a number of seconds")),
            ("5.", Err("`5.` is not a number of seconds")),
            ("1.2.3", Err("`1.2.3` is not a number of seconds")),
            ("-1", Err("`-1` is not a number of seconds")),
            ("+1", Err("`+1` is not a number of seconds")),
            ("1e3", Err("`1e3` is not a number of seconds")),
            ("inf", Err("`inf` is not a number of seconds")),
            ("10s", Err("`10s` is not a number of seconds")),
            ("١", Err("`١` is not a number of seconds")),
        ];
        for (text, value) in cases {
            assert_eq!(seconds(text), value.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn sizes_ages_counts_and_commands() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("4096", Ok(4096)),
            ("1k", Ok(1024)),
            ("10M", Ok(10 << 20)),
            ("2g", Ok(2 << 30)),
            ("1T", Ok(1 << 40)),
            ("", Err("`` is not a size")),
            ("M", Err("`M` is not a size")),
            ("10MB", Err("`10MB` is not a size")),
            ("1.5M", Err("`1.5M` is not a size")),
            ("-1", Err("`-1` is not a size")),
            ("99999999T", Err("`99999999T` is too large")),
        ] {
            assert_eq!(size(text), expected.map_err(str::to_owned), "{text}");
        }
        for (text, expected) in [
            ("none", Ok(None)),
            ("90", Ok(Some(90))),
            ("30m", Ok(Some(1800))),
            ("12H", Ok(Some(43_200))),
            ("7d", Ok(Some(604_800))),
            ("2w", Ok(Some(1_209_600))),
            ("0", Err("`0` is not a time")),
            ("1y", Err("`1y` is not a time")),
        ] {
            let expected = expected.map(|s: Option<u64>| s.map(Duration::from_secs));
            assert_eq!(age(text), expected.map_err(str::to_owned), "{text}");
        }
        assert_eq!(count(" 7 "), Ok(7));
        assert_eq!(count("-7"), Err("`-7` is not a whole number".to_owned()));
        assert_eq!(count("4294967296"), Err("`4294967296` is too large".to_owned()));
        assert_eq!(command("none"), Ok(None));
        assert_eq!(command(" gzip -9 "), Ok(Some("gzip -9".to_owned())));
        assert!(command("a\0b").is_err());
    }

    #[test]
    fn retries_words_and_logs() {
        assert_eq!(max_retry("0"), Ok(Some(0)));
        assert_eq!(max_retry("4294967295"), Ok(Some(u32::MAX)));
        assert_eq!(max_retry("Unlimited"), Ok(None));
        assert_eq!(max_retry("4294967296"), Err("`4294967296` is too large".to_owned()));
        for text in ["", "-1", "+1", "1.5", "many"] {
            assert_eq!(max_retry(text), Err(format!("`{text}` is not a whole number")));
        }
        assert_eq!(one_of(RESTART, "ON-FAILURE"), Ok(Restart::OnFailure));
        assert_eq!(one_of(STOP_TO, "process"), Ok(StopTo::Process));
        assert_eq!(one_of(YES_NO, "maybe"), Err("`maybe` is not understood".to_owned()));
        for (word, is_yes) in
            [("yes", true), ("TRUE", true), ("1", true), ("no", false), ("0", false)]
        {
            assert_eq!(one_of(YES_NO, word), Ok(is_yes));
            assert_eq!(log(word), Ok(if is_yes { LogTo::Yes } else { LogTo::No }));
        }
        assert_eq!(log("/var/log/x y"), Ok(LogTo::Path("/var/log/x y".into())));
        assert_eq!(log("log/x"), Err("`log/x` is not an absolute path".to_owned()));
        assert_eq!(log("/a\0b"), Err("path contains a NUL byte".to_owned()));
    }

    #[test]
    fn sets_of_exits() {
        let term = Exit::Signal { number: 15, core: false };
        let cases: &[(&str, Result<&[Exit], &str>)] = &[
            ("0", Ok(&[Exit::Code(0)])),
            ("0 2 TERM", Ok(&[Exit::Code(0), Exit::Code(2), term])),
            ("sigterm,255", Ok(&[Exit::Code(255), term])),
            ("256", Err("`256` is not an exit code")),
            ("-1", Err("`-1` is not an exit code")),
            ("0 TREM", Err("`TREM` is not a signal")),
            ("", Err("value is empty")),
            (" , ", Err("value is empty")),
        ];
        for (text, value) in cases {
            match value {
                Err(reason) => assert_eq!(ok_exit(text), Err((*reason).to_owned())),
                Ok(exits) => {
                    let set = ok_exit(text).unwrap();
                    assert!(exits.iter().all(|exit| set.contains(exit)), "{text}");
                    assert!(!set.contains(&Exit::Code(1)), "{text}");
                }
            }
        }
    }

    #[test]
    fn ladders() {
        use Signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
        type Rungs = &'static [(Signal, u64)];
        let cases: &[(&str, Result<Rungs, &str>)] = &[
            ("TERM 30, KILL 10", Ok(&[(SIGTERM, 30_000), (SIGKILL, 10_000)])),
            ("term 30,SIGKILL", Ok(&[(SIGTERM, 30_000), (SIGKILL, 10_000)])),
            (" sigint  0.5 , 15 1 , 9 ", Ok(&[(SIGINT, 500), (SIGTERM, 1000), (SIGKILL, 10_000)])),
            ("HUP", Ok(&[(SIGHUP, 10_000)])),
            ("TERM 0,TERM 0,TERM 0,TERM 0,TERM 0,TERM 0,TERM 0,TERM 0", Ok(&[(SIGTERM, 0); 8])),
            ("1,1,1,1,1,1,1,1,1", Err("there are 9 signals, more than 8")),
            ("TERM, KILL", Err("`TERM` has no seconds to wait")),
            ("TERM 30 KILL 10", Err("`KILL` comes before a comma")),
            ("TERM 30,", Err("signal 2 is missing")),
            (",TERM", Err("signal 1 is missing")),
            ("", Err("signal 1 is missing")),
            ("TREM 30", Err("`TREM` is not a signal")),
            ("0", Err("there is no signal 0")),
            ("99", Err("there is no signal 99")),
            ("TERM soon", Err("`soon` is not a number of seconds")),
            ("SIGSIGTERM", Err("`SIGSIGTERM` is not a signal")),
        ];
        for (text, value) in cases {
            let value = value.map_err(str::to_owned);
            let found = ladder(text).map(|ladder| {
                let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap();
                ladder.rungs().map(|rung| (rung.signal, millis(rung.wait))).collect::<Vec<_>>()
            });
            assert_eq!(found, value.map(<[_]>::to_vec), "{text}");
        }
    }
}
