//! `reraise why`: one screen that says how a service came to be where it is, and what
//! comes next. [`facts`] looks, [`explain`] concludes and does nothing else, [`show`]
//! prints.

mod explain;
mod facts;
mod pattern;
mod show;

use std::ffi::OsString;

use reraise::error::{ExitCode, Fault};

use super::select::select;
use super::{Setting, console};

/// Runs `reraise why`.
pub(super) fn run(setting: &Setting, words: &[OsString], json: bool) -> Result<ExitCode, Fault> {
    let found = select(setting, words)?;
    let mut all = Vec::new();
    for (at, (name, entry)) in found.services.iter().enumerate() {
        let facts = facts::gather(setting, name, entry.as_ref());
        let explanation = explain::explain(&facts);
        if json {
            all.push(show::as_json(&facts, &explanation));
        } else {
            if at > 0 {
                console::line("");
            }
            show::print(&facts, &explanation);
        }
    }
    if json {
        console::line(&show::all_as_json(all).to_string());
    }
    found.faults.iter().for_each(console::fault);
    Ok(ExitCode::of_all(found.faults.iter().map(|f| f.code)))
}
