//! In a container: `reraise up` as process 1, and pids that mean something else.
//!
//! The container is made of namespaces (unshare(1)) and a file system of its own
//! with the system's programs in it, so that also an ordinary user may make one
//! and be root there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use reraise::backend::native;

use crate::support::{
    Done, SLEEPER, STRANGER, Sandbox, auto_reraise, finish, is_alive, is_root, reraise, signal,
    skipped, spawn, wait_for, wait_gone, wait_some,
};

/// Makes the file system and becomes the command in it. Arguments: the new root,
/// the sandbox, the directory of our programs, the command.
const SETUP: &str = r#"
set -e
root=$1 sandbox=$2 programs=$3
shift 3
mount -t tmpfs none "$root"
for dir in /usr /etc /dev; do
    mkdir -p "$root$dir"
    mount --rbind "$dir" "$root$dir"
done
for dir in /bin /sbin /lib /lib64; do
    if [ -L "$dir" ]; then cp -P "$dir" "$root$dir"
    elif [ -d "$dir" ]; then mkdir "$root$dir"; mount --rbind "$dir" "$root$dir"
    fi
done
mkdir "$root/proc" "$root/tmp"
mount -t proc proc "$root/proc"
for dir in "$sandbox" "$programs"; do
    mkdir -p "$root$dir"
    mount --bind "$dir" "$root$dir"
done
exec chroot "$root" "$@"
"#;

/// A container, whose process 1 is a command.
struct Container {
    child: Child,
    command: Command,
    first: i32,
}

impl Container {
    /// `None`, and a word about it, where that is not allowed.
    fn of<S: AsRef<std::ffi::OsStr>>(s: &Sandbox, words: &[S]) -> Option<Self> {
        let mut command = unshare(s);
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !is_allowed(s) {
            skipped("no namespaces for this user");
            return None;
        }
        let child = spawn(&mut command);
        let outer = child.id().cast_signed();
        let first =
            wait_some("the first process", || native::children(outer).unwrap().first().copied());
        Some(Self { child, command, first: s.knows(first) })
    }

    #[track_caller]
    fn finish(self) -> Done {
        finish(self.child, &self.command)
    }

    /// A shell script in the container, as `docker exec` would run it.
    fn enter(&self, s: &Sandbox, script: &str) -> Command {
        let mut command = s.program("nsenter");
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--pid", "--root", "--target"]);
        let script = format!("cd /; {script}");
        command.arg(self.first.to_string()).args(["/bin/sh", "-c", &script]);
        command.current_dir("/");
        command.env("RERAISE", reraise());
        command
    }

    #[track_caller]
    fn exec(&self, s: &Sandbox, script: &str) -> Done {
        s.run(&mut self.enter(s, script))
    }
}

fn programs() -> PathBuf {
    let program = reraise();
    assert_eq!(Path::new(&program).parent(), Path::new(&auto_reraise()).parent());
    Path::new(&program).parent().unwrap().to_owned()
}

fn unshare(s: &Sandbox) -> Command {
    let root = s.at("root");
    let _ = fs::create_dir(&root);
    let mut command = s.program("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--mount", "--fork", "--kill-child", "/bin/sh", "-c", SETUP, "setup"]);
    command.arg(root).arg(s.d.parent().unwrap()).arg(programs());
    command.env("RERAISE", reraise());
    command
}

fn is_allowed(s: &Sandbox) -> bool {
    let mut command = unshare(s);
    command.arg("true").stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `reraise up` and the rest of the words.
fn up(words: &[&str]) -> Vec<OsString> {
    [reraise(), "up".into()].into_iter().chain(words.iter().map(OsString::from)).collect()
}

/// The pid in the record of a service; those of the container's own numbers.
fn recorded(s: &Sandbox, name: &str) -> Option<i32> {
    let line = fs::read_to_string(s.p.join(name)).ok()?;
    line.split(' ').nth(2)?.parse().ok()
}

fn is_running(s: &Sandbox, name: &str) -> bool {
    fs::read_to_string(s.p.join(name)).is_ok_and(|line| line.starts_with("RUN"))
}

#[test]
fn as_process_1_it_reaps_strangers_and_ends_with_everything_gone() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script("other", SLEEPER);
    let Some(box_) = Container::of(&s, &up(&["web"])) else { return };
    wait_for("its service", || is_running(&s, "web"));
    // What others do in the container finds the keeper there.
    let shown = "ppid=";
    assert!(box_.exec(&s, "$RERAISE status web").expect(0).out.contains(shown));
    assert_eq!(box_.exec(&s, "$RERAISE start other").expect(0).out, "other: start\n");
    // A stranger, orphaned, comes to process 1 and is reaped when it ends.
    let before = native::children(box_.first).unwrap();
    box_.exec(&s, "sleep 1000000 >/dev/null 2>&1 &").expect(0);
    let stranger = wait_some("the orphan", || {
        let now = native::children(box_.first).unwrap();
        now.into_iter().find(|pid| !before.contains(pid))
    });
    signal(stranger, Signal::SIGKILL);
    // Gone, not a zombie.
    let trace = PathBuf::from(format!("/proc/{stranger}"));
    wait_for("it to be reaped", || !trace.exists());
    let zombies = "for s in /proc/[0-9]*/stat; do read -r line <$s && echo \"$line\"; done";
    let out = box_.exec(&s, zombies).expect(0).out;
    assert!(!out.contains(") Z "), "{out}");
    // Everybody of the container, in the numbers of outside.
    let mut all = vec![box_.first];
    let mut at = 0;
    while at < all.len() {
        all.extend(native::children(all[at]).unwrap());
        at += 1;
    }
    assert!(all.len() >= 5, "keeper, two workers, two services: {all:?}");
    signal(box_.first, Signal::SIGTERM);
    let done = box_.finish().expect(0);
    assert!(done.err.contains("reraise: up: all services are stopped\n"), "{done:?}");
    all.into_iter().for_each(|pid| assert!(!is_alive(pid), "{pid}"));
}

#[test]
fn as_process_1_it_passes_the_exit_code_of_what_is_essential_on() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let once = "config_start_sec=0\nconfig_essential=yes\nconfig_restart=never";
    for (name, body, code) in [("code", "exit 42", 42), ("signal", "kill -TERM $$", 128 + 15)] {
        s.script(name, &format!("{once}\n{body}"));
        let Some(box_) = Container::of(&s, &up(&["web", name])) else { return };
        box_.finish().expect(code).says(&format!("{name} is essential"));
    }
}

#[test]
fn a_container_that_starts_again_brings_up_what_is_wanted() {
    let s = Sandbox::new();
    let runs = s.fifo("runs");
    let body = format!("config_start_sec=1000\necho $$ >{}\nexec sleep 1000000", runs.shown());
    s.script("web", &body);
    s.script("other", SLEEPER);
    let Some(mut box_) = Container::of(&s, &up(&["web"])) else { return };
    let first = runs.number();
    wait_for("its record", || recorded(&s, "web") == Some(first));
    // The container ends by force, its directories stay: one boot, other pids.
    for _ in 0..3 {
        signal(box_.first, Signal::SIGKILL);
        wait_gone(box_.first);
        box_ = Container::of(&s, &up(&[])).unwrap();
        // Which may be the very same number.
        runs.number();
        let status = || box_.exec(&s, "$RERAISE status").expect(0).out;
        wait_for("its record", || status().contains("web                starting"));
        let out = status();
        assert!(out.contains("other              not-running"), "{out}");
    }
    // Outside of the container its records mean nothing.
    if is_root() {
        assert_eq!(s.status("web"), "seems-not-running");
    }
}

/// Whoever begins next gets this pid (ns_last_pid, Linux 3.3).
const NEXT: &str = "next() { echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; }";

#[test]
fn a_pid_that_is_somebody_elses_before_the_service_is_adopted() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    // The first process is a shell, so that all supervisors can be killed. The
    // two that are killed are stopped first: none may replace the other.
    let script = format!(
        r#"
        {NEXT}
        field() {{ cut -d' ' -f$1 "$RERAISE_PIDDIR/web"; }}
        until_running() {{ until $RERAISE status web >/dev/null && [ "$(field 1)" = RUN ]; do :; done; }}
        $RERAISE start web
        until_running
        for round in 1 2 3 4 5; do
            pid=$(field 3) worker=$(field 4)
            keeper=$(grep -l -e '--keepe[r]' /proc/[0-9]*/cmdline | cut -d/ -f3)
            kill -STOP $keeper $worker
            kill -KILL $keeper $worker $pid
            while kill -0 $pid 2>/dev/null || kill -0 $worker 2>/dev/null; do sleep 0; done
            next $pid
            sleep 1000000 &
            [ $! = $pid ] || {{ echo "no luck: $! is not $pid"; exit 9; }}
            $RERAISE resume || exit 1
            until_running
            [ "$(field 3)" != $pid ] || {{ echo "adopted a stranger"; exit 2; }}
            strangers="$strangers $pid"
            kill -0 $strangers || {{ echo "killed a stranger"; exit 3; }}
        done
        $RERAISE stop web || exit 4
        kill -0 $strangers || exit 5
        "#
    );
    let words = ["/bin/sh", "-c", &script];
    let Some(box_) = Container::of(&s, &words) else { return };
    let done = box_.finish();
    if done.out.contains("no luck") {
        return skipped("the kernel does not let us choose pids");
    }
    let done = done.expect(0);
    assert_eq!(done.out.matches("web: start\n").count(), 6, "{done:?}");
}

#[test]
fn a_clock_that_jumps_while_nobody_watches() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let later = |words: &[&str]| {
        let mut command = s.program("unshare");
        command.args(["--time", "--monotonic", "1000000", "--fork", "--kill-child"]);
        command.arg(reraise()).args(words);
        s.run(&mut command)
    };
    if !is_root() || later(&["list"]).code != 0 {
        return skipped("no time namespaces for this user");
    }
    // Eleven days pass, as when a machine sleeps whose clock goes on.
    s.kill_supervisors(&["web"]);
    let adopted = format!("web: adopt    # (pid={pid})\n");
    assert_eq!(later(&["resume"]).expect(0).out, adopted);
    assert!(later(&["status", "web"]).expect(0).out.contains("elapsed=277:4"));
    signal(s.worker("web"), Signal::SIGKILL);
    wait_for("another worker", || s.record("web").is_some_and(|r| r.worker.is_some_and(is_alive)));
    assert!(is_alive(pid));
    // And they never happened.
    s.kill_supervisors(&["web"]);
    assert_eq!(s.ok(&["resume"]), adopted);
    assert_eq!((s.pid("web"), is_alive(pid)), (pid, true));
    signal(pid, Signal::SIGKILL);
    s.wait_raised("web", pid);
    s.ok(&["stop", "web"]);
}

#[test]
fn no_more_processes_when_a_service_is_to_be_raised() {
    // Root may always have one more.
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let user = if is_root() { STRANGER } else { nix::unistd::geteuid().as_raw() };
    let programs = s.public_programs();
    if is_root() {
        for dir in [&s.d, &s.p, &s.l, &s.d.join("web")] {
            std::os::unix::fs::chown(dir, Some(user), Some(user)).unwrap();
        }
    }
    let run = |words: &[&str]| {
        let mut command = s.program(&programs);
        command.args(words);
        if is_root() {
            command.uid(user).gid(user);
        }
        s.run(&mut command)
    };
    run(&["start", "web"]).expect(0);
    wait_for("its service", || is_running(&s, "web"));
    let field = |n: usize| -> i32 {
        let line = fs::read_to_string(s.p.join("web")).unwrap();
        line.split(' ').nth(n).unwrap().parse().unwrap()
    };
    let (pid, worker) = (field(2), field(3));
    let limit = |soft: &str| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &worker.to_string(), &format!("--nproc={soft}:")]);
        if is_root() {
            command.uid(user).gid(user);
        }
        assert!(command.status().unwrap().success());
    };
    limit("1");
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
    wait_for("the delay", || {
        fs::read_to_string(s.p.join("web")).is_ok_and(|line| line.starts_with("STOP"))
    });
    // It is tried again and again, and is no fault of the service.
    assert!(is_alive(worker));
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    limit(&hard.to_string());
    wait_for("its successor", || is_running(&s, "web") && recorded(&s, "web") != Some(pid));
    assert_eq!(field(3), worker);
    run(&["stop", "web"]).expect(0);
}
