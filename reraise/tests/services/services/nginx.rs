//! A master with workers, which hold the port when the master is killed.

use std::fs;
use std::path::Path;

use crate::lab::{Lab, ask_tcp, free_port};
use crate::skip;

const PROGRAM: &str = "/usr/sbin/nginx";

#[test]
fn nginx_stays_up() {
    if !Path::new(PROGRAM).exists() {
        return skip("nginx is not installed");
    }
    let lab = Lab::new("nginx");
    let (dir, port) = (lab.dir("nginx"), free_port());
    let place = dir.display();
    // Only a master of root's changes to another user.
    let user = if lab.owner().uid == 0 { "user root;" } else { "" };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {place}/{kind};\n"))
        .concat();
    let conf = format!(
        "{user}\ndaemon off;\nworker_processes 2;\npid {place}/pid;\nevents {{ }}\nhttp {{\n\
         {temp}access_log off;\nserver {{ listen 127.0.0.1:{port};\n\
         location / {{ return 200 \"hello from $pid\\n\"; }} }} }}\n"
    );
    fs::write(dir.join("conf"), conf).unwrap();
    lab.script(&format!(
        "config_start_sec=0\nconfig_stop=\"QUIT 20, TERM 5, KILL 5\"\nconfig_stop_to=process\n\
         exec {PROGRAM} -p {place} -c {place}/conf -e stderr"
    ));
    let ping = || {
        let answer = ask_tcp(port, b"GET / HTTP/1.0\r\n\r\n").unwrap_or_default();
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("hello from ")
    };
    lab.start(ping);
    assert_eq!(lab.tree().len(), 3, "a master and two workers");
    lab.kill_and_see_it_raised(ping);
    lab.kill_and_see_it_raised(ping);
    lab.kill_worker(ping);
    lab.kill_and_see_it_raised(ping);
    lab.restart(ping);
    lab.stop(ping);
    assert!(!lab.log().contains("Address already in use"), "{}", lab.log());
}
