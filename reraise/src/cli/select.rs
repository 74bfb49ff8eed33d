//! Which services a command is about.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use glob::{MatchOptions, Pattern};

use reraise::error::{ExitCode, Fault};
use reraise::name::{ServiceName, printable};
use reraise::paths;
use reraise::service::Entry;
use reraise::supervise::launch::no_service;

use super::{Setting, usage};

/// The services that were named, and what was wrong with the rest.
#[derive(Default)]
pub(crate) struct Selection {
    /// In order; the entry is missing where only a record is left.
    pub(crate) services: BTreeMap<ServiceName, Option<Entry>>,
    /// Those that were named, not matched by a pattern.
    pub(crate) named: BTreeSet<ServiceName>,
    /// Arguments that select nothing.
    pub(crate) faults: Vec<Fault>,
}

/// Selects by names and patterns; no pattern at all selects everything.
pub(crate) fn select(setting: &Setting, patterns: &[OsString]) -> Result<Selection, Fault> {
    let dir = &setting.dirs.dir;
    let known = all(setting, patterns.is_empty() || patterns.iter().any(is_pattern))?;
    let mut found =
        Selection { services: BTreeMap::new(), named: BTreeSet::new(), faults: Vec::new() };
    let open = fs::File::open(dir).ok();
    let entry = |name: &ServiceName| {
        let found = match &open {
            Some(open) => Entry::find_in(open.as_fd(), dir, name),
            None => Entry::find(dir, name),
        };
        found.unwrap_or(None)
    };
    if patterns.is_empty() {
        let with_entry = |name| {
            let entry = entry(&name);
            (name, entry)
        };
        found.services = known.into_iter().map(with_entry).collect();
        return Ok(found);
    }
    for pattern in patterns {
        match one(setting, pattern, &known) {
            Ok(names) => {
                if !is_pattern(pattern) {
                    found.named.extend(names.iter().cloned());
                }
                let with_entry = names.into_iter().map(|name| {
                    let entry = entry(&name);
                    (name, entry)
                });
                found.services.extend(with_entry);
            }
            Err(fault) => found.faults.push(fault),
        }
    }
    Ok(found)
}

fn is_pattern(word: &OsString) -> bool {
    word.to_str().is_some_and(|w| w.contains(['*', '?', '[']))
}

fn one(
    setting: &Setting,
    word: &OsString,
    known: &BTreeSet<ServiceName>,
) -> Result<Vec<ServiceName>, Fault> {
    let dir = &setting.dirs.dir;
    let name = ServiceName::new(word);
    if let Ok(name) = &name
        && (known.contains(name) || is_there(setting, name)?)
    {
        return Ok(vec![name.clone()]);
    }
    if is_pattern(word) {
        return matching(&word.to_string_lossy(), known, dir);
    }
    match name {
        Ok(name) => {
            let fault = no_service(&name, dir);
            let all = all(setting, true).unwrap_or_default();
            Err(usage::or_nearest(fault, word, all.iter().map(ServiceName::as_str)))
        }
        Err(e) => Err(Fault::new(ExitCode::Usage, printable(word), e, e.advice())),
    }
}

fn is_there(setting: &Setting, name: &ServiceName) -> Result<bool, Fault> {
    let dir = &setting.dirs.dir;
    let entry = Entry::find(dir, name).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => paths::closed(&dir.join(name.as_str())),
        _ => Fault::system(name, "cannot look at its script", &e),
    })?;
    Ok(entry.is_some() || has_record(setting, name))
}

/// Whether there is a record of ours; in a shared directory of records there
/// may be those of others.
fn has_record(setting: &Setting, name: &ServiceName) -> bool {
    let me = setting.dirs.uid();
    let path = setting.dirs.piddir(me).join(name.as_str());
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.uid() == me)
}

fn matching(
    word: &str,
    known: &BTreeSet<ServiceName>,
    dir: &Path,
) -> Result<Vec<ServiceName>, Fault> {
    let pattern = Pattern::new(word).map_err(|e| {
        let advice = "patterns are those of the shell: * ? [...]";
        Fault::new(ExitCode::Usage, printable(word.as_ref()), e.msg, advice)
    })?;
    let options = MatchOptions::new();
    let names: Vec<_> =
        known.iter().filter(|n| pattern.matches_with(n.as_str(), options)).cloned().collect();
    if names.is_empty() {
        let advice = format!("see what is in {}: reraise list", dir.display());
        return Err(Fault::new(ExitCode::NoService, word, "matches no service", advice));
    }
    Ok(names)
}

/// Every name in `$RERAISE_DIR` or among our records; files that cannot be
/// services are left to `doctor`.
fn all(setting: &Setting, wanted: bool) -> Result<BTreeSet<ServiceName>, Fault> {
    let mut names = BTreeSet::new();
    if !wanted {
        return Ok(names);
    }
    let dir = &setting.dirs.dir;
    let scripts = fs::read_dir(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Fault::new(
            ExitCode::Usage,
            dir.display(),
            "does not exist",
            "make a first service: reraise skeleton NAME -- COMMAND",
        ),
        io::ErrorKind::NotADirectory => {
            let advice = "name a directory with --dir, or with RERAISE_DIR";
            Fault::new(ExitCode::Usage, dir.display(), "is not a directory", advice)
        }
        io::ErrorKind::PermissionDenied => paths::closed(dir),
        _ => Fault::system(dir.display(), "cannot be read", &e),
    })?;
    names.extend(scripts.flatten().flat_map(|e| ServiceName::new(&e.file_name())));
    // A record without a script is a service whose script was deleted.
    let records = fs::read_dir(setting.dirs.piddir(setting.dirs.uid())).into_iter().flatten();
    let files = records.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    let left = files.map(|e| e.file_name());
    let left = left.filter(|name| name.to_str().is_none_or(|name| !names.contains(name)));
    let left = left.flat_map(|name| ServiceName::new(&name));
    let left: Vec<_> = left.filter(|name| has_record(setting, name)).collect();
    names.extend(left);
    Ok(names)
}
