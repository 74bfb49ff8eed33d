//! Services of another user: an ordinary user commands them through the real
//! `sudo`, root by giving up its privileges.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use reraise::backend::native;
use reraise::lock::{self, Holder};
use reraise::record::Record;

use crate::people::Person;
use crate::skip;
use crate::support::{self, Done, Fifo, Sandbox, is_alive, wait_for, wait_gone, wait_some};

/// Directories of a user who may become another one.
struct Scene {
    s: Sandbox,
    user: Person,
    other: Person,
    /// A directory of records that belongs to the other user.
    theirs: PathBuf,
    program: PathBuf,
}

impl Scene {
    /// `None`, and said why, where there are no such users.
    fn new() -> Option<Self> {
        let Some(user) = Person::ordinary() else {
            skip("there is no user reraise-ci (RERAISE_TEST_USER); ci/setup.sh makes it");
            return None;
        };
        let Some(other) = Person::of("RERAISE_TEST_OTHER", "app1user") else {
            skip("there is no user app1user (RERAISE_TEST_OTHER); ci/setup.sh makes it");
            return None;
        };
        let s = Sandbox::new();
        for path in [s.at("."), s.at("home"), s.d.clone(), s.l.clone(), s.p.clone()] {
            user.give(&path);
        }
        // Not in a directory of the user's; with the sandbox's name in its own, by
        // which its processes are known.
        let theirs = PathBuf::from(format!(
            "{}-theirs",
            s.at("").display().to_string().trim_end_matches('/')
        ));
        let scene = Self { s, user, other, theirs, program: support::reraise().into() };
        let is_allowed = scene.as_other(&format!("test -x {}", scene.program.display()));
        if is_allowed.code != 0 {
            skip(&format!(
                "{} may not execute {} as {}: {}",
                scene.user.name,
                scene.program.display(),
                scene.other.name,
                is_allowed.err
            ));
            return None;
        }
        scene.as_other(&format!("umask 022; mkdir {}", scene.theirs.display())).expect(0);
        Some(scene)
    }

    /// Runs a command as the user who commands.
    fn run(&self, command: &mut Command) -> Done {
        self.s.run(self.user.run(command))
    }

    /// Runs something as the other user.
    fn as_other(&self, script: &str) -> Done {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "-u", &self.other.name, "--", "/bin/sh", "-c", script]).current_dir("/");
        self.run(&mut sudo)
    }

    /// The same, which must succeed, while a directory is open to everybody.
    fn in_open(&self, dir: &Path, script: &str) {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
        let done = self.as_other(script);
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        done.expect(0);
    }

    /// A starter script that belongs to the other user.
    fn script(&self, name: &str, body: &str) {
        let (ours, path) = (self.s.script(name, body), self.s.d.join(name));
        let body = ours.with_file_name("..body");
        fs::rename(&ours, &body).unwrap();
        let copy = format!("umask 022; cp {} {1} && chmod 755 {1}", body.display(), path.display());
        self.in_open(&self.s.d, &copy);
        fs::remove_file(&body).unwrap();
        assert_eq!(fs::metadata(path).unwrap().uid(), self.other.uid);
    }

    /// `reraise ARGUMENTS`; the records are in a directory of the other user.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.s.program(&self.program);
        command.args(arguments).env("RERAISE_PIDDIR", &self.theirs);
        command
    }

    fn reraise(&self, arguments: &[&str]) -> Done {
        self.run(&mut self.command(arguments))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let done = self.reraise(arguments).expect(0);
        assert_eq!(done.err, "", "{arguments:?}");
        done.out
    }

    fn record(&self, name: &str) -> Option<Record> {
        Record::read(&self.theirs.join(name), &[self.other.uid]).unwrap()
    }

    #[track_caller]
    fn pids(&self, name: &str) -> (i32, i32) {
        wait_some("pid and worker in the record", || {
            let record = self.record(name)?;
            Some((record.pid?, record.worker?))
        })
    }

    /// The log where it is when the other user cannot write `$RERAISE_LOGDIR`.
    fn log(&self, name: &str) -> String {
        let state = self.theirs.join(format!(".reraise-{}", self.other.uid));
        self.as_other(&format!("cat {}/log/{name}/current", state.display())).expect(0).out
    }

    /// A FIFO that the other user can write to.
    fn fifo(&self) -> Fifo {
        self.s.fifo("fifo")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // As whom they belong to; the sandbox cannot.
        let end = Instant::now() + support::LIMIT;
        while Instant::now() < end {
            let pids: Vec<String> = self.s.processes().iter().map(i32::to_string).collect();
            if pids.is_empty() {
                break;
            }
            let pids = pids.join(" ");
            self.as_other(&format!("kill -STOP {pids}; kill -KILL {pids}"));
        }
        self.as_other(&format!("rm -rf {}", self.theirs.display()));
    }
}

/// The owner of a process.
fn uid_of(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

/// A script that says as whom it runs.
fn reporter(fifo: &Fifo) -> String {
    let shown = fifo.shown();
    format!(
        "config_start_sec=0\nexec 2>&1\necho to the log\n\
         echo \"$(id -un) $(id -gn) $HOME $USER $LOGNAME $(pwd)\" >{shown}\nexec sleep 1000000"
    )
}

#[test]
fn another_users_script_runs_as_that_user() {
    let Some(scene) = Scene::new() else { return };
    let (fifo, Person { name, home, uid, .. }) = (scene.fifo(), scene.other.clone());
    scene.script("web", &reporter(&fifo));
    assert_eq!(scene.reraise(&["status", "web"]).code, 3);
    assert_eq!(scene.ok(&["start", "web"]), "web: start\n");
    let group = fs::metadata(scene.s.d.join("web")).unwrap().gid();
    let group = nix::unistd::Group::from_gid(group.into()).unwrap().unwrap().name;
    let place = fs::canonicalize(scene.s.at(".")).unwrap();
    let expected = format!("{name} {group} {home} {name} {name} {}", place.display());
    assert_eq!(fifo.line(), expected);
    let (pid, worker) = scene.pids("web");
    let keeper = native::processes().unwrap().iter().find(|p| p.pid == worker).unwrap().ppid;
    for process in [pid, worker, keeper] {
        assert_eq!(uid_of(process), uid, "process {process}");
    }
    // The caller sees it, and so does everybody.
    wait_for("everybody to see it run", || {
        scene.ok(&["status", "web"]).starts_with("web                running         # (pid=")
    });
    assert!(scene.ok(&["status", "--long", "web"]).contains(", processes=1, "));
    assert!(scene.ok(&["list"]).starts_with(&format!("web                  # user={name}, ")));
    assert_eq!(scene.ok(&["start", "web"]), "web: skip (because already running)\n");
    assert_eq!(scene.log("web"), "to the log\n");

    assert_eq!(scene.ok(&["restart", "web"]), format!("web: restart    # (worker-pid={worker})\n"));
    assert_eq!(fifo.line(), expected);
    let (restarted, _) = scene.pids("web");
    assert!(restarted != pid && !is_alive(pid));

    // Its worker, then its keeper, then both at once.
    for victims in [vec![worker], vec![keeper]] {
        let list: Vec<String> = victims.iter().map(i32::to_string).collect();
        scene.as_other(&format!("kill -9 {}", list.join(" "))).expect(0);
        victims.into_iter().for_each(wait_gone);
        let new = wait_some("a worker", || {
            let (pid, worker) = scene.pids("web");
            assert_eq!(pid, restarted);
            is_alive(worker).then_some(worker)
        });
        assert_eq!(uid_of(new), uid);
        assert!(
            scene.ok(&["status", "web"]).contains(&format!("running         # (pid={restarted}"))
        );
    }
    // Raised by whoever supervises it now.
    scene.as_other(&format!("kill -9 {restarted}")).expect(0);
    assert_eq!(fifo.line(), expected);

    let (pid, worker) = scene.pids("web");
    assert_eq!(scene.ok(&["stop", "web"]), format!("web: stop    # (worker-pid={worker})\n"));
    assert!(!is_alive(pid));
    scene.reraise(&["status", "web"]).expect(3);
    wait_for("the end of worker and keeper", || scene.s.processes().is_empty());
    assert_eq!(scene.ok(&["stop", "web"]), "web: skip (because not running)\n");
    scene.reraise(&["restart", "web"]).expect(3).says("restart does not start what is not running");
}

#[test]
fn what_is_advised_for_another_users_service_works_when_pasted() {
    let Some(scene) = Scene::new() else { return };
    scene.script("web", "config_start_sec=0\necho to the log\nexec sleep 1000000");
    scene.ok(&["start", "web"]);
    wait_for("the log", || scene.log("web") == "to the log\n");
    for (verb, code, told) in
        [("logs", 6, "to the log\n"), ("events", 6, " starting "), ("why", 0, "(reraise start, ")]
    {
        let done = scene.reraise(&[verb, "web"]).expect(code);
        let text = done.out + &done.err;
        let line = text.lines().find_map(|line| Some(&line[line.find("sudo -u ")?..]));
        // In a shell that knows nothing of ours.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line.expect(&text)]).env_clear().env("PATH", "/usr/bin:/bin");
        let done = scene.run(shell.current_dir("/")).expect(0).says_out(told);
        assert_eq!(done.err, "", "{verb}");
    }
    scene.ok(&["stop", "web"]);
}

#[test]
fn several_owners_and_what_fails_keep_their_exit_codes() {
    let Some(scene) = Scene::new() else { return };
    scene.script("bad", "config_start_sec=60\nexit 7");
    scene.script("good", support::SLEEPER);
    scene.s.script("mine", support::SLEEPER);
    scene.user.give(&scene.s.d.join("mine"));
    scene
        .reraise(&["start", "--wait=20", "bad"])
        .expect(1)
        .says("bad: failed to start: exit code 7");
    scene.reraise(&["status", "bad"]).expect(3);
    assert!(
        scene.reraise(&["status"]).out.contains("bad                ERROR           # (exitcode=7")
    );
    assert_eq!(scene.ok(&["clean"]), "bad: clean\n");
    assert_eq!(scene.ok(&["clean"]), "");
    // Where each has a place.
    let both = |arguments: &[&str]| {
        let mut command = scene.command(arguments);
        command.env_remove("RERAISE_PIDDIR");
        command
    };
    let place = |person: &Person| PathBuf::from(format!("/var/tmp/reraise-{}", person.uid));
    // Somebody may work there.
    let people = [&scene.user, &scene.other];
    let new: Vec<_> = people.into_iter().filter(|person| !place(person).exists()).collect();
    let started = scene.run(&mut both(&["start", "good", "mine"])).expect(0);
    assert_eq!(started.out, "good: start\nmine: start\n");
    wait_for("both to run", || {
        let status = scene.run(&mut both(&["status"])).expect(0);
        status.out.matches(" running ").count() == 2
    });
    let stopped = scene.run(&mut both(&["stop", "good", "mine"])).expect(0);
    assert_eq!(stopped.out.lines().count(), 2);
    for person in new {
        wait_for("the end of the keeper", || {
            let lock = place(person).join(format!(".reraise-{}/keeper.lock", person.uid));
            !matches!(lock::holder_of(&lock, lock::ALIVE), Ok(Holder::Pid(_)))
        });
        let remove = format!("rm -rf {}", place(person).display());
        if *person == scene.other {
            scene.as_other(&remove).expect(0);
        } else {
            scene.run(&mut scene.s.shell_command(&remove)).expect(0);
        }
    }
}

#[test]
fn without_a_rule_the_error_is_the_rule() {
    let Some(scene) = Scene::new() else { return };
    // Root's programs are services of root, whom nobody may become.
    let mut command = scene.command(&["--dir", "/usr/bin", "start", "true"]);
    let done = scene.run(&mut command).expect(6);
    let (user, program) = (&scene.user.name, scene.program.display());
    let rule = format!(
        "    add this line with visudo: {user} ALL=(root) NOPASSWD: {program}   \
         # it lets {user} do whatever root can\n"
    );
    assert!(done.err.ends_with(&rule), "{done:#?}");
    assert!(done.err.starts_with(&format!(
        "reraise: true: belongs to root, and sudo does not let {user} act as it (sudo: "
    )));
    assert_eq!(done.err.lines().count(), 2, "{done:#?}");
    let line = rule.trim_start().strip_prefix("add this line with visudo: ").unwrap();
    let file = scene.s.at("sudoers");
    fs::write(&file, line).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
    let mut visudo = scene.s.program("/usr/sbin/visudo");
    scene.s.run(visudo.arg("-cqf").arg(&file)).expect(0);

    let mut command = scene.command(&["--dir", "/usr/bin", "start", "true"]);
    let empty = scene.s.at("home");
    let done = scene.run(command.env("PATH", empty)).expect(6);
    assert!(done.err.starts_with("reraise: true: belongs to root, and sudo is not installed\n"));
    assert!(done.err.contains(&format!("install sudo and add this line with visudo: {user} ALL=")));
}

#[test]
fn what_the_owner_cannot_reach_is_named() {
    let Some(scene) = Scene::new() else { return };
    scene.script("web", support::SLEEPER);
    // A home that only its user may enter, with the scripts in it.
    let home = scene.s.at("closed");
    fs::create_dir(&home).unwrap();
    let dir = home.join("d");
    fs::rename(&scene.s.d, &dir).unwrap();
    scene.user.give(&home);
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    let mut command = scene.command(&["start", "web"]);
    let done = scene.run(command.env("RERAISE_DIR", &dir)).expect(6);
    let advice = format!("\n    let others pass through it: chmod o+x {}\n", home.display());
    assert!(done.err.ends_with(&advice), "{done:#?}");

    // The program itself.
    let bin = home.join("bin");
    fs::create_dir(&bin).unwrap();
    for program in [support::reraise(), support::auto_reraise()] {
        let copy = bin.join(Path::new(&program).file_name().unwrap());
        fs::copy(&program, &copy).unwrap();
    }
    scene.user.give(&bin);
    fs::rename(&dir, &scene.s.d).unwrap();
    let mut command = scene.s.program(bin.join("reraise"));
    command.args(["start", "web"]).env("RERAISE_PIDDIR", &scene.theirs);
    let done = scene.run(&mut command).expect(6);
    let what = format!(
        "reraise: web: belongs to {}, who cannot execute {}\n",
        scene.other.name,
        bin.join("reraise").display()
    );
    assert!(done.err.starts_with(&what), "{done:#?}");
    assert!(done.err.contains("cargo install --root /usr/local reraise"), "{done:#?}");
}

#[test]
fn a_directory_that_the_owner_may_not_enter_is_left() {
    let Some(scene) = Scene::new() else { return };
    let fifo = scene.fifo();
    scene.script("web", &reporter(&fifo));
    let closed = scene.s.at("closed");
    fs::create_dir(&closed).unwrap();
    scene.user.give(&closed);
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let done = scene.run(scene.command(&["start", "web"]).current_dir(&closed)).expect(0);
    assert_eq!(done.out, "web: start\n");
    let note = format!(
        "reraise: {}: {} may not enter it, so what is started now runs in /\n    ",
        closed.display(),
        scene.other.name
    );
    assert!(done.err.starts_with(&note), "{done:#?}");
    assert!(fifo.line().ends_with(" /"));
    // What does not start anything does not care.
    let done = scene.run(scene.command(&["stop", "web"]).current_dir(&closed)).expect(0);
    assert_eq!(done.err, "");
}

#[test]
fn the_directories_obey_their_owners() {
    let Some(scene) = Scene::new() else { return };
    let (user, other) = (scene.user.uid, scene.other.uid);
    scene.script("web", support::SLEEPER);
    // The caller could exchange records in a directory of theirs.
    let p = &scene.s.p;
    let done = scene.run(scene.command(&["start", "web"]).env("RERAISE_PIDDIR", p)).expect(6);
    assert!(
        done.err.starts_with(&format!("reraise: {}: belongs to user {user}, who", p.display()))
    );
    assert!(done.err.contains(&format!("chown {other} {}", p.display())), "{done:#?}");
    // Records that cannot be seen are no services that do not run.
    scene.ok(&["start", "web"]);
    scene.as_other(&format!("chmod 700 {}", scene.theirs.display())).expect(0);
    let done = scene.reraise(&["status", "web"]);
    if nix::unistd::geteuid().is_root() || done.code != 0 {
        let done = done.expect(4).says("web: cannot read its record: permission denied");
        assert_eq!(done.out, "web                unknown\n");
    }
    scene.as_other(&format!("chmod 755 {}", scene.theirs.display())).expect(0);
    wait_for("it to run", || scene.ok(&["status", "web"]).contains(" running "));
    scene.ok(&["stop", "web"]);
    // A third user's directory of scripts.
    let mut direct = scene.s.program("sudo");
    direct.args(["-n", "-u", &scene.other.name, "--"]).arg(&scene.program).arg("--dir");
    direct.arg(&scene.s.d).arg("--piddir").arg(&scene.theirs).args(["start", "web"]);
    scene.run(&mut direct).expect(0);
    scene.ok(&["stop", "web"]);
    let unset = format!(
        "env -u SUDO_UID {} --dir {} --piddir {} start web",
        scene.program.display(),
        scene.s.d.display(),
        scene.theirs.display()
    );
    let done = scene.as_other(&unset).expect(6);
    let what =
        format!("{}: belongs to user {user}, who could change what is in it", scene.s.d.display());
    assert!(done.err.contains(&what), "{done:#?}");
}

#[test]
fn logs_go_where_the_owner_may_write() {
    let Some(scene) = Scene::new() else { return };
    let fifo = scene.fifo();
    scene.script("web", &reporter(&fifo));
    fs::set_permissions(&scene.s.l, Permissions::from_mode(0o1777)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        Person::me().give(&scene.s.at("."));
        Person::me().give(&scene.s.l);
    }
    let state = scene.theirs.join(format!(".reraise-{}", scene.other.uid));
    scene.ok(&["start", "web"]);
    fifo.line();
    // The owner of a sticky directory could move away what is in it.
    let log = if is_root { scene.s.l.clone() } else { state.join("log") }.join("web/current");
    wait_for("its output", || {
        scene.as_other(&format!("cat {}", log.display())).out == "to the log\n"
    });
    scene.ok(&["stop", "web"]);
    if !is_root {
        return;
    }
    scene.as_other(&format!("rm -r {}", scene.s.l.join("web").display())).expect(0);
    // Somebody else's link leads nowhere.
    std::os::unix::fs::symlink(&scene.theirs, scene.s.l.join("web")).unwrap();
    scene.user.give(&scene.s.l.join("web"));
    let what = "web is a symbolic link of user";
    scene.reraise(&["start", "web"]).expect(0).says(what);
    fifo.line();
    wait_for("the logger to say so", || {
        let messages = scene.as_other(&format!("cat {}/messages", state.display())).out;
        messages.contains("cannot write its log") && messages.contains(what)
    });
    assert!(!scene.theirs.join("current").exists());
}

#[test]
fn root_gives_up_its_privileges() {
    let Some(mut scene) = Scene::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give up root's privileges");
        return;
    }
    let fifo = scene.fifo();
    let shown = fifo.shown();
    scene.script(
        "web",
        &format!(
            "config_start_sec=0\n\
             {{ id -u; id -g; id -G; echo \"$HOME $USER $LOGNAME $SHELL\"; pwd; }} >{shown}\n\
             grep -E '^(Uid|Gid|CapEff|CapPrm):' /proc/self/status >{shown}\nexec sleep 1000000"
        ),
    );
    let Person { name, uid, gid, home, .. } = scene.other.clone();
    scene.user = Person::me();
    // A directory of an ordinary user is no place for root to take scripts from.
    let done = scene.reraise(&["start", "web"]).expect(6);
    assert!(done.err.contains("who could change what is in it"), "{done:#?}");
    for path in [scene.s.at("."), scene.s.d.clone()] {
        scene.user.give(&path);
    }
    let done = scene.run(scene.command(&["start", "web"]).current_dir("/root")).expect(0);
    let lines: Vec<String> = (0..9).map(|_| fifo.line()).collect();
    let ids = scene.s.run(Command::new("id").args(["-G", &name])).out;
    assert_eq!(lines[..3], [uid.to_string(), gid.to_string(), ids.trim().to_owned()]);
    assert_eq!(lines[3], format!("{home} {name} {name} /bin/bash"));
    assert!(
        done.err.contains("/root: app1user may not enter it") == (lines[4] == "/"),
        "{done:#?}"
    );
    assert_eq!(lines[5], format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(lines[6], format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}"));
    assert!(lines[7..].iter().all(|line| line.ends_with("\t0000000000000000")), "{lines:?}");
    wait_for("it to run", || scene.ok(&["status", "web"]).contains(" running "));
    scene.ok(&["restart", "web"]);
    assert_eq!(fifo.line(), uid.to_string());
    scene.ok(&["stop", "web"]);
    nothing_of_roots_is_handed_on(&scene);

    // Nobody's: there are no groups to take.
    let script = scene.s.script("none", support::SLEEPER);
    std::os::unix::fs::lchown(&script, Some(3_000_000_123), None).unwrap();
    let done = scene.reraise(&["start", "none"]).expect(6);
    let what = "reraise: none: belongs to user 3000000123, who has no account here\n";
    assert!(done.err.starts_with(what), "{done:#?}");
}

/// What root's shell had open: a terminal, say, at which somebody types a password.
fn nothing_of_roots_is_handed_on(scene: &Scene) {
    scene.script("slow", "config_start_sec=1000\nexec sleep 1000000");
    let secret = scene.s.at("secret");
    fs::write(&secret, "secret").unwrap();
    let mut command = scene.s.program("/bin/sh");
    command.args(["-c", "exec 9<\"$1\" <\"$1\"; exec \"$2\" start --wait slow", "sh"]);
    command.arg(&secret).arg(&scene.program).env("RERAISE_PIDDIR", &scene.theirs);
    let waiting = support::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let pid = waiting.id().cast_signed();
    // It runs as the other user by now, and waits.
    scene.pids("slow");
    let mut theirs = native::children(pid).unwrap();
    theirs.retain(|&pid| owner_of(pid) == scene.other.uid);
    assert_eq!(theirs.len(), 1, "{theirs:?}");
    for pid in theirs {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets: Vec<_> = open.map(|e| fs::read_link(e.unwrap().path()).unwrap()).collect();
        assert!(!targets.contains(&secret), "{targets:?}");
    }
    scene.ok(&["stop", "slow"]);
    support::finish(waiting, &command).expect(1).says("stopped meanwhile");
}

fn owner_of(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

#[test]
fn users_share_a_sticky_directory_of_roots() {
    let Some(scene) = Scene::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can make a directory of root's");
        return;
    }
    let p = &scene.s.p;
    Person::me().give(p);
    Person::me().give(&scene.s.at("."));
    fs::set_permissions(p, Permissions::from_mode(0o1777)).unwrap();
    scene.script("web", support::SLEEPER);
    scene.s.script("mine", support::SLEEPER);
    scene.user.give(&scene.s.d.join("mine"));
    let command = |arguments: &[&str]| {
        let mut command = scene.command(arguments);
        command.env("RERAISE_PIDDIR", p);
        command
    };
    let run = |arguments: &[&str]| scene.run(&mut command(arguments));
    assert_eq!(run(&["start", "web", "mine"]).expect(0).out, "web: start\nmine: start\n");
    wait_for("both to run", || run(&["status"]).expect(0).out.matches(" running ").count() == 2);
    // Whoever has no script of that name has no business with the record.
    let empty = scene.s.at("home");
    let done = scene.run(command(&["status"]).env("RERAISE_DIR", &empty)).expect(0);
    assert_eq!((done.out.contains("web"), done.err.as_str()), (false, ""), "{done:#?}");
    let done = scene.run(command(&["status", "web"]).env("RERAISE_DIR", &empty)).expect(4);
    done.says("web: no such service");
    run(&["stop", "web", "mine"]).expect(0);

    // A record that somebody has planted cannot be replaced there, and is not believed.
    let planted = p.join("mine");
    fs::write(&planted, format!("RUN - {} 1 0\n", std::process::id())).unwrap();
    scene.other.give(&planted);
    let done = run(&["status", "mine"]);
    done.expect(3).says(&format!("mine: its record belongs to user {}", scene.other.uid));
    let done = run(&["start", "mine"]).expect(6).says("mine: its record belongs to user");
    assert!(done.err.ends_with(&format!("rm {}), or use another --piddir\n", planted.display())));
}
