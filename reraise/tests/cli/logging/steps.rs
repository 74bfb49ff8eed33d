//! The logger is killed before each of its calls that change something, in turn.
//! Whatever the moment, the next one goes on: each line once and in order, each with
//! the run that said it, and nothing is left behind.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use reraise::backend::Exit;
use reraise::logger::names;

use super::runs::runs;
use super::{count_in_order, find_logger, logger, rotated, whole};
use crate::steps::{Call, End, Traced};
use crate::support::{LIMIT, Sandbox, pause, say, wait_for, wait_some};

/// Whether somebody else can tell that this call was made.
fn is_change(&Call { number, arguments }: &Call) -> bool {
    match number {
        libc::SYS_openat => arguments[2] & libc::O_CREAT as u64 != 0,
        // Of a pipe, that is: what is read elsewhere stays.
        libc::SYS_read
        | libc::SYS_splice
        | libc::SYS_tee
        | libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_ftruncate
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat
        | libc::SYS_mkdirat
        | libc::SYS_clone
        | libc::SYS_clone3 => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename | libc::SYS_unlink | libc::SYS_mkdir | libc::SYS_vfork => true,
        _ => false,
    }
}

/// Bytes of a stage in which nothing stands.
const STAGE_HEAD: u64 = 64;
/// Lines that are said at a time.
const SAID: usize = 60;

/// A service that says numbers when it is told to.
struct Scene {
    s: Sandbox,
    ear: fs::File,
    said: usize,
}

impl Scene {
    fn new(keys: &str) -> Self {
        let s = Sandbox::new();
        let ear = s.at("ear");
        nix::unistd::mkfifo(&ear, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opened = fs::OpenOptions::new().read(true).write(true).open(&ear).unwrap();
        let body = format!(
            "config_start_sec=0\nconfig_log_size=100\nconfig_log_keep=100000\n{keys}\n\
             while :; do\nread -r from to then <{}\nseq $from $to\n$then\ndone",
            ear.display()
        );
        s.script("web", &body);
        s.up("web");
        let mut scene = Self { s, ear: opened, said: 0 };
        // A first word, so that there is a log.
        scene.say(":");
        wait_for("the first lines", || scene.is_complete());
        scene
    }

    fn log(&self) -> PathBuf {
        self.s.l.join("web")
    }

    /// Some more numbers, and then this command.
    fn say(&mut self, then: &str) {
        let (from, to) = (self.said + 1, self.said + SAID);
        self.said = to;
        (&self.ear).write_all(format!("{from} {to} {then}\n").as_bytes()).unwrap();
    }

    /// What was said, without the times before the lines.
    fn text(&self) -> Vec<u8> {
        let text = whole(&self.log());
        let is_stamped = text.starts_with(b"@");
        let lines = text.split_inclusive(|&b| b == b'\n');
        lines
            .flat_map(|line| line.get(if is_stamped { 26 } else { 0 }..).unwrap_or(b""))
            .copied()
            .collect()
    }

    fn is_complete(&self) -> bool {
        self.text().ends_with(format!("\n{}\n", self.said).as_bytes())
    }

    /// The logger is killed before the n-th change while all this happens; `None`
    /// where that is not permitted.
    fn kill(
        &mut self,
        calls: usize,
        then: &str,
        mut is_enough: impl FnMut(&Self) -> bool,
    ) -> Option<End> {
        let old = logger(&self.s);
        let traced = Traced::stop(old)?;
        self.say(then);
        let end = traced.kill_at_one(is_change, calls, || self.is_complete() && is_enough(self));
        if end == End::Killed {
            wait_some("another logger", || find_logger(&self.s).filter(|&new| new != old));
        }
        Some(end)
    }

    /// All lines are there, once.
    fn check(&self, calls: usize) {
        wait_for(&format!("all lines: call {calls}"), || self.is_complete());
        assert_eq!(count_in_order(&self.text()), self.said, "call {calls}");
        for file in rotated(&self.log()) {
            assert!(fs::read(&file).unwrap().ends_with(b"\n"), "call {calls}: {}", file.display());
        }
        wait_for(&format!("nothing to be left: call {calls}"), || self.leftovers().is_empty());
    }

    /// What belongs to no file, or was to be gone.
    fn leftovers(&self) -> Vec<String> {
        let there = |path: PathBuf| fs::read_dir(path).unwrap().map(|e| e.unwrap());
        let mut left = Vec::new();
        let files = names::all(&self.log()).unwrap();
        for entry in there(self.log()) {
            let name = entry.file_name().into_string().unwrap();
            let of = name.strip_prefix('.').and_then(|name| name.strip_suffix(".idx"));
            let is_known = of.is_some_and(|of| files.contains(&self.log().join(of)));
            if name.starts_with('.') && !is_known {
                left.push(name);
            }
        }
        for entry in there(self.s.state().join("s/web")) {
            let name = entry.file_name().into_string().unwrap();
            let is_stage =
                name.starts_with("stage") && entry.metadata().unwrap().len() > STAGE_HEAD;
            if is_stage || name.ends_with(".new") {
                left.push(name);
            }
        }
        left
    }

    /// Nothing at all is left.
    fn end(self, calls: usize, least: usize) {
        say(&format!("{calls} calls"));
        assert!(calls >= least, "only {calls} calls");
        self.s.ok(&["stop", "*"]);
        wait_for("nothing to be left", || self.s.processes().is_empty());
    }
}

#[test]
fn a_logger_that_moves_lines_and_rotates() {
    let mut scene = Scene::new("");
    for calls in 0.. {
        let Some(end) = scene.kill(calls, ":", |_| true) else { return };
        scene.check(calls);
        if end == End::Through {
            return scene.end(calls, 11);
        }
    }
}

#[test]
fn a_logger_that_puts_times_before_lines_and_rotates() {
    let mut scene = Scene::new("config_log_time=tai64n\nconfig_log_size=1k");
    for calls in 0.. {
        let Some(end) = scene.kill(calls, ":", |_| true) else { return };
        scene.check(calls);
        if end == End::Through {
            return scene.end(calls, 11);
        }
    }
}

#[test]
fn a_logger_that_ends_a_run_and_begins_the_next() {
    for keys in ["config_log_size=1k", "config_log_size=2k\nconfig_log_time=tai64n"] {
        let mut scene = Scene::new(keys);
        for calls in 0.. {
            let pid = scene.s.pid("web");
            let before = runs(&scene.s, "web").len();
            let is_over = |scene: &Scene| {
                let runs = runs(&scene.s, "web");
                runs.len() >= before && runs[before - 1].1 == Some(Exit::Code(3))
            };
            let Some(end) = scene.kill(calls, "exit 3", is_over) else { return };
            scene.s.wait_raised("web", pid);
            scene.check(calls);
            let deadline = Instant::now() + LIMIT;
            while !is_over(&scene) {
                let said = runs(&scene.s, "web");
                assert!(Instant::now() < deadline, "call {calls}, no end of {before}: {said:?}");
                pause();
            }
            // The next one says something as well.
            scene.say(":");
            scene.check(calls);
            let runs = runs(&scene.s, "web");
            assert_eq!(runs.len(), before + 1, "call {calls}: {runs:?}");
            let text = &runs[before].0;
            let first = text.split_ascii_whitespace().rev().nth(SAID - 1);
            assert!(text.lines().count() == SAID && first.is_some(), "call {calls}: {text}");
            if end == End::Through {
                scene.end(calls, 9);
                break;
            }
        }
    }
}

#[test]
fn a_logger_that_has_a_command_run_for_what_it_has_rotated() {
    let mut scene = Scene::new("config_log_after='cp -t ../../copies'");
    let copies = scene.s.at("copies");
    fs::create_dir(&copies).unwrap();
    let has_all = |scene: &Scene| {
        let files = rotated(&scene.log());
        files.iter().all(|file| {
            let copy = copies.join(file.file_name().unwrap());
            fs::read(copy).is_ok_and(|text| text == fs::read(file).unwrap())
        })
    };
    for calls in 0.. {
        let Some(end) = scene.kill(calls, ":", |s| s.leftovers().is_empty()) else { return };
        scene.check(calls);
        assert!(has_all(&scene), "call {calls}");
        if end == End::Through {
            return scene.end(calls, 11);
        }
    }
}
