//! As much of libtest's command line as `cargo test` and nextest use. libtest
//! itself runs a test in a second thread, and the first one would be delivered
//! the signals that the test has blocked.

use std::process::{Command, ExitCode};

pub(crate) type Case = (String, fn());

/// Lists the cases, or runs those that are named; all where none is.
pub(crate) fn run(all: &[Case], arguments: &[String]) -> ExitCode {
    let has = |option: &str| arguments.iter().any(|a| a == option);
    if has("--list") {
        for (name, _) in all.iter().filter(|_| !has("--ignored")) {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let is_named = |case: &&Case| {
        names.is_empty()
            || names
                .iter()
                .any(|n| if has("--exact") { case.0 == **n } else { case.0.contains(*n) })
    };
    let chosen: Vec<&Case> = all.iter().filter(is_named).collect();
    if let ([(_, case)], true) = (&chosen[..], has("--exact")) {
        case();
        return ExitCode::SUCCESS;
    }
    let failed = chosen.iter().filter(|(name, _)| !succeeds(name)).count();
    say(&format!("{} cases, {failed} failed", chosen.len()));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn succeeds(name: &str) -> bool {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args([name, "--exact"]).output().unwrap();
    let is_success = output.status.success();
    say(&format!("{name} ... {}", if is_success { "ok" } else { "FAILED" }));
    if !is_success {
        say(&String::from_utf8_lossy(&output.stderr));
    }
    is_success
}

#[expect(clippy::print_stdout, reason = "what a harness is for")]
fn say(line: &str) {
    println!("{line}");
}
