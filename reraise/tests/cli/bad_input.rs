//! What users write wrongly: names, scripts, configuration. Each has a clear
//! error, its exit code, and leaves no process and no half-made service.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use reraise::record::Phase;

use crate::support::{SLEEPER, Sandbox, is_alive, signal, wait_for, wait_gone, write_program};

/// Starting it fails at once, without `--wait`, and nothing runs afterwards.
#[track_caller]
fn refused(s: &Sandbox, name: &str, code: i32, words: &str) {
    let done = s.reraise(&["start", name]).expect(code).says(words);
    assert!(done.err.starts_with(&format!("reraise: {name}: ")), "{done:#?}");
    // One line what is wrong, one line what to do.
    let lines: Vec<&str> = done.err.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("    "), "{done:#?}");
    assert_eq!(done.out, "");
    wait_for("everything to be gone", || s.processes().is_empty());
    assert_ne!(s.reraise(&["status", name]).code, 0);
}

#[test]
fn no_script() {
    let s = Sandbox::new();
    refused(&s, "nobody", 4, "no such service\n    make one: reraise skeleton nobody -- ");
}

#[test]
fn not_executable() {
    let s = Sandbox::new();
    fs::write(s.d.join("web"), "#!/bin/sh\n").unwrap();
    refused(&s, "web", 5, "is not executable\n    chmod +x ");
    assert_eq!(s.status("web"), "not-executable");
}

#[test]
fn not_a_file() {
    let s = Sandbox::new();
    nix::unistd::mkfifo(&s.d.join("fifo"), Mode::from_bits_truncate(0o755)).unwrap();
    let _socket = UnixListener::bind(s.d.join("socket")).unwrap();
    symlink("/dev/null", s.d.join("device")).unwrap();
    symlink("nowhere", s.d.join("dangling")).unwrap();
    symlink("loop", s.d.join("loop")).unwrap();
    for name in ["fifo", "socket", "device"] {
        refused(&s, name, 5, "is neither a file nor a directory with a run file");
    }
    refused(&s, "dangling", 5, "is a symbolic link to nothing");
    let done = s.reraise(&["start", "loop"]);
    assert!(done.code != 0 && done.err.starts_with("reraise: loop: "), "{done:?}");
    assert_eq!(s.reraise(&["status"]).expect(0).out.lines().count(), 5);
}

#[test]
fn no_shebang() {
    let s = Sandbox::new();
    write_program(&s.d.join("bare"), "sleep 1000000\n");
    write_program(&s.d.join("empty"), "");
    write_program(&s.d.join("alien"), "\x7fELF of another machine");
    for name in ["bare", "empty", "alien"] {
        refused(
            &s,
            name,
            5,
            "has no #! line, and is no program of this machine\n    make #!/bin/sh",
        );
        assert_eq!(s.status(name), "ERROR");
    }
}

#[test]
fn missing_interpreter() {
    let s = Sandbox::new();
    s.script("web", "#!/nonexistent/bin/python9 -u\n");
    refused(
        &s,
        "web",
        5,
        "its interpreter /nonexistent/bin/python9 does not exist (first line of ",
    );
    write_program(&s.d.join("dos"), "#!/bin/sh\r\nexec sleep 1000000\r\n");
    refused(&s, "dos", 5, "its interpreter /bin/sh\\r does not exist");
    let record = s.record("web").unwrap();
    assert_eq!((record.phase, record.exit), (Phase::Error, Some(127)));
}

#[test]
fn a_directory_needs_run() {
    let s = Sandbox::new();
    let dir = s.d.join("web");
    fs::create_dir(&dir).unwrap();
    refused(&s, "web", 5, "is a directory without a file named run\n    write ");
    fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
    refused(&s, "web", 5, "is not executable\n    chmod +x ");
    let fifo = s.fifo("cwd");
    let body =
        format!("#!/bin/sh\nconfig_start_sec=0\npwd >{}\nexec sleep 1000000\n", fifo.shown());
    write_program(&dir.join("run"), &body);
    s.up("web");
    assert_eq!(fifo.line(), dir.to_str().unwrap());
}

#[test]
fn a_script_or_directory_that_others_can_change() {
    let s = Sandbox::new();
    let path = s.script("web", SLEEPER);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&s, "web", 6, "can be changed by other users\n    chmod go-w ");
    fs::create_dir(s.d.join("dir")).unwrap();
    write_program(&s.d.join("dir/run"), "#!/bin/sh\nexec sleep 1000000\n");
    fs::set_permissions(s.d.join("dir"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&s, "dir", 6, "can be changed by other users\n    close it: chmod go-w ");
}

#[test]
fn restart_leaves_alone_what_could_not_come_up_again() {
    let s = Sandbox::new();
    let spoil = |name, path: &Path| match name {
        "closed" => fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap(),
        "open" => fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap(),
        "gone" => fs::remove_file(path).unwrap(),
        "lost" => write_program(path, "#!/no/such/sh\n"),
        _ => write_program(path, "#!/bin/sh\nconfig_strat_sec=1\n"),
    };
    let cases = [
        ("closed", 5, "is not executable\n    chmod +x "),
        ("open", 6, "can be changed by other users\n    chmod go-w "),
        ("gone", 4, "no such service\n    make one: "),
        ("lost", 5, "its interpreter /no/such/sh does not exist (first line of "),
        ("odd", 5, "config_strat_sec: unknown key\n    did you mean config_start_sec?"),
    ];
    // It is judged by the environment that it was started with.
    s.script("web", &format!("config_log=$PLACE\n{SLEEPER}"));
    s.run(s.command(&["start", "web"]).env("PLACE", s.at("log"))).expect(0);
    let web = s.wait_phase("web", Phase::Run).pid.unwrap();
    let mut pids = Vec::new();
    for (name, code, words) in cases {
        let path = s.script(name, SLEEPER);
        let pid = s.up(name);
        spoil(name, &path);
        s.reraise(&["restart", name]).expect(code).says(words).prints("");
        pids.push((name, pid));
    }
    let worker = s.worker("web");
    let line = format!("web: restart    # (worker-pid={worker})\n");
    let done = s.reraise(&["restart", "*"]).expect(1).prints(&line);
    assert_ne!(s.pid("web"), web);
    for (_, _, words) in cases {
        assert!(done.err.contains(words), "no {words:?} in {done:#?}");
    }
    for (name, pid) in pids {
        assert!(is_alive(pid) && s.pid(name) == pid, "{name}");
    }
    // As `start` refuses them.
    for (name, code, words) in cases {
        s.ok(&["stop", name]);
        s.reraise(&["start", name]).expect(code).says(words);
    }
}

#[test]
fn names_that_are_none() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let long = "x".repeat(300);
    for (name, words) in [
        (OsStr::new("../d/web"), "starts with `.`"),
        (OsStr::new("d/web"), "contains `/`"),
        (OsStr::new("/bin/sh"), "contains `/`"),
        (OsStr::new(".."), "starts with `.`"),
        (OsStr::new(".hidden"), "starts with `.`"),
        (OsStr::new("-web"), "starts with `-`"),
        (OsStr::new("a b"), "contains a space"),
        (OsStr::new("a\nb"), "contains `\\n`"),
        (OsStr::new("a\tb"), "contains `\\t`"),
        (OsStr::new("a\x1bb"), "contains `\\u{1b}`"),
        (OsStr::new("a\u{200b}b"), "contains `\\u{200b}`"),
        (OsStr::new(""), "reraise: '': service name is empty\n    give the name of a service"),
        (OsStr::new(&long), "has 300 bytes, more than 255"),
        (OsStr::from_bytes(b"a\xffb"), "is not UTF-8"),
    ] {
        for verb in ["start", "stop", "restart", "status", "list", "clean"] {
            let arguments = [OsStr::new(verb), OsStr::new("--"), name, OsStr::new("web")];
            let done = s.run(&mut s.command(&arguments)).says("service name ").says(words);
            // What is wrong, and what to do; the name cannot break the lines.
            assert!(done.err.starts_with("reraise: "), "{done:?}");
            assert!(!done.err.contains('\x1b'), "{done:?}");
            // The other argument is handled all the same.
            match verb {
                "start" | "list" => assert_eq!(done.clone().expect(2).out.lines().count(), 1),
                "status" => assert!(done.out.starts_with("web "), "{done:?}"),
                "stop" => assert!(done.clone().expect(2).out.starts_with("web: stop"), "{done:?}"),
                _ => assert_ne!(done.code, 0),
            }
        }
    }
    // One that has room for nothing but itself works.
    let longest = "n".repeat(255);
    s.script("web", SLEEPER);
    fs::rename(s.d.join("web"), s.d.join(&longest)).unwrap();
    let pid = s.up(&longest);
    signal(s.worker(&longest), Signal::SIGKILL);
    signal(pid, Signal::SIGKILL);
    s.wait_raised(&longest, pid);
    assert!(s.ok(&["stop", &longest]).starts_with(&format!("{longest}: stop ")));
}

#[test]
fn files_with_such_names_do_not_disturb_the_others() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    let mut names: Vec<OsString> =
        ["-x", "a b", "a\nb", "we\u{200b}b", "\u{202e}bew", ".hidden", "x~y"]
            .map(Into::into)
            .into();
    names.push(OsStr::from_bytes(b"a\xffb").to_owned());
    for name in names {
        let made = fs::copy(s.d.join("web"), s.d.join(&name));
        // The file system of macOS has no such name.
        assert!(made.is_ok() || cfg!(target_os = "macos"), "{name:?}: {made:?}");
    }
    let out = s.ok(&["list"]);
    let shown: Vec<&str> = out.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(shown, ["web", "x~y"]);
    let out = s.ok(&["start", "*"]);
    assert_eq!(out.lines().count(), 2, "{out}");
    let done = s.reraise(&["doctor"]).says_out("we\\u{200b}b: cannot be a service: service name");
    done.says_out(
        "\\u{202e}bew: cannot be a service: service name contains `\\u{202e}`\n    rename",
    );
}

#[test]
fn configuration_that_makes_no_sense() {
    let s = Sandbox::new();
    let path = s.d.join("web");
    for (line, words) in [
        ("config_stat_sec=3", "config_start_sec"),
        ("config_START_SEC=3", "config_start_sec"),
        ("config_colour=red", "unknown"),
        ("config_start_sec=soon", "seconds"),
        ("config_start_sec=-1", "seconds"),
        ("config_max_retry=2.5", "whole number"),
        ("config_stop='KILLED 3'", "KILLED"),
        ("config_start_sec=$(date +%s)", "command"),
        ("config_start_sec=`date`", "command"),
        ("config_start_sec='3", "quote"),
        ("config_restart=perhaps", "on-failure"),
        ("config_log=relative/path", "absolute path"),
    ] {
        s.script("web", &format!("\n{line}\nexec sleep 1000000"));
        let done = s.reraise(&["start", "web"]).expect(5).says(words);
        // The file and the line.
        assert!(done.err.starts_with(&format!("reraise: web: {}", path.display())), "{done:?}");
        assert!(done.err.contains("3"), "{line}: {done:?}");
        assert_eq!(done.out, "");
        assert_eq!(s.status("web"), "not-running");
    }
    // Several mistakes are all named at once.
    s.script("web", "config_stat_sec=3\nconfig_max_retry=x\nexec sleep 1000000");
    let done = s.reraise(&["start", "web"]).expect(5).says("stat_sec").says("max_retry");
    assert_eq!(done.err.matches("reraise: web: ").count(), 2, "{done:?}");
    wait_for("everything to be gone", || s.processes().is_empty());
    // What only looks like one is none.
    s.script(
        "web",
        "# config_x=1\n  config_y=2\nexport config_z=3\n#config_a=\nexec sleep 1000000",
    );
    s.ok(&["start", "web"]);
}

#[test]
fn a_script_edited_or_replaced_while_it_runs() {
    let s = Sandbox::new();
    let fifo = s.fifo("version");
    let version = |number: u32| {
        format!("config_start_sec=0\necho {number} >{}\nexec sleep 1000000", fifo.shown())
    };
    let path = s.script("web", &version(1));
    let pid = s.up("web");
    assert_eq!(fifo.number(), 1);
    // In place, as some editors do, then by renaming, as others do.
    fs::write(&path, format!("#!/bin/sh\n{}\n", version(2))).unwrap();
    assert_eq!((s.status("web").as_str(), s.pid("web")), ("running", pid));
    s.ok(&["restart", "web"]);
    assert_eq!(fifo.number(), 2);
    let pid = s.wait_phase("web", Phase::Run).pid.unwrap();
    s.script("web", &version(3));
    assert_eq!((s.status("web").as_str(), s.pid("web")), ("running", pid));
    signal(pid, Signal::SIGKILL);
    s.wait_raised("web", pid);
    assert_eq!(fifo.number(), 3);
}

#[test]
fn a_script_deleted_while_it_runs() {
    let s = Sandbox::new();
    let fifo = s.fifo("read");
    let body = format!(
        "config_start_sec=0\nconfig_max_retry=0\necho $$ >{}\nexec sleep 1000000",
        fifo.shown()
    );
    let path = s.d.join("web");
    // Not before the shell has read it.
    let up = || {
        s.script("web", &body);
        let pid = s.up("web");
        assert_eq!(fifo.number(), pid);
        pid
    };
    let pid = up();
    fs::remove_file(&path).unwrap();
    assert_eq!((s.status("web").as_str(), s.pid("web")), ("running", pid));
    assert!(s.ok(&["status"]).starts_with("web                running "));
    s.ok(&["stop", "web"]);
    wait_gone(pid);
    // It falls: nothing to raise.
    let pid = up();
    fs::remove_file(&path).unwrap();
    signal(pid, Signal::SIGKILL);
    let record = s.wait_phase("web", Phase::Error);
    assert_eq!(record.exit, Some(127));
    assert!(s.messages().contains("no such service"), "{}", s.messages());
    // A restart could not raise it either, says so, and ends nothing.
    s.ok(&["clean", "web"]);
    let pid = up();
    fs::remove_file(&path).unwrap();
    let done = s.reraise(&["restart", "web"]).expect(4);
    assert!(done.err.starts_with("reraise: web: ") && is_alive(pid), "{done:?}");
    // Its worker finds out when it is too late.
    signal(s.worker("web"), Signal::SIGUSR2);
    wait_gone(pid);
    s.wait_phase("web", Phase::Error);
    assert_eq!(s.status("web"), "ERROR");
    s.reraise(&["start", "web"]).expect(4);
}
