//! Which version this is, and what it understands.
//!
//! What is written down says its own version: the record (`v=1`), the run slot
//! and the surroundings (in their first bytes). What a later version wrote is
//! refused in words, and never taken for nothing. Between processes there are
//! frames of words ([`crate::control`]); whoever does not know a word says so.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The number of this version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Tells this very program, which is `program`, from every other one, also of the same version: where
/// it lies, and when it was written. It is the same for all that were forked or
/// executed from one file.
///
/// # Errors
/// As `stat(2)`.
pub fn own_build(program: &Path) -> io::Result<u64> {
    // On Linux the file that we were executed from, which may be gone by now.
    let about = fs::metadata("/proc/self/exe").or_else(|_| fs::metadata(program))?;
    let numbers = [
        about.dev(),
        about.ino(),
        about.size(),
        about.mtime().cast_unsigned(),
        about.mtime_nsec().cast_unsigned(),
    ];
    // As in `crate::slot`: it only has to differ.
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    Ok(bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_the_same_each_time() {
        let us = std::env::current_exe().unwrap();
        assert_eq!(own_build(&us).unwrap(), own_build(&us).unwrap());
    }
}
