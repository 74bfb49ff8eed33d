//! The place of a request among those of one command, and what follows for whoever
//! gets it: what need not be done at once is better done when all others have got
//! theirs. A service is told to end in a fraction of the time that it takes to write
//! down that it has ended.

use std::time::Duration;

/// See the module. The default is no company at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Company {
    /// When the command began to ask, by `CLOCK_MONOTONIC`.
    pub since: Duration,
    /// How many it has asked for before this one.
    pub before: u32,
    /// How many were still to come.
    pub after: u32,
}

/// Nobody is kept waiting for longer, in however large a company.
const LONGEST: Duration = Duration::from_millis(100);

/// What one takes, about. Everybody waits at least as if all took so long, also the last:
/// who is too early holds up the others, and they hold up all the more.
const USUAL: Duration = Duration::from_micros(100);
/// So many must have had their turn before the next can tell how long one takes.
const ENOUGH: u32 = 16;

impl Company {
    /// How long what is left to do can wait: until the last of the others has got its
    /// request, with a reserve in which it takes effect. Nothing for one that is alone.
    #[must_use]
    pub fn patience(self, now: Duration) -> Duration {
        let usual = USUAL.saturating_mul(self.before.saturating_add(self.after));
        let passed = now.saturating_sub(self.since);
        let each = if self.before < ENOUGH { USUAL } else { passed / self.before };
        let left = each.saturating_mul(self.after).saturating_mul(3) / 2;
        left.clamp(usual, usual.saturating_mul(4)).min(LONGEST)
    }

    /// As it travels.
    #[must_use]
    pub fn to_word(self) -> String {
        format!("{}:{}:{}", self.since.as_micros(), self.before, self.after)
    }

    /// From what travelled; nobody for nonsense.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        let mut fields = word.split(':').map(|field| field.parse::<u64>().ok());
        let mut next = || fields.next().flatten();
        let small = |field: u64| u32::try_from(field).ok();
        let (Some(since), Some(before), Some(after)) =
            (next(), next().and_then(small), next().and_then(small))
        else {
            return Self::default();
        };
        Self { since: Duration::from_micros(since), before, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_rest_waits_until_all_have_theirs() {
        let company = |before, after| Company { since: ms(500), before, after };
        for (now, before, after, patience) in [
            // Alone.
            (900, 0, 0, 0),
            // The first, one in the middle and the last, where it goes as usual.
            (500, 0, 100, 15),
            (505, 50, 50, 10),
            (510, 100, 0, 10),
            // A slow machine: half of them have taken 20 ms.
            (520, 50, 50, 30),
            (540, 100, 0, 10),
            // One that was itself held up does not speak for all.
            (800, 50, 50, 40),
            // Many.
            (600, 1000, 9000, 100),
            // A clock of another time namespace.
            (0, 50, 50, 10),
            (1_000_000, 50, 50, 40),
        ] {
            let found = company(before, after).patience(ms(now));
            assert_eq!(found.as_millis(), patience, "{now} {before} {after}");
        }
        let most = Company { since: Duration::ZERO, before: u32::MAX, after: u32::MAX };
        assert_eq!(most.patience(Duration::MAX), LONGEST);
        assert_eq!(Company::default().patience(ms(900)), Duration::ZERO);
    }

    #[test]
    fn it_travels() {
        let company = Company { since: Duration::from_micros(1_234_567), before: 3, after: 99 };
        assert_eq!(company.to_word(), "1234567:3:99");
        assert_eq!(Company::from_word(&company.to_word()), company);
        for nonsense in ["", "1", "1:2", "1:2:x", "1:2:-3", "1:4294967296:3", "::", "5000"] {
            assert_eq!(Company::from_word(nonsense), Company::default(), "{nonsense}");
        }
    }
}
