//! The promises that only a kernel can break.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::sys::resource::Resource;
use nix::sys::signal::{SigHandler, Signal, signal};
use reraise::backend::{Event, Exit, Launch, Limit, Output, ProcessBackend, Step, native};

use crate::on_native::OnNative;
use crate::subject::{Program, Subject, killed, ours};

/// Launches it and gives its end, which must come by itself.
fn end_of(s: &mut OnNative, launch: &Launch) -> Exit {
    let child = s.backend().spawn(launch.clone()).unwrap();
    s.backend().release(child).unwrap();
    assert_eq!(s.next(), Event::Launched(child));
    match s.next() {
        Event::Ended(p, exit) if p == child => exit,
        other => panic!("unexpected: {other:?}"),
    }
}

/// Launches it and gives what it wrote.
fn output_of(s: &mut OnNative, launch: Launch) -> String {
    let path = s.directory().join("output");
    let launch = Launch { output: Output::File(path.clone()), ..launch };
    assert_eq!(end_of(s, &launch), Exit::Code(0));
    let output = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    output
}

/// Launches it and gives the step at which that fails.
fn failure_of(s: &mut OnNative, launch: &Launch) -> (Step, i32) {
    let child = s.backend().spawn(launch.clone()).unwrap();
    s.backend().release(child).unwrap();
    match s.next() {
        Event::LaunchFailed(p, error) if p == child => (error.step, error.errno),
        other => panic!("unexpected: {other:?}"),
    }
}

pub(crate) fn every_signal_has_its_default_effect() {
    let mut s = OnNative::new();
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGUSR1, SigHandler::SigIgn) }.unwrap();
    for name in ["HUP", "INT", "PIPE", "ALRM", "TERM", "USR1", "USR2"] {
        // A shell cannot undo what was ignored when it began.
        let launch = s.script(&format!("#!/bin/sh\nkill -{name} $$\nexit 9\n"), 0o755);
        let Exit::Signal { number, .. } = end_of(&mut s, &launch) else { panic!("{name}") };
        assert_eq!(Signal::try_from(number).unwrap().as_str(), format!("SIG{name}"));
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn nothing_is_blocked_or_ignored() {
    let mut s = OnNative::new();
    let arguments = vec![c"cat".into(), c"/proc/self/status".into()];
    let launch = Launch { program: c"/bin/cat".into(), arguments, ..s.verb("", &[]) };
    let status = output_of(&mut s, launch);
    // 32 and 33 belong to the C library: it lets nobody change them, and its
    // posix_spawn, by which we may have been started, has them ignored.
    let reserved = 0b11 << 31;
    for set in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
        let line = status.lines().find_map(|l| l.strip_prefix(set)?.strip_prefix(":\t"));
        let signals = u64::from_str_radix(line.unwrap(), 16).unwrap();
        assert_eq!(signals & !reserved, 0, "{set} in {status}");
    }
}

pub(crate) fn the_child_holds_only_stdio() {
    let mut s = OnNative::new();
    // SAFETY: the copy is made to be found open, and lasts as long as we do.
    assert!(unsafe { libc::dup2(2, 77) } == 77);
    let launch = s.verb("descriptors", &[]);
    assert_eq!(output_of(&mut s, launch), "0 1 2\n");
}

pub(crate) fn the_child_leads_its_session() {
    let mut s = OnNative::new();
    let launch = s.verb("facts", &[]);
    assert!(output_of(&mut s, launch).contains("leads=true\n"));
}

pub(crate) fn a_gated_child_holds_no_descriptor_of_ours() {
    let mut s = OnNative::new();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let child = s.spawn(Program::Waits);
    drop(writer);
    let mut one = [0];
    assert_eq!(nix::unistd::read(&reader, &mut one), Ok(0), "end of file while it waits");
    assert_eq!(s.backend().identify(child.pid).unwrap(), Some(child));
}

pub(crate) fn output_goes_to_the_file() {
    let mut s = OnNative::new();
    let path = s.directory().join("log");
    let launch = s.script("#!/bin/sh\ncat\necho out\necho err >&2\n", 0o755);
    let launch = Launch { output: Output::File(path.clone()), umask: Some(0), ..launch };
    for expected in ["out\nerr\n", "out\nerr\nout\nerr\n"] {
        assert_eq!(end_of(&mut s, &launch), Exit::Code(0));
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

pub(crate) fn output_follows_no_symlink() {
    let mut s = OnNative::new();
    let (path, target) = (s.directory().join("log"), s.directory().join("target"));
    symlink(&target, &path).unwrap();
    let launch = Launch { output: Output::File(path), ..s.verb("facts", &[]) };
    assert_eq!(failure_of(&mut s, &launch).0, Step::Output);
    assert!(!target.exists());
}

pub(crate) fn without_a_file_output_is_ours() {
    let mut s = OnNative::new();
    let ours = crate::child::output();
    let values = [ours.dev().to_string(), ours.ino().to_string()];
    let launch = s.verb("same-output", &values);
    assert_eq!(end_of(&mut s, &launch), Exit::Code(0));
}

pub(crate) fn limits_umask_directory_environment_are_applied() {
    let mut s = OnNative::new();
    let limit = Limit { resource: Resource::RLIMIT_NOFILE as i32, soft: 64, hard: 65 };
    let directory = s.directory().join("work");
    fs::create_dir(&directory).unwrap();
    let launch = Launch {
        directory: directory.canonicalize().unwrap(),
        umask: Some(0o027),
        limits: vec![limit],
        environment: ["GREETING=hello world", "EMPTY="].into_iter().collect(),
        ..s.verb("facts", &[])
    };
    let facts = output_of(&mut s, launch.clone());
    let directory = launch.directory.display();
    let expected = format!(
        "leads=true\ndirectory={directory}\numask=27\nlimits=64,65\n\
         env GREETING=hello world\nenv EMPTY=\n"
    );
    assert_eq!(facts, expected);
}

pub(crate) fn a_missing_directory_is_said() {
    let mut s = OnNative::new();
    let launch = Launch { directory: s.directory().join("missing"), ..s.verb("facts", &[]) };
    assert_eq!(failure_of(&mut s, &launch), (Step::Directory, libc::ENOENT));
}

pub(crate) fn a_refused_limit_is_said() {
    let mut s = OnNative::new();
    // Not a soft limit above the hard one: FreeBSD cuts it.
    let limit = Limit { resource: 99, soft: 8, hard: 9 };
    let launch = Launch { limits: vec![limit], ..s.verb("facts", &[]) };
    assert_eq!(failure_of(&mut s, &launch), (Step::Limits, libc::EINVAL));
}

pub(crate) fn a_busy_script_is_a_temporary_failure() {
    let mut s = OnNative::new();
    let launch = s.script("#!/bin/sh\nexit 3\n", 0o755);
    let busy = fs::OpenOptions::new().append(true).open(s.directory().join("script")).unwrap();
    let child = s.backend().spawn(launch.clone()).unwrap();
    s.backend().release(child).unwrap();
    let event = s.next();
    if let Event::LaunchFailed(_, error) = event {
        assert!(error.is_temporary(), "{error:?}");
    } else {
        // Not every system refuses to execute it.
        assert_eq!(event, Event::Launched(child));
        assert_eq!(s.next(), Event::Ended(child, Exit::Code(3)));
    }
    drop(busy);
    assert_eq!(end_of(&mut s, &launch), Exit::Code(3));
}

pub(crate) fn an_ignored_sigchld_does_not_matter() {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    let mut s = OnNative::new();
    let launch = s.verb("exit", &["3".into()]);
    assert_eq!(end_of(&mut s, &launch), Exit::Code(3));
}

pub(crate) fn a_caller_that_asks_for_sigchld_reaps() {
    let mut s = OnNative::with_signals(&[Signal::SIGCHLD]);
    let child = s.start_waiting(Program::Waits);
    s.kill(child);
    assert_eq!(s.next(), Event::Signal(Signal::SIGCHLD));
    let ended = native::peek_child(false).unwrap();
    assert_eq!(ended, Some((child.pid, Signal::SIGKILL as i32)));
    s.native().reap(child.pid).unwrap();
    assert_eq!(s.next(), Event::Ended(child, killed()));
    s.native().reap(child.pid).unwrap();
    assert_eq!(s.pending(), []);
}

pub(crate) fn launches_leave_no_descriptor() {
    let mut s = OnNative::new();
    let next = |s: &OnNative| fs::File::open(s.directory()).unwrap().as_raw_fd();
    let before = next(&s);
    let missing = s.launch(Program::IsMissing, 0);
    for _ in 0..3 {
        let launch = s.verb("exit", &["0".into()]);
        end_of(&mut s, &launch);
        failure_of(&mut s, &missing);
        let gated = s.spawn(Program::Waits);
        s.kill(gated);
        assert_eq!(s.next(), Event::Ended(gated, killed()));
        assert_eq!(next(&s), before);
    }
}

pub(crate) fn a_death_by_real_time_signal_is_reported() {
    let mut s = OnNative::new();
    let number = 40;
    let launch = s.verb("die", &[number.to_string()]);
    match end_of(&mut s, &launch) {
        Exit::Signal { number: n, .. } => assert_eq!(n, number),
        // Where no signal has that number.
        exit => assert_eq!(exit, Exit::Code(0)),
    }
}

pub(crate) fn who_is_spared_is_no_member_and_hides_nobody() {
    if !native::KEEPS_ORPHANS {
        return;
    }
    let mut s = OnNative::new();
    let main = s.start_leaving(Program::LeavesDaemon);
    let [daemon] = s.members(&ours(main))[..] else { panic!("one member") };
    let other = s.start_waiting(Program::HasChild);
    assert_eq!(s.members(&ours(main)).len(), 3);
    s.native().spare(move || vec![daemon.pid]);
    let mut left = s.members(&ours(main));
    left.sort_unstable();
    assert!(left.len() == 2 && left.contains(&other) && !left.contains(&daemon), "{left:?}");
    // And what descends from it.
    s.native().spare(move || vec![daemon.pid, other.pid]);
    assert_eq!(s.members(&ours(main)), []);
}

/// Empty means that nothing is left, and a successor may start.
pub(crate) fn a_process_that_forks_away_is_never_missed() {
    if !native::KEEPS_ORPHANS {
        return;
    }
    let mut s = OnNative::new();
    let launch = s.verb("hop", &["500".into()]);
    let child = s.backend().spawn(launch.clone()).unwrap();
    s.backend().release(child).unwrap();
    loop {
        assert_ne!(s.members(&ours(child)), []);
        let now = s.backend().now();
        if s.backend().next_event(Some(now)).unwrap() == Event::Input {
            break;
        }
    }
    s.take_announcement();
    assert_eq!(s.members(&ours(child)).len(), 1);
}

#[cfg(target_os = "linux")]
pub(crate) fn a_process_without_its_first_thread_lives() {
    for is_bare in [false, true] {
        let mut s = if is_bare { OnNative::without_pidfd() } else { OnNative::new() };
        let launch = s.verb("lose-first-thread", &[]);
        let child = s.backend().spawn(launch.clone()).unwrap();
        s.backend().release(child).unwrap();
        s.await_all(&[Event::Launched(child), Event::Input]);
        assert_eq!(s.backend().identify(child.pid).unwrap(), Some(child));
        assert_eq!(s.members(&ours(child)), [child]);
        let nobody = reraise::backend::ProcessId { born: child.born ^ 1, ..child };
        assert_eq!(s.members(&ours(nobody)), [child]);
    }
}
