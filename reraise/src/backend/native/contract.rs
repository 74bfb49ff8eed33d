//! What the system crates must export. One that drifts fails here, on its line.

use super::sys;
use nix::sys::signal::Signal;
use std::ffi::CStr;
use std::io::Result;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pid and wait status.
type Child = Option<(i32, i32)>;

const _: fn(i32) -> Result<Option<u64>> = sys::born;
const _: fn(i32, u64, Signal) -> Result<bool> = sys::send;
const _: fn(i32, u64, Option<BorrowedFd<'_>>) -> Option<i32> = sys::exit_status;
const _: fn() -> Result<bool> = sys::become_subreaper;
const _: bool = sys::KEEPS_ORPHANS;
const _: fn(i32) = sys::close_from;
const _: unsafe fn() -> Result<Option<nix::unistd::Pid>> = sys::fork_beside;
const _: unsafe fn(
    *mut [u8],
    extern "C" fn(*mut libc::c_void) -> libc::c_int,
    *mut libc::c_void,
) -> Result<i32> = sys::start_beside;
const _: unsafe fn(
    *mut [u8],
    extern "C" fn(*mut libc::c_void) -> libc::c_int,
    *mut libc::c_void,
) -> Result<i32> = sys::fork_onto;
const _: fn() -> Option<(usize, usize)> = sys::first_stack;
const _: fn((usize, usize)) = sys::leave_first_stack;
const _: fn() = sys::forget_environment;
const _: fn(usize) = sys::guard;
const _: fn() -> i32 = sys::parent;
const _: fn(bool) -> Result<Child> = sys::peek_child;
const _: fn(i32) -> Option<(u64, u64)> = sys::usage_of_ended;
const _: fn() -> Option<PathBuf> = sys::memory_counter;
const _: fn(&Path) -> Option<u64> = sys::memory_kills;
const _: fn(i32) -> Result<bool> = sys::is_stopped;
const _: fn(i32) -> Result<bool> = sys::knows_its_children;
const _: fn() = sys::prepare_title;
const _: fn(&CStr) = sys::set_title;
const _: fn(usize, bool) -> Result<*mut u8> = sys::map_memory;
const _: fn(usize, usize) = sys::discard;
const _: fn() -> Vec<(usize, usize)> = sys::code;
const _: fn() -> Result<u64> = sys::boot_id;
const _: fn() -> Result<u64> = sys::pid_space;
const _: fn() -> Result<Vec<sys::Process>> = sys::processes;
const _: fn(i32) -> Result<Vec<i32>> = sys::descendants;
const _: fn(i32) -> Result<Vec<i32>> = sys::children;
const _: fn(i32, &[u8]) -> Option<Vec<u8>> = sys::variable;
const _: fn() = sys::disable_pidfd;
const _: fn() -> bool = sys::has_handles;
const _: fn(&[Signal]) -> Result<sys::EventQueue> = sys::EventQueue::new;
const _: fn(&mut sys::EventQueue, i32, u64) -> Result<bool> = sys::EventQueue::watch_process;
const _: fn(&mut sys::EventQueue, i32) = sys::EventQueue::forget_process;
const _: fn(&mut sys::EventQueue, BorrowedFd<'_>, u64) -> Result<()> =
    sys::EventQueue::watch_readable;
const _: fn(&mut sys::EventQueue, BorrowedFd<'_>, u64) -> Result<()> = sys::EventQueue::watch_pipe;
const _: fn(&mut sys::EventQueue, BorrowedFd<'_>) = sys::EventQueue::forget_readable;
const _: fn(&mut sys::EventQueue, Option<Duration>) -> Result<Option<sys::Event>> =
    sys::EventQueue::next;
const _: bool = sys::MOVES;
const _: fn(BorrowedFd<'_>, BorrowedFd<'_>, u64, usize) -> Result<usize> = sys::move_bytes;
const _: fn() -> Result<sys::Peephole> = sys::Peephole::new;
const _: fn(&sys::Peephole, BorrowedFd<'_>, &mut [u8]) -> Result<usize> = sys::Peephole::look;
const _: fn(BorrowedFd<'_>) -> usize = sys::unread;
const _: fn(BorrowedFd<'_>, i32) = sys::enlarge;
const _: fn(&[PathBuf]) -> Option<sys::Notify> = sys::Notify::new;
const _: fn(&sys::Notify) -> BorrowedFd<'_> = sys::Notify::fd;
const _: fn(&mut sys::Notify, &[PathBuf]) -> Option<Vec<usize>> = sys::Notify::changed;
