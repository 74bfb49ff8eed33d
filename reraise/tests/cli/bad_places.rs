//! Directories that cannot be used or must not be, disks that are full, and
//! limits that are too low.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use reraise::record::Phase;

use crate::support::{
    Done, SLEEPER, STRANGER, Sandbox, as_ordinary, finish, is_alive, is_root, signal,
    skip_unless_root, skipped, spawn, wait_for, wait_gone,
};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// `start web` fails, and nothing is left of it.
#[track_caller]
fn refused(s: &Sandbox, code: i32, words: &str) {
    let done = s.reraise(&["start", "web"]).expect(code).says(words);
    assert!(done.err.starts_with("reraise: "), "{done:#?}");
    assert_eq!(done.err.lines().count(), 2, "{done:#?}");
    assert_eq!(done.out, "");
    wait_for("everything to be gone", || s.processes().is_empty());
}

#[test]
fn the_directory_of_scripts_is_missing_or_a_file() {
    let s = Sandbox::new();
    fs::remove_dir(&s.d).unwrap();
    let shown = s.d.display().to_string();
    s.reraise(&["list"]).expect(2).says(&format!("reraise: {shown}: does not exist\n    "));
    s.reraise(&["start", "*"]).expect(2).says("does not exist");
    // By name, the service is missing too.
    let done = s.reraise(&["start", "web"]).expect(4);
    done.says("reraise: web: no such service").says(&shown);
    fs::write(&s.d, "").unwrap();
    s.reraise(&["list"]).expect(2).says(&format!("reraise: {shown}: is not a directory\n    "));
    let done = s.reraise(&["start", "web"]);
    assert!(done.code != 0 && done.err.contains("not a directory"), "{done:?}");
    let done = s.reraise(&["skeleton", "web", "--", "true"]).expect(2);
    done.says("is not a directory\n    name another one: --dir DIR\n");
    assert_eq!(fs::read(&s.d).unwrap(), b"");
    let mut command = s.command(&["list"]);
    s.run(command.env("RERAISE_DIR", "")).expect(2).says("RERAISE_DIR: is empty");
    let mut command = s.command(&["list"]);
    s.run(command.env_remove("RERAISE_DIR").env_remove("HOME")).expect(2).says("HOME");
}

#[test]
fn the_directory_of_records_is_missing_or_a_file() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    fs::remove_dir(&s.p).unwrap();
    assert_eq!(s.status("web"), "not-running");
    s.ok(&["stop", "web"]);
    // It is made when it is needed, safely.
    s.up("web");
    let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((bits(&s.p), bits(&s.state())), (0o755, 0o700));
    s.ok(&["stop", "web"]);
    wait_for("the keeper to end", || s.find_keeper().is_none());
    fs::remove_dir_all(&s.p).unwrap();
    fs::write(&s.p, "").unwrap();
    refused(&s, 2, "is not a directory\n    name another one: --piddir DIR\n");
    s.reraise(&["status", "web"]).expect(3).says("cannot read its record: not a directory");
}

#[test]
fn unwritable_directories() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\necho said\nexec sleep 1000000");
    mode(&s.p, 0o555);
    mode(&s.l, 0o555);
    if is_root() {
        // Nothing is unwritable for root but a file system.
        skipped("root may write anywhere");
        return;
    }
    refused(&s, 8, "cannot be made: permission denied\n    see its owner and mode with: ls -ld");
    mode(&s.p, 0o755);
    // Without a log a service runs all the same, and that is said.
    let done = s.reraise(&["start", "web"]).expect(0).prints("web: start\n");
    done.says("its output is dropped: permission denied\n    see: ls -ld ");
    s.wait_phase("web", Phase::Run);
    wait_for("the logger to say so", || s.messages().contains("cannot write its log"));
    // A record that cannot be written stops nobody from supervising.
    mode(&s.p, 0o555);
    let pid = s.pid("web");
    signal(pid, Signal::SIGKILL);
    wait_for("the worker to say so", || s.messages().contains("cannot write its record"));
    mode(&s.p, 0o755);
    s.reraise(&["restart", "web"]).expect(0).says("its output is dropped");
    assert_ne!(s.pid("web"), pid);
    s.ok(&["stop", "web"]);
    mode(&s.d, 0o000);
    s.reraise(&["start", "web"]).expect(6).says("cannot be reached by user ");
    mode(&s.d, 0o755);
}

#[test]
fn a_directory_of_scripts_that_is_closed_to_us() {
    let s = Sandbox::new();
    let shown = s.d.display().to_string();
    let public = s.public_programs();
    mode(&s.d, 0o700);
    if !is_root() {
        mode(&s.d, 0o000);
    }
    for words in [&["list"][..], &["status"], &["start", "*"], &["logs"]] {
        let done = s.run(as_ordinary(s.program(&public).args(words))).expect(6);
        assert!(done.err.starts_with(&format!("reraise: {shown}: cannot be reached by user ")));
        assert!(
            done.err.ends_with(&format!("\n    see its owner and mode with: ls -ld {shown}\n"))
        );
    }
    let done = s.run(as_ordinary(s.program(&public).arg("doctor"))).expect(1);
    done.says_out(&format!("problem: {shown}: cannot be reached by user "));
    mode(&s.d, 0o755);
}

#[test]
fn directories_that_others_can_change() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    for dir in [&s.d, &s.p] {
        for bits in [0o777, 0o757] {
            mode(dir, bits);
            refused(&s, 6, "can be changed by other users\n    close it: chmod go-w ");
            mode(dir, 0o755);
        }
    }
    // Also on the way to them.
    mode(&s.at(""), 0o777);
    refused(&s, 6, "can be changed by other users\n    close it: chmod go-w ");
    mode(&s.at(""), 0o755);
    // Sticky, only the owner of an entry can exchange it.
    if is_root() {
        // But a script of root's can be moved here out of a directory of somebody else.
        mode(&s.d, 0o1777);
        refused(&s, 6, "which can be changed by other users\n    close it: chmod go-w ");
        mode(&s.d, 0o755);
        mode(&s.p, 0o1777);
    }
    s.up("web");
    // What became so while the service runs is not used for its next run.
    s.ok(&["stop", "web"]);
    let state = s.state();
    mode(&state, 0o755);
    s.up("web");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn directories_of_somebody_else() {
    if skip_unless_root("chown") {
        return;
    }
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let owner = |path: &Path, uid: u32| chown(path, Some(uid), None).unwrap();
    owner(&s.d, STRANGER);
    refused(&s, 6, &format!("belongs to user {STRANGER}, who could change what is in it"));
    owner(&s.d, 0);
    owner(&s.p, STRANGER);
    refused(&s, 6, &format!("belongs to user {STRANGER}, who could "));
    // Sticky is not enough: its owner can still move ours away.
    mode(&s.p, 0o1777);
    refused(&s, 6, &format!("belongs to user {STRANGER}, who could "));
    owner(&s.p, 0);
    // Somebody was there before us.
    fs::create_dir(s.state()).unwrap();
    owner(&s.state(), STRANGER);
    refused(&s, 6, "is not my own directory; somebody else made it\n    look at it");
    fs::remove_dir(s.state()).unwrap();
    fs::create_dir(s.at("elsewhere")).unwrap();
    symlink(s.at("elsewhere"), s.state()).unwrap();
    refused(&s, 6, "is not my own directory; somebody else made it");
    assert_eq!(fs::read_dir(s.at("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_link_that_a_stranger_planted_in_a_sticky_directory() {
    if skip_unless_root("a file of another user") {
        return;
    }
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let sticky = s.at("tmp");
    fs::create_dir(&sticky).unwrap();
    mode(&sticky, 0o1777);
    let plant = |name: &str, target: &Path| -> PathBuf {
        let link = sticky.join(name);
        symlink(target, &link).unwrap();
        lchown(&link, Some(STRANGER), Some(STRANGER)).unwrap();
        link
    };
    let words = format!("is a symbolic link of user {STRANGER}\n    remove it: rm ");
    for (variable, link) in
        [("RERAISE_DIR", plant("d", &s.d)), ("RERAISE_PIDDIR", plant("p", &s.p))]
    {
        for path in [link.clone(), link.join("below")] {
            fs::create_dir_all(s.d.join("below")).unwrap();
            fs::copy(s.d.join("web"), s.d.join("below/web")).unwrap();
            let mut command = s.command(&["start", "web"]);
            let done = s.run(command.env(variable, &path)).expect(6).says(&words);
            assert_eq!(done.out, "");
        }
    }
    assert!(!s.p.join(".reraise-0").exists());
    // Nor is the log written through such a link.
    fs::write(s.at("precious"), "precious\n").unwrap();
    fs::create_dir(s.l.join("web")).unwrap();
    symlink(s.at("precious"), s.l.join("web/current")).unwrap();
    s.script("web", "config_start_sec=0\necho overwritten\nexec sleep 1000000");
    s.reraise(&["start", "web"]).expect(0).says("its output is dropped: too many symbolic links");
    assert_eq!(fs::read_to_string(s.at("precious")).unwrap(), "precious\n");
}

#[test]
fn a_log_that_cannot_be_written_is_said_and_the_service_runs() {
    let s = Sandbox::new();
    let body = "config_start_sec=0.2\necho to-log\nexec sleep 1000000";
    let current = s.l.join("web/current");
    fs::create_dir(s.l.join("web")).unwrap();
    let mut reader = None;
    for (kind, why) in [
        ("directory", "is a directory"),
        ("fifo", "it is no ordinary file"),
        ("fifo that is read", "it is no ordinary file"),
    ] {
        s.script("web", body);
        if kind == "directory" {
            fs::create_dir(&current).unwrap();
        } else {
            // Where nobody reads it, opening it must not hold anybody up.
            nix::unistd::mkfifo(&current, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        if kind == "fifo that is read" {
            let mut options = fs::OpenOptions::new();
            reader = Some(options.read(true).write(true).open(&current).unwrap());
        }
        let shown = current.display();
        let what = format!("reraise: web: cannot write its log {shown}, its output is dropped: ");
        let done = s.reraise(&["start", "--wait", "web"]).expect(0).prints("web: start\n");
        done.says(&format!("{what}{why}\n    see: ls -ld "));
        let lost = format!(", output is lost: {shown}: {why}, 1 lines were dropped");
        let is_lost = || s.ok(&["status", "--long", "web"]).contains(&lost);
        wait_for("the loss to be known", is_lost);
        assert!(!s.ok(&["status", "web"]).contains("output"), "the short one says no more");
        // Mended.
        if kind == "directory" {
            fs::remove_dir(&current).unwrap();
        } else {
            fs::remove_file(&current).unwrap();
        }
        wait_for("its output", || {
            // It is tried again only after a moment, and drops what is said until then.
            s.ok(&["restart", "web"]);
            let log = s.log("web");
            log.contains(" were dropped here\n") && log.ends_with("to-log\n")
        });
        wait_for("the mend to be known", || !is_lost());
        s.ok(&["stop", "web"]);
        // Its logger notes the end of the last run first.
        wait_for("nothing to be left", || s.processes().is_empty());
        fs::remove_file(&current).unwrap();
    }
    drop(reader);
}

/// A directory below the sandbox whose path has so many bytes.
fn deep(s: &Sandbox, length: usize) -> PathBuf {
    let mut path = s.at("deep");
    while path.as_os_str().len() < length {
        let left = length - path.as_os_str().len() - 1;
        path.push("x".repeat(if left > 200 { 150 } else { left.max(1) }));
    }
    path
}

#[test]
fn paths_longer_than_a_socket_allows_work() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let long = deep(&s, 690);
    let run = |arguments: &[&str]| {
        let mut command = s.command(arguments);
        s.run(command.env("RERAISE_PIDDIR", &long).env("RERAISE_LOGDIR", long.join("l")))
    };
    assert_eq!(run(&["start", "web"]).expect(0).out, "web: start\n");
    assert_eq!(run(&["start", "web"]).expect(0).out, "web: skip (because already running)\n");
    // Its workers find each other there too.
    let state = long.join(s.state().file_name().unwrap());
    let keeper = || match reraise::lock::holder_of(&state.join("keeper.lock"), 0) {
        Ok(reraise::lock::Holder::Pid(pid)) => Some(pid),
        _ => None,
    };
    let old = keeper().unwrap();
    signal(old, Signal::SIGKILL);
    wait_for("another keeper", || keeper().is_some_and(|new| new != old));
    assert!(run(&["restart", "web"]).expect(0).out.starts_with("web: restart"));
    assert!(run(&["stop", "web"]).expect(0).out.starts_with("web: stop"));
    wait_for("the keeper to end", || keeper().is_none());
}

#[test]
fn paths_that_are_too_long_are_refused() {
    let s = Sandbox::new();
    let long = deep(&s, 720);
    for variable in ["RERAISE_DIR", "RERAISE_PIDDIR", "RERAISE_LOGDIR"] {
        let mut command = s.command(&["start", "web"]);
        let done = s.run(command.env(variable, &long)).expect(2);
        let done = done.says("is too long for a directory (700 bytes at most)");
        assert!(done.err.len() < 300, "{done:?}");
    }
    assert!(!s.at("deep").exists());
}

/// A small file system that is gone with the test.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Option<Self> {
        if skip_unless_root("a small file system") {
            return None;
        }
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,nr_inodes=256,mode=755", "none"]).arg(&path);
        if !mount.output().is_ok_and(|o| o.status.success()) {
            skipped("a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(path))
    }

    fn fill(&self) -> PathBuf {
        let path = self.0.join(".ballast");
        let mut length = 64 << 10;
        while length > 0 {
            let mut options = fs::OpenOptions::new();
            let mut file = options.append(true).create(true).open(&path).unwrap();
            if std::io::Write::write_all(&mut file, &vec![b'x'; length]).is_err() {
                length /= 2;
            }
        }
        path
    }

    /// No file can be made any more.
    fn use_up(&self) {
        let all = (0..).map(|n| fs::File::create(self.0.join(format!(".{n}"))));
        assert!(all.take_while(Result::is_ok).count() > 100);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_ends_no_service_and_loses_none() {
    let s = Sandbox::new();
    fs::remove_dir(&s.p).unwrap();
    let Some(small) = Small::mount(s.p.clone()) else { return };
    let fifo = s.fifo("runs");
    let body = format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000000", fifo.shown());
    s.script("web", &body);
    s.script("other", &body);
    s.script("third", &body);
    let pid = s.up("web");
    assert_eq!(fifo.number(), pid);
    s.up("other");
    let other = fifo.number();
    let ballast = small.fill();
    // What runs is raised.
    signal(pid, Signal::SIGKILL);
    let raised = fifo.number();
    assert!(raised != pid && is_alive(raised));
    // What does not run cannot be started, with the reason, or can.
    let done = s.reraise(&["start", "third"]);
    if done.code != 0 {
        done.expect(8).says("no space left on device").says("df -h");
        wait_for("its worker to end", || !s.messages().is_empty() || s.processes().len() <= 6);
    } else {
        fifo.number();
    }
    // Supervisors come and go.
    signal(s.worker("other"), Signal::SIGKILL);
    wait_for("another worker", || s.worker("other") > 0);
    assert!(is_alive(other));
    let keeper = s.keeper();
    signal(keeper, Signal::SIGKILL);
    wait_for("another keeper", || s.find_keeper().is_some_and(|new| new != keeper));
    assert!(is_alive(raised) && is_alive(other));
    // Never a second one, and stopped means gone.
    let done = s.reraise(&["start", "web"]);
    assert!(!done.out.contains("web: start"), "{done:?}");
    s.reraise(&["stop", "other"]).expect(0);
    wait_gone(other);
    // With space again all is as it should be.
    fs::remove_file(ballast).unwrap();
    s.ok(&["restart", "web"]);
    let new = fifo.number();
    wait_gone(raised);
    assert_eq!(s.wait_phase("web", Phase::Run).pid, Some(new));
    s.ok(&["stop", "*"]);
    wait_gone(new);
    wait_for("everything to be gone", || s.processes().is_empty());
}

#[test]
fn a_full_disk_below_the_log_ends_no_service() {
    let s = Sandbox::new();
    fs::remove_dir(&s.l).unwrap();
    let Some(small) = Small::mount(s.l.clone()) else { return };
    let fifo = s.fifo("runs");
    s.script(
        "web",
        &format!("config_start_sec=0\necho to-log\necho $$ >{}\nexec sleep 1000000", fifo.shown()),
    );
    small.fill();
    let full = "no space left on device\n    free some space (df -h ";
    s.reraise(&["start", "web"]).expect(0).prints("web: start\n").says(full);
    let pid = fifo.number();
    signal(pid, Signal::SIGKILL);
    assert_ne!(fifo.number(), pid);
    s.ok(&["stop", "web"]);
    // Where not even its directory can be made, that is said.
    fs::remove_dir_all(s.l.join("web")).unwrap();
    small.use_up();
    let done = s.reraise(&["start", "web"]).expect(0).prints("web: start\n");
    done.says(full);
    wait_for("the loss to be known", || {
        s.ok(&["status", "--long", "web"]).contains("web/current: no space left on device")
    });
    let pid = fifo.number();
    signal(pid, Signal::SIGKILL);
    assert_ne!(fifo.number(), pid);
}

#[test]
fn too_few_descriptors() {
    let s = Sandbox::new();
    // With so few, a shell may not come to its second line.
    s.script("web", "config_start_sec=1000\nexec sleep 1000000");
    // Where they are linked dynamically, the programs do not even begin with fewer.
    let fewest = if cfg!(target_os = "linux") { 3 } else { 6 };
    for limit in fewest..=16 {
        let script = format!("ulimit -n {limit} && $RERAISE start web");
        let done = s.shell(&script);
        if done.code == 0 {
            assert_eq!(done.out, "web: start\n", "{limit}");
            wait_for("it to run or to fail", || {
                ["starting", "ERROR"].contains(&s.status("web").as_str())
            });
        } else {
            assert!(!done.err.contains("panicked"), "{limit}: {done:?}");
            assert!([8, 2].contains(&done.code), "{limit}: {done:?}");
            assert!(done.err.contains("reraise: "), "{limit}: {done:?}");
        }
        s.ok(&["stop", "web"]);
        wait_for("everything to be gone", || s.processes().is_empty());
    }
}

/// Changes the limit of processes of one that runs, for a while.
#[cfg(target_os = "linux")]
fn limit_processes(pid: i32, limit: u64) {
    let words = ["--pid", &pid.to_string(), &format!("--nproc={limit}:")];
    let output = Command::new("prlimit").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn no_more_processes() {
    if is_root() {
        skipped("root has no limit of processes");
        return;
    }
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let mut command =
        s.shell_command("ulimit -u 1 2>/dev/null || ulimit -p 1; exec $RERAISE start web");
    let done = s.run(&mut command).expect(8);
    done.says("cannot start it: ").says("too many processes; see ulimit -u");
    let pid = s.up("web");
    let nproc = nix::sys::resource::Resource::RLIMIT_NPROC;
    let (before, _) = nix::sys::resource::getrlimit(nproc).unwrap();
    // The keeper cannot fork another worker.
    limit_processes(s.keeper(), 1);
    let done = s.reraise(&["start", "other"]).expect(8);
    done.says("reraise: other: cannot start a worker: ").says("too many processes");
    assert_eq!(s.status("web"), "running");
    // The worker cannot fork another run: it goes on trying.
    let worker = s.worker("web");
    limit_processes(worker, 1);
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
    wait_for("the worker to wait", || s.status("web") == "stop");
    limit_processes(worker, before);
    limit_processes(s.keeper(), before);
    let new = s.wait_raised("web", pid);
    assert_eq!(s.worker("web"), worker);
    s.ok(&["stop", "web"]);
    wait_gone(new);
}

#[test]
fn a_reader_that_is_gone_is_no_reason_to_panic() {
    let s = Sandbox::new();
    for number in 0..50 {
        s.script(&format!("a-name-that-is-somewhat-longer-{number}"), SLEEPER);
    }
    let full = Path::new("/dev/full").exists();
    for words in
        ["list", "list --json", "status", "status --json", "--help", "--version", "skeleton"]
    {
        let ways = [">&-", "<&- >&- 2>&-", "| true", if full { ">/dev/full" } else { ">&-" }];
        for way in ways {
            let script = format!("$RERAISE {words} {way}");
            let done = s.shell(&script);
            assert!(done.err.is_empty() || done.err.starts_with("reraise: "), "{script}: {done:?}");
            assert!(done.code == 0 || done.code == 8, "{script}: {done:?}");
        }
    }
    for way in [">&-", "<&- >&- 2>&-", "| true"] {
        s.script("web", SLEEPER);
        s.shell(&format!("$RERAISE start web {way}")).expect(0);
        s.wait_phase("web", Phase::Run);
        s.shell(&format!("$RERAISE restart web {way}")).expect(0);
        s.wait_phase("web", Phase::Run);
        s.shell(&format!("$RERAISE stop web {way}")).expect(0);
        assert_eq!(s.record("web"), None);
    }
}

#[test]
fn a_full_disk_behind_the_output_is_said() {
    if !Path::new("/dev/full").exists() {
        skipped("there is no /dev/full");
        return;
    }
    let s = Sandbox::new();
    s.script("web", &format!("config_start_sec=0\necho said\n{SLEEPER}"));
    s.up("web");
    wait_for("the log", || s.log("web") == "said\n");
    let told = "reraise: standard output: cannot be written: no space left on device\n    \
                free some space there (df -h), then try again\n";
    for words in [
        "list",
        "list --json",
        "status",
        "status --json",
        "status --long web",
        "why web",
        "why --json web",
        "events",
        "events --json",
        "events --follow",
        "doctor",
        "logs web",
        "skeleton",
        "--help",
        "--version",
    ] {
        let done = s.shell(&format!("$RERAISE {words} >/dev/full")).expect(8);
        assert_eq!(done.err, told, "{words}");
    }
    // What was asked for is done all the same.
    let done = s.shell("$RERAISE stop web >/dev/full").expect(8);
    assert_eq!(done.err, told);
    assert_eq!(s.record("web"), None);
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    for number in 0..2000 {
        fs::write(s.d.join(format!("a-name-that-is-somewhat-longer-{number}")), "").unwrap();
    }
    let mut command = s.command(&["status"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let status = spawn(command.stdout(writer).stderr(Stdio::piped()));
    s.up("web");
    s.ok(&["stop", "web"]);
    drop(command);
    drop(reader);
    let done = finish(status, &s.command(&["status"]));
    assert!(!done.err.contains("panicked"), "{done:?}");
}

#[test]
fn start_from_fifty_shells_at_once() {
    let s = Sandbox::new();
    let fifo = s.fifo("runs");
    let body = format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000000", fifo.shown());
    s.script("web", &body);
    let script = "read line <\"$GO\"; exec $RERAISE start web";
    let go = s.fifo("go");
    let shells: Vec<_> = (0..50)
        .map(|_| {
            let mut command = s.shell_command(script);
            command.env("GO", &go.path).stdout(Stdio::piped()).stderr(Stdio::piped());
            spawn(command.process_group(0))
        })
        .collect();
    fs::write(&go.path, "go\n".repeat(50)).unwrap();
    let label = s.shell_command(script);
    let all: Vec<Done> = shells.into_iter().map(|child| finish(child, &label)).collect();
    let lines: Vec<&str> = all.iter().map(|done| done.out.as_str()).collect();
    assert!(all.iter().all(|done| done.code == 0 && done.err.is_empty()), "{all:?}");
    let skips = lines.iter().filter(|&&l| l == "web: skip (because already running)\n").count();
    let starts = lines.iter().filter(|&&l| l == "web: start\n").count();
    assert_eq!((starts, skips), (1, 49), "{lines:?}");
    let pid = fifo.number();
    assert_eq!(s.pid("web"), pid);
    s.ok(&["stop", "web"]);
    assert!(fifo.is_silent(std::time::Duration::ZERO), "a second run");
    wait_gone(pid);
}
