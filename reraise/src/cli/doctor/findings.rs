//! What the doctor found: a line each, and advice on the next one.

use std::fmt::Display;

use reraise::error::Fault;

use crate::cli::console::{self, Paint};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Problem,
}

/// In the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<(Level, String, String)>);

impl Findings {
    /// As it should be.
    pub(super) fn ok(&mut self, what: impl Display) {
        self.0.push((Level::Ok, what.to_string(), String::new()));
    }

    /// Works, but may surprise.
    pub(super) fn warning(&mut self, what: impl Display, advice: impl Display) {
        self.0.push((Level::Warning, what.to_string(), advice.to_string()));
    }

    /// Does not work, or not safely.
    pub(super) fn problem(&mut self, what: impl Display, advice: impl Display) {
        self.0.push((Level::Problem, what.to_string(), advice.to_string()));
    }

    /// A command would refuse it in these words.
    pub(super) fn fault(&mut self, fault: &Fault) {
        self.problem(format!("{}: {}", fault.object, fault.what), &fault.advice);
    }

    /// Problems and warnings.
    pub(super) fn count(&self) -> (usize, usize) {
        let of = |level| self.0.iter().filter(|(l, ..)| *l == level).count();
        (of(Level::Problem), of(Level::Warning))
    }

    /// Prints all.
    pub(super) fn print(&self) {
        let paint = Paint::new();
        for (level, what, advice) in &self.0 {
            let word = match level {
                Level::Ok => paint.colour("ok", 32),
                Level::Warning => paint.colour("warning", 33),
                Level::Problem => paint.colour("problem", 31),
            };
            console::line(&format!("{word}: {what}"));
            if !advice.is_empty() {
                console::line(&format!("    {advice}"));
            }
        }
    }

    /// The plain text, for tests.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let lines =
            self.0.iter().map(|(level, what, advice)| format!("{level:?}: {what} | {advice}\n"));
        lines.collect()
    }
}
