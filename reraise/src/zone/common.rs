//! The common zone: first fit in a map with a bit for each grain. Slower than
//! lists, but nothing is kept in free memory, so that whole pages of it can be
//! given back, and what lives stays together at the beginning.

use std::alloc::Layout;
use std::ops::Range;

use super::GRAIN;
use crate::backend::native;

/// Bytes of the zone. Pages that were never used cost nothing.
const ROOM: usize = 128 << 10;
const GRAINS: usize = ROOM / GRAIN;
/// Longer blocks lie at the far end.
const LARGE: usize = 2048;
const PAGE: usize = 4096;
const GRAINS_OF_PAGE: usize = PAGE / GRAIN;

/// The words of a map that hold these bits, each with a mask of them.
fn words(range: Range<usize>) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let Range { start, end } = range;
    (start / 64..end.div_ceil(64)).map(move |word| {
        let from = start.saturating_sub(word * 64);
        let beyond = (word * 64 + 64).saturating_sub(end);
        (word, (u64::MAX << from) & (u64::MAX >> beyond))
    })
}

/// See the module.
#[repr(C, align(64))]
pub(super) struct Common {
    /// A set bit is a taken grain.
    map: [u64; GRAINS / 64],
    /// Pages, counted from the one that `room` begins in, that were written.
    written: [u64; ROOM / PAGE / 64 + 1],
    /// No free grain lies below.
    first: usize,
    room: Room,
}

#[repr(C, align(64))]
struct Room([u8; ROOM]);

impl Common {
    pub(super) const fn new() -> Self {
        Self {
            map: [0; GRAINS / 64],
            written: [0; ROOM / PAGE / 64 + 1],
            first: 0,
            room: Room([0; ROOM]),
        }
    }

    fn mark(&mut self, range: Range<usize>, taken: bool) {
        for (word, mask) in words(range) {
            let word = &mut self.map[word];
            *word = if taken { *word | mask } else { *word & !mask };
        }
    }

    fn first_taken(&self, range: Range<usize>) -> Option<usize> {
        words(range).find_map(|(word, mask)| {
            let taken = self.map[word] & mask;
            (taken != 0).then(|| word * 64 + taken.trailing_zeros() as usize)
        })
    }

    fn last_taken(&self, range: Range<usize>) -> Option<usize> {
        words(range).rev().find_map(|(word, mask)| {
            let taken = self.map[word] & mask;
            (taken != 0).then(|| word * 64 + 63 - taken.leading_zeros() as usize)
        })
    }

    fn first_free(&self, from: usize) -> Option<usize> {
        words(from..GRAINS).find_map(|(word, mask)| {
            let free = !self.map[word] & mask;
            (free != 0).then(|| word * 64 + free.trailing_zeros() as usize)
        })
    }

    /// The offset of the room in its first page, in grains.
    fn shift(&self) -> usize {
        (&raw const self.room).addr() % PAGE / GRAIN
    }

    /// A block, if there is room. Large ones are short-lived buffers, mostly;
    /// they are taken from the far end, as what is needed briefly, or what lives longer
    /// would come to lie behind them.
    pub(super) fn take(&mut self, layout: Layout, is_brief: bool) -> Option<*mut u8> {
        let count = layout.size().div_ceil(GRAIN).max(1);
        let step = layout.align().div_ceil(GRAIN).max(1);
        let at = if is_brief || layout.size() > LARGE {
            self.last_fit(count, step)?
        } else {
            self.first_fit(count, step)?
        };
        self.mark(at..at + count, true);
        let shift = self.shift();
        for page in (at + shift) / GRAINS_OF_PAGE..=(at + shift + count - 1) / GRAINS_OF_PAGE {
            self.written[page / 64] |= 1 << (page % 64);
        }
        Some((&raw mut self.room).cast::<u8>().wrapping_add(at * GRAIN))
    }

    fn first_fit(&mut self, count: usize, step: usize) -> Option<usize> {
        self.first = self.first_free(self.first)?;
        let mut at = self.first.next_multiple_of(step);
        while at + count <= GRAINS {
            let Some(taken) = self.last_taken(at..at + count) else { return Some(at) };
            at = self.first_free(taken + 1)?.next_multiple_of(step);
        }
        None
    }

    fn last_fit(&self, count: usize, step: usize) -> Option<usize> {
        // Not in a page that holds something else behind the zone.
        let end = (GRAINS + self.shift()) / GRAINS_OF_PAGE * GRAINS_OF_PAGE - self.shift();
        let mut at = end.checked_sub(count)? / step * step;
        loop {
            let Some(taken) = self.first_taken(at..at + count) else {
                return Some(at);
            };
            at = taken.checked_sub(count)? / step * step;
        }
    }

    /// Takes a block back; `false` if it is not from here.
    pub(super) fn give(&mut self, block: *mut u8, layout: Layout) -> bool {
        let start = (&raw const self.room).addr();
        if !(start..start + ROOM).contains(&block.addr()) {
            return false;
        }
        let at = (block.addr() - start) / GRAIN;
        self.mark(at..at + layout.size().div_ceil(GRAIN).max(1), false);
        self.first = self.first.min(at);
        true
    }

    /// Gives pages back that hold nothing.
    pub(super) fn discard_free_pages(&mut self) {
        let shift = self.shift();
        let base = (&raw const self.room).addr() - shift * GRAIN;
        // The first page holds the map as well.
        for page in 1..(GRAINS + shift).div_ceil(GRAINS_OF_PAGE) {
            let is_written = self.written[page / 64] >> (page % 64) & 1 != 0;
            let from = page * GRAINS_OF_PAGE - shift;
            let to = (from + GRAINS_OF_PAGE).min(GRAINS);
            // The last page may hold something else behind the zone.
            let is_whole = to - from == GRAINS_OF_PAGE;
            if is_written && is_whole && self.first_taken(from..to).is_none() {
                native::discard(base + page * PAGE, PAGE);
                self.written[page / 64] &= !(1 << (page % 64));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_exactly_the_bits_of_a_range() {
        for start in 0..200 {
            for end in start + 1..200 {
                let bits: Vec<usize> = words(start..end)
                    .flat_map(|(word, mask)| {
                        (0..64).filter(move |b| mask >> b & 1 != 0).map(move |b| word * 64 + b)
                    })
                    .collect();
                assert_eq!(bits, (start..end).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_first_room_that_is_large_enough_is_taken() {
        let mut common = Box::new(Common::new());
        let base = (&raw const common.room).addr();
        let mut taken = vec![false; GRAINS];
        let mut held: Vec<(*mut u8, Layout)> = Vec::new();
        let mut random: u64 = 7;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
            (random >> 33) as usize % below
        };
        for round in 0..20_000 {
            // It fills up, and empties again.
            let is_full = round / 5000 % 2 == 1;
            if !held.is_empty() && next(10) < if is_full { 6 } else { 3 } {
                let (block, layout) = held.swap_remove(next(held.len()));
                assert!(common.give(block, layout));
                let at = (block.addr() - base) / GRAIN;
                taken[at..at + layout.size().div_ceil(GRAIN)].fill(false);
                continue;
            }
            let layout = Layout::from_size_align(1 + next(300), 1 << next(7)).unwrap();
            let (count, step) = (layout.size().div_ceil(GRAIN), layout.align().div_ceil(GRAIN));
            let is_free =
                |at: &usize| at + count <= GRAINS && !taken[*at..at + count].contains(&true);
            let expected = (0..GRAINS).step_by(step.max(1)).find(is_free);
            let block = common.take(layout, false);
            assert_eq!(block.map(|block| (block.addr() - base) / GRAIN), expected, "{round}");
            if let (Some(block), Some(at)) = (block, expected) {
                taken[at..at + count].fill(true);
                held.push((block, layout));
            }
        }
    }
}
