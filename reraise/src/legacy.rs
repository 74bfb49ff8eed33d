//! Services that the shell version of Reraise still runs: recognised by a
//! record without our fields, shown, stopped and restarted by its rules (TERM to
//! the worker stops, TERM to the service restarts), and never started twice.

use std::io;

use crate::backend::ProcessId;
use crate::backend::native::{born, processes};
use crate::record::Record;

/// A service of the shell version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legacy {
    /// `/bin/sh auto-reraise NAME`.
    pub worker: ProcessId,
    /// The service.
    pub service: ProcessId,
}

/// The processes of such a record, if they are still what it says: the service
/// must be the worker's child. Pids alone prove nothing, as the shell version
/// keeps no identities; the relation of two recorded pids to each other does.
///
/// # Errors
/// When the system cannot be asked.
pub fn find(record: &Record) -> io::Result<Option<Legacy>> {
    let (None, Some(worker), Some(service)) = (record.more, record.worker, record.pid) else {
        return Ok(None);
    };
    let (Some(worker_born), Some(service_born)) = (born(worker)?, born(service)?) else {
        return Ok(None);
    };
    // Identities first: what is related afterwards was already there.
    let is_child = |p: &crate::backend::native::Process| p.pid == service && p.ppid == worker;
    let found = Legacy {
        worker: ProcessId { pid: worker, born: worker_born },
        service: ProcessId { pid: service, born: service_born },
    };
    Ok(processes()?.iter().any(is_child).then_some(found))
}
