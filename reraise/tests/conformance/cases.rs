//! The promises that every backend keeps.

use std::time::Duration;

use reraise::backend::{
    Elevation, Event, Exit, LaunchError, ProcessBackend, ProcessId, Scope, Signal, Step, Tree,
};

use crate::subject::{Program, RUN, Subject, adopted, killed, ours, run_number};

pub(crate) fn a_gated_child_does_nothing(mut s: impl Subject) {
    let child = s.spawn(Program::Waits);
    s.pass(Duration::from_millis(20));
    assert_eq!(s.backend().identify(child.pid).unwrap(), Some(child));
    assert_eq!(s.members(&ours(child)), [child]);
    s.backend().release(child).unwrap();
    s.await_all(&[Event::Launched(child), Event::Input]);
}

pub(crate) fn who_has_begun_carries_the_mark(mut s: impl Subject) {
    let child = s.spawn(Program::Waits);
    let run = run_number(RUN);
    assert!(!s.backend().has_begun(child, run));
    s.backend().release(child).unwrap();
    s.await_all(&[Event::Launched(child), Event::Input]);
    // Nobody is shown an environment there.
    let is_told = !cfg!(target_os = "dragonfly");
    assert_eq!(s.backend().has_begun(child, run), is_told);
    assert!(!s.backend().has_begun(child, run + 1));
}

pub(crate) fn a_child_never_released_ends_without_running(mut s: impl Subject) {
    let child = s.spawn(Program::Waits);
    s.succeed();
    if s.backend().watch(child).unwrap() {
        // Told from a run, where the system tells how it ended.
        let is_known = |exit: Exit| exit.is_at_the_gate() || exit == Exit::Unknown;
        assert!(matches!(s.next(), Event::Ended(p, exit) if p == child && is_known(exit)));
    }
    let events = s.pending();
    assert!(events.iter().all(|e| *e == Event::OrphanEnded), "{events:?}");
    assert_eq!(s.members(&ours(child)), []);
}

pub(crate) fn a_child_killed_at_the_gate_was_never_launched(mut s: impl Subject) {
    let child = s.spawn(Program::Waits);
    s.kill(child);
    assert_eq!(s.next(), Event::Ended(child, killed()));
    assert_eq!(s.pending(), []);
    assert!(s.backend().release(child).is_err());
}

pub(crate) fn only_a_gated_child_can_be_released(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    assert!(s.backend().release(child).is_err());
    assert!(s.backend().release(ProcessId { born: child.born ^ 1, ..child }).is_err());
    assert!(s.backend().release(ProcessId { pid: 1, born: 0 }).is_err());
    assert_eq!(s.pending(), []);
}

pub(crate) fn launched_comes_before_ended(mut s: impl Subject) {
    for _ in 0..30 {
        let child = s.spawn(Program::Exits(0));
        s.backend().release(child).unwrap();
        assert_eq!(s.next(), Event::Launched(child));
        assert_eq!(s.next(), Event::Ended(child, Exit::Code(0)));
    }
    // Also when we hear of the launch only after the end.
    let child = s.spawn(Program::Exits(7));
    s.backend().release(child).unwrap();
    s.await_zombie(child);
    assert_eq!(s.next(), Event::Launched(child));
    assert_eq!(s.next(), Event::Ended(child, Exit::Code(7)));
}

pub(crate) fn reports_the_exit_code(mut s: impl Subject) {
    for code in [0, 1, 127, 255] {
        let child = s.start(Program::Exits(code));
        assert_eq!(s.next(), Event::Ended(child, Exit::Code(code)));
    }
}

pub(crate) fn reports_the_signal(mut s: impl Subject) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGHUP] {
        let child = s.start(Program::DiesOf(signal));
        let exit = Exit::Signal { number: signal as i32, core: false };
        assert_eq!(s.next(), Event::Ended(child, exit));
    }
}

pub(crate) fn two_exits_are_both_reported(mut s: impl Subject) {
    let two = [s.start_waiting(Program::Waits), s.start_waiting(Program::Waits)];
    for child in two {
        s.kill(child);
        s.await_zombie(child);
    }
    let mut ended = [s.next(), s.next()];
    ended.sort_by_key(|e| matches!(e, Event::Ended(p, _) if *p == two[1]));
    assert_eq!(ended, two.map(|p| Event::Ended(p, killed())));
    assert_eq!(s.pending(), []);
}

pub(crate) fn many_exits_at_once_are_all_reported(mut s: impl Subject) {
    let mut all: Vec<ProcessId> = (0..20).map(|_| s.start_waiting(Program::Waits)).collect();
    for child in &all {
        s.kill(*child);
    }
    while !all.is_empty() {
        let Event::Ended(child, exit) = s.next() else { panic!("another event") };
        assert_eq!(exit, killed());
        all.remove(all.iter().position(|p| *p == child).unwrap());
    }
}

fn fails_to_launch(mut s: impl Subject, program: Program, errno: i32) {
    let child = s.spawn(program);
    s.backend().release(child).unwrap();
    let error = LaunchError { step: Step::Exec, errno };
    assert_eq!(s.next(), Event::LaunchFailed(child, error));
    assert!(!error.is_temporary());
    assert_eq!(s.backend().identify(child.pid).unwrap(), None);
    assert_eq!(s.members(&ours(child)), []);
    assert_eq!(s.pending(), [], "no end is reported of what never ran");
}

pub(crate) fn a_missing_program_is_a_launch_failure_and_leaves_nothing(s: impl Subject) {
    fails_to_launch(s, Program::IsMissing, libc::ENOENT);
}

pub(crate) fn a_missing_interpreter_is_a_launch_failure_with_its_errno(s: impl Subject) {
    fails_to_launch(s, Program::LacksInterpreter, libc::ENOENT);
}

pub(crate) fn a_program_that_may_not_be_executed_is_a_launch_failure(s: impl Subject) {
    fails_to_launch(s, Program::IsNotExecutable, libc::EACCES);
}

pub(crate) fn a_signal_to_us_is_an_event(mut s: impl Subject) {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTERM] {
        s.signal_us(signal);
        assert_eq!(s.next(), Event::Signal(signal));
    }
    assert_eq!(s.pending(), []);
}

pub(crate) fn input_is_an_event(mut s: impl Subject) {
    for _ in 0..3 {
        s.announce();
        s.await_announcement();
    }
    assert_eq!(s.pending(), []);
}

pub(crate) fn a_deadline_wakes_us_and_not_early(mut s: impl Subject) {
    for microseconds in [0, 1, 999, 1_001, 30_500] {
        let end = s.backend().now() + Duration::from_micros(microseconds);
        assert_eq!(s.backend().next_event(Some(end)).unwrap(), Event::Deadline);
        assert!(s.backend().now() >= end);
    }
    assert_eq!(s.backend().next_event(Some(Duration::ZERO)).unwrap(), Event::Deadline);
}

pub(crate) fn what_has_happened_comes_before_a_deadline(mut s: impl Subject) {
    s.signal_us(Signal::SIGHUP);
    let now = s.backend().now();
    assert_eq!(s.backend().next_event(Some(now)).unwrap(), Event::Signal(Signal::SIGHUP));
    assert_eq!(s.backend().next_event(Some(now)).unwrap(), Event::Deadline);
}

pub(crate) fn an_ignored_signal_changes_nothing(mut s: impl Subject) {
    let child = s.start_waiting(Program::IgnoresTerm);
    assert!(s.backend().signal(child, Signal::SIGTERM).unwrap());
    s.pass(Duration::from_millis(20));
    assert_eq!(s.members(&ours(child)), [child]);
    s.kill(child);
    assert_eq!(s.next(), Event::Ended(child, killed()));
}

pub(crate) fn a_zombie_is_not_alive(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    s.kill(child);
    s.await_zombie(child);
    assert_eq!(s.backend().identify(child.pid).unwrap(), None);
    assert!(!s.backend().signal(child, Signal::SIGTERM).unwrap());
    assert_eq!(s.members(&ours(child)), []);
    assert_eq!(s.members(&adopted(child)), []);
    assert_eq!(s.next(), Event::Ended(child, killed()));
}

pub(crate) fn a_reaped_process_is_not_alive(mut s: impl Subject) {
    let child = s.start(Program::Exits(0));
    assert_eq!(s.next(), Event::Ended(child, Exit::Code(0)));
    assert_eq!(s.backend().identify(child.pid).unwrap(), None);
}

pub(crate) fn another_birth_is_another_process(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    let other = ProcessId { born: child.born ^ 1, ..child };
    assert!(!s.backend().signal(other, Signal::SIGKILL).unwrap());
    assert!(!s.backend().watch(other).unwrap());
    assert_eq!(s.members(&Tree { run: 1, ..adopted(other) }), []);
    assert_eq!(s.backend().identify(child.pid).unwrap(), Some(child));
    assert_eq!(s.pending(), []);
}

pub(crate) fn no_number_below_one_is_a_process(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    for pid in [0, -1, -child.pid, i32::MIN] {
        assert_eq!(s.backend().identify(pid).unwrap(), None);
        for born in [0, child.born] {
            assert!(!s.backend().signal(ProcessId { pid, born }, Signal::SIGKILL).unwrap());
            assert!(!s.backend().watch(ProcessId { pid, born }).unwrap());
        }
    }
    assert_eq!(s.pending(), []);
}

pub(crate) fn a_foreign_process_is_alive(mut s: impl Subject) {
    let init = s.backend().identify(1).unwrap().unwrap();
    assert!(s.backend().watch(init).unwrap());
    assert_eq!(s.pending(), []);
}

pub(crate) fn signalling_the_dead_is_not_an_error(mut s: impl Subject) {
    let child = s.start(Program::Exits(0));
    s.await_zombie(child);
    // The Fake has nothing between running and reaped.
    assert_eq!(s.next(), Event::Ended(child, Exit::Code(0)));
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGCONT] {
        assert!(!s.backend().signal(child, signal).unwrap());
    }
}

pub(crate) fn an_adopted_process_reports_its_end(mut s: impl Subject) {
    let parent = s.start_waiting(Program::HasChild);
    let [child] = s.others(&ours(parent))[..] else { panic!("one child") };
    assert!(s.backend().watch(child).unwrap());
    assert!(s.backend().watch(child).unwrap(), "twice is once");
    s.kill(child);
    let event = s.next();
    let told = [killed(), Exit::Unknown].map(|exit| Event::Ended(child, exit));
    assert!(told.contains(&event), "{event:?}");
    assert_eq!(s.pending(), []);
    assert_eq!(s.members(&ours(parent)), [parent]);
}

pub(crate) fn an_exit_that_came_before_we_looked_gives_no_event(mut s: impl Subject) {
    let child = s.start(Program::Exits(0));
    assert_eq!(s.next(), Event::Ended(child, Exit::Code(0)));
    assert!(!s.backend().watch(child).unwrap());
    assert_eq!(s.pending(), []);
}

pub(crate) fn a_spawned_process_that_is_watched_too_ends_once(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    assert!(s.backend().watch(child).unwrap());
    s.kill(child);
    assert_eq!(s.next(), Event::Ended(child, killed()));
    assert_eq!(s.pending(), []);
}

pub(crate) fn nothing_left_is_empty(mut s: impl Subject) {
    let child = s.start_waiting(Program::Waits);
    let (mine, theirs) = (ours(child), adopted(child));
    assert_eq!(s.members(&mine), [child]);
    assert_eq!(s.members(&theirs), [child]);
    s.kill(child);
    assert_eq!(s.next(), Event::Ended(child, killed()));
    assert_eq!(s.members(&mine), []);
    assert_eq!(s.members(&theirs), []);
}

pub(crate) fn a_child_of_the_program_is_a_member(mut s: impl Subject) {
    let parent = s.start_waiting(Program::HasChild);
    assert_eq!(s.others(&ours(parent)).len(), 1);
    let members = s.members(&ours(parent));
    assert!(members.contains(&parent));
    assert_eq!(s.members(&Tree { scope: Scope::Session, ..ours(parent) }), members);
}

pub(crate) fn a_daemonised_grandchild_is_a_member(mut s: impl Subject) {
    let main = s.start_leaving(Program::LeavesDaemon);
    let [daemon] = s.members(&ours(main))[..] else { panic!("one member") };
    s.kill(daemon);
    await_orphan_s_end(&mut s, daemon);
    assert_eq!(s.members(&ours(main)), []);
}

/// The event that tells, where orphans become our children.
fn await_orphan_s_end(s: &mut impl Subject, orphan: ProcessId) {
    if s.backend().keeps_orphans() {
        assert_eq!(s.next(), Event::OrphanEnded);
    } else {
        while s.backend().identify(orphan.pid).unwrap() == Some(orphan) {
            std::thread::yield_now();
        }
        assert_eq!(s.pending(), []);
    }
}

pub(crate) fn a_daemon_with_emptied_environment_is_a_member(mut s: impl Subject) {
    if !s.backend().keeps_orphans() {
        return;
    }
    let main = s.start_leaving(Program::LeavesBareDaemon);
    assert_eq!(s.members(&ours(main)).len(), 1);
    assert_eq!(s.members(&Tree { scope: Scope::Session, ..ours(main) }), []);
}

pub(crate) fn an_orphan_s_end_is_told(mut s: impl Subject) {
    let parent = s.start_waiting(Program::HasChild);
    let [child] = s.others(&ours(parent))[..] else { panic!("one child") };
    s.kill(parent);
    assert_eq!(s.next(), Event::Ended(parent, killed()));
    assert_eq!(s.members(&ours(parent)), [child]);
    s.kill(child);
    await_orphan_s_end(&mut s, child);
    assert_eq!(s.members(&ours(parent)), []);
}

pub(crate) fn a_child_of_an_adopted_program_is_a_member(mut s: impl Subject) {
    let parent = s.start_waiting(Program::HasChild);
    let [child] = s.others(&ours(parent))[..] else { panic!("one child") };
    assert_eq!(s.others(&adopted(parent)), [child]);
    s.kill(parent);
    assert_eq!(s.next(), Event::Ended(parent, killed()));
    assert_eq!(s.members(&adopted(parent)), [child], "the session is still that of the run");
}

pub(crate) fn a_daemon_of_an_adopted_run_is_known_by_its_mark(mut s: impl Subject) {
    let main = s.start_leaving(Program::LeavesDaemon);
    let daemon = s.members(&ours(main));
    assert_eq!(s.members(&adopted(main)), daemon);
    assert_eq!(s.members(&Tree { run: 1, ..adopted(main) }), []);
}

pub(crate) fn a_stray_is_a_member(mut s: impl Subject) {
    if !s.backend().keeps_orphans() {
        return;
    }
    let main = s.start_leaving(Program::LeavesBareDaemon);
    let [daemon] = s.members(&ours(main))[..] else { panic!("one member") };
    let tree = |strays| Tree { strays, ..adopted(main) };
    assert_eq!(s.members(&tree(vec![])), [], "nothing else tells");
    assert_eq!(s.members(&tree(vec![daemon])), [daemon]);
    let other = ProcessId { born: daemon.born ^ 1, ..daemon };
    assert_eq!(s.members(&tree(vec![other])), []);
    assert_eq!(s.members(&Tree { scope: Scope::Session, ..tree(vec![daemon]) }), []);
}

pub(crate) fn session_scope_leaves_the_others(mut s: impl Subject) {
    let main = s.start_waiting(Program::HasDaemon);
    for tree in [ours(main), adopted(main)] {
        assert_eq!(s.others(&tree).len(), 1);
        assert_eq!(s.members(&Tree { scope: Scope::Session, ..tree }), [main]);
    }
}

pub(crate) fn another_run_is_no_member(mut s: impl Subject) {
    let one = s.start_waiting(Program::Waits);
    let two = s.start_run(Program::Waits, 2);
    assert_eq!(s.members(&adopted(one)), [one]);
    let run = run_number(2);
    assert_eq!(s.members(&Tree { run, ..adopted(two) }), [two]);
}

pub(crate) fn we_are_no_member(mut s: impl Subject) {
    let us = s.us();
    let us = s.backend().identify(us).unwrap().unwrap();
    let init = s.backend().identify(1).unwrap().unwrap();
    let child = s.start_waiting(Program::Waits);
    for strays in [vec![us], vec![us, child]] {
        let members = s.members(&Tree { strays, ..adopted(child) });
        assert_eq!(members, [child]);
    }
    let members = s.members(&Tree { strays: vec![init], ..ours(child) });
    assert_eq!(members, [child]);
}

pub(crate) fn our_own_file_needs_no_sudo(mut s: impl Subject) {
    let path = s.our_file();
    let owner = s.backend().owner(&path).unwrap();
    for interactive in [true, false] {
        assert_eq!(s.backend().elevation(owner, interactive), Elevation::None);
    }
}

pub(crate) fn a_missing_file_has_no_owner(mut s: impl Subject) {
    let path = s.our_file().join("missing");
    assert!(s.backend().owner(&path).is_err());
}
