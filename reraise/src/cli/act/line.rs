//! The line to the keeper, and what it is told of our surroundings.

use std::cell::OnceCell;
use std::path::PathBuf;

use reraise::backend::native;
use reraise::context::Context;
use reraise::control::Frame;
use reraise::error::{ExitCode, Fault};
use reraise::name::ServiceName;
use reraise::paths;
use reraise::supervise::company::Company;

use super::Verb;
use crate::cli::client::Client;
use crate::cli::users::Users;
use crate::cli::{Setting, console};

/// The line to the keeper, opened when it is needed.
pub(super) struct Line<'a> {
    pub(super) setting: &'a Setting,
    pub(super) verb: Verb,
    place: OnceCell<(PathBuf, PathBuf)>,
    context: OnceCell<Context>,
    pub(super) client: Option<Client>,
    /// The place of a request among ours.
    company: Company,
}

impl<'a> Line<'a> {
    /// For so many services.
    pub(super) fn new(setting: &'a Setting, verb: Verb, count: usize) -> Self {
        let after = u32::try_from(count).unwrap_or(u32::MAX);
        let company = Company { after, ..Company::default() };
        let (place, context) = (OnceCell::new(), OnceCell::new());
        Self { setting, verb, place, context, client: None, company }
    }

    /// One of them has its turn.
    pub(super) fn next(&mut self) {
        self.company.after = self.company.after.saturating_sub(1);
    }

    /// `$RERAISE_PIDDIR` and `.reraise-UID`, made and checked.
    pub(super) fn place(&self) -> Result<&(PathBuf, PathBuf), Fault> {
        if self.place.get().is_none() {
            let me = self.setting.dirs.uid();
            let piddir = self.setting.dirs.piddir(me);
            let state = paths::prepare_piddir(&piddir, me)?;
            if matches!(self.verb, Verb::Start { .. }) {
                mention_directory();
            }
            let _ = self.place.set((piddir, state));
        }
        Ok(self.place.get_or_init(Default::default))
    }

    /// Our surroundings, which a service gets.
    pub(super) fn context(&self) -> Result<&Context, Fault> {
        if self.context.get().is_none() {
            let _ = self.context.set(context(self.setting)?);
        }
        self.context.get().ok_or_else(|| Fault::new(ExitCode::System, "context", "is missing", ""))
    }

    /// The connection; a new one knows our surroundings.
    pub(super) fn client(&mut self) -> Result<&mut Client, Fault> {
        if self.client.is_none() {
            let (piddir, state) = self.place()?;
            let client = Client::connect(piddir, state)?;
            client.send(&Frame::new(["asker", &self.setting.asker()]));
            if matches!(self.verb, Verb::Start { .. }) {
                client.send(&Frame::from_bytes(self.context()?.encode()).after("context"));
            }
            self.client = Some(client);
        }
        let none = || Fault::new(ExitCode::System, "keeper", "cannot be reached", "");
        self.client.as_mut().ok_or_else(none)
    }

    pub(super) fn ask(&mut self, name: &ServiceName) -> Result<(), Fault> {
        self.client()?;
        if self.company.before == 0 {
            self.company.since = native::now();
        }
        let frame = Frame::new([self.verb.word(), name.as_str(), &self.company.to_word()]);
        self.client()?.send(&frame);
        self.company.before += 1;
        Ok(())
    }
}

pub(crate) fn context(setting: &Setting) -> Result<Context, Fault> {
    let me = setting.dirs.uid();
    let context = Context::current(&setting.dirs.dir, &setting.dirs.logdir(me)).map_err(|e| {
        let fault = Fault::system("the present directory", "cannot be entered by a service", &e);
        Fault { advice: "go to one that exists: cd".to_owned(), ..fault }
    })?;
    Ok(if is_closed(&context.cwd) { Context { cwd: "/".into(), ..context } } else { context })
}

/// Whether we may not enter a directory: sudo leaves us where its caller was.
fn is_closed(dir: &std::path::Path) -> bool {
    let seen = std::fs::metadata(dir.join("."));
    seen.is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Says that a service does not start where its `start` was typed.
fn mention_directory() {
    if let Ok(dir) = std::env::current_dir()
        && is_closed(&dir)
    {
        let me = Users::default().user(nix::unistd::geteuid().as_raw());
        let what = format!("{me} may not enter it, so what is started now runs in /");
        let advice = "for another place, begin the script with: cd DIR || exit";
        console::fault(&Fault::new(ExitCode::Ok, dir.display(), what, advice));
    }
}
