//! Who gives a command, for whoever asks later why a service was stopped; and how
//! that is said then.

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

/// Who has asked, by the word that was noted and the fields of [`describe`]. For a
/// sentence after "by".
pub(super) fn shown<'a>(verb: &str, field: impl Fn(&str) -> Option<&'a str>) -> String {
    let command = match verb {
        "leave" => return "the end of its keeper, which took all services along".to_owned(),
        "stop-now" => "reraise stop --now",
        "start-once" => "reraise start --once",
        "start" => "reraise start",
        "stop" => "reraise stop",
        "restart" => "reraise restart",
        "resume" => "reraise resume",
        signal => return format!("signal {signal} to its worker"),
    };
    let Some(user) = field("user") else { return format!("`{command}`") };
    let user = match field("sudo").filter(|sudo| *sudo != user) {
        Some(sudo) => format!("{sudo} as {user}"),
        None => user.to_owned(),
    };
    let from = field("from").map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let tty = field("tty").map(|tty| format!(", {tty}")).unwrap_or_default();
    format!("{user} ({command}{from}{tty})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_it_was() {
        let of = |verb: &str, who: &'static str| {
            shown(verb, |key| who.split(' ').find_map(|w| w.strip_prefix(key)?.strip_prefix('=')))
        };
        let alice = "user=alice from=12 tty=pts/0";
        assert_eq!(of("stop", alice), "alice (reraise stop, pid 12, pts/0)");
        assert_eq!(of("stop-now", "user=al from=1"), "al (reraise stop --now, pid 1)");
        assert_eq!(of("start", "user=app from=1 sudo=al"), "al as app (reraise start, pid 1)");
        assert_eq!(of("restart", ""), "`reraise restart`");
        assert_eq!(of("TERM", ""), "signal TERM to its worker");
        assert_eq!(of("leave", ""), "the end of its keeper, which took all services along");
        assert!(describe().starts_with("user=") && !describe().contains('\n'));
    }
}
