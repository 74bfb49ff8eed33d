//! What keeper, workers and the command line say to each other: frames on a
//! Unix stream socket, each a length (four bytes, little-endian) and fields
//! that end with NUL.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The longest frame: an environment is at most 6 MB on Linux (execve(2)).
const LONGEST: usize = 8 << 20;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// A message of these fields; none may hold NUL, but the last may.
    #[must_use]
    pub fn new<F: AsRef<OsStr>>(fields: impl IntoIterator<Item = F>) -> Self {
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend_from_slice(field.as_ref().as_bytes());
            bytes.push(0);
        }
        Self(bytes)
    }

    /// The same message with a field in front.
    #[must_use]
    pub fn after(&self, field: &str) -> Self {
        let mut bytes = Vec::with_capacity(field.len() + 1 + self.0.len());
        bytes.extend_from_slice(field.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&self.0);
        Self(bytes)
    }

    /// The same message with a field at its end.
    #[must_use]
    pub fn before(mut self, field: &str) -> Self {
        self.0.extend_from_slice(field.as_bytes());
        self.0.push(0);
        self
    }

    /// Its first field as text, and the message without it.
    #[must_use]
    pub fn split(&self) -> Option<(&str, Self)> {
        let at = self.0.iter().position(|&b| b == 0)?;
        Some((str::from_utf8(&self.0[..at]).ok()?, Self(self.0[at + 1..].to_vec())))
    }

    /// All fields as text.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<&str>> {
        let whole = str::from_utf8(&self.0).ok()?.strip_suffix('\0')?;
        Some(whole.split('\0').collect())
    }

    /// Its bytes without the length.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A message of bytes as they are.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Appends it as it travels.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.0);
    }
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Reader {
    pending: Vec<u8>,
}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Something; there may be more.
    Open,
    /// Nothing for now.
    Quiet,
    /// The other side is gone.
    End,
}

impl Reader {
    /// Reads what is there and hands out each whole frame.
    ///
    /// # Errors
    /// A frame that no version of Reraise sends.
    pub fn read(&mut self, stream: &UnixStream, mut each: impl FnMut(Frame)) -> io::Result<Got> {
        let mut stream = stream;
        // One read a call: the caller waits for more, and a blocking stream
        // must not be asked for what may never come.
        let mut chunk = [0; 1024];
        let got = match stream.read(&mut chunk) {
            Ok(0) => Got::End,
            Ok(n) => {
                self.pending.extend_from_slice(&chunk[..n]);
                Got::Open
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                Got::Quiet
            }
            // A peer that was killed with unread input resets.
            Err(_) => Got::End,
        };
        let mut at = 0;
        while let Some(head) = self.pending.get(at..at + 4) {
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if length > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(body) = self.pending.get(at + 4..at + 4 + length) else { break };
            each(Frame(body.to_vec()));
            at += 4 + length;
        }
        self.pending.drain(..at);
        if self.pending.is_empty() {
            // A large frame leaves no large buffer behind.
            self.pending = Vec::new();
        }
        Ok(got)
    }
}

/// Sends a frame and waits until it is on its way.
///
/// # Errors
/// `EPIPE` when the other side is gone.
pub fn send(mut stream: &UnixStream, frame: &Frame) -> io::Result<()> {
    let mut out = Vec::with_capacity(frame.0.len() + 4);
    frame.append_to(&mut out);
    stream.write_all(&out)
}

/// Room in a socket's address on every system (unix(7), unix(4)), with its NUL.
const ADDRESS: usize = 104;

/// Calls `act` with a path of `directory/name` that fits a socket's address. A
/// long one is reached from inside of its directory.
///
/// # Errors
/// Those of `act`, or that the directory cannot be entered.
pub fn with_short_path<T>(
    directory: &Path,
    name: &str,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let whole = directory.join(name);
    if whole.as_os_str().len() < ADDRESS {
        return act(&whole);
    }
    let before = std::fs::File::open(".")?;
    std::env::set_current_dir(directory)?;
    let answer = act(Path::new(name));
    nix::unistd::fchdir(&before)?;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let frames = [Frame::new(["start", "web"]), Frame::new([""]), Frame::default()];
        let mut bytes = Vec::new();
        frames.iter().for_each(|f| f.append_to(&mut bytes));
        for cut in 0..=bytes.len() {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let (mut reader, mut seen) = (Reader::default(), Vec::new());
            ours.write_all(&bytes[..cut]).unwrap();
            assert_ne!(reader.read(&theirs, |f| seen.push(f)).unwrap(), Got::End);
            ours.write_all(&bytes[cut..]).unwrap();
            drop(ours);
            while reader.read(&theirs, |f| seen.push(f)).unwrap() != Got::End {}
            assert_eq!(seen, frames, "cut at {cut}");
        }
    }

    #[test]
    fn a_huge_length_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(Reader::default().read(&theirs, |_| ()).is_err());
    }

    #[test]
    fn fields() {
        let frame = Frame::new(["news", "web", "up"]);
        assert_eq!(frame.texts().unwrap(), ["news", "web", "up"]);
        let (first, rest) = frame.split().unwrap();
        assert_eq!((first, rest.texts().unwrap()), ("news", vec!["web", "up"]));
        assert_eq!(rest.after("news"), frame);
        assert_eq!(frame.before("x").texts().unwrap(), ["news", "web", "up", "x"]);
    }
}
