//! What the command line says of itself.

use std::time::Duration;

use reraise::error::{ExitCode, Fault};

/// The exit codes, for the end of `--help`.
pub(crate) fn exit_codes() -> String {
    let lines = ExitCode::ALL.map(|(code, words)| format!("  {}  {words}", code as i32));
    format!("Exit codes:\n{}", lines.join("\n"))
}

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
