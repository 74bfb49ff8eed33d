//! `reraise upgrade`: tries the new program, has the keeper become it, and waits
//! until all workers are of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reraise::control::{self, Frame, Got, Reader};
use reraise::error::{ExitCode, Fault, reason};
use reraise::keeper::KEEPER;
use reraise::lock::{self, Holder};
use reraise::name::ServiceName;
use reraise::paths;
use reraise::supervise::link;

use super::console::{self, Progress};
use super::select::select;
use super::{Setting, client, state};

/// What to say of a program that cannot be used.
const UNCHANGED: &str = "nothing was changed; install one that works, then try again";

/// How long a keeper may be away while it becomes another program, or while the
/// workers start one because it has not survived that.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
const PAUSE: Duration = Duration::from_millis(5);
/// How long something takes before a progress line appears: a blink.
const BLINK: Duration = Duration::from_millis(400);

/// What a program says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    number: String,
    build: String,
}

/// What a keeper says of itself.
#[derive(Debug, PartialEq, Eq)]
struct State {
    is: Version,
    pid: String,
    /// Workers that are still to be replaced, and those that have been.
    left: usize,
    done: usize,
}

/// What came of asking.
enum Answer {
    State(State),
    Refused(Fault),
    /// Nothing for a moment.
    Silence,
    /// The connection has ended.
    End,
}

/// A new keeper that does not stay up is tried so often.
const TRIES: u32 = 3;

/// Runs `reraise upgrade`.
pub(crate) fn run(setting: &Setting) -> Result<ExitCode, Fault> {
    let me = setting.dirs.uid();
    let piddir = setting.dirs.piddir(me);
    let program = client::worker_program();
    let version = check(&program, &piddir)?;
    if !piddir.is_dir() {
        return Ok(nobody(&version));
    }
    let state = paths::prepare_piddir(&piddir, me)?;
    let Some(stream) = connect(&state) else { return Ok(nobody(&version)) };
    let mut keeper = Keeper { stream, reader: Reader::default(), piddir: piddir.clone(), state };
    let program = std::path::absolute(&program)
        .map_err(|e| Fault::system(program.display(), "cannot be found", &e))?;
    keeper.ask(&program, &version);
    let state = wait(&mut keeper, &program, version, || check(&program, &piddir).ok())?;
    let Some(state) = state else {
        console::line("keeper: skip (because it is of this build already)");
        return Ok(ExitCode::Ok);
    };
    adopted(setting)?;
    console::line(&done(&state));
    Ok(ExitCode::Ok)
}

/// Waits until the new workers have taken over what the old ones have left.
fn adopted(setting: &Setting) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        // Without the scripts nobody can be found, and nobody need be waited for.
        let Ok(found) = select(setting, &[]) else { return Ok(()) };
        let is_left = |name: &&ServiceName| {
            let entry = found.services.get(*name).and_then(Option::as_ref);
            entry.is_none_or(|e| e.uid == setting.dirs.uid())
                && state::look(setting, name, entry).is_unwatched
        };
        let Some(name) = found.services.keys().find(is_left) else { return Ok(()) };
        if begun.elapsed() > PATIENCE {
            let advice = "see what its workers say: reraise doctor";
            return Err(Fault::new(ExitCode::Failed, name, "has no worker yet", advice));
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_held(path: &Path) -> bool {
    !matches!(lock::holder_of(path, lock::ALIVE), Ok(Holder::Nobody))
}

/// Whether there are workers, which start a keeper when they have none.
fn has_workers(state: &Path) -> bool {
    let services = std::fs::read_dir(state.join("s")).into_iter().flatten().flatten();
    services.into_iter().any(|service| is_held(&service.path().join("lock")))
}

/// Connects, if there is a keeper; one that is just coming is waited for.
fn connect(state: &Path) -> Option<UnixStream> {
    let begun = Instant::now();
    loop {
        if let Ok(stream) = link::connect(state) {
            return Some(stream);
        }
        let is_coming = match begun.elapsed() {
            // Workers start one when they have none, unless they were started by hand.
            little if little < BLINK => is_held(&state.join("keeper.lock")) || has_workers(state),
            long => is_held(&state.join("keeper.lock")) && long < PATIENCE,
        };
        if !is_coming {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether the keeper that runs is of another build than the program that is
/// installed; in words. `None`: it is not, or does not say.
pub(crate) fn difference(setting: &Setting) -> Option<String> {
    let me = setting.dirs.uid();
    let installed = check(&client::worker_program(), &setting.dirs.piddir(me)).ok()?;
    let state = setting.dirs.state(me);
    let stream = link::connect(&state).ok()?;
    let piddir = setting.dirs.piddir(me);
    let mut keeper = Keeper { stream, reader: Reader::default(), piddir, state };
    keeper.send(["version"]);
    match keeper.hear().ok()? {
        Answer::State(state) if state.is.build != installed.build => Some(format!(
            "keeper and workers are of version {}, and not of what is installed ({})",
            state.is.number, installed.number
        )),
        Answer::State(state) if state.left > 0 => {
            Some(format!("{} worker(s) are of another build than their keeper", state.left))
        }
        Answer::State(_) | Answer::Refused(_) | Answer::Silence | Answer::End => None,
    }
}

fn nobody(version: &Version) -> ExitCode {
    let number = &version.number;
    console::line(&format!("keeper: skip (because none runs; the next one is {number})"));
    ExitCode::Ok
}

/// Has the program try itself.
fn check(program: &Path, piddir: &Path) -> Result<Version, Fault> {
    let mut command = Command::new(program);
    command.arg("--check").arg("--piddir").arg(piddir).stdin(Stdio::null());
    let output = command.output().map_err(|e| {
        let fault = client::not_started(program, &e);
        let advice =
            if fault.advice.is_empty() { UNCHANGED.to_owned() } else { fault.advice.clone() };
        Fault { advice, ..fault }
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(version) = Version::from_line(&said).filter(|_| output.status.success()) {
        return Ok(version);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    let why = match error.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => line.trim_start_matches("auto-reraise: ").to_owned(),
        None => format!("it ended with {}", output.status),
    };
    let what = format!("cannot take the place of what runs: {why}");
    Err(Fault::new(ExitCode::Failed, program.display(), what, UNCHANGED))
}

impl Version {
    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("auto-reraise ")?.split_ascii_whitespace();
        let number = words.next()?.to_owned();
        let build = words.next()?.strip_prefix("build=")?;
        let is_sane = !build.is_empty() && build.bytes().all(|b| b.is_ascii_hexdigit());
        is_sane.then(|| Self { number, build: build.to_owned() })
    }
}

/// The line to the keeper.
struct Keeper {
    stream: UnixStream,
    reader: Reader,
    piddir: PathBuf,
    state: PathBuf,
}

impl Keeper {
    fn send<F: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = F>) {
        // That it is gone is heard later.
        let _ = control::send(&self.stream, &Frame::new(words));
    }

    fn ask(&self, program: &Path, version: &Version) {
        self.send(["upgrade".as_ref(), program.as_os_str(), version.build.as_ref()]);
    }

    fn hear(&mut self) -> io::Result<Answer> {
        self.stream.set_read_timeout(Some(BLINK))?;
        let mut last = None;
        let got = self.reader.read(&self.stream, |frame| last = answer(&frame).or(last.take()))?;
        Ok(match (last, got) {
            (Some(answer), _) => answer,
            (None, Got::Open | Got::Quiet) => Answer::Silence,
            (None, Got::End) => Answer::End,
        })
    }

    /// Connects anew: to what the keeper has become, or to one that the workers
    /// have started. They are ended a few at a time; where all have just been, and
    /// the keeper is killed, nobody is left but us.
    fn connect_again(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        let end = begun + PATIENCE;
        loop {
            match link::connect(&self.state) {
                Ok(stream) => {
                    self.stream = stream;
                    self.reader = Reader::default();
                    self.send(["version"]);
                    return Ok(());
                }
                Err(e) if Instant::now() >= end => {
                    let what = format!("is gone, and no other has come: {}", reason(&e));
                    let advice = "the services go on; have them watched again: reraise resume";
                    return Err(Fault::new(ExitCode::Failed, "keeper", what, advice));
                }
                Err(_) if begun.elapsed() > BLINK && !self.has_anybody() => {
                    client::start_keeper(&self.piddir, &self.state)?;
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn has_anybody(&self) -> bool {
        is_held(&self.state.join("keeper.lock")) || has_workers(&self.state)
    }
}

fn answer(frame: &Frame) -> Option<Answer> {
    Some(match frame.texts()?.as_slice() {
        [KEEPER, "keeper", number, build, pid, left, done, ..] => Answer::State(State {
            is: Version { number: (*number).to_owned(), build: (*build).to_owned() },
            pid: (*pid).to_owned(),
            left: left.parse().ok()?,
            done: done.parse().ok()?,
        }),
        [KEEPER, "refused", what, advice] => {
            Answer::Refused(Fault::new(ExitCode::Failed, "keeper", what, advice))
        }
        _ => return None,
    })
}

/// Waits until keeper and workers are of the build that was wanted, or of the one that
/// is `installed` by then. `None`: they were before.
fn wait(
    keeper: &mut Keeper,
    program: &Path,
    mut wanted: Version,
    installed: impl Fn() -> Option<Version>,
) -> Result<Option<State>, Fault> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let (mut has_ended, mut left, mut tries) = (false, None, 1);
    loop {
        let heard =
            keeper.hear().map_err(|e| Fault::system("keeper", "cannot be understood", &e))?;
        match heard {
            Answer::State(state) if state.is.build != wanted.build => {
                match installed().filter(|now| now.build == state.is.build) {
                    // Another one was installed meanwhile. Say so once more: nothing
                    // else may happen.
                    Some(now) => {
                        wanted = now;
                        left = Some(state.left);
                        keeper.send(["version"]);
                    }
                    // Somebody may have killed it before it had replaced a worker.
                    None if has_ended && tries < TRIES => {
                        tries += 1;
                        keeper.ask(program, &wanted);
                    }
                    None => {
                        progress.clear();
                        return Err(other(&state, &wanted));
                    }
                }
            }
            Answer::State(state) if state.left == 0 => {
                progress.clear();
                return Ok(Some(state).filter(|_| has_ended || left.is_some()));
            }
            Answer::State(state) => left = Some(state.left),
            Answer::Refused(fault) => {
                progress.clear();
                return Err(fault);
            }
            Answer::Silence if !has_ended && left.is_none() && begun.elapsed() > PATIENCE => {
                progress.clear();
                let what = "does not answer; it may be of a version that cannot be replaced";
                let advice = "see it with: reraise doctor";
                return Err(Fault::new(ExitCode::Failed, "keeper", what, advice));
            }
            Answer::Silence => {
                let left =
                    left.map_or_else(|| "keeper".to_owned(), |n| format!("{n} workers left"));
                progress.show(&format!("upgrade: {left}, {} s", begun.elapsed().as_secs()));
            }
            Answer::End => {
                has_ended = true;
                keeper.connect_again()?;
            }
        }
    }
}

/// It is not what it was to be.
fn other(state: &State, wanted: &Version) -> Fault {
    let what = format!(
        "the new version ({}) did not stay up; version {} goes on (pid={})",
        wanted.number, state.is.number, state.pid
    );
    let advice = "no service was touched; see what was said: reraise doctor";
    Fault::new(ExitCode::Failed, "keeper", what, advice)
}

fn done(state: &State) -> String {
    let State { is, pid, done, .. } = state;
    format!("keeper: upgrade    # (pid={pid}, version={}, workers={done})", is.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_of_itself() {
        let version = Version::from_line("auto-reraise 1.2.3 build=ab12\n");
        assert_eq!(version, Some(Version { number: "1.2.3".into(), build: "ab12".into() }));
        for line in ["", "auto-reraise 1.2.3", "auto-reraise 1.2.3 build=", "sh 1 build=ab", "x"] {
            assert_eq!(Version::from_line(line), None, "{line}");
        }
        // What a later one adds is passed over.
        assert!(Version::from_line("auto-reraise 2.0 build=1 more=2\n").is_some());
    }
}
