//! One word of a shell's grammar: what stands after `=`.
//!
//! A value means what a shell would make of it, or it is refused: quotes,
//! `$NAME` and `${NAME}` of the environment, `~/` and a comment are
//! understood; whatever would run a command or needs a shell's memory is not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::Env;
use crate::name::printable;

/// Why a value was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What is wrong.
    pub(super) reason: String,
    /// What to do.
    pub(super) advice: &'static str,
}

pub(super) fn refuse<T>(reason: impl Into<String>, advice: &'static str) -> Result<T, Refusal> {
    Err(Refusal { reason: reason.into(), advice })
}

/// What separates words.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Whether what follows a blank is nothing but a comment.
pub(super) fn is_rest(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter().skip_while(|byte| is_blank(**byte));
    matches!(rest.next(), None | Some(b'#'))
}

/// A word of the shell's grammar while it is read.
struct Word<'a> {
    rest: &'a [u8],
    value: Vec<u8>,
    env: Env<'a>,
}

/// The value in what stands after `=`.
pub(super) fn read_word(bytes: &[u8], env: Env<'_>) -> Result<String, Refusal> {
    let mut word = Word { rest: bytes, value: Vec::new(), env };
    word.tilde()?;
    while let Some(byte) = word.next() {
        match byte {
            b'\'' => word.single()?,
            b'"' => word.double()?,
            b'\\' => match word.next() {
                Some(escaped) => word.value.push(escaped),
                None => return continued(),
            },
            b'$' => word.dollar(false)?,
            b'`' => return substitution("`…`"),
            b' ' | b'\t' if is_rest(word.rest) => break,
            b' ' | b'\t' => return trailing(word.rest.trim_ascii()),
            b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => return trailing(&[byte]),
            b':' => {
                word.value.push(byte);
                word.tilde()?;
            }
            _ => word.value.push(byte),
        }
    }
    String::from_utf8(word.value).or_else(|_| refuse("value is not UTF-8", "write it in UTF-8"))
}

impl Word<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// `~` or `~/…`, first or after a colon: the home directory.
    fn tilde(&mut self) -> Result<(), Refusal> {
        match self.rest {
            [b'~'] | [b'~', b'/' | b':' | b' ' | b'\t', ..] => {
                self.rest = &self.rest[1..];
                self.variable("HOME")
            }
            [b'~', ..] => refuse("`~` of a user is not understood", "write the directory itself"),
            _ => Ok(()),
        }
    }

    fn single(&mut self) -> Result<(), Refusal> {
        let Some(end) = self.rest.iter().position(|&byte| byte == b'\'') else {
            return unclosed('\'');
        };
        self.value.extend_from_slice(&self.rest[..end]);
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    fn double(&mut self) -> Result<(), Refusal> {
        loop {
            match self.next() {
                None => return unclosed('"'),
                Some(b'"') => return Ok(()),
                Some(b'`') => return substitution("`…`"),
                Some(b'$') => self.dollar(true)?,
                Some(b'\\') => match self.rest.first() {
                    None => return continued(),
                    Some(&escaped @ (b'$' | b'`' | b'"' | b'\\')) => {
                        self.next();
                        self.value.push(escaped);
                    }
                    Some(_) => self.value.push(b'\\'),
                },
                Some(byte) => self.value.push(byte),
            }
        }
    }

    /// What follows a `$`; within double quotes a quote after it is no part of it.
    fn dollar(&mut self, is_quoted: bool) -> Result<(), Refusal> {
        const PLAIN: &str = "write $NAME, ${NAME} or the value itself";
        let (is_braced, start) = match self.rest {
            [b'(', b'(', ..] | [b'[', ..] => return refuse("arithmetic is not understood", PLAIN),
            [b'(', ..] => return substitution("$(…)"),
            [b'\'' | b'"', ..] if !is_quoted => {
                return refuse("`$` before a quote is not understood", PLAIN);
            }
            [b'{', name @ ..] => (true, name),
            [b'0'..=b'9' | b'$' | b'?' | b'#' | b'*' | b'@' | b'!' | b'-', ..] => {
                return refuse(format!("`${}` is not understood", self.rest[0] as char), PLAIN);
            }
            name => (false, name),
        };
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let end = start.iter().position(|byte| !is_part(byte)).unwrap_or(start.len());
        let (name, after) = start.split_at(end);
        let name = String::from_utf8_lossy(name);
        let is_name = name.starts_with(|c: char| !c.is_ascii_digit());
        match (is_braced, after) {
            (false, _) if name.is_empty() => {
                self.value.push(b'$');
                return Ok(());
            }
            (false, _) => self.rest = after,
            (true, [b'}', rest @ ..]) if is_name => self.rest = rest,
            (true, _) => return refuse("only ${NAME} is understood between braces", PLAIN),
        }
        self.variable(&name)
    }

    fn variable(&mut self, name: &str) -> Result<(), Refusal> {
        match (self.env)(name) {
            Some(value) => self.value.extend_from_slice(value.as_bytes()),
            None => {
                return refuse(
                    format!("${name} is not set in the environment"),
                    "set it where `reraise start` is called; variables of the script are not seen",
                );
            }
        }
        Ok(())
    }
}

fn substitution<T>(form: &str) -> Result<T, Refusal> {
    refuse(format!("{form} would run a command"), "write the value itself")
}

fn unclosed<T>(quote: char) -> Result<T, Refusal> {
    refuse(format!("there is no closing {quote}"), "close the quote on the same line")
}

fn continued<T>() -> Result<T, Refusal> {
    refuse("value goes on in the next line", "write it on one line")
}

fn trailing<T>(bytes: &[u8]) -> Result<T, Refusal> {
    refuse(
        format!("`{}` comes after the value", printable(OsStr::from_bytes(bytes))),
        "quote a value with spaces; only a comment may follow it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".into()),
            "A" => Some("a b".into()),
            "_1" => Some("one".into()),
            "EMPTY" => Some(String::new()),
            "CODE" => Some("$(x)`y`'\"\\".into()),
            _ => None,
        }
    }

    #[test]
    fn words_that_are_understood() {
        let cases: &[(&str, &str)] = &[
            ("", ""),
            ("  ", ""),
            (" # comment", ""),
            ("10", "10"),
            ("10 ", "10"),
            ("10\t# comment; $(x)", "10"),
            ("10 #", "10"),
            ("10#x", "10#x"),
            ("#x", "#x"),
            ("a=b", "a=b"),
            ("*?[a]{b,c}!%", "*?[a]{b,c}!%"),
            ("'a b'", "a b"),
            ("'$(x) `y` \\ \"'", "$(x) `y` \\ \""),
            ("'a'\"b\"c\\d", "abcd"),
            ("''", ""),
            ("\"\"", ""),
            ("\"a # b\" # c", "a # b"),
            ("\"it's\"", "it's"),
            (r#""\$\`\"\\\x""#, r#"$`"\\x"#),
            (r"a\ b\#\$\'", "a b#$'"),
            ("$A", "a b"),
            ("$A-${A}x", "a b-a bx"),
            ("\"$A\"", "a b"),
            ("'$A'", "$A"),
            ("\\$A", "$A"),
            ("$_1", "one"),
            ("x${EMPTY}y", "xy"),
            ("$CODE", "$(x)`y`'\"\\"),
            ("$", "$"),
            ("\"$\"", "$"),
            ("\"$'a'\"", "$'a'"),
            ("a$/b$ # c", "a$/b$"),
            ("~", "/home/me"),
            ("~ # home", "/home/me"),
            ("~/log", "/home/me/log"),
            ("a:~:~/b", "a:/home/me:/home/me/b"),
            ("'~/log'", "~/log"),
            ("a~/log", "a~/log"),
            ("été", "été"),
        ];
        for (text, value) in cases {
            assert_eq!(read_word(text.as_bytes(), &env).as_deref(), Ok(*value), "{text}");
        }
    }

    #[test]
    fn words_that_are_refused() {
        let cases: &[(&[u8], &str)] = &[
            (b"`x`", "`…` would run a command"),
            (b"\"`x`\"", "`…` would run a command"),
            (b"$(x)", "$(…) would run a command"),
            (b"\"1$(x)\"", "$(…) would run a command"),
            (b"$((1+1))", "arithmetic is not understood"),
            (b"$[1+1]", "arithmetic is not understood"),
            (b"${A:-x}", "only ${NAME} is understood between braces"),
            (b"${#A}", "only ${NAME} is understood between braces"),
            (b"${A", "only ${NAME} is understood between braces"),
            (b"${}", "only ${NAME} is understood between braces"),
            (b"${1}", "only ${NAME} is understood between braces"),
            (b"$1", "`$1` is not understood"),
            (b"$$", "`$$` is not understood"),
            (b"$@", "`$@` is not understood"),
            (b"$'a'", "`$` before a quote is not understood"),
            (b"$B", "$B is not set in the environment"),
            (b"${B}", "$B is not set in the environment"),
            (b"~root/x", "`~` of a user is not understood"),
            (b"'a", "there is no closing '"),
            (b"\"a", "there is no closing \""),
            (b"\"a'", "there is no closing \""),
            (b"a\\", "value goes on in the next line"),
            (b"\"a\\", "value goes on in the next line"),
            (b"1 foo", "`foo` comes after the value"),
            (b"1 foo # c", "`foo # c` comes after the value"),
            (b"1;", "`;` comes after the value"),
            (b"1; rm -r x", "`;` comes after the value"),
            (b"1&", "`&` comes after the value"),
            (b"1|x", "`|` comes after the value"),
            (b"1 >x", "`>x` comes after the value"),
            (b"1<x", "`<` comes after the value"),
            (b"(1)", "`(` comes after the value"),
            (b"1 \xff", "`\\xff` comes after the value"),
            (b"\xff", "value is not UTF-8"),
        ];
        for (text, reason) in cases {
            let refusal = read_word(text, &env).unwrap_err();
            assert_eq!(refusal.reason, *reason);
            assert!(!refusal.advice.is_empty());
        }
    }
}
