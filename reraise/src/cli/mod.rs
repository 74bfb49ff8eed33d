//! The commands. Each lives in a file of its own; this one takes the command
//! line apart and nothing else.

mod act;
mod asker;
mod clean;
mod client;
mod clock;
mod console;
mod deaths;
mod demo;
mod doctor;
mod elevate;
mod events;
mod list;
mod logs;
mod nearest;
mod paste;
mod rotate;
mod select;
mod skeleton;
mod state;
mod status;
mod up;
mod upgrade;
mod usage;
mod users;
mod why;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use reraise::backend::native;
use reraise::error::{ExitCode, Fault};
use reraise::lock::{self, ALIVE, Holder};
use reraise::name::ServiceName;
use reraise::paths::{Dirs, Given};
use reraise::record::Record;

/// Keeps services alive without root.
///
/// Put an executable starter script into $RERAISE_DIR, say `reraise start NAME`,
/// and whenever the service falls it is raised again.
#[derive(Debug, Parser)]
#[command(name = "reraise", version, propagate_version = true, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    /// Where the starter scripts are [default: $HOME/reraise.d]
    #[arg(long, value_name = "DIR", env = "RERAISE_DIR", hide_env_values = true, global = true)]
    dir: Option<OsString>,

    /// Where the records are [default: /var/tmp/reraise-UID]
    #[arg(long, value_name = "DIR", env = "RERAISE_PIDDIR", hide_env_values = true, global = true)]
    piddir: Option<OsString>,

    /// Where the output of services goes [default: $HOME/reraise.log]
    #[arg(long, value_name = "DIR", env = "RERAISE_LOGDIR", hide_env_values = true, global = true)]
    logdir: Option<OsString>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the services and their owners
    List {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show which services run
    Status {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
        /// With processes, CPU time and memory of each service's whole tree
        #[arg(long, short)]
        long: bool,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what services have said
    ///
    /// Several services come together by time. On a terminal it goes through $RERAISE_PAGER,
    /// $PAGER or less.
    Logs(logs::Words),
    /// Start services
    Start {
        /// Names or patterns ('http-*')
        #[arg(required = true)]
        patterns: Vec<OsString>,
        /// Wait until they have started successfully (config_start_sec), SEC seconds at most
        #[arg(long, value_name = "SEC", num_args = 0..=1, require_equals = true)]
        wait: Option<Option<f64>>,
        /// Do not raise them when they end by themselves
        #[arg(long)]
        once: bool,
    },
    /// Stop services, with all processes that they have started
    Stop {
        /// Names or patterns ('http-*')
        #[arg(required = true)]
        patterns: Vec<OsString>,
        /// Do not wait until they are gone
        #[arg(long)]
        no_wait: bool,
        /// Without patience: the last signal of config_stop at once
        #[arg(long)]
        now: bool,
    },
    /// Restart services that run
    Restart {
        /// Names or patterns ('http-*')
        #[arg(required = true)]
        patterns: Vec<OsString>,
        /// Do not wait until they run again
        #[arg(long)]
        no_wait: bool,
    },
    /// Bring back what is wanted and does not run: after a reboot, or when all was killed
    ///
    /// Adopts services that run while nobody watches them, finishes stops that were cut short,
    /// and raises what was started and never stopped. Says nothing of what is as it should be,
    /// so that it is fit for `@reboot` in a crontab, and can be repeated at will.
    Resume {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
    },
    /// Run in the foreground: in a container, under another supervisor, at a terminal
    ///
    /// Brings up the services that are named, or whatever is wanted (see `resume`), says on
    /// standard error what becomes of them, and stays until TERM or INT, which stop them all in
    /// order; a second one hurries. Their output goes where it always does; with config_log=no
    /// it is ours. When a service with config_essential=yes ends for good, all are stopped and
    /// its exit code is passed on. As process 1 it reaps whatever ends there.
    Up {
        /// Names or patterns ('http-*'); what is wanted when there is none
        patterns: Vec<OsString>,
    },
    /// Replace keeper and workers by the version that is installed now; the services go on
    ///
    /// The auto-reraise beside this program is tried first; one that cannot start leaves all as
    /// it is. The keeper becomes the new program, with its pid, and then one worker after the
    /// other is replaced. No service is restarted, or notices.
    Upgrade,
    /// Show what became of services: each start, end, stop, and who asked for it
    Events {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
        /// Go on, and show what happens from now on
        #[arg(long, short)]
        follow: bool,
        /// Show the last LINES
        #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
        lines: usize,
        /// As JSON, an object on each line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Explain why services are as they are: what happened, what comes next, what to do
    Why {
        /// Names or patterns ('http-*')
        #[arg(required = true)]
        names: Vec<OsString>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Begin new log files now
    Rotate {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
    },
    /// Remove records of services that do not run
    Clean {
        /// Names or patterns ('http-*'); all when there is none
        patterns: Vec<OsString>,
    },
    /// Print a starter script, or write one for a command
    ///
    /// `reraise skeleton` prints one to edit. `reraise skeleton NAME -- COMMAND...`
    /// writes one that runs COMMAND in the present directory into $RERAISE_DIR.
    Skeleton {
        /// The new service
        name: Option<OsString>,
        /// What it runs
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Show in a scratch directory what Reraise does, and check that it does
    Demo,
    /// Check the set-up, and say how to mend what is wrong
    Doctor,
}

/// What only Reraise says to itself, as the first word: the rest is the command
/// line of another user's `reraise`, which has started us as the owner of services,
/// and says after `=` who that is.
pub(crate) const AS_OWNER: &str = "--as-owner";
/// Likewise: the web server of the demonstration, with the file that tells its
/// port. clap knows neither of them, or its hints and errors would name them.
pub(crate) const DEMO_SERVER: &str = "demo-server";

/// Everything that a command needs to know.
pub(crate) struct Setting {
    pub(crate) dirs: Dirs,
    /// Started by another user's `reraise`, see [`elevate`].
    pub(crate) as_owner: bool,
    /// Who has started that one, as they say.
    asked_by: Option<String>,
    /// The pid of our keeper, asked for once.
    keeper: OnceCell<Option<i32>>,
    /// Our directory of records, opened once.
    records: OnceCell<Option<File>>,
}

impl Setting {
    /// The record of one of our services.
    ///
    /// # Errors
    /// As [`Record::read`].
    pub(crate) fn record(&self, name: &ServiceName) -> Result<Option<Record>, String> {
        let me = self.dirs.uid();
        let open = || File::open(self.dirs.piddir(me)).ok();
        match self.records.get_or_init(open) {
            Some(records) => Record::read_in(records.as_fd(), name.as_str().as_ref(), &[me]),
            None => Record::read(&self.dirs.piddir(me).join(name.as_str()), &[me]),
        }
    }

    /// Who asks, see [`asker`].
    pub(crate) fn asker(&self) -> String {
        self.asked_by.clone().unwrap_or_else(asker::describe)
    }

    /// The pid of our keeper, if it lives and knows how its workers are.
    pub(crate) fn keeper(&self) -> Option<i32> {
        let ask = || lock::holder_of(&self.dirs.state(self.dirs.uid()).join("keeper.lock"), ALIVE);
        *self.keeper.get_or_init(|| match ask() {
            Ok(Holder::Pid(pid)) if native::knows_its_children(pid).unwrap_or(false) => Some(pid),
            _ => None,
        })
    }
}

/// Runs `reraise`.
pub(crate) fn main() -> u8 {
    let mut offset = 0;
    let done = run(&mut offset);
    let told = |fault: Fault| {
        console::fault(&fault);
        fault.code
    };
    let code = done.unwrap_or_else(told);
    let code = console::end().map_or_else(told, |()| code);
    offset + code as u8
}

fn run(offset: &mut u8) -> Result<ExitCode, Fault> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if let [_, first, port_file] = &words[..]
        && first == DEMO_SERVER
    {
        return demo::serve(port_file);
    }
    let first = words.get(1).and_then(|first| first.to_str()?.strip_prefix(AS_OWNER));
    let asked_by = first.filter(|who| who.is_empty() || who.starts_with('='));
    let asked_by = asked_by.map(|who| who.trim_start_matches('=').to_owned());
    let as_owner = asked_by.is_some();
    if as_owner {
        words.remove(1);
        *offset = elevate::RAN;
    }
    let mut command = Arguments::command().after_help(usage::exit_codes());
    let matches = command.try_get_matches_from_mut(words.clone());
    let arguments = match matches.and_then(|m| Arguments::from_arg_matches(&m)) {
        Ok(arguments) => arguments,
        // Whoever says nothing wants to know what there is to say.
        Err(e) if usage::is_about_no_command(&e) => {
            console::complain(&usage::first_words(&command));
            return Ok(ExitCode::Usage);
        }
        Err(e) if e.use_stderr() => return Err(usage::fault(&e, &command, &words)),
        Err(e) => {
            // Help and version are no errors, and go to standard output.
            console::remember(e.print());
            return Ok(ExitCode::Ok);
        }
    };
    let given = Given { dir: arguments.dir, piddir: arguments.piddir, logdir: arguments.logdir };
    let me = nix::unistd::geteuid().as_raw();
    let setting = |given: Given| {
        let dirs = Dirs::resolve(&given, std::env::var_os("HOME"), me)?;
        let dirs = if as_owner { dirs.of_owner() } else { dirs };
        Ok::<_, Fault>(Setting {
            dirs,
            as_owner,
            asked_by,
            keeper: OnceCell::new(),
            records: OnceCell::new(),
        })
    };
    match arguments.command {
        Command::List { patterns, json } => list::run(&setting(given)?, &patterns, json),
        Command::Status { patterns, long, json } => {
            status::run(&setting(given)?, &patterns, long, json)
        }
        Command::Logs(words) => logs::run(&setting(given)?, &words),
        Command::Start { patterns, wait, once } => {
            let wait = usage::seconds(wait)?;
            act::run(&setting(given)?, &patterns, act::Verb::Start { wait, once })
        }
        Command::Resume { patterns } => act::run(&setting(given)?, &patterns, act::Verb::Resume),
        Command::Stop { patterns, no_wait, now } => {
            act::run(&setting(given)?, &patterns, act::Verb::Stop { now, wait: !no_wait })
        }
        Command::Restart { patterns, no_wait } => {
            act::run(&setting(given)?, &patterns, act::Verb::Restart { wait: !no_wait })
        }
        Command::Events { patterns, follow, lines, json } => {
            events::run(&setting(given)?, &patterns, &events::Wish { follow, lines, json })
        }
        Command::Why { names, json } => why::run(&setting(given)?, &names, json),
        Command::Up { patterns } => up::run(&setting(given)?, &patterns),
        Command::Upgrade => upgrade::run(&setting(given)?),
        Command::Rotate { patterns } => rotate::run(&setting(given)?, &patterns),
        Command::Clean { patterns } => clean::run(&setting(given)?, &patterns),
        Command::Skeleton { name: None, .. } => Ok(skeleton::print()),
        Command::Skeleton { name: Some(name), command } => {
            skeleton::write(&setting(given)?, &name, &command)
        }
        Command::Demo => demo::run(),
        Command::Doctor => doctor::run(&setting(given)?),
    }
}
