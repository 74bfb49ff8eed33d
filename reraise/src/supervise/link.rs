//! A worker's connection to its keeper. Either may die: when the keeper has, a
//! worker connects to the next one, and if there is none, one of the workers
//! starts it. A lock decides which; the others watch whoever has it, since that
//! one may die as well before its keeper answers.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backend::{ProcessBackend, ProcessId};
use crate::control::{self, Frame, Got, Reader};
use crate::history::asked::Asked;
use crate::lock::{self, Holder, LockFile};
use crate::messages;
use crate::name::ServiceName;
use crate::revive;
use crate::supervise::company::Company;
use crate::supervise::news::News;

/// Something that the keeper passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `start`, in these surroundings.
    Start {
        /// Who asks.
        client: String,
        /// An encoded context; the requests of one caller share it.
        context: Rc<[u8]>,
        /// A single run.
        once: bool,
    },
    /// `stop`.
    Stop {
        /// Without patience.
        now: bool,
        /// Who else: when the signal is sent, the rest can wait for theirs.
        company: Company,
    },
    /// End the service, and leave what is wanted as it is.
    Leave {
        /// Without patience.
        now: bool,
    },
    /// `resume`: bring it up if that is wanted.
    Resume {
        /// Who asks.
        client: String,
    },
    /// `restart`.
    Restart,
}

impl Request {
    /// A stop of one service.
    #[must_use]
    pub const fn stop(now: bool) -> Self {
        Self::Stop { now, company: Company { since: Duration::ZERO, before: 0, after: 0 } }
    }

    /// As it travels.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        match self {
            Self::Start { client, context, once } => {
                let verb = if *once { "start-once" } else { "start" };
                Frame::from_bytes(context.to_vec()).after(client).after(verb)
            }
            Self::Stop { now: false, company } => Frame::new(["stop", &company.to_word()]),
            Self::Stop { now: true, .. } => Frame::new(["stop-now"]),
            Self::Leave { now: false } => Frame::new(["leave"]),
            Self::Leave { now: true } => Frame::new(["leave-now"]),
            Self::Resume { client } => Frame::new(["resume", client]),
            Self::Restart => Frame::new(["restart"]),
        }
    }

    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Start { once: false, .. } => "start",
            Self::Start { once: true, .. } => "start-once",
            Self::Stop { now: false, .. } => "stop",
            Self::Stop { now: true, .. } => "stop-now",
            Self::Leave { now: false } => "leave",
            Self::Leave { now: true } => "leave-now",
            Self::Resume { .. } => "resume",
            Self::Restart => "restart",
        }
    }

    /// From what travelled; `None` for what a later version may ask.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        let (verb, rest) = frame.split()?;
        Some(match verb {
            "start" | "start-once" => {
                let (client, context) = rest.split()?;
                let (client, context) = (client.to_owned(), context.bytes().into());
                Self::Start { client, context, once: verb == "start-once" }
            }
            "stop" => Self::Stop { now: false, company: company(&rest) },
            "stop-now" => Self::stop(true),
            "leave" => Self::Leave { now: false },
            "leave-now" => Self::Leave { now: true },
            "resume" => Self::Resume { client: rest.split()?.0.to_owned() },
            "restart" => Self::Restart,
            _ => return None,
        })
    }
}

/// Who else was asked for.
pub(crate) fn company(frame: &Frame) -> Company {
    frame.split().map_or_else(Company::default, |(word, _)| Company::from_word(word))
}

/// How a new keeper is started: its program, and whom it is for.
#[derive(Debug, Clone)]
pub struct KeeperCommand {
    /// `auto-reraise`.
    pub program: PathBuf,
    /// `$RERAISE_PIDDIR`.
    pub piddir: PathBuf,
    /// `.reraise-UID`.
    pub state: PathBuf,
    /// See [`own_build`](crate::version::own_build).
    pub build: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Link {
    stream: Option<UnixStream>,
    reader: Reader,
    /// Requests of this keeper that were received and not acknowledged.
    owed: usize,
    /// Who has asked for what we were forked for.
    asked: Option<Asked>,
    /// What is to be sent with the next frame.
    unsent: Vec<u8>,
    keeper: Option<KeeperCommand>,
    name: String,
    /// Whose end means that a keeper must be looked for again.
    awaited: Option<ProcessId>,
    /// Keepers in a row that ended before they answered.
    failures: u32,
    /// When to look for one again.
    again: Option<Duration>,
    /// When the keeper has last shown that it is at work.
    heard: Option<Instant>,
}

/// A keeper that was at work so short a time ago is not looked at: whoever
/// starts a thousand services would pay for a thousand looks.
const RECENT: Duration = Duration::from_millis(100);

/// So many keepers that fail in a row may be chance.
const CHANCE: u32 = 2;

const ACK: &str = "ack";

impl Link {
    /// To a keeper that holds the other end.
    #[must_use]
    pub fn new(stream: UnixStream, name: &ServiceName, keeper: KeeperCommand) -> Self {
        let name = name.as_str().to_owned();
        let (stream, keeper, heard) = (Some(stream), Some(keeper), Some(Instant::now()));
        Self { stream, keeper, name, heard, ..Self::default() }
    }

    /// The same, and who has asked.
    #[must_use]
    pub fn asked_by(self, asked: Option<Asked>) -> Self {
        Self { asked, ..self }
    }

    /// Who has asked for what we were forked for; once.
    pub(super) fn take_asked(&mut self) -> Option<Asked> {
        self.asked.take()
    }

    /// To none: a worker that was started by hand.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// To be listened on.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Tells everybody who has asked for something about this service.
    pub fn tell(&mut self, news: &News) {
        // Something has happened. If the keeper does not take its part, nobody
        // but us would find out.
        if let Some(keeper) = &self.keeper
            && self.heard.is_none_or(|heard| heard.elapsed() > RECENT)
        {
            let _ = revive::holder(&keeper.state.join("keeper.lock"), lock::ALIVE);
        }
        self.send(&news.to_frame().after("all"));
    }

    /// Tells the keeper alone that a worker of an earlier keeper has the service,
    /// and is to be called.
    pub fn yield_to(&mut self, pid: i32) {
        self.send(&Frame::new(["yield", &pid.to_string()]));
    }

    /// Tells one client.
    pub fn answer(&mut self, client: &str, news: &News) {
        self.send(&news.to_frame().after(client).after("to"));
    }

    fn send(&mut self, frame: &Frame) {
        frame.append_to(&mut self.unsent);
        let bytes = std::mem::take(&mut self.unsent);
        // A keeper that is gone is noticed by reading.
        if let Some(mut stream) = self.stream.as_ref() {
            let _ = stream.write_all(&bytes);
        }
    }

    /// The requests that have come in, and who has asked; `None` for one of a later
    /// version. Each is to be acknowledged when it is done, see [`Self::acknowledge`].
    ///
    /// # Errors
    /// When no keeper can be looked for.
    pub fn receive<B: ProcessBackend>(
        &mut self,
        backend: &mut B,
    ) -> io::Result<Vec<(Option<Request>, Option<Asked>)>> {
        let Some(stream) = &self.stream else { return Ok(Vec::new()) };
        let mut requests = Vec::new();
        let got = self.reader.read(stream, |frame| {
            let asked = frame.texts().and_then(|fields| Asked::from_line(fields.last()?));
            requests.push((Request::from_frame(&frame), asked));
        });
        self.owed += requests.len();
        self.heard = Some(Instant::now());
        if !matches!(got, Ok(Got::Open | Got::Quiet)) {
            self.drop_stream(backend);
            self.recover(backend)?;
        }
        Ok(requests)
    }

    /// Tells the keeper that the oldest request needs nobody else: it gives the
    /// others to our successor when we die, or leave.
    pub fn acknowledge(&mut self) {
        // What an earlier keeper has asked for is no business of this one.
        if let Some(left) = self.owed.checked_sub(1) {
            self.owed = left;
            self.send(&Frame::new([ACK]));
        }
    }

    /// The same together with what is told next.
    pub fn acknowledge_with_next(&mut self) {
        if let Some(left) = self.owed.checked_sub(1) {
            self.owed = left;
            Frame::new([ACK]).append_to(&mut self.unsent);
        }
    }

    fn drop_stream<B: ProcessBackend>(&mut self, backend: &mut B) {
        if let Some(stream) = self.stream.take() {
            backend.unlisten(stream.as_fd());
        }
        self.reader = Reader::default();
        self.owed = 0;
        self.unsent.clear();
    }

    /// Whether this process was to become our keeper, or is to start it.
    #[must_use]
    pub fn awaits(&self, process: ProcessId) -> bool {
        self.awaited == Some(process)
    }

    /// Whoever was awaited has ended without an answer. The first time that may
    /// be chance; then it is something that lasts, and must not become a storm.
    ///
    /// # Errors
    /// As [`Self::recover`].
    pub fn await_no_longer<B: ProcessBackend>(&mut self, backend: &mut B) -> io::Result<()> {
        self.failures += 1;
        if self.failures <= CHANCE {
            return self.recover(backend);
        }
        self.awaited = None;
        self.rest(backend);
        Ok(())
    }

    /// Looks again after a while, which grows.
    fn rest<B: ProcessBackend>(&mut self, backend: &B) {
        let more = self.failures.saturating_sub(CHANCE + 1).min(6);
        self.again = Some(backend.now() + Duration::from_secs(1 << more));
    }

    /// When [`Self::look_again`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.again
    }

    /// Looks for a keeper once more, if it is time.
    ///
    /// # Errors
    /// As [`Self::recover`].
    pub fn look_again<B: ProcessBackend>(&mut self, backend: &mut B) -> io::Result<()> {
        if self.again.is_some_and(|again| again <= backend.now()) {
            self.again = None;
            return self.recover(backend);
        }
        Ok(())
    }

    /// Finds a keeper, or has one started. Where that cannot be done, the service is
    /// looked after all the same, and it is tried again in a while.
    ///
    /// # Errors
    /// None is known.
    pub fn recover<B: ProcessBackend>(&mut self, backend: &mut B) -> io::Result<()> {
        let (None, Some(keeper)) = (&self.stream, self.keeper.clone()) else { return Ok(()) };
        self.awaited = None;
        let why = match self.seek(backend, &keeper) {
            Ok(true) => return Ok(()),
            Ok(false) => "it ends before it answers".to_owned(),
            Err(e) => e.to_string(),
        };
        self.failures = self.failures.max(CHANCE) + 1;
        self.rest(backend);
        let what = format!("cannot start a keeper, going on without one for a while: {why}");
        messages::say(&self.name, &what);
        Ok(())
    }

    /// Whether a keeper was found, or somebody is at it who is watched.
    fn seek<B: ProcessBackend>(
        &mut self,
        backend: &mut B,
        keeper: &KeeperCommand,
    ) -> io::Result<bool> {
        // Whoever is awaited may end before it is watched: then once more.
        for _ in 0..100 {
            let pid = std::process::id().to_string();
            let build = format!("{:x}", keeper.build);
            let hello = Frame::new(["hello", &self.name, &pid, &build]);
            // One that dies before it has heard us is no keeper.
            if let Ok(stream) = connect(&keeper.state)
                && control::send(&stream, &hello).is_ok()
            {
                backend.listen(stream.as_fd())?;
                self.stream = Some(stream);
                self.heard = Some(Instant::now());
                (self.failures, self.again) = (0, None);
                return Ok(true);
            }
            let (pid, is_ours) = elect(keeper)?;
            if let Some(process) = backend.identify(pid)?
                && backend.watch(process)?
            {
                self.awaited = Some(process);
                revive::process(process.pid)?;
                return Ok(true);
            }
            // One that we have started has ended already.
            self.failures += u32::from(is_ours);
            if self.failures > CHANCE {
                break;
            }
        }
        Ok(false)
    }
}

/// Starts a keeper unless somebody else is at it; the process to be watched, and
/// whether we have started it.
fn elect(keeper: &KeeperCommand) -> io::Result<(i32, bool)> {
    let lock = LockFile::open(&keeper.state.join("keeper.lock"))?;
    if !lock.try_take(lock::CHANGING)? {
        return match lock.holder(lock::CHANGING)? {
            Holder::Pid(pid) => Ok((pid, false)),
            Holder::Nobody | Holder::Elsewhere => Ok((0, false)),
        };
    }
    // One that lives and does not answer yet calls us when it does.
    if let Holder::Pid(pid) = lock.holder(lock::ALIVE)? {
        return Ok((pid, false));
    }
    let words = ["--keeper".as_ref(), keeper.piddir.as_os_str(), "--quiet".as_ref()];
    let begun =
        crate::backend::native::exec_beside(&keeper.program, &words, crate::keeper::TUNABLES);
    begun.map(|pid| (pid, true))
}

/// Connects to the keeper's socket.
///
/// # Errors
/// As `connect(2)`: `ENOENT` and `ECONNREFUSED` say that there is no keeper.
pub fn connect(state: &Path) -> io::Result<UnixStream> {
    control::with_short_path(state, "keeper", |path| UnixStream::connect(path))
}
