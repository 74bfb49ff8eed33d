//! What the command line says of itself.

use std::time::Duration;

use clap::error::ErrorKind;

use reraise::error::{ExitCode, Fault};

/// The exit codes, for the end of `--help`.
pub(crate) fn exit_codes() -> String {
    let lines = ExitCode::ALL.map(|(code, words)| format!("  {}  {words}", code as i32));
    let up = "`reraise up` ends with the exit code of an essential service that has ended";
    format!("Exit codes:\n{}\n{up}", lines.join("\n"))
}

/// Whether a command line was refused because it names no command.
pub(crate) fn is_about_no_command(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What somebody reads who says `reraise` and nothing else.
pub(crate) fn first_words(command: &clap::Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let line = |one: &clap::Command| {
        let about = one.get_about().map(ToString::to_string).unwrap_or_default();
        format!("  {:10}{about}\n", one.get_name())
    };
    let commands: String = command.get_subcommands().map(line).collect();
    format!("reraise: {about}.\n\nCommands:\n{commands}\n{FIRST_STEPS}")
}

const FIRST_STEPS: &str = "\
A first service in two minutes:
  reraise skeleton web -- python3 -m http.server 8000    # writes a starter script
  reraise start web     # it runs, and is raised again whenever it falls
  reraise status
  reraise stop web

To see it work: reraise demo. All options: reraise --help, reraise COMMAND --help
";

/// The time that `--wait` names: outer `None`, do not wait; inner, for ever.
pub(crate) fn seconds(wait: Option<Option<f64>>) -> Result<Option<Option<Duration>>, Fault> {
    let one = |seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            let what = format!("{seconds} is no number of seconds");
            Fault::new(ExitCode::Usage, "--wait", what, "for example: --wait=30")
        })
    };
    wait.map(|limit| limit.map(one).transpose()).transpose()
}
