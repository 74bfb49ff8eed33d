mod down;
mod up;

use std::collections::BTreeMap;

use super::*;
use crate::cli::console::Paint;
use crate::cli::why::show::screen;
use reraise::backend::{Exit, LaunchError, Step, Usage};
use reraise::config::{Config, Place};
use reraise::history::deaths::Death;

const NOW: i64 = 1_795_954_212_000_000;

/// A service that nothing is known of.
fn facts(state: State) -> Facts {
    Facts {
        name: "web".into(),
        now: NOW,
        state,
        ask_owner: None,
        program: Some("/home/me/reraise.d/web".into()),
        obstacle: None,
        trouble: None,
        pid: None,
        elapsed: None,
        raised: 0,
        is_unwatched: false,
        is_legacy: false,
        lost: None,
        has_keeper: false,
        failing: None,
        wanted: None,
        asked: None,
        phase: None,
        started: false,
        failures: 0,
        until: None,
        deaths: Vec::new(),
        launch: None,
        output: Vec::new(),
        log: Some("/home/me/reraise.log/web/current".into()),
        messages: "/var/tmp/reraise/.reraise-500/messages".into(),
        config: Config::default(),
        places: BTreeMap::new(),
    }
}

fn runs(state: State) -> Facts {
    Facts {
        pid: Some(100),
        elapsed: Some(3),
        wanted: Some(Wanted::Up),
        phase: Some(Phase::Up),
        ..facts(state)
    }
}

fn asked(verb: &str, who: &str) -> Option<Asked> {
    Some(Asked { time: NOW - 60_000_000, verb: verb.into(), who: who.into() })
}

fn death(exit: Exit, cause: Cause) -> Death {
    Death {
        number: 1,
        run: 7,
        pid: 100,
        began: NOW - 12_000_000,
        ended: NOW - 10_000_000,
        lasted: 2_000_000_000,
        exit,
        cause,
        usage: Some(Usage { cpu: 3000, peak: 5 << 20 }),
        is_for_memory: false,
        is_late: false,
    }
}

fn fell(code: i32) -> Vec<Death> {
    vec![death(Exit::Code(code), Cause::Itself)]
}

/// Sets a key in line 4.
fn with(mut facts: Facts, key: &'static str, value: &str) -> Facts {
    facts.places.insert(key.into(), Place { line: 4, value: Some(value.into()) });
    let value = |place: &Place| place.value.clone().unwrap();
    let line = |(key, place): (&String, &Place)| format!("config_{key}={}\n", value(place));
    let script: String = facts.places.iter().map(line).collect();
    let (config, problems) = Config::parse(script.as_bytes(), &|_| None);
    assert_eq!(problems, []);
    facts.config = config;
    facts
}

/// What it says must be in these lines: headline, rule, next, what to do.
struct Case {
    what: &'static str,
    facts: Facts,
    headline: &'static str,
    rule: Option<(&'static str, &'static str, Option<usize>)>,
    next: &'static str,
    todo: &'static [&'static str],
}

fn case(
    what: &'static str,
    facts: Facts,
    headline: &'static str,
    rule: Option<(&'static str, &'static str, Option<usize>)>,
    next: &'static str,
    todo: &'static [&'static str],
) -> Case {
    Case { what, facts, headline, rule, next, todo }
}

fn cases() -> Vec<Case> {
    up::cases().into_iter().chain(down::cases()).collect()
}

#[test]
fn every_state() {
    for case in cases() {
        let what = case.what;
        let e = explain(&case.facts);
        assert!(e.headline.starts_with(case.headline), "{what}: {}", e.headline);
        let rule = e.rule.as_ref().map(|rule| (rule.key, rule.value.as_str(), rule.line));
        assert_eq!(rule, case.rule, "{what}");
        assert!(e.next.contains(case.next), "{what}: {}", e.next);
        assert_eq!(e.next.is_empty(), case.next.is_empty(), "{what}: {}", e.next);
        assert_eq!(e.todo, case.todo, "{what}");
    }
}

#[test]
fn every_state_has_a_case() {
    let all = [
        State::NotRunning,
        State::NotExecutable,
        State::Starting,
        State::Running,
        State::Stopping,
        State::Stop,
        State::Done,
        State::Error,
        State::SeemsNotRunning,
        State::Unknown,
    ];
    let cases = cases();
    assert!(all.iter().all(|state| cases.iter().any(|case| case.facts.state == *state)));
}

#[test]
fn it_fits_a_screen() {
    for case in cases() {
        let mut facts = case.facts;
        facts.output = (0..20).map(|n| format!("{n}{}", "long ".repeat(40))).collect();
        let text = screen(&facts, &explain(&facts), &Paint::none());
        assert!(text.lines().count() <= 24, "{}\n{text}", case.what);
        let is_narrow = |line: &str| line.chars().count() <= 80;
        assert!(text.lines().all(is_narrow), "{}\n{text}", case.what);
        assert!(text.starts_with("web: "), "{text}");
    }
}

#[test]
fn what_an_exit_may_mean() {
    let signal = |number, core| Exit::Signal { number, core };
    for (exit, words) in [
        (Exit::Code(0), Some("foreground")),
        (Exit::Code(1), None),
        (Exit::Code(126), Some("may not execute")),
        (Exit::Code(127), Some("did not find")),
        (signal(libc::SIGKILL, false), Some("KILL came from outside")),
        (signal(libc::SIGTERM, false), Some("came from outside")),
        (signal(libc::SIGSEGV, false), Some("crashed")),
        (signal(libc::SIGABRT, true), Some("core dump")),
        (Exit::Unknown, Some("is lost")),
    ] {
        let hint = hints::of(&death(exit, Cause::Itself));
        match words {
            Some(words) => {
                assert!(hint.is_some_and(|hint| hint.contains(words)), "{exit}: {hint:?}")
            }
            None => assert_eq!(hint, None, "{exit}"),
        }
        assert_eq!(hints::of(&death(exit, Cause::Stop)), None);
    }
    let memory =
        Death { is_for_memory: true, ..death(signal(libc::SIGKILL, false), Cause::Itself) };
    assert!(hints::of(&memory).is_some_and(|hint| hint.contains("for memory")));
}

#[test]
fn a_whole_screen() {
    let facts = Facts {
        started: true,
        failures: 3,
        elapsed: Some(180),
        wanted: Some(Wanted::Up),
        phase: Some(Phase::Over),
        deaths: fell(3),
        output: vec!["cannot bind port 80".into()],
        ..facts(State::Error)
    };
    let text = screen(&facts, &explain(&facts), &Paint::none());
    let time = |ago: i64| clock::short(NOW - ago * 1_000_000, NOW);
    let expected = format!(
        "\
web: given up 3 min ago: exit code 3
script    /home/me/reraise.d/web
wanted    up
happened  1 death, at {}: exit code 3 after 2 s
last run  {} to {}, pid 100, CPU time 3 ms, memory 5120 kB at most
said last cannot bind port 80
rule      config_max_retry=2 (default): it was failed start 3 in a row
next      nothing, until somebody starts it
to do     reraise logs web   # what it has said
          reraise start web
",
        time(10),
        time(12),
        time(10)
    );
    assert_eq!(text, expected);
}
