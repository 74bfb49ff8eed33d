//! A small process that outlives the tests: when they are gone, however they ended,
//! it ends what they have left, and removes their directories.
//!
//! It reads a pipe that only the tests have the other end of: a line for each
//! sandbox that begins or ends, and then the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, PipeWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use reraise::backend::ProcessId;

use super::{LIMIT, end_all, pause, processes_in, wait_for, wait_gone};

const ROLE: &str = "RERAISE_TEST_GUARD";

/// The other end of its pipe. It stays open until we are gone.
static GUARD: OnceLock<Mutex<PipeWriter>> = OnceLock::new();

/// Whatever belongs to this sandbox is ended when we are gone before it is.
pub(super) struct Guarded(PathBuf);

impl Guarded {
    pub(super) fn new(root: &Path) -> Self {
        tell("+", root);
        Self(root.to_owned())
    }

    /// A process that only its pid connects with it.
    pub(super) fn knows(&self, known: ProcessId) {
        tell(&format!("={} {} ", known.pid, known.born), &self.0);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        tell("-", &self.0);
    }
}

fn tell(what: &str, root: &Path) {
    let line = [what.as_bytes(), root.as_os_str().as_bytes(), b"\n"].concat();
    let pipe = GUARD.get_or_init(|| Mutex::new(begin()));
    // Killed by somebody else, it guards nothing; that is no failure of the test.
    let _ = pipe.lock().unwrap().write_all(&line);
}

/// Starts it. It shows no path of ours, or it would belong to what it is to end.
fn begin() -> PipeWriter {
    let (reader, writer) = io::pipe().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "support::guard::role", "--nocapture", "--test-threads=1"]);
    command.env_clear().env(ROLE, "guard").current_dir("/");
    // What ends our group does not end it.
    command.process_group(0).stdin(reader).stdout(Stdio::null()).stderr(Stdio::null());
    // It ends after us, and is init's then.
    drop(super::spawn(&mut command));
    writer
}

/// What [`begin`] starts.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("guard") => guard(),
        Ok(_) => doomed(),
        Err(_) => {}
    }
}

fn guard() {
    let mut roots: BTreeMap<PathBuf, Vec<ProcessId>> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let (what, rest) = line.split_at(1);
        match what {
            "+" => drop(roots.insert(rest.into(), Vec::new())),
            "-" => drop(roots.remove(Path::new(rest))),
            _ => {
                let mut fields = rest.splitn(3, ' ');
                let pid = fields.next().unwrap().parse().unwrap();
                let born = fields.next().unwrap().parse().unwrap();
                let root = Path::new(fields.next().unwrap());
                roots.entry(root.to_owned()).or_default().push(ProcessId { pid, born });
            }
        }
    }
    roots.iter().for_each(|(root, known)| clear(root, known));
}

fn clear(root: &Path, known: &[ProcessId]) {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        end_all(root, known);
        if (0..2).all(|_| processes_in(root, known).is_empty()) {
            break;
        }
        pause();
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1).map(Path::new));
    for place in places.filter(|place| place.starts_with(root)) {
        let _ = Command::new("umount").arg("-l").arg(place).output();
    }
    let _ = fs::remove_dir_all(root);
}

/// Starts a service and somebody whom only we know, says where, and waits.
fn doomed() {
    let s = super::Sandbox::new();
    s.script("web", super::SLEEPER);
    let pid = s.up("web");
    let mut other = super::spawn(Command::new("sleep").arg("1000000").current_dir("/"));
    let known = s.knows(other.id().cast_signed());
    super::say(&format!("\ndoomed {pid} {known} {}", s.at("").display()));
    other.wait().unwrap();
}

#[test]
fn what_a_killed_test_leaves_is_ended() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "support::guard::role", "--nocapture", "--test-threads=1"]);
    let mut doomed = super::spawn(command.env(ROLE, "doomed").stdout(Stdio::piped()));
    let mut lines = io::BufReader::new(doomed.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| Some(line.unwrap().strip_prefix("doomed ")?.to_owned()));
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    let said = said.unwrap();
    let fields: Vec<&str> = said.split(' ').collect();
    for pid in &fields[..2] {
        wait_gone(pid.parse().unwrap());
    }
    wait_for("its directory to be removed", || !Path::new(fields[2]).exists());
    assert!(processes_in(Path::new(fields[2]), &[]).is_empty());
}
