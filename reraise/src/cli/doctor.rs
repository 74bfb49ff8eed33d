//! `reraise doctor`: looks at the set-up, and says of each finding how to mend
//! it. It only reads; the one program that it runs besides `sudo -l` is
//! `auto-reraise --version`.

mod findings;
mod owners;
mod places;
mod running;
mod scripts;
mod system;

use reraise::error::{ExitCode, Fault};

use super::{Setting, console};
use findings::Findings;

/// Runs `reraise doctor`.
pub(crate) fn run(setting: &Setting) -> Result<ExitCode, Fault> {
    let mut found = Findings::default();
    places::check(setting, &mut found);
    let names = scripts::check(setting, &mut found);
    owners::check(setting, &names, &mut found);
    running::check(setting, &mut found);
    system::check(&mut found);
    found.print();
    let (problems, warnings) = found.count();
    console::line(&match (problems, warnings) {
        (0, 0) => "nothing is wrong".to_owned(),
        _ => format!("{problems} problem(s), {warnings} warning(s)"),
    });
    Ok(if problems == 0 { ExitCode::Ok } else { ExitCode::Failed })
}
