//! A keeper and those that do not behave as they should.

use std::path::Path;

use super::*;
use crate::lock::LockFile;
use crate::supervise::link::{KeeperCommand, Request};
use crate::supervise::machine::Outcome;
use crate::supervise::news::News;
use crate::supervise::worker::Place;

/// A keeper that has nothing to do, in a directory of its own.
fn bare(dir: &Path) -> Keeper {
    let state = dir.to_owned();
    let lock = LockFile::open(&state.join("keeper.lock")).unwrap();
    let command = KeeperCommand { program: "/".into(), piddir: state.clone(), state, build: 0 };
    Keeper::new(command, 0, lock, Place::default(), &[], None).unwrap()
}

fn web() -> ServiceName {
    ServiceName::new("web".as_ref()).unwrap()
}

/// A connection to the keeper, and the other side of it.
fn connected(keeper: &mut Keeper, peer: Peer) -> (u64, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (keeper.connect(ours, peer).unwrap(), theirs)
}

#[test]
fn what_a_dead_worker_said_is_read_though_its_child_holds_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = bare(dir.path());
    let (client, ear) = connected(&mut keeper, Peer::Client);
    let effects = keeper.registry.request(client, web(), Request::Restart);
    keeper.carry_out(effects);
    let (token, voice) = connected(&mut keeper, Peer::Worker(web()));
    keeper.links.insert(web(), token);
    // Dead, as far as the keeper knows: its end must not be counted twice.
    keeper.workers.insert(i32::MAX, (web(), token));
    // More than one read takes, and nobody closes the other side.
    let last_words = News::Over(Outcome::Stopped).to_frame().after("all");
    let mut all = Vec::new();
    for pid in 0..1000 {
        News::Running(pid).to_frame().after("all").append_to(&mut all);
    }
    last_words.append_to(&mut all);
    (&voice).write_all(&all).unwrap();
    keeper.drain(token);
    assert!(!keeper.connections.contains_key(&token));
    let heard = all_heard(&mut keeper, &ear);
    let expected = News::Over(Outcome::Stopped).to_frame().after("web");
    assert_eq!((heard.last(), heard.len()), (Some(&expected), 1002));
}

/// What the keeper says to somebody who reads at last.
fn all_heard(keeper: &mut Keeper, ear: &UnixStream) -> Vec<Frame> {
    ear.set_nonblocking(true).unwrap();
    let (mut reader, mut heard) = (Reader::default(), Vec::new());
    loop {
        keeper.flush_all();
        while reader.read(ear, |frame| heard.push(frame)).unwrap() == Got::Open {}
        if keeper.behind.is_empty() {
            while reader.read(ear, |frame| heard.push(frame)).unwrap() == Got::Open {}
            return heard;
        }
    }
}

/// Sends it so much, and gives what is kept for it.
fn flooded(keeper: &mut Keeper, token: u64, bytes: usize) -> Option<usize> {
    let frame = Frame::from_bytes(vec![b'x'; 1 << 20]);
    for _ in 0..bytes >> 20 {
        keeper.send(Some(token), &frame);
    }
    keeper.connections.get(&token).map(|c| c.outbox.len())
}

#[test]
fn what_a_worker_has_not_read_is_kept_and_a_client_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = bare(dir.path());
    let (worker, ear) = connected(&mut keeper, Peer::Worker(web()));
    let (client, _deaf) = connected(&mut keeper, Peer::Client);
    // Three environments of the longest kind are no reason yet.
    assert!(flooded(&mut keeper, client, 12 << 20).is_some_and(|kept| kept > 11 << 20));
    assert_eq!(flooded(&mut keeper, client, 8 << 20), None);
    // For a worker it is the requests of somebody.
    let sent = 2 * OUTBOX_MAX;
    let kept = flooded(&mut keeper, worker, sent).unwrap();
    assert!(keeper.behind.contains(&worker) && kept > OUTBOX_MAX);
    let heard = all_heard(&mut keeper, &ear);
    assert_eq!(heard.iter().map(|frame| frame.bytes().len()).sum::<usize>(), sent);
    assert!(keeper.connections[&worker].outbox.is_empty());
}

#[test]
fn a_worker_of_another_build_that_ends_is_replaced_also_when_the_next_was_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = bare(dir.path());
    let (watcher, ear) = connected(&mut keeper, Peer::Client);
    // Ours was forked while an earlier keeper's had the service, which says hello.
    let (own, _next) = connected(&mut keeper, Peer::Worker(web()));
    keeper.workers.insert(i32::MAX, (web(), own));
    let (old, _last) = connected(&mut keeper, Peer::Worker(web()));
    keeper.links.insert(web(), old);
    keeper.registry.hello(web());
    keeper.renewal.add(web(), i32::MAX - 1);
    assert!(keeper.renewal.next().is_some());
    keeper.on_version(watcher);
    keeper.close(old);
    assert_eq!((keeper.links.get(&web()), keeper.renewal.left()), (Some(&own), 0));
    // Whoever waits for it hears of it.
    let heard = all_heard(&mut keeper, &ear);
    let left: Vec<_> = heard.iter().map(|frame| frame.texts().unwrap()[5].to_owned()).collect();
    assert_eq!(left, ["1", "0"]);
}
