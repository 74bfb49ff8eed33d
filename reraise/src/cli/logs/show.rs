//! How lines are shown: as they are, for a terminal, or as JSON.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ChildStdin;

use reraise::backend::Exit;

use super::stream::{Channel, Head, Origin, What};
use super::when;
use crate::cli::clock;
use crate::cli::console::Paint;

/// Bytes that are written at once.
const BUFFER: usize = 128 << 10;
/// Names are shown below each other up to this width.
const WIDTH_MAX: usize = 24;
/// Colours of names, one after the other.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// See the module.
pub(super) struct Show {
    out: BufWriter<Box<dyn Write>>,
    names: Vec<String>,
    /// What stands before each line, for each service.
    prefixes: Vec<String>,
    /// The run that began last and the one that ended last, of each.
    known: Vec<(u64, u64)>,
    paint: Paint,
    is_terminal: bool,
    json: bool,
    /// The beginning of a line is shown.
    is_midway: bool,
    scratch: Vec<u8>,
    /// Writing failed, not reading.
    pub(super) has_failed: bool,
}

impl Show {
    /// For these services, on standard output or into a pager.
    pub(super) fn new(
        names: Vec<String>,
        json: bool,
        pager: Option<ChildStdin>,
    ) -> io::Result<Self> {
        let out: Box<dyn Write> = match pager {
            Some(pager) => Box::new(pager),
            // Not through std's, which looks for ends of lines again.
            None => Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        };
        let paint = Paint::new();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(WIDTH_MAX);
        let prefix = |(at, name): (usize, &String)| {
            if names.len() < 2 {
                return String::new();
            }
            format!("{} ", paint.colour(&format!("{name:width$} |"), COLOURS[at % COLOURS.len()]))
        };
        let prefixes = names.iter().enumerate().map(prefix).collect();
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, out),
            known: vec![(0, 0); names.len()],
            names,
            prefixes,
            paint,
            is_terminal: io::stdout().is_terminal(),
            json,
            is_midway: false,
            scratch: Vec::new(),
            has_failed: false,
        })
    }

    /// Whether lines are shown as they are, and nothing but them.
    pub(super) fn is_plain(&self) -> bool {
        !self.is_terminal && !self.json && self.names.len() < 2
    }

    /// Shows one thing.
    pub(super) fn show(&mut self, origin: &Origin, head: Head, text: &[u8]) -> io::Result<()> {
        let service = origin.service;
        let done = match head.what {
            What::Begin | What::End(..) if self.is_known(service, head) => Ok(()),
            _ if self.json => self.object(service, origin.channel, head, text),
            What::Line { is_whole } => self.line(service, text, is_whole),
            // Its log says so itself.
            What::Lost(_) => Ok(()),
            _ => self.mark(service, head),
        };
        self.has_failed |= done.is_err();
        done
    }

    /// Writes what was kept back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let done = self.out.flush();
        self.has_failed |= done.is_err();
        done
    }

    fn line(&mut self, service: usize, text: &[u8], is_whole: bool) -> io::Result<()> {
        if !self.is_midway {
            self.out.write_all(self.prefixes[service].as_bytes())?;
        }
        self.is_midway = !is_whole;
        if self.is_terminal {
            self.scratch.clear();
            harmless(text, &mut self.scratch);
            self.out.write_all(&self.scratch)?;
        } else {
            self.out.write_all(text)?;
        }
        if is_whole { self.out.write_all(b"\n") } else { Ok(()) }
    }

    fn mark(&mut self, service: usize, head: Head) -> io::Result<()> {
        let (name, run, time) = (&self.names[service], head.run, clock::local(head.time));
        let text = match head.what {
            What::Line { .. } | What::Lost(_) => return Ok(()),
            What::Begin => format!("--- {name}: run {run:016x} began {time}"),
            What::End(exit, after) => {
                let after = after.map(|after| format!(" after {}", clock::span(seconds(after))));
                let after = after.unwrap_or_default();
                format!("--- {name}: run {run:016x} ended {time}: {exit}{after}")
            }
        };
        self.out.write_all(self.paint.colour(&text, 2).as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Where standard error has a log of its own, both say when a run begins and ends.
    fn is_known(&mut self, service: usize, head: Head) -> bool {
        let known = match head.what {
            What::Begin => &mut self.known[service].0,
            _ => &mut self.known[service].1,
        };
        let is_known = *known == head.run && head.run != 0;
        *known = head.run;
        is_known
    }

    /// By hand, so that the order of the fields is that of the words here.
    fn object(
        &mut self,
        service: usize,
        channel: Channel,
        head: Head,
        text: &[u8],
    ) -> io::Result<()> {
        let out = &mut self.out;
        // A name has no character that would have to be escaped but these.
        let name = serde_json::to_string(&self.names[service])?;
        let time = when::rfc3339(head.time);
        write!(out, "{{\"service\":{name},\"time\":\"{time}\",")?;
        match head.run {
            0 => out.write_all(b"\"run\":null,")?,
            run => write!(out, "\"run\":\"{run:016x}\",")?,
        }
        match head.what {
            What::Line { is_whole } => {
                let stream = match channel {
                    Channel::Both => "both",
                    Channel::Stdout => "stdout",
                    Channel::Stderr => "stderr",
                };
                write!(out, "\"stream\":\"{stream}\",\"text\":")?;
                match str::from_utf8(text) {
                    Ok(text) => serde_json::to_writer(&mut *out, text)?,
                    Err(_) => {
                        serde_json::to_writer(&mut *out, &String::from_utf8_lossy(text))?;
                        out.write_all(b",\"raw\":\"")?;
                        for byte in text {
                            write!(out, "{byte:02x}")?;
                        }
                        out.write_all(b"\"")?;
                    }
                }
                if !is_whole {
                    out.write_all(b",\"goes_on\":true")?;
                }
            }
            What::Begin => out.write_all(b"\"event\":\"begin\"")?,
            What::End(exit, after) => {
                out.write_all(b"\"event\":\"end\"")?;
                match exit {
                    Exit::Code(code) => write!(out, ",\"exit_code\":{code}")?,
                    Exit::Signal { number, core } => {
                        write!(out, ",\"exit_code\":null,\"signal\":{number},\"core\":{core}")?;
                    }
                    Exit::Unknown => out.write_all(b",\"exit_code\":null")?,
                }
                if let Some(after) = after {
                    write!(out, ",\"after_sec\":{}", seconds(after))?;
                }
            }
            What::Lost(lines) => write!(out, "\"event\":\"lost\",\"lines\":{lines}")?,
        }
        out.write_all(b"}\n")
    }
}

fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / 1e6
}

/// Text that does to a terminal no more than to write: all other control characters and
/// what is no text are shown as `\x07`; colours remain, until the end of the line.
fn harmless(text: &[u8], out: &mut Vec<u8>) {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut is_coloured = false;
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(is_harmful) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let length = colour(rest.as_bytes());
            if length > 0 {
                is_coloured = true;
                out.extend_from_slice(&rest.as_bytes()[..length]);
                rest = &rest[length..];
                continue;
            }
            let mut letters = rest.chars();
            match letters.next().map(u32::from) {
                Some(low @ ..0x100) => out.extend_from_slice(format!("\\x{low:02x}").as_bytes()),
                Some(other) => out.extend_from_slice(format!("\\u{{{other:x}}}").as_bytes()),
                None => {}
            }
            rest = letters.as_str();
        }
        out.extend_from_slice(rest.as_bytes());
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    if is_coloured {
        out.extend_from_slice(b"\x1b[0m");
    }
}

/// Control characters, and those that turn the direction of text around.
fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a sequence that sets a colour, at the beginning of a text; else 0.
fn colour(text: &[u8]) -> usize {
    let Some(rest) = text.strip_prefix(b"\x1b[") else { return 0 };
    let end = rest.iter().position(|b| !matches!(b, b'0'..=b'9' | b';' | b':'));
    end.filter(|&end| rest[end] == b'm').map_or(0, |end| end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> String {
        let mut out = Vec::new();
        harmless(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_is_only_written_to() {
        for (text, expected) in [
            (&b"plain\ttext"[..], "plain\ttext"),
            (b"", ""),
            (b"end\r", "end"),
            (b"10%\r20%", "10%\\x0d20%"),
            (b"a\x00b\x07", "a\\x00b\\x07"),
            (b"\xff\xfe caf\xc3\xa9", "\\xff\\xfe caf\u{e9}"),
            (b"\xc2\x9b31m", "\\x9b31m"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"\x1b[", "\\x1b["),
            (b"\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
            (b"\x1b[38:5:1mred\x1b[m.", "\x1b[38:5:1mred\x1b[m.\x1b[0m"),
            ("\u{202e}txt".as_bytes(), "\\u{202e}txt"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }
}
