//! The backend in memory.

use nix::sys::signal::Signal;
use reraise::backend::fake::{Behaviour, Fake, Offspring};
use reraise::backend::{Launch, Owner, ProcessBackend, ProcessId, run_entry};

use crate::subject::{Program, Subject, run_number};

pub(crate) struct OnFake {
    handle: Fake,
    backend: Fake,
}

fn behaviour(program: Program) -> Option<Behaviour> {
    let waiting = || Behaviour::waits().announcing();
    let child = || Offspring::new(Behaviour::waits());
    let daemon = || Offspring::new(waiting()).in_own_session();
    Some(match program {
        Program::Exits(code) => Behaviour::exits(code),
        Program::DiesOf(signal) => Behaviour::dies_of(signal),
        Program::Waits => waiting(),
        Program::IgnoresTerm => waiting().ignoring(Signal::SIGTERM),
        Program::HasChild => waiting().forking(child()),
        Program::HasDaemon => Behaviour::waits().forking(daemon()),
        Program::LeavesDaemon => Behaviour::exits(0).forking(daemon()),
        Program::LeavesBareDaemon => Behaviour::exits(0).forking(daemon().with_empty_environment()),
        Program::IsMissing => return None,
        Program::LacksInterpreter => Behaviour::cannot_exec(libc::ENOENT),
        Program::IsNotExecutable => Behaviour::cannot_exec(libc::EACCES),
    })
}

impl Subject for OnFake {
    type Backend = Fake;

    fn new() -> Self {
        let handle = Fake::new();
        handle.set_owner("/ours", Owner { uid: Fake::UID, gid: Fake::UID });
        Self { backend: handle.clone(), handle }
    }

    fn backend(&mut self) -> &mut Fake {
        &mut self.backend
    }

    fn launch(&mut self, program: Program, run: u64) -> Launch {
        let path = format!("/{program:?}");
        if let Some(behaviour) = behaviour(program) {
            self.handle.program(&path, behaviour);
        }
        let program = std::ffi::CString::new(path).unwrap();
        let environment = [run_entry(run_number(run))].into_iter().collect();
        Launch { arguments: vec![program.clone()], program, environment, ..Launch::default() }
    }

    fn succeed(&mut self) {
        self.handle.crash();
    }

    fn signal_us(&mut self, signal: Signal) {
        self.handle.signal_us(self.handle.now(), signal);
    }

    fn await_zombie(&mut self, _: ProcessId) {}

    fn take_announcement(&mut self) {}

    fn announce(&mut self) {
        self.handle.input(self.handle.now());
    }

    fn us(&self) -> i32 {
        self.handle.us().pid
    }

    fn our_file(&self) -> std::path::PathBuf {
        "/ours".into()
    }
}
