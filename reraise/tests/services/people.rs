//! The users that the tests run as.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

impl Person {
    fn find(is_it: impl Fn(&Self) -> bool) -> Option<Self> {
        let all = fs::read_to_string("/etc/passwd").unwrap();
        all.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[name, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let person = Self { name: name.into(), uid, gid, home: home.into() };
            is_it(&person).then_some(person)
        })
    }

    /// The user whom a variable names, or this one.
    pub(crate) fn of(variable: &str, otherwise: &str) -> Option<Self> {
        let name = std::env::var(variable).ok().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| otherwise.to_owned());
        Self::find(|person| person.name == name)
    }

    /// Whoever runs the tests.
    pub(crate) fn me() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self::find(|person| person.uid == uid).unwrap()
    }

    /// An ordinary user: me, or for root the one that the tests have for it.
    pub(crate) fn ordinary() -> Option<Self> {
        let me = Self::me();
        if me.uid == 0 { Self::of("RERAISE_TEST_USER", "reraise-ci") } else { Some(me) }
    }

    /// Has a command run as this user. Only root can do that to others.
    pub(crate) fn run<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if nix::unistd::geteuid().is_root() && self.uid != 0 {
            command.uid(self.uid).gid(self.gid);
        }
        command.env("HOME", &self.home).env("USER", &self.name)
    }

    /// Gives a file to this user.
    pub(crate) fn give(&self, path: &std::path::Path) {
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).unwrap();
        }
    }
}
