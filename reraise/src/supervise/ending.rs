//! The end of a run: who belongs to it, who is sent which signal, and whether
//! anybody is left.

use std::io;
use std::time::Duration;

use crate::backend::{ProcessBackend, ProcessId, Scope, Signal};
use crate::error::{ExitCode, Fault};
use crate::supervise::ladder::Whom;
use crate::supervise::machine::{After, Input, State};
use crate::supervise::news::News;
use crate::supervise::strays;
use crate::supervise::worker::Worker;

/// How long the main process may take to end at the first signal before its tree is
/// looked at: most end sooner, and nothing is left then. A look costs more than all
/// else in a stop.
const MOMENT: Duration = Duration::from_millis(2);

impl<B: ProcessBackend> Worker<B> {
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.machine.state(), State::Stopping { .. } | State::Clearing { .. })
    }

    pub(super) fn recheck(&mut self) -> io::Result<()> {
        if !self.is_ending() || self.tree.is_none() {
            return Ok(());
        }
        if !self.machine.is_alive() && self.is_alone()? {
            return self.tree_gone();
        }
        // What was forked while its parent was being killed.
        let climb = match self.machine.state() {
            State::Stopping { climb, .. } | State::Clearing { climb, .. } => climb.clone(),
            _ => return Ok(()),
        };
        let (signal, whom, _) = climb.rung();
        match signal {
            Signal::SIGKILL => self.signal(signal, whom)?,
            _ if self.machine.is_alive() => return Ok(()),
            _ => self.signal_orphans()?,
        }
        self.notice_silence()
    }

    /// The end of what is not our child is told only if we watched it before. So
    /// after a look that found something, nothing may be left that would tell.
    pub(super) fn notice_silence(&mut self) -> io::Result<()> {
        let is_told = self.tree.as_ref().is_none_or(|t| t.is_ours) && self.backend.keeps_orphans();
        if !is_told && self.is_ending() && !self.machine.is_alive() && self.is_alone()? {
            return self.tree_gone();
        }
        Ok(())
    }

    /// Nothing is left of a tree whose main process ended before.
    pub(super) fn tree_gone(&mut self) -> io::Result<()> {
        if self.is_stopping() {
            self.name_detached()?;
        }
        self.tree = None;
        self.feed(Input::Alone)
    }

    fn scope(&self) -> Scope {
        if self.machine.config.detach { Scope::Session } else { Scope::Tree }
    }

    /// Whether nothing is left of the run that must end with it.
    pub(super) fn is_alone(&mut self) -> io::Result<bool> {
        let scope = self.scope();
        let Some(tree) = &mut self.tree else { return Ok(true) };
        tree.scope = scope;
        if !tree.is_ours {
            tree.strays = strays::read(&self.files, tree.run);
        }
        Ok(self.backend.members(tree)?.is_empty())
    }

    pub(super) fn signal(&mut self, signal: Signal, whom: Whom) -> io::Result<()> {
        let scope = match whom {
            Whom::Process => None,
            Whom::Group => Some(Scope::Group),
            Whom::Tree => Some(self.scope()),
        };
        self.told = Vec::new();
        self.others = None;
        let Some(main) = self.tree.as_ref().map(|t| t.main) else { return Ok(()) };
        let is_ours = self.tree.as_ref().is_some_and(|t| t.is_ours) && self.backend.keeps_orphans();
        // The main process is known without a look, and first to know; unless
        // its end would hide from the look what it leaves.
        if self.machine.is_alive() && (is_ours || scope.is_none()) {
            self.signal_one(main, signal, is_ours)?;
            if let Some(scope) = scope.filter(|_| signal != Signal::SIGKILL) {
                self.others = Some((self.backend.now() + MOMENT, signal, scope));
                return Ok(());
            }
        }
        match scope {
            Some(scope) => self.signal_untold(signal, scope),
            None => Ok(()),
        }
    }

    /// Signals the members of the tree that have not been told.
    pub(super) fn signal_untold(&mut self, signal: Signal, scope: Scope) -> io::Result<()> {
        let is_ours = self.tree.as_ref().is_some_and(|t| t.is_ours) && self.backend.keeps_orphans();
        let Some(tree) = &mut self.tree else { return Ok(()) };
        tree.scope = scope;
        if !tree.is_ours {
            tree.strays = strays::read(&self.files, tree.run);
        }
        for member in self.backend.members(tree)? {
            if !self.told.contains(&member) {
                self.signal_one(member, signal, is_ours)?;
            }
        }
        Ok(())
    }

    /// The children of a process that is just ending are on their way to us, and
    /// a look may miss them: they are told when it has ended.
    pub(super) fn signal_orphans(&mut self) -> io::Result<()> {
        match self.machine.state() {
            State::Stopping { climb, .. } | State::Clearing { climb, .. } => {
                let signal = climb.rung().0;
                self.signal_untold(signal, self.scope())
            }
            _ => Ok(()),
        }
    }

    fn signal_one(&mut self, member: ProcessId, signal: Signal, is_ours: bool) -> io::Result<()> {
        self.told.push(member);
        if !is_ours {
            self.backend.watch(member)?;
        }
        match self.backend.signal(member, signal) {
            // Stopped processes act on nothing but KILL until continued.
            Ok(true) if signal != Signal::SIGKILL => {
                let _ = self.backend.signal(member, Signal::SIGCONT);
            }
            Ok(_) => {}
            Err(e) => self.say(&format!("cannot signal pid {}: {e}", member.pid)),
        }
        Ok(())
    }

    /// Whether it is being ended for good.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(
            self.machine.state(),
            State::Stopping { again: false, .. } | State::Clearing { then: After::Stop, .. }
        )
    }

    /// Names what a stop lets live because the script says so.
    pub(super) fn name_detached(&mut self) -> io::Result<()> {
        let is_detached = self.machine.config.detach;
        let Some(tree) = self.tree.as_mut().filter(|_| is_detached) else { return Ok(()) };
        tree.scope = Scope::Tree;
        let left = self.backend.members(tree)?;
        if !left.is_empty() {
            let pids: Vec<String> = left.iter().map(|m| m.pid.to_string()).collect();
            let what = format!("these processes live on (config_detach=yes): {}", pids.join(" "));
            self.say(&what);
            let advice = format!("to end them as well: kill {}", pids.join(" "));
            let fault = Fault::new(ExitCode::Ok, &self.name, what, advice);
            self.link.tell(&News::Warning(fault));
        }
        Ok(())
    }

    pub(super) fn name_survivors(&mut self) -> io::Result<()> {
        let scope = self.scope();
        let Some(tree) = &mut self.tree else { return Ok(()) };
        tree.scope = scope;
        let left: Vec<i32> = self.backend.members(tree)?.iter().map(|m| m.pid).collect();
        if !left.is_empty() {
            self.say(&format!("these processes outlived all signals: {left:?}"));
            self.note_survivors(&left);
            self.link.tell(&News::Survivors(left));
        }
        Ok(())
    }
}
