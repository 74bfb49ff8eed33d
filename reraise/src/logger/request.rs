//! How a log is rotated on request: a file in the service's directory asks for it, and
//! another one answers.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::reason;

const REQUEST: &str = "rotate";
const ANSWER: &str = "rotated";

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was rotated.
    Done,
    /// There was nothing in it.
    Empty,
    /// It could not be, for this reason.
    Failed(String),
}

/// Asks. The logger is to be told to look, see [`bell::ring`](super::bell::ring).
///
/// # Errors
/// As `open(2)`.
pub fn ask(own: &Path) -> io::Result<()> {
    let _ = fs::remove_file(own.join(ANSWER));
    File::create(own.join(REQUEST)).map(drop)
}

/// What was answered; `None` while nothing was.
#[must_use]
pub fn answered(own: &Path) -> Option<Answer> {
    if is_there(own) {
        return None;
    }
    let text = fs::read_to_string(own.join(ANSWER)).ok()?;
    Some(match text.as_str() {
        // Somebody else has asked just now, and it is being written.
        "" => return None,
        "done" => Answer::Done,
        "empty" => Answer::Empty,
        other => Answer::Failed(other.to_owned()),
    })
}

/// Whether request and answer are both gone: somebody else who asked has taken them
/// away, and it is to be asked again.
#[must_use]
pub fn is_lost(own: &Path) -> bool {
    let is_gone = |file| {
        let seen = fs::symlink_metadata(own.join(file));
        seen.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    is_gone(REQUEST) && is_gone(ANSWER)
}

/// Takes the request back.
pub fn forget(own: &Path) {
    for file in [REQUEST, ANSWER] {
        let _ = fs::remove_file(own.join(file));
    }
}

/// Whether somebody asks.
pub(super) fn is_there(own: &Path) -> bool {
    fs::symlink_metadata(own.join(REQUEST)).is_ok()
}

/// Answers: whether there was anything to rotate, or why it could not be done.
pub(super) fn answer(own: &Path, rotated: &io::Result<bool>) {
    let text = match rotated {
        Ok(true) => "done".to_owned(),
        Ok(false) => "empty".to_owned(),
        Err(e) => reason(e),
    };
    // Whoever asks gives up some day.
    let _ = fs::write(own.join(ANSWER), text);
    let _ = fs::remove_file(own.join(REQUEST));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_once() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path();
        assert!(!is_there(own) && answered(own).is_none());
        let failed = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        for (rotated, expected) in [
            (Ok(true), Answer::Done),
            (Ok(false), Answer::Empty),
            (failed, Answer::Failed("no space left on device".to_owned())),
        ] {
            ask(own).unwrap();
            assert!(is_there(own) && answered(own).is_none());
            answer(own, &rotated);
            assert_eq!(answered(own), Some(expected));
        }
        forget(own);
        assert_eq!(fs::read_dir(own).unwrap().count(), 0);
    }

    #[test]
    fn what_another_takes_away_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path();
        // Two ask, and the quicker one takes the answer.
        ask(own).unwrap();
        ask(own).unwrap();
        assert!(!is_lost(own));
        answer(own, &Ok(true));
        assert!(!is_lost(own) && answered(own) == Some(Answer::Done));
        forget(own);
        assert!(is_lost(own) && answered(own).is_none());
        // One asks while the other is answered.
        ask(own).unwrap();
        fs::write(own.join(ANSWER), "done").unwrap();
        ask(own).unwrap();
        fs::remove_file(own.join(REQUEST)).unwrap();
        assert!(is_lost(own));
        fs::write(own.join(ANSWER), "").unwrap();
        assert!(!is_lost(own) && answered(own).is_none());
    }
}
