//! The common zone: first fit in a map with a bit for each grain. Slower than
//! lists, but nothing is kept in free memory, so that whole pages of it can be
//! given back, and what lives stays together at the beginning.

use std::alloc::Layout;

use super::GRAIN;
use crate::backend::native;

/// Bytes of the zone. Pages that were never used cost nothing.
const ROOM: usize = 128 << 10;
const GRAINS: usize = ROOM / GRAIN;
/// Longer blocks lie at the far end.
const LARGE: usize = 2048;
const PAGE: usize = 4096;
const GRAINS_OF_PAGE: usize = PAGE / GRAIN;

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

    fn is_taken(&self, grain: usize) -> bool {
        self.map[grain / 64] >> (grain % 64) & 1 != 0
    }

    fn mark(&mut self, from: usize, count: usize, taken: bool) {
        for grain in from..from + count {
            let bit = 1 << (grain % 64);
            let word = &mut self.map[grain / 64];
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }

    /// The offset of the room in its first page, in grains.
    fn shift(&self) -> usize {
        (&raw const self.room).addr() % PAGE / GRAIN
    }

    /// A block, if there is room. Large ones are short-lived buffers, mostly;
    /// they are taken from the far end, or what lives longer would come to lie
    /// behind them.
    pub(super) fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        let count = layout.size().div_ceil(GRAIN).max(1);
        let step = layout.align().div_ceil(GRAIN).max(1);
        let at = if layout.size() > LARGE {
            self.last_fit(count, step)?
        } else {
            self.first_fit(count, step)?
        };
        self.mark(at, count, true);
        let shift = self.shift();
        for page in (at + shift) / GRAINS_OF_PAGE..=(at + shift + count - 1) / GRAINS_OF_PAGE {
            self.written[page / 64] |= 1 << (page % 64);
        }
        Some((&raw mut self.room).cast::<u8>().wrapping_add(at * GRAIN))
    }

    fn first_fit(&mut self, count: usize, step: usize) -> Option<usize> {
        let mut at = self.first.next_multiple_of(step);
        let mut is_first = step == 1;
        while at + count <= GRAINS {
            let Some(taken) = (at..at + count).rev().find(|&grain| self.is_taken(grain)) else {
                if is_first {
                    self.first = at + count;
                }
                return Some(at);
            };
            at = (taken + 1).next_multiple_of(step);
            is_first = is_first && count == 1;
        }
        None
    }

    fn last_fit(&self, count: usize, step: usize) -> Option<usize> {
        // Not in a page that holds something else behind the zone.
        let end = (GRAINS + self.shift()) / GRAINS_OF_PAGE * GRAINS_OF_PAGE - self.shift();
        let mut at = end.checked_sub(count)? / step * step;
        loop {
            let Some(taken) = (at..at + count).find(|&grain| self.is_taken(grain)) else {
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
        self.mark(at, layout.size().div_ceil(GRAIN).max(1), false);
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
            if is_written && is_whole && !(from..to).any(|grain| self.is_taken(grain)) {
                native::discard(base + page * PAGE, PAGE);
                self.written[page / 64] &= !(1 << (page % 64));
            }
        }
    }
}
