//! The registry, step by step; `walk` goes everywhere.

use super::*;
use crate::error::{ExitCode, Fault};
use crate::supervise::machine::Outcome;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text.as_ref()).unwrap()
}

fn start(client: Client) -> Request {
    Request::Start { client: client.to_string(), context: [].into(), once: false }
}

fn over() -> Frame {
    News::Over(Outcome::Stopped).to_frame().after("all")
}

fn forks(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Fork(..))).count()
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn fifty_starts_fork_one_worker() {
    let mut registry = Registry::default();
    let all: usize =
        (0..50).map(|client| forks(&registry.request(client, name("web"), start(client)))).sum();
    assert_eq!(all, 1);
}

#[test]
fn what_a_leaving_worker_has_not_taken_goes_to_the_next() {
    let web = name("web");
    let mut registry = Registry::default();
    let _ = registry.request(1, web.clone(), start(1));
    // Passed on before the keeper heard that it leaves.
    assert_eq!(registry.request(2, web.clone(), start(2)).len(), 1);
    let _ = registry.news(&web, &over());
    // Comes after that: kept.
    assert_eq!(registry.request(3, web.clone(), Request::stop(false)), []);
    let effects = registry.gone(&web, End::Done, NOW);
    assert_eq!(forks(&effects), 1);
    assert!(effects.contains(&Effect::Pass(web.clone(), Request::stop(false))));
    // Taken by the worker: no further fork for it.
    let _ = registry.news(&web, &Frame::new(["ack"]));
    let _ = registry.news(&web, &over());
    assert_eq!(registry.gone(&web, End::Done, NOW), []);
    assert_eq!(registry.names().count(), 0);
}

#[test]
fn what_a_worker_took_and_said_nothing_about_is_its_successors() {
    let web = name("web");
    let mut registry = Registry::default();
    let task = Task::Start { client: "1".into(), context: [].into(), once: false };
    let _ = registry.request(1, web.clone(), start(1));
    for end in [End::Killed, End::Failed, End::Killed] {
        let effects = registry.gone(&web, end, NOW);
        assert!(effects.contains(&Effect::Fork(web.clone(), task.clone())), "{effects:?}");
    }
    // It has spoken: what it took is noted where a successor finds it.
    let _ = registry.news(&web, &News::Launched(7).to_frame().after("all"));
    let effects = registry.gone(&web, End::Killed, NOW);
    assert_eq!(effects, [Effect::Fork(web, Task::Resume)]);
}

#[test]
fn requests_go_to_the_worker_that_was_there_before() {
    let web = name("web");
    let mut registry = Registry::default();
    assert_eq!(forks(&registry.request(1, web.clone(), start(1))), 1);
    let stop = Request::stop(false);
    let passed = [Effect::Pass(web.clone(), start(1)), Effect::Pass(web.clone(), stop.clone())];
    let _ = registry.request(2, web.clone(), stop);
    registry.hello(web.clone());
    // Whatever it has said before it heard of them.
    let _ = registry.news(&web, &News::Running(7).to_frame().after("all"));
    assert_eq!(registry.reseat(&web), passed);
    let restart = Effect::Pass(web.clone(), Request::Restart);
    assert_eq!(registry.request(3, web, Request::Restart), [restart]);
}

#[test]
fn requests_wait_for_a_worker_that_was_called() {
    let web = name("web");
    let stop = Request::stop(false);
    let passed = [Effect::Pass(web.clone(), start(1)), Effect::Pass(web.clone(), stop.clone())];
    for says_hello in [true, false] {
        let mut registry = Registry::default();
        // The one that was forked for the first finds another one.
        assert_eq!(forks(&registry.request(1, web.clone(), start(1))), 1);
        registry.expect(web.clone());
        registry.defer(&web);
        assert_eq!(registry.request(2, web.clone(), stop.clone()), []);
        if says_hello {
            registry.hello(web.clone());
            assert_eq!(registry.reseat(&web), passed);
        } else {
            let effects = registry.gone(&web, End::Killed, NOW);
            assert_eq!(forks(&effects), 1);
            assert_eq!(effects.last(), passed.last());
        }
    }
    // One that nobody has asked anything of.
    let mut registry = Registry::default();
    registry.expect(web.clone());
    let effects = registry.gone(&web, End::Killed, NOW);
    assert_eq!(effects, [Effect::Fork(web, Task::Resume)]);
}

#[test]
fn a_killed_worker_is_replaced_at_once_for_ever() {
    let web = name("web");
    let mut registry = Registry::default();
    let _ = registry.resume(web.clone());
    for _ in 0..100 {
        let effects = registry.gone(&web, End::Killed, NOW);
        assert_eq!(effects, [Effect::Fork(web.clone(), Task::Resume)]);
    }
}

#[test]
fn a_failing_worker_comes_more_and_more_seldom() {
    let web = name("web");
    let mut registry = Registry::default();
    let _ = registry.resume(web.clone());
    assert_eq!(forks(&registry.gone(&web, End::Failed, NOW)), 1);
    let mut now = NOW;
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let effects = registry.gone(&web, End::Failed, now);
        let due = registry.deadline().unwrap();
        assert_eq!(due, now + Duration::from_secs(seconds));
        assert!(matches!(effects[..], [Effect::Rest(_, _, until)] if until == due));
        assert_eq!(registry.tick(due - Duration::from_millis(1)), []);
        assert_eq!(forks(&registry.tick(due)), 1);
        now = due;
        // That it got so far is not enough.
        let _ = registry.news(&web, &News::Running(7).to_frame().after("all"));
    }
    // It lasts: forgiven.
    now += FORGIVEN * 2;
    assert_eq!(forks(&registry.gone(&web, End::Failed, now)), 1);
    // Whoever waits is told.
    let _ = registry.request(1, web.clone(), Request::Restart);
    let effects = registry.gone(&web, End::Failed, now);
    let [Effect::Rest(_, 2, _), Effect::Answer(1, frame)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let news = News::from_frame(&frame.split().unwrap().1);
    assert!(matches!(news, Some(News::Fault(_))), "{news:?}");
}

#[test]
fn all_leave_wherever_they_are() {
    let mut registry = Registry::default();
    let leave = |of: &str| Effect::Pass(name(of), Request::Leave { now: false });
    // One has a worker, one is just leaving, one too and is wanted again, and
    // the workers of one have failed.
    for (client, of) in [(1, "runs"), (2, "goes"), (3, "comes"), (4, "fails")] {
        let _ = registry.request(client, name(of), start(client));
    }
    let launched = News::Launched(7).to_frame().after("all");
    let _ = registry.news(&name("runs"), &launched);
    let _ = registry.news(&name("goes"), &over());
    let _ = registry.news(&name("comes"), &over());
    let _ = registry.request(5, name("comes"), start(5));
    let _ = registry.news(&name("fails"), &launched);
    let _ = registry.gone(&name("fails"), End::Failed, NOW);
    let _ = registry.gone(&name("fails"), End::Failed, NOW);
    assert!(registry.deadline().is_some());
    let effects = registry.leave_all(false);
    assert_eq!(forks(&effects), 1, "{effects:?}");
    assert!(effects.contains(&leave("runs")), "{effects:?}");
    assert!(
        effects.contains(&Effect::Fork(name("fails"), Task::Leave { now: false })),
        "{effects:?}"
    );
    assert_eq!((registry.deadline(), registry.gone(&name("goes"), End::Done, NOW)), (None, vec![]));
    // The order of what was asked for is kept.
    let effects = registry.gone(&name("comes"), End::Done, NOW);
    assert!(matches!(effects[1], Effect::Fork(_, Task::Start { .. })), "{effects:?}");
    assert_eq!(effects[2..], [leave("comes")]);
    // Killed before it has heard of it: its successor does.
    let effects = registry.gone(&name("runs"), End::Killed, NOW);
    assert!(
        effects.contains(&Effect::Fork(name("runs"), Task::Leave { now: false })),
        "{effects:?}"
    );
    // Whose request is acknowledged is not mixed up.
    let _ = registry.request(6, name("runs"), Request::Restart);
    let acknowledged = registry.news(&name("runs"), &Frame::new(["ack"]));
    assert!(matches!(acknowledged[..], [Effect::Answer(6, _)]), "{acknowledged:?}");
    for of in ["runs", "comes"] {
        let _ = registry.news(&name(of), &over());
        assert_eq!(registry.gone(&name(of), End::Done, NOW), []);
    }
    // Who cannot be ended in order is left after another try.
    let fault = Fault::new(ExitCode::System, "fails", "cannot be supervised", "");
    let _ = registry.news(&name("fails"), &News::Fault(fault).to_frame().after("all"));
    assert_eq!(registry.gone(&name("fails"), End::Failed, NOW), []);
    assert!(registry.is_empty(), "{registry:?}");
}

#[test]
fn news_reach_those_who_asked() {
    let web = name("web");
    let mut registry = Registry::default();
    let _ = registry.request(1, web.clone(), start(1));
    let _ = registry.request(2, name("db"), start(2));
    let news = News::Launched(7).to_frame();
    let expected = [Effect::Answer(1, news.after("web"))];
    assert_eq!(registry.news(&web, &news.after("all")), expected);
    let answer = News::Already(7).to_frame().after("2").after("to");
    assert!(matches!(registry.news(&web, &answer)[..], [Effect::Answer(2, _)]));
    registry.client_gone(1);
    assert_eq!(registry.news(&web, &news.after("all")), []);
}
