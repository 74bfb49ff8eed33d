//! A server whose processes have sessions of their own and overwrite their
//! environment, with a shutdown that only its main process should hear of.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::Lab;
use crate::skip;
use crate::support::wait_for;

/// The newest that is installed.
fn programs() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

struct Postgres {
    lab: Lab,
    socket: PathBuf,
}

impl Postgres {
    /// A new data directory and the script for it.
    fn new() -> Option<Self> {
        let Some(bin) = programs() else {
            skip("PostgreSQL is not installed");
            return None;
        };
        let Some(lab) = Lab::of_ordinary_user("pg") else {
            skip("PostgreSQL refuses to run as root, and there is no user reraise-ci");
            return None;
        };
        let (data, sockets) = (lab.dir("data"), lab.dir("sockets"));
        let mut initdb = lab.s.program(bin.join("initdb"));
        initdb.args(["--no-sync", "-A", "trust", "-U", "tester", "-E", "UTF8", "--locale", "C"]);
        initdb.arg("-D").arg(&data);
        lab.s.run(lab.owner().run(&mut initdb)).expect(0);
        lab.script(&format!(
            "config_start_sec=0\nconfig_stop=\"INT 30, KILL 10\"\nconfig_stop_to=process\n\
             exec {} -D {} -k {} -c listen_addresses= -c fsync=off",
            bin.join("postgres").display(),
            data.display(),
            sockets.display()
        ));
        Some(Self { lab, socket: sockets.join(".s.PGSQL.5432") })
    }

    fn ping(&self) -> bool {
        session(&self.socket).is_some()
    }

    fn shutdowns(&self) -> usize {
        self.lab.log().matches("database system is shut down").count()
    }
}

/// A session that has answered a query: the messages are those of the
/// frontend/backend protocol, version 3.
fn session(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let words = b"user\0tester\0database\0postgres\0\0";
    let mut startup = (words.len() as u32 + 8).to_be_bytes().to_vec();
    startup.extend(0x3_0000_u32.to_be_bytes());
    startup.extend(words);
    stream.write_all(&startup).ok()?;
    until_ready(&mut stream)?;
    let query = b"SELECT 6 * 7\0";
    stream.write_all(b"Q").ok()?;
    stream.write_all(&(query.len() as u32 + 4).to_be_bytes()).ok()?;
    stream.write_all(query).ok()?;
    let rows = until_ready(&mut stream)?;
    rows.windows(2).any(|w| w == b"42").then_some(stream)
}

/// Reads messages up to ReadyForQuery; `None` after an error, such as that the
/// system is starting up.
fn until_ready(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).ok()?;
        match head[0] {
            b'E' => return None,
            b'Z' => return Some(all),
            _ => all.extend(body),
        }
    }
}

#[test]
fn postgres_stays_up() {
    let Some(pg) = Postgres::new() else { return };
    let ping = || pg.ping();
    pg.lab.start(ping);
    // A client that does not leave by itself: a process more to clear.
    wait_for("its auxiliary processes", || pg.lab.tree().len() > 5);
    let client = session(&pg.socket).unwrap();
    pg.lab.kill_and_see_it_raised(ping);
    drop(client);
    assert_eq!(pg.shutdowns(), 0);
    assert!(pg.lab.log().contains("automatic recovery in progress"));
    let _client = session(&pg.socket).unwrap();
    pg.lab.restart(ping);
    assert_eq!(pg.shutdowns(), 1, "{}", pg.lab.log());
    let _client = session(&pg.socket).unwrap();
    pg.lab.stop(ping);
    assert_eq!(pg.shutdowns(), 2, "{}", pg.lab.log());
    assert_eq!(pg.lab.log().matches("received fast shutdown request").count(), 2);
}

#[test]
fn postgres_is_stopped_by_another_worker_than_started_it() {
    let Some(pg) = Postgres::new() else { return };
    let ping = || pg.ping();
    pg.lab.start(ping);
    let _client = session(&pg.socket).unwrap();
    pg.lab.kill_worker(ping);
    pg.lab.stop(ping);
    assert_eq!(pg.shutdowns(), 1, "{}", pg.lab.log());
    let log = pg.lab.log();
    assert!(log.contains("received fast shutdown request"), "{log}");
    // Nothing was wrong when the last one was told to go.
    assert!(!log.contains("terminating any other active server processes"), "{log}");
}
