//! What a service, its worker and the keeper have of whoever typed `start`, and
//! what they must not have.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use reraise::lock::{self, Holder};

use crate::support::{
    SLEEPER, Sandbox, as_ordinary, finish, is_alive, ordinary, signal, spawn, wait_for, wait_gone,
};

#[test]
fn start_in_a_pipe_ends_at_once() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    // It would wait for ever if anybody held the pipe.
    s.shell("$RERAISE start web | cat").expect(0).prints("web: start\n");
    s.shell("$RERAISE restart web 2>&1 | cat").expect(0);
}

/// What the descriptors of a process lead to.
#[cfg(target_os = "linux")]
fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut found: Vec<_> = all
        .flatten()
        .map(|e| {
            let number = e.file_name().to_str().unwrap().parse().unwrap();
            let target = fs::read_link(e.path()).unwrap_or_default();
            (number, target.to_string_lossy().into_owned())
        })
        .collect();
    found.sort_unstable();
    found
}

/// Waits until the shell that a script begins with has become the service.
#[cfg(target_os = "linux")]
fn wait_exec(pid: i32) {
    let name = format!("/proc/{pid}/comm");
    wait_for("exec sleep", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_holds_a_descriptor_or_the_directory_of_the_caller() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    fs::create_dir(s.at("callers-cwd")).unwrap();
    let script = "cd callers-cwd; exec 0<>../callers-0 3<>../callers-3 9<>../callers-9
        $RERAISE start web >../callers-1 2>../callers-2";
    s.shell(script).expect(0);
    let (pid, worker, keeper) = (s.pid("web"), s.worker("web"), s.keeper());
    wait_exec(pid);
    for one in [pid, worker, keeper] {
        for (number, target) in descriptors(one) {
            assert!(!target.contains("callers"), "{one} has {number} -> {target}");
        }
    }
    // The service's own directory is that of the caller; nobody else is there.
    for one in [worker, keeper] {
        assert_eq!(fs::read_link(format!("/proc/{one}/cwd")).unwrap().to_str(), Some("/"));
    }
    let mine = descriptors(pid);
    let numbers: Vec<i32> = mine.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2], "{mine:?}");
    assert_eq!(mine[0].1, "/dev/null");
    assert_eq!(mine[1], (1, mine[2].1.clone()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_service_starts_with_a_clean_slate() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let status = |pid: i32, field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // The caller ignores what can be ignored.
    s.shell("trap '' HUP INT QUIT PIPE USR1 TERM CHLD; $RERAISE start web").expect(0);
    let first = s.pid("web");
    signal(first, Signal::SIGKILL);
    let raised = s.wait_raised("web", first);
    s.ok(&["restart", "web"]);
    let restarted = s.pid("web");
    assert_ne!(restarted, raised);
    let of = Some(nix::unistd::Pid::from_raw(restarted));
    assert_eq!(nix::unistd::getsid(of).unwrap().as_raw(), restarted);
    assert_eq!(nix::unistd::getpgid(of).unwrap().as_raw(), restarted);
    wait_exec(restarted);
    for field in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let signals = u64::from_str_radix(&status(restarted, field), 16).unwrap();
        // 32 and 33 belong to the C library, which lets nobody change them.
        assert_eq!(signals & !(0b11 << 31), 0, "{field} {signals:x}");
    }
}

#[test]
fn each_service_has_the_surroundings_of_its_own_start() {
    let s = Sandbox::new();
    let fifo = s.fifo("facts");
    let body = format!(
        "config_start_sec=0\necho \"$COLOUR:$PATH\" \"$(pwd)\" \"$(printf %o 0$(umask))\" \
         \"$(ulimit -Sn)\" >{}\nexec sleep 1000000",
        fifo.shown()
    );
    s.script("one", &body);
    s.script("two", &body);
    for dir in ["A", "B", "C"] {
        fs::create_dir(s.at(dir)).unwrap();
    }
    let shell = |dir: &str, colour: &str, umask: &str, files: u32, command: &str| {
        let script = format!(
            "cd {dir} && umask {umask} && ulimit -Sn {files} && PATH=$PATH:/{colour} \
             COLOUR={colour} $RERAISE {command}"
        );
        s.shell(&script).expect(0)
    };
    let fact = |dir: &str, colour: &str, umask: &str, files: u32| {
        let path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
        format!("{colour}:{path}:/{colour} {} {umask} {files}", s.at(dir).display())
    };
    shell("A", "red", "027", 100, "start one");
    assert_eq!(fifo.line(), fact("A", "red", "27", 100));
    shell("B", "blue", "077", 200, "start two");
    assert_eq!(fifo.line(), fact("B", "blue", "77", 200));
    // Raised and restarted as they were started.
    for (name, fact) in
        [("one", fact("A", "red", "27", 100)), ("two", fact("B", "blue", "77", 200))]
    {
        let pid = s.pid(name);
        signal(pid, Signal::SIGKILL);
        assert_eq!(fifo.line(), fact);
        s.wait_raised(name, pid);
        shell("C", "green", "022", 300, &format!("restart {name}"));
        assert_eq!(fifo.line(), fact);
        signal(s.worker(name), Signal::SIGKILL);
        let pid = s.pid(name);
        signal(pid, Signal::SIGKILL);
        assert_eq!(fifo.line(), fact);
        s.wait_raised(name, pid);
    }
    // The next start renews them; one that is not needed does not.
    shell("C", "green", "022", 300, "start one");
    shell("C", "green", "022", 300, "restart one");
    assert_eq!(fifo.line(), fact("A", "red", "27", 100));
    shell("C", "green", "022", 300, "stop one");
    shell("C", "green", "022", 300, "start one");
    assert_eq!(fifo.line(), fact("C", "green", "22", 300));
    // Secrets may be among them.
    use std::os::unix::fs::PermissionsExt;
    let context = s.state().join("s/one/context");
    assert_eq!(fs::metadata(context).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_hangup_of_the_callers_session_reaches_nobody() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let pid = s.up("web");
    let mut command = s.shell_command("$RERAISE restart web; kill -HUP 0; exit 1");
    s.run(command.process_group(0)).expect(128 + 1);
    let new = s.wait_raised("web", pid);
    let keeper = s.keeper();
    for one in [s.worker("web"), keeper] {
        // Even one that is meant for them.
        signal(one, Signal::SIGHUP);
    }
    signal(new, Signal::SIGKILL);
    s.wait_raised("web", new);
    assert_eq!(s.keeper(), keeper);
}

#[test]
fn a_closed_terminal_ends_nothing() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let fifo = s.fifo("facts");
    let pty = nix::pty::openpty(None, None).unwrap();
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let script = format!("$RERAISE start web; echo $? >{}; sleep 1000000", fifo.shown());
    let mut command = s.shell_command(&script);
    let terminal = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(terminal()).stdout(terminal()).stderr(terminal());
    let slave = pty.slave.as_raw_fd();
    let own_terminal = move || {
        nix::unistd::setsid()?;
        // SAFETY: a system call on a descriptor that is open in the child too.
        nix::errno::Errno::result(unsafe { libc::ioctl(slave, libc::TIOCSCTTY as _, 0) })?;
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(own_terminal) };
    let shell = spawn(&mut command);
    let shell_pid = shell.id().cast_signed();
    drop(pty.slave);
    drop(command);
    assert_eq!(fifo.line(), "0");
    let pid = s.pid("web");
    // The kernel sends SIGHUP to the session.
    drop(pty.master);
    let done = finish(shell, &s.shell_command("the shell in the terminal"));
    assert_eq!(done.code, 128 + 1, "{done:?}");
    assert!(!is_alive(shell_pid));
    assert!(is_alive(pid));
    signal(pid, Signal::SIGKILL);
    let new = s.wait_raised("web", pid);
    s.ok(&["stop", "web"]);
    wait_gone(new);
}

#[cfg(target_os = "linux")]
#[test]
fn an_environment_as_long_as_the_kernel_takes() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    let s = Sandbox::new();
    let fifo = s.fifo("facts");
    let body = format!("echo ${{#V44}} >{}\nexec sleep 1000000", fifo.shown());
    s.script("web", &format!("config_start_sec=0\n{body}"));
    if getrlimit(Resource::RLIMIT_STACK).unwrap().1 != RLIM_INFINITY {
        crate::support::skipped(
            "a stack without limit, on which the length of an environment depends",
        );
        return;
    }
    // 6 MB for all, 128 kB for one (execve(2)).
    let mut command = s.command(&["start", "web"]);
    for n in 0..45 {
        command.env(format!("V{n}"), "x".repeat(120_000));
    }
    let unlimited = || Ok(setrlimit(Resource::RLIMIT_STACK, RLIM_INFINITY, RLIM_INFINITY)?);
    // SAFETY: one system call.
    unsafe { command.pre_exec(unlimited) };
    s.run(&mut command).expect(0).prints("web: start\n");
    assert_eq!(fifo.line(), "120000");
    // It is kept.
    s.ok(&["restart", "web"]);
    assert_eq!(fifo.line(), "120000");
    signal(s.worker("web"), Signal::SIGKILL);
    signal(s.pid("web"), Signal::SIGKILL);
    assert_eq!(fifo.line(), "120000");
}

#[test]
fn a_directory_that_is_gone_is_said_before_anything_starts() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let script = "mkdir gone && cd gone && rmdir ../gone && $RERAISE start web";
    s.shell(script).expect(8).says("reraise: the present directory: ");
    assert_eq!(s.status("web"), "not-running");
    // Gone later: the run that follows cannot begin, and that is said as well.
    s.script("web", "config_start_sec=0\nconfig_max_retry=0\nexec sleep 1000000");
    s.shell("mkdir gone && cd gone && $RERAISE start web && rmdir ../gone").expect(0);
    let pid = s.pid("web");
    signal(pid, Signal::SIGKILL);
    wait_for("the worker to give up", || s.status("web") == "ERROR");
}

#[test]
fn limits_that_the_keeper_may_not_raise_are_named() {
    let s = Sandbox::new();
    // Root may raise them, and so is somebody else here.
    let program = s.public_programs();
    for name in ["one", "two"] {
        s.give(&s.script(name, SLEEPER));
    }
    s.give_all();
    let shell = |script: &str| {
        let mut command = s.shell_command(script);
        s.run(as_ordinary(command.env("RERAISE", &program)))
    };
    shell("ulimit -n 100; $RERAISE start one").expect(0);
    let done = shell("ulimit -n 200; $RERAISE start two").expect(8);
    let what = "reraise: two: its limits (ulimit -H -a) are higher than those that the keeper \
                was started under\n    end the keeper";
    let done = done.says(what);
    assert!(!done.err.contains("ls -ld"), "{done:?}");
    shell("$RERAISE status one two").expect(3).says_out("running").says_out("ERROR");
    // As it is advised.
    shell("ulimit -n 200; ulimit -n 100; $RERAISE start two").expect(0);
    shell("$RERAISE stop '*'").expect(0);
    wait_for("the keeper to end", || {
        let state = s.p.join(format!(".reraise-{}", ordinary()));
        !matches!(lock::holder_of(&state.join("keeper.lock"), lock::ALIVE), Ok(Holder::Pid(_)))
    });
    shell("ulimit -n 200; $RERAISE start two").expect(0);
}
