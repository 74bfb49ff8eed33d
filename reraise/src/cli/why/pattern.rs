//! What several deaths have in common.

use std::collections::BTreeMap;

use reraise::history::deaths::{Cause, Death, KEPT};

use crate::cli::clock;
use crate::cli::deaths::{exit, lasted, summary};

/// One or two sentences about the last deaths; none where there were none. A death that
/// somebody asked for is told only when it was the last.
pub(super) fn describe(deaths: &[Death], now: i64) -> Vec<String> {
    let Some(last) = deaths.last() else { return Vec::new() };
    if is_asked(last) {
        let what = if last.cause == Cause::Stop { "stop" } else { "restart" };
        let when = clock::short(last.ended, now);
        return vec![format!("its last run ended at {when}, as asked ({what}): {}", summary(last))];
    }
    let own: Vec<&Death> = deaths.iter().rev().take_while(|death| !is_asked(death)).collect();
    let alike = own.iter().take_while(|death| is_alike(death, last)).count();
    let (alike, others) = own.split_at(alike);
    let mut lines = vec![together(alike, alike.len() == KEPT, now)];
    if !others.is_empty() {
        lines.push(format!("before that: {}", mixture(others)));
    }
    lines
}

fn is_asked(death: &Death) -> bool {
    matches!(death.cause, Cause::Stop | Cause::Restart)
}

/// The same end, and not after another order of time.
fn is_alike(death: &Death, last: &Death) -> bool {
    let is_launch = |death: &Death| matches!(death.cause, Cause::Launch(_));
    let is_longer = death.lasted > 60_000_000_000 && death.lasted / 10 > last.lasted;
    (death.exit, is_launch(death)) == (last.exit, is_launch(last)) && !is_longer
}

/// Deaths that are alike, the last one first.
fn together(deaths: &[&Death], is_all: bool, now: i64) -> String {
    let (last, first) = (deaths[0], deaths[deaths.len() - 1]);
    let when = clock::short(last.ended, now);
    let count = deaths.len();
    if count == 1 {
        return format!("1 death, at {when}: {}", summary(last));
    }
    let span = clock::span((last.ended - first.ended).max(0) as f64 / 1e6);
    let at_least = if is_all { "at least " } else { "" };
    let always = match last.cause {
        Cause::Launch(_) => "its program could never be executed".to_owned(),
        _ => format!("always {} after {}", exit(last), range(deaths)),
    };
    format!("{at_least}{count} deaths in {span}, {always}; the last at {when}")
}

/// `2 s`, or `2 s to 3 min` where they differ by more than a little.
fn range(deaths: &[&Death]) -> String {
    let times = || deaths.iter().map(|death| lasted(death));
    let (least, most) = (times().fold(f64::MAX, f64::min), times().fold(0.0, f64::max));
    if most > least * 1.5 + 0.5 {
        return format!("{} to {}", clock::span(least), clock::span(most));
    }
    clock::span(times().sum::<f64>() / deaths.len() as f64)
}

/// Deaths of any kind: `3 times exit code 1, once signal KILL`.
fn mixture(deaths: &[&Death]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for death in deaths {
        let what = match death.cause {
            Cause::Launch(_) => "not executable".to_owned(),
            _ => exit(death),
        };
        *counts.entry(what).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let part = |(what, count): &(String, usize)| match count {
        1 => format!("once {what}"),
        2 => format!("twice {what}"),
        count => format!("{count} times {what}"),
    };
    counts.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reraise::backend::{Exit, LaunchError, Step};

    const NOW: i64 = 1_795_954_212_000_000;

    /// Deaths of these exit codes, so many seconds ago, that lasted so many seconds.
    fn deaths(all: &[(i32, i64, u64)]) -> Vec<Death> {
        let one = |(number, (code, ago, lasted)): (u64, &(i32, i64, u64))| Death {
            number,
            run: number + 1,
            pid: 5,
            began: 0,
            ended: NOW - ago * 1_000_000,
            lasted: lasted * 1_000_000_000,
            exit: Exit::Code(*code),
            cause: Cause::Itself,
            usage: None,
            is_for_memory: false,
            is_late: false,
        };
        (0..).zip(all).map(one).collect()
    }

    fn said(deaths: &[Death]) -> Vec<String> {
        let when = clock::short(deaths.last().unwrap().ended, NOW);
        describe(deaths, NOW).iter().map(|line| line.replace(&when, "WHEN")).collect()
    }

    #[test]
    fn patterns() {
        assert_eq!(describe(&[], NOW), [""; 0]);
        assert_eq!(said(&deaths(&[(1, 9, 2)])), ["1 death, at WHEN: exit code 1 after 2 s"]);
        let eight: Vec<_> = (0..8).map(|n| (1, 240 - n * 30, 2)).collect();
        assert_eq!(
            said(&deaths(&eight)),
            ["8 deaths in 3 min, always exit code 1 after 2 s; the last at WHEN"]
        );
        let twenty: Vec<_> = (0..20).map(|n| (1, 40 - n, 2 + n as u64)).collect();
        assert_eq!(
            said(&deaths(&twenty)),
            ["at least 20 deaths in 19 s, always exit code 1 after 2 s to 21 s; the last at WHEN"]
        );
        assert_eq!(
            said(&deaths(&[(0, 90, 5), (2, 80, 5), (2, 70, 5), (1, 60, 5), (1, 50, 5)])),
            [
                "2 deaths in 10 s, always exit code 1 after 5 s; the last at WHEN",
                "before that: twice exit code 2, once exit code 0"
            ]
        );
        // A run of days is not one of a row of seconds.
        assert_eq!(
            said(&deaths(&[(1, 90, 300_000), (1, 80, 2)])),
            ["1 death, at WHEN: exit code 1 after 2 s", "before that: once exit code 1"]
        );
    }

    #[test]
    fn other_causes() {
        let mut all = deaths(&[(1, 90, 5), (1, 80, 5), (143, 70, 5)]);
        all[2].cause = Cause::Stop;
        assert_eq!(
            said(&all),
            ["its last run ended at WHEN, as asked (stop): exit code 143 after 5 s"]
        );
        all[1].cause = Cause::Restart;
        all[2].cause = Cause::Launch(LaunchError { step: Step::Exec, errno: 2 });
        assert_eq!(said(&all), ["1 death, at WHEN: could not be executed"]);
        all[1].cause = all[2].cause;
        all[1].exit = all[2].exit;
        let never = "2 deaths in 10 s, its program could never be executed; the last at WHEN";
        assert_eq!(said(&all)[0], never);
        all[2].cause = Cause::Itself;
        all[2].is_late = true;
        assert_eq!(said(&all)[0], "1 death, at WHEN: exit code 143, at an unknown time");
        all[2].is_late = false;
        all[2].exit = Exit::Signal { number: 9, core: false };
        all[2].is_for_memory = true;
        assert_eq!(said(&all)[0], "1 death, at WHEN: signal KILL (killed for memory) after 5 s");
    }
}
