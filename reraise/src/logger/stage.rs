//! Where output stands while times are put before its lines. What is read into memory
//! is gone when we are killed; what has been moved into this file is not. Its head says
//! where in the log it goes, so that the next one writes it anew from there: whatever
//! was written before is written over.
//!
//! 1. The head is written, and the file ends behind it.
//! 2. Bytes are moved from the pipe behind the head.
//! 3. They are written to the log, each line after its time. Where the log is rotated
//!    in between, the head first says how far that has come.
//! 4. The file is cut to nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::backend::native;
use crate::slot::checksum;

/// Bytes before what is staged.
const HEAD: u64 = 64;
const MAGIC: [u8; 8] = *b"rr-stag\x01";

/// Where what is staged goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// Bytes of it that are in the log for good.
    pub(super) done: u64,
    /// The file that the rest goes to, see [`Sink::number`](super::sink::Sink::number).
    pub(super) file: u64,
    /// Bytes of that file before the rest.
    pub(super) end: u64,
    /// When it was taken, in microseconds since 1970.
    pub(super) time: i64,
    /// The run that has said it.
    pub(super) run: u64,
}

impl Head {
    fn encode(&self) -> [u8; HEAD as usize] {
        let mut out = [0; HEAD as usize];
        out[..8].copy_from_slice(&MAGIC);
        let words = [self.done, self.file, self.end, self.time.cast_unsigned(), self.run];
        for (at, word) in words.iter().enumerate() {
            out[8 + 8 * at..16 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&out[..48]);
        out[48..56].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEAD as usize]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        (bytes[..8] == MAGIC && word(48) == checksum(&bytes[..48])).then(|| Self {
            done: word(8),
            file: word(16),
            end: word(24),
            time: word(32).cast_signed(),
            run: word(40),
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stage(File);

impl Stage {
    /// Opens or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(path).map(Self)
    }

    /// What an earlier logger has left there.
    pub(super) fn left(&self) -> io::Result<Option<(Head, Vec<u8>)>> {
        let length = self.0.metadata()?.len();
        let mut head = [0; HEAD as usize];
        if length <= HEAD {
            return Ok(None);
        }
        self.0.read_exact_at(&mut head, 0)?;
        let Some(head) = Head::decode(&head) else { return Ok(None) };
        let mut text = vec![0; usize::try_from(length - HEAD).unwrap_or(0)];
        self.0.read_exact_at(&mut text, HEAD)?;
        Ok(Some((head, text)))
    }

    /// Takes bytes from a pipe and shows them; `WouldBlock` when it is empty.
    pub(super) fn fill(
        &self,
        head: &Head,
        pipe: &File,
        most: usize,
        text: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(&head.encode(), 0)?;
        let mut got = 0;
        while got < most {
            match native::move_bytes(pipe.as_fd(), self.0.as_fd(), HEAD + got as u64, most - got) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(_) if got > 0 => break,
                Err(e) => return Err(e),
            }
        }
        text.resize(got, 0);
        self.0.read_exact_at(text, HEAD)
    }

    /// Says how far it has come.
    pub(super) fn note(&self, head: &Head) -> io::Result<()> {
        self.0.write_all_at(&head.encode(), 0)
    }

    /// All of it is in the log.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.0.set_len(0)
    }
}

/// Whether there is anything in it.
pub(super) fn is_left(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|about| about.len() > HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_staged_is_found_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stage");
        let stage = Stage::open(&path).unwrap();
        assert_eq!(stage.left().unwrap(), None);
        let pipe = super::super::pipes::make(&dir.path().join("pipe")).unwrap();
        let head = Head { done: 1, file: 2, end: 3, time: -4, run: 5 };
        let mut text = Vec::new();
        let empty = stage.fill(&head, &pipe, 100, &mut text).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(stage.left().unwrap(), None);
        (&pipe).write_all(b"one\ntwo\n").unwrap();
        stage.fill(&head, &pipe, 4, &mut text).unwrap();
        assert_eq!(text, b"one\n");
        let left = Stage::open(&path).unwrap().left().unwrap();
        assert_eq!(left, Some((head, b"one\n".to_vec())));
        let further = Head { done: 2, ..head };
        stage.note(&further).unwrap();
        assert_eq!(stage.left().unwrap().unwrap().0, further);
        stage.clear().unwrap();
        assert_eq!(stage.left().unwrap(), None);
    }

    #[test]
    fn a_torn_head_is_none() {
        let whole = Head { done: 1, file: 2, end: 3, time: 4, run: 5 }.encode();
        for bit in 0..56 * 8 {
            let mut torn = whole;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&torn), None, "bit {bit}");
        }
    }
}
