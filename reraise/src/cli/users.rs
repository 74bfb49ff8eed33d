//! Names of users and groups. Read from /etc/passwd and /etc/group, and asked of
//! `getent` and `id` for those that other name services know: a static binary
//! cannot load their modules, and must not try. What nobody knows is a number.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// Finds names, and remembers them.
#[derive(Default)]
pub(crate) struct Users {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Users {
    /// The user's name, or the number.
    pub(crate) fn user(&mut self, uid: u32) -> String {
        self.users.entry(uid).or_insert_with(|| find("passwd", uid)).clone()
    }

    /// The group's name, or the number.
    pub(crate) fn group(&mut self, gid: u32) -> String {
        self.groups.entry(gid).or_insert_with(|| find("group", gid)).clone()
    }
}

fn find(database: &str, id: u32) -> String {
    let local = fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    let found = local.lines().find_map(|line| name_in(line, id));
    found.or_else(|| asked(database, id)).unwrap_or_else(|| id.to_string())
}

/// passwd(5) and group(5) agree on the first three fields.
fn name_in(line: &str, id: u32) -> Option<String> {
    let mut fields = line.split(':');
    let (name, number) = (fields.next()?, fields.nth(1)?);
    (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
}

fn asked(database: &str, id: u32) -> Option<String> {
    let number = id.to_string();
    if let Some(line) = output(Command::new("getent").args([database, &number])) {
        return name_in(line.trim_end(), id);
    }
    // macOS has no getent; its `id` takes a number, and for users only.
    let name =
        output(Command::new("id").args(["-un", &number])).filter(|_| database == "passwd")?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// What root needs to become a user.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
    /// The group of a login.
    pub(crate) gid: u32,
    /// All groups of the user.
    pub(crate) groups: Vec<u32>,
}

/// The account of a user, if there is one.
pub(crate) fn account(uid: u32) -> Option<Account> {
    let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = local.lines().find(|line| name_in(line, uid).is_some()).map(str::to_owned);
    let number = uid.to_string();
    let line = line
        .or_else(|| output(Command::new("getent").args(["passwd", &number])))
        // macOS has no getent, and its people are not in /etc/passwd (id(1)).
        .or_else(|| output(Command::new("id").args(["-P", &number])))?;
    let account = account_in(line.trim_end())?;
    let groups = output(Command::new("id").args(["-G", &account.name]))?;
    let groups = groups.split_ascii_whitespace().flat_map(str::parse).collect();
    Some(Account { groups, ..account })
}

/// passwd(5): name, password, user, group, comment, home, shell; as `id -P` has it
/// with class, change and expire before the comment. The groups are not told.
fn account_in(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let (&[name, _, _, gid, _, home, shell] | &[name, _, _, gid, _, _, _, _, home, shell]) =
        fields.as_slice()
    else {
        return None;
    };
    let (name, home, shell) = (name.to_owned(), home.to_owned(), shell.to_owned());
    Some(Account { name, home, shell, gid: gid.parse().ok()?, groups: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_or_numbers() {
        assert_eq!(name_in("root:x:0:0:root:/root:/bin/bash", 0).as_deref(), Some("root"));
        assert_eq!(name_in("root:x:0:0:root:/root:/bin/bash", 1), None);
        assert_eq!(name_in("", 0), None);
        let mut users = Users::default();
        assert_eq!(users.user(0), "root");
        assert_eq!(users.user(4_000_000_123), "4000000123");
        assert_eq!(users.group(4_000_000_123), "4000000123");
    }

    #[test]
    fn both_forms_of_an_account() {
        for line in [
            "ann:x:501:20:Ann Other:/Users/ann:/bin/zsh",
            "ann:********:501:20::0:0:Ann Other:/Users/ann:/bin/zsh",
        ] {
            let account = account_in(line).unwrap();
            let texts = [account.name, account.home, account.shell];
            assert_eq!((texts.join(" "), account.gid), ("ann /Users/ann /bin/zsh".into(), 20));
        }
        for line in
            ["", "ann", "ann:x:501:staff:Ann:/Users/ann:/bin/zsh", "ann:x:501:20:Ann:/Users/ann"]
        {
            assert!(account_in(line).is_none(), "{line}");
        }
    }
}
