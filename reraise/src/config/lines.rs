//! Finds the `config_NAME=VALUE` lines of a starter script.
//!
//! The shell version ran `eval` on what `grep '^config_'` printed, so every
//! such line was a program. Here the same lines are read, and nothing is run.
//!
//! A script may be any executable: a program of 100 MB, say. Reading ends at
//! the first NUL byte, which no script has and every such program has in its
//! first bytes, and no more than one line is in memory.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use super::word::{Refusal, is_blank, is_rest, read_word, refuse};
use super::{Env, keys};

/// The longest line that is looked at, in bytes.
pub(super) const LINE_MAX: usize = 4096;

/// A key without its `config_`, and its value.
pub(super) type Found = (String, Result<String, Refusal>);

/// Calls `take` with the number of each line that sets something and what it
/// says.
pub(super) fn for_each(
    source: &mut dyn Read,
    env: Env<'_>,
    take: &mut dyn FnMut(usize, Found),
) -> io::Result<()> {
    let mut source = BufReader::with_capacity(LINE_MAX, source);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let end = read_line(&mut source, &mut line)?;
        if end != End::Nul
            && let Some(found) = look_at(&line, env)
        {
            take(number, found);
        }
        if end != End::Newline {
            break;
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum End {
    Newline,
    File,
    Nul,
}

/// Reads up to the next end, and keeps one byte more than may be used.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<End> {
    loop {
        let chunk = match source.fill_buf() {
            Ok([]) => return Ok(End::File),
            Ok(chunk) => chunk,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = chunk.iter().position(|byte| matches!(byte, b'\n' | 0));
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = (LINE_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let found = end.map(|at| if chunk[at] == 0 { End::Nul } else { End::Newline });
        let used = end.map_or(chunk.len(), |at| at + 1);
        source.consume(used);
        if let Some(end) = found {
            return Ok(end);
        }
    }
}

/// `None`: this line sets nothing. Calling or defining a function of the
/// script named `config_something` does not; a known key without `=` is a slip.
fn look_at(line: &[u8], env: Env<'_>) -> Option<Found> {
    const NO_SPACES: &str = "write config_NAME=VALUE without spaces around `=`";
    let rest = line.strip_prefix(b"config_")?;
    let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let end = rest.iter().position(|byte| !is_key(byte)).unwrap_or(rest.len());
    let (key, rest) = rest.split_at(end);
    let key = String::from_utf8_lossy(key).into_owned();
    let value = match (rest, rest.trim_ascii_start()) {
        ([b'=', ..], _) if line.len() > LINE_MAX => {
            refuse(format!("line is longer than {LINE_MAX} bytes"), "shorten the line")
        }
        ([b'=', .., b'\r'], _) => refuse(
            "line ends in a carriage return",
            "save the script with the line ends of Unix, without carriage returns",
        ),
        ([b'=', blank, after @ ..], _) if is_blank(*blank) && !is_rest(after) => {
            refuse("there is a space after `=`", NO_SPACES)
        }
        ([b'=', value @ ..], _) => read_word(value, env),
        ([b'+', b'=', ..], _) => {
            refuse("`+=` is not understood", "write the whole value after `=`")
        }
        (_, [b'=', ..]) => refuse("there is a space before `=`", NO_SPACES),
        (_, [b'(', ..]) => return None,
        _ if keys::find(&key).is_some() => refuse("there is no `=` after the key", NO_SPACES),
        _ => return None,
    };
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(script: &[u8]) -> Vec<(usize, String, Result<String, String>)> {
        let mut all = Vec::new();
        let mut take = |line, (key, value): Found| {
            all.push((line, key, value.map_err(|refusal| refusal.reason)));
        };
        for_each(&mut &*script, &|_| None, &mut take).unwrap();
        all
    }

    #[test]
    fn lines_that_set_something() {
        let space = Err("there is a space after `=`");
        let before = Err("there is a space before `=`");
        let none = Err("there is no `=` after the key");
        let cases: &[(&str, &str, Result<&str, &str>)] = &[
            ("config_start_sec=10", "start_sec", Ok("10")),
            ("config_start_sec=10 # ten", "start_sec", Ok("10")),
            ("config_start_sec= # nothing", "start_sec", Ok("")),
            ("config_anything=1", "anything", Ok("1")),
            ("config_=1", "", Ok("1")),
            ("config_start-sec=1", "start-sec", Ok("1")),
            ("config_Start_Sec=1", "Start_Sec", Ok("1")),
            ("config_start_sec= 10", "start_sec", space),
            ("config_start_sec=\t10", "start_sec", space),
            ("config_start_sec = 10", "start_sec", before),
            ("config_start_sec =10", "start_sec", before),
            ("config_anything = 10", "anything", before),
            ("config_start_sec 10", "start_sec", none),
            ("config_start_sec: 10", "start_sec", none),
            ("config_start_sec", "start_sec", none),
            ("config_start_sec+=1", "start_sec", Err("`+=` is not understood")),
            ("config_start_sec=10\r", "start_sec", Err("line ends in a carriage return")),
        ];
        for (line, key, value) in cases {
            let value = value.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found(line.as_bytes()), [(1, (*key).to_owned(), value)], "{line}");
        }
    }

    #[test]
    fn lines_that_set_nothing() {
        let cases = [
            "",
            " config_start_sec=1",
            "# config_start_sec=1",
            "export config_start_sec=1",
            "CONFIG_START_SEC=1",
            "config=1",
            "config_files",
            "config_files /etc",
            "config_files() {",
            "config_log () {",
            "echo config_start_sec=1",
        ];
        for line in cases {
            assert_eq!(found(line.as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn lines_are_counted_and_reading_ends_at_nul() {
        let cases: &[(&[u8], &[usize])] = &[
            (b"#!/bin/sh\nconfig_a=1\n\nconfig_b=2\n", &[2, 4]),
            (b"config_a=1\nconfig_b=2", &[1, 2]),
            (b"config_a=1\n\0\nconfig_b=2\n", &[1]),
            (b"config_a=1\0", &[]),
            (b"\x7fELF\x02\0\nconfig_a=1\n", &[]),
            (b"\xff\xfe\nconfig_a=1\n", &[2]),
        ];
        for (script, lines) in cases {
            let numbers: Vec<_> = found(script).into_iter().map(|(line, ..)| line).collect();
            assert_eq!(numbers, *lines);
        }
    }

    #[test]
    fn long_lines_are_refused_or_passed_over() {
        for (extra, is_refused) in [(0, false), (1, true), (100_000, true)] {
            let fill = "x".repeat(LINE_MAX - "config_a=".len() + extra);
            let all = found(format!("{fill}{fill}\nconfig_a={fill}\nconfig_b=1").as_bytes());
            assert_eq!(all.len(), 2);
            assert_eq!((all[0].0, all[0].2.is_err()), (2, is_refused));
            assert_eq!(all[1], (3, "b".to_owned(), Ok("1".to_owned())));
        }
    }

    /// What is accepted means the same to a shell, and runs nothing there.
    #[test]
    fn a_shell_agrees() {
        let pieces: Vec<&str> =
            "'|\"|\\| |\t|#|~|/|$|{|}|A|$A|${A}|$HOME|B|x|yz|=|*|?|[|]|!|-|é|,|%|^|:|1"
                .split('|')
                .chain(["(", ")", ";", "&", "<", ">", "|", "`"])
                .collect();
        let env = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "A" => Some("a  'b\" \\ $A *".to_owned()),
            _ => None,
        };
        let (mut script, mut values) = (String::new(), Vec::new());
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut line = "config_x=".to_owned();
            for _ in 0..state % 9 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                line += pieces[usize::try_from(state >> 33).unwrap() % pieces.len()];
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Some((_, Ok(value))) = look_at(line.as_bytes(), &env) {
                script += &format!("{line}\nprintf '%s\\0' \"$config_x\"\n");
                values.push(value);
            }
        }
        assert!(values.len() > 2000, "{}", values.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        std::fs::write(&path, script).unwrap();
        let mut shell = std::process::Command::new("/bin/sh");
        shell.arg(path).env_clear().env("HOME", "/home/me").env("A", env("A").unwrap());
        let output = shell.current_dir("/").output().unwrap();
        let seen = String::from_utf8(output.stdout).unwrap();
        for (seen, value) in seen.split('\0').zip(&values) {
            assert_eq!(seen, value);
        }
        assert_eq!((seen.matches('\0').count(), output.stderr), (values.len(), Vec::new()));
    }

    /// Gives one byte at a time, and an interruption before each.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(ErrorKind::Interrupted.into()) } else { self.0.read(&mut buffer[..1]) }
        }
    }

    #[test]
    fn short_reads_change_nothing() {
        let mut count = 0;
        let mut source = Trickle(b"config_a=1\nx\nconfig_b=2\n", false);
        for_each(&mut source, &|_| None, &mut |_, _| count += 1).unwrap();
        assert_eq!(count, 2);
    }
}
