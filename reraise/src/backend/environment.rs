//! The environment of a program, in one piece of memory: a worker reads it anew
//! for every run, and a hundred small pieces would take longer than the launch.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;

/// Entries `NAME=VALUE`, each with its NUL, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<u8>);

impl Environment {
    /// Appends an entry; one that holds NUL could not be passed on, and is left out.
    pub fn push(&mut self, entry: impl AsRef<OsStr>) {
        let entry = entry.as_ref().as_bytes();
        if !entry.contains(&0) {
            self.0.extend_from_slice(entry);
            self.0.push(0);
        }
    }

    /// Makes room for so many bytes of further entries.
    pub fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// The entries, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let entry = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[entry.count_bytes() + 1..];
            Some(entry)
        })
    }

    /// The same, taken apart.
    pub fn pairs(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.iter().filter_map(|entry| {
            let entry = entry.to_bytes();
            let at = entry.iter().position(|&b| b == b'=')?;
            Some((OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..])))
        })
    }

    /// The value of a variable; the first entry counts, as with `getenv(3)`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find_map(|entry| entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

impl<S: AsRef<OsStr>> FromIterator<S> for Environment {
    fn from_iter<I: IntoIterator<Item = S>>(entries: I) -> Self {
        let mut environment = Self::default();
        entries.into_iter().for_each(|entry| environment.push(entry));
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order() {
        let environment: Environment = ["A=1", "", "B=", "A=2", "C=x=y"].into_iter().collect();
        let entries: Vec<_> = environment.iter().map(CStr::to_bytes).collect();
        assert_eq!(entries, [&b"A=1"[..], b"", b"B=", b"A=2", b"C=x=y"]);
        for (name, value) in
            [("A", Some(&b"1"[..])), ("B", Some(b"")), ("C", Some(b"x=y")), ("x", None), ("", None)]
        {
            assert_eq!(environment.value(name), value, "{name}");
        }
    }

    #[test]
    fn an_entry_with_nul_is_left_out() {
        let environment: Environment = ["A=1", "B=\0", "C=3"].into_iter().collect();
        assert_eq!(environment.iter().count(), 2);
    }
}
