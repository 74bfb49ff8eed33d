//! What the command line says of itself.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use reraise::error::{ExitCode, Fault};
use reraise::name::printable;

use super::nearest::nearest;

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
  reraise skeleton web -- python3 -u -m http.server 8000    # writes a starter script
  reraise start web     # it runs, and is raised again whenever it falls
  reraise status
  reraise stop web

To see it work: reraise demo. All options: reraise --help, reraise COMMAND --help
";

/// What is wrong with a command line, in two lines as everything else is said.
pub(crate) fn fault(error: &clap::Error, command: &clap::Command, words: &[OsString]) -> Fault {
    let about = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let arg = about(ContextKind::InvalidArg);
    let option = || name_of(&arg);
    // What stands before the command is not the command's.
    let is_wrong = |word: &&OsString| word.to_str().map(name_of) == Some(option());
    let mut before = words.iter().skip(1).take_while(|word| option().is_empty() || !is_wrong(word));
    let sub = before.find_map(|word| command.find_subcommand(word));
    let help = match sub {
        Some(sub) => format!("reraise {} --help", sub.get_name()),
        None => "reraise --help".to_owned(),
    };
    let object = sub.map_or("reraise", clap::Command::get_name);
    let told = |object: &str, what: String, advice: String| {
        Fault::new(ExitCode::Usage, printable(object.as_ref()), what, advice)
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = about(ContextKind::InvalidSubcommand);
            let near = nearest(&word, command.get_subcommands().map(clap::Command::get_name));
            let advice = near.and_then(|near| instead(words, &word, near));
            let all = "see all commands: reraise --help".to_owned();
            told(&word, "no such command".to_owned(), advice.unwrap_or(all))
        }
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            let of = sub.into_iter().chain([command]).flat_map(clap::Command::get_arguments);
            let all: Vec<String> =
                of.filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
            let near = nearest(option(), all.iter().map(String::as_str));
            let advice = near.and_then(|near| instead(words, option(), near));
            let what = match sub {
                Some(sub) => format!("no such option of {}", sub.get_name()),
                None => "no such option".to_owned(),
            };
            told(option(), what, advice.unwrap_or(format!("see what there is: {help}")))
        }
        ErrorKind::UnknownArgument => {
            let what = format!("{object} takes no such argument");
            told(&arg, what, format!("see what it takes: {help}"))
        }
        ErrorKind::MissingRequiredArgument if arg.contains("PATTERNS") => {
            let advice = format!("name one, or mean all of them: reraise {object} '*'");
            told(object, "names no service".to_owned(), advice)
        }
        ErrorKind::MissingRequiredArgument => {
            told(object, format!("{arg} is missing"), format!("see how it is used: {help}"))
        }
        ErrorKind::ArgumentConflict => {
            let prior = about(ContextKind::PriorArg);
            let what = match name_of(&prior) {
                "" => "is given twice".to_owned(),
                prior if prior == option() => "is given twice".to_owned(),
                prior => format!("does not go together with {prior}"),
            };
            told(option(), what, format!("see how it is used: {help}"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let what = match about(ContextKind::InvalidValue) {
                value if value.is_empty() => "needs a value".to_owned(),
                value => format!("{} is no value for it", printable(value.as_ref())),
            };
            told(option(), what, format!("see what it takes: {help}"))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let what = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            told(object, what, format!("see how it is used: {help}"))
        }
    }
}

/// The option alone, of `--wait[=<SEC>]`.
fn name_of(option: &str) -> &str {
    let end = option.find(|c: char| !c.is_alphanumeric() && c != '-');
    &option[..end.unwrap_or(option.len())]
}

/// The command line with one word replaced, to be pasted; `None` when that cannot be.
fn instead(words: &[OsString], wrong: &str, right: &str) -> Option<String> {
    let mut line = "did you mean: reraise".to_owned();
    for word in words.iter().skip(1) {
        let word = word.to_str()?;
        line.push(' ');
        match word.strip_prefix(wrong) {
            Some(rest) if rest.is_empty() || rest.starts_with('=') => {
                line.push_str(&quoted(&format!("{right}{rest}"))?);
            }
            _ => line.push_str(&quoted(word)?),
        }
    }
    Some(line)
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> Option<String> {
    if word.chars().any(char::is_control) {
        return None;
    }
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Some(word.to_owned());
    }
    Some(format!("'{}'", word.replace('\'', "'\\''")))
}

/// A service that is not there: perhaps another one was meant.
pub(crate) fn or_nearest<'a>(
    fault: Fault,
    name: &OsStr,
    all: impl IntoIterator<Item = &'a str>,
) -> Fault {
    match name.to_str().and_then(|name| nearest(name, all)) {
        Some(near) => {
            let advice = format!("did you mean {near}? See what there is: reraise list");
            Fault { advice, ..fault }
        }
        None => fault,
    }
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
