//! Disks that are full, hang or vanish: no service is held up by them longer than its
//! script says, and supervision never is.

use std::fs::DirBuilder;
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{count_in_order, find_logger, kill_logger, logger, rotated, whole};
use crate::support::{
    SLEEPER, Sandbox, is_root, signal, skip_unless_root, skipped, wait_for, wait_gone,
};

/// A file system of its own, in memory; it is gone when this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path, size: &str) -> Option<Self> {
        if skip_unless_root("a small file system") {
            return None;
        }
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size},mode=755");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).output();
        if !mounted.is_ok_and(|o| o.status.success()) {
            skipped("a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(path.to_owned()))
    }

    fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &options])
            .arg(&self.0)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// A service that says `count` numbers and then `done` on a FIFO, and stays.
fn counter(s: &Sandbox, keys: &str, count: usize) -> crate::support::Fifo {
    let done = s.fifo("done");
    let body = format!(
        "config_start_sec=0\n{keys}\nseq 1 {count}\necho done >{}\nexec sleep 1000000",
        done.shown()
    );
    s.script("web", &body);
    done
}

/// Starts it. The disk may be full before that is said.
fn start(s: &Sandbox) {
    s.reraise(&["start", "web"]).expect(0).prints("web: start\n");
}

#[test]
fn log_full_drop_oldest_makes_room() {
    for time in ["none", "epoch"] {
        let s = Sandbox::new();
        let place = s.at("small");
        let Some(_small) = Mount::new(&place, "1m") else { return };
        let keys = format!(
            "config_log={}/log\nconfig_log_size=100k\nconfig_log_keep=1000\nconfig_log_time={time}",
            place.display()
        );
        let done = counter(&s, &keys, 400_000);
        start(&s);
        assert_eq!(done.line(), "done");
        let log = place.join("log");
        wait_for("the last line", || whole(&log).trim_ascii_end().ends_with(b"400000"));
        // What is there is the end of what was said, without a gap.
        let text = String::from_utf8(whole(&log)).unwrap();
        let said = |line: &str| line.split(' ').next_back().and_then(|word| word.parse().ok());
        let numbers: Vec<usize> = text.lines().filter_map(said).collect();
        assert!(numbers.len() > 10_000 && numbers.windows(2).all(|two| two[1] == two[0] + 1));
        wait_for("it to be said", || {
            s.ok(&["status", "--long", "web"]).contains(" bytes of older output made room")
        });
        s.ok(&["stop", "web"]);
    }
}

#[test]
fn log_full_drop_new_counts_what_is_lost_and_says_so_where_it_is_missing() {
    let s = Sandbox::new();
    let place = s.at("small");
    let Some(_small) = Mount::new(&place, "1m") else { return };
    let keys = format!("config_log={}/log\nconfig_log_full=drop-new", place.display());
    let ballast = place.join("ballast");
    let go = s.at("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let done = s.fifo("done");
    s.script(
        "web",
        &format!(
            "config_start_sec=0\n{keys}\nseq 1 300000\necho done >{}\nread x <{}\n\
             while :; do echo after; sleep 0.05; done",
            done.shown(),
            go.display()
        ),
    );
    fs::write(&ballast, vec![0; 500_000]).unwrap();
    start(&s);
    assert_eq!(done.line(), "done", "it was held up");
    // It is raised and stopped as always.
    let lost = || {
        let out = s.ok(&["status", "--json", "web"]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let output = &value["services"][0]["output"];
        (output["lost_lines"].as_u64().unwrap(), output["trouble"].as_str().map(str::to_owned))
    };
    wait_for("the loss to be known", || lost().0 > 10_000);
    assert!(lost().1.unwrap().contains("no space left on device"));
    let kept = whole(&place.join("log")).iter().filter(|&&b| b == b'\n').count() as u64;
    wait_for("all to be counted", || lost().0 + kept >= 299_999);
    fs::remove_file(&ballast).unwrap();
    fs::write(&go, "\n").unwrap();
    wait_for("the log to go on", || whole(&place.join("log")).ends_with(b"after\n"));
    let text = String::from_utf8_lossy(&whole(&place.join("log"))).into_owned();
    assert!(text.contains(" bytes) were dropped here\nafter\n"), "{}", &text[text.len() - 200..]);
    wait_for("the mend to be known", || lost().1.is_none());
    s.ok(&["stop", "web"]);
}

#[test]
fn where_only_the_records_disk_is_full_nothing_is_lost_or_removed() {
    let s = Sandbox::new();
    let Some(_small) = Mount::new(&s.p, "1m") else { return };
    let go = s.at("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let keys = "config_start_sec=0\nconfig_log_time=epoch\nconfig_log_size=1k";
    s.script(
        "web",
        &format!("{keys}\nseq 1 200\nread x <{}\nseq 201 400\nexec sleep 1000000", go.display()),
    );
    s.up("web");
    let log = s.l.join("web");
    let said = |last: &str| whole(&log).ends_with(format!(" {last}\n").as_bytes());
    wait_for("the first lines", || said("200"));
    let before = rotated(&log);
    // No file is much longer than it may be, times included.
    assert!(before.len() > 2);
    assert!(before.iter().all(|file| file.metadata().unwrap().len() < 1024 + 100));
    // As full as can be.
    let mut ballast = fs::File::create(s.p.join(".ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[0; 512]).is_ok() {}
    fs::write(&go, "\n").unwrap();
    wait_for("the rest", || said("400"));
    assert!(before.iter().all(|file| file.exists()));
    assert!(!s.ok(&["status", "--long", "web"]).contains("lost"));
    fs::remove_file(s.p.join(".ballast")).unwrap();
    s.ok(&["stop", "web"]);
}

#[test]
fn log_full_block_loses_nothing() {
    for time in ["none", "epoch"] {
        let s = Sandbox::new();
        let place = s.at("small");
        let Some(small) = Mount::new(&place, "1m") else { return };
        let keys = format!(
            "config_log={}/log\nconfig_log_full=block\nconfig_log_time={time}",
            place.display()
        );
        let done = counter(&s, &keys, 600_000);
        start(&s);
        wait_for("the trouble to be known", || {
            s.ok(&["status", "--long", "web"]).contains("no space left on device")
        });
        assert!(done.is_silent(std::time::Duration::from_millis(50)), "it is not held up");
        kill_logger(&s);
        assert!(small.remount("size=64m"));
        assert_eq!(done.line(), "done");
        s.ok(&["stop", "web"]);
        wait_for("the logger to end", || find_logger(&s).is_none());
        let mut numbers = Vec::new();
        for line in whole(&place.join("log")).split_inclusive(|&b| b == b'\n') {
            let from =
                if time == "none" { 0 } else { line.iter().position(|&b| b == b' ').unwrap() + 1 };
            numbers.extend_from_slice(&line[from..]);
        }
        assert_eq!(count_in_order(&numbers), 600_000, "{time}");
    }
}

#[test]
fn where_no_file_can_be_made_a_rotation_makes_room_and_goes_on() {
    let s = Sandbox::new();
    let place = s.at("small");
    let Some(_small) = Mount::new(&place, "8m,nr_inodes=8") else { return };
    let keys =
        format!("config_log={}/log\nconfig_log_size=1k\nconfig_log_keep=1000", place.display());
    let done = counter(&s, &keys, 5000);
    s.up("web");
    assert_eq!(done.line(), "done");
    let log = place.join("log");
    wait_for("the last line", || whole(&log).ends_with(b"\n5000\n"));
    let text = String::from_utf8(whole(&log)).unwrap();
    assert!(!text.contains("dropped"), "{text}");
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 200 && numbers.windows(2).all(|two| two[1] == two[0] + 1));
    s.ok(&["stop", "web"]);
}

#[test]
fn a_logger_that_nobody_can_find_any_more_ends() {
    let s = Sandbox::new();
    let place = s.at("small");
    let Some(_small) = Mount::new(&place, "64k") else { return };
    let keys = format!("config_log={}/log\nconfig_log_full=block", place.display());
    s.script("web", &format!("config_start_sec=0\n{keys}\nwhile :; do echo line; done"));
    start(&s);
    wait_for("the trouble to be known", || {
        s.ok(&["status", "--long", "web"]).contains("no space left on device")
    });
    let logger = logger(&s);
    s.ok(&["stop", "web"]);
    wait_for("the keeper to end", || s.find_keeper().is_none());
    // It waits for room.
    assert_eq!(find_logger(&s), Some(logger));
    fs::remove_dir_all(s.state()).unwrap();
    wait_gone(logger);
}

#[test]
fn a_read_only_log_is_reported_and_tried_again() {
    let s = Sandbox::new();
    let place = s.at("small");
    let Some(small) = Mount::new(&place, "4m") else { return };
    let keys = format!("config_log={}/log", place.display());
    let go = s.at("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body = format!(
        "config_start_sec=0\n{keys}\necho line\nread x <{}\n\
         while :; do echo more; sleep 0.02; done",
        go.display()
    );
    s.script("web", &body);
    s.up("web");
    let log = place.join("log");
    wait_for("a line", || whole(&log) == b"line\n");
    // Whoever has it open for writing keeps it from becoming so: the logger, for a moment.
    wait_for("it to be read-only", || small.remount("ro"));
    fs::write(&go, "\n").unwrap();
    wait_for("the trouble to be known", || {
        s.ok(&["status", "--long", "web"]).contains("read-only file system")
    });
    assert!(small.remount("rw"));
    wait_for("the log to go on", || whole(&log).windows(7).any(|part| part == b"dropped"));
    wait_for("the mend to be known", || !s.ok(&["status", "--long", "web"]).contains("is lost"));
}

#[test]
fn a_directory_that_is_removed_or_replaced_is_made_or_used_anew() {
    let s = Sandbox::new();
    s.script("web", "config_start_sec=0\nwhile :; do echo line; sleep 0.02; done");
    s.up("web");
    let log = s.l.join("web");
    let has_line =
        |directory: &Path| fs::read(directory.join("current")).is_ok_and(|t| !t.is_empty());
    wait_for("a line", || has_line(&log));
    fs::remove_dir_all(&log).unwrap();
    wait_for("it to be made anew", || has_line(&log));
    // Truncated by its user.
    let length = || fs::metadata(log.join("current")).map_or(0, |m| m.len());
    wait_for("some lines", || length() > 20);
    fs::write(log.join("current"), "").unwrap();
    wait_for("it to go on", || whole(&log).starts_with(b"line\n"));
    // The user's own link.
    let elsewhere = s.at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&log, s.at("old")).unwrap();
    symlink(&elsewhere, &log).unwrap();
    wait_for("it to be used", || has_line(&elsewhere));
    // A stranger's.
    if is_root() {
        fs::remove_file(&log).unwrap();
        let trap = s.at("trap");
        fs::create_dir(&trap).unwrap();
        symlink(&trap, &log).unwrap();
        std::os::unix::fs::lchown(&log, Some(65534), Some(65534)).unwrap();
        wait_for("it to be refused", || {
            s.ok(&["status", "--long", "web"]).contains("is a symbolic link of user 65534")
        });
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
    } else {
        fs::remove_file(&log).unwrap();
        fs::set_permissions(&s.l, Permissions::from_mode(0o555)).unwrap();
        wait_for("it to be refused", || {
            s.ok(&["status", "--long", "web"]).contains("permission denied")
        });
        fs::set_permissions(&s.l, Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(s.status("web"), "running");
}

#[test]
fn a_stranger_cannot_say_where_the_log_of_errors_is() {
    if skip_unless_root("a directory of another user") {
        return;
    }
    let s = Sandbox::new();
    let log = s.l.join("web");
    let trap = s.at("trap");
    fs::create_dir(&trap).unwrap();
    symlink(&trap, &log).unwrap();
    std::os::unix::fs::lchown(&log, Some(65534), Some(65534)).unwrap();
    let keys = "config_start_sec=0\nconfig_log_stderr=separate";
    s.script("web", &format!("{keys}\necho error >&2\nexec sleep 1000000"));
    s.reraise(&["start", "web"]).expect(0);
    wait_for("it to be refused", || {
        let said = s.ok(&["status", "--long", "web"]);
        said.contains("is a symbolic link of user 65534, 1 lines were dropped")
    });
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
    s.ok(&["stop", "web"]);
}

#[test]
fn a_log_is_not_kept_where_others_could_put_something_in_its_way() {
    let s = Sandbox::new();
    let shared = s.at("shared");
    fs::create_dir(&shared).unwrap();
    let keys = format!("config_start_sec=0\nconfig_log={}/log", shared.display());
    s.script("web", &format!("{keys}\nwhile :; do echo line; sleep 0.02; done"));
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let what = format!("{} can be changed by other users", shared.display());
    s.reraise(&["start", "web"]).expect(0).says(&what);
    wait_for("it to be refused", || s.ok(&["status", "--long", "web"]).contains(&what));
    assert!(!shared.join("log").exists());
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    wait_for("the log to be kept", || !whole(&shared.join("log")).is_empty());
    s.ok(&["stop", "web"]);
}

#[test]
fn where_no_file_may_be_made_the_log_grows_on() {
    if is_root() {
        skipped("root may make files everywhere");
        return;
    }
    let s = Sandbox::new();
    let done = counter(&s, "config_log_size=1k", 3000);
    let log = s.l.join("web");
    DirBuilder::new().mode(0o700).create(&log).unwrap();
    fs::write(log.join("current"), "").unwrap();
    fs::write(log.join(".current.idx"), "").unwrap();
    fs::set_permissions(&log, Permissions::from_mode(0o500)).unwrap();
    s.up("web");
    assert_eq!(done.line(), "done");
    wait_for("the last line", || whole(&log).ends_with(b"\n3000\n"));
    assert_eq!(count_in_order(&whole(&log)), 3000);
    assert!(s.ok(&["status", "--long", "web"]).contains("it cannot be rotated: permission denied"));
    fs::set_permissions(&log, Permissions::from_mode(0o700)).unwrap();
    s.ok(&["stop", "web"]);
}

#[test]
fn what_limits_a_service_does_not_limit_its_log() {
    let s = Sandbox::new();
    s.script("web", SLEEPER);
    s.script(
        "chat",
        "config_start_sec=0\nyes 'a line of some length' | head -n 2000\nexec sleep 1000000",
    );
    // The keeper, and with it the logger, is started where files may have 4 kB.
    s.shell("ulimit -S -f 8; \"$RERAISE\" start web").expect(0);
    s.up("chat");
    wait_for("all lines", || s.log("chat").lines().count() == 2000);
    let limits = fs::read_to_string(format!("/proc/{}/limits", s.pid("web"))).unwrap_or_default();
    let size = limits.lines().find(|line| line.starts_with("Max file size")).unwrap_or_default();
    assert!(size.contains(" 4096 ") || cfg!(not(target_os = "linux")), "{limits}");
    s.ok(&["stop", "*"]);
}

#[test]
fn while_the_logger_hangs_services_are_raised_and_stopped() {
    let s = Sandbox::new();
    // As it hangs in a write to a disk that does not answer: it can do nothing, and
    // whoever continues it changes nothing.
    let hang = s.at("hang");
    let Some(mut disk) = Hung::mount(&s, &hang) else { return };
    let body = |more: &str| format!("config_start_sec=0\n{more}\necho said\nexec sleep 1000000");
    s.script("bad", &body(&format!("config_log={}/log", hang.display())));
    s.script("good", &body(""));
    s.up("good");
    wait_for("a line", || s.log("good") == "said\n");
    disk.stop();
    assert_eq!(s.reraise(&["start", "bad"]).expect(0).out, "bad: start\n");
    for name in ["bad", "good"] {
        let pid = s.pid(name);
        signal(pid, Signal::SIGKILL);
        s.wait_raised(name, pid);
        wait_for("it to run", || s.status(name) == "running");
    }
    assert!(s.ok(&["stop", "*"]).lines().count() == 2);
    wait_for("both to be gone", || s.status("bad") == "not-running");
    disk.go_on();
    wait_for("everything to be gone", || s.processes().iter().all(|pid| *pid == disk.pid()));
    assert!(rotated(&hang.join("log")).is_empty());
}

/// A FUSE file system whose server can be stopped.
struct Hung {
    path: PathBuf,
    server: std::process::Child,
}

impl Hung {
    fn mount(s: &Sandbox, path: &Path) -> Option<Self> {
        if skip_unless_root("a FUSE file system") {
            return None;
        }
        let below = s.at("below");
        fs::create_dir(&below).unwrap();
        fs::create_dir(path).unwrap();
        let mut command = Command::new("bindfs");
        command.args(["-f", "--no-allow-other"]).arg(&below).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(server) = command.spawn() else {
            skipped("bindfs is not installed");
            return None;
        };
        let mut hung = Self { path: path.to_owned(), server };
        let is_mounted = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            mounts.contains(&*path.to_string_lossy())
        };
        let mut has_ended = false;
        wait_for("the mount", || {
            has_ended = hung.server.try_wait().unwrap().is_some();
            is_mounted() || has_ended
        });
        if has_ended {
            skipped("FUSE is not available");
            return None;
        }
        Some(hung)
    }

    fn pid(&self) -> i32 {
        self.server.id().cast_signed()
    }

    fn stop(&mut self) {
        signal(self.pid(), Signal::SIGSTOP);
    }

    fn go_on(&mut self) {
        signal(self.pid(), Signal::SIGCONT);
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), Signal::SIGCONT);
        let _ = Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
