//! `reraise upgrade`: the keeper executes another program in its place. Its pid,
//! its children, its locks and its listening socket stay; everything else it
//! finds out anew, as after the death of a keeper. The connections end, so that
//! the workers connect again and say which build they are of; those of another
//! one are killed and replaced, see [`super::renewal`].
//!
//! Whatever fails on the way is a keeper's death, which the workers mend.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::registry::Client;
use super::up::Leaving;
use super::{Keeper, scan};
use nix::sys::signal::Signal;

use crate::backend::native;
use crate::control::Frame;
use crate::error::{ExitCode, Fault, reason};
use crate::messages;
use crate::name::ServiceName;
use crate::supervise::news::News;
use crate::version::VERSION;

/// What a keeper leaves open for the program that it executes in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inheritance {
    /// The descriptor of the lock file, whose locks are held.
    pub lock: i32,
    /// That of the listening socket.
    pub listener: i32,
}

impl Inheritance {
    /// As a word of the command line.
    #[must_use]
    pub fn to_word(self) -> String {
        format!("{},{}", self.lock, self.listener)
    }

    /// From that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let mut fields = word.split(',');
        let lock = fields.next()?.parse().ok()?;
        let listener = fields.next()?.parse().ok()?;
        let is_sane = fields.next().is_none() && lock > 2 && listener > 2 && lock != listener;
        is_sane.then_some(Self { lock, listener })
    }
}

/// The first field of what a keeper says of itself, where otherwise the name of
/// a service stands.
pub const KEEPER: &str = "";

impl Keeper {
    /// A client wants us to become this program, unless we are of this build.
    pub(super) fn on_upgrade(&mut self, client: Client, fields: &[&str]) {
        let [path, build] = fields else { return };
        if self.leaving != Leaving::No {
            return self.refuse(
                client,
                "is ending, with all its services",
                "try again in a moment",
            );
        }
        if u64::from_str_radix(build, 16).is_ok_and(|build| build == self.command.build) {
            return self.on_version(client);
        }
        self.upgrade = Some((client, PathBuf::from(path)));
    }

    /// A client wants to know what we are, also when that changes.
    pub(super) fn on_version(&mut self, client: Client) {
        self.watchers.insert(client);
        let state = self.describe();
        self.send(Some(client), &state);
    }

    fn describe(&self) -> Frame {
        let build = format!("{:x}", self.command.build);
        let pid = std::process::id().to_string();
        // Of what build those are who have not said hello is not known yet.
        let left = (self.renewal.left() + self.called.len()).to_string();
        let done = self.renewal.done().to_string();
        Frame::new([KEEPER, "keeper", VERSION, &build, &pid, &left, &done])
    }

    /// Ends the next workers of another build, and tells the watchers how far that is.
    pub(super) fn go_on_renewing(&mut self) {
        while self.leaving == Leaving::No
            && let Some((name, pid)) = self.renewal.next()
        {
            self.hold_pipes(&name);
            match self.kill_worker(&name, pid) {
                Ok(true) => {}
                // It was just ending.
                Ok(false) => self.renewal.is_gone(&name),
                Err(e) => {
                    self.renewal.is_gone(&name);
                    messages::say(name.as_str(), &format!("cannot replace its worker: {e}"));
                }
            }
        }
        if !self.watchers.is_empty() {
            let state = self.describe();
            for client in self.watchers.clone() {
                self.send(Some(client), &state);
            }
        }
    }

    /// There is no gentler way, nor need there be one: whatever it was about, its
    /// successor goes on with, as it does after every other death of a worker.
    fn kill_worker(&self, name: &ServiceName, pid: i32) -> io::Result<bool> {
        match native::born(pid)? {
            Some(born) if scan::is_still(&self.command, self.me, name, pid) => {
                native::send(pid, born, Signal::SIGKILL)
            }
            _ => Ok(false),
        }
    }

    fn refuse(&mut self, client: Client, what: &str, advice: &str) {
        self.send(Some(client), &Frame::new([KEEPER, "refused", what, advice]));
    }

    /// Somebody asks for what only a later version knows.
    pub(super) fn is_too_old_for(&mut self, client: Client, name: &ServiceName) {
        let what = "the keeper is of an earlier version, and does not know what was asked for";
        let advice = "replace it, the services go on: reraise upgrade";
        let news = News::Fault(Fault::new(ExitCode::System, name, what, advice));
        self.send(Some(client), &news.to_frame().after(name.as_str()));
    }

    /// Becomes another program. When that cannot be executed, all is as before.
    pub(super) fn become_other(&mut self, client: Client, program: &Path) {
        self.flush_all();
        match self.execute(program) {
            Ok(never) => match never {},
            Err(e) => {
                let what = format!("cannot execute {}: {}", program.display(), reason(&e));
                self.refuse(client, &what, "the old one goes on; install it anew, then try again");
            }
        }
    }

    fn execute(&self, program: &Path) -> io::Result<Infallible> {
        let path = CString::new(program.as_os_str().as_bytes())?;
        let inheritance =
            Inheritance { lock: self.lock.number(), listener: self.listener.as_raw_fd() };
        let mut words = vec![path.clone(), c"--keeper".into()];
        words.push(CString::new(self.command.piddir.as_os_str().as_bytes())?);
        words.extend([c"--inherit".into(), CString::new(inheritance.to_word())?]);
        if self.is_foreground {
            words.push(c"--up".into());
        }
        native::set_inherited(&self.lock, true)?;
        native::set_inherited(&self.listener, true)?;
        let failed = nix::unistd::execv(&path, &words);
        native::set_inherited(&self.lock, false)?;
        native::set_inherited(&self.listener, false)?;
        Ok(failed?)
    }
}

/// There can be no more to say than what is wrong with what was left for us.
pub(super) fn bad_inheritance() -> Fault {
    let what = "was not left what belongs to it";
    Fault::new(ExitCode::Usage, "keeper", what, "this is for `reraise upgrade` alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inheritance_is_a_word() {
        let all = Inheritance { lock: 3, listener: 7 };
        assert_eq!(Inheritance::from_word(&all.to_word()), Some(all));
        for word in ["", "3", "3,x", "3,3", "0,7", "3,7,1", "-3,7", "3,-7"] {
            assert_eq!(Inheritance::from_word(word), None, "{word}");
        }
    }
}
