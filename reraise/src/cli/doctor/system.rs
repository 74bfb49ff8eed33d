//! The two programs, and what this system can promise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reraise::backend::native;

use super::findings::Findings;
use crate::cli::client::worker_program;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Checks both.
pub(super) fn check(found: &mut Findings) {
    programs(found);
    path(found);
    promises(native::KEEPS_ORPHANS, native::has_handles(), found);
}

/// Where the shell would find a program.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| p.exists());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| {
        fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

fn programs(found: &mut Findings) {
    let program = worker_program();
    let advice = "install both at once: cargo install --locked --path reraise";
    let asked = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
    let said = match asked {
        Ok(done) => String::from_utf8_lossy(&done.stdout).trim().to_owned(),
        Err(e) => {
            let reason = reraise::error::reason(&e);
            found.problem(format!("{}: cannot be run: {reason}", program.display()), advice);
            return;
        }
    };
    match said.strip_prefix("auto-reraise ") {
        Some(VERSION) => {
            found.ok(format!("reraise and auto-reraise {VERSION}: {}", program.display()))
        }
        Some(other) => found.problem(
            format!("{}: is version {other}, and reraise is {VERSION}", program.display()),
            advice,
        ),
        None => found.problem(
            format!(
                "{}: is not the auto-reraise of this version; the shell version?",
                program.display()
            ),
            advice,
        ),
    }
}

fn path(found: &mut Findings) {
    let Ok(us) = std::env::current_exe().and_then(fs::canonicalize) else { return };
    let directory = us.parent().unwrap_or(&us).display();
    match in_path("reraise").map(|p| (fs::canonicalize(&p).unwrap_or(p.clone()), p)) {
        Some((real, _)) if real == us => {}
        Some((_, other)) => found.warning(
            format!("`reraise` in your PATH is another one: {}", other.display()),
            format!("export PATH=\"{directory}:$PATH\"   # or remove the other"),
        ),
        None => found.warning(
            "reraise is not in your PATH",
            format!("export PATH=\"{directory}:$PATH\"   # in your shell's profile"),
        ),
    }
}

fn promises(keeps_orphans: bool, has_handles: bool, found: &mut Findings) {
    let table = "what each system can promise stands in the README, under Platforms";
    if keeps_orphans {
        found.ok("this system: a stop reaches every process that a service has started");
    } else {
        found.warning(
            "this system: a process that leaves its service's tree is known by session and environment only",
            table,
        );
    }
    if has_handles {
        found.ok("this system: a signal cannot reach a stranger that got the same pid");
    } else {
        found.warning(
            "this system: for a few microseconds a signal could reach a stranger that got the same pid",
            table,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_promised_is_said() {
        for (keeps, handles, count) in [(true, true, 0), (true, false, 1), (false, false, 2)] {
            let mut found = Findings::default();
            promises(keeps, handles, &mut found);
            assert_eq!(found.count(), (0, count));
        }
    }

    #[test]
    fn programs_are_found_where_the_shell_finds_them() {
        assert!(in_path("sh").is_some_and(|p| p.ends_with("sh")));
        assert_eq!(in_path("no-such-program-anywhere"), None);
        assert!(in_path("/bin/sh").is_some());
    }
}
