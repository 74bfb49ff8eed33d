//! Times and spans as people read them.

/// A moment, microseconds since 1970, in local time: `2026-11-29 12:04:31`.
pub(super) fn local(micros: i64) -> String {
    let [year, month, day, hour, minute, second] = parts(micros);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The same without the day where that is today.
pub(super) fn short(micros: i64, now: i64) -> String {
    let text = local(micros);
    let (day, time) = text.split_once(' ').unwrap_or(("", &text));
    if parts(now)[..3] == parts(micros)[..3] { time.to_owned() } else { format!("{day} {time}") }
}

fn parts(micros: i64) -> [i32; 6] {
    let seconds = system_time(micros.div_euclid(1_000_000));
    // SAFETY: all-zero is a valid tm.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) };
    [tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec]
}

/// Its type differs from system to system.
fn system_time(seconds: impl TryInto<libc::time_t>) -> libc::time_t {
    seconds.try_into().unwrap_or_default()
}

/// How long: `0.05 s`, `2.5 s`, `48 s`, `3 min`, `2 h 5 min`, `3 days`.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let decimals =
        |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned() + " s";
    match whole {
        _ if seconds < 0.005 => "0 s".to_owned(),
        _ if seconds < 0.1 => decimals(format!("{seconds:.2}")),
        _ if seconds < 9.95 => decimals(format!("{seconds:.1}")),
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 if whole % 3600 < 60 => format!("{} h", whole / 3600),
        7200..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} days", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.004, "0 s"),
            (0.052, "0.05 s"),
            (0.5, "0.5 s"),
            (2.0, "2 s"),
            (2.04, "2 s"),
            (9.96, "10 s"),
            (48.4, "48 s"),
            (119.6, "2 min"),
            (200.0, "3 min"),
            (7200.0, "2 h"),
            (7500.0, "2 h 5 min"),
            (200_000.0, "2 days"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn moments() {
        let now = 1_795_954_212_769_422;
        assert_eq!(local(now).len(), "2026-11-29 12:04:31".len());
        assert_eq!(short(now, now).len(), 8);
        assert_eq!(short(now - 3 * 86_400_000_000, now).len(), 19);
    }
}
