//! Who belongs to a run whose main process is not our child: by lineage, by
//! session, and by the mark in the environment. Lineage comes first, because
//! programs that set their title overwrite the mark (each PostgreSQL process
//! does, and leads a session of its own as well).

use std::io;

use super::{ProcessId, Scope, Tree};

/// A living process as one look at the system finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: i32,
    pub(super) ppid: i32,
    pub(super) pgid: i32,
    pub(super) sid: i32,
    /// The run whose mark its environment has; 0 is none.
    pub(super) run: u64,
}

/// What a process is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Pid,
    Parent,
    Session,
    Run,
}

impl Key {
    pub(super) const ALL: [Self; 4] = [Self::Pid, Self::Parent, Self::Session, Self::Run];

    /// What this process has there.
    pub(super) fn of(self, seen: &Seen) -> u64 {
        match self {
            Self::Pid => number(seen.pid),
            Self::Parent => number(seen.ppid),
            Self::Session => number(seen.sid),
            Self::Run => seen.run,
        }
    }
}

fn number(pid: i32) -> u64 {
    u64::from(pid.cast_unsigned())
}

/// One look at all processes, to be asked.
pub(super) trait Look {
    /// Those that have this number there.
    fn having(&self, key: Key, number: u64) -> io::Result<Vec<Seen>>;
}

impl Look for Vec<Seen> {
    fn having(&self, key: Key, number: u64) -> io::Result<Vec<Seen>> {
        Ok(self.iter().filter(|seen| key.of(seen) == number).copied().collect())
    }
}

/// The pids that belong to the tree. `spared` never do, nor does what descends
/// from the tree through them only. `main_pid` is who has the pid of the main
/// process now, `strays` those of the tree that are still who they were.
pub(super) fn search(
    tree: &Tree,
    look: &(impl Look + ?Sized),
    main_pid: Option<ProcessId>,
    strays: &[i32],
    spared: &[i32],
) -> io::Result<Vec<i32>> {
    let main = tree.main;
    // No pid is given away while a session has its number. So a newcomer who
    // has this one shows that the session of the run is over.
    let is_session = main_pid.is_none_or(|p| p == main);
    let mut roots = Vec::new();
    let of_main = Some(main.pid).filter(|_| main_pid == Some(main));
    for &pid in of_main.iter().chain(strays) {
        roots.extend(look.having(Key::Pid, number(pid))?);
    }
    if is_session {
        roots.extend(look.having(Key::Session, number(main.pid))?);
    }
    if tree.run != 0 {
        roots.extend(look.having(Key::Run, tree.run)?);
    }
    let mut found = with_descendants(roots.iter().map(|p| p.pid).collect(), look, spared)?;
    let number: fn(&Seen) -> i32 = match tree.scope {
        Scope::Tree => return Ok(found),
        Scope::Session => |p| p.sid,
        Scope::Group => |p| p.pgid,
    };
    let mut inside = Vec::new();
    for pid in found.drain(..).filter(|_| is_session) {
        let own = look.having(Key::Pid, self::number(pid))?;
        inside.extend(own.iter().any(|p| number(p) == main.pid).then_some(pid));
    }
    Ok(inside)
}

/// These and what descends from them, but for those that are spared and what
/// descends through them only.
pub(super) fn with_descendants(
    roots: Vec<i32>,
    look: &(impl Look + ?Sized),
    spared: &[i32],
) -> io::Result<Vec<i32>> {
    let mut found: Vec<i32> = Vec::new();
    let add = |found: &mut Vec<i32>, pid| {
        if !found.contains(&pid) && !spared.contains(&pid) {
            found.push(pid);
        }
    };
    roots.into_iter().for_each(|pid| add(&mut found, pid));
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        for child in look.having(Key::Parent, number(parent))? {
            add(&mut found, child.pid);
        }
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: ProcessId = ProcessId { pid: 10, born: 1 };
    const OTHER: ProcessId = ProcessId { pid: 10, born: 2 };

    /// Keeper 5, worker 6; main 10 with child 11; 12 in a session of its own
    /// below 11; 20 orphaned in the session of main; 30 marked, with child 31;
    /// 40 a stray, with child 41; 99 a stranger. 13 is a keeper that someone
    /// started below 11; 14 is what it started.
    const SYSTEM: [(i32, i32, i32); 14] = [
        (1, 0, 1),
        (5, 1, 5),
        (6, 5, 6),
        (10, 5, 10),
        (11, 10, 10),
        (12, 11, 12),
        (13, 11, 13),
        (14, 13, 14),
        (20, 1, 10),
        (30, 1, 30),
        (31, 30, 30),
        (40, 1, 40),
        (41, 40, 40),
        (99, 1, 99),
    ];

    fn system() -> Vec<Seen> {
        let run = |pid| if pid == 30 { 7 } else { 0 };
        let seen = |&(pid, ppid, sid): &_| Seen { pid, ppid, pgid: sid, sid, run: run(pid) };
        SYSTEM.iter().map(seen).collect()
    }

    fn found(main_pid: Option<ProcessId>, strays: &[i32], scope: Scope) -> Vec<i32> {
        let tree = Tree { main: MAIN, run: 7, is_ours: false, strays: Vec::new(), scope };
        let all: Vec<_> = system()
            .into_iter()
            .filter(|p| p.pid != 10 || main_pid.is_some())
            .map(|p| if p.pid == 11 && main_pid.is_none() { Seen { ppid: 1, ..p } } else { p })
            .collect();
        let mut found = search(&tree, &all, main_pid, strays, &[1, 5, 6, 13]).unwrap();
        found.sort_unstable();
        found
    }

    #[test]
    fn lineage_session_mark_and_strays_all_count() {
        for (main_pid, strays, scope, expected) in [
            (Some(MAIN), &[][..], Scope::Tree, &[10, 11, 12, 20, 30, 31][..]),
            (Some(MAIN), &[40], Scope::Tree, &[10, 11, 12, 20, 30, 31, 40, 41]),
            (Some(MAIN), &[40], Scope::Session, &[10, 11, 20]),
            (None, &[], Scope::Tree, &[11, 12, 20, 30, 31]),
            (None, &[], Scope::Session, &[11, 20]),
            (Some(OTHER), &[], Scope::Tree, &[30, 31]),
            (Some(OTHER), &[40], Scope::Tree, &[30, 31, 40, 41]),
            (Some(OTHER), &[40], Scope::Session, &[]),
        ] {
            let case = format!("{main_pid:?} {strays:?} {scope:?}");
            assert_eq!(found(main_pid, strays, scope), expected, "{case}");
        }
    }

    #[test]
    fn neither_we_nor_the_keeper_nor_init_ever_belong() {
        let all: Vec<_> = system().into_iter().map(|p| Seen { run: 7, ..p }).collect();
        let tree =
            Tree { main: MAIN, run: 7, is_ours: false, strays: Vec::new(), scope: Scope::Tree };
        let everything = search(&tree, &all, Some(MAIN), &[1, 5, 6], &[1, 5, 6]).unwrap();
        assert_eq!(everything.len(), SYSTEM.len() - 3);
        assert!([1, 5, 6].iter().all(|pid| !everything.contains(pid)), "{everything:?}");
    }

    #[test]
    fn what_has_no_mark_is_no_member_of_a_run_without_a_number() {
        let tree =
            Tree { main: MAIN, run: 0, is_ours: false, strays: Vec::new(), scope: Scope::Tree };
        assert!(search(&tree, &system(), Some(OTHER), &[], &[]).unwrap().is_empty());
    }
}
