//! Services that do not run, and are not on their way.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let error = |started, failures| Facts {
        started,
        failures,
        elapsed: Some(180),
        wanted: Some(Wanted::Up),
        phase: Some(Phase::Over),
        deaths: fell(3),
        ..facts(State::Error)
    };
    let launch = LaunchError { step: Step::Exec, errno: libc::ENOENT };
    let up = |facts| Facts { wanted: Some(Wanted::Up), ..facts };
    let down = |verb, who| Facts {
        wanted: Some(Wanted::Down),
        asked: asked(verb, who),
        phase: Some(Phase::Stopped),
        deaths: vec![death(Exit::Signal { number: 15, core: false }, Cause::Stop)],
        ..facts(State::NotRunning)
    };
    let chmod = || Some(("is not executable".to_owned(), "chmod +x web".to_owned()));
    const START: &[&str] = &["reraise start web"];
    const NOTHING: &str = "nothing, until somebody starts it";
    vec![
        case(
            "never started",
            facts(State::NotRunning),
            "not running: it was never started",
            None,
            NOTHING,
            START,
        ),
        case(
            "stopped by somebody",
            down("stop", "user=alice from=12 tty=pts/0"),
            "stopped by alice (reraise stop, pid 12, pts/0) at ",
            None,
            NOTHING,
            START,
        ),
        case(
            "stopped by a signal",
            down("TERM", ""),
            "stopped by signal TERM to its worker",
            None,
            NOTHING,
            START,
        ),
        case(
            "wanted, and stopped with its keeper",
            up(Facts { asked: asked("leave", ""), ..facts(State::NotRunning) }),
            "not running, although it is wanted: stopped by the end of its keeper",
            None,
            "nothing, until: reraise resume",
            &["reraise resume web"],
        ),
        case(
            "wanted, and nobody knows more",
            up(Facts { asked: asked("start", "user=al from=1"), ..facts(State::NotRunning) }),
            "not running, although it is wanted",
            None,
            "nothing, until: reraise resume",
            &["reraise resume web"],
        ),
        case(
            "not wanted, and nobody knows more",
            Facts { wanted: Some(Wanted::Down), ..facts(State::NotRunning) },
            "not running: it was stopped, or came to its end",
            None,
            NOTHING,
            START,
        ),
        case(
            "ended in an earlier life",
            Facts { deaths: fell(1), ..facts(State::NotRunning) },
            "not running",
            None,
            NOTHING,
            START,
        ),
        case(
            "not executable",
            Facts { obstacle: chmod(), ..facts(State::NotExecutable) },
            "cannot be started",
            None,
            "nothing, until that is mended",
            &["chmod +x web", "reraise start web"],
        ),
        case(
            "never started, and it could not be",
            Facts { obstacle: chmod(), ..facts(State::NotRunning) },
            "not running: it was never started",
            None,
            NOTHING,
            &["chmod +x web", "reraise start web"],
        ),
        case(
            "done",
            with(
                Facts { elapsed: Some(300), deaths: fell(0), ..facts(State::Done) },
                "restart",
                "on-failure",
            ),
            "done 5 min ago: exit code 0",
            Some(("restart", "on-failure", Some(4))),
            NOTHING,
            START,
        ),
        case(
            "done, once",
            Facts { elapsed: Some(300), asked: asked("start-once", ""), ..facts(State::Done) },
            "done 5 min ago",
            None,
            "nothing: it was started with --once",
            START,
        ),
        case(
            "the first start failed",
            error(false, 1),
            "given up 3 min ago: exit code 3",
            Some(("start_sec", "10", None)),
            NOTHING,
            &["reraise logs web   # what it has said", "reraise start web"],
        ),
        case(
            "too many failed starts",
            with(error(true, 4), "max_retry", "3"),
            "given up 3 min ago: exit code 3",
            Some(("max_retry", "3", Some(4))),
            NOTHING,
            &["reraise logs web   # what it has said", "reraise start web"],
        ),
        case(
            "not to be raised",
            with(error(true, 0), "restart", "never"),
            "given up 3 min ago: exit code 3",
            Some(("restart", "never", Some(4))),
            NOTHING,
            &["reraise logs web   # what it has said", "reraise start web"],
        ),
        case(
            "a single run that failed",
            Facts { asked: asked("start-once", ""), wanted: Some(Wanted::Down), ..error(true, 0) },
            "given up 3 min ago: exit code 3",
            None,
            NOTHING,
            &["reraise logs web   # what it has said", "reraise start web"],
        ),
        case(
            "not executed",
            Facts {
                launch: Some(("its interpreter /x does not exist".into(), "install it".into())),
                deaths: vec![death(Exit::Code(127), Cause::Launch(launch))],
                ..error(false, 1)
            },
            "given up 3 min ago: it cannot be executed",
            Some(("start_sec", "10", None)),
            NOTHING,
            &["install it", "reraise start web"],
        ),
        case(
            "killed together",
            up(Facts { phase: Some(Phase::Up), ..facts(State::SeemsNotRunning) }),
            "gone, and its worker as well: both were killed",
            None,
            "nothing: nobody looks after it",
            &["reraise resume web"],
        ),
        case(
            "after a reboot",
            up(facts(State::SeemsNotRunning)),
            "not running since the machine, or its container, was started anew",
            None,
            "nothing: nobody looks after it",
            &["reraise resume web"],
        ),
        case(
            "gone and not wanted",
            Facts {
                phase: Some(Phase::Up),
                wanted: Some(Wanted::Down),
                ..facts(State::SeemsNotRunning)
            },
            "gone, and its worker as well: both were killed",
            None,
            "nothing: nobody looks after it",
            START,
        ),
        case(
            "a record that makes no sense",
            Facts {
                trouble: Some("its record makes no sense".into()),
                ..facts(State::SeemsNotRunning)
            },
            "its record cannot be believed",
            None,
            "nothing",
            &["reraise clean web"],
        ),
        case(
            "another user's",
            Facts { ask_owner: Some("sudo -u bob /r why web".into()), ..runs(State::Running) },
            "running for 3 s, pid 100",
            Some(("restart", "always", None)),
            "when it ends, it is raised again at once",
            &["sudo -u bob /r why web   # knows more"],
        ),
        case(
            "another user's, closed",
            Facts { ask_owner: Some("sudo -u bob /r why web".into()), ..facts(State::Unknown) },
            "belongs to another user, and its state cannot be seen",
            None,
            "",
            &["sudo -u bob /r why web   # knows more"],
        ),
    ]
}
