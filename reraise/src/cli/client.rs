//! The connection to the keeper, which is started when there is none.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use reraise::backend::RUN_VARIABLE;
use reraise::control::{Frame, Got, Reader};
use reraise::error::{ExitCode, Fault};
use reraise::keeper;
use reraise::name::ServiceName;
use reraise::revive;
use reraise::supervise::link;
use reraise::supervise::news::News;

/// What the keeper says about a service.
#[derive(Debug)]
pub(crate) enum Word {
    /// A worker has the request.
    Ack,
    /// Its worker's news.
    News(News),
}

/// How a wait ended.
pub(crate) enum Heard {
    /// Something was said.
    Words(Vec<(ServiceName, Word)>),
    /// Nothing was said in the time given.
    Silence,
    /// The keeper is gone.
    End,
}

/// See the module.
pub(crate) struct Client {
    stream: UnixStream,
    reader: Reader,
    /// What is to be sent together.
    outbox: RefCell<Vec<u8>>,
    /// The keeper's state directory.
    state: PathBuf,
}

/// How long something takes before somebody looks after it.
pub(crate) const BLINK: Duration = Duration::from_millis(400);

/// Requests are sent when there is so much of them, or an answer is waited for:
/// each for itself would wake the keeper as often.
const BATCH: usize = 128;

/// A keeper that ends because it is idle may do so while we connect; how often
/// in a row that is believed.
const TRIES: usize = 50;

impl Client {
    /// Connects, and starts a keeper if need be. The directories have been
    /// prepared.
    pub(crate) fn connect(piddir: &Path, state: &Path) -> Result<Self, Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            match link::connect(state) {
                Ok(stream) => {
                    let outbox = RefCell::default();
                    let (reader, state) = (Reader::default(), state.to_owned());
                    return Ok(Self { stream, reader, outbox, state });
                }
                Err(e) => last = Some(e),
            }
            start_keeper(piddir, state)?;
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::NotConnected.into());
        Err(Fault::system(state.display(), "no keeper answers there", &error))
    }

    /// Sends a request, at the latest when an answer is waited for. That the keeper
    /// is gone is heard later.
    pub(crate) fn send(&self, frame: &Frame) {
        let mut outbox = self.outbox.borrow_mut();
        frame.append_to(&mut outbox);
        if outbox.len() >= BATCH {
            self.push(&outbox);
            outbox.clear();
        }
    }

    fn push(&self, mut bytes: &[u8]) {
        let _ = self.stream.set_write_timeout(Some(BLINK));
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                // It does not read.
                Err(e) if is_late(&e) => revive::keeper(&self.state),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for what the keeper says next.
    pub(crate) fn hear(&mut self, limit: Option<Duration>) -> io::Result<Heard> {
        self.push(&std::mem::take(&mut *self.outbox.borrow_mut()));
        // Zero would mean no limit.
        self.stream.set_read_timeout(limit.map(|l| l.max(Duration::from_millis(1))))?;
        let mut words = Vec::new();
        let got = self.reader.read(&self.stream, |frame| words.extend(word(&frame)))?;
        Ok(match got {
            _ if !words.is_empty() => Heard::Words(words),
            Got::Open | Got::Quiet => Heard::Silence,
            Got::End => Heard::End,
        })
    }
}

/// Whether the time was over.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn word(frame: &Frame) -> Option<(ServiceName, Word)> {
    let (name, rest) = frame.split()?;
    let name = ServiceName::new(name.as_ref()).ok()?;
    let word = match rest.texts().as_deref() {
        Some(["ack"]) => Word::Ack,
        _ => Word::News(News::from_frame(&rest)?),
    };
    Some((name, word))
}

/// `auto-reraise` beside us, else wherever PATH finds it.
pub(crate) fn worker_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|us| us.with_file_name("auto-reraise"));
    beside.filter(|p| p.is_file()).unwrap_or_else(|| PathBuf::from("auto-reraise"))
}

/// Why `auto-reraise` cannot be executed.
pub(crate) fn not_started(program: &Path, error: &io::Error) -> Fault {
    let fault = Fault::system(program.display(), "cannot start it", error);
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) {
        return fault;
    }
    let advice = "install both programs in one directory, as cargo install does";
    Fault { advice: advice.to_owned(), ..fault }
}

/// Starts a keeper and waits until it can be connected to, or has found that
/// there is another one.
pub(crate) fn start_keeper(piddir: &Path, state: &Path) -> Result<(), Fault> {
    let program = worker_program();
    let cannot = |e: &io::Error| not_started(&program, e);
    let mut command = Command::new(&program);
    command.arg("--keeper").arg(piddir).env_remove(RUN_VARIABLE);
    let (variable, value) = keeper::TUNABLES;
    command.env(variable, value);
    // Its standard error goes there too until it has a file of its own.
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| cannot(&e))?;
    ours.set_read_timeout(Some(BLINK)).map_err(|e| cannot(&e))?;
    let other = theirs.try_clone().map_err(|e| cannot(&e))?;
    command.stdin(Stdio::null());
    command.stdout(OwnedFd::from(theirs)).stderr(OwnedFd::from(other));
    let mut child = command.spawn().map_err(|e| cannot(&e))?;
    // Or its end would be held open here.
    drop(command);
    let mut said = String::new();
    let mut byte = [0];
    // Up to the end of a line: it lives on, and its end with it.
    while !said.ends_with(keeper::READY) {
        match ours.read(&mut byte) {
            Ok(1) => said.push(char::from(byte[0])),
            Err(e) if is_late(&e) => {
                let _ = revive::process(child.id().cast_signed());
                // It may wait for one that is in its place.
                revive::keeper(state);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    if said.is_empty() || said.ends_with(keeper::READY) {
        return Ok(());
    }
    let _ = child.wait();
    let text = said.trim_start_matches("auto-reraise: ").trim_end();
    // It may have said it on both.
    let mut lines = text.lines();
    let (what, advice) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let (object, what) = what.split_once(": ").unwrap_or(("keeper", what));
    Err(Fault::new(ExitCode::System, object, what, advice.trim()))
}
