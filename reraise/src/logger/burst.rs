//! Many new services that ring at once: they are being started together. They come up
//! sooner if the logger looks at them when all have been started, and what they say
//! waits in their pipes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::name::ServiceName;

/// So many in a row are looked at at once.
const FEW: usize = 4;
/// When nobody has rung for so long, the row is at its end, and a burst is over.
const LULL: Duration = Duration::from_millis(5);
/// However many there are, nobody waits for longer.
const LONGEST: Duration = Duration::from_millis(150);

/// Who has rung in a row.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// And whether they wait.
    names: BTreeMap<ServiceName, bool>,
    last: Option<Instant>,
    /// When the burst began, and when it is taken to be over.
    span: Option<(Instant, Instant)>,
}

impl Burst {
    /// These have rung, and are not known. Who is to be looked at now: everybody, if they
    /// are few; and in a burst those who have rung before, since they may have had another
    /// run, the words of which are not to be mixed up with those of a third.
    #[must_use]
    pub(super) fn hear(&mut self, rung: Vec<ServiceName>, now: Instant) -> Vec<ServiceName> {
        if rung.is_empty() {
            return rung;
        }
        let is_row = self.last.replace(now).is_some_and(|last| now <= last + LULL);
        if !is_row && self.span.is_none() {
            self.names.clear();
        }
        let (again, new): (Vec<_>, Vec<_>) =
            rung.into_iter().partition(|name| self.names.insert(name.clone(), false).is_some());
        let Some((since, _)) = self.span.or((self.names.len() > FEW).then_some((now, now))) else {
            return new.into_iter().chain(again).collect();
        };
        self.span = Some((since, (now + LULL).min(since + LONGEST)));
        self.names.extend(new.into_iter().map(|name| (name, true)));
        again
    }

    /// When it is over.
    pub(super) fn end(&self) -> Option<Instant> {
        self.span.map(|(_, end)| end)
    }

    /// Whether nobody is waiting.
    pub(super) fn is_over(&self) -> bool {
        self.span.is_none()
    }

    /// It is over: who is to be looked at.
    pub(super) fn take(&mut self) -> Vec<ServiceName> {
        self.span = None;
        let names = std::mem::take(&mut self.names);
        names.into_iter().filter_map(|(name, is_waiting)| is_waiting.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(numbers: impl IntoIterator<Item = usize>) -> Vec<ServiceName> {
        let name = |number| ServiceName::new(format!("s{number}").as_ref()).unwrap();
        numbers.into_iter().map(name).collect()
    }

    #[test]
    fn a_few_are_looked_at_at_once() {
        let (mut burst, begin) = (Burst::default(), Instant::now());
        for count in 0..=FEW {
            let now = begin + 2 * LULL * count as u32;
            assert_eq!(burst.hear(names(0..count), now), names(0..count));
            assert!(burst.is_over() && burst.end().is_none());
        }
    }

    #[test]
    fn many_are_looked_at_together_when_it_is_over() {
        let (mut burst, begin) = (Burst::default(), Instant::now());
        assert_eq!(burst.hear(names(10..14), begin), names(10..14));
        // It rings again and again: that makes no burst.
        for _ in 0..9 {
            assert_eq!(burst.hear(names(12..14), begin), names(12..14));
        }
        assert_eq!(burst.hear(names(0..5), begin), []);
        assert_eq!(burst.hear(names(12..13), begin), names(12..13));
        assert_eq!(burst.end(), Some(begin + LULL));
        // It goes on as long as somebody rings.
        assert_eq!(burst.hear(names(5..6), begin + LULL / 2), []);
        assert_eq!(burst.end(), Some(begin + LULL / 2 + LULL));
        assert_eq!(burst.hear(vec![], begin + LULL), []);
        assert_eq!(burst.end(), Some(begin + LULL / 2 + LULL));
        assert!(!burst.is_over());
        // However long it goes on.
        assert_eq!(burst.hear(names(6..7), begin + LONGEST), []);
        assert_eq!(burst.end(), Some(begin + LONGEST));
        assert_eq!(burst.take(), names(0..7));
        assert!(burst.is_over() && burst.take().is_empty());
    }

    #[test]
    fn those_that_come_one_by_one_are_no_burst() {
        let (mut burst, begin) = (Burst::default(), Instant::now());
        for number in 0..20 {
            let now = begin + 2 * LULL * number as u32;
            assert_eq!(burst.hear(names(number..number + 1), now), names(number..number + 1));
            assert_eq!(burst.hear(vec![], now + LULL), []);
        }
    }

    #[test]
    fn two_runs_of_one_are_not_put_off() {
        let (mut burst, begin) = (Burst::default(), Instant::now());
        assert_eq!(burst.hear(names(0..9), begin), []);
        assert_eq!(burst.hear(names(2..4), begin), names(2..4));
        assert_eq!(burst.hear(names(2..3), begin), names(2..3));
        assert_eq!(burst.take(), names((0..2).chain(4..9)));
    }
}
