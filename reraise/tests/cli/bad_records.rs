//! Records and run slots that say what is not so.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Child;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use reraise::backend::native;
use reraise::record::{More, Phase, Record};
use reraise::slot::{self, Slot, SlotFile};
use reraise::wanted::Wanted;

use crate::innocent::Innocent;
use crate::support::{
    SLEEPER, STRANGER, Sandbox, is_alive, say, signal, skip_unless_root, spawn, wait_for, wait_gone,
};

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

fn here() -> More {
    More {
        boot: native::boot_id().unwrap(),
        space: native::pid_space().unwrap(),
        ..More::default()
    }
}

fn put(s: &Sandbox, name: &str, record: &Record) {
    record.write(&s.p.join(name), &s.at("scratch")).unwrap();
}

fn record_of(stranger: &Innocent, more: Option<More>) -> Record {
    let pid = Some(stranger.pid());
    Record { phase: Phase::Run, exit: None, pid, worker: pid, epoch: now(), more }
}

const TORN: [(&str, &[u8]); 6] = [
    ("empty", b""),
    ("torn", b"RUN - 123 45"),
    ("binary", b"\x00\xff\xfe\n\x80"),
    ("zeros", &[0; 4096]),
    ("huge", &[b'7'; 3 << 20]),
    ("later", b"RUN - 123 456 1700000000 v=99\n"),
];

#[test]
fn a_record_that_makes_no_sense() {
    let s = Sandbox::new();
    for (name, content) in TORN {
        s.script(name, SLEEPER);
        fs::write(s.p.join(name), content).unwrap();
        let what = match name {
            "later" => "its record was written by a later version of Reraise",
            _ => "its record makes no sense",
        };
        let done = s.reraise(&["status", name]).expect(3).says(what);
        assert!(done.err.contains(&format!("reraise clean {name}")), "{done:?}");
        assert!(done.out.starts_with(&format!("{name:18} seems-not-running")), "{done:?}");
        s.ok(&["stop", name]);
        let pid = s.up(name);
        assert_eq!(s.pid(name), pid);
        s.ok(&["stop", name]);
        wait_for("the keeper to end", || s.find_keeper().is_none());
        fs::write(s.p.join(name), content).unwrap();
        assert_eq!(s.ok(&["clean", name]), format!("{name}: clean\n"));
    }
}

#[test]
fn a_record_that_is_broken_while_its_service_runs() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    for (_, content) in TORN {
        let pid = s.up("web");
        fs::write(s.p.join("web"), content).unwrap();
        // Never a second one.
        assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
        assert!(is_alive(pid));
        // Nothing that lives is cleaned away.
        s.reraise(&["clean", "web"]);
        assert!(s.ok(&["stop", "web"]).starts_with("web: stop"));
        wait_gone(pid);
    }
    // Or deleted altogether.
    let pid = s.up("web");
    fs::remove_file(s.p.join("web")).unwrap();
    assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
    assert!(s.ok(&["stop", "web"]).starts_with("web: stop"));
    wait_gone(pid);
}

#[test]
fn a_record_whose_pid_belongs_to_a_stranger() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut stranger = Innocent::new();
    let born = stranger.born();
    for more in [
        // Another process had the pid.
        Some(More { born: born ^ 1, worker_born: born ^ 1, ..here() }),
        // This very one, in another boot or container.
        Some(More { born, worker_born: born, boot: here().boot ^ 1, ..here() }),
        Some(More { born, worker_born: born, space: here().space ^ 1, ..here() }),
        // The shell version kept no identities; the pids are not related.
        None,
    ] {
        put(&s, "web", &record_of(&stranger, more));
        assert_eq!(s.status("web"), "seems-not-running", "{more:?}");
        assert_eq!(s.ok(&["stop", "--now", "web"]), "web: skip (because not running)\n");
        s.reraise(&["restart", "web"]).expect(3);
        stranger.is_well();
        s.up("web");
        s.ok(&["stop", "web"]);
        stranger.is_well();
    }
}

#[test]
fn a_run_slot_whose_pid_belongs_to_a_stranger() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    s.ok(&["stop", "web"]);
    wait_for("the keeper to end", || s.find_keeper().is_none());
    let path = s.state().join("s/web/run");
    let mut stranger = Innocent::new();
    let here = here();
    let all = [
        slot::Phase::Launching,
        slot::Phase::Up,
        slot::Phase::Stopping,
        slot::Phase::Restarting,
        slot::Phase::Clearing,
        slot::Phase::Over,
    ];
    for phase in all {
        for (born, boot) in [(stranger.born() ^ 1, here.boot), (stranger.born(), here.boot ^ 1)] {
            let slot = Slot {
                phase,
                pid: stranger.pid(),
                born,
                boot,
                space: here.space,
                run: 7,
                ..Slot::default()
            };
            for command in ["stop", "restart", "start"] {
                say(&format!("{command} after {phase:?} in boot {boot:x}"));
                SlotFile::open(&path).unwrap().write(&slot).unwrap();
                s.reraise(&[command, "web"]);
                stranger.is_well();
                s.ok(&["stop", "--now", "web"]);
                stranger.is_well();
                wait_for("the keeper to end", || s.find_keeper().is_none());
            }
        }
    }
    // Garbage there is as good as nothing.
    for (_, content) in TORN {
        fs::write(&path, content).unwrap();
        s.up("web");
        s.ok(&["stop", "web"]);
        wait_for("the keeper to end", || s.find_keeper().is_none());
    }
}

#[test]
fn a_record_of_an_earlier_boot() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let old = s.record("web").unwrap();
    s.ok(&["stop", "web"]);
    wait_gone(pid);
    let more = More { boot: here().boot ^ 1, ..old.more.unwrap() };
    put(&s, "web", &Record { more: Some(more), epoch: now() - 3600, ..old });
    let out = s.reraise(&["status", "web"]).expect(3).out;
    assert!(out.contains("seems-not-running") && out.contains("elapsed=01:00:0"), "{out}");
    s.up("web");
}

#[test]
fn a_record_of_somebody_else_is_not_believed() {
    if skip_unless_root("a file of another user") {
        return;
    }
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut stranger = Innocent::new();
    let born = stranger.born();
    let more = Some(More { born, worker_born: born, ..here() });
    put(&s, "web", &record_of(&stranger, more));
    std::os::unix::fs::chown(s.p.join("web"), Some(STRANGER), None).unwrap();
    let done = s.reraise(&["status", "web"]).expect(3);
    done.says(&format!("its record belongs to user {STRANGER}"));
    s.ok(&["stop", "web"]);
    stranger.is_well();
    s.up("web");
    stranger.is_well();
}

#[test]
fn a_record_that_is_a_link_or_a_fifo() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let target = s.at("precious");
    fs::write(&target, "precious\n").unwrap();
    std::os::unix::fs::symlink(&target, s.p.join("web")).unwrap();
    s.reraise(&["status", "web"]).expect(3).says("its record is a symbolic link");
    s.up("web");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious\n");
    s.ok(&["stop", "web"]);
    nix::unistd::mkfifo(&s.p.join("web"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    s.reraise(&["status", "web"]).expect(3).says("its record is no ordinary file");
    s.up("web");
}

#[test]
fn a_clock_that_was_set_back_a_day() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let record = s.record("web").unwrap();
    for epoch in [now() + 86_400, i64::MAX, i64::MIN, 0] {
        put(&s, "web", &Record { epoch, ..record.clone() });
        let out = s.ok(&["status", "web"]);
        assert!(out.contains("running") && out.contains("elapsed=00:00:"), "{out}");
    }
    // The shell version had no other clock.
    for (epoch, elapsed) in [(now() + 86_400, "00:00:00"), (i64::MAX, "00:00:00")] {
        let line = format!("ERROR 3 - - {epoch}\n");
        fs::write(s.p.join("old"), line).unwrap();
        let out = s.reraise(&["status", "old"]).out;
        assert!(out.contains(&format!("elapsed={elapsed}")), "{out}");
    }
}

/// Supervises as the shell version does, roughly: a shell with a child, and a
/// record of five fields.
fn shell_version(s: &Sandbox, name: &str) -> (Child, i32) {
    let fifo = s.fifo(&format!("{name}-pid"));
    let script = format!(
        "trap 'kill $!; rm -f {0}; exit' TERM
        while :; do
            sleep 1000000 &
            echo \"RUN - $! $$ $(date +%s)\" >{0}.new; mv {0}.new {0}; echo $! >{1}
            wait $!
        done",
        s.p.join(name).display(),
        fifo.shown()
    );
    let child = spawn(&mut s.shell_command(&script));
    (child, fifo.number())
}

#[test]
fn a_service_that_the_shell_version_runs() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let (mut worker, service) = shell_version(&s, "web");
    let worker_pid = worker.id().cast_signed();
    let out = s.ok(&["status", "web"]);
    let begin = format!("{:18} {:15} # (pid={service}, ppid={worker_pid}, ", "web", "running");
    assert!(out.starts_with(&begin), "{out:?} {begin:?}");
    assert_eq!(s.ok(&["start", "web"]), "web: skip (because already running)\n");
    let line = format!("web: restart    # (worker-pid={worker_pid})\n");
    assert_eq!(s.ok(&["restart", "web"]), line);
    wait_gone(service);
    let new = s.wait_raised("web", service);
    assert!(is_alive(worker_pid));
    // It was ours before, and wanted.
    let own = s.state().join("s/web");
    fs::create_dir_all(&own).unwrap();
    Wanted::Up.write(&own).unwrap();
    let line = format!("web: stop    # (worker-pid={worker_pid})\n");
    assert_eq!(s.ok(&["stop", "web"]), line);
    worker.wait().unwrap();
    wait_gone(new);
    assert_eq!(Wanted::read(&own), Some(Wanted::Down));
    assert_eq!(s.find_keeper(), None);
    // And then it is ours.
    s.up("web");
}

#[test]
fn what_was_planted_under_the_scratch_name_is_not_followed() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let target = s.at("precious");
    fs::write(&target, "precious\n").unwrap();
    for name in ["context.new", "record.new", "strays"] {
        let path = s.state().join("s/web").join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(&target, path).unwrap();
    }
    s.reraise(&["restart", "web"]);
    signal(s.worker("web"), Signal::SIGKILL);
    s.reraise(&["stop", "--now", "web"]);
    s.reraise(&["start", "web"]);
    // It lies in a directory of mode 0700: only we ourselves can do this.
    let mut options = fs::OpenOptions::new();
    assert!(options.read(true).custom_flags(libc::O_NOFOLLOW).open(&target).is_ok());
}
