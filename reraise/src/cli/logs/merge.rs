//! Several logs as one, by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

/// Something that comes in order.
pub(super) trait Ordered {
    /// When the next comes; `None` at the end. One that must follow at once comes before
    /// everything.
    fn time(&self) -> Option<i64>;
    /// Goes past it.
    fn advance(&mut self) -> io::Result<()>;
}

/// Shows all of these by time, and those of one time in the order of their places.
/// `show` says whether to go on.
pub(super) fn merge<T: Ordered>(
    all: &mut [T],
    mut show: impl FnMut(&T) -> io::Result<bool>,
) -> io::Result<()> {
    let mut next = BinaryHeap::new();
    for (place, one) in all.iter_mut().enumerate() {
        one.advance()?;
        next.extend(one.time().map(|time| Reverse((time, place))));
    }
    while let Some(Reverse((_, place))) = next.pop() {
        let later = next.peek().map(|Reverse(later)| *later);
        let one = &mut all[place];
        loop {
            if !show(one)? {
                return Ok(());
            }
            one.advance()?;
            match one.time() {
                Some(time) if later.is_some_and(|later| later < (time, place)) => {
                    next.push(Reverse((time, place)));
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List(Vec<(i64, &'static str)>, usize);

    impl Ordered for List {
        fn time(&self) -> Option<i64> {
            self.0.get(self.1 - 1).map(|&(time, _)| time)
        }

        fn advance(&mut self) -> io::Result<()> {
            self.1 += 1;
            Ok(())
        }
    }

    fn merged(lists: &[&[(i64, &'static str)]], limit: usize) -> String {
        let mut lists: Vec<List> = lists.iter().map(|list| List(list.to_vec(), 0)).collect();
        let mut shown = Vec::new();
        let show = |list: &List| {
            shown.push(list.0[list.1 - 1].1);
            Ok(shown.len() < limit)
        };
        merge(&mut lists, show).unwrap();
        shown.join(" ")
    }

    #[test]
    fn by_time_and_place() {
        let a: &[_] = &[(1, "a1"), (3, "a3"), (3, "a3b"), (9, "a9")];
        let b: &[_] = &[(2, "b2"), (3, "b3"), (4, "b4")];
        assert_eq!(merged(&[a, b, &[]], 100), "a1 b2 a3 a3b b3 b4 a9");
        assert_eq!(merged(&[b, a], 100), "a1 b2 b3 a3 a3b b4 a9");
        assert_eq!(merged(&[a, b], 2), "a1 b2");
        assert_eq!(merged(&[], 100), "");
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let a: &[_] = &[(5, "a5"), (1, "a1"), (6, "a6")];
        let b: &[_] = &[(2, "b2"), (7, "b7")];
        assert_eq!(merged(&[a, b], 100), "b2 a5 a1 a6 b7");
    }
}
