//! A service starts, falls and is raised.

use std::cell::RefCell;
use std::fs;
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use super::bench::{Bench, End, secs, write_script};
use crate::backend::fake::Behaviour;
use crate::backend::{Exit, LaunchError, Output, Signal, Step};
use crate::control::Reader;
use crate::history::deaths::{self, Cause};
use crate::record::Phase;
use crate::slot;
use crate::supervise::begin::Task;
use crate::supervise::launch::Under;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::wanted::Wanted;

fn lasts(seconds: u64, code: i32) -> Behaviour {
    Behaviour::exits(code).after(secs(seconds))
}

#[test]
fn who_is_essential_says_so_at_its_end_and_not_when_it_is_stopped() {
    let told = |lines: &str, runs: Vec<Behaviour>, until: Option<u64>| {
        let bench = Bench::new(&format!("config_essential=yes\n{lines}"), runs);
        if let Some(second) = until {
            bench.ask(second, [Request::stop(false)]);
        }
        let _ = bench.run(bench.start());
        let story = bench.story();
        let at = |what: &str| story.iter().position(|s| s.contains(what));
        at("essential: ").map(|at| story[at].clone())
    };
    let killed =
        Behaviour::exits(0).after(secs(20)).ending_on(Signal::SIGTERM, secs(0), Exit::Code(0));
    for (lines, runs, until, expected) in [
        ("", vec![lasts(5, 3)], None, Some("5 essential: exit code 3")),
        ("config_restart=never", vec![lasts(20, 3)], None, Some("20 essential: exit code 3")),
        ("config_restart=never", vec![lasts(20, 0)], None, Some("20 essential: exit code 0")),
        ("config_restart=on-failure", vec![lasts(20, 0)], None, Some("20 essential: exit code 0")),
        // Once it had started, three more failures are too many.
        (
            "config_retry_sec=0",
            vec![lasts(20, 1), lasts(1, 1), lasts(1, 1), lasts(1, 9)],
            None,
            Some("23 essential: exit code 9"),
        ),
        // It is raised for ever, or somebody has stopped it.
        ("", vec![lasts(20, 1), Behaviour::waits()], Some(40), None),
        ("config_restart=never", vec![killed], Some(15), None),
    ] {
        assert_eq!(told(lines, runs, until).as_deref(), expected, "{lines}");
    }
    // Who cannot be executed has ended as well.
    let bench = Bench::new("config_essential=yes", []);
    let _ = bench.run(bench.start());
    assert!(bench.story().contains(&"0 essential: exit code 127".to_owned()));
}

#[test]
fn in_the_foreground_each_end_is_told() {
    for (under, expected) in [(Under::Up, 2), (Under::Keeper, 0), (Under::Nobody, 0)] {
        let fall = Behaviour::exits(3).after(secs(20));
        let mut bench = Bench::new("", [fall.clone(), fall, Behaviour::waits()]);
        bench.under = under;
        assert_eq!(bench.run(bench.start()), End::Quiet);
        let story = bench.story();
        let ends = story.iter().filter(|s| s.ends_with("ended: exit code 3")).count();
        assert_eq!(ends, expected, "{under:?} {story:?}");
    }
}

#[test]
fn a_start_that_succeeds() {
    let bench = Bench::new("", [Behaviour::waits()]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.story(), ["0 START -", "0 launched", "10 RUN -", "10 running"]);
    let (record, main) = (bench.record().unwrap(), bench.main());
    assert_eq!((record.process(), record.worker_process()), (Some(main), Some(bench.fake.us())));
    assert_eq!((record.more.unwrap().raised, record.more.unwrap().mono), (0, 0));
    assert_eq!(bench.wanted(), Some(Wanted::Up));
    let slot = bench.slot();
    assert_eq!((slot.phase, slot.started, slot.process()), (slot::Phase::Up, true, main));
    let launch = &bench.fake.started()[0].launch;
    assert_eq!(launch.environment.value("A"), Some(&b"1"[..]));
    let out = bench.files.file("out0");
    assert_eq!(launch.output, Output::Pipes { out, err: None });
}

#[test]
fn a_second_start_is_told_so() {
    let bench = Bench::new("", [Behaviour::waits()]);
    bench.ask(3, [bench.start_request()]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.story()[2..], ["3 already", "10 RUN -", "10 running"]);
    assert_eq!((bench.launches().len(), bench.acks()), (1, 1));
}

#[test]
fn whatever_falls_after_start_sec_is_raised_at_once() {
    let bench = Bench::new("", [lasts(10, 0), lasts(20, 3), Behaviour::waits()]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 10.0, 30.0]);
    let record = bench.record().unwrap();
    assert_eq!((record.phase, record.exit), (Phase::Run, Some(3)));
    let more = record.more.unwrap();
    assert_eq!((more.raised, more.mono), (2, 30));
}

#[test]
fn a_first_start_that_fails_is_not_tried_again() {
    for (run, exit, code) in [
        (lasts(9, 3), Exit::Code(3), "3"),
        (lasts(0, 0), Exit::Code(0), "0"),
        (
            Behaviour::dies_of(Signal::SIGSEGV),
            Exit::Signal { number: libc::SIGSEGV, core: false },
            "139",
        ),
    ] {
        let bench = Bench::new("", [run]);
        let outcome = Outcome::Failed(exit);
        assert_eq!(bench.run(bench.start()), End::Over(outcome));
        let story = bench.story();
        let over = format!("{} over: {outcome:?}", bench.now().as_secs());
        let error = format!("{} ERROR {code}", bench.now().as_secs());
        assert_eq!(story[story.len() - 2..], [error, over], "{story:?}");
        let record = bench.record().unwrap();
        assert_eq!((record.pid, record.worker), (None, None));
        assert_eq!((bench.launches().len(), bench.slot().phase), (1, slot::Phase::Over));
        assert_eq!(bench.fake.living(), []);
    }
}

#[test]
fn failed_starts_are_tried_again_further_and_further_apart() {
    let runs = [lasts(20, 0), lasts(1, 4), lasts(1, 5), lasts(1, 6), lasts(1, 7)];
    let bench = Bench::new("config_max_retry=3", runs);
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Failed(Exit::Code(7))));
    let launches = bench.launches();
    assert_eq!((launches.len(), launches[1], launches[2]), (5, 20.0, 21.0));
    let gaps = [launches[3] - launches[2], launches[4] - launches[3]];
    assert!((3.0..=3.2).contains(&gaps[0]) && (5.0..=5.4).contains(&gaps[1]), "{gaps:?}");
    let record = bench.record().unwrap();
    assert_eq!(
        (record.phase, record.exit, record.more.unwrap().raised),
        (Phase::Error, Some(7), 4)
    );
    let story = bench.story();
    assert!(story.contains(&"22 STOP 5".to_owned()), "{story:?}");
}

#[test]
fn what_ends_at_once_and_never_fails_does_not_spin() {
    let bench = Bench::new("config_start_sec=0", [lasts(0, 0)]);
    assert_eq!(bench.run_until(bench.start(), 30), End::TimeUp);
    // The next worker knows that it was in haste.
    bench.fake.crash();
    assert_eq!(bench.run_until(Task::Resume, 60), End::TimeUp);
    let launches = bench.launches();
    assert_eq!(launches[..6], [0.0; 6]);
    let later: Vec<f64> = (1..=60).map(f64::from).collect();
    assert_eq!(launches[6..], later);
}

#[test]
fn what_cannot_be_launched_gets_the_code_that_a_shell_gives() {
    for (errno, code) in [(libc::ENOENT, 127), (libc::EACCES, 126), (libc::ENOEXEC, 126)] {
        let bench = Bench::new("", [Behaviour::cannot_exec(errno)]);
        let error = LaunchError { step: Step::Exec, errno };
        assert_eq!(bench.run(bench.start()), End::Over(Outcome::Unlaunchable(error)));
        assert_eq!(bench.record().unwrap().exit, Some(code));
        assert_eq!(bench.launches().len(), 1);
    }
}

#[test]
fn a_service_whose_configuration_says_when_it_is_done() {
    let bench = Bench::new("config_restart=on-failure", [lasts(20, 1), lasts(20, 0)]);
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Done(Exit::Code(0))));
    let record = bench.record().unwrap();
    assert_eq!(
        (record.phase, record.exit, record.more.unwrap().is_done),
        (Phase::Stop, Some(0), true)
    );
    assert_eq!(bench.launches(), [0.0, 20.0]);
}

#[test]
fn a_shortage_of_processes_is_waited_out() {
    for errno in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
        let bench = Bench::new("", [lasts(20, 1), Behaviour::waits()]);
        let fake = bench.fake.clone();
        bench.at(15, move || fake.fail_spawns(errno, 100));
        assert_eq!(bench.run(bench.start()), End::Quiet);
        assert_eq!(bench.launches(), [0.0, 120.0]);
        let slot = bench.slot();
        assert_eq!((slot.started, slot.failures), (true, 0));
        assert_eq!(bench.record().unwrap().phase, Phase::Run);
        // It does not push out what was remembered.
        let deaths = deaths::read_all(&bench.files.file("deaths"));
        assert_eq!(deaths.len(), 2);
        assert_eq!(deaths[0].exit, Exit::Code(1));
        assert!(matches!(deaths[1].cause, Cause::Launch(e) if e.errno == errno));
    }
}

#[test]
fn a_full_disk_does_not_lose_the_service() {
    let bench = Bench::new("", [lasts(20, 1), lasts(20, 1), Behaviour::waits()]);
    // Nobody can write a file where a directory is.
    let scratch = bench.files.file("record.new");
    let path = scratch.clone();
    bench.at(5, move || fs::create_dir(&path).unwrap());
    bench.at(45, move || fs::remove_dir(&scratch).unwrap());
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0, 40.0]);
    let story: Vec<_> =
        bench.story().into_iter().filter(|s| s.contains("- ") || s.ends_with("1")).collect();
    assert_eq!(story, ["50 RUN 1"]);
    assert_eq!(bench.record().unwrap().process(), Some(bench.main()));
}

#[test]
fn what_could_not_be_written_is_written_when_nothing_else_happens() {
    let bench = Bench::new("", [lasts(20, 1), Behaviour::waits()]);
    let scratch = bench.files.file("record.new");
    let path = scratch.clone();
    bench.at(5, move || fs::create_dir(&path).unwrap());
    // Long after it was raised, and has started successfully.
    bench.at(300, move || fs::remove_dir(&scratch).unwrap());
    assert_eq!(bench.run(bench.start()), End::Quiet);
    let record = bench.record().unwrap();
    assert_eq!((record.process(), record.phase), (Some(bench.main()), Phase::Run));
    assert_eq!((record.more.unwrap().raised, bench.slot().phase), (1, slot::Phase::Up));
}

#[test]
fn a_keeper_that_cannot_be_started_is_tried_again() {
    let bench = Bench::new("", [lasts(20, 1), Behaviour::waits()]);
    // Nobody can take this for a lock, so that nobody can start a keeper.
    fs::create_dir(bench.dir.path().join("keeper.lock")).unwrap();
    bench.at_peer(15, |peer| peer.shutdown(std::net::Shutdown::Both).unwrap());
    let socket = bench.dir.path().join("keeper");
    let keeper: Rc<RefCell<Option<UnixListener>>> = Rc::default();
    let there = Rc::clone(&keeper);
    bench.at(300, move || *there.borrow_mut() = Some(UnixListener::bind(socket).unwrap()));
    assert_eq!(bench.run_until(bench.start(), 400), End::TimeUp);
    // It goes on without one, and finds the next.
    assert_eq!((bench.launches(), bench.fake.living()), (vec![0.0, 20.0], vec![bench.main()]));
    let keeper = keeper.borrow_mut().take().unwrap();
    keeper.set_nonblocking(true).unwrap();
    let (stream, _) = keeper.accept().expect("it was looked for again");
    let mut said = Vec::new();
    Reader::default().read(&stream, |frame| said.push(frame)).unwrap();
    assert_eq!(said.first().and_then(|f| f.split()).map(|(verb, _)| verb), Some("hello"));
}

#[test]
fn a_run_that_could_not_be_written_down_is_tried_again_and_counts_once() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO] {
        let bench = Bench::new("", [lasts(20, 1), Behaviour::waits()]);
        let fake = bench.fake.clone();
        bench.at(15, move || fake.fail_releases(errno, 100));
        assert_eq!(bench.run(bench.start()), End::Quiet);
        assert_eq!(bench.launches().last(), Some(&120.0));
        assert_eq!(bench.fake.living(), [bench.main()]);
        let slot = bench.slot();
        assert_eq!((slot.started, slot.failures, slot.raised), (true, 0, 1));
        assert_eq!(bench.record().unwrap().phase, Phase::Run);
    }
}

#[test]
fn a_log_that_cannot_be_written_does_not_lose_the_service() {
    let bench = Bench::new("", [Behaviour::waits()]);
    fs::create_dir_all(bench.files.file("out0")).unwrap();
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.fake.started()[0].launch.output, Output::File("/dev/null".into()));
    assert_eq!(bench.record().unwrap().phase, Phase::Run);
}

#[test]
fn the_script_is_read_anew_before_each_run() {
    // 3 s are a failed start, then a successful one.
    let runs = [lasts(20, 1), lasts(3, 1), lasts(3, 1), Behaviour::waits()];
    let bench = Bench::new("config_max_retry=0", runs.clone());
    let script = bench.script();
    bench.at(15, move || write_script(&script, "config_max_retry=0\nconfig_start_sec=2"));
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0, 23.0, 26.0]);
    // An edit that makes no sense: what was said before goes on.
    let bench = Bench::new("config_max_retry=0\nconfig_start_sec=2", runs);
    let script = bench.script();
    bench.at(15, move || write_script(&script, "config_max_retry=0\nconfig_start_sec=soon"));
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0, 23.0, 26.0]);
}

#[test]
fn a_bad_script_is_refused_at_the_start() {
    let bench = Bench::new("config_start_sec=soon", [Behaviour::waits()]);
    assert_eq!(bench.run(bench.start()), End::Declined);
    let story = bench.story();
    assert!(story[0].contains("line 2: config_start_sec: `soon` is not"), "{story:?}");
    assert_eq!((story.len(), bench.launches().len(), bench.wanted()), (1, 0, None));
}

#[test]
fn a_deleted_script_gives_up_as_any_failed_start() {
    let bench = Bench::new("", [lasts(20, 1)]);
    let script = bench.script();
    bench.at(15, move || fs::remove_file(&script).unwrap());
    let error = LaunchError { step: Step::Exec, errno: libc::ENOENT };
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Unlaunchable(error)));
    assert!((secs(22)..secs(23)).contains(&bench.now()), "{:?}", bench.now());
    assert_eq!(bench.record().unwrap().exit, Some(127));
}

#[test]
fn a_deleted_script_that_comes_back_in_time() {
    let bench = Bench::new("config_max_retry=unlimited", [lasts(20, 1), Behaviour::waits()]);
    let (script, path) = (bench.script(), bench.script());
    bench.at(15, move || fs::remove_file(&script).unwrap());
    bench.at(300, move || write_script(&path, ""));
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.record().unwrap().phase, Phase::Run);
    assert_eq!(bench.launches().len(), 2);
}

#[test]
fn a_stop_is_heard_where_every_launch_fails_at_once() {
    let lines = "config_max_retry=unlimited\nconfig_retry_sec=0";
    let bench = Bench::new(lines, [lasts(20, 1)]);
    let script = bench.script();
    bench.at(15, move || fs::remove_file(&script).unwrap());
    bench.ask(20, [Request::stop(false)]);
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Stopped));
}

#[test]
fn what_a_fallen_run_leaves_is_ended_before_its_successor_starts() {
    use crate::backend::fake::Offspring;
    let child = Offspring::new(Behaviour::waits().ignoring(Signal::SIGTERM)).in_own_session();
    let bench = Bench::new("", [lasts(20, 1).forking(child), Behaviour::waits()]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(
        bench.story()[4..],
        [
            "20 TERM to other",
            "20 STOP 1",
            "25 KILL to other",
            "25 START 1",
            "25 launched",
            "35 RUN 1",
            "35 running"
        ]
    );
    assert_eq!(bench.launches(), [0.0, 25.0]);
    assert_eq!(bench.fake.living(), [bench.main()]);
}

#[test]
fn what_has_detached_lives_on() {
    use crate::backend::fake::Offspring;
    let daemon = Offspring::new(Behaviour::waits()).in_own_session();
    let bench = Bench::new("config_detach=yes", [lasts(20, 1).forking(daemon), Behaviour::waits()]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0]);
    assert_eq!((bench.fake.sent(), bench.fake.living().len()), (vec![], 2));
}
