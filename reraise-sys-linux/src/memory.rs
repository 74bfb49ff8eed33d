//! What the kernel has killed for want of memory (cgroups(7)).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the kernel counts what it has killed for memory in our control group, which is
/// that of our children unless they have left it: version 2 in `memory.events` (Linux
/// 4.13), with those of the groups below; version 1 in `memory.oom_control`.
#[must_use]
pub fn memory_counter() -> Option<PathBuf> {
    let mut buffer = [0; 2048];
    let (is_first, group) = group(read(Path::new("/proc/self/cgroup"), &mut buffer)?)?;
    Some(PathBuf::from(match is_first {
        true => format!("/sys/fs/cgroup/memory{group}/memory.oom_control"),
        false => format!("/sys/fs/cgroup{group}/memory.events"),
    }))
}

/// How many that were; `None` where it does not tell, as in a root group.
#[must_use]
pub fn memory_kills(counter: &Path) -> Option<u64> {
    let mut buffer = [0; 512];
    let text = read(counter, &mut buffer)?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = File::open(path).ok()?.read(buffer).ok()?;
    str::from_utf8(&buffer[..length]).ok()
}

/// The group that accounts for memory, and whether it is one of version 1.
fn group(text: &str) -> Option<(bool, &str)> {
    let mut second = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "memory") {
            return Some((true, path));
        }
        if number == "0" && controllers.is_empty() {
            second = Some((false, path));
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::group;

    #[test]
    fn the_group_that_accounts_for_memory() {
        for (text, found) in [
            ("0::/user.slice/a b\n", Some((false, "/user.slice/a b"))),
            ("9:name=systemd:/\n4:cpu,memory:/x:y\n0::/\n", Some((true, "/x:y"))),
            ("9:name=systemd:/\n0::/\n", Some((false, "/"))),
            ("9:name=systemd:/\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(group(text), found, "{text}");
        }
    }
}
