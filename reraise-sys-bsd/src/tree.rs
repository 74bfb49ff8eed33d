//! Who is whose child, from one look at all processes. Everything here can be
//! stale when it is returned; identity and signals go by the start time.

use std::collections::BTreeSet;

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

/// The processes of `all` that descend from one of `roots`, without the roots.
#[must_use]
pub fn below(all: &[Process], roots: &[i32]) -> Vec<i32> {
    let mut seen: BTreeSet<i32> = roots.iter().copied().collect();
    let mut queue = roots.to_vec();
    let mut found = Vec::new();
    while let Some(parent) = queue.pop() {
        for p in all.iter().filter(|p| p.ppid == parent) {
            // Pid 0 is its own parent on some systems.
            if seen.insert(p.pid) {
                found.push(p.pid);
                queue.push(p.pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, ppid: i32) -> Process {
        Process { pid, ppid, pgid: pid, sid: pid }
    }

    #[test]
    fn descendants_are_found_once_and_without_the_root() {
        let all = [process(0, 0), process(5, 1), process(7, 5), process(6, 7), process(8, 1)];
        assert_eq!(below(&all, &[5]), [7, 6]);
        assert_eq!(below(&all, &[0]), []);
    }
}
