//! A command to be pasted, by which the owner of a service finds out what we cannot.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use reraise::name::ServiceName;

use super::users::{Users, account};
use super::{Setting, usage};

/// `reraise VERB NAME` as the owner. sudo passes neither our environment nor our PATH on.
pub(crate) fn as_owner(setting: &Setting, owner: u32, verb: &str, name: &ServiceName) -> String {
    let us = std::env::current_exe().unwrap_or_else(|_| "reraise".into());
    let (dirs, logdir) = (&setting.dirs, logdir(setting, owner, name));
    line(&Users::default().user(owner), &us, [&dirs.dir, &dirs.piddir(owner), &logdir], verb, name)
}

/// Where its log is seen to be, or else where it is when we have started it.
fn logdir(setting: &Setting, owner: u32, name: &ServiceName) -> PathBuf {
    let home = account(owner).map(|account| Path::new(&account.home).join("reraise.log"));
    let mut places = setting.dirs.given_logdir().map(Path::to_owned).into_iter().chain(home);
    let seen = places.find(|place| place.join(name.as_str()).is_dir());
    seen.unwrap_or_else(|| setting.dirs.logdir(owner))
}

fn line(
    user: &str,
    us: &Path,
    [dir, piddir, logdir]: [&PathBuf; 3],
    verb: &str,
    name: &ServiceName,
) -> String {
    // Who has no name is a number after `#`.
    let is_number = user.bytes().all(|b| b.is_ascii_digit());
    let user = if is_number { format!("#{user}") } else { user.to_owned() };
    let words: [&OsStr; 12] = [
        "sudo".as_ref(),
        "-u".as_ref(),
        user.as_ref(),
        us.as_ref(),
        "--dir".as_ref(),
        dir.as_ref(),
        "--piddir".as_ref(),
        piddir.as_ref(),
        "--logdir".as_ref(),
        logdir.as_ref(),
        verb.as_ref(),
        name.as_str().as_ref(),
    ];
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        usage::quoted(&word).unwrap_or_else(|| word.into_owned())
    });
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_each_word_as_it_is() {
        let name = ServiceName::new("web".as_ref()).unwrap();
        let (d, p, l) = ("/d d".into(), "/p".into(), "/l's".into());
        let told = |user| line(user, Path::new("/opt/reraise"), [&d, &p, &l], "logs", &name);
        let rest = r"/opt/reraise --dir '/d d' --piddir /p --logdir '/l'\''s' logs web";
        assert_eq!(told("app"), format!("sudo -u app {rest}"));
        assert_eq!(told("70001"), format!("sudo -u '#70001' {rest}"));
    }
}
