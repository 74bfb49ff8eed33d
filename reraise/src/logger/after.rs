//! `config_log_after`: a command for each rotated file, outside of the logger's loop,
//! one at a time for each log, so that one that hangs holds up no other. A mark beside the file says that it is still to be run, so that
//! neither a failure nor the logger's death makes it forgotten.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;

use super::rotated;
use crate::backend::Environment;
use crate::context::Context;
use crate::messages;
use crate::name::ServiceName;
use crate::zone;

/// Something to be done for the rotated files of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) name: ServiceName,
    /// The service's own directory.
    pub(super) own: PathBuf,
    /// The log's.
    pub(super) directory: PathBuf,
    pub(super) command: String,
    /// Whether files stay afterwards (`config_log_keep=0`: they do not).
    pub(super) is_kept: bool,
}

/// So many run at the same time: all logs may come to be rotated at once.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct After {
    waiting: VecDeque<Task>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    task: Task,
    child: Child,
    file: PathBuf,
    /// What is to follow.
    rest: VecDeque<PathBuf>,
}

impl After {
    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// A log was rotated.
    pub(super) fn add(&mut self, task: Task) {
        self.waiting.retain(|other| other.directory != task.directory);
        self.waiting.push_back(task);
        self.go_on();
    }

    /// A child has ended, or something was added.
    pub(super) fn go_on(&mut self) {
        for mut running in std::mem::take(&mut self.running) {
            if running.has_ended() {
                self.begin(running.task, running.rest);
            } else {
                self.running.push(running);
            }
        }
        for task in std::mem::take(&mut self.waiting) {
            let is_busy = self.running.iter().any(|r| r.task.directory == task.directory);
            if is_busy || self.running.len() >= AT_ONCE {
                self.waiting.push_back(task);
            } else {
                let files = rotated::todo(&task.directory).into();
                self.begin(task, files);
            }
        }
    }

    /// Runs it for the first of these files that it can be run for.
    fn begin(&mut self, task: Task, mut rest: VecDeque<PathBuf>) {
        while let Some(file) = rest.pop_front() {
            // What a fork does not inherit is of no use to it.
            match zone::in_common(|| start(&task, &file)) {
                Ok(child) => return self.running.push(Running { task, child, file, rest }),
                Err(e) => messages::say(
                    task.name.as_str(),
                    &format!("config_log_after cannot be run for {}: {e}", file.display()),
                ),
            }
        }
    }
}

impl Running {
    fn has_ended(&mut self) -> bool {
        match self.child.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) if status.success() => {
                let _ = fs::remove_file(rotated::todo_of(&self.file));
                if !self.task.is_kept {
                    let _ = rotated::forget(&self.file);
                }
            }
            Ok(Some(status)) => self.complain(&status.to_string()),
            Err(e) => self.complain(&e.to_string()),
        }
        true
    }

    /// It is tried again after the next rotation.
    fn complain(&self, how: &str) {
        let what = format!("config_log_after failed for {} ({how})", self.file.display());
        messages::say(self.task.name.as_str(), &what);
    }
}

/// By the shell, in the environment of the service, as its user; the file is the last
/// argument.
fn start(task: &Task, file: &Path) -> io::Result<Child> {
    let environment = Context::read(&task.own.join("context")).map(|c| c.environment);
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!("{} \"$1\"", task.command))
        .arg("config_log_after")
        .arg(file)
        .env_clear()
        .envs(environment.iter().flat_map(Environment::pairs))
        .current_dir(&task.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    // SAFETY: it makes one call to the system, and needs no memory.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    command.spawn()
}
