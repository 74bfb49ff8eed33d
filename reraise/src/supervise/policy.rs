//! What comes after a run that ended by itself: another run, at once or
//! later, or none.
//!
//! One question decides: did the run last `start_sec`? If so, the service
//! works, and it is raised again at once, as often as needed. If not, it
//! failed to start: the first time that is a mistake of the user's, who is
//! told and not kept waiting by retries; later it may pass (a port still
//! held, a database away), so some more starts follow, further and further
//! apart. A run that ended because the user asked for it is not brought here.
//!
//! Where `start_sec` is so short that what ends at once counts as successful, it
//! is raised for ever, but after the first few not more often than once a second:
//! it must not take the machine for itself.

use std::time::Duration;

use crate::backend::Exit;
use crate::config::{Config, Restart};

/// What is known of the runs of a service since the user brought it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Whether a run ever lasted `start_sec`.
    pub started: bool,
    /// Failed starts in a row, up to now.
    pub failures: u32,
    /// Successful runs in a row that were over in less than [`HASTE`].
    pub hasty: u8,
    /// Whether it was asked for a single run, see
    /// [`Wanted::Once`](crate::wanted::Wanted::Once).
    pub once: bool,
}

impl History {
    /// What is known when the user brings it up once more.
    #[must_use]
    pub fn anew(self) -> Self {
        Self { once: self.once, ..Self::default() }
    }
}

/// Runs do not begin more often than this for long.
pub const HASTE: Duration = Duration::from_secs(1);
/// Hasty runs in a row that are followed by another at once all the same: who
/// kills a service three times by hand shall see it raised three times.
pub const HASTY_MAX: u8 = 5;

/// What comes after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another run.
    Again {
        /// When: so long from now.
        delay: Duration,
    },
    /// None: it failed too often. The record says ERROR.
    GiveUp,
    /// None: it did what it should.
    Done,
}

/// Decides after a run that ended in `exit` and lasted so long, and says what
/// is known from then on. `None`: its program could not even be executed, and
/// that is a failed start also where `start_sec` is 0. Any number does for
/// `jitter`: services that fail together shall not come back together.
#[must_use]
pub fn decide(
    config: &Config,
    exit: Exit,
    lasted: impl Into<Option<Duration>>,
    history: History,
    jitter: u64,
) -> (Verdict, History) {
    let lasted = lasted.into();
    let history = match lasted.filter(|&lasted| lasted >= config.start_sec) {
        Some(lasted) => {
            let hasty = if lasted < HASTE { history.hasty.saturating_add(1) } else { 0 };
            History { started: true, failures: 0, hasty, ..history }
        }
        None => History { failures: history.failures.saturating_add(1), ..history },
    };
    let is_ok = config.ok_exit.contains(&exit);
    let restart = if history.once { Restart::Never } else { config.restart };
    let verdict = match (restart, is_ok) {
        (Restart::Never | Restart::OnFailure, true) => Verdict::Done,
        (Restart::Never, false) => Verdict::GiveUp,
        (Restart::OnFailure, false) | (Restart::Always, _) => {
            again(config, history, lasted.unwrap_or_default(), jitter)
        }
    };
    (verdict, history)
}

fn again(config: &Config, history: History, lasted: Duration, jitter: u64) -> Verdict {
    let is_too_often = config.max_retry.is_some_and(|max| history.failures > max);
    match history.failures {
        0 if history.hasty > HASTY_MAX => Verdict::Again { delay: HASTE.saturating_sub(lasted) },
        0 => Verdict::Again { delay: Duration::ZERO },
        _ if !history.started || is_too_often => Verdict::GiveUp,
        failures => Verdict::Again { delay: delay(config, failures, jitter) },
    }
}

/// Nothing, one step, two steps, …, and then up to a tenth more.
fn delay(config: &Config, failures: u32, jitter: u64) -> Duration {
    let steps = failures.saturating_sub(1);
    let delay = config.retry_sec.saturating_mul(steps).min(config.retry_max_sec);
    // 0 to 1000, so that a thousandth of a tenth is the unit.
    let part = u32::try_from(jitter % 1001).unwrap_or_default();
    delay.saturating_add((delay / 10_000).saturating_mul(part))
}

/// The longest time that anything waits for its next run.
#[must_use]
pub fn longest_delay(config: &Config) -> Duration {
    let delay = config.retry_max_sec;
    delay.saturating_add(delay / 10).max(SHORTAGE)
}

/// How long to wait before a fork is tried again that failed for want of
/// memory, processes or descriptors; that is no fault of the service.
pub const SHORTAGE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExitSet;

    const OK: Exit = Exit::Code(0);
    const BAD: Exit = Exit::Code(1);
    const TERM: Exit = Exit::Signal { number: 15, core: false };
    const FRESH: History = History { started: false, failures: 0, hasty: 0, once: false };
    const GOOD: History = History { started: true, ..FRESH };

    fn failed(failures: u32) -> History {
        History { failures, ..GOOD }
    }

    fn again(secs: u64) -> Verdict {
        Verdict::Again { delay: Duration::from_secs(secs) }
    }

    fn config(lines: &str) -> Config {
        let (config, problems) = Config::parse(lines.as_bytes(), &|_| None);
        assert_eq!(problems, []);
        config
    }

    #[test]
    fn after_each_kind_of_run() {
        use Verdict::{Done, GiveUp};
        let never_tried = History { failures: 1, ..FRESH };
        #[rustfmt::skip]
        let cases: &[(&str, Exit, u64, History, Verdict, History)] = &[
            // restart     exit           lasted history    verdict   history
            ("always",     OK,            10, FRESH,        again(0), GOOD),
            ("always",     BAD,           10, FRESH,        again(0), GOOD),
            ("always",     Exit::Unknown, 99, failed(2),    again(0), GOOD),
            ("always",     TERM,          10, failed(9),    again(0), GOOD),
            ("always",     OK,             9, FRESH,        GiveUp,   never_tried),
            ("always",     BAD,            0, FRESH,        GiveUp,   never_tried),
            ("always",     Exit::Unknown,  9, FRESH,        GiveUp,   never_tried),
            ("always",     OK,             9, GOOD,         again(0), failed(1)),
            ("always",     BAD,            9, GOOD,         again(0), failed(1)),
            ("always",     BAD,            9, failed(1),    again(2), failed(2)),
            ("always",     BAD,            9, failed(2),    GiveUp,   failed(3)),
            ("always",     BAD,            9, failed(u32::MAX), GiveUp, failed(u32::MAX)),
            ("on-failure", OK,            10, FRESH,        Done,     GOOD),
            ("on-failure", OK,             9, FRESH,        Done,     never_tried),
            ("on-failure", OK,             9, failed(1),    Done,     failed(2)),
            ("on-failure", BAD,           10, FRESH,        again(0), GOOD),
            ("on-failure", BAD,            9, FRESH,        GiveUp,   never_tried),
            ("on-failure", BAD,            9, failed(1),    again(2), failed(2)),
            ("on-failure", TERM,           9, failed(2),    GiveUp,   failed(3)),
            ("on-failure", Exit::Unknown, 10, FRESH,        again(0), GOOD),
            ("on-failure", Exit::Unknown,  9, GOOD,         again(0), failed(1)),
            ("never",      OK,            10, FRESH,        Done,     GOOD),
            ("never",      OK,             0, FRESH,        Done,     never_tried),
            ("never",      BAD,           10, GOOD,         GiveUp,   GOOD),
            ("never",      BAD,            9, GOOD,         GiveUp,   failed(1)),
            ("never",      Exit::Unknown, 99, GOOD,         GiveUp,   GOOD),
        ];
        for (restart, exit, lasted, before, verdict, after) in cases {
            let config = config(&format!("config_restart={restart}"));
            let found = decide(&config, *exit, Duration::from_secs(*lasted), *before, 0);
            assert_eq!(found, (*verdict, *after), "{restart} {exit} {lasted} {before:?}");
        }
    }

    #[test]
    fn a_single_run_is_the_last_whatever_the_script_says() {
        for restart in ["always", "on-failure", "never"] {
            let config = config(&format!("config_restart={restart}"));
            for before in [FRESH, GOOD, failed(2)] {
                let before = History { once: true, ..before };
                for (exit, verdict) in
                    [(OK, Verdict::Done), (BAD, Verdict::GiveUp), (Exit::Unknown, Verdict::GiveUp)]
                {
                    for lasted in [0, 10] {
                        let lasted = Duration::from_secs(lasted);
                        let (found, after) = decide(&config, exit, lasted, before, 0);
                        assert_eq!((found, after.once), (verdict, true), "{restart} {exit}");
                    }
                }
            }
        }
    }

    /// The verdicts on starts that fail one after another, after one success.
    fn verdicts(lines: &str, count: usize) -> Vec<Option<u64>> {
        let config = config(lines);
        let mut history = GOOD;
        let mut all = Vec::new();
        while all.len() < count {
            let (verdict, after) = decide(&config, BAD, Duration::ZERO, history, 0);
            history = after;
            match verdict {
                Verdict::Again { delay } => all.push(Some(delay.as_secs())),
                Verdict::GiveUp | Verdict::Done => all.push(None),
            }
        }
        all
    }

    #[test]
    fn delays_of_failed_starts() {
        let cases: &[(&str, &[Option<u64>])] = &[
            ("", &[Some(0), Some(2), None, None]),
            ("config_max_retry=0", &[None, None]),
            ("config_max_retry=1", &[Some(0), None]),
            ("config_max_retry=4", &[Some(0), Some(2), Some(4), Some(6), None]),
            (
                "config_max_retry=unlimited\nconfig_retry_max_sec=3",
                &[Some(0), Some(2), Some(3), Some(3)],
            ),
            (
                "config_max_retry=unlimited\nconfig_retry_sec=0",
                &[Some(0), Some(0), Some(0), Some(0)],
            ),
            ("config_max_retry=unlimited\nconfig_retry_sec=90", &[Some(0), Some(60), Some(60)]),
        ];
        for (lines, delays) in cases {
            assert_eq!(verdicts(lines, delays.len()), *delays, "{lines}");
        }
        let forever = verdicts("config_max_retry=unlimited", 1000);
        assert_eq!((forever[30], forever[31], forever[999]), (Some(60), Some(60), Some(60)));
    }

    #[test]
    fn unlimited_is_for_services_that_once_started() {
        let config = config("config_max_retry=unlimited");
        assert_eq!(decide(&config, BAD, Duration::ZERO, FRESH, 0).0, Verdict::GiveUp);
        let (verdict, history) = decide(&config, BAD, Duration::ZERO, failed(u32::MAX), 0);
        assert_eq!((verdict, history), (again(60), failed(u32::MAX)));
    }

    #[test]
    fn the_bound_of_start_sec() {
        let config = config("config_start_sec=0.5");
        let cases = [(499, Verdict::GiveUp), (500, again(0)), (501, again(0))];
        for (millis, verdict) in cases {
            assert_eq!(decide(&config, BAD, Duration::from_millis(millis), FRESH, 0).0, verdict);
        }
        let zero = Config { start_sec: Duration::ZERO, ..config };
        let hasty = History { hasty: 1, ..GOOD };
        assert_eq!(decide(&zero, BAD, Duration::ZERO, FRESH, 0), (again(0), hasty));
        assert_eq!(decide(&zero, BAD, None, FRESH, 0).0, Verdict::GiveUp);
        assert_eq!(decide(&zero, BAD, None, GOOD, 0), (again(0), failed(1)));
    }

    #[test]
    fn what_ends_at_once_and_never_fails_is_raised_once_a_second() {
        let ms = Duration::from_millis;
        for (start_sec, lasted) in [("0", ms(0)), ("0", ms(300)), ("0.2", ms(999))] {
            let config = config(&format!("config_start_sec={start_sec}"));
            let mut history = FRESH;
            let mut begins = vec![Duration::ZERO];
            for _ in 0..1000 {
                let (verdict, after) = decide(&config, OK, lasted, history, 7);
                let Verdict::Again { delay } = verdict else { panic!("{verdict:?}") };
                history = after;
                begins.push(begins[begins.len() - 1] + lasted + delay);
            }
            // The first few follow at once, all others a second after the former.
            let gaps: Vec<Duration> = begins.windows(2).map(|two| two[1] - two[0]).collect();
            let (first, others) = gaps.split_at(usize::from(HASTY_MAX));
            assert!(first.iter().all(|&gap| gap == lasted), "{first:?}");
            assert!(others.iter().all(|&gap| gap == HASTE), "{others:?}");
            // One that lasts is no part of the row, and begins another.
            let (verdict, after) = decide(&config, OK, HASTE, history, 7);
            assert_eq!((verdict, after), (again(0), GOOD));
        }
    }

    #[test]
    fn jitter_adds_up_to_a_tenth() {
        let config = config("config_max_retry=unlimited\nconfig_retry_sec=10");
        let delay =
            |failures, jitter| match decide(&config, BAD, Duration::ZERO, failed(failures), jitter)
            {
                (Verdict::Again { delay }, _) => delay,
                other => panic!("{other:?}"),
            };
        assert_eq!(delay(0, 1000), Duration::ZERO);
        assert_eq!(delay(1, 0), Duration::from_secs(10));
        assert_eq!(delay(1, 500), Duration::from_millis(10_500));
        assert_eq!(delay(1, 1000), Duration::from_secs(11));
        for jitter in (0..10_000).chain(u64::MAX - 1000..=u64::MAX) {
            for (failures, secs) in [(1, 10), (2, 20), (6, 60), (7, 60)] {
                let exact = Duration::from_secs(secs);
                assert!((exact..=exact * 11 / 10).contains(&delay(failures, jitter)));
            }
        }
        let huge = Config { retry_sec: Duration::MAX, retry_max_sec: Duration::MAX, ..config };
        let (verdict, _) = decide(&huge, BAD, Duration::ZERO, failed(5), u64::MAX);
        assert_eq!(verdict, Verdict::Again { delay: Duration::MAX });
    }

    #[test]
    fn an_unknown_exit_is_in_no_set() {
        let mut all = ExitSet::default();
        (0..=255).for_each(|code| all.insert_code(code));
        let config = Config { ok_exit: all, restart: Restart::OnFailure, ..Config::default() };
        let long = Duration::from_secs(11);
        assert_eq!(decide(&config, BAD, long, GOOD, 0).0, Verdict::Done);
        assert_eq!(decide(&config, Exit::Unknown, long, GOOD, 0).0, again(0));
    }
}
