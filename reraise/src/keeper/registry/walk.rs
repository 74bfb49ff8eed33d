//! A long pseudo-random walk: clients ask, workers take, speak, leave and die,
//! time passes. After each step every request is done or somewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::supervise::machine::Outcome;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

/// What a worker is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Start(Client),
    Leave,
    Yield,
    Present,
}

/// A living worker.
#[derive(Default, Debug)]
struct Worker {
    /// What it was forked for, until it has said something.
    task: Option<Client>,
    /// What was passed on to it, and not acknowledged.
    inbox: Vec<Asked>,
    /// It has said that it goes.
    is_leaving: bool,
}

/// Everything outside the registry. A client asks once: its number is that of
/// its request.
#[derive(Default)]
struct World {
    registry: Registry,
    workers: BTreeMap<ServiceName, Worker>,
    open: BTreeMap<Client, ServiceName>,
    acknowledged: BTreeSet<Client>,
    now: Duration,
    forks: usize,
    /// Services whose worker is to make room, and how many have.
    told: BTreeSet<ServiceName>,
    renewed: usize,
}

fn asked(request: &Request) -> Asked {
    match request {
        Request::Start { client, .. } => Asked::Start(client.parse().unwrap()),
        Request::Leave { .. } => Asked::Leave,
        Request::Yield => Asked::Yield,
        Request::Present => Asked::Present,
        Request::Stop { .. } | Request::Restart | Request::Resume { .. } => panic!("{request:?}"),
    }
}

impl World {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Fork(name, task) => {
                    let task = match task {
                        Task::Start { client, .. } => Some(client.parse().unwrap()),
                        Task::Resume => None,
                        Task::Leave { .. } => Some(NOBODY),
                        Task::Stop { .. } | Task::Restart | Task::Raise { .. } => {
                            panic!("nobody asked for {task:?}")
                        }
                    };
                    let worker = Worker { task, ..Worker::default() };
                    let former = self.workers.insert(name, worker);
                    assert!(former.is_none(), "two workers of one service");
                    self.forks += 1;
                }
                Effect::Pass(name, request) => {
                    let worker = self.workers.get_mut(&name).expect("passed on to nobody");
                    worker.inbox.push(asked(&request));
                }
                Effect::Renewed(name) => {
                    assert!(self.told.remove(&name), "{name} was not told");
                    self.renewed += 1;
                }
                Effect::Answer(client, frame) => {
                    let (_, rest) = frame.split().unwrap();
                    if rest == Frame::new(["ack"]) {
                        self.acknowledged.insert(client);
                    }
                }
            }
        }
    }

    fn say(&mut self, name: &ServiceName, frame: &Frame) {
        let effects = self.registry.news(name, frame);
        self.carry_out(effects);
    }

    fn gone(&mut self, name: &ServiceName, end: End) {
        self.workers.remove(name);
        let effects = self.registry.gone(name, end, self.now);
        self.carry_out(effects);
        if !self.registry.has(name) {
            self.told.remove(name);
        }
    }

    /// The worker does one thing. `false`: it has nothing more to do.
    fn work(&mut self, name: &ServiceName) -> bool {
        let Some(worker) = self.workers.get_mut(name) else { return false };
        if worker.is_leaving {
            self.gone(name, End::Done);
        } else if let Some(client) = worker.task.take() {
            if client == NOBODY {
                self.leave(name);
                return true;
            }
            self.open.remove(&client);
            self.say(name, &News::Launched(7).to_frame().after("all"));
        } else if worker.inbox.is_empty() {
            return false;
        } else {
            let asked = worker.inbox.remove(0);
            if asked == Asked::Yield && worker.task.is_none() && !self.forks.is_multiple_of(3) {
                // What else it was asked for is its successor's.
                self.gone(name, End::Killed);
                return true;
            }
            self.say(name, &Frame::new(["ack"]));
            if asked == Asked::Leave {
                self.leave(name);
            } else if let Asked::Start(client) = asked {
                self.open.remove(&client);
                assert!(self.acknowledged.contains(&client), "{client} is not told");
            }
        }
        true
    }

    fn leave(&mut self, name: &ServiceName) {
        let Some(worker) = self.workers.get_mut(name) else { return };
        if let Some(client) = worker.task.take() {
            self.open.remove(&client);
        }
        worker.is_leaving = true;
        self.say(name, &News::Over(Outcome::Stopped).to_frame().after("all"));
    }

    fn step(&mut self, random: &mut Random, client: Client, names: &[ServiceName]) {
        let name = names[random.below(names.len())].clone();
        match random.below(18) {
            17 if !self.told.contains(&name) => {
                let effects = self.registry.renew(&name);
                if !effects.is_empty() {
                    self.told.insert(name);
                }
                self.carry_out(effects);
            }
            0..=2 => {
                self.open.insert(client, name.clone());
                let request =
                    Request::Start { client: client.to_string(), context: [].into(), once: false };
                let effects = self.registry.request(client, name, request);
                self.carry_out(effects);
            }
            3..=7 => drop(self.work(&name)),
            8 | 9 => self.leave(&name),
            10 if self.workers.contains_key(&name) => self.gone(&name, End::Killed),
            11 if self.workers.contains_key(&name) => self.gone(&name, End::Failed),
            12 if !self.registry.services.contains_key(&name) => {
                // Of a former keeper.
                self.workers.insert(name.clone(), Worker::default());
                self.registry.hello(name);
            }
            13 => {
                let effects = self.registry.resume(name);
                self.carry_out(effects);
            }
            14 => {
                self.now += Duration::from_millis(random.below(3000) as u64);
                let effects = self.registry.tick(self.now);
                self.carry_out(effects);
            }
            16 if random.below(20) == 0 => {
                let effects = self.registry.leave_all(false);
                self.carry_out(effects);
            }
            15 => self.registry.client_gone(client - random.below(20) as u64),
            _ => {}
        }
    }

    fn check(&self) {
        for (client, name) in &self.open {
            let worker = self.workers.get(name);
            let is_taken = worker.is_some_and(|w| {
                w.task == Some(*client) || w.inbox.contains(&Asked::Start(*client))
            });
            let service = self.registry.services.get(name);
            let is_pending = service.is_some_and(|s| s.pending.iter().any(|p| p.0 == *client));
            assert!(is_taken || is_pending, "{client} of {name} is lost");
        }
        for (name, worker) in &self.workers {
            assert!(self.registry.services.contains_key(name), "nobody knows of {worker:?}");
            let clients = worker.inbox.iter().filter_map(|asked| match asked {
                Asked::Start(client) => Some(client),
                Asked::Leave | Asked::Yield | Asked::Present => None,
            });
            let task = worker.task.iter().filter(|client| **client != NOBODY);
            let order: Vec<_> = task.chain(clients).collect();
            assert!(order.is_sorted(), "out of order: {order:?}");
        }
        // Whoever waits for a successor hears of it, or that there is none.
        for name in &self.told {
            let Some(service) = self.registry.services.get(name) else { continue };
            let is_pending = |r: &Request| matches!(r, Request::Yield | Request::Present);
            assert!(service.pending.iter().any(|(_, r)| is_pending(r)), "{name} {service:?}");
        }
        // Where there is no worker, one is to come.
        for (name, service) in &self.registry.services {
            let is_resting = matches!(service.seat, Seat::Resting(_));
            assert_eq!(is_resting, !self.workers.contains_key(name), "{name} {service:?}");
        }
        if self.registry.is_empty() {
            assert!(self.open.is_empty() && self.workers.is_empty());
        }
    }

    /// All go on until nothing is left to be done.
    fn come_to_rest(&mut self, names: &[ServiceName]) {
        for _ in 0..100_000 {
            if self.registry.is_empty() {
                return;
            }
            for name in names {
                while self.work(name) {}
                self.leave(name);
                let _ = self.work(name);
            }
            if let Some(due) = self.registry.deadline() {
                self.now = due;
                let effects = self.registry.tick(due);
                self.carry_out(effects);
            }
            self.check();
        }
        panic!("it never comes to rest");
    }
}

#[test]
fn no_request_is_lost_and_no_service_has_two_workers() {
    let names = ["a", "b", "c"].map(|n| ServiceName::new(n.as_ref()).unwrap());
    for seed in 1..=10 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut world = World { now: Duration::from_secs(1), ..World::default() };
        for client in 100..2100 {
            world.step(&mut random, client, &names);
            world.check();
        }
        world.come_to_rest(&names);
        assert!(world.open.is_empty() && world.workers.is_empty());
        assert!(world.forks > 200 && world.renewed > 20, "{} {}", world.forks, world.renewed);
    }
}
