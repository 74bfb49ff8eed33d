//! What procfs tells (proc_pid_stat(5), proc_pid_task(5)). Everything here can
//! be stale when it is returned; identity and signals go through `identity`.

use std::fs;
use std::io::{self, Read};

use nix::errno::Errno;

/// The fields of `/proc/PID/stat` that Reraise needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) ppid: i32,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
    /// Threads that have not ended.
    threads: u32,
    /// Ticks since boot.
    pub(crate) start: u64,
    /// Wait status; zero while it lives, or for another user's process.
    pub(crate) exit: i32,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let mut buffer = [0; 1024];
        let read =
            fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut f| f.read(&mut buffer));
        match read {
            Ok(n) => Ok(Self::parse(&buffer[..n])),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The command name stands in parentheses and may hold any byte, a closing
    /// parenthesis among them: the fields begin after the last one.
    fn parse(line: &[u8]) -> Option<Self> {
        let after = line.iter().rposition(|&b| b == b')')? + 2;
        let text = str::from_utf8(line.get(after..)?).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let ppid = fields.next()?.parse().ok()?;
        let pgid = fields.next()?.parse().ok()?;
        let sid = fields.next()?.parse().ok()?;
        let threads = fields.nth(13)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        let exit = fields.nth(29).and_then(|f| f.parse().ok()).unwrap_or(0);
        Some(Self { state, ppid, pgid, sid, threads, start, exit })
    }

    /// Whether it has ended. When only the first thread has (`pthread_exit` in
    /// `main`), that thread shows as a zombie and the process lives.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Whether a process has been stopped by a signal and not been continued; one
/// that a tracer holds has not. `false` when there is none.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn is_stopped(pid: i32) -> io::Result<bool> {
    Ok(Stat::of(pid)?.is_some_and(|s| s.state == b'T'))
}

/// Whether a process that waits for its children knows of all that has become of
/// them: it has not been stopped, and no `SIGCHLD` is pending (proc_pid_status(5)).
///
/// # Errors
/// When `/proc` cannot be read.
pub fn knows_its_children(pid: i32) -> io::Result<bool> {
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => Ok(has_no_news(&status).unwrap_or(false)),
        Err(e) if is_gone(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

fn has_no_news(status: &str) -> Option<bool> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim)
    };
    let is_pending = |name| {
        let set = u64::from_str_radix(field(name)?, 16).ok()?;
        Some(set & 1 << (libc::SIGCHLD - 1) != 0)
    };
    let is_at_work = field("State")?.starts_with(['R', 'S', 'D']);
    Some(is_at_work && !is_pending("SigPnd")? && !is_pending("ShdPnd")?)
}

/// A process can vanish between `open` (ENOENT) and `read` (ESRCH).
fn is_gone(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ESRCH))
}

fn is_shortage(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

/// One process of the system, as one look at it found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
}

/// All living processes that procfs shows us; zombies are left out.
///
/// # Errors
/// When `/proc` cannot be read at all, or descriptors have run out.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        match Stat::of(pid) {
            Ok(Some(s)) if !s.is_dead() => {
                all.push(Process { pid, ppid: s.ppid, pgid: s.pgid, sid: s.sid });
            }
            // Without descriptors we cannot look, and nobody must be taken for gone.
            Err(e) if is_shortage(&e) => return Err(e),
            // One that is hidden from us (hidepid) is not ours either.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(all)
}

/// The living descendants of a process. Read from `/proc/PID/task/TID/children`
/// (Linux 3.5, CONFIG_PROC_CHILDREN), whose cost is that of the tree and not
/// that of the system; else from a look at all processes.
///
/// # Errors
/// When `/proc` cannot be read at all.
pub fn descendants(root: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(pid) = queue.pop() {
        match listed_children(pid) {
            Ok(children) => {
                for child in children {
                    queue.push(child);
                    if Stat::of(child)?.is_some_and(|s| !s.is_dead()) {
                        found.push(child);
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return from_all(root),
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// The children of a process, zombies among them.
///
/// # Errors
/// When `/proc` cannot be read at all.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    match listed_children(pid) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            let all = processes()?;
            Ok(all.iter().filter(|p| p.ppid == pid).map(|p| p.pid).collect())
        }
        answer => answer,
    }
}

fn listed_children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(e) if is_gone(&e) => return Ok(found),
        Err(e) => return Err(e),
    };
    for task in tasks {
        let Ok(task) = task else { continue };
        match fs::read_to_string(task.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().flat_map(str::parse::<i32>)),
            Err(e) if is_gone(&e) && !task.path().exists() => {}
            Err(e) if is_gone(&e) && task.path().join("stat").exists() => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn from_all(root: i32) -> io::Result<Vec<i32>> {
    let all = processes()?;
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(parent) = queue.pop() {
        for p in all.iter().filter(|p| p.ppid == parent) {
            found.push(p.pid);
            queue.push(p.pid);
        }
    }
    Ok(found)
}

/// The value of a variable in the environment that the process began with
/// (`/proc/PID/environ`, proc(5)). A program may overwrite it, so `None` proves
/// nothing.
#[must_use]
pub fn variable(pid: i32, name: &[u8]) -> Option<Vec<u8>> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |entry: &[u8]| Some(entry.strip_prefix(name)?.strip_prefix(b"=")?.to_vec());
    environ.split(|&b| b == 0).find_map(value)
}

/// A number for this boot: the first half of `/proc/sys/kernel/random/boot_id`
/// (random(4)).
///
/// # Errors
/// When the file is missing or is no UUID.
pub fn boot_id() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number of the pid namespace that the machine begins with
/// (`PROC_PID_INIT_INO`, include/linux/proc_ns.h, Linux 3.8).
const FIRST_SPACE: u64 = 0xeffffffc;

/// A number for our pid namespace (pid_namespaces(7)): pids mean nothing
/// outside of it. The kernel's own number is given again when a namespace has
/// ended, to the next run of the same container perhaps; its first process is
/// another one then.
///
/// # Errors
/// When procfs is not there.
pub fn pid_space() -> io::Result<u64> {
    let number = nix::sys::stat::stat("/proc/self/ns/pid")?.st_ino;
    if number == FIRST_SPACE {
        return Ok(number);
    }
    // Where it is hidden (hidepid), the number alone must do.
    let first = crate::identity::born(1).ok().flatten().unwrap_or_default();
    Ok(number ^ first.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_stopped_or_has_a_signal_waiting_does_not_know_its_children() {
        let chld = 1_u64 << (libc::SIGCHLD - 1);
        for (state, own, shared, knows) in [
            ("S (sleeping)", 0, 0, true),
            ("R (running)", 0, !chld, true),
            ("T (stopped)", 0, 0, false),
            ("Z (zombie)", 0, 0, false),
            ("S (sleeping)", chld, 0, false),
            ("S (sleeping)", 0, chld | 1, false),
        ] {
            let status =
                format!("Name:\tx\nState:\t{state}\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n");
            assert_eq!(has_no_news(&status), Some(knows), "{status}");
        }
        assert_eq!(has_no_news(""), None);
        assert!(knows_its_children(std::process::id().cast_signed()).unwrap());
        assert!(!knows_its_children(i32::MAX).unwrap());
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let tail = "S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 \
                    0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 256";
        for name in ["sh", "a b", "x) R 1 (", ")", "\n"] {
            let line = format!("5 ({name}) {tail}");
            let s = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!((s.state, s.ppid, s.pgid, s.sid), (b'S', 7, 8, 9), "{name}");
            assert_eq!((s.threads, s.start, s.exit), (1, 4242, 256), "{name}");
        }
    }

    #[test]
    fn a_zombie_with_other_threads_lives() {
        for (state, threads, is_dead) in
            [("S", 1, false), ("Z", 0, true), ("Z", 1, true), ("Z", 2, false), ("X", 1, true)]
        {
            let line = format!("5 (sh) {state} 7 8 9 0 -1 0 1 2 3 4 5 6 7 8 20 0 {threads} 0 4242");
            assert_eq!(Stat::parse(line.as_bytes()).unwrap().is_dead(), is_dead, "{line}");
        }
    }

    #[test]
    fn a_torn_line_is_no_process() {
        for line in ["", "5", "5 (sh", "5 (sh)", "5 (sh) ", "5 (sh) S 1 2 3"] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn this_boot_and_pid_space_have_numbers() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(pid_space().unwrap(), 0);
    }
}
