//! What services say, kept: one process for all services of a keeper, which reads
//! their pipes and writes their logs. No worker ever touches a log, so that neither a
//! full disk nor one that hangs keeps a service from being raised or stopped.
//!
//! ```text
//! web ──► s/web/out0, out1 ──► logger ──► $RERAISE_LOGDIR/web/current
//!           (pipes)               │          20261129T115300.123456Z   rotated
//!                                 └──► .current.idx   when, and in which run
//! ```
//!
//! Nothing is lost or doubled when it is killed, for what has left a pipe is in a file:
//! the kernel moves it there in one step. The keeper starts another one; what services
//! say meanwhile waits in the pipes, which they and their workers hold.
//!
//! | file | what |
//! |---|---|
//! | [`pipes`], [`bell`] | between service, worker and logger |
//! | [`serve`], `burst` | the loop; many services that are started together |
//! | `stream` | one service: which run is speaking |
//! | `side`, `flow` | one log: from the pipe to the disk, and what if that fails |
//! | `sink`, `rotated` | the log on disk, and what it was before |
//! | `stage`, [`stamp`] | what is on its way there, and the times before its lines |
//! | [`rules`] | what the script says, and which files go |
//! | [`index`], [`names`] | the format of a log directory |
//! | `after`, [`report`], [`request`] | `config_log_after`; what was lost; `reraise rotate` |

mod after;
pub mod bell;
mod burst;
mod flow;
pub mod index;
pub mod names;
pub mod pipes;
pub mod report;
pub mod request;
mod rotated;
pub mod rules;
pub mod serve;
mod side;
mod sink;
mod stage;
pub mod stamp;
mod stream;

/// Whether the output of a service goes to the logger now, or does when it is raised.
#[must_use]
pub fn is_logged(own: &std::path::Path) -> bool {
    let used = |slot: crate::slot::Slot| pipes::Use::from_byte(slot.pipes).is_kept;
    crate::slot::read(&own.join("run")).is_some_and(|slot| slot.phase.is_open() && used(slot))
}
