//! Real services from Debian under the real programs, and services of other
//! users through the real `sudo`.
//!
//! What is not installed is skipped, and said; not so where `CI` is set. On other
//! systems than Linux there is nothing here.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "what was skipped, and what was measured")]

mod lab;
mod people;
#[path = "../cli/support.rs"]
#[expect(dead_code, reason = "shared; each test program uses a part of it")]
mod support;

/// What needs the machine for itself, see `.config/nextest.toml`.
mod services {
    mod nginx;
    mod postgres;
    mod redis;
    mod sudo;
}

/// Says why a test cannot be run; in CI that is a failure.
#[track_caller]
fn skip(why: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    assert!(!is_ci, "cannot be skipped in CI: {why}");
    println!("skipped: {why}");
}
