//! The three directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use reraise::backend::place::is_volatile;
use reraise::error::reason;
use reraise::paths::{check_ancestors, check_dir, closed, state_of};

use super::findings::Findings;
use crate::cli::Setting;

/// Less than this, and a log fills it soon.
const SCARCE: u64 = 64 << 20;
/// Less than this, and a record may not fit.
const FULL: u64 = 64 << 10;

/// Checks all three.
pub(super) fn check(setting: &Setting, found: &mut Findings) {
    let me = setting.dirs.uid();
    let dir = &setting.dirs.dir;
    let readable = || access(dir, AccessFlags::R_OK | AccessFlags::X_OK).map_err(|_| closed(dir));
    match check_dir(dir, &[me]).and_then(|()| readable()) {
        Ok(()) => found.ok(format!("starter scripts: {}", dir.display())),
        Err(fault) => found.fault(&fault),
    }
    let given = |is_given: bool, option| is_given.then_some(option);
    let option = given(setting.dirs.given_piddir().is_some(), "--piddir");
    records(&setting.dirs.piddir(me), me, option, found);
    let option = given(setting.dirs.given_logdir().is_some(), "--logdir");
    logs(&setting.dirs.logdir(me), me, option, found);
}

/// With the option by which the user has named the place, if it was named.
fn records(piddir: &Path, me: u32, option: Option<&str>, found: &mut Findings) {
    let shown = piddir.display();
    if let Some(place) = made_on_need(piddir, "records", found) {
        remembers(place, found);
        return;
    }
    let Ok(about) = fs::metadata(piddir) else { return };
    if !about.is_dir() {
        no_directory(piddir, option, found);
        return;
    }
    if about.uid() != me && !(about.uid() == 0 && about.mode() & 0o1000 != 0) {
        found.problem(
            format!(
                "{shown}: belongs to user {}, who could exchange the records there",
                about.uid()
            ),
            format!("chown {me} {shown}; or share it: chown root {shown}; chmod 1777 {shown}"),
        );
    } else if let Err(fault) = check_ancestors(piddir, &[me]) {
        found.fault(&fault);
    } else if is_usable(piddir, "records", found) {
        remembers(piddir, found);
    }
    let state = state_of(piddir, me);
    match fs::symlink_metadata(&state) {
        Ok(own) if !own.is_dir() || own.uid() != me => found.problem(
            format!("{}: is not your own directory; somebody else made it", state.display()),
            format!("look at it (ls -ld {0}), and remove it", state.display()),
        ),
        Ok(own) if own.mode() & 0o077 != 0 => found.warning(
            format!("{}: other users can look into it", state.display()),
            format!("chmod 700 {}   # the next start does it too", state.display()),
        ),
        _ => {}
    }
}

fn remembers(place: &Path, found: &mut Findings) {
    if is_volatile(place) == Some(true) {
        found.warning(
            format!(
                "{}: is kept in memory, so what was asked to run is forgotten at a reboot",
                place.display()
            ),
            "put it on a disk: export RERAISE_PIDDIR=/var/tmp/reraise-$(id -u)",
        );
    }
}

fn logs(logdir: &Path, me: u32, option: Option<&str>, found: &mut Findings) {
    if made_on_need(logdir, "output", found).is_some() {
        return;
    }
    if !logdir.is_dir() {
        no_directory(logdir, option, found);
    } else if let Err(fault) = check_ancestors(logdir, &[me]) {
        found.fault(&fault);
    } else {
        is_usable(logdir, "output", found);
    }
}

/// Of a directory that is not there, the nearest one that is.
fn made_on_need<'a>(path: &'a Path, what: &str, found: &mut Findings) -> Option<&'a Path> {
    if fs::symlink_metadata(path).is_ok() {
        return None;
    }
    let above = path.ancestors().skip(1).find(|a| fs::metadata(a).is_ok())?;
    match access(above, AccessFlags::W_OK) {
        Ok(()) => found.ok(format!("{what}: {} (made at the first start)", path.display())),
        Err(e) => found.problem(
            format!("{}: cannot be made: {}", path.display(), reason(&e.into())),
            format!("see: ls -ld {}", above.display()),
        ),
    }
    Some(above)
}

/// What the user has named is not to be moved away.
fn no_directory(path: &Path, option: Option<&str>, found: &mut Findings) {
    let shown = path.display();
    let advice = match option {
        Some(option) => format!("name another one: {option} DIR"),
        None => format!("mv {shown} {shown}.old"),
    };
    found.problem(format!("{shown}: is not a directory"), advice);
}

fn is_usable(path: &Path, what: &str, found: &mut Findings) -> bool {
    let shown = path.display();
    if let Err(e) = access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        let advice = format!("give it to you: chown $(id -u) {shown}; chmod u+rwx {shown}");
        found.problem(format!("{shown}: cannot be written: {}", reason(&e.into())), advice);
        return false;
    }
    let Ok(about) = statvfs(path) else {
        found.ok(format!("{what}: {shown}"));
        return true;
    };
    let free = number(about.blocks_available()).saturating_mul(number(about.fragment_size()));
    let no_files = number(about.files()) > 0 && number(about.files_available()) == 0;
    space(&shown.to_string(), what, free, no_files, found)
}

/// Of 32 bits on some systems, and of 64 on others.
fn number(n: impl Into<u64>) -> u64 {
    n.into()
}

fn space(shown: &str, what: &str, free: u64, no_files: bool, found: &mut Findings) -> bool {
    let advice = format!("free some space: df -h {shown}");
    if free < FULL {
        found.problem(format!("{shown}: the disk is full"), advice);
        return false;
    }
    if no_files {
        found
            .problem(format!("{shown}: no more files can be made there"), format!("df -i {shown}"));
        return false;
    }
    if free < SCARCE {
        found.warning(format!("{shown}: only {} MB are free", free >> 20), advice);
    } else {
        found.ok(format!("{what}: {shown}"));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_nearly_full() {
        for (free, no_files, text) in [
            (1 << 30, false, "Ok: output: /l | \n"),
            (20 << 20, false, "Warning: /l: only 20 MB are free | free some space: df -h /l\n"),
            (1, false, "Problem: /l: the disk is full | free some space: df -h /l\n"),
            (1 << 30, true, "Problem: /l: no more files can be made there | df -i /l\n"),
        ] {
            let mut found = Findings::default();
            space("/l", "output", free, no_files, &mut found);
            assert_eq!(found.text(), text);
        }
    }

    #[test]
    fn a_file_in_the_way_is_moved_only_where_it_is_ours() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        let (me, shown) = (nix::unistd::geteuid().as_raw(), file.display());
        for (option, advice) in [
            (Some("--piddir"), "name another one: --piddir DIR".to_owned()),
            (None, format!("mv {shown} {shown}.old")),
        ] {
            let expected = format!("Problem: {shown}: is not a directory | {advice}\n");
            for check in [records, logs] {
                let mut found = Findings::default();
                check(&file, me, option, &mut found);
                assert_eq!(found.text(), expected);
            }
        }
        // Nor is the owner of somebody else's file to be changed.
        let mut found = Findings::default();
        records(Path::new("/etc/passwd"), me, Some("--piddir"), &mut found);
        assert!(found.text().ends_with(" | name another one: --piddir DIR\n"), "{}", found.text());
    }

    #[test]
    fn what_is_missing_is_made_where_that_is_possible() {
        let top = tempfile::tempdir().unwrap();
        let mut found = Findings::default();
        let path = top.path().join("a/b");
        assert_eq!(made_on_need(&path, "records", &mut found), Some(top.path()));
        assert!(found.text().starts_with("Ok: records: "), "{}", found.text());
        assert_eq!(made_on_need(top.path(), "records", &mut found), None);
    }
}
