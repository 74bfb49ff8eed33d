//! Where the logs of the services are that were asked for.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use reraise::config::LogTo;
use reraise::context::Context;
use reraise::error::{ExitCode, Fault};
use reraise::history::deaths::{self, Cause, Death};
use reraise::logger::names::STDERR;
use reraise::name::ServiceName;
use reraise::paths::Files;
use reraise::service::Entry;
use reraise::slot;
use reraise::supervise::launch;

use super::stream::Channel;
use crate::cli::act::context;
use crate::cli::select::{Selection, select};
use crate::cli::users::Users;
use crate::cli::{Setting, console};

/// A service, and where its log is.
pub(super) struct Place {
    pub(super) name: ServiceName,
    /// By itself, not by a pattern.
    pub(super) is_named: bool,
    owner: u32,
    directory: PathBuf,
    /// Its script wants no log.
    pub(super) is_off: bool,
    /// Its script wants a log of its own for standard error.
    pub(super) is_split: bool,
}

impl Place {
    /// Its logs, those of standard error last.
    pub(super) fn channels(&self) -> [(Channel, PathBuf); 2] {
        let stderr = self.directory.join(STDERR);
        let first = if stderr.is_dir() { Channel::Stdout } else { Channel::Both };
        [(first, self.directory.clone()), (Channel::Stderr, stderr)]
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
            let owner = Users::default().user(self.owner);
            format!("read it as its owner: sudo -u {owner} reraise logs {}", self.name)
        };
        Fault::new(ExitCode::Denied, &self.name, what, advice)
    }
}

/// Finds the services; what is wrong with the other words is said.
pub(super) fn find(
    setting: &Setting,
    patterns: &[OsString],
) -> Result<(Vec<Place>, Vec<ExitCode>), Fault> {
    let logdir = setting.dirs.logdir(setting.dirs.uid());
    // Of a service that was deleted, its log may still be there.
    let is_left = |word: &&OsString| {
        ServiceName::new(word).is_ok_and(|name| {
            let is_gone = Entry::find(&setting.dirs.dir, &name).is_ok_and(|entry| entry.is_none());
            is_gone && logdir.join(name.as_str()).is_dir()
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
    let context = context(setting).ok();
    let place = |(name, entry): (ServiceName, Option<Entry>)| {
        let is_named = found.named.contains(&name);
        place(setting, context.as_ref(), (name, is_named), entry.as_ref())
    };
    let places = found.services.into_iter().map(place).collect();
    Ok((places, found.faults.iter().map(|fault| fault.code).collect()))
}

fn place(
    setting: &Setting,
    context: Option<&Context>,
    (name, is_named): (ServiceName, bool),
    entry: Option<&Entry>,
) -> Place {
    let me = setting.dirs.uid();
    let owner = entry.map_or(me, |entry| entry.uid);
    let config = context
        .filter(|_| owner == me && entry.is_some())
        .and_then(|context| launch::load(context, &name).ok())
        .map(|loaded| loaded.config)
        .unwrap_or_default();
    let (is_off, is_split) = (config.log == LogTo::No, config.logging.is_split);
    let directory = match config.log {
        LogTo::Path(path) => path,
        _ => setting.dirs.logdir(owner).join(name.as_str()),
    };
    Place { name, is_named, owner, directory, is_off, is_split }
}
