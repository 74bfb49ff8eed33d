//! `reraise logs`: what services said, found again.
//!
//! A log is read in chunks, never whole ([`chunk`]); its index says when and in which run
//! ([`file`], [`span`]); lines of several logs come together by time ([`merge`]).

mod chunk;
mod file;
mod filter;
mod follow;
mod merge;
mod pager;
mod place;
mod search;
mod show;
mod span;
mod stream;
mod watch;
mod when;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use reraise::error::{ExitCode, Fault};

use super::{Setting, console};
use chunk::Span;
use filter::Grep;
use follow::Tail;
use merge::merge;
use pager::Pager;
use place::Place;
use search::Pool;
use show::Show;
use span::{Log, Run, Window};
use stream::{Channel, Origin, Stream, Wish};
use watch::{Wake, Watch};

/// Lines that are shown at first with `--follow`.
const LINES: u64 = 10;

/// Less is searched sooner than threads begin.
const MUCH: u64 = 2 << 20;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    /// Names or patterns ('http-*'); all when there is none
    patterns: Vec<OsString>,
    /// Go on with what is said from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// The last LINES lines, or `all` [default: all; 10 with --follow]
    #[arg(long, short = 'n', value_name = "LINES")]
    lines: Option<String>,
    /// Not what is older: 10m, 2h30m, 1d, '2026-11-22 06:00', 06:00, yesterday, @EPOCH
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Not what is newer; the same times
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "follow")]
    until: Option<String>,
    /// One run: `last` or -1, -2 for the one before, or its id ($RERAISE_RUN)
    #[arg(long, value_name = "RUN", allow_hyphen_values = true)]
    run: Option<String>,
    /// Lines that match a regular expression
    #[arg(long, value_name = "RE", allow_hyphen_values = true)]
    grep: Option<String>,
    /// Let --grep take capital and small letters for the same
    #[arg(long, short, requires = "grep")]
    ignore_case: bool,
    /// Standard error alone, where config_log_stderr=separate keeps it apart
    #[arg(long)]
    stderr: bool,
    /// As JSON, for programs: an object a line
    #[arg(long)]
    json: bool,
    /// All at once, also on a terminal
    #[arg(long)]
    no_pager: bool,
}

/// The same, understood.
struct Query {
    lines: Option<u64>,
    window: Window,
    run: Option<Run>,
    grep: Option<Arc<Grep>>,
}

impl Query {
    fn new(words: &Words) -> Result<Self, Fault> {
        let usage = |option, text: &str, advice| {
            Fault::new(ExitCode::Usage, option, format!("{text:?} is none"), advice)
        };
        let lines = match words.lines.as_deref() {
            Some("all") => None,
            Some(text) => {
                let fault = || usage("--lines", text, "say a number of lines, or all");
                Some(text.parse().map_err(|_| fault())?)
            }
            // Whoever says from when on wants all since then.
            None if words.since.is_some() || words.run.is_some() => None,
            None => words.follow.then_some(LINES),
        };
        let now = when::now();
        let time = |option, text: &Option<String>| {
            text.as_ref().map(|text| when::parse(option, text, now)).transpose()
        };
        let window =
            Window { since: time("--since", &words.since)?, until: time("--until", &words.until)? };
        if window.since.zip(window.until).is_some_and(|(since, until)| until < since) {
            let what = "lies before --since";
            let advice = "10m is ten minutes ago: --since 20m --until 10m";
            return Err(Fault::new(ExitCode::Usage, "--until", what, advice));
        }
        let run = words.run.as_ref().map(|text| {
            let advice = "say last, -1, -2 or an id as in $RERAISE_RUN";
            Run::parse(text).ok_or_else(|| usage("--run", text, advice))
        });
        let run = run.transpose()?;
        let grep = words.grep.as_ref().map(|re| Grep::new(re, words.ignore_case)).transpose()?;
        Ok(Self { lines, window, run, grep: grep.map(Arc::new) })
    }
}

/// One log that is shown.
struct Part {
    origin: Origin,
    log: Log,
    wish: Wish,
    spans: Vec<Span>,
}

/// Runs `reraise logs`.
pub(crate) fn run(setting: &Setting, words: &Words) -> Result<ExitCode, Fault> {
    let query = Query::new(words)?;
    raise_limit();
    let (places, mut codes) = place::find(setting, &words.patterns)?;
    let (mut parts, mut silent) = (Vec::new(), Vec::new());
    for (service, place) in places.iter().enumerate() {
        match open(setting, words, &query, (service, place), &mut silent) {
            Ok(found) => parts.extend(found),
            Err(fault) => {
                console::fault(&fault);
                codes.push(fault.code);
            }
        }
    }
    let all_are = silent.len() == places.len();
    for (_, note) in silent.iter().filter(|(is_named, _)| *is_named || all_are) {
        console::complain(note);
    }
    let nothing = parts.iter().all(|part| part.spans.is_empty());
    if let Some(Run::Id { .. }) = query.run
        && nothing
        && !words.follow
        && codes.is_empty()
    {
        let (what, advice) =
            ("no such run in these logs", "their ids stand where runs begin: reraise logs NAME");
        let run = words.run.as_deref().unwrap_or_default();
        return Err(Fault::new(ExitCode::NoService, format_args!("--run {run}"), what, advice));
    }
    let names = places.iter().map(|place| place.name.to_string()).collect();
    let is_paged = io::stdout().is_terminal() && !words.no_pager && !words.follow && !nothing;
    let failed = |e: &io::Error| Fault::system("a log", "cannot be shown", e);
    let pager = if is_paged { Pager::start().map_err(|e| failed(&e))? } else { None };
    let (pager, stdin) = pager.unzip();
    let mut show = Show::new(names, words.json, stdin).map_err(|e| failed(&e))?;
    let done = show_all(&mut show, &query, words.follow, parts);
    let has_failed = show.has_failed;
    drop(show);
    if let Some(pager) = pager {
        pager.wait()?;
    }
    match done {
        Ok(()) => Ok(ExitCode::of_all(codes)),
        // Nobody reads any more.
        Err(e) if has_failed && e.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::of_all(codes))
        }
        Err(e) if has_failed => Err(Fault::system("standard output", "cannot be written", &e)),
        Err(e) => Err(failed(&e)),
    }
}

/// Many services have many files.
fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Opens the logs of a service; says what there is to say of them. Those that have none
/// are told of when they were named, or when there is nothing else to show.
fn open(
    setting: &Setting,
    words: &Words,
    query: &Query,
    (service, place): (usize, &Place),
    silent: &mut Vec<(bool, String)>,
) -> Result<Vec<Part>, Fault> {
    let name = &place.name;
    let mut logs = Vec::new();
    for (channel, directory) in place.channels() {
        let log = Log::open(&directory, query.window.since).map_err(|(path, e)| {
            place.hidden(setting).unwrap_or_else(|| place.fault(setting, &path, &e))
        })?;
        logs.push((channel, directory, log));
    }
    if logs.iter().all(|(.., log)| log.is_empty()) {
        if let Some(fault) = place.hidden(setting) {
            return Err(fault);
        }
        let what =
            if place.is_off { "keeps no log (config_log=no)" } else { "has said nothing yet" };
        // What is older than --since was not looked for.
        if query.window.since.is_none() {
            silent.push((place.is_named, format!("{name}: {what}\n")));
        }
        if query.run.is_some() && !words.follow {
            return Ok(Vec::new());
        }
    } else if words.stderr && !place.is_split && logs[0].0 == Channel::Both {
        let what = "keeps standard error with the rest (config_log_stderr=merge)";
        console::complain(&format!("{name}: {what}\n"));
    }
    let failed = |e: io::Error| place.fault(setting, &logs[0].1, &e);
    let run = match query.run {
        Some(Run::Back(back)) => {
            let known = place.runs(setting);
            let found = span::run_back(logs.iter().map(|(.., log)| log), known, back);
            let Some((value, was_heard)) = found.map_err(failed)? else {
                console::complain(&format!(
                    "{name}: has no run {}\n",
                    words.run.as_deref().unwrap_or_default()
                ));
                return Ok(Vec::new());
            };
            // What is older than --since was not looked for.
            if !was_heard && query.window.since.is_none() {
                console::complain(&format!("{name}: run {value:016x} has said nothing\n"));
            }
            Some(Run::Id { value, digits: 16 })
        }
        run => run,
    };
    let directory = logs[0].1.clone();
    let failed = |e: io::Error| place.fault(setting, &directory, &e);
    let mut parts = Vec::new();
    let mut compressed = 0;
    for (channel, directory, log) in logs {
        if words.stderr && channel != Channel::Stderr {
            continue;
        }
        let spans = log.spans(query.window, run).map_err(failed)?;
        // Where the run or enough lines are found, older files do not matter.
        let is_enough = run.is_some() && !spans.is_empty() || query.lines.is_some();
        compressed += if is_enough { 0 } else { log.compressed };
        let (grep, marks) = (query.grep.clone(), query.grep.is_none());
        let wish = Wish { grep, run, marks, is_news: false };
        let origin = Origin { service, channel, directory, deaths: place.deaths(setting) };
        parts.push(Part { origin, log, wish, spans });
    }
    if compressed > 0 {
        let files = if compressed == 1 { "file is" } else { "files are" };
        console::complain(&format!(
            "{name}: {compressed} older {files} compressed, and not searched\n"
        ));
    }
    Ok(parts)
}

/// Shows what there is, and then what comes.
fn show_all(show: &mut Show, query: &Query, follow: bool, mut parts: Vec<Part>) -> io::Result<()> {
    let mut tails = Vec::new();
    for part in parts.iter_mut().filter(|_| follow) {
        tails.push(Tail::new(part.origin.clone(), &part.log, &mut part.spans)?);
    }
    let mut left_out = 0;
    if let Some(lines) = query.lines {
        let mut all = 0;
        for part in &mut parts {
            all += span::last_lines(&mut part.spans, lines, query.grep.as_deref())?;
        }
        left_out = all.saturating_sub(lines);
    }
    let bytes: u64 = parts.iter().flat_map(|part| &part.spans).map(|s| s.to - s.from).sum();
    let logs = parts.iter().filter(|part| !part.spans.is_empty()).count();
    let grep = query.grep.as_deref().filter(|_| bytes >= MUCH);
    let is_joined = show.is_plain() && logs == 1 && query.run.is_none();
    let pool = grep.map(|grep| Pool::new(grep, logs, is_joined));
    let wishes: Vec<Wish> = parts.iter().map(|part| part.wish.clone()).collect();
    let mut streams: Vec<Stream> = parts
        .into_iter()
        .map(|part| Stream::new(part.origin, part.wish, part.spans, pool.as_ref(), logs))
        .collect();
    show_streams(show, &mut streams, left_out)?;
    if !follow {
        return Ok(());
    }
    for (tail, stream) in tails.iter_mut().zip(&streams) {
        tail.began = stream.began;
    }
    drop(streams);
    go_on(show, &mut tails, &wishes)
}

/// Shows streams by time, without the first so many lines.
fn show_streams(show: &mut Show, streams: &mut [Stream], mut left_out: u64) -> io::Result<()> {
    merge(streams, |stream| {
        let Some(head) = stream.head else { return Ok(true) };
        if left_out > 0 {
            left_out -= u64::from(matches!(head.what, stream::What::Line { .. }));
            return Ok(true);
        }
        show.show(&stream.origin, head, stream.text())?;
        Ok(true)
    })?;
    show.flush()
}

/// Shows what comes, until nobody reads any more.
fn go_on(show: &mut Show, tails: &mut [Tail], wishes: &[Wish]) -> io::Result<()> {
    let mut watch = Watch::new(tails.iter().map(|tail| tail.origin.directory.clone()).collect());
    let mut wake = Wake::Look((0..tails.len()).collect());
    while let Wake::Look(changed) = wake {
        let mut streams = Vec::new();
        for &at in &changed {
            let spans = tails[at].more()?;
            if !spans.is_empty() {
                let wish = Wish { is_news: true, ..wishes[at].clone() };
                let origin = tails[at].origin.clone();
                let mut stream = Stream::new(origin, wish, spans, None, changed.len());
                stream.began = tails[at].began;
                streams.push((at, stream));
            }
        }
        let (numbers, mut streams): (Vec<usize>, Vec<Stream>) = streams.into_iter().unzip();
        show_streams(show, &mut streams, 0)?;
        for (at, stream) in numbers.into_iter().zip(&streams) {
            tails[at].began = stream.began;
        }
        wake = watch.wait()?;
    }
    Ok(())
}
