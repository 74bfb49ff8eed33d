//! `resume`: after everybody's death, after a reboot, after the end of a session.

use std::fs;

use nix::sys::signal::Signal;
use reraise::backend::native;
use reraise::record::Phase;
use reraise::slot::SlotFile;
use reraise::wanted::Wanted;

use crate::innocent::Innocent;
use crate::support::{SLEEPER, Sandbox, is_alive, signal, wait_for, wait_gone, wait_some};

fn wanted(s: &Sandbox, name: &str) -> Option<Wanted> {
    Wanted::read(&s.state().join("s").join(name))
}

/// Lines come in the order of what they tell.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// All processes end, as at a power failure, and what is on disk is of an
/// earlier boot then. Whoever has the pids now is a stranger.
fn reboot(s: &Sandbox, names: &[&str], heirs: &[(&str, i32)]) {
    s.kill_all();
    wait_for("the end of all", || s.processes().is_empty());
    for name in names {
        let file = SlotFile::open(&s.state().join("s").join(name).join("run")).unwrap();
        if let Some(mut slot) = file.read() {
            slot.boot ^= 1;
            if let Some((_, pid)) = heirs.iter().find(|(heir, _)| heir == name) {
                slot.pid = *pid;
                slot.born = native::born(*pid).unwrap().unwrap();
            }
            file.write(&slot).unwrap();
        }
        if let Some(mut record) = s.record(name) {
            record.more.as_mut().unwrap().boot ^= 1;
            if let Some((_, pid)) = heirs.iter().find(|(heir, _)| heir == name) {
                record.pid = Some(*pid);
                record.more.as_mut().unwrap().born = native::born(*pid).unwrap().unwrap();
            }
            record.write(&s.p.join(name), &s.at("scratch")).unwrap();
        }
    }
}

#[test]
fn what_lives_unwatched_is_adopted() {
    let s = Sandbox::new();
    for name in ["one", "two"] {
        s.script(name, SLEEPER);
    }
    let (one, two) = (s.up("one"), s.up("two"));
    assert_eq!(s.ok(&["resume"]), "", "nothing is to be done");
    s.kill_supervisors(&["one", "two"]);
    let out = s.ok(&["resume"]);
    let adopted = |name, pid| format!("{name}: adopt    # (pid={pid})");
    assert_eq!(sorted(&out), [adopted("one", one), adopted("two", two)]);
    for (name, pid) in [("one", one), ("two", two)] {
        // Its worker is there; the record names it in a moment.
        wait_for("it to be watched", || {
            let out = s.ok(&["status", name]);
            out.contains("running") && !out.contains("unwatched")
        });
        assert_eq!(s.pid(name), pid);
    }
    assert_eq!(s.ok(&["resume"]), "");
    assert_eq!(s.ok(&["resume", "one"]), "one: skip (because already running)\n");
    // They are raised again.
    signal(one, Signal::SIGKILL);
    s.wait_raised("one", one);
}

#[test]
fn after_a_reboot_what_was_up_is_raised_in_its_own_surroundings() {
    let s = Sandbox::new();
    let said = s.fifo("said");
    let body = |name: &str| {
        format!(
            "config_start_sec=0\necho {name} $COLOUR $PWD >{}\nexec sleep 1000000",
            said.shown()
        )
    };
    for name in ["up", "down", "once"] {
        s.script(name, &body(name));
    }
    let start = |arguments: &[&str]| {
        let mut command = s.command(arguments);
        s.run(command.env("COLOUR", "green").current_dir(&s.l)).expect(0);
    };
    start(&["start", "up", "down"]);
    start(&["start", "--once", "once"]);
    let mut lines = [said.line(), said.line(), said.line()];
    lines.sort();
    let here = s.l.display();
    assert_eq!(lines[2], format!("up green {here}"));
    s.ok(&["stop", "down"]);
    let mut strangers = [Innocent::new(), Innocent::new()];
    let heirs = [("up", strangers[0].pid()), ("once", strangers[1].pid())];
    reboot(&s, &["up", "down", "once"], &heirs);
    let out = s.reraise(&["status", "up"]).expect(3).out;
    assert!(out.contains("seems-not-running"), "{out}");
    // As cron does it: hardly any environment, another directory.
    let mut command = s.command(&["resume"]);
    let done = s.run(command.env_remove("LANG").current_dir("/")).expect(0);
    assert_eq!((sorted(&done.out), done.err.as_str()), (vec!["once: start", "up: start"], ""));
    let mut lines = [said.line(), said.line()];
    lines.sort();
    assert_eq!(lines, [format!("once green {here}"), format!("up green {here}")]);
    for (name, stranger) in [("up", strangers[0].pid()), ("once", strangers[1].pid())] {
        let pid = s.pid(name);
        assert!(pid != stranger && is_alive(pid));
        wait_for("it to be running", || s.status(name) == "running");
    }
    assert_eq!(s.status("down"), "not-running");
    assert_eq!(s.ok(&["resume"]), "");
    s.ok(&["stop", "*"]);
    strangers.iter_mut().for_each(Innocent::is_well);
    assert_eq!((wanted(&s, "up"), wanted(&s, "once")), (Some(Wanted::Down), Some(Wanted::Down)));
    assert_eq!(s.ok(&["resume"]), "");
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn stop_after_a_reboot_signals_no_stranger() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let mut stranger = Innocent::new();
    reboot(&s, &["web"], &[("web", stranger.pid())]);
    assert_eq!(s.ok(&["stop", "web"]), "web: skip (because not running)\n");
    stranger.is_well();
    assert_eq!(wanted(&s, "web"), Some(Wanted::Down));
    assert_eq!(s.ok(&["resume"]), "");
}

#[test]
fn strays_of_an_earlier_boot_are_strangers() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.up("web");
    let mut stranger = Innocent::new();
    let born = native::born(stranger.pid()).unwrap().unwrap();
    let run = reraise::slot::read(&s.state().join("s/web/run")).unwrap().run;
    fs::write(s.state().join("s/web/strays"), format!("{} {born} {run}\n", stranger.pid()))
        .unwrap();
    reboot(&s, &["web"], &[]);
    s.ok(&["resume"]);
    // Adopted, so that what the keeper has noted counts.
    let worker = s.worker("web");
    signal(worker, Signal::SIGKILL);
    wait_gone(worker);
    wait_for("another worker", || s.find_worker("web").is_some_and(|w| w != worker));
    s.ok(&["stop", "web"]);
    stranger.is_well();
}

#[test]
fn the_end_of_a_session_is_no_stop() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let (pid, keeper) = (s.up("web"), s.keeper());
    s.up("other");
    s.ok(&["stop", "other"]);
    signal(keeper, Signal::SIGTERM);
    [pid, keeper].into_iter().for_each(wait_gone);
    assert_eq!((s.record("web"), wanted(&s, "web")), (None, Some(Wanted::Up)));
    assert_eq!(s.ok(&["resume"]), "web: start\n");
    assert_ne!(s.pid("web"), pid);
}

#[test]
fn the_end_of_a_session_reaches_everybody_at_once_and_all_end_in_order() {
    let s = Sandbox::new();
    let got = s.fifo("got");
    s.script("web", SLEEPER);
    // It wants a moment, and a second TERM would be too much for it. A TERM to what it has
    // just forked may get lost: dash has its traps still in place there.
    s.script(
        "slow",
        &format!(
            "config_start_sec=0\nconfig_stop='TERM 1000, KILL 10'\nconfig_stop_to=process\n\
             trap 'echo term >{0}' TERM\necho up >{0}\nwhile :; do sleep 1000000 & wait $!; kill -9 $!; [ -e {1} ] && exit 0; done",
            got.shown(),
            s.at("go").display()
        ),
    );
    let (web, slow) = (s.up("web"), s.up("slow"));
    assert_eq!(got.line(), "up");
    let supervisors = [s.keeper(), s.worker("web"), s.worker("slow")];
    // As systemd does with all processes of a unit.
    let all: Vec<i32> = supervisors.into_iter().chain([web, slow]).collect();
    for number in [Signal::SIGSTOP, Signal::SIGTERM] {
        all.iter().for_each(|&pid| signal(pid, number));
    }
    for pid in all {
        // It may have ended by now.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGCONT);
    }
    wait_gone(web);
    assert_eq!(got.line(), "term");
    wait_for("its record", || s.status("slow") == "stopping");
    assert!(is_alive(slow), "nobody has lost patience");
    fs::write(s.at("go"), "").unwrap();
    signal(slow, Signal::SIGTERM);
    wait_gone(slow);
    supervisors.into_iter().for_each(wait_gone);
    assert_eq!([wanted(&s, "web"), wanted(&s, "slow")], [Some(Wanted::Up); 2]);
    assert_eq!(sorted(&s.ok(&["resume"])), ["slow: start", "web: start"]);
}

#[test]
fn a_stop_that_was_cut_short_is_finished() {
    let s = Sandbox::new();
    let got = s.fifo("got");
    s.script(
        "web",
        &format!(
            "config_start_sec=0\nconfig_stop='TERM 3, KILL 10'\nconfig_stop_to=process\n\
             trap 'echo term >{0}' TERM\necho up >{0}\n\
             while :; do sleep 1000000 & wait; done",
            got.shown()
        ),
    );
    let pid = s.up("web");
    assert_eq!(got.line(), "up");
    s.ok(&["stop", "--no-wait", "web"]);
    assert_eq!(got.line(), "term");
    s.kill_supervisors(&["web"]);
    let out = s.ok(&["status", "web"]);
    assert!(out.contains("stopping") && out.contains("unwatched"), "{out}");
    assert_eq!(s.ok(&["resume"]), "web: stop\n");
    wait_gone(pid);
    // It has gone on where it was.
    assert!(got.is_silent(std::time::Duration::ZERO), "another TERM");
    assert_eq!(s.status("web"), "not-running");
    wait_for("nothing to be left", || s.processes().is_empty());
}

#[test]
fn where_nothing_is_wanted_nobody_is_started() {
    let s = Sandbox::new();
    assert_eq!(s.ok(&["resume"]), "");
    s.script("web", SLEEPER);
    assert_eq!(s.ok(&["resume"]), "");
    assert_eq!(s.ok(&["resume", "web"]), "web: skip (because it is not wanted)\n");
    assert!(s.reraise(&["resume", "nobody"]).expect(4).err.contains("no such service"));
    assert_eq!(s.find_keeper(), None);
    assert!(!s.p.join("web").exists());
}

#[test]
fn what_ended_by_itself_is_not_resumed() {
    let s = Sandbox::new();
    s.script("bad", "exit 3");
    s.reraise(&["start", "--wait", "bad"]).expect(1);
    s.script("job", "config_start_sec=0\nconfig_restart=on-failure\nexit 0");
    s.ok(&["start", "job"]);
    wait_for("its end", || s.status("job") == "done");
    wait_for("the keeper to end", || s.find_keeper().is_none());
    assert_eq!(s.ok(&["resume"]), "");
    assert_eq!(s.ok(&["resume", "bad"]), "bad: skip (because it has ended by itself)\n");
    // Another boot is another chance.
    reboot(&s, &["bad", "job"], &[]);
    let done = s.reraise(&["resume"]);
    assert_eq!(sorted(&done.out), ["bad: start", "job: start"], "{done:?}");
    assert_eq!(s.wait_phase("bad", Phase::Error).exit, Some(3));
}

#[test]
fn one_run_is_all_that_was_asked_for() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    let go = s.fifo("go");
    s.script(
        "job",
        &format!(
            "config_start_sec=0\necho $$ >{}\nread code <{}\nexit $code",
            runs.shown(),
            go.shown()
        ),
    );
    for (code, state) in [(0, "done"), (7, "ERROR")] {
        assert_eq!(s.ok(&["start", "--once", "job"]), "job: start\n");
        let pid = runs.number();
        assert_eq!(wanted(&s, "job"), Some(Wanted::Once));
        // Its worker's death changes nothing about that.
        let worker = s.worker("job");
        signal(worker, Signal::SIGKILL);
        wait_for("another worker", || {
            s.record("job").is_some_and(|r| r.worker.is_some_and(|w| w != worker && is_alive(w)))
        });
        fs::write(&go.path, format!("{code}\n")).unwrap();
        wait_gone(pid);
        wait_for("its end", || s.status("job") == state);
        assert_eq!(wanted(&s, "job"), Some(Wanted::Down));
        wait_for("the keeper to end", || s.find_keeper().is_none());
    }
    assert_eq!(s.ok(&["resume"]), "");
    assert!(runs.is_silent(std::time::Duration::ZERO), "a further run");
    // Once, and then for good.
    s.ok(&["start", "--once", "job"]);
    let pid = runs.number();
    assert_eq!(s.ok(&["start", "job"]), "job: skip (because already running)\n");
    assert_eq!(wanted(&s, "job"), Some(Wanted::Up));
    fs::write(&go.path, "0\n").unwrap();
    wait_gone(pid);
    assert_ne!(runs.number(), pid);
}

#[test]
fn a_service_that_ended_while_nobody_watched_is_raised_by_resume() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    s.kill_supervisors(&["web"]);
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
    assert_eq!(s.ok(&["resume"]), "web: start\n");
    let raised = wait_some("its run", || s.record("web")?.pid.filter(|&p| p != pid));
    assert!(is_alive(raised));
}
