//! Proof of life: a POSIX record lock (fcntl(2)). It ends with its process, it
//! is not inherited by a fork, and the kernel names its holder; none of that
//! holds for flock(2) or open file description locks. It also ends when its
//! process closes *any* descriptor of the file: a lock file is opened once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

/// A byte of the keeper's lock file, each a lock of its own.
pub const ALIVE: i64 = 0;
/// Held while a keeper starts or ends: one at a time.
pub const CHANGING: i64 = 1;
/// A byte of a service's lock file: its worker was started by hand, and knows no
/// keeper.
pub const BY_HAND: i64 = 1;

/// A lock file, opened.
#[derive(Debug)]
pub struct LockFile(File);

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Pid(i32),
    /// A process of another pid namespace, which has no number here.
    Elsewhere,
}

impl LockFile {
    /// Opens or makes it.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(path).map(Self)
    }

    /// Takes the lock; `false` when another process has it.
    ///
    /// # Errors
    /// `ENOLCK`, or a file system without locks.
    pub fn try_take(&self, byte: i64) -> io::Result<bool> {
        let wanted = region(libc::F_WRLCK, byte);
        match fcntl(&self.0, FcntlArg::F_SETLK(&wanted)) {
            Ok(_) => Ok(true),
            Err(nix::errno::Errno::EACCES | nix::errno::Errno::EAGAIN) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// As [`Self::try_take`].
    pub fn take(&self, byte: i64) -> io::Result<()> {
        let wanted = region(libc::F_WRLCK, byte);
        loop {
            match fcntl(&self.0, FcntlArg::F_SETLKW(&wanted)) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// None is known.
    pub fn release(&self, byte: i64) -> io::Result<()> {
        fcntl(&self.0, FcntlArg::F_SETLK(&region(libc::F_UNLCK, byte)))?;
        Ok(())
    }

    /// Who besides us holds the lock.
    ///
    /// # Errors
    /// A file system without locks.
    pub fn holder(&self, byte: i64) -> io::Result<Holder> {
        let mut asked = region(libc::F_WRLCK, byte);
        fcntl(&self.0, FcntlArg::F_GETLK(&mut asked))?;
        let free = region(libc::F_UNLCK, byte).l_type;
        Ok(match (asked.l_type, asked.l_pid) {
            (kind, _) if kind == free => Holder::Nobody,
            (_, pid) if pid > 0 => Holder::Pid(pid),
            _ => Holder::Elsewhere,
        })
    }

    /// The one that the program before us in this process has left open: its
    /// locks are held still (fcntl(2): by the process, and preserved by execve).
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(File::from(descriptor))
    }

    /// Whether it is the file with this path.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn is(&self, path: &Path) -> io::Result<bool> {
        let (ours, there) = (self.0.metadata()?, std::fs::symlink_metadata(path)?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }

    /// Its descriptor's number.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who holds the lock of a file that need not be there.
///
/// # Errors
/// When it is there and cannot be asked.
pub fn holder_of(path: &Path, byte: i64) -> io::Result<Holder> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    let opened = match options.open(path) {
        // For asking alone this may do as well.
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => options.write(false).open(path),
        opened => opened,
    };
    match opened {
        Ok(file) => LockFile(file).holder(byte),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Holder::Nobody),
        Err(e) => Err(e),
    }
}

fn region(kind: impl TryInto<i16>, byte: i64) -> libc::flock {
    // SAFETY: all-zero is a valid flock on every system; some have more fields
    // than POSIX names.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind.try_into().unwrap_or(0);
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}
