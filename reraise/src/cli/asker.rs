//! Who gives a command, for whoever asks later why a service was stopped.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::users::Users;

/// `user=NAME from=PID tty=NAME sudo=NAME`, without what there is not. Nothing here
/// is proved: whoever can talk to the keeper could say anything.
pub(super) fn describe() -> String {
    let user = Users::default().user(nix::unistd::getuid().as_raw());
    let mut text = format!("user={} from={}", word(&user), std::process::id());
    if let Some(tty) = terminal() {
        text += &format!(" tty={}", word(&tty));
    }
    if let Ok(user) = std::env::var("SUDO_USER") {
        text += &format!(" sudo={}", word(&user));
    }
    text
}

/// The terminal that one of our streams is, without `/dev/`.
fn terminal() -> Option<String> {
    fn name(stream: impl IsTerminal + AsFd) -> Option<PathBuf> {
        if stream.is_terminal() { nix::unistd::ttyname(stream).ok() } else { None }
    }
    let path = name(io::stdin()).or_else(|| name(io::stderr())).or_else(|| name(io::stdout()))?;
    Some(path.strip_prefix("/dev").unwrap_or(&path).display().to_string())
}

fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() { '?' } else { c }).take(40).collect()
}
