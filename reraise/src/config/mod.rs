//! What a starter script says about how it wants to be supervised: its
//! `config_NAME=VALUE` lines.
//!
//! Nothing here ends a service: a line that cannot be used is reported as a
//! [`Problem`], and its key has its default.

pub mod keys;
mod lines;
mod parsers;
mod values;
mod word;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

pub use keys::{KEYS, Key};
pub use values::{ExitSet, Ladder, LogFull, LogTime, LogTo, Logging, Restart, Rung, StopTo};

use crate::backend::Signal;
use crate::name::printable;

/// Looks a variable of the service's environment up.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// No more problems than this are reported of one script.
pub const PROBLEMS_MAX: usize = 100;

/// How a service is supervised. The keys are explained in [`KEYS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A run that ends sooner failed to start.
    pub start_sec: Duration,
    /// Failed starts in a row that are tried again; `None` for any number.
    pub max_retry: Option<u32>,
    /// When a run is followed by another one.
    pub restart: Restart,
    /// Exits that are no failure.
    pub ok_exit: ExitSet,
    /// Step of the delay before a failed start is tried again.
    pub retry_sec: Duration,
    /// Cap of that delay.
    pub retry_max_sec: Duration,
    /// Signals that end a run.
    pub stop: Ladder,
    /// Whom they reach.
    pub stop_to: StopTo,
    /// Whether processes that left the tree live on.
    pub detach: bool,
    /// Where the output goes.
    pub log: LogTo,
    /// How it is kept there.
    pub logging: Logging,
    /// Whether its end is the end of all, under `reraise up`.
    pub essential: bool,
}

impl Default for Config {
    fn default() -> Self {
        let rung = |signal, secs| Rung { signal, wait: Duration::from_secs(secs) };
        let mut ok_exit = ExitSet::default();
        ok_exit.insert_code(0);
        Self {
            start_sec: Duration::from_secs(10),
            max_retry: Some(2),
            restart: Restart::Always,
            ok_exit,
            retry_sec: Duration::from_secs(2),
            retry_max_sec: Duration::from_secs(60),
            stop: Ladder::new(vec![rung(Signal::SIGTERM, 30)], rung(Signal::SIGKILL, 10)),
            stop_to: StopTo::Tree,
            detach: false,
            log: LogTo::Default,
            logging: Logging::default(),
            essential: false,
        }
    }
}

impl Config {
    /// Reads the lines of a script that is in memory.
    #[must_use]
    pub fn parse(mut script: &[u8], env: Env<'_>) -> (Self, Vec<Problem>) {
        // A slice never fails.
        Self::read(&mut script, env).unwrap_or_default()
    }

    /// Reads the lines of a script, up to its end or its first NUL byte: of a
    /// program that is no script, only the first few kilobytes. Of two lines
    /// for one key the later wins, as in a shell.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn read(source: &mut dyn Read, env: Env<'_>) -> io::Result<(Self, Vec<Problem>)> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        lines::for_each(source, env, &mut |line, (key, value)| {
            if let Err((reason, advice)) = config.set(&key, value)
                && problems.len() < PROBLEMS_MAX
            {
                problems.push(Problem { line, key, reason, advice });
            }
        })?;
        Ok((config, problems))
    }

    fn set(
        &mut self,
        name: &str,
        value: Result<String, word::Refusal>,
    ) -> Result<(), (String, String)> {
        let wrong = |reason: &str| format!("config_{}: {reason}", shown(name));
        let Some(key) = keys::find(name) else {
            return Err((wrong("unknown key"), suggestion(name)));
        };
        let Some(set) = key.set else {
            return Err((
                format!("config_{name} is not supported by this version"),
                "remove the line, or put `#` before it".to_owned(),
            ));
        };
        let result = match value {
            Ok(text) if text.trim().is_empty() => {
                Err((wrong("value is empty"), format!("expected: {}", key.expected)))
            }
            Ok(text) => {
                set(self, &text).map_err(|e| (wrong(&e), format!("expected: {}", key.expected)))
            }
            Err(refusal) => Err((wrong(&refusal.reason), refusal.advice.to_owned())),
        };
        if result.is_err() {
            set(self, key.default).ok();
        }
        result
    }
}

/// Where a script sets a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of the line, from 1.
    pub line: usize,
    /// What it says; `None` when that cannot be used.
    pub value: Option<String>,
}

/// The lines of a script that set something, by their keys; of two for one key the
/// later, which wins.
///
/// # Errors
/// Those of `source`.
pub fn places(source: &mut dyn Read, env: Env<'_>) -> io::Result<BTreeMap<String, Place>> {
    let mut places = BTreeMap::new();
    lines::for_each(source, env, &mut |line, (key, value)| {
        places.insert(key, Place { line, value: value.ok() });
    })?;
    Ok(places)
}

fn suggestion(name: &str) -> String {
    match keys::nearest(name) {
        Some(key) if key.is_supported() => format!("did you mean config_{}?", key.name),
        Some(key) => {
            format!("did you mean config_{}? (not supported by this version)", key.name)
        }
        None => {
            let known = KEYS.iter().filter(|key| key.is_supported());
            let known: Vec<_> = known.map(|key| key.name).collect();
            format!("known after config_: {}", known.join(", "))
        }
    }
}

/// Text of a script as it may stand in a message, between quotes that are there already.
fn shown(text: &str) -> String {
    if text.is_empty() { String::new() } else { printable(OsStr::new(text)) }
}

/// A line of a script that cannot be used. Printed as
/// `line 3: config_start_sec: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Number of the line, from 1.
    pub line: usize,
    /// The key as it stands there, without `config_`.
    pub key: String,
    /// What is wrong, and with what.
    pub reason: String,
    /// What to do about it, one line.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }

    fn messages(script: &str) -> Vec<String> {
        let (_, problems) = Config::parse(script.as_bytes(), &env);
        problems.iter().map(|problem| format!("{problem}; {}", problem.advice)).collect()
    }

    #[test]
    fn a_whole_script() {
        let script = "#!/bin/sh\n\
            config_start_sec=0.5   # quick\n\
            config_max_retry=unlimited\n\
            config_restart='on-failure'\n\
            config_ok_exit=\"0 2 TERM\"\n\
            config_retry_sec=1\n\
            config_retry_max_sec=9\n\
            config_stop=\"INT 5, KILL\"\n\
            config_stop_to=group\n\
            config_detach=yes\n\
            config_log=$HOME/log\n\
            config_essential=yes\n\
            exec true\n";
        let (config, problems) = Config::parse(script.as_bytes(), &env);
        assert_eq!(problems, []);
        assert_eq!(config.start_sec, Duration::from_millis(500));
        assert_eq!(config.max_retry, None);
        assert_eq!(config.restart, Restart::OnFailure);
        assert!(config.ok_exit.contains(&crate::backend::Exit::Code(2)));
        assert_eq!(config.retry_sec, Duration::from_secs(1));
        assert_eq!(config.retry_max_sec, Duration::from_secs(9));
        assert_eq!(config.stop.rung(0).signal, Signal::SIGINT);
        assert_eq!(config.stop_to, StopTo::Group);
        assert!(config.detach && config.essential);
        assert_eq!(config.log, LogTo::Path("/home/me/log".into()));
    }

    #[test]
    fn problems_say_where_what_and_how() {
        #[rustfmt::skip]
        let cases = [
            ("\n\nconfig_start_sec=soon", "line 3: config_start_sec: `soon` is not a number of seconds; expected: seconds, such as 10 or 0.5"),
            ("config_start_sec=", "line 1: config_start_sec: value is empty; expected: seconds, such as 10 or 0.5"),
            ("config_start_sec=$(x)", "line 1: config_start_sec: $(…) would run a command; write the value itself"),
            ("config_stop=TERM 30", "line 1: config_stop: `30` comes after the value; quote a value with spaces; only a comment may follow it"),
            ("config_strat_sec=1", "line 1: config_strat_sec: unknown key; did you mean config_start_sec?"),
            ("config_max-retry=1", "line 1: config_max-retry: unknown key; did you mean config_max_retry?"),
            ("config_logsize=1", "line 1: config_logsize: unknown key; did you mean config_log_size?"),
            ("config_=1", "line 1: config_: unknown key; known after config_: start_sec, max_retry, restart, ok_exit, retry_sec, retry_max_sec, stop, stop_to, detach, log, log_stderr, log_size, log_age, log_keep, log_total, log_time, log_after, log_full, essential"),
            ("config_reload=HUP", "line 1: config_reload is not supported by this version; remove the line, or put `#` before it"),
        ];
        for (script, message) in cases {
            assert_eq!(messages(script), [message]);
        }
    }

    #[test]
    fn a_bad_line_leaves_the_default_and_the_last_line_wins() {
        let cases: &[(&str, u64, usize)] = &[
            ("config_start_sec=1\nconfig_start_sec=2\n", 2, 0),
            ("config_start_sec=1\nconfig_start_sec=x\n", 10, 1),
            ("config_start_sec=1\nconfig_start_sec=`x`\n", 10, 1),
            ("config_start_sec=x\nconfig_start_sec=2\n", 2, 1),
            ("config_start_sec=3\nconfig_nothing=1\n", 3, 1),
        ];
        for (script, secs, problems) in cases {
            let (config, found) = Config::parse(script.as_bytes(), &env);
            assert_eq!((config.start_sec.as_secs(), found.len()), (*secs, *problems), "{script}");
        }
        assert_eq!(messages(&"config_x=1\n".repeat(1000)).len(), PROBLEMS_MAX);
    }

    /// Pseudo-random scripts of pieces that mean something here and of any bytes.
    #[test]
    fn no_input_panics() {
        let pieces: Vec<&[u8]> = "config_|start_sec|stop|log|ok_exit|max_retry|=|\n|TERM 30|,|KILL|\
            $|{|}|(|)|`|'|\"|\\| |\t|#|~|/|HOME|yes|unlimited|9|.|99999999999|-|\r|\0|é|config_stop="
            .split('|')
            .map(str::as_bytes)
            .collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for _ in 0..20_000 {
            let mut script = b"config_".to_vec();
            for _ in 0..random(24) {
                match random(8) {
                    0 => script.push(u8::try_from(random(256)).unwrap()),
                    _ => script.extend_from_slice(pieces[random(pieces.len())]),
                }
            }
            let (config, problems) = Config::parse(&script, &env);
            assert!(config.stop.before_last() < Ladder::RUNGS_MAX);
            for problem in problems {
                let text = format!("{problem}{}", problem.advice);
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
    }
}
