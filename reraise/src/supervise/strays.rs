//! Orphans that belong to an adopted run: their parents are gone, and so only
//! the keeper, whose children they have become, knows whose they were. It notes
//! them, a line each; the worker reads that when it looks at the tree.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::backend::ProcessId;
use crate::paths::Files;

/// Those of this run. Those of another may be strangers by now: what tells
/// processes apart does so for one boot.
#[must_use]
pub fn read(files: &Files, run: u64) -> Vec<ProcessId> {
    of_run(&text(files), run)
}

fn text(files: &Files) -> String {
    fs::read_to_string(files.file("strays")).unwrap_or_default()
}

fn of_run(text: &str, run: u64) -> Vec<ProcessId> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let pid = fields.next()?.parse().ok()?;
        let born = fields.next()?.parse().ok()?;
        let its: u64 = fields.next()?.parse().ok()?;
        (its == run).then_some(ProcessId { pid, born })
    };
    text.lines().filter_map(line).collect()
}

/// Notes another one of this run. Those that are dead are left out now and then,
/// since a service that is adopted may live for years.
///
/// # Errors
/// As `open(2)`, `write(2)` and `rename(2)`.
pub fn note(
    files: &Files,
    run: u64,
    stray: ProcessId,
    is_alive: impl Fn(&ProcessId) -> bool,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let line = |stray: &ProcessId| format!("{} {} {run}\n", stray.pid, stray.born);
    let text = text(files);
    if !is_due(text.lines().count()) {
        let mut file = options.append(true).open(files.file("strays"))?;
        return file.write_all(line(&stray).as_bytes());
    }
    let mut noted = of_run(&text, run);
    noted.retain(is_alive);
    noted.push(stray);
    let scratch = files.file("strays.new");
    let text: String = noted.iter().map(line).collect();
    options.write(true).truncate(true).open(&scratch)?.write_all(text.as_bytes())?;
    // A reader sees the old ones or these.
    fs::rename(scratch, files.file("strays"))
}

/// Whether so many lines are to be looked through: whenever they have doubled,
/// so that it costs little for each.
fn is_due(lines: usize) -> bool {
    lines >= 16 && lines.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;

    #[test]
    fn the_dead_are_forgotten_and_the_living_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let name = ServiceName::new("web".as_ref()).unwrap();
        let files = Files::of(dir.path(), 1, &name);
        fs::create_dir_all(&files.own).unwrap();
        assert_eq!(read(&files, 7), []);
        let stray = |pid: i32| ProcessId { pid, born: pid.unsigned_abs().into() };
        // Of a thousand, every hundredth lives on.
        let is_alive = |stray: &ProcessId| stray.pid % 100 == 0;
        for pid in 1..=1000 {
            note(&files, 7, stray(pid), is_alive).unwrap();
            let noted = read(&files, 7);
            let living = (1..=pid).filter(|pid| pid % 100 == 0 && *pid != 0).map(stray);
            assert!(living.into_iter().all(|one| noted.contains(&one)), "{pid}: {noted:?}");
            assert_eq!(noted.last(), Some(&stray(pid)));
            assert!(noted.len() <= 32, "{pid}: {}", noted.len());
        }
        // Those of another run are none of its.
        note(&files, 8, stray(5000), |_| true).unwrap();
        assert!(!read(&files, 7).contains(&stray(5000)));
        assert_eq!(read(&files, 8), [stray(5000)]);
        for pid in 6000..6100 {
            note(&files, 9, stray(pid), |_| false).unwrap();
        }
        assert!(text(&files).lines().count() <= 32);
        assert_eq!(read(&files, 8), []);
        // All of them live: nothing is lost.
        for pid in 1001..=2000 {
            note(&files, 7, stray(pid), |stray| stray.pid > 1000).unwrap();
        }
        assert!((1001..=2000).all(|pid| read(&files, 7).contains(&stray(pid))));
    }
}
