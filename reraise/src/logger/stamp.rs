//! The time before each line (`config_log_time`). Pure, but for the local zone.

use crate::config::LogTime;
use crate::messages;

/// Appends lines, each after its time. `is_fresh`: the first byte begins a line.
/// Whether the next one will.
pub fn append(out: &mut Vec<u8>, text: &[u8], stamp: &Stamp, is_fresh: bool) -> bool {
    let mut is_fresh = is_fresh;
    let mut rest = text;
    while !rest.is_empty() {
        if is_fresh {
            out.extend_from_slice(stamp.text());
        }
        // One search a line, and one copy: that is where the time goes.
        let line = match rest.iter().position(|&b| b == b'\n') {
            Some(at) => &rest[..=at],
            None => rest,
        };
        out.extend_from_slice(line);
        is_fresh = line.ends_with(b"\n");
        rest = &rest[line.len()..];
    }
    is_fresh
}

/// A time as it stands before a line, with a space behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    text: [u8; 40],
    length: usize,
}

impl Stamp {
    /// Of a moment, in microseconds since 1970; empty for [`LogTime::None`].
    #[must_use]
    pub fn new(kind: LogTime, time: i64) -> Self {
        let (seconds, micros) = (time.div_euclid(1_000_000), time.rem_euclid(1_000_000));
        let text = match kind {
            LogTime::None => String::new(),
            LogTime::Epoch => format!("{seconds}.{micros:06} "),
            // As daemontools writes it: 2^62 + seconds of TAI, which was 10 s ahead in
            // 1970, and nanoseconds.
            LogTime::Tai64n => {
                let tai = (1_u64 << 62).wrapping_add_signed(seconds + 10);
                format!("@{tai:016x}{:08x} ", micros * 1000)
            }
            LogTime::Iso => iso(seconds, micros, offset(seconds)),
        };
        let mut stamp = Self { text: [0; 40], length: text.len().min(40) };
        stamp.text[..stamp.length].copy_from_slice(&text.as_bytes()[..stamp.length]);
        stamp
    }

    /// Its bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    fn text(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// RFC 3339 with microseconds and the offset of the local zone.
fn iso(seconds: i64, micros: i64, offset: i64) -> String {
    let local = messages::utc((seconds + offset).max(0).cast_unsigned());
    let local = local.trim_end_matches('Z');
    let sign = if offset < 0 { '-' } else { '+' };
    let minutes = offset.abs() / 60;
    format!("{local}.{micros:06}{sign}{:02}:{:02} ", minutes / 60, minutes % 60)
}

/// Seconds east of Greenwich at that time (localtime_r(3)).
fn offset(seconds: i64) -> i64 {
    let time = seconds as libc::time_t;
    // SAFETY: all-zero is a valid structure; its pointer to a name may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values.
    let found = unsafe { libc::localtime_r(&raw const time, &raw mut parts) };
    if found.is_null() { 0 } else { parts.tm_gmtoff }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_764_417_180_123_456;

    fn text(kind: LogTime, time: i64) -> String {
        String::from_utf8(Stamp::new(kind, time).text().to_vec()).unwrap()
    }

    #[test]
    fn each_kind() {
        assert_eq!(text(LogTime::None, TIME), "");
        assert_eq!(text(LogTime::Epoch, TIME), "1764417180.123456 ");
        assert_eq!(text(LogTime::Tai64n, 0), "@400000000000000a00000000 ");
        assert_eq!(text(LogTime::Tai64n, TIME), "@40000000692adea6075bca00 ");
        for (offset, expected) in [
            (0, "2025-11-29T11:53:00.123456+00:00 "),
            (3600, "2025-11-29T12:53:00.123456+01:00 "),
            (-34_200, "2025-11-29T02:23:00.123456-09:30 "),
        ] {
            assert_eq!(iso(TIME / 1_000_000, TIME % 1_000_000, offset), expected);
        }
        let now = text(LogTime::Iso, TIME);
        assert_eq!(now.len(), 33, "{now}");
    }

    #[test]
    fn each_line_once_however_it_is_cut() {
        let said: &[u8] = b"one\n\n\x00\xff two\nthree";
        let stamp = Stamp::new(LogTime::Epoch, 7_000_001);
        let mut whole = Vec::new();
        assert!(!append(&mut whole, said, &stamp, true));
        let expected = b"7.000001 one\n7.000001 \n7.000001 \x00\xff two\n7.000001 three";
        assert_eq!(whole, expected);
        for cut in 0..=said.len() {
            let mut out = Vec::new();
            let is_fresh = append(&mut out, &said[..cut], &stamp, true);
            append(&mut out, &said[cut..], &stamp, is_fresh);
            assert_eq!(out, whole, "cut at {cut}");
        }
        let mut none = Vec::new();
        append(&mut none, said, &Stamp::new(LogTime::None, TIME), true);
        assert_eq!(none, said);
    }
}
