//! A service name is a file name in directories, a word of command lines and
//! output, and the text of a pattern. It is checked once, where it comes in;
//! a [`ServiceName`] cannot leave its directory, be taken for an option, hide
//! in a listing or break a line.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A name has at most so many bytes, as a file name has.
pub const NAME_MAX: usize = 255;

/// [`printable`] shows at most so many characters.
const SHOWN_MAX: usize = 60;

/// A valid service name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ServiceName {
    /// Checks a name: 1 to 255 bytes of UTF-8 without `/`, white space, control
    /// and invisible characters, and not starting with `.` or `-`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn new(name: &OsStr) -> Result<Self, NameError> {
        let name = name.to_str().ok_or(NameError::NotUtf8)?;
        match name.chars().next() {
            None => return Err(NameError::Empty),
            Some(first @ ('.' | '-')) => return Err(NameError::StartsWith(first)),
            Some(_) => {}
        }
        if name.len() > NAME_MAX {
            return Err(NameError::TooLong(name.len()));
        }
        let is_bad = |&c: &char| c == '/' || c.is_whitespace() || c.is_control() || is_invisible(c);
        match name.chars().find(is_bad) {
            Some(bad) => Err(NameError::Contains(bad)),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What shows nothing itself, joins or turns around what stands beside it: with
/// it two names look the same, or one looks like another.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// To look one up by its text; both compare the same.
impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why something is not a service name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// There is nothing.
    Empty,
    /// More than [`NAME_MAX`] bytes: so many.
    TooLong(usize),
    /// Bytes that are no text.
    NotUtf8,
    /// A hidden file, a relative directory or an option.
    StartsWith(char),
    /// A slash, white space, a control or an invisible character.
    Contains(char),
}

impl NameError {
    /// What to do about it, one line.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Empty => "give the name of a service; `reraise list` shows them",
            Self::TooLong(_) => "choose a name of at most 255 bytes",
            Self::NotUtf8 => "rename the file with letters of UTF-8",
            Self::StartsWith(_) => "choose a name that starts with a letter or a digit",
            Self::Contains('/') => "give the name of a file in $RERAISE_DIR, without its directory",
            Self::Contains(_) => "rename the file, with `-` or `_` instead",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("service name is empty"),
            Self::TooLong(bytes) => {
                write!(f, "service name has {bytes} bytes, more than {NAME_MAX}")
            }
            Self::NotUtf8 => f.write_str("service name is not UTF-8"),
            Self::StartsWith(c) => write!(f, "service name starts with `{c}`"),
            Self::Contains(' ') => f.write_str("service name contains a space"),
            Self::Contains(c) => write!(f, "service name contains `{}`", c.escape_debug()),
        }
    }
}

impl std::error::Error for NameError {}

/// Any name on one line of an error message: what a terminal should not see is
/// escaped as in Rust (`\n`, `\u{202e}`, `\xff`), what is longer than 60
/// characters is cut and ends in `...`, and nothing at all is `''`.
#[must_use]
pub fn printable(name: &OsStr) -> String {
    if name.is_empty() {
        return "''".to_owned();
    }
    let mut shown = Shown::default();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => shown.push(format_args!("{c}")),
                _ => shown.push(format_args!("{}", c.escape_debug())),
            }
        }
        for byte in chunk.invalid() {
            shown.push(format_args!("\\x{byte:02x}"));
        }
        if shown.is_full {
            break;
        }
    }
    shown.finish()
}

/// Text that stops growing; an escape stays whole.
#[derive(Default)]
struct Shown {
    text: String,
    characters: usize,
    /// How much of `text` leaves room for the dots.
    short: usize,
    is_full: bool,
}

impl Shown {
    fn push(&mut self, piece: fmt::Arguments<'_>) {
        if self.is_full {
            return;
        }
        let piece = piece.to_string();
        self.characters += piece.chars().count();
        self.is_full = self.characters > SHOWN_MAX;
        self.text.push_str(&piece);
        if self.characters <= SHOWN_MAX - 3 {
            self.short = self.text.len();
        }
    }

    fn finish(mut self) -> String {
        if self.is_full {
            self.text.truncate(self.short);
            self.text.push_str("...");
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "x".repeat(NAME_MAX);
        let longer = "x".repeat(NAME_MAX + 1);
        let wide = "é".repeat(128);
        let cases: &[(&[u8], Option<NameError>)] = &[
            (b"http-8000", None),
            (b"a", None),
            (b"0", None),
            (b"_", None),
            (b"a.b", None),
            (b"a-", None),
            (b"*", None),
            (b"$(x)'\"\\", None),
            ("été-東京".as_bytes(), None),
            (long.as_bytes(), None),
            (longer.as_bytes(), Some(NameError::TooLong(256))),
            (wide.as_bytes(), Some(NameError::TooLong(256))),
            (b"", Some(NameError::Empty)),
            (b".", Some(NameError::StartsWith('.'))),
            (b"..", Some(NameError::StartsWith('.'))),
            (b"../x", Some(NameError::StartsWith('.'))),
            (b".hidden", Some(NameError::StartsWith('.'))),
            (b"-f", Some(NameError::StartsWith('-'))),
            (b"a/b", Some(NameError::Contains('/'))),
            (b"/a", Some(NameError::Contains('/'))),
            (b"a b", Some(NameError::Contains(' '))),
            (b"a\tb", Some(NameError::Contains('\t'))),
            (b"a\n", Some(NameError::Contains('\n'))),
            (b"a\0b", Some(NameError::Contains('\0'))),
            (b"a\x1b[2J", Some(NameError::Contains('\x1b'))),
            (b"a\x7f", Some(NameError::Contains('\x7f'))),
            ("a\u{a0}b".as_bytes(), Some(NameError::Contains('\u{a0}'))),
            ("a\u{85}b".as_bytes(), Some(NameError::Contains('\u{85}'))),
            ("a\u{2028}b".as_bytes(), Some(NameError::Contains('\u{2028}'))),
            (b"a\xff", Some(NameError::NotUtf8)),
            (b"\xc3", Some(NameError::NotUtf8)),
        ];
        for (name, error) in cases {
            let name = OsStr::from_bytes(name);
            assert_eq!(ServiceName::new(name).err(), *error, "{name:?}");
        }
    }

    #[test]
    fn no_name_hides_or_looks_like_another() {
        let ends = [
            ('\u{ad}', '\u{ad}'),
            ('\u{61c}', '\u{61c}'),
            ('\u{180e}', '\u{180e}'),
            ('\u{200b}', '\u{200f}'),
            ('\u{2028}', '\u{202e}'),
            ('\u{2060}', '\u{206f}'),
            ('\u{feff}', '\u{feff}'),
            ('\u{fff9}', '\u{fffb}'),
            ('\u{e0001}', '\u{e007f}'),
        ];
        for c in ends.into_iter().flat_map(|(first, last)| first..=last) {
            for name in [format!("{c}"), format!("{c}web"), format!("we{c}b"), format!("web{c}")] {
                let error = ServiceName::new(OsStr::new(&name)).unwrap_err();
                assert_eq!(error, NameError::Contains(c), "{name:?}");
                let shown = format!("service name contains `\\u{{{:x}}}`", u32::from(c));
                assert_eq!(error.to_string(), shown);
            }
        }
        // What is seen is none of it, however strange.
        for c in ['\u{ac}', '\u{ae}', '\u{2010}', '\u{2027}', '\u{fffc}', '\u{1f600}'] {
            assert!(ServiceName::new(OsStr::new(&format!("web{c}"))).is_ok(), "{c:?}");
        }
    }

    #[test]
    fn errors_are_fragments_on_one_line() {
        let cases = [
            (NameError::Empty, "service name is empty"),
            (NameError::TooLong(300), "service name has 300 bytes, more than 255"),
            (NameError::NotUtf8, "service name is not UTF-8"),
            (NameError::StartsWith('-'), "service name starts with `-`"),
            (NameError::Contains(' '), "service name contains a space"),
            (NameError::Contains('\n'), "service name contains `\\n`"),
            (NameError::Contains('/'), "service name contains `/`"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
            assert!(!error.advice().is_empty() && !error.advice().contains('\n'));
        }
    }

    #[test]
    fn a_name_pads_in_columns() {
        let name = ServiceName::new(OsStr::new("web")).unwrap();
        assert_eq!(format!("{name:6}|"), "web   |");
        assert_eq!(name.as_ref(), "web");
    }

    #[test]
    fn printable_names() {
        let exact = "x".repeat(60);
        let cut = format!("{}...", "x".repeat(57));
        let escapes = format!("{}...", "\\xff".repeat(14));
        let cases: &[(&[u8], &str)] = &[
            (b"", "''"),
            (b"web", "web"),
            (b"a b", "a b"),
            (b"it's \"x\"", "it's \"x\""),
            (b"a\\b", "a\\\\b"),
            (b"a\nb", "a\\nb"),
            (b"a\x1b[2J", "a\\u{1b}[2J"),
            (b"a\xffb\xc3", "a\\xffb\\xc3"),
            ("東京".as_bytes(), "東京"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            (exact.as_bytes(), &exact),
            (&[b'x'; 61], &cut),
            (&[b'x'; 5000], &cut),
            (&[0xff; 5000], &escapes),
        ];
        for (name, shown) in cases {
            assert_eq!(printable(OsStr::from_bytes(name)), *shown);
        }
    }
}
