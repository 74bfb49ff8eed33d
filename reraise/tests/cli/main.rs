//! The programs `reraise` and `auto-reraise` themselves, from outside: what they
//! print, what they end with, and what must hold whatever is done to them.
//!
//! A test waits for facts (a line in a FIFO, the end of a process), never for
//! time to pass; every wait has a limit, after which it fails and says what it
//! waited for. Each test has a [`support::Sandbox`] of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

#[test]
fn smoke() {
    let s = support::Sandbox::new();
    let fifo = s.fifo("f");
    s.script("web", &format!("config_start_sec=0\necho $$ >{}\nexec sleep 1000", fifo.shown()));
    assert_eq!(s.ok(&["start", "web"]), "web: start\n");
    assert_eq!(fifo.number(), s.pid("web"));
    assert_eq!(s.status("web"), "running");
    println!("{} {} {:?}", s.worker("web"), s.keeper(), s.processes());
}
