//! What the whole tree of a service uses, through sysinfo.

use std::collections::BTreeMap;
use std::fmt;

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
    pub(super) fn to_json(&self) -> Value {
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
/// main process and of its session; `None` where none runs.
pub(super) fn usage<'a>(rows: impl Iterator<Item = &'a Seen>) -> Vec<Option<Usage>> {
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for (&pid, process) in system.processes() {
        if let Some(parent) = process.parent() {
            children.entry(parent).or_default().push(pid);
        }
        if let Some(session) = process.session_id().filter(|&s| s != pid) {
            children.entry(session).or_default().push(pid);
        }
    }
    rows.map(|seen| {
        if seen.record.is_none() || seen.state.code() != reraise::error::ExitCode::Ok {
            return None;
        }
        let record = seen.record.as_ref()?;
        let main = Pid::from_u32(record.pid?.cast_unsigned());
        // A worker is its service's reaper: orphans are among its children.
        let worker = record.worker.map(|w| Pid::from_u32(w.cast_unsigned()));
        let mut found = vec![main];
        found.extend(worker.and_then(|w| children.get(&w)).into_iter().flatten());
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            let below = children.get(pid).cloned().unwrap_or_default();
            found.extend(below);
            found[next + 1..].sort_unstable();
            let (head, tail) = found.split_at(next + 1);
            let tail: Vec<_> = tail.iter().filter(|p| !head.contains(p)).copied().collect();
            found.truncate(next + 1);
            found.extend(tail);
            found.dedup();
            next += 1;
        }
        let mut usage = Usage::default();
        for process in found.iter().filter_map(|&pid| system.process(pid)) {
            // sysinfo lists threads as processes on Linux.
            if process.thread_kind() == Some(ThreadKind::Userland) {
                continue;
            }
            usage.processes += 1;
            usage.memory += process.memory();
            usage.cpu_ms += process.accumulated_cpu_time();
        }
        Some(usage)
    })
    .collect()
}
