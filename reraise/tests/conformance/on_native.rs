//! The backend of the system that we are compiled for.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use reraise::backend::native::Native;
use reraise::backend::{Launch, ProcessBackend, ProcessId, run_entry};
use tempfile::TempDir;

use crate::child::{HOLD, MARK, READY};
use crate::subject::{Program, Subject, ours, run_number};

const SIGNALS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGHUP];

pub(crate) struct OnNative {
    backend: Option<Native>,
    directory: TempDir,
    ready: File,
    /// Open for writing as long as programs shall wait.
    _hold: File,
}

impl OnNative {
    /// As on a kernel without pidfd_open.
    #[cfg(target_os = "linux")]
    pub(crate) fn without_pidfd() -> Self {
        reraise::backend::native::disable_pidfd();
        Self::new()
    }

    pub(crate) fn with_signals(signals: &[Signal]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ready = fifo(&directory.path().join(READY));
        let hold = fifo(&directory.path().join(HOLD));
        let mut backend = Native::new(signals).unwrap();
        backend.listen(ready.as_fd()).unwrap();
        Self { backend: Some(backend), directory, ready, _hold: hold }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn native(&mut self) -> &mut Native {
        self.backend.as_mut().unwrap()
    }

    /// A launch of this binary as one of its programs.
    pub(crate) fn verb(&self, verb: &str, values: &[String]) -> Launch {
        let program = text(&std::env::current_exe().unwrap());
        let mut arguments = vec![
            program.clone(),
            CString::new(MARK).unwrap(),
            text(self.directory()),
            CString::new(verb).unwrap(),
        ];
        arguments.extend(values.iter().map(|v| CString::new(v.as_str()).unwrap()));
        let directory = self.directory().to_path_buf();
        Launch { program, arguments, directory, ..Launch::default() }
    }

    /// A launch of a file with this text and mode.
    pub(crate) fn script(&self, content: &str, mode: u32) -> Launch {
        let path = self.directory().join("script");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let program = text(&path);
        let directory = self.directory().to_path_buf();
        Launch { arguments: vec![program.clone()], program, directory, ..Launch::default() }
    }
}

pub(crate) fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Made and opened so that neither opening nor reading it blocks.
fn fifo(path: &Path) -> File {
    mkfifo(path, Mode::S_IRWXU).unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

impl Subject for OnNative {
    type Backend = Native;

    fn new() -> Self {
        Self::with_signals(&SIGNALS)
    }

    fn backend(&mut self) -> &mut Native {
        self.native()
    }

    fn launch(&mut self, program: Program, run: u64) -> Launch {
        let launch = match program {
            Program::Exits(code) => self.verb("exit", &[code.to_string()]),
            Program::DiesOf(signal) => self.verb("die", &[(signal as i32).to_string()]),
            Program::Waits => self.verb("wait", &[]),
            Program::IgnoresTerm => self.verb("ignore-term", &[]),
            Program::HasChild => self.verb("child", &[]),
            Program::HasDaemon => self.verb("daemon", &[]),
            Program::LeavesDaemon => self.verb("leave-daemon", &[]),
            Program::LeavesBareDaemon => self.verb("leave-bare-daemon", &[]),
            Program::LacksInterpreter => self.script("#!/nonexistent/interpreter\n", 0o755),
            Program::IsNotExecutable => self.script("#!/bin/sh\n", 0o644),
            Program::IsMissing => {
                let launch = self.script("", 0o755);
                std::fs::remove_file(self.directory().join("script")).unwrap();
                launch
            }
        };
        Launch { environment: [run_entry(run_number(run))].into_iter().collect(), ..launch }
    }

    fn succeed(&mut self) {
        self.backend = None;
        let mut backend = Native::new(&SIGNALS).unwrap();
        backend.listen(self.ready.as_fd()).unwrap();
        self.backend = Some(backend);
    }

    fn signal_us(&mut self, signal: Signal) {
        kill(Pid::this(), signal).unwrap();
    }

    fn await_zombie(&mut self, process: ProcessId) {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let pid = process.pid as libc::id_t;
        // SAFETY: the pointer is to a live siginfo_t.
        let answer =
            unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        // One that is quick is reaped together with the news of its launch.
        let error = std::io::Error::last_os_error();
        assert!(answer == 0 || error.raw_os_error() == Some(libc::ECHILD), "{error}");
    }

    fn take_announcement(&mut self) {
        (&self.ready).read_exact(&mut [0]).unwrap();
    }

    fn announce(&mut self) {
        (&self.ready).write_all(b"!").unwrap();
    }

    fn us(&self) -> i32 {
        Pid::this().as_raw()
    }

    fn our_file(&self) -> PathBuf {
        self.directory().to_path_buf()
    }
}

/// Whatever a case has started is gone when it is over, also when it failed.
impl Drop for OnNative {
    fn drop(&mut self) {
        let Some(backend) = &mut self.backend else { return };
        // The main process does not matter for what descends from us.
        let all = ours(ProcessId { pid: i32::MAX, born: 0 });
        while let Ok(left) = backend.members(&all)
            && !left.is_empty()
        {
            for process in left {
                let _ = backend.signal(process, Signal::SIGKILL);
            }
            let soon = backend.now() + Duration::from_millis(10);
            let _ = backend.next_event(Some(soon));
        }
    }
}
