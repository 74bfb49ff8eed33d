//! The programs that the native cases start: this binary itself, so that no
//! shell stands between. Those that wait read from a FIFO that the suite holds
//! open, and so end with it, whatever happens.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, execve, fork, getsid, setsid};

/// The first argument of this binary when it is one of these programs.
pub(crate) const MARK: &str = "as-child";
/// The FIFO that announcements go to.
pub(crate) const READY: &str = "ready";
/// The FIFO that is held open as long as there is a suite.
pub(crate) const HOLD: &str = "hold";

pub(crate) fn main(arguments: &[String]) -> ! {
    let [directory, verb, rest @ ..] = arguments else { exit(2) };
    let directory = Path::new(directory);
    let number = |at: usize| rest.get(at).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    match verb.as_str() {
        "exit" => exit(number(0) as i32),
        "die" => {
            // SAFETY: a plain system call. Not nix, which knows no number of
            // a real-time signal.
            unsafe { libc::raise(number(0) as i32) };
            exit(0)
        }
        "wait" => announce(directory),
        "ignore-term" => {
            // SAFETY: no handler is installed.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
            announce(directory);
        }
        "child" => {
            if !is_child() {
                announce(directory);
            }
        }
        "daemon" => {
            if is_child() {
                setsid().unwrap();
                announce(directory);
            }
        }
        "leave-daemon" => leave(|| announce(directory)),
        "leave-bare-daemon" => leave(|| become_bare(directory)),
        "hop" => {
            for _ in 0..number(0) {
                if !is_child() {
                    exit(0);
                }
            }
            announce(directory);
        }
        "facts" => facts(),
        "descriptors" => descriptors(),
        "same-output" => same_output(number(0) as u64, number(1) as u64),
        #[cfg(target_os = "linux")]
        "lose-first-thread" => lose_first_thread(directory),
        _ => exit(2),
    }
    wait(directory)
}

fn exit(code: i32) -> ! {
    std::process::exit(code)
}

fn wait(directory: &Path) -> ! {
    let _ = fs::File::open(directory.join(HOLD)).and_then(|mut f| f.read(&mut [0]));
    exit(0)
}

fn announce(directory: &Path) {
    let mut ready = fs::OpenOptions::new().write(true).open(directory.join(READY)).unwrap();
    ready.write_all(b"!").unwrap();
}

fn is_child() -> bool {
    // SAFETY: this program has one thread.
    matches!(unsafe { fork() }.unwrap(), ForkResult::Child)
}

/// Daemonises as the books have it, with the first child waited for.
fn leave(then: impl FnOnce()) {
    // SAFETY: this program has one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        waitpid(child, None).unwrap();
        exit(0);
    }
    setsid().unwrap();
    if !is_child() {
        exit(0);
    }
    setsid().unwrap();
    then();
}

fn become_bare(directory: &Path) {
    let this = std::env::current_exe().unwrap();
    let text = |s: &OsStr| CString::new(s.as_bytes()).unwrap();
    let arguments = [
        c"postgres: background writer".to_owned(),
        CString::new(MARK).unwrap(),
        text(directory.as_os_str()),
        c"wait".to_owned(),
    ];
    let Err(e) = execve(&text(this.as_os_str()), &arguments, &[] as &[CString]);
    panic!("{e}");
}

fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn facts() -> ! {
    let mask = umask(Mode::empty());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let leads = getsid(None).unwrap() == nix::unistd::getpid();
    say(&format!("leads={leads}"));
    say(&format!("directory={}", std::env::current_dir().unwrap().display()));
    say(&format!("umask={:o}", mask.bits()));
    say(&format!("limits={soft},{hard}"));
    for (name, value) in std::env::vars() {
        say(&format!("env {name}={value}"));
    }
    exit(0)
}

fn descriptors() -> ! {
    let open = |fd: &i32| {
        // SAFETY: a plain system call.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 }
    };
    let open: Vec<String> = (0..1024).filter(open).map(|fd| fd.to_string()).collect();
    say(&open.join(" "));
    exit(0)
}

/// About the file that standard output is. Not of `/dev/fd/1`, which on some
/// systems is a file of its own.
pub(crate) fn output() -> fs::Metadata {
    let copy = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    fs::File::from(copy).metadata().unwrap()
}

fn same_output(device: u64, inode: u64) -> ! {
    let output = output();
    exit(if (output.dev(), output.ino()) == (device, inode) { 0 } else { 1 })
}

#[cfg(target_os = "linux")]
/// Ends the thread that `main` runs in; another one waits.
fn lose_first_thread(directory: &Path) {
    let directory = directory.to_path_buf();
    std::thread::spawn(move || {
        let first = format!("/proc/self/task/{}/stat", std::process::id());
        while !fs::read_to_string(&first).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        announce(&directory);
        wait(&directory)
    });
    // SAFETY: this ends the calling thread only; its stack stays.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
