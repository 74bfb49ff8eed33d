//! The keeper's own zone: a list of free blocks for each of a few lengths, in
//! memory that no fork inherits.

use std::alloc::Layout;
use std::ptr;

use super::{GRAIN, LONGEST};
use crate::backend::native;

/// Two lengths for each power of two from 32 up to [`LONGEST`], and 16.
const CLASSES: usize = 24;
/// What is asked of the kernel at a time.
const CHUNK: usize = 16 << 20;
/// The most that the zone has.
const CHUNKS: usize = 64;

/// See the module.
pub(super) struct Own {
    /// Where the next new block begins, and where the chunk ends.
    next: usize,
    end: usize,
    free: [*mut Block; CLASSES],
    chunks: [usize; CHUNKS],
    count: usize,
}

/// A free block knows the next one of its length.
struct Block {
    next: *mut Self,
}

/// The index of the shortest length that holds `size`, and that length.
fn class(size: usize) -> (usize, usize) {
    let size = size.max(GRAIN);
    // The power of two below, or 8 for the smallest.
    let power = usize::BITS as usize - 1 - (size - 1).leading_zeros() as usize;
    let half = (1 << power) + (1 << power) / 2;
    // Below 48 the length between is no multiple of the grain.
    if power >= 5 && size <= half {
        (2 * (power - 3), half)
    } else {
        (2 * (power - 3) + 1, 2 << power)
    }
}

impl Own {
    pub(super) const fn new() -> Self {
        Self { next: 0, end: 0, free: [ptr::null_mut(); CLASSES], chunks: [0; CHUNKS], count: 0 }
    }

    /// A block, if there is room.
    pub(super) fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        debug_assert!(layout.size() <= LONGEST);
        let (index, length) = class(layout.size());
        let first = self.free[index];
        if layout.align() <= GRAIN && !first.is_null() {
            // SAFETY: what is on the list was given back and is a `Block` since.
            self.free[index] = unsafe { (*first).next };
            return Some(first.cast());
        }
        let align = layout.align().max(GRAIN);
        if self.next.next_multiple_of(align) + length > self.end {
            self.grow()?;
        }
        let start = self.next.next_multiple_of(align);
        self.next = start + length;
        Some(ptr::with_exposed_provenance_mut(start))
    }

    /// A new chunk; what was left of the old one is lost.
    fn grow(&mut self) -> Option<()> {
        let slot = self.chunks.get_mut(self.count)?;
        *slot = native::map_memory(CHUNK, true).ok()?.expose_provenance();
        self.count += 1;
        (self.next, self.end) = (*slot, *slot + CHUNK);
        Some(())
    }

    /// Takes a block back; `false` if it is not from here.
    ///
    /// # Safety
    /// It has this layout, and nobody uses it any more.
    pub(super) unsafe fn give(&mut self, block: *mut u8, layout: Layout) -> bool {
        let chunks = &self.chunks[..self.count];
        if !chunks.iter().any(|&c| (c..c + CHUNK).contains(&block.addr())) {
            return false;
        }
        let (index, _) = class(layout.size());
        let block: *mut Block = block.cast();
        // SAFETY: a block is at least as long and as aligned as a `Block`, and
        // the caller has given it up.
        unsafe { block.write(Block { next: self.free[index] }) };
        self.free[index] = block;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_a_length_that_holds_it() {
        let mut last = (0, 0);
        for size in 1..=LONGEST {
            let (index, length) = class(size);
            assert!(index < CLASSES, "{size}");
            assert!(length >= size && length.is_multiple_of(GRAIN), "{size} in {length}");
            assert!(length <= (2 * size).max(GRAIN), "{size} in {length}");
            assert!(index >= last.0 && length >= last.1, "{size}");
            assert!(size == 1 || (index == last.0) == (length == last.1), "{size}");
            last = (index, length);
        }
    }
}
