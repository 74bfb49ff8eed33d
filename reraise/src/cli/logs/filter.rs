//! What `--grep` searches for. An expression never matches a newline here, so that
//! a whole block is searched at once and still every line by itself.

use memchr::memmem::Finder;
use memchr::{memchr, memrchr};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytesRange, ClassUnicodeRange, Hir, HirKind, Look};

use reraise::error::{ExitCode, Fault};

/// An expression.
#[derive(Debug, Clone)]
pub(super) struct Grep {
    regex: Regex,
    /// What stands in every line that matches, where that is quicker to find.
    inner: Option<Finder<'static>>,
}

impl Grep {
    /// Understands an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(pattern: &str, ignores_case: bool) -> Result<Self, Fault> {
        let advice = "it is a regular expression; \\ before a character takes it as it is: \\[";
        let fault = |what: String| Fault::new(ExitCode::Usage, "--grep", what, advice);
        let mut parser = ParserBuilder::new();
        parser.utf8(false).multi_line(true).case_insensitive(ignores_case);
        let hir = parser.build().parse(pattern).map_err(|e| fault(reason(&e)))?;
        let hir = of_a_line(hir).ok_or_else(|| {
            let what = "contains an end of line, and each line is searched by itself";
            Fault::new(
                ExitCode::Usage,
                "--grep",
                what,
                "leave \\n out; ^ and $ are the ends of a line",
            )
        })?;
        // It has said what its letters and dots mean; nothing is left to be set here.
        let regex = RegexBuilder::new(&hir.to_string()).size_limit(64 << 20).build();
        let regex = regex.map_err(|e| fault(last_line(&e.to_string())))?;
        let inner = inner(&hir).map(|literal| Finder::new(literal).into_owned());
        Ok(Self { regex, inner })
    }

    /// Somewhere in the first line that matches, from the beginning of one on.
    pub(super) fn find(&self, text: &[u8], mut from: usize) -> Option<usize> {
        let Some(inner) = &self.inner else { return self.regex.shortest_match_at(text, from) };
        loop {
            let at = from + inner.find(text.get(from..)?)?;
            let start = memrchr(b'\n', &text[from..at]).map_or(from, |before| from + before + 1);
            let end = memchr(b'\n', &text[at..]).map_or(text.len(), |more| at + more);
            if let Some(found) = self.regex.shortest_match(&text[start..end]) {
                return Some(start + found);
            }
            from = end + 1;
        }
    }
}

/// A text without which nothing matches. Not one with which an expression begins: it is
/// quick to find those itself.
fn inner(hir: &Hir) -> Option<&[u8]> {
    match hir.kind() {
        HirKind::Capture(capture) => inner(&capture.sub),
        HirKind::Concat(parts) => {
            let texts = parts.iter().filter_map(|part| match part.kind() {
                HirKind::Literal(text) => Some(&*text.0),
                _ => None,
            });
            let begins = matches!(parts.first()?.kind(), HirKind::Literal(_));
            texts.max_by_key(|text| text.len()).filter(|text| !begins && text.len() > 2)
        }
        _ => None,
    }
}

fn reason(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(e) => format!("{:?}: {}", e.pattern(), e.kind()),
        regex_syntax::Error::Translate(e) => format!("{:?}: {}", e.pattern(), e.kind()),
        _ => last_line(&error.to_string()),
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The same without any newline, and with the ends of the text for those of a line.
fn of_a_line(hir: Hir) -> Option<Hir> {
    let all = |parts: Vec<Hir>| parts.into_iter().map(of_a_line).collect::<Option<Vec<_>>>();
    Some(match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => return None,
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(mut class)) => {
            class.difference(&regex_syntax::hir::ClassUnicode::new([ClassUnicodeRange::new(
                '\n', '\n',
            )]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(mut class)) => {
            class.difference(&regex_syntax::hir::ClassBytes::new([ClassBytesRange::new(
                b'\n', b'\n',
            )]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(Look::Start) => Hir::look(Look::StartLF),
        HirKind::Look(Look::End) => Hir::look(Look::EndLF),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(of_a_line(*repetition.sub)?);
            Hir::repetition(repetition)
        }
        HirKind::Capture(mut capture) => {
            capture.sub = Box::new(of_a_line(*capture.sub)?);
            Hir::capture(capture)
        }
        HirKind::Concat(parts) => Hir::concat(all(parts)?),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that match when all are searched at once, and one by one.
    fn both(pattern: &str, text: &[u8]) -> (Vec<usize>, Vec<usize>) {
        let grep = Grep::new(pattern, false).unwrap();
        let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
        let alone = (0..lines.len()).filter(|&n| grep.find(lines[n], 0).is_some()).collect();
        let mut at_once = Vec::new();
        let mut from = 0;
        while let Some(at) = grep.find(text, from) {
            at_once.push(text[..at].iter().filter(|&&b| b == b'\n').count());
            match text[at..].iter().position(|&b| b == b'\n') {
                Some(end) => from = at + end + 1,
                None => break,
            }
        }
        (at_once, alone)
    }

    #[test]
    fn a_block_is_searched_as_its_lines_are() {
        let text = b"one 1\n\ntwo\t\nthree 3 \xff\n  four\r\n\x00five one\nsix";
        for pattern in [
            "o",
            "^",
            "$",
            "",
            "x*",
            "^$",
            r"\s",
            r"\s+$",
            "[^o]*e",
            r"\Aone",
            r"e\z",
            r"(?s).+",
            r"\D+\d",
            "(?-m)^t",
            "(?-m)e$",
            r"\W",
            r"(?-u)[^a-z]+$",
            r"(?-u)\xff",
            "one|six$",
            r"\bone\b",
            "(?i)FIVE",
            "three .*$",
            r"[[:space:]]+\S",
            "(one|two)[^x]{0,9}",
            "[a-z]+ 3",
            ".five",
            "(.* one)$",
            "o*ree$",
        ] {
            let (at_once, alone) = both(pattern, text);
            assert_eq!(at_once, alone, "{pattern}");
        }
    }

    #[test]
    fn letters_of_either_case() {
        assert!(Grep::new("ERROR", true).unwrap().find(b"an error", 0).is_some());
        assert!(Grep::new("ERROR", false).unwrap().find(b"an error", 0).is_none());
        assert!(Grep::new("straße", true).unwrap().find("STRAßE".as_bytes(), 0).is_some());
    }

    #[test]
    fn what_is_no_expression() {
        for (pattern, words) in [
            ("(", "unclosed group"),
            ("[z-a]", "invalid character class range"),
            ("a\\nb", "end of line"),
            ("\\", "incomplete escape"),
            ("x{4294967295}", "limit"),
        ] {
            let fault = Grep::new(pattern, false).unwrap_err();
            assert_eq!(fault.code, ExitCode::Usage);
            assert!(fault.what.contains(words) && !fault.what.contains('\n'), "{}", fault.what);
        }
    }
}
