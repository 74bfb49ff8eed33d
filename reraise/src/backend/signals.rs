//! What becomes of signals in a child: it begins with the defaults, whatever its
//! ancestors ignore or block.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

/// Up to the highest signal number of every system; for those that do not exist
/// `sigaction(2)` only says so.
const SIGNAL_NUMBERS: std::ops::RangeInclusive<i32> = 1..=128;
/// A bit for each signal that is ignored here, from 1 on: those that the child must
/// give up, since `execve(2)` resets handlers only.
static IGNORED: [AtomicU64; 2] = [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)];

/// Who starts us may have ignored SIGCHLD, and then the kernel would reap our
/// children for us and no exit code would ever be known.
pub(super) fn keep_zombies() {
    set_default(Signal::SIGCHLD as i32);
}

/// Looks which signals we ignore, std's SIGPIPE and whatever our caller did, so that
/// neither we nor our forks ask again for each launch. Nothing here changes it
/// later but `keep_zombies`, to the default.
pub fn note_ignored() {
    for (word, ignored) in IGNORED.iter().enumerate() {
        let is_ignored =
            |bit: &u32| is_ignored(*SIGNAL_NUMBERS.start() + (word * 64) as i32 + *bit as i32);
        let bits = (0..u64::BITS).filter(is_ignored).fold(0, |bits, bit| bits | 1 << bit);
        ignored.store(bits, Ordering::Relaxed);
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero is a valid structure.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and the pointer is to a live structure.
    let answer = unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) };
    answer == 0 && old.sa_sigaction == libc::SIG_IGN
}

fn set_default(signal: i32) {
    // SAFETY: no handler is installed, only taken away.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Takes back in a child what [`note_ignored`] has found, and lets all signals through;
/// allowed between fork and exec.
pub(super) fn give_up() {
    for (signal, at) in SIGNAL_NUMBERS.zip(0..) {
        if IGNORED[at / 64].load(Ordering::Relaxed) >> (at % 64) & 1 != 0 {
            set_default(signal);
        }
    }
    // After the dispositions: what is pending now has its default effect.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}
