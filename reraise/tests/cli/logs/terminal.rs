//! `reraise logs` on a terminal: colours, harmless text, a pager.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::written::Log;
use crate::support::{Sandbox, finish, spawn, write_program};

/// Runs `reraise` on a terminal; what it shows there, and its exit code.
#[track_caller]
fn on_terminal(s: &Sandbox, words: &[&str], set: &[(&str, &str)]) -> (String, i32) {
    let pty = nix::pty::openpty(None, None).unwrap();
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let mut command = s.command(words);
    command.env("TERM", "xterm").envs(set.iter().copied());
    command.stdout(Stdio::from(pty.slave.try_clone().unwrap()));
    let child = spawn(command.stderr(Stdio::piped()));
    drop(command);
    drop(pty.slave);
    let mut shown = Vec::new();
    let mut master = File::from(pty.master);
    let mut buffer = [0; 4096];
    // EIO: nobody has it open any more.
    while let Ok(got @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..got]);
    }
    let done = finish(child, &s.command(words));
    let shown = String::from_utf8_lossy(&shown).replace("\r\n", "\n");
    (shown + &done.err, done.code)
}

#[test]
fn on_a_terminal() {
    let s = Sandbox::new();
    let mut log = Log::new(&s, "web");
    log.begin(0.0, 1);
    log.say(0.0, "\x1b[31mred\x07 \x1b[2J\tx\r\n");
    let began = "--- web: run 0000000000000001 began 2026-11-29 11:53:00";
    let line = "\x1b[31mred\\x07 \\x1b[2J\tx\x1b[0m";
    let none = [("PAGER", "cat")];
    let (shown, code) = on_terminal(&s, &["logs", "web"], &none);
    assert_eq!((shown, code), (format!("\x1b[2m{began}\x1b[0m\n{line}\n"), 0));
    Log::new(&s, "db").say(1.0, "d\n");
    let (shown, _) = on_terminal(&s, &["logs", "--grep", "red|d"], &none);
    assert_eq!(shown, format!("\x1b[33mweb |\x1b[0m {line}\n\x1b[36mdb  |\x1b[0m d\n"));
    let plain = [("PAGER", ""), ("NO_COLOR", "1")];
    let (shown, _) = on_terminal(&s, &["logs", "web", "-n1"], &plain);
    assert!(shown.ends_with(&format!("{line}\n")), "{shown:?}");
    let (shown, _) = on_terminal(&s, &["logs", "db"], &plain);
    assert_eq!(shown, "d\n");
}

#[test]
fn the_pager() {
    let s = Sandbox::new();
    Log::new(&s, "web").say(0.0, "line\n");
    let pager = s.at("my pager");
    write_program(&pager, "#!/bin/sh\necho \"LESS=$LESS\"\nsed 's/^/> /'\n");
    let pager = format!("'{}'", pager.display());
    let show = |words: &[&str], set: &[(&str, &str)]| on_terminal(&s, words, set).0;
    let web = ["logs", "web"];
    assert_eq!(show(&web, &[("PAGER", &pager)]), "LESS=FRX\n> line\n");
    assert_eq!(show(&web, &[("PAGER", &pager), ("LESS", "S")]), "LESS=S\n> line\n");
    assert_eq!(show(&web, &[("PAGER", "false"), ("RERAISE_PAGER", &pager)]), "LESS=FRX\n> line\n");
    assert_eq!(show(&web, &[("PAGER", &pager), ("RERAISE_PAGER", "cat")]), "line\n");
    assert_eq!(show(&["logs", "web", "--no-pager"], &[("PAGER", &pager)]), "line\n");
    // One that ends early, and one that is not there.
    assert_eq!(on_terminal(&s, &web, &[("PAGER", "true")]), (String::new(), 0));
    let (shown, code) = on_terminal(&s, &web, &[("PAGER", "/nonexistent/pager")]);
    assert_eq!(code, 2);
    let fault = "reraise: /nonexistent/pager: cannot be run as a pager\n    \
        set RERAISE_PAGER or PAGER, or say --no-pager\n";
    assert!(shown.ends_with(fault), "{shown}");
    // In a pipe there is none.
    let mut command = s.command(&web);
    s.run(command.env("PAGER", &pager)).expect(0).prints("line\n");
}
