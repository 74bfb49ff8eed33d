//! The files of a log: `current`, and those that it was before, each named by the
//! moment of its rotation so that their names sort by time.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::messages;

/// What is being written.
pub const CURRENT: &str = "current";
/// Where the standard error of a service has a log of its own
/// (`config_log_stderr=separate`): a directory in the log's.
pub const STDERR: &str = "stderr";

/// Length of `20261129T115300.123456Z`.
const STAMP: usize = 23;

/// The name of a file that is rotated at this time, in microseconds since 1970.
#[must_use]
pub fn rotated(time: i64) -> String {
    let (seconds, micros) = (time.div_euclid(1_000_000), time.rem_euclid(1_000_000));
    let text = messages::utc(seconds.max(0).cast_unsigned());
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ':' | 'Z')).collect();
    format!("{digits}.{micros:06}Z")
}

/// Whether it is the name of a rotated file, or of what a command has made of one
/// (`20261129T115300.123456Z.gz`).
#[must_use]
pub fn is_rotated(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_right = |(at, &byte): (usize, &u8)| match at {
        8 => byte == b'T',
        15 => byte == b'.',
        22 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    bytes.len() >= STAMP
        && bytes[..STAMP].iter().enumerate().all(is_right)
        && (bytes.len() == STAMP || bytes[STAMP] == b'.')
}

/// A name after all of these, whatever the clock says.
#[must_use]
pub fn next(time: i64, last: Option<&str>) -> String {
    let mut time = time;
    let mut name = rotated(time);
    if let Some(last) = last.and_then(|last| last.get(..STAMP))
        && name.as_str() <= last
    {
        time = time_of(last).map_or(time, |last| last + 1);
        name = rotated(time);
    }
    name
}

/// The time of a rotated file's name, in microseconds since 1970.
#[must_use]
pub fn time_of(name: &str) -> Option<i64> {
    if !is_rotated(name) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| name[range].parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let seconds = number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?;
    Some((days(year, month, day) * 86_400 + seconds) * 1_000_000 + number(16..22)?)
}

/// Days from 1970 to a day of the Gregorian calendar (months counted from March, so
/// that the leap day is the last of its year).
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

/// The rotated files of a log, oldest first; what is hidden is none.
///
/// # Errors
/// As `opendir(3)`, but not that there is no such directory.
pub fn all_rotated(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name: OsString = entry?.file_name();
        names.extend(name.into_string().ok().filter(|name| is_rotated(name)));
    }
    names.sort_unstable();
    Ok(names)
}

/// The files of a log, oldest first, `current` last.
///
/// # Errors
/// As [`all_rotated`].
pub fn all(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        all_rotated(directory)?.iter().map(|name| directory.join(name)).collect();
    files.push(directory.join(CURRENT));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_tell_it() {
        let times = [0, 1, 999_999, 1_000_000, 1_764_417_180_123_456, 4_102_444_800_000_000];
        let names: Vec<String> = times.iter().map(|&t| rotated(t)).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names[4], "20251129T115300.123456Z");
        for (name, time) in names.iter().zip(times) {
            assert!(is_rotated(name) && is_rotated(&format!("{name}.gz")), "{name}");
            assert_eq!(time_of(name), Some(time));
        }
        for day in 0..80_000_i64 {
            let time = day * 86_400_000_000;
            assert_eq!(time_of(&rotated(time)), Some(time));
        }
    }

    #[test]
    fn what_is_no_rotated_file() {
        for name in [
            "",
            "current",
            ".20251129T115300.123456Z.idx",
            "20251129T115300.123456",
            "20251129T115300.123456Zx",
            "2025-11-29T115300.123456Z",
        ] {
            assert!(!is_rotated(name), "{name}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_older_names() {
        assert_eq!(next(5, None), rotated(5));
        assert_eq!(next(5, Some(&rotated(4))), rotated(5));
        assert_eq!(next(5, Some(&rotated(5))), rotated(6));
        assert_eq!(next(5, Some(&format!("{}.gz", rotated(999_999)))), rotated(1_000_000));
    }

    #[test]
    fn the_files_of_a_log_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(all_rotated(&dir.path().join("none")).unwrap(), [""; 0]);
        let names = [rotated(3), format!("{}.gz", rotated(1)), rotated(2)];
        for name in &names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(dir.path().join(".x.idx"), "").unwrap();
        let expected = [names[1].clone(), names[2].clone(), names[0].clone()];
        assert_eq!(all_rotated(dir.path()).unwrap(), expected);
        assert_eq!(all(dir.path()).unwrap().last(), Some(&dir.path().join(CURRENT)));
    }
}
