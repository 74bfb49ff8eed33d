//! What kind of file system a directory is on. Every system names it in its own
//! way.

use std::path::Path;

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        fn is_tmpfs(path: &Path) -> Option<bool> {
            use nix::sys::statfs::{TMPFS_MAGIC, statfs};
            Some(statfs(path).ok()?.filesystem_type() == TMPFS_MAGIC)
        }
    } else if #[cfg(any(
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd",
        target_os = "macos",
    ))] {
        fn is_tmpfs(path: &Path) -> Option<bool> {
            let about = nix::sys::statfs::statfs(path).ok()?;
            Some(matches!(about.filesystem_type_name(), "tmpfs" | "mfs"))
        }
    } else {
        fn is_tmpfs(_: &Path) -> Option<bool> {
            None
        }
    }
}

/// Whether what is written there is gone after a reboot, since it is kept in
/// memory. `None`: the system does not tell.
#[must_use]
pub fn is_volatile(path: &Path) -> Option<bool> {
    is_tmpfs(path)
}
