//! What only the Fake can do; the rest is in `tests/conformance`.

use std::ffi::CString;

use super::*;
use crate::backend::{LaunchError, Scope, Step, run_entry};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn launch(path: &str, run: u64) -> Launch {
    let environment = [run_entry(run)].into_iter().collect();
    Launch { program: CString::new(path).unwrap(), environment, ..Launch::default() }
}

fn start(backend: &mut Fake, path: &str) -> ProcessId {
    let process = backend.spawn(launch(path, 7)).unwrap();
    backend.release(process).unwrap();
    assert_eq!(backend.next_event(None).unwrap(), Event::Launched(process));
    process
}

fn adopted(main: ProcessId) -> Tree {
    Tree { main, run: 7, is_ours: false, strays: Vec::new(), scope: Scope::Tree }
}

#[test]
fn the_clock_goes_to_whatever_comes_first() {
    let mut fake = Fake::new();
    fake.input(3 * S);
    fake.signal_us(2 * S, Signal::SIGTERM);
    assert_eq!(fake.next_event(Some(S)).unwrap(), Event::Deadline);
    assert_eq!(fake.now(), S);
    assert_eq!(fake.next_event(Some(2 * S)).unwrap(), Event::Signal(Signal::SIGTERM));
    assert_eq!(fake.next_event(None).unwrap(), Event::Input);
    assert_eq!(fake.now(), 3 * S);
    assert!(fake.next_event(None).is_err(), "nothing will ever happen");
}

#[test]
fn each_launch_takes_the_next_behaviour_and_the_last_one_stays() {
    let mut fake = Fake::new();
    let busy = LaunchError { step: Step::Exec, errno: libc::ETXTBSY };
    let runs = [Behaviour::cannot_exec(libc::ETXTBSY), Behaviour::exits(1), Behaviour::exits(2)];
    fake.programs("/p", runs);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let process = fake.spawn(launch("/p", 7)).unwrap();
        fake.release(process).unwrap();
        if fake.next_event(None).unwrap() == Event::LaunchFailed(process, busy) {
            continue;
        }
        seen.push(fake.next_event(None).unwrap());
    }
    let ends: Vec<i32> = seen
        .iter()
        .map(|e| if let Event::Ended(_, exit) = e { exit.code().unwrap() } else { -1 })
        .collect();
    assert_eq!(ends, [1, 2, 2]);
    assert_eq!(fake.started().len(), 4);
}

#[test]
fn a_fork_fails_as_often_as_it_was_told_to() {
    let mut fake = Fake::new();
    fake.fail_spawns(libc::EAGAIN, 2);
    for _ in 0..2 {
        let error = fake.spawn(launch("/p", 7)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    }
    assert!(fake.spawn(launch("/p", 7)).is_ok());
}

#[test]
fn an_orderly_end_takes_its_time() {
    let mut fake = Fake::new();
    let behaviour = Behaviour::waits().ending_on(Signal::SIGTERM, 5 * S, Exit::Code(0));
    fake.program("/p", behaviour.ignoring(Signal::SIGHUP));
    let process = start(&mut fake, "/p");
    assert!(fake.signal(process, Signal::SIGHUP).unwrap());
    assert!(fake.signal(process, Signal::SIGTERM).unwrap());
    assert_eq!(fake.next_event(Some(4 * S)).unwrap(), Event::Deadline);
    assert_eq!(fake.next_event(None).unwrap(), Event::Ended(process, Exit::Code(0)));
    assert_eq!(fake.now(), 5 * S);
    let sent: Vec<_> = fake.sent().iter().map(|s| (s.at, s.signal, s.arrived)).collect();
    assert_eq!(
        sent,
        [(Duration::ZERO, Signal::SIGHUP, true), (Duration::ZERO, Signal::SIGTERM, true)]
    );
}

#[test]
fn a_stopped_process_gets_its_signals_when_it_goes_on() {
    let mut fake = Fake::new();
    fake.program("/p", Behaviour::waits());
    let process = start(&mut fake, "/p");
    for signal in [Signal::SIGSTOP, Signal::SIGTERM] {
        assert!(fake.signal(process, signal).unwrap());
    }
    assert!(fake.is_alive(process));
    assert!(fake.signal(process, Signal::SIGCONT).unwrap());
    assert!(!fake.is_alive(process));
}

#[test]
fn a_successor_finds_adopts_and_hears_of_the_end() {
    for is_hidden in [false, true] {
        let mut fake = Fake::new();
        fake.program("/p", Behaviour::exits(3).after(9 * S));
        let process = start(&mut fake, "/p");
        let gated = fake.spawn(launch("/p", 8)).unwrap();
        let us = fake.us();
        fake.signal_us(S, Signal::SIGTERM);
        fake.crash();
        if is_hidden {
            fake.hide_exits();
        }
        assert_ne!(fake.us(), us);
        assert_eq!(fake.living(), [process], "who waited is gone");
        assert!(!fake.is_alive(gated));
        assert_eq!(fake.members(&adopted(process)).unwrap(), [process]);
        assert!(fake.watch(process).unwrap());
        let exit = if is_hidden { Exit::Unknown } else { Exit::Code(3) };
        assert_eq!(fake.next_event(None).unwrap(), Event::Ended(process, exit));
    }
}

#[test]
fn what_was_released_before_a_crash_runs_after_it() {
    let mut fake = Fake::new();
    fake.program("/p", Behaviour::waits());
    let process = fake.spawn(launch("/p", 7)).unwrap();
    fake.release(process).unwrap();
    fake.crash();
    assert_eq!(fake.next_event(Some(S)).unwrap(), Event::Deadline, "it is not our child");
    assert!(fake.is_alive(process));
}

#[test]
fn a_reused_pid_is_somebody_else() {
    let mut fake = Fake::new();
    fake.program("/p", Behaviour::waits());
    let process = start(&mut fake, "/p");
    fake.end(S, process, Exit::Code(0));
    assert_eq!(fake.next_event(None).unwrap(), Event::Ended(process, Exit::Code(0)));
    let stranger = fake.reuse(process.pid);
    assert!(!fake.signal(process, Signal::SIGKILL).unwrap());
    assert!(!fake.watch(process).unwrap());
    assert_eq!(fake.members(&adopted(process)).unwrap(), []);
    assert!(fake.is_alive(stranger));
    assert!(!fake.sent()[0].arrived);
}

#[test]
fn a_lost_orphan_is_found_by_its_mark_or_session_only() {
    let mut fake = Fake::new();
    fake.lose_orphans();
    let daemon = || Offspring::new(Behaviour::waits()).in_own_session();
    let behaviour = Behaviour::exits(0)
        .after(10 * MS)
        .forking(Offspring::new(Behaviour::waits()).with_empty_environment())
        .forking(daemon())
        .forking(daemon().with_empty_environment());
    fake.program("/p", behaviour);
    let process = start(&mut fake, "/p");
    assert_eq!(fake.next_event(None).unwrap(), Event::Ended(process, Exit::Code(0)));
    let living = fake.living();
    assert_eq!(living.len(), 3);
    let tree = Tree { is_ours: true, ..adopted(process) };
    assert_eq!(fake.members(&tree).unwrap(), living[..2]);
    let tree = Tree { strays: vec![living[2]], ..tree };
    assert_eq!(fake.members(&tree).unwrap(), living);
}

#[test]
fn files_belong_to_whom_we_say() {
    let fake = Fake::new();
    let root = Owner { uid: 0, gid: 0 };
    fake.set_owner("/etc", root);
    assert_eq!(fake.owner(Path::new("/etc")).unwrap(), root);
    assert!(matches!(fake.elevation(root, true), Elevation::Sudo(_)));
    fake.become_user(0);
    assert_eq!(fake.elevation(root, true), Elevation::None);
}

#[test]
fn a_foreign_process_is_not_our_child() {
    let mut fake = Fake::new();
    let process = fake.foreign(7, Behaviour::exits(0).after(S));
    let ours = Tree { is_ours: true, ..adopted(process) };
    assert_eq!(fake.members(&ours).unwrap(), []);
    assert_eq!(fake.members(&adopted(process)).unwrap(), [process]);
    assert_eq!(fake.next_event(Some(2 * S)).unwrap(), Event::Deadline, "nobody watched it");
    assert!(!fake.is_alive(process));
}

#[test]
fn a_group_is_less_than_a_session() {
    let mut fake = Fake::new();
    let in_group = Offspring::new(Behaviour::waits());
    let in_session = Offspring::new(Behaviour::waits()).in_own_group();
    let elsewhere = Offspring::new(Behaviour::waits()).in_own_session();
    let program = Behaviour::waits().forking(in_group).forking(in_session).forking(elsewhere);
    fake.program("/p", program.announcing());
    let main = start(&mut fake, "/p");
    assert_eq!(fake.next_event(None).unwrap(), Event::Input);
    for (scope, count) in [(Scope::Group, 2), (Scope::Session, 3), (Scope::Tree, 4)] {
        for is_ours in [true, false] {
            let tree = Tree { is_ours, scope, ..adopted(main) };
            assert_eq!(fake.members(&tree).unwrap().len(), count, "{scope:?} {is_ours}");
        }
    }
}
