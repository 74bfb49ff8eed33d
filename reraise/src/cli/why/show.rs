//! An explanation on a screen, or as JSON.

use reraise::history::deaths::{Cause, Death};
use serde_json::{Value, json};

use super::explain::{Explanation, Rule};
use super::facts::Facts;
use crate::cli::console::{self, Paint};
use crate::cli::{clock, deaths};

/// The version of what `--json` prints; it grows when a field changes meaning.
const SCHEMA: u32 = 1;

/// Columns of the screen.
const WIDTH: usize = 80;
/// Columns before the text.
const MARGIN: usize = 10;
/// Lines of output.
const OUTPUT: usize = 6;

/// Prints it.
pub(super) fn print(f: &Facts, e: &Explanation) {
    console::text(screen(f, e, &Paint::new()).as_bytes());
}

pub(super) fn screen(f: &Facts, e: &Explanation, paint: &Paint) -> String {
    let headline = wrap(&format!("{}: {}", f.name, e.headline), WIDTH).join("\n");
    let mut text = format!("{}\n", paint.colour(&headline, f.state.colour()));
    if let Some(program) = &f.program {
        paragraph(&mut text, "script", &[program.display().to_string()]);
    }
    paragraph(&mut text, "wanted", std::slice::from_ref(&e.wanted));
    paragraph(&mut text, "happened", &e.happened);
    if let Some(last) = f.deaths.last().filter(|_| has_run(f)) {
        paragraph(&mut text, "last run", &[run(f, last)]);
    }
    let was_heard = f.ask_owner.is_none() && f.log.is_some() && f.lost.is_none();
    if was_heard && f.output.is_empty() && has_run(f) {
        paragraph(&mut text, "said last", &["(nothing, as far as its log knows)".to_owned()]);
    }
    let output = &f.output[f.output.len().saturating_sub(OUTPUT)..];
    for (at, line) in output.iter().enumerate() {
        let label = if at == 0 { "said last" } else { "" };
        text += &format!("{label:MARGIN$}{}\n", cut(line));
    }
    if let Some(rule) = &e.rule {
        paragraph(&mut text, "rule", &[rule_text(rule)]);
    }
    paragraph(&mut text, "next", std::slice::from_ref(&e.next));
    // Whole, for pasting.
    for (at, line) in e.todo.iter().enumerate() {
        let label = if at == 0 { "to do" } else { "" };
        text += &format!("{label:MARGIN$}{line}\n");
    }
    text
}

/// Whether its program was executed when it was to be for the last time that is over.
fn has_run(f: &Facts) -> bool {
    f.deaths.last().is_some_and(|last| !matches!(last.cause, Cause::Launch(_)))
}

/// How long the last run lasted, and what it used.
fn run(f: &Facts, last: &Death) -> String {
    let began = clock::short(last.began, f.now);
    let mut text = match last.is_late {
        true => format!("pid {}", last.pid),
        false => format!("{began} to {}, pid {}", clock::short(last.ended, f.now), last.pid),
    };
    if let Some(usage) = last.usage {
        let cpu = match usage.cpu {
            0..1_000_000 => format!("{} ms", usage.cpu.div_ceil(1000)),
            cpu => clock::span(cpu as f64 / 1e6),
        };
        text += &format!(", CPU time {cpu}, memory {} at most", bytes(usage.peak));
    }
    text
}

fn bytes(number: u64) -> String {
    match number {
        n if n >= 10 << 30 => format!("{} GB", n >> 30),
        n if n >= 10 << 20 => format!("{} MB", n >> 20),
        n => format!("{} kB", n >> 10),
    }
}

fn rule_text(rule: &Rule) -> String {
    let place = match rule.line {
        Some(line) => format!("line {line}"),
        None => "default".to_owned(),
    };
    format!("config_{}={} ({place}): {}", rule.key, quoted(&rule.value), rule.why)
}

fn quoted(value: &str) -> String {
    if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() }
}

/// A label, and what belongs to it.
fn paragraph(text: &mut String, label: &str, parts: &[String]) {
    let lines = parts.iter().filter(|part| !part.is_empty());
    for (at, line) in lines.flat_map(|part| wrap(part, WIDTH - MARGIN)).enumerate() {
        let label = if at == 0 { label } else { "" };
        *text += &format!("{label:MARGIN$}{line}\n");
    }
}

/// Lines of so many columns; what is longer than one stays whole, for pasting.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    for word in words(text) {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
    }
    lines
}

/// Words; a number stays with its unit.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_unit =
            matches!(word.trim_end_matches([',', ';']), "s" | "min" | "h" | "days" | "kB" | "MB");
        match words.last_mut().filter(|last| is_unit && last.parse::<f64>().is_ok()) {
            Some(number) => *number = format!("{number} {word}"),
            None => words.push(word.to_owned()),
        }
    }
    words
}

/// A line of output, without what a terminal would obey, cut to its place.
fn cut(line: &str) -> String {
    let room = WIDTH - MARGIN;
    let clean: String = line
        .replace('\t', "  ")
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(room + 1)
        .collect();
    match clean.chars().count() > room {
        true => clean.chars().take(room - 1).chain(['…']).collect(),
        false => clean,
    }
}

/// One service for `--json`.
pub(super) fn as_json(f: &Facts, e: &Explanation) -> Value {
    let rule = e.rule.as_ref().map(|rule| {
        json!({"key": rule.key, "value": rule.value, "line": rule.line, "meaning": rule.why})
    });
    let asked = f.asked.as_ref().map(|asked| {
        json!({
            "verb": asked.verb,
            "epoch": asked.time as f64 / 1e6,
            "user": asked.field("user"),
            "sudo_user": asked.field("sudo"),
            "tty": asked.field("tty"),
            "pid": asked.field("from").and_then(|pid| pid.parse::<i32>().ok()),
        })
    });
    json!({
        "name": f.name,
        "state": f.state.word(),
        "summary": e.headline,
        "wanted": f.wanted.map(reraise::wanted::Wanted::as_str),
        "asked": asked,
        "watched": !f.is_unwatched && f.pid.is_some(),
        "pid": f.pid,
        "raised": f.raised,
        "failed_starts": f.failures,
        "happened": e.happened,
        "deaths": f.deaths.iter().map(deaths::as_json).collect::<Vec<_>>(),
        "last_lines": f.output,
        "rule": rule,
        "next": e.next,
        "next_in_sec": f.until.or(f.failing.map(|(_, left)| left)),
        "to_do": e.todo,
    })
}

/// All of them.
pub(super) fn all_as_json(services: Vec<Value>) -> Value {
    json!({"version": SCHEMA, "services": services})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_and_commands_stay_whole() {
        assert_eq!(wrap("a b c", 3), ["a b", "c"]);
        assert_eq!(wrap("aaaaaa b", 3), ["aaaaaa", "b"]);
        assert_eq!(wrap("a  b", 10), ["a  b"]);
        assert_eq!(wrap("after 1.5 s, or so", 8), ["after", "1.5 s,", "or so"]);
        assert_eq!(cut("a\tb\x1b[0m"), "a  b?[0m");
        assert_eq!(cut(&"x".repeat(100)).chars().count(), WIDTH - MARGIN);
        assert_eq!((bytes(5 << 10), bytes(20 << 20)), ("5 kB".to_owned(), "20 MB".to_owned()));
    }
}
