//! From facts to an explanation. Pure: it looks at nothing else.

mod hints;

use std::path::Path;

use reraise::config::{KEYS, Restart};
use reraise::history::asked::Asked;
use reraise::history::deaths::Cause;
use reraise::slot::Phase;
use reraise::wanted::Wanted;

use super::facts::Facts;
use super::pattern;
use crate::cli::state::State;
use crate::cli::{asker, clock};

/// What is said about a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Explanation {
    /// What it is, in a line.
    pub(super) headline: String,
    /// What is wanted, and who has asked last.
    pub(super) wanted: String,
    /// What happened last.
    pub(super) happened: Vec<String>,
    /// What decides.
    pub(super) rule: Option<Rule>,
    /// What comes next, and when.
    pub(super) next: String,
    /// What to do: a command, or a sentence.
    pub(super) todo: Vec<String>,
}

/// A key of the configuration that decides what comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Its name, without `config_`.
    pub(super) key: &'static str,
    /// What holds.
    pub(super) value: String,
    /// The script's line; `None` for the default.
    pub(super) line: Option<usize>,
    /// What that means here.
    pub(super) why: String,
}

/// Explains.
pub(super) fn explain(f: &Facts) -> Explanation {
    let mut e = match f.state {
        State::Running | State::Starting => running(f),
        State::Stopping => stopping(f),
        State::Stop => fallen(f),
        State::Done => done(f),
        State::Error => given_up(f),
        State::SeemsNotRunning => gone(f),
        State::NotRunning => not_running(f),
        State::NotExecutable => Explanation {
            headline: "cannot be started".to_owned(),
            next: "nothing, until that is mended".to_owned(),
            todo: vec![start(f)],
            ..Explanation::default()
        },
        State::Unknown => Explanation {
            headline: "belongs to another user, and its state cannot be seen".to_owned(),
            ..Explanation::default()
        },
    };
    e.wanted = wanted(f, &e.headline);
    let mut happened = pattern::describe(&f.deaths, f.now);
    happened.append(&mut e.happened);
    e.happened = happened;
    if let Some(trouble) = &f.trouble {
        e.happened.push(trouble.clone());
    }
    if let Some((what, advice)) = &f.obstacle {
        // The same once more, where the last launch failed of it.
        e.happened.retain(|line| line != what);
        let now = if f.state == State::NotExecutable { "it" } else { "as it is now, it" };
        e.happened.push(format!("{now} cannot be started: {what}"));
        e.todo.insert(0, advice.clone());
    }
    if let Some(lost) = &f.lost {
        e.happened.push(lost.clone());
        if let Some(directory) = f.log.as_deref().and_then(Path::parent) {
            e.todo.push(format!("ls -ld {0}; df -h {0}", directory.display()));
        }
    }
    let runs = matches!(f.state, State::Running | State::Starting | State::Stopping);
    // What has ended as it may needs no explanation.
    let is_odd = !runs && f.state != State::Done;
    if is_odd && let Some(hint) = f.deaths.last().and_then(hints::of) {
        e.todo.insert(0, hint.to_owned());
    }
    if let Some(command) = &f.ask_owner {
        e.todo = vec![format!("{command}   # knows more")];
    }
    e
}

fn start(f: &Facts) -> String {
    format!("reraise start {}", f.name)
}

/// How long ago the present state began.
fn elapsed(f: &Facts) -> String {
    clock::span(f.elapsed.unwrap_or(0) as f64)
}

fn rule(f: &Facts, key: &'static str, why: impl Into<String>) -> Rule {
    let place = f.places.get(key).filter(|place| place.value.is_some());
    let default = KEYS.iter().find(|k| k.name == key).map_or("", |k| k.default);
    let value = place.and_then(|place| place.value.clone()).unwrap_or_else(|| default.to_owned());
    Rule { key, value, line: place.map(|place| place.line), why: why.into() }
}

/// Who has asked, and when.
fn who(f: &Facts, asked: &Asked) -> String {
    let by = asker::shown(&asked.verb, |key| asked.field(key));
    format!("{by} at {}", clock::short(asked.time, f.now))
}

fn wanted(f: &Facts, headline: &str) -> String {
    if f.ask_owner.is_some() {
        return "known to its owner alone".to_owned();
    }
    let what = match f.wanted {
        Some(Wanted::Up) => "up",
        Some(Wanted::Once) => "up, for a single run",
        Some(Wanted::Down) => "down",
        None => "nothing: nobody has asked for it yet",
    };
    match &f.asked {
        // Once is enough.
        Some(asked) if f.wanted.is_some() && !headline.ends_with(&who(f, asked)) => {
            format!("{what}; last asked by {}", who(f, asked))
        }
        _ => what.to_owned(),
    }
}

fn running(f: &Facts) -> Explanation {
    let word = if f.state == State::Running { "running" } else { "starting" };
    let pid = f.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let raised = match f.raised {
        0 => String::new(),
        1 => ", raised once".to_owned(),
        n => format!(", raised {n} times"),
    };
    let headline = format!("{word} for {}{pid}{raised}", elapsed(f));
    let mut e = Explanation { headline, ..Explanation::default() };
    if f.is_legacy {
        e.headline += ", by the shell version";
        e.next = "the shell version looks after it".to_owned();
        e.todo
            .push(format!("reraise stop {0}, then reraise start {0}   # to take it over", f.name));
        return e;
    }
    if f.is_unwatched {
        e.headline += ", and nobody watches it";
        unwatched(f, &mut e);
        return e;
    }
    if f.state == State::Starting {
        let start = f.config.start_sec.as_secs_f64();
        let left = (start - f.elapsed.unwrap_or(0) as f64).max(0.0);
        let after = match (f.started, f.config.max_retry) {
            (false, _) => "a first start that fails is not tried again".to_owned(),
            (true, None) => format!("that was failed start {} in a row", f.failures + 1),
            (true, Some(max)) => {
                format!(
                    "that was failed start {} in a row, of {max} that are tried again",
                    f.failures + 1
                )
            }
        };
        e.rule = Some(rule(f, "start_sec", "a run that ends sooner is a failed start"));
        e.next =
            format!("in {} it counts as started; if it ends before, {after}", clock::span(left));
        return e;
    }
    let (why, next) = match (f.wanted, f.config.restart) {
        (Some(Wanted::Once), _) => {
            e.next = "when it ends, it stays down: it was started with --once".to_owned();
            return e;
        }
        (_, Restart::Always) => ("whatever its exit", "when it ends, it is raised again at once"),
        (_, Restart::OnFailure) => (
            "only after an exit that is none of config_ok_exit",
            "when it fails, it is raised again at once; else it stays down",
        ),
        (_, Restart::Never) => ("it is never raised", "when it ends, it stays down"),
    };
    e.rule = Some(rule(f, "restart", why));
    next.clone_into(&mut e.next);
    e
}

/// Its worker is gone.
fn unwatched(f: &Facts, e: &mut Explanation) {
    if let Some((failures, left)) = f.failing {
        e.happened.push(format!("its worker has failed {failures} times"));
        e.next = format!("another worker comes in {}", clock::span(left));
        e.todo.push(format!("grep {} {}   # says why", f.name, f.messages.display()));
        e.todo.push("reraise doctor".to_owned());
        return;
    }
    if f.has_keeper {
        "its worker has just died, and its keeper brings another".clone_into(&mut e.next);
        return;
    }
    "when it ends, nobody notices".clone_into(&mut e.next);
    e.todo.push(format!("reraise resume {}   # adopts it, without a restart", f.name));
}

fn stopping(f: &Facts) -> Explanation {
    let is_again = f.phase == Some(Phase::Restarting);
    let word = if is_again { "being restarted" } else { "being stopped" };
    let pid = f.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let mut e = Explanation { headline: format!("{word}{pid}"), ..Explanation::default() };
    if f.is_unwatched {
        e.headline += ", and nobody watches it";
        unwatched(f, &mut e);
        return e;
    }
    e.rule = Some(rule(f, "stop", "signals, and seconds to wait after each"));
    e.next = match f.until {
        Some(left) => format!("in {} the next step, unless it has ended", clock::span(left)),
        None => "its end is waited for".to_owned(),
    };
    e.todo.push(format!("reraise stop --now {}   # the last signal at once", f.name));
    e
}

fn fallen(f: &Facts) -> Explanation {
    let mut e =
        Explanation { headline: "fell, and is being raised".to_owned(), ..Default::default() };
    if f.failing.is_some() {
        e.headline = "fell, and its workers keep failing".to_owned();
        unwatched(f, &mut e);
        return e;
    }
    if f.phase == Some(Phase::Clearing) {
        e.next = "it is raised when what it has left behind is gone".to_owned();
        e.rule = Some(rule(f, "detach", "processes that outlive it are ended first"));
        return e;
    }
    let Some(left) = f.until.filter(|_| f.phase == Some(Phase::Delay)) else {
        e.next = "it is raised at once".to_owned();
        return e;
    };
    let left = clock::span(left);
    e.headline = format!("fell, and waits for its next start in {left}");
    let then = match f.config.max_retry {
        _ if f.program.is_none() => String::new(),
        Some(max) if f.failures > 0 && f.failures >= max => {
            "; if that fails as well, it is given up".to_owned()
        }
        Some(max) if f.failures > 0 => {
            format!("; after {} more it is given up", max - f.failures + 1)
        }
        _ => String::new(),
    };
    // Without its script, nobody knows what that has said.
    e.rule = f.program.is_some().then(|| why_it_waits(f));
    e.next = format!("it is started in {left}{then}");
    if f.obstacle.is_none() {
        e.todo.push(format!("reraise restart {}   # at once", f.name));
    }
    e
}

fn why_it_waits(f: &Facts) -> Rule {
    let steps = f.failures.saturating_sub(1);
    match f.failures {
        0 if matches!(f.deaths.last().map(|d| d.cause), Some(Cause::Launch(_))) => {
            rule(f, "start_sec", "the system is short of something, which is no failed start")
        }
        0 => rule(f, "start_sec", "what ends at once again and again is raised once a second"),
        n if f.config.retry_sec.saturating_mul(steps) > f.config.retry_max_sec => {
            rule(f, "retry_max_sec", format!("failed start {n} in a row, and no longer wait"))
        }
        n => rule(f, "retry_sec", format!("failed start {n} in a row waits {steps} times that")),
    }
}

/// Whether it was asked for a single run.
fn was_once(f: &Facts) -> bool {
    f.asked.as_ref().is_some_and(|asked| asked.verb == "start-once")
}

fn done(f: &Facts) -> Explanation {
    let how = f.deaths.last().map(|d| format!(": {}", d.exit)).unwrap_or_default();
    let headline = format!("done {} ago{how}", elapsed(f));
    let why = "it has ended as it may (config_ok_exit), and that was the end of its work";
    Explanation {
        headline,
        rule: (!was_once(f)).then(|| rule(f, "restart", why)),
        next: match was_once(f) {
            true => "nothing: it was started with --once".to_owned(),
            false => "nothing, until somebody starts it".to_owned(),
        },
        todo: vec![start(f)],
        ..Explanation::default()
    }
}

fn given_up(f: &Facts) -> Explanation {
    let last = f.deaths.last();
    let how = last.map(|d| format!(": {}", d.exit)).unwrap_or_default();
    let mut e = Explanation {
        headline: format!("given up {} ago{how}", elapsed(f)),
        next: "nothing, until somebody starts it".to_owned(),
        todo: vec![start(f)],
        ..Explanation::default()
    };
    if let Some((what, advice)) = &f.launch {
        e.headline = format!("given up {} ago: it cannot be executed", elapsed(f));
        e.happened.push(what.clone());
        if f.obstacle.is_none() {
            e.todo.insert(0, advice.clone());
        }
    } else if !f.output.is_empty() || f.log.is_some() {
        e.todo.insert(0, format!("reraise logs {}   # what it has said", f.name));
    }
    if was_once(f) {
        e.happened.push("it was started with --once: for a single run".to_owned());
        return e;
    }
    if f.program.is_none() {
        return e;
    }
    e.rule = Some(if f.config.restart == Restart::Never {
        rule(f, "restart", "it is not raised, whatever its exit")
    } else if !f.started {
        let sooner = if f.launch.is_some() { "fails" } else { "ends sooner" };
        rule(f, "start_sec", format!("a first start that {sooner} is not tried again"))
    } else {
        rule(f, "max_retry", format!("it was failed start {} in a row", f.failures))
    });
    e
}

fn gone(f: &Facts) -> Explanation {
    let mut e = Explanation::default();
    if f.trouble.is_some() {
        e.headline = "its record cannot be believed".to_owned();
        e.next = "nothing".to_owned();
        e.todo.push(format!("reraise clean {}", f.name));
        return e;
    }
    e.headline = match f.phase {
        None => "not running since the machine, or its container, was started anew",
        Some(_) => "gone, and its worker as well: both were killed",
    }
    .to_owned();
    e.next = "nothing: nobody looks after it".to_owned();
    e.todo.push(match f.wanted.is_some_and(Wanted::is_up) {
        true => format!("reraise resume {}", f.name),
        false => start(f),
    });
    e
}

fn not_running(f: &Facts) -> Explanation {
    let mut e = Explanation {
        next: "nothing, until somebody starts it".to_owned(),
        todo: vec![start(f)],
        ..Explanation::default()
    };
    let is_stop = |asked: &&Asked| !asked.verb.starts_with("start") && asked.verb != "resume";
    let stopped = f.asked.as_ref().filter(is_stop).map(|asked| who(f, asked));
    e.headline = match (f.wanted, stopped) {
        (Some(wanted), Some(by)) if wanted.is_up() => {
            e.todo = vec![format!("reraise resume {}", f.name)];
            e.next = "nothing, until: reraise resume".to_owned();
            format!("not running, although it is wanted: stopped by {by}")
        }
        (Some(wanted), None) if wanted.is_up() => {
            e.todo = vec![format!("reraise resume {}", f.name)];
            e.next = "nothing, until: reraise resume".to_owned();
            "not running, although it is wanted".to_owned()
        }
        (Some(_), Some(by)) => format!("stopped by {by}"),
        (Some(_), None) => "not running: it was stopped, or came to its end".to_owned(),
        (None, _) if f.deaths.is_empty() => "not running: it was never started".to_owned(),
        (None, _) => "not running".to_owned(),
    };
    e
}

#[cfg(test)]
mod tests;
