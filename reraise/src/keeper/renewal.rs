//! Workers of another build than their keeper give way to ones of its own, a few
//! at a time: each leaves, and its successor adopts the service. Decides only;
//! the keeper tells them.

use std::collections::{BTreeSet, VecDeque};

use crate::name::ServiceName;

/// So many services may be between two workers at a time.
const WINDOW: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    waiting: VecDeque<ServiceName>,
    /// Those that have been told.
    told: BTreeSet<ServiceName>,
    /// How many have been replaced.
    done: usize,
}

impl Renewal {
    /// A worker of another build is there.
    pub(super) fn add(&mut self, name: ServiceName) {
        if !self.told.contains(&name) && !self.waiting.contains(&name) {
            self.waiting.push_back(name);
        }
    }

    /// The next one that is to be told.
    pub(super) fn next(&mut self) -> Option<ServiceName> {
        if self.told.len() >= WINDOW {
            return None;
        }
        let name = self.waiting.pop_front()?;
        self.told.insert(name.clone());
        Some(name)
    }

    /// Its successor is there. Or it leaves as soon as it can: one that is just
    /// ending its service may take its time for that, and holds nobody up.
    pub(super) fn is_over(&mut self, name: &ServiceName) {
        if self.told.remove(name) {
            self.done += 1;
        }
    }

    /// Its worker is gone, told or not. A successor of one that was told says so.
    pub(super) fn is_gone(&mut self, name: &ServiceName, has_successor: bool) {
        let was_waiting = self.waiting.len();
        self.waiting.retain(|waiting| waiting != name);
        if self.waiting.len() < was_waiting || (!has_successor && self.told.remove(name)) {
            self.done += 1;
        }
    }

    /// How many are still to be replaced.
    pub(super) fn left(&self) -> usize {
        self.waiting.len() + self.told.len()
    }

    /// How many have been.
    pub(super) fn done(&self) -> usize {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ServiceName {
        ServiceName::new(format!("s{n}").as_ref()).unwrap()
    }

    #[test]
    fn a_few_at_a_time_and_each_once() {
        let mut renewal = Renewal::default();
        for n in (0..10).chain(0..10) {
            renewal.add(name(n));
        }
        assert_eq!((renewal.left(), renewal.done()), (10, 0));
        let told: Vec<_> = std::iter::from_fn(|| renewal.next()).collect();
        assert_eq!(told, [name(0), name(1), name(2), name(3)]);
        // Between two workers.
        renewal.is_gone(&name(1), true);
        assert_eq!((renewal.next(), renewal.done()), (None, 0));
        renewal.is_over(&name(1));
        // It counts once.
        renewal.is_over(&name(1));
        renewal.is_gone(&name(1), true);
        assert_eq!((renewal.next(), renewal.next()), (Some(name(4)), None));
        // Its service has ended.
        renewal.is_gone(&name(0), false);
        // Nobody had told it, and it is replaced all the same.
        renewal.is_gone(&name(9), true);
        assert_eq!((renewal.left(), renewal.done()), (7, 3));
        while let Some(next) = renewal.next().or_else(|| renewal.told.first().cloned()) {
            renewal.is_over(&next);
        }
        assert_eq!((renewal.left(), renewal.done()), (0, 10));
    }

    #[test]
    fn strangers_change_nothing() {
        let mut renewal = Renewal::default();
        renewal.is_gone(&name(1), false);
        renewal.is_over(&name(1));
        assert_eq!((renewal.left(), renewal.done(), renewal.next()), (0, 0, None));
    }
}
