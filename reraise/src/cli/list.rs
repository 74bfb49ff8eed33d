//! `reraise list`.

use std::ffi::OsString;

use serde_json::json;

use reraise::error::{ExitCode, Fault};

use super::select::select;
use super::users::Users;
use super::{Setting, console};

/// The version of what `--json` prints; it grows when a field changes meaning.
const SCHEMA: u32 = 1;

pub(crate) fn run(setting: &Setting, patterns: &[OsString], json: bool) -> Result<ExitCode, Fault> {
    let found = select(setting, patterns)?;
    let mut users = Users::default();
    let mut rows = Vec::new();
    for (name, entry) in &found.services {
        if let Some(entry) = entry {
            rows.push((name, users.user(entry.uid), users.group(entry.gid)));
        }
    }
    if json {
        let services: Vec<_> = rows
            .iter()
            .map(|(name, user, group)| json!({"name": name.as_str(), "user": user, "group": group}))
            .collect();
        console::line(&json!({"version": SCHEMA, "services": services}).to_string());
    } else {
        let width = rows.iter().map(|(name, ..)| name.as_str().chars().count()).max();
        let width = width.unwrap_or(0).max(20);
        for (name, user, group) in rows {
            console::line(&format!("{name:width$} # user={user}, group={group}"));
        }
    }
    found.faults.iter().for_each(console::fault);
    Ok(ExitCode::of_all(found.faults.iter().map(|f| f.code)))
}
