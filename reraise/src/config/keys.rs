//! Every key of the configuration, in one table. Reading, help, `doctor` and
//! the README take names, defaults and meanings from here.

use super::Config;
use super::parsers::{
    LOG_FULL, LOG_TIME, RESTART, STDERR, STOP_TO, YES_NO, age, command, count, ladder, log,
    max_retry, ok_exit, one_of, seconds, size,
};

/// Puts a value into a [`Config`], or says what is wrong with it.
type Set = fn(&mut Config, &str) -> Result<(), String>;

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, without `config_`.
    pub name: &'static str,
    /// What holds without it, as it would stand in a script; `none` for nothing.
    pub default: &'static str,
    /// What may stand there; empty while this version does not read the key.
    pub expected: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
    pub(super) set: Option<Set>,
}

impl Key {
    /// Whether this version reads the key; else it is a word for later.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.set.is_some()
    }
}

const fn key(
    name: &'static str,
    default: &'static str,
    expected: &'static str,
    meaning: &'static str,
    set: Set,
) -> Key {
    Key { name, default, expected, meaning, set: Some(set) }
}

const fn later(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, expected: "", meaning, set: None }
}

const SECONDS: &str = "seconds, such as 10 or 0.5";
const LADDER: &str = "up to 8 signals with seconds to wait, such as \"TERM 30, KILL 10\"";
const SIZE: &str = "bytes, such as 500k, 10M or 1G";
const AGE: &str = "a time such as 90, 30m, 12h or 7d, or none";
const LOG: &str = "yes, no or an absolute path";
const OK_EXIT: &str = "exit codes and names of signals, such as \"0 2 TERM\"";

/// The table: the keys that this version reads, then those that it only knows.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("start_sec", "10", SECONDS, "a run that ends sooner failed to start",
        |config, text| seconds(text).map(|value| config.start_sec = value)),
    key("max_retry", "2", "a whole number or `unlimited`", "failed starts in a row that are tried again, once one succeeded",
        |config, text| max_retry(text).map(|value| config.max_retry = value)),
    key("restart", "always", "always, on-failure or never", "when a run is followed by another one",
        |config, text| one_of(RESTART, text).map(|value| config.restart = value)),
    key("ok_exit", "0", OK_EXIT, "exits that are no failure",
        |config, text| ok_exit(text).map(|value| config.ok_exit = value)),
    key("retry_sec", "2", SECONDS, "each failed start in a row makes the delay so much longer",
        |config, text| seconds(text).map(|value| config.retry_sec = value)),
    key("retry_max_sec", "60", SECONDS, "the delay grows no longer than this",
        |config, text| seconds(text).map(|value| config.retry_max_sec = value)),
    key("stop", "TERM 30, KILL 10", LADDER, "signals that end a run, and seconds to wait after each",
        |config, text| ladder(text).map(|value| config.stop = value)),
    key("stop_to", "tree", "tree, group or process", "whom they reach; the last one always takes the tree",
        |config, text| one_of(STOP_TO, text).map(|value| config.stop_to = value)),
    key("detach", "no", "yes or no", "let processes that left the tree live",
        |config, text| one_of(YES_NO, text).map(|value| config.detach = value)),
    key("log", "yes", LOG, "keep what the service prints: in $RERAISE_LOGDIR, or at a path",
        |config, text| log(text).map(|value| config.log = value)),
    key("log_stderr", "merge", "merge or separate", "separate: standard error has a log of its own, in stderr/",
        |config, text| one_of(STDERR, text).map(|value| config.logging.is_split = value)),
    key("log_size", "10M", SIZE, "a log of this size is rotated",
        |config, text| size(text).map(|value| config.logging.size = value.max(1))),
    key("log_age", "none", AGE, "so is one that was begun so long ago",
        |config, text| age(text).map(|value| config.logging.age = value)),
    key("log_keep", "10", "a whole number", "rotated files that are kept",
        |config, text| count(text).map(|value| config.logging.keep = value)),
    key("log_total", "100M", SIZE, "bytes of all its files together",
        |config, text| size(text).map(|value| config.logging.total = value)),
    key("log_time", "none", "none, iso, epoch or tai64n", "the time before each line",
        |config, text| one_of(LOG_TIME, text).map(|value| config.logging.time = value)),
    key("log_after", "none", "a command, or none", "is run for each rotated file, with its path behind it",
        |config, text| command(text).map(|value| config.logging.after = value)),
    key("log_full", "drop-oldest", "drop-oldest, drop-new or block", "what is done while the disk is full",
        |config, text| one_of(LOG_FULL, text).map(|value| config.logging.full = value)),
    key("essential", "no", "yes or no", "its end is that of all, with its exit code (`reraise up`)",
        |config, text| one_of(YES_NO, text).map(|value| config.essential = value)),
    later("reload", "HUP", "the signal of `reraise reload`, or a command"),
    later("run_max_sec", "none", "end and raise a run after this time"),
    later("ready", "none", "when the service counts as ready"),
    later("ready_sec", "60", "not ready by then: a failed start"),
    later("health", "none", "a probe of the running service"),
    later("health_sec", "10", "seconds between two probes"),
    later("health_fails", "3", "so many failed probes in a row raise it anew"),
    later("watchdog_sec", "none", "WATCHDOG=1 must arrive this often"),
    later("memory_max", "none", "memory of the whole tree; over it: raised anew"),
    later("cpu_max", "none", "CPU of the whole tree; over it: raised anew"),
    later("needs", "none", "services that must be ready first, and start and fail with it"),
    later("after", "none", "services that must be ready first"),
    later("group", "none", "names usable as @GROUP wherever a pattern is"),
    later("on_exit", "none", "command after each run"),
];

/// The key with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that somebody who wrote `name` may have meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
    let distance = |key: &&Key| strsim::damerau_levenshtein(key.name, &name);
    let key = KEYS.iter().min_by_key(distance)?;
    (distance(&key) <= key.name.len().div_ceil(3)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.name != key.name), "{} twice", key.name);
            assert_eq!(key.is_supported(), !key.expected.is_empty(), "{}", key.name);
            assert!(!key.meaning.is_empty() && !key.default.is_empty(), "{}", key.name);
            for text in [key.expected, key.meaning] {
                assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
            }
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let script = "start_sec=7 max_retry=7 restart=never ok_exit=7 retry_sec=7 \
            retry_max_sec=7 stop=HUP stop_to=group detach=yes log=no essential=yes log_stderr=separate log_size=7 log_age=7d log_keep=7 \
            log_total=7 log_time=iso log_after=gzip log_full=block";
        let lines: String = script.split(' ').map(|line| format!("config_{line}\n")).collect();
        let (mut config, problems) = Config::parse(lines.as_bytes(), &|_| None);
        assert_eq!(problems, []);
        for key in KEYS {
            if let Some(set) = key.set {
                assert_ne!(config, Config::default(), "{}", key.name);
                assert_eq!(set(&mut config, key.default), Ok(()), "{}", key.name);
            }
        }
        // Said or not said makes a difference by hand only.
        assert_eq!(config, Config { log: crate::config::LogTo::Yes, ..Config::default() });
    }

    #[test]
    fn nearest_keys() {
        let cases = [
            ("start_sec", Some("start_sec")),
            ("startsec", Some("start_sec")),
            ("START_SEC", Some("start_sec")),
            ("start-sec", Some("start_sec")),
            ("strat_secs", Some("start_sec")),
            ("max_retries", Some("max_retry")),
            ("stopto", Some("stop_to")),
            ("lgo", Some("log")),
            ("dettach", Some("detach")),
            ("user", None),
            ("x", None),
            ("", None),
            ("something_else_entirely", None),
        ];
        for (name, key) in cases {
            assert_eq!(nearest(name).map(|key| key.name), key, "{name}");
        }
    }
}
