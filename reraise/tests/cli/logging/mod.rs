//! What services say, kept: not a line lost or doubled, whatever is killed; every key
//! of the configuration; disks that are full, gone or hang.

mod disks;
mod keys;
mod lossless;
mod runs;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use reraise::lock::{self, Holder};
use reraise::logger::{names, serve};

use crate::support::{Sandbox, signal, wait_some};

/// The logger of a sandbox: whoever holds its lock.
fn find_logger(s: &Sandbox) -> Option<i32> {
    match lock::holder_of(&serve::lock_in(&s.state()), lock::ALIVE) {
        Ok(Holder::Pid(pid)) => Some(pid),
        _ => None,
    }
}

#[track_caller]
fn logger(s: &Sandbox) -> i32 {
    wait_some("the logger", || find_logger(s))
}

/// Kills the logger and waits for another one.
#[track_caller]
fn kill_logger(s: &Sandbox) {
    let old = logger(s);
    signal(old, Signal::SIGKILL);
    wait_some("another logger", || find_logger(s).filter(|&new| new != old));
}

/// All that stands in a log, oldest first.
fn whole(directory: &Path) -> Vec<u8> {
    // A rotation may be under way between two looks.
    loop {
        let files = names::all(directory).unwrap();
        let texts: Vec<Option<Vec<u8>>> = files.iter().map(|path| fs::read(path).ok()).collect();
        if names::all(directory).unwrap() == files
            && texts.iter().rev().skip(1).all(Option::is_some)
        {
            return texts.into_iter().flatten().flatten().collect();
        }
    }
}

/// The rotated files of a log.
fn rotated(directory: &Path) -> Vec<PathBuf> {
    let names = names::all_rotated(directory).unwrap();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// Fails unless these are the numbers from 1 on, a line each; how many.
#[track_caller]
fn count_in_order(text: &[u8]) -> usize {
    let mut count = 0;
    for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let number = str::from_utf8(line).ok().and_then(|line| line.parse::<usize>().ok());
        count += 1;
        assert_eq!(number, Some(count), "line {count}: {:?}", String::from_utf8_lossy(line));
    }
    count
}
