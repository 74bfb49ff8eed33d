//! The allocator of `auto-reraise`, made for one thing: a worker is a fork of
//! the keeper, and each page that either of them writes afterwards is a page
//! that this service costs. A general allocator spreads what both use over the
//! same pages, and is itself spread over more.
//!
//! There are two zones. What is allocated in the *own* zone lies in memory that
//! a fork does not inherit at all: the keeper's tables. What is allocated in the
//! *common* zone lies together behind the program's own data, where no further
//! page table is needed for it: what was allocated before there was a keeper,
//! and all that a worker has.
//!
//! 1. The keeper calls [`keep_own`] when it begins: from then on it allocates in
//!    its own zone.
//! 2. For each worker it builds what that worker is given inside of [`in_common`],
//!    and forks there. The worker goes on in the common zone, and must not touch
//!    anything else of the keeper's.
//! 3. Before it waits, unless for a moment only, a worker calls [`rest`], which gives back
//!    the pages that it does not need at rest.
//!
//! For processes with a single thread only, which keeper and worker are.

mod common;
mod own;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;

use crate::backend::native;
use common::Common;
use own::Own;

/// See the module. To be declared as `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct Zones;

/// Above this length a block comes from the system's allocator.
const LONGEST: usize = 32 << 10;
/// The unit of lengths, and the least alignment.
const GRAIN: usize = 16;
/// What the kernel calls a page, on the machines that this was made for.
const PAGE: usize = 4096;
/// Parts of code that are remembered: three for the program and each library.
const CODE: usize = 16;
/// Above this alignment likewise.
const MOST_ALIGNED: usize = 64;

/// All that there is, on pages of its own. What changes with each allocation
/// comes first, and shares a page with the first blocks.
#[repr(C, align(4096))]
struct State {
    is_own: bool,
    has_own: bool,
    /// See [`briefly`].
    is_brief: bool,
    /// See [`native::first_stack`].
    first_stack: Option<(usize, usize)>,
    /// Code and constants, see [`native::code`].
    code: [(usize, usize); CODE],
    own: Own,
    common: Common,
}

struct Single(UnsafeCell<State>);
// SAFETY: `auto-reraise` has one thread, and nothing here is called by a signal
// handler.
unsafe impl Sync for Single {}

static STATE: Single = Single(UnsafeCell::new(State {
    is_own: false,
    has_own: false,
    is_brief: false,
    first_stack: None,
    code: [(0, 0); CODE],
    own: Own::new(),
    common: Common::new(),
}));

/// Where workers have their stack: with the rest, so that it needs no page table
/// of its own. Pages that are not used cost nothing.
#[repr(C, align(4096))]
struct Stack(UnsafeCell<[u8; STACK]>);
// SAFETY: only the worker that runs on it uses it.
unsafe impl Sync for Stack {}

/// Several times what a worker needs at most.
const STACK: usize = 192 << 10;
static WORKERS_STACK: Stack = Stack(UnsafeCell::new([0; STACK]));

/// The stack of a worker.
pub(crate) fn stack() -> *mut [u8] {
    WORKERS_STACK.0.get()
}

/// In a worker, which runs on [`stack`]: gives up the one that its parent had.
pub(crate) fn leave_parents_stack() {
    native::guard(stack().addr());
    // Not inherited: what comes to lie at those addresses is something else.
    with(|state| state.own = Own::new());
    if let Some(first) = with(|state| state.first_stack) {
        native::leave_first_stack(first);
    }
}

/// Calls `act` with the state.
fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    // SAFETY: see `Single`; `act` never comes back here, so there is no other
    // reference.
    act(unsafe { &mut *STATE.0.get() })
}

/// From now on allocations are the keeper's own.
pub fn keep_own() {
    // Asked for here: the answer takes locks, which lie on further pages.
    let (code, first_stack) = (native::code(), native::first_stack());
    with(|state| state.first_stack = first_stack);
    with(|state| state.code.iter_mut().zip(code).for_each(|(slot, part)| *slot = part));
    begin(native::page_size());
}

/// With larger pages a discarded one would hold more than was looked at.
fn begin(page_size: usize) {
    let is_known = page_size == PAGE;
    with(|state| (state.is_own, state.has_own) = (is_known, is_known));
}

/// In a child of the keeper that is no worker: it has an own zone again, as large as it
/// needs; the common one is for little.
pub fn begin_own() {
    with(|state| state.is_own = state.has_own);
}

/// Allocates in the common zone while `act` runs, and calls it.
pub fn in_common<T>(act: impl FnOnce() -> T) -> T {
    with(|state| state.is_own = false);
    let answer = act();
    with(|state| state.is_own = state.has_own);
    answer
}

/// Allocates apart from what stays while `act` runs, and calls it: for what is large and
/// gone in a moment, and would be a hole among the rest.
pub fn briefly<T>(act: impl FnOnce() -> T) -> T {
    let before = with(|state| std::mem::replace(&mut state.is_brief, true));
    let answer = act();
    with(|state| state.is_brief = before);
    answer
}

/// Gives the memory back that holds nothing: free pages of the common zone, and
/// the stack below the caller. For a long rest also the code, which `ps` counts
/// for each worker though they share it.
pub fn rest(is_long: bool) {
    // Without a keeper there is nothing to share, and nothing to gain.
    if !with(|state| state.has_own) {
        return;
    }
    with(|state| state.common.discard_free_pages());
    discard_stack();
    if is_long {
        let code = with(|state| state.code);
        code.iter()
            .filter(|part| part.1 > 0)
            .for_each(|&(start, length)| native::discard(start, length));
    }
}

/// What is left alone below us: frames of the calls that discard the rest.
const MARGIN: usize = 1 << 10;
/// How far the stack is thought to have been used at most.
const DEPTH: usize = 64 << 10;

/// Whatever earlier calls have left on the stack below this frame.
#[inline(never)]
fn discard_stack() {
    let here = 0_u8;
    let end = (std::hint::black_box(&raw const here).addr() - MARGIN) & !4095;
    native::discard(end - DEPTH, DEPTH);
}

fn is_ours(layout: Layout) -> bool {
    layout.size() <= LONGEST && layout.align() <= MOST_ALIGNED
}

// SAFETY: blocks are as long and as aligned as asked, and belong to one owner
// until they are freed; `Single` says why no lock is needed.
unsafe impl GlobalAlloc for Zones {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_ours(layout) {
            let block = with(|state| {
                if state.is_own {
                    state.own.take(layout)
                } else {
                    state.common.take(layout, state.is_brief)
                }
            });
            if let Some(block) = block {
                return block;
            }
        }
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let is_taken = is_ours(layout)
            && with(|state| {
                // SAFETY: the caller gives the block up, and it is that long.
                state.common.give(block, layout) || unsafe { state.own.give(block, layout) }
            });
        if !is_taken {
            // SAFETY: what lies in neither zone came from there.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random takes and gives; what is held must keep its contents.
    fn exercise(is_own: bool) {
        let mut random: u64 = 1;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
            (random >> 33) as usize % below
        };
        with(|state| state.is_own = is_own);
        let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
        for round in 0..50_000_usize {
            if held.len() > 100 || (!held.is_empty() && next(2) == 0) {
                let (block, layout, mark) = held.swap_remove(next(held.len()));
                for at in 0..layout.size() {
                    // SAFETY: it is held, and that long.
                    let byte = unsafe { block.add(at) };
                    // SAFETY: likewise.
                    assert_eq!(unsafe { byte.read() }, mark);
                }
                // SAFETY: it came from `alloc` with this layout.
                unsafe { Zones.dealloc(block, layout) };
                continue;
            }
            if next(100) == 0 {
                with(|state| state.common.discard_free_pages());
            }
            let size = 1 + next(if round % 10 == 0 { 40_000 } else { 300 });
            let layout = Layout::from_size_align(size, 1 << next(8)).unwrap();
            // SAFETY: the size is not zero.
            let alloc = || unsafe { Zones.alloc(layout) };
            let block = if next(4) == 0 { briefly(alloc) } else { alloc() };
            assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
            let mark = round as u8;
            // SAFETY: it is that long, and ours.
            unsafe { block.write_bytes(mark, size) };
            held.push((block, layout, mark));
        }
    }

    // One test: nextest gives it a process of its own, libtest a thread, and
    // the zones know no threads.
    #[test]
    fn blocks_do_not_overlap_and_come_back() {
        exercise(false);
        exercise(true);
        // Pages of 16 and 64 kB, as on some arm64, are left to the system.
        for (page_size, is_known) in [(16 << 10, false), (64 << 10, false), (PAGE, true)] {
            begin(page_size);
            assert_eq!(with(|state| (state.is_own, state.has_own)), (is_known, is_known));
            in_common(|| assert!(!with(|state| state.is_own)));
            assert_eq!(with(|state| state.is_own), is_known);
        }
    }
}
