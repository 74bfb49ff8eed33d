//! The rotated files of a log, and what lies beside each: its index, and the mark that a
//! command is still to be run for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::index;
use super::names::{self, CURRENT};
use super::rules;
use crate::config::Logging;
use crate::messages;

/// Removes those that are too many beside a log of so many bytes.
pub(super) fn prune(directory: &Path, logging: &Logging, current: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for name in names::all_rotated(directory)? {
        let length = fs::symlink_metadata(directory.join(&name)).map_or(0, |m| m.len());
        files.push((name, length));
    }
    for name in rules::pruned(&files, logging, current) {
        let path = directory.join(name);
        if fs::symlink_metadata(todo_of(&path)).is_ok() {
            let what = "was one too many before its config_log_after had ended";
            messages::say("logger", &format!("{} {what}", path.display()));
        }
        remove(directory, name)?;
    }
    remove_lone(directory)
}

/// Removes the oldest rotated file of a log; how long it was. `None`: there is none.
pub(super) fn remove_oldest(directory: &Path) -> io::Result<Option<u64>> {
    let Some(name) = names::all_rotated(directory)?.into_iter().next() else {
        return Ok(None);
    };
    let length = fs::symlink_metadata(directory.join(&name))?.len();
    remove(directory, &name)?;
    Ok(Some(length))
}

/// Finishes a rotation that was cut short: an index without `current` belongs to the
/// newest rotated file.
pub(super) fn heal(directory: &Path) -> io::Result<()> {
    let index = index::path_of(&directory.join(CURRENT));
    if fs::symlink_metadata(&index).is_err() {
        return Ok(());
    }
    let target = names::all_rotated(directory)?.pop().map(|name| directory.join(name));
    match target.map(|target| index::path_of(&target)) {
        Some(theirs) if fs::symlink_metadata(&theirs).is_err() => fs::rename(index, theirs),
        _ => fs::remove_file(index),
    }
}

/// The mark that a command is still to be run for a rotated file.
pub(super) fn todo_of(rotated: &Path) -> PathBuf {
    let name = rotated.file_name().unwrap_or_default().to_string_lossy();
    rotated.with_file_name(format!(".{name}.todo"))
}

/// The rotated files of a log that a command is still to be run for, oldest first.
pub(super) fn todo(directory: &Path) -> Vec<PathBuf> {
    let names = names::all_rotated(directory).unwrap_or_default();
    let paths = names.into_iter().map(|name| directory.join(name));
    paths.filter(|path| fs::symlink_metadata(todo_of(path)).is_ok()).collect()
}

/// Removes a rotated file, whatever a command has made of it.
pub(super) fn forget(rotated: &Path) -> io::Result<()> {
    let stem = rotated.file_name().unwrap_or_default().to_string_lossy();
    let Some(directory) = rotated.parent() else { return Ok(()) };
    for name in names::all_rotated(directory)? {
        if name.starts_with(&*stem) {
            remove(directory, &name)?;
        }
    }
    remove_lone(directory)
}

fn remove(directory: &Path, name: &str) -> io::Result<()> {
    let path = directory.join(name);
    let own = name.get(..STAMPED).map_or_else(|| path.clone(), |stem| directory.join(stem));
    for path in [index::path_of(&own), todo_of(&own), path] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The part of a rotated file's name that is its time.
const STAMPED: usize = 23;

/// Indexes and marks of files that somebody has removed.
fn remove_lone(directory: &Path) -> io::Result<()> {
    let there = names::all_rotated(directory)?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let of = name.strip_prefix('.').and_then(|name| name.split_once("Z."));
        let Some((stem, "idx" | "todo")) = of else { continue };
        if names::is_rotated(&format!("{stem}Z")) && !there.iter().any(|t| t.starts_with(stem)) {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}
