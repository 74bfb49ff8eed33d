//! Where the logs of the services are that were asked for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use reraise::config::{Config, LogTo};
use reraise::context::Context;
use reraise::error::{ExitCode, Fault};
use reraise::history::deaths::{self, Cause, Death};
use reraise::logger::names::{CURRENT, STDERR, all_rotated};
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot;

use super::stream::Channel;
use crate::cli::select::{Selection, select};
use crate::cli::{Setting, console, paste};

/// A service, and where its log is.
pub(super) struct Place {
    pub(super) name: ServiceName,
    /// By itself, not by a pattern.
    pub(super) is_named: bool,
    owner: u32,
    directory: PathBuf,
    /// Where it was before, while nothing is in the directory.
    before: Option<PathBuf>,
    /// What says where it is, if that may not be read.
    closed: Option<PathBuf>,
    /// Its script wants no log.
    pub(super) is_off: bool,
    /// Its script wants a log of its own for standard error.
    pub(super) is_split: bool,
}

impl Place {
    /// Its logs, in each place that of standard error last.
    pub(super) fn channels(&self) -> Vec<(Channel, PathBuf)> {
        let mut channels = Vec::new();
        for directory in std::iter::once(&self.directory).chain(&self.before) {
            let stderr = directory.join(STDERR);
            let first = if stderr.is_dir() { Channel::Stdout } else { Channel::Both };
            channels.extend([(first, directory.clone()), (Channel::Stderr, stderr)]);
        }
        channels
    }

    /// Where nothing can be read: that its owner alone can say where it would be.
    pub(super) fn hidden(&self, setting: &Setting) -> Option<Fault> {
        let path = self.closed.as_ref()?;
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let what = format!("where its log is, its owner alone can see ({})", path.display());
        Some(Fault { what, ..self.fault(setting, path, &denied) })
    }

    fn files(&self, setting: &Setting) -> Files {
        Files::of(&setting.dirs.piddir(self.owner), self.owner, &self.name)
    }

    /// The file in which the ends of its runs are kept.
    pub(super) fn deaths(&self, setting: &Setting) -> PathBuf {
        self.files(setting).file("deaths")
    }

    /// Its last runs, also those that have said nothing, and when they ended.
    pub(super) fn runs(&self, setting: &Setting) -> Vec<(i64, u64)> {
        let deaths = deaths::read_all(&self.deaths(setting));
        let has_run = |death: &&Death| !matches!(death.cause, Cause::Launch(_));
        let mut runs: Vec<(i64, u64)> =
            deaths.iter().filter(has_run).map(|death| (death.ended, death.run)).collect();
        let slot = slot::read(&self.files(setting).file("run"));
        if let Some(slot) = slot.filter(|slot| slot.run != 0 && slot.phase.has_run())
            && deaths.iter().all(|death| death.run != slot.run)
        {
            runs.push((i64::MAX, slot.run));
        }
        runs
    }

    /// A log that cannot be read.
    pub(super) fn fault(&self, setting: &Setting, path: &Path, error: &io::Error) -> Fault {
        let shown = path.display();
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Fault::system(&self.name, &format!("{shown} cannot be read"), error);
        }
        let what = format!("its log is closed to you ({shown})");
        let advice = if self.owner == setting.dirs.uid() {
            format!("see its owner and mode: ls -ld {shown}")
        } else {
            let command = paste::as_owner(setting, self.owner, "logs", &self.name);
            format!("read it as its owner: {command}")
        };
        Fault::new(ExitCode::Denied, &self.name, what, advice)
    }
}

/// Finds the services; what is wrong with the other words is said.
pub(super) fn find(
    setting: &Setting,
    patterns: &[OsString],
) -> Result<(Vec<Place>, Vec<ExitCode>), Fault> {
    // Of a service that was deleted, its log may still be there.
    let is_left = |word: &&OsString| {
        ServiceName::new(word).is_ok_and(|name| {
            let is_gone = Entry::find(&setting.dirs.dir, &name).is_ok_and(|entry| entry.is_none());
            is_gone && {
                let place = place(setting, (name, true), None);
                place.directory.is_dir() || place.before.is_some()
            }
        })
    };
    let (left, words): (Vec<&OsString>, Vec<&OsString>) = patterns.iter().partition(is_left);
    let mut found = if words.is_empty() && !left.is_empty() {
        Selection::default()
    } else {
        select(setting, &words.into_iter().cloned().collect::<Vec<_>>())?
    };
    for name in left.into_iter().flat_map(|word| ServiceName::new(word)) {
        found.named.insert(name.clone());
        found.services.entry(name).or_insert(None);
    }
    found.faults.iter().for_each(console::fault);
    let place = |(name, entry): (ServiceName, Option<Entry>)| {
        let is_named = found.named.contains(&name);
        place(setting, (name, is_named), entry.as_ref())
    };
    let places = found.services.into_iter().map(place).collect();
    Ok((places, found.faults.iter().map(|fault| fault.code).collect()))
}

fn place(setting: &Setting, (name, is_named): (ServiceName, bool), entry: Option<&Entry>) -> Place {
    let me = setting.dirs.uid();
    let owner = entry.map_or(me, |entry| entry.uid);
    let files = Files::of(&setting.dirs.piddir(owner), owner, &name);
    // What it was started with says where its log is, whoever asks.
    let path = files.file("context");
    let (context, closed) = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => (None, Some(path)),
        _ => (Context::read(&path), None),
    };
    let is_known = owner == me || context.is_some();
    let config = entry.filter(|_| is_known).map(|entry| config(entry, context.as_ref()));
    let config = config.unwrap_or_default();
    let (is_off, is_split) = (config.log == LogTo::No, config.logging.is_split);
    let logdir = setting.dirs.logdir(owner);
    let kept = context.map_or_else(|| logdir.clone(), |context| context.logdir);
    let directory = match config.log {
        LogTo::Path(path) => path,
        _ => kept.join(name.as_str()),
    };
    let others = [kept, logdir].map(|dir| dir.join(name.as_str()));
    let is_before = |other: &PathBuf| *other != directory && is_there(other);
    let before =
        if is_there(&directory) { None } else { others.into_iter().find(|o| is_before(o)) };
    Place { name, is_named, owner, directory, before, closed, is_off, is_split }
}

/// What its script says, with the variables that it was started with.
fn config(entry: &Entry, context: Option<&Context>) -> Config {
    let env = |name: &str| match context {
        Some(context) => context.variable(name),
        None => std::env::var(name).ok(),
    };
    let script = File::open(&entry.program).ok();
    let config = script.and_then(|mut script| Config::read(&mut script, &env).ok());
    config.unwrap_or_default().0
}

/// Whether there is, or may be, a log in a directory.
fn is_there(directory: &Path) -> bool {
    let current = fs::symlink_metadata(directory.join(CURRENT));
    current.map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |_| true)
        || all_rotated(directory).is_ok_and(|names| !names.is_empty())
}
