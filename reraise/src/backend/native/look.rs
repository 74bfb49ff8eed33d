//! Who belongs to a run, as looks at the system find them.

use std::io;
use std::path::Path;

use nix::unistd::{getpid, getsid};

use super::{Native, born, census, parent, peek_child, sys};
use crate::backend::tree;
use crate::backend::{ProcessBackend, ProcessId, Scope, Tree};

/// How often a tree is looked at when all that one look finds is gone before
/// the next. Not nothing is left then: a process may be forking away.
const LOOKS: usize = 1000;

impl Native {
    /// The members of a tree, see [`ProcessBackend::members`].
    pub(super) fn members_of(&mut self, tree: &Tree) -> io::Result<Vec<ProcessId>> {
        let is_proven = tree.is_ours && self.keeps_orphans;
        let (mut is_second, mut has_spared) = (false, false);
        for _ in 0..LOOKS {
            let first = self.look(tree, &mut has_spared)?;
            if first.is_empty() {
                // A look at all processes can miss one that is forking away; that
                // we have no child proves nothing where some are spared.
                if is_proven && !has_spared || std::mem::replace(&mut is_second, true) {
                    return Ok(Vec::new());
                }
                continue;
            }
            let mut members = Vec::new();
            for pid in first {
                members.extend(self.identify(pid)?);
            }
            // Between look and identification a pid may have passed to a
            // stranger. Whoever a second look finds there was not one, or is
            // gone by now. It also knows who has become a supervisor meanwhile.
            let second = self.look(tree, &mut has_spared)?;
            members.retain(|m| second.contains(&m.pid));
            if !members.is_empty() {
                return Ok(members);
            }
        }
        Err(io::Error::other("its processes come and go too fast to be told apart"))
    }

    /// The pids of the tree as one look finds them, without those that are to
    /// be spared, who are asked for anew: `reraise start` in a service's script makes
    /// a keeper out of a member of its tree.
    fn look(&mut self, tree: &Tree, has_spared: &mut bool) -> io::Result<Vec<i32>> {
        let mut found = self.look_at_all(tree)?;
        let leader = tree.main.pid;
        let is_stranger = |&pid: &i32| pid != leader && !is_in_session(pid, leader);
        let Some(ask) = self.others.as_ref().filter(|_| found.iter().any(is_stranger)) else {
            return Ok(found);
        };
        *has_spared = true;
        for other in ask() {
            if found.contains(&other) {
                let below = sys::descendants(other)?;
                found.retain(|pid| *pid != other && !below.contains(pid));
            }
        }
        Ok(found)
    }

    fn look_at_all(&mut self, tree: &Tree) -> io::Result<Vec<i32>> {
        if !(tree.is_ours && self.keeps_orphans) {
            return search(tree, self.shared.as_deref());
        }
        let mut found = self.lineage()?;
        for stray in living(&tree.strays)? {
            if !spared().contains(&stray) {
                found.push(stray);
                found.extend(sys::descendants(stray)?);
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| !spared().contains(pid));
        let leader = tree.main.pid;
        match tree.scope {
            Scope::Tree => {}
            Scope::Session => found.retain(|&pid| is_in_session(pid, leader)),
            Scope::Group => found.retain(|&pid| is_in_group(pid, leader)),
        }
        Ok(found)
    }

    /// Our living descendants. That there are none is believed when the kernel
    /// says that we have no child. A look alone can miss one that was orphaned
    /// after our children and before its parent's were read; but then a child
    /// of ours has ended, and we look again.
    fn lineage(&mut self) -> io::Result<Vec<i32>> {
        let mut quiet = 0;
        loop {
            quiet = if self.reap_all()? == 0 { quiet + 1 } else { 0 };
            match peek_child(false) {
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(Vec::new()),
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let found = sys::descendants(getpid().as_raw())?;
            // A zombie that a tracer holds back is there, and cannot be reaped.
            if !found.is_empty() || quiet > 1 {
                return Ok(found);
            }
        }
    }
}

/// Those that still are who they were.
fn living(processes: &[ProcessId]) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for process in processes {
        if born(process.pid)? == Some(process.born) {
            found.push(process.pid);
        }
    }
    Ok(found)
}

fn is_in_group(pid: i32, leader: i32) -> bool {
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid)));
    group.is_ok_and(|group| group.as_raw() == leader)
}

/// OpenBSD tells of no other session (getsid(2), EPERM), and says no: then one is
/// asked for who is spared in vain.
fn is_in_session(pid: i32, leader: i32) -> bool {
    getsid(Some(nix::unistd::Pid::from_raw(pid))).is_ok_and(|sid| sid.as_raw() == leader)
}

/// The tree of a process that is not our child, from a look at all processes: whose
/// parent a lost one has now cannot be known, any process may be a subreaper.
fn search(tree: &Tree, shared: Option<&Path>) -> io::Result<Vec<i32>> {
    census::ask(shared, &|look| {
        let main = tree.main.pid;
        let main_pid = born(main)?.map(|born| ProcessId { pid: main, born });
        tree::search(tree, look, main_pid, &living(&tree.strays)?, &spared())
    })
}

/// We, our keeper and init never belong to a tree, whatever it says.
fn spared() -> [i32; 3] {
    [getpid().as_raw(), parent(), 1]
}
