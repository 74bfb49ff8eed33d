//! `reraise events`: what became of services, from the file that their workers write.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;

use glob::Pattern;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use reraise::backend::{LaunchError, Step};
use reraise::error::{ExitCode, Fault, reason};
use reraise::history::events::{Event, Reader};
use reraise::messages;

use super::console::Paint;
use super::select::select;
use super::users::Users;
use super::{Setting, asker, clock, console, paste};

/// The version of what `--json` prints; it grows when a field changes meaning.
const SCHEMA: u32 = 1;

/// How often is looked for new events, in milliseconds.
const LOOK: u16 = 200;

/// How it is to be shown.
pub(super) struct Wish {
    pub(super) follow: bool,
    pub(super) lines: usize,
    pub(super) json: bool,
}

/// Runs `reraise events`.
pub(super) fn run(
    setting: &Setting,
    patterns: &[OsString],
    wish: &Wish,
) -> Result<ExitCode, Fault> {
    let wanted: Vec<Pattern> =
        patterns.iter().flat_map(|word| Pattern::new(&word.to_string_lossy())).collect();
    // Events tell also of services that are not there any more.
    let found = select(setting, patterns).or_else(|fault| match patterns {
        [] => Ok(super::select::Selection::default()),
        _ => Err(fault),
    })?;
    let me = setting.dirs.uid();
    let mut owners: BTreeSet<u32> = found.services.values().flatten().map(|e| e.uid).collect();
    owners.insert(me);
    let mut readers = Vec::new();
    let mut faults = Vec::new();
    for owner in owners {
        let state = setting.dirs.state(owner);
        if owner == me || fs::read_dir(&state).is_ok() {
            readers.push(Reader::new(&state));
        } else if let Some(name) = found.named.iter().find(|name| {
            found.services.get(*name).is_some_and(|e| e.as_ref().is_some_and(|e| e.uid == owner))
        }) {
            let user = Users::default().user(owner);
            let what = format!("belongs to {user}, whose events only {user} can read");
            let command = paste::as_owner(setting, owner, "events", name);
            let advice = format!("ask as {user}: {command}");
            faults.push(Fault::new(ExitCode::Denied, name, what, advice));
        }
    }
    let is_wanted =
        |event: &Event| wanted.is_empty() || wanted.iter().any(|p| p.matches(&event.name));
    let mut last = VecDeque::new();
    let mut seen = BTreeSet::new();
    each(&mut readers, &mut |event| {
        if !is_wanted(&event) {
            return;
        }
        if !seen.contains(&event.name) {
            seen.insert(event.name.clone());
        }
        last.push_back(event);
        if last.len() > wish.lines {
            last.pop_front();
        }
    });
    let is_told = |fault: &&Fault| seen.iter().any(|name| is_about(&fault.object, name));
    faults.extend(found.faults.iter().filter(|fault| !is_told(fault)).cloned());
    let mut show = Show::new(wish.json, last.iter().map(|event| event.name.chars().count()).max());
    let is_open = show.all(&mut last.drain(..));
    faults.iter().for_each(console::fault);
    if wish.follow && is_open {
        follow(&mut readers, &mut show, is_wanted);
    }
    Ok(ExitCode::of_all(faults.iter().map(|f| f.code)))
}

/// Whether a word of the command line means this service.
fn is_about(word: &str, name: &str) -> bool {
    Pattern::new(word).is_ok_and(|pattern| pattern.matches(name))
}

/// Hands out what is new, in the order of time.
fn each(readers: &mut [Reader], take: &mut dyn FnMut(Event)) {
    if let [one] = readers {
        return one.read(|line| Event::parse(line).into_iter().for_each(&mut *take));
    }
    let mut all = Vec::new();
    readers.iter_mut().for_each(|one| one.read(|line| all.extend(Event::parse(line))));
    all.sort_by_key(|event| event.time);
    all.into_iter().for_each(take);
}

/// Shows what happens, until nobody reads it.
fn follow(readers: &mut [Reader], show: &mut Show, is_wanted: impl Fn(&Event) -> bool) {
    let out = std::io::stdout();
    loop {
        let mut one = [PollFd::new(out.as_fd(), PollFlags::empty())];
        if poll(&mut one, PollTimeout::from(LOOK)).is_ok_and(|count| count > 0) {
            return;
        }
        let mut new = Vec::new();
        each(readers, &mut |event| new.extend(is_wanted(&event).then_some(event)));
        if !show.all(&mut new.into_iter()) {
            return;
        }
    }
}

struct Show {
    paint: Paint,
    json: bool,
    width: usize,
}

impl Show {
    fn new(json: bool, width: Option<usize>) -> Self {
        Self { paint: Paint::new(), json, width: width.unwrap_or(0).max(10) }
    }

    /// `false`: nobody reads it.
    fn all(&mut self, events: &mut dyn Iterator<Item = Event>) -> bool {
        let mut text = String::new();
        for event in events {
            self.width = self.width.max(event.name.chars().count());
            text += &if self.json { as_json(&event).to_string() } else { self.line(&event) };
            text.push('\n');
        }
        text.is_empty() || console::text(text.as_bytes())
    }

    fn line(&self, event: &Event) -> String {
        let (time, name, width) = (clock::local(event.time), &event.name, self.width);
        let kind = self.paint.colour(&format!("{:12}", event.kind), colour(&event.kind));
        let pid = event.pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
        let parts = [details(event), pid];
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
        format!("{time}  {name:width$}  {kind}  {}", parts.join(", ")).trim_end().to_owned()
    }
}

fn colour(kind: &str) -> u8 {
    match kind {
        "running" => 32,
        "starting" | "waiting" | "stopping" | "restarting" => 33,
        "failed" | "cannot-start" | "survivors" | "ended" => 31,
        _ => 2,
    }
}

/// What there is to say beyond the word.
fn details(event: &Event) -> String {
    let field = |key| event.field(key);
    let number = |key| field(key).and_then(|text: &str| text.parse::<f64>().ok());
    match event.kind.as_str() {
        "ended" => {
            let lasted = number("lasted").map(|s| format!(" after {}", clock::span(s)));
            let cause = match field("cause") {
                Some(cause) => format!(", as asked ({cause})"),
                None => String::new(),
            };
            format!("{}{}{cause}", exit(event), lasted.unwrap_or_default())
        }
        "waiting" => {
            number("delay").map_or_else(String::new, |s| format!("for {}", clock::span(s)))
        }
        "stopping" | "restarting" => match field("asked") {
            Some(verb) => format!("by {}", asker::shown(verb, |key| event.field(key))),
            None => String::new(),
        },
        "failed" => format!("given up: {}", exit(event)),
        "done" => exit(event),
        "cannot-start" => cannot_start(event),
        "adopted" => field("worker").map_or_else(String::new, |w| format!("by worker {w}")),
        "survivors" => field("pids").map_or_else(String::new, |pids| format!("pids {pids}")),
        _ => String::new(),
    }
}

fn exit(event: &Event) -> String {
    let more = match (event.field("core"), event.field("memory")) {
        (Some(_), _) => " (core dumped)",
        (_, Some(_)) => " (killed for memory)",
        _ => "",
    };
    match event.field("exit") {
        Some("?") | None => "unknown exit code".to_owned(),
        Some(code) if code.bytes().all(|b| b.is_ascii_digit()) => format!("exit code {code}"),
        Some(signal) => format!("signal {}{more}", signal.trim_start_matches("signal-")),
    }
}

fn cannot_start(event: &Event) -> String {
    let errno = event.field("errno").and_then(|text| text.parse().ok());
    let Some(errno) = errno else { return String::new() };
    let step = event.field("step").unwrap_or(Step::Exec.word());
    let why = reason(&std::io::Error::from_raw_os_error(errno));
    let code = LaunchError { step: Step::Exec, errno }.exit_code();
    format!("{step}: {why} (exit code {code})")
}

fn as_json(event: &Event) -> Value {
    let seconds = event.time.div_euclid(1_000_000);
    let utc = messages::utc(seconds.max(0).cast_unsigned());
    let micros = event.time.rem_euclid(1_000_000);
    let mut value = json!({
        "version": SCHEMA,
        "time": format!("{}.{micros:06}Z", utc.trim_end_matches('Z')),
        "epoch_us": event.time,
        "name": event.name,
        "run": event.run.map(|run| format!("{run:016x}")),
        "pid": event.pid,
        "event": event.kind,
    });
    for (key, text) in &event.fields {
        let number = match key.as_str() {
            "lasted" | "delay" => text.parse::<f64>().ok().map(Value::from),
            "worker" | "from" | "errno" => text.parse::<i64>().ok().map(Value::from),
            "core" | "memory" => Some(Value::from(true)),
            "pids" => Some(text.split(',').flat_map(str::parse::<i64>).map(Value::from).collect()),
            _ => None,
        };
        // What is ours already is not to be said by a line.
        if value.get(key).is_none() {
            value[key] = number.unwrap_or_else(|| Value::from(text.as_str()));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let show = Show { paint: Paint::none(), json: false, width: 5 };
        for (line, text) in [
            ("web ab 7 starting", "web    starting      pid 7"),
            ("web ab 7 running", "web    running       pid 7"),
            (
                "web ab 7 ended exit=1 lasted=2.001",
                "web    ended         exit code 1 after 2 s, pid 7",
            ),
            (
                "web ab 7 ended exit=SEGV core=1 lasted=400.5",
                "web    ended         signal SEGV (core dumped) after 6 min, pid 7",
            ),
            (
                "web ab 7 ended exit=TERM lasted=2 cause=stop",
                "web    ended         signal TERM after 2 s, as asked (stop), pid 7",
            ),
            (
                "web ab 7 ended exit=? lasted=2",
                "web    ended         unknown exit code after 2 s, pid 7",
            ),
            (
                "web ab 7 ended exit=KILL memory=1 lasted=2",
                "web    ended         signal KILL (killed for memory) after 2 s, pid 7",
            ),
            ("web ab - waiting delay=4.2", "web    waiting       for 4.2 s"),
            (
                "web ab 7 stopping asked=stop user=al from=9",
                "web    stopping      by al (reraise stop, pid 9), pid 7",
            ),
            ("web ab 7 restarting", "web    restarting    pid 7"),
            ("web ab - stopped", "web    stopped"),
            ("web ab - failed exit=126", "web    failed        given up: exit code 126"),
            ("web ab - done exit=0", "web    done          exit code 0"),
            (
                "web ab 7 cannot-start step=exec errno=13",
                "web    cannot-start  exec: permission denied (exit code 126), pid 7",
            ),
            ("web ab 7 adopted worker=8", "web    adopted       by worker 8, pid 7"),
            ("web ab 7 survivors pids=8,9", "web    survivors     pids 8,9, pid 7"),
            ("web ab 7 dancing", "web    dancing       pid 7"),
        ] {
            let event = Event::parse(&format!("1795954212769422 {line}")).unwrap();
            let shown = show.line(&event);
            let shown = shown.split_once("  ").unwrap().1;
            assert_eq!(shown, text);
        }
    }

    #[test]
    fn json_has_numbers() {
        let line = "1795954212769422 web 00ab 7 ended exit=1 lasted=2.5 core=1 name=evil";
        let value = as_json(&Event::parse(line).unwrap());
        assert_eq!(value["time"], "2026-11-29T12:10:12.769422Z");
        assert_eq!((&value["lasted"], &value["core"]), (&json!(2.5), &json!(true)));
        assert_eq!((&value["exit"], &value["name"]), (&json!("1"), &json!("web")));
        assert_eq!(value["run"], "00000000000000ab");
        let line = "1 web - - survivors pids=8,9,more";
        assert_eq!(as_json(&Event::parse(line).unwrap())["pids"], json!([8, 9]));
    }
}
