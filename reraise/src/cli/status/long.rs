//! What the whole tree of a service uses, through sysinfo.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reraise::error::ExitCode;
use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, ThreadKind};

use super::Seen;

/// Of all processes of a service together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Usage {
    processes: usize,
    /// Resident bytes; pages that processes share count for each.
    memory: u64,
    /// Milliseconds since each began, of those that still live.
    cpu_ms: u64,
}

impl Usage {
    pub(super) fn to_json(self) -> Value {
        json!({"processes": self.processes, "memory_bytes": self.memory, "cpu_ms": self.cpu_ms})
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            b if b >= 10 << 30 => format!("{}G", b >> 30),
            b if b >= 10 << 20 => format!("{}M", b >> 20),
            b => format!("{}K", b >> 10),
        };
        let cpu = self.cpu_ms as f64 / 1000.0;
        write!(f, "processes={}, memory={memory}, cpu={cpu:.2}s", self.processes)
    }
}

/// For each service, from one look at all processes. The tree is that of the
/// main process, of its session and of its worker, who is its service's reaper.
/// `None` where nothing runs.
pub(super) fn usage<'a>(
    rows: impl Iterator<Item = &'a Seen>,
) -> Result<Vec<Option<Usage>>, sysinfo::Error> {
    let mut system = System::new()?;
    let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let mut below: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for (&pid, process) in system.processes() {
        // sysinfo lists threads as processes on Linux.
        if process.thread_kind() == Some(ThreadKind::Userland) {
            continue;
        }
        for above in [process.parent(), process.session_id()].into_iter().flatten() {
            below.entry(above).or_default().push(pid);
        }
    }
    let pid = |pid: Option<i32>| pid.map(|pid| Pid::from_u32(pid.cast_unsigned()));
    let of = |seen: &Seen| {
        let record = seen.record.as_ref().filter(|_| seen.state.code() == ExitCode::Ok)?;
        let mut found = BTreeSet::from([pid(record.pid)?]);
        let mut queue: Vec<Pid> = found.iter().copied().collect();
        // Not the worker itself, nor what stands in the keeper's session.
        let is_child = |&p: &Pid| system.process(p).and_then(|p| p.parent()) == pid(record.worker);
        let orphans = pid(record.worker).and_then(|w| below.get(&w)).into_iter().flatten();
        queue.extend(orphans.copied().filter(is_child));
        found.extend(queue.iter().copied());
        while let Some(above) = queue.pop() {
            let next = below.get(&above).into_iter().flatten().filter(|&&pid| found.insert(pid));
            queue.extend(next.copied().collect::<Vec<_>>());
        }
        let mut usage = Usage::default();
        for process in found.into_iter().filter_map(|pid| system.process(pid)) {
            usage.processes += 1;
            usage.memory += process.memory();
            usage.cpu_ms += process.accumulated_cpu_time();
        }
        Some(usage)
    };
    Ok(rows.map(of).collect())
}
