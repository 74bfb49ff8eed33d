//! Who belongs to a run whose main process is not our child: by lineage, by
//! session, and by the mark in the environment. Lineage comes first, because
//! programs that set their title overwrite the mark (each PostgreSQL process
//! does, and leads a session of its own as well).

use super::{ProcessId, Scope, Tree};

/// A living process as one look at the system finds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relation {
    pub(super) pid: i32,
    pub(super) ppid: i32,
    pub(super) pgid: i32,
    pub(super) sid: i32,
}

/// The pids that belong to the tree. `spared` never do, nor does what descends
/// from the tree through them only. `main_pid` is who has the pid of the main
/// process now, `strays` those of the tree that are still who they were.
pub(super) fn search(
    tree: &Tree,
    all: &[Relation],
    main_pid: Option<ProcessId>,
    strays: &[i32],
    spared: &[i32],
    is_marked: impl Fn(&Relation) -> bool,
) -> Vec<i32> {
    let main = tree.main;
    // No pid is given away while a session has its number. So a newcomer who
    // has this one shows that the session of the run is over.
    let is_session = main_pid.is_none_or(|p| p == main);
    let is_found = |p: &&Relation| {
        strays.contains(&p.pid)
            || main_pid == Some(main) && p.pid == main.pid
            || is_session && p.sid == main.pid
            || is_marked(p)
    };
    let roots = all.iter().filter(is_found).map(|p| p.pid).collect();
    let mut found = with_descendants(roots, all, spared);
    let is_inside = |pid, number: fn(&Relation) -> i32| {
        is_session && all.iter().any(|p| p.pid == pid && number(p) == main.pid)
    };
    match tree.scope {
        Scope::Tree => {}
        Scope::Session => found.retain(|&pid| is_inside(pid, |p| p.sid)),
        Scope::Group => found.retain(|&pid| is_inside(pid, |p| p.pgid)),
    }
    found
}

/// These and what descends from them, but for those that are spared and what
/// descends through them only.
pub(super) fn with_descendants(roots: Vec<i32>, all: &[Relation], spared: &[i32]) -> Vec<i32> {
    let mut found = roots;
    found.retain(|pid| !spared.contains(pid));
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        for child in all.iter().filter(|p| p.ppid == parent) {
            if !found.contains(&child.pid) && !spared.contains(&child.pid) {
                found.push(child.pid);
            }
        }
        next += 1;
    }
    found
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

    fn found(main_pid: Option<ProcessId>, strays: &[i32], scope: Scope) -> Vec<i32> {
        let tree = Tree { main: MAIN, run: 7, is_ours: false, strays: Vec::new(), scope };
        let all = SYSTEM.map(|(pid, ppid, sid)| Relation { pid, ppid, pgid: sid, sid });
        let all: Vec<_> = all
            .into_iter()
            .filter(|p| p.pid != 10 || main_pid.is_some())
            .map(|p| if p.pid == 11 && main_pid.is_none() { Relation { ppid: 1, ..p } } else { p })
            .collect();
        let mut found = search(&tree, &all, main_pid, strays, &[1, 5, 6, 13], |p| p.pid == 30);
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
        let all = SYSTEM.map(|(pid, ppid, sid)| Relation { pid, ppid, pgid: sid, sid });
        let tree =
            Tree { main: MAIN, run: 7, is_ours: false, strays: Vec::new(), scope: Scope::Tree };
        let everything = search(&tree, &all, Some(MAIN), &[1, 5, 6], &[1, 5, 6], |_| true);
        assert!([1, 5, 6].iter().all(|pid| !everything.contains(pid)), "{everything:?}");
    }
}
