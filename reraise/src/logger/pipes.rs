//! The pipes between a service and the logger: named ones, in the directory of the
//! service. The service itself holds its end open for reading as well, so that it
//! never sees SIGPIPE, and whoever comes next finds in them what nobody has read
//! yet: that outlives the logger, and the worker, which holds them too.
//!
//! There are two for each of output and error, used by turns: what a run leaves in
//! its own is drained before the next one's is touched, and so it is known which run
//! has said what. A pipe is for standard output and error together, unless
//! `config_log_stderr=separate`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;

use crate::backend::native;

/// Standard output, or standard error where that is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Standard output.
    Out = 0,
    /// Standard error.
    Err = 1,
}

/// Which pipes a run has. Kept in its slot as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// It has any.
    pub is_kept: bool,
    /// Standard error has one of its own.
    pub is_split: bool,
    /// Which of the two.
    pub turn: bool,
}

impl Use {
    /// For a slot.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        u8::from(self.is_kept) | u8::from(self.is_split) << 1 | u8::from(self.turn) << 2
    }

    /// From a slot.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        Self { is_kept: byte & 1 != 0, is_split: byte & 2 != 0, turn: byte & 4 != 0 }
    }
}

/// Where a pipe of a service is, whose own directory this is.
#[must_use]
pub fn path(own: &Path, side: Side, turn: bool) -> PathBuf {
    own.join(match (side, turn) {
        (Side::Out, false) => "out0",
        (Side::Out, true) => "out1",
        (Side::Err, false) => "err0",
        (Side::Err, true) => "err1",
    })
}

/// Opens a pipe to hold it or to read it, without waiting for anybody: read-write,
/// which works for pipes on all our systems though POSIX leaves it open.
///
/// # Errors
/// As `open(2)`; `EINVAL` for something else.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let file = options.open(path)?;
    match file.metadata()?.file_type().is_fifo() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The same for one that need not be there. A service that has changed its user may
/// open /dev/stdout anew, and so others may write; they cannot come here by name,
/// since nobody else can enter the directory.
///
/// # Errors
/// As `mkfifo(3)` and [`open`].
pub fn make(path: &Path) -> io::Result<File> {
    match open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        // Only we can have put it there.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => fs::remove_file(path)?,
        other => return other,
    }
    nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600))?;
    fs::set_permissions(path, Permissions::from_mode(0o622))?;
    open(path)
}

/// The pipes of a service as its worker holds them.
#[derive(Debug, Default)]
pub struct Held {
    used: Use,
    /// Before the last launch.
    former: Use,
    // Not a nested array of options: it stays in memory for each service.
    files: [Option<File>; 4],
    /// The logger does not know yet whose words come, and will not find out by itself.
    is_news: bool,
    /// It was told of a run of ours. Of what a former worker did it may not have heard.
    has_told: bool,
}

fn place(side: Side, turn: bool) -> usize {
    side as usize * 2 + usize::from(turn)
}

impl Held {
    /// Those that a former worker has used.
    #[must_use]
    pub fn adopt(own: &Path, used: Use) -> Self {
        let mut held = Self { used, ..Self::default() };
        if used.is_kept {
            for (side, turn) in
                [Side::Out, Side::Err].into_iter().flat_map(|s| [(s, false), (s, true)])
            {
                held.files[place(side, turn)] = open(&path(own, side, turn)).ok();
            }
        }
        held
    }

    /// Those for the next run, see also [`Self::settle_next`]. Those for the run after that
    /// are made as well: then there is less time.
    ///
    /// # Errors
    /// When they cannot be made; descriptors may have run out.
    pub fn next(&mut self, own: &Path, is_split: bool) -> io::Result<Use> {
        let before = self.used;
        self.former = before;
        self.is_news = !self.has_told || !before.is_kept || before.is_split != is_split;
        let mut turn = before.is_kept && !before.turn;
        let sides: &[Side] = if is_split { &[Side::Out, Side::Err] } else { &[Side::Out] };
        for &side in sides {
            for at in [turn, !turn] {
                let file = &mut self.files[place(side, at)];
                if file.is_some() {
                    continue;
                }
                match make(&path(own, side, at)) {
                    Ok(made) => (*file, self.is_news) = (Some(made), true),
                    Err(_) if at != turn && !before.is_kept => {}
                    Err(e) => return Err(e),
                }
            }
        }
        // What is in there is older than what is in the other one: its successor must
        // not be mixed with that.
        if before.is_kept && sides.iter().any(|&side| self.has_unread(side, turn)) {
            turn = !turn;
        }
        self.is_news |= turn == before.turn;
        self.used = Use { is_kept: true, is_split, turn };
        Ok(self.used)
    }

    /// Whether the logger is to be told before the run says its first word. Else it looks
    /// for itself when something comes from the other pipe, and need not run just when
    /// the service begins.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.is_news
    }

    /// Whether the next run has begun, and the logger was told where that has to be. What
    /// has not begun had no pipes.
    pub fn settle_next(&mut self, has_begun: bool) {
        self.has_told |= has_begun;
        if !has_begun {
            self.used = self.former;
        }
    }

    /// The output of the next run is not kept.
    pub fn none(&mut self) -> Use {
        self.former = self.used;
        self.used.is_kept = false;
        self.used
    }

    fn has_unread(&self, side: Side, turn: bool) -> bool {
        let file = self.files[place(side, turn)].as_ref();
        file.is_some_and(|file| native::unread(file.as_fd()) > 0)
    }

    /// Waits until all has been read, for a moment at most: when we are gone and the
    /// logger is just being replaced, nobody holds what is left.
    pub fn settle(&self) {
        let end = Instant::now() + LONGEST;
        let mut nap = Duration::from_millis(1);
        while self.files.iter().flatten().any(|file| native::unread(file.as_fd()) > 0)
            && Instant::now() < end
        {
            std::thread::sleep(nap);
            nap *= 2;
        }
    }
}

/// See [`Held::settle`].
const LONGEST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_use_is_a_byte() {
        for byte in 0..8 {
            assert_eq!(Use::from_byte(byte).to_byte(), byte);
        }
        assert_eq!(Use::default().to_byte(), 0);
    }

    #[test]
    fn runs_take_turns_but_never_overtake() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::default();
        let turn = |held: &mut Held| held.next(dir.path(), false).unwrap().turn;
        assert!([false, true, false, true].iter().all(|&expected| turn(&mut held) == expected));
        // What the run before the last has left.
        let pipe = open(&path(dir.path(), Side::Out, false)).unwrap();
        (&pipe).write_all(b"old").unwrap();
        assert!(turn(&mut held), "the same once more");
        assert!(turn(&mut Held::adopt(dir.path(), held.used)));
        (&pipe).read_exact(&mut [0; 3]).unwrap();
        if native::MOVES {
            assert!(!turn(&mut held));
        }
    }

    #[test]
    fn the_logger_is_told_once_of_what_it_cannot_know() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::default();
        let next = |held: &mut Held, is_split, has_begun| {
            let used = held.next(dir.path(), is_split).unwrap();
            let is_news = held.is_news();
            held.settle_next(has_begun);
            (used.turn, is_news)
        };
        // What could not be launched has changed nothing.
        assert_eq!(next(&mut held, false, false), (false, true));
        assert_eq!(next(&mut held, false, true), (false, true));
        assert_eq!(next(&mut held, false, false), (true, false));
        assert_eq!(next(&mut held, false, true), (true, false));
        assert_eq!(next(&mut held, false, true), (false, false));
        // Standard error is to be kept apart, and is no more.
        assert_eq!(next(&mut held, true, true), (true, true));
        assert_eq!(next(&mut held, true, true), (false, false));
        assert_eq!(next(&mut held, false, true), (true, true));
        held.none();
        held.settle_next(true);
        assert!(next(&mut held, false, true).1);
        // Whether it has heard of what a former worker did, nobody knows.
        let mut other = Held::adopt(dir.path(), held.used);
        assert_eq!(next(&mut other, false, true), (true, true));
        assert_eq!(next(&mut other, false, true), (false, false));
    }

    #[test]
    fn what_is_no_pipe_makes_room_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), Side::Err, true);
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "").unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let made = make(&path).unwrap();
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o622);
        (&made).write_all(b"x").unwrap();
        (&make(&path).unwrap()).read_exact(&mut [0]).unwrap();
    }
}
