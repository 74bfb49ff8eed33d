//! A server that its script does not `exec`: killing the shell leaves it behind.

use std::path::Path;

use crate::lab::{Lab, ask_tcp, ask_unix, free_port};
use crate::skip;

const PROGRAM: &str = "/usr/bin/redis-server";

fn redis_stays_up(command: &str, processes: usize) {
    if !Path::new(PROGRAM).exists() {
        return skip("redis-server is not installed");
    }
    let lab = Lab::new("redis");
    let (dir, port) = (lab.dir("redis"), free_port());
    let socket = dir.join("socket");
    let arguments = format!(
        "--port {port} --bind 127.0.0.1 --unixsocket {} --dir {} --save '' --daemonize no",
        socket.display(),
        dir.display()
    );
    lab.script(&format!(
        "config_start_sec=0\n{}",
        command.replace("REDIS", &format!("{PROGRAM} {arguments}"))
    ));
    let ping = || {
        let pong = |answer: Option<String>| answer.as_deref() == Some("+PONG\r\n");
        pong(ask_tcp(port, b"PING\r\n")) && pong(ask_unix(&socket, b"PING\r\n"))
    };
    lab.start(ping);
    assert_eq!(lab.tree().len(), processes);
    lab.kill_and_see_it_raised(ping);
    lab.kill_and_see_it_raised(ping);
    lab.kill_worker(ping);
    lab.kill_and_see_it_raised(ping);
    lab.restart(ping);
    lab.stop(ping);
    assert!(!lab.log().contains("Address already in use"), "{}", lab.log());
}

#[test]
fn redis_stays_up_by_itself() {
    redis_stays_up("exec REDIS", 1);
}

#[test]
fn redis_stays_up_under_a_shell() {
    redis_stays_up("REDIS\nexit $?", 2);
}
