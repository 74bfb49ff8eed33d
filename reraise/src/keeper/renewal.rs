//! Workers of another build than their keeper are replaced, a few at a time. Decides
//! only; the keeper ends them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::name::ServiceName;

/// So many services may be between two workers at a time.
const WINDOW: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Services, and the pids of their workers.
    waiting: BTreeMap<ServiceName, i32>,
    /// Their order; some of these do not wait any more.
    order: VecDeque<ServiceName>,
    /// Those whose workers are being ended.
    under_way: BTreeSet<ServiceName>,
    /// How many have been replaced.
    done: usize,
}

impl Renewal {
    /// A worker of another build is there, in the place of any that was there before.
    pub(super) fn add(&mut self, name: ServiceName, pid: i32) {
        if !self.under_way.contains(&name) && self.waiting.insert(name.clone(), pid).is_none() {
            self.order.push_back(name);
        }
    }

    /// The next one that is to be ended.
    pub(super) fn next(&mut self) -> Option<(ServiceName, i32)> {
        if self.under_way.len() >= WINDOW {
            return None;
        }
        loop {
            let name = self.order.pop_front()?;
            // Unless it has ended by itself.
            if let Some(pid) = self.waiting.remove(&name) {
                self.under_way.insert(name.clone());
                return Some((name, pid));
            }
        }
    }

    /// A service's worker is gone, whatever for; one of our build follows it.
    pub(super) fn is_gone(&mut self, name: &ServiceName) {
        if self.under_way.remove(name) || self.waiting.remove(name).is_some() {
            self.done += 1;
        }
    }

    /// How many are still to be replaced.
    pub(super) fn left(&self) -> usize {
        self.waiting.len() + self.under_way.len()
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

    fn next(renewal: &mut Renewal) -> Option<usize> {
        let (next, pid) = renewal.next()?;
        let n = usize::try_from(pid).unwrap();
        assert_eq!(next, name(n));
        Some(n)
    }

    #[test]
    fn a_few_at_a_time_and_each_once() {
        let mut renewal = Renewal::default();
        for n in (0..40).chain(0..40) {
            renewal.add(name(n), i32::try_from(n).unwrap());
        }
        assert_eq!((renewal.left(), renewal.done()), (40, 0));
        let ended: Vec<_> = std::iter::from_fn(|| next(&mut renewal)).collect();
        assert_eq!(ended, (0..WINDOW).collect::<Vec<_>>());
        // One that is under way is not added again.
        renewal.add(name(1), 1);
        assert_eq!(renewal.left(), 40);
        renewal.is_gone(&name(1));
        // It counts once.
        renewal.is_gone(&name(1));
        assert_eq!((renewal.left(), renewal.done()), (39, 1));
        assert_eq!((next(&mut renewal), next(&mut renewal)), (Some(WINDOW), None));
        // Nobody has ended it, and it is replaced all the same; once more it would be
        // another one.
        renewal.is_gone(&name(WINDOW + 1));
        renewal.is_gone(&name(0));
        assert_eq!(next(&mut renewal), Some(WINDOW + 2));
        for n in 0..40 {
            renewal.is_gone(&name(n));
        }
        assert_eq!((renewal.left(), renewal.done(), next(&mut renewal)), (0, 40, None));
    }

    #[test]
    fn the_worker_that_is_there_now_is_the_one_that_is_ended() {
        let mut renewal = Renewal::default();
        renewal.add(name(1), 100);
        renewal.is_gone(&name(1));
        // Another one of another build has taken its place.
        renewal.add(name(1), 101);
        renewal.add(name(2), 200);
        // And again, before the end of the former one was seen.
        renewal.add(name(2), 201);
        assert_eq!(renewal.left(), 2);
        assert_eq!(renewal.next(), Some((name(1), 101)));
        assert_eq!(renewal.next(), Some((name(2), 201)));
        assert_eq!((renewal.next(), renewal.left()), (None, 2));
    }

    #[test]
    fn strangers_change_nothing() {
        let mut renewal = Renewal::default();
        renewal.is_gone(&name(1));
        assert_eq!((renewal.left(), renewal.done(), next(&mut renewal)), (0, 0, None));
    }
}
