//! What has become of a service's output beyond what stands in its log: what was
//! dropped, and why nothing can be written. A file of one line beside its slot.

use std::fs;
use std::io;
use std::path::Path;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Lines that were dropped, since the service was started.
    pub lost_lines: u64,
    /// Their bytes.
    pub lost_bytes: u64,
    /// Bytes of older output that made room on a full disk.
    pub removed_bytes: u64,
    /// Why the log cannot be written now.
    pub trouble: Option<String>,
}

impl Report {
    /// The report of a service; an empty one when there is nothing to say.
    #[must_use]
    pub fn read(own: &Path) -> Self {
        let text = fs::read_to_string(own.join(FILE)).unwrap_or_default();
        let mut found = Self::default();
        let mut rest = text.trim_end_matches('\n');
        while let Some((key, value)) = rest.split_once('=') {
            if key == "trouble" {
                found.trouble = Some(value.to_owned());
                break;
            }
            let (number, more) = value.split_once(' ').unwrap_or((value, ""));
            let number = number.parse().unwrap_or(0);
            match key {
                "lost_lines" => found.lost_lines = number,
                "lost_bytes" => found.lost_bytes = number,
                "removed_bytes" => found.removed_bytes = number,
                _ => {}
            }
            rest = more;
        }
        found
    }

    /// Leaves it for whoever asks.
    ///
    /// # Errors
    /// As `write(2)` and `rename(2)`.
    pub fn write(&self, own: &Path) -> io::Result<()> {
        if *self == Self::default() {
            return forget(own);
        }
        let Self { lost_lines, lost_bytes, removed_bytes, trouble } = self;
        let mut text = format!(
            "lost_lines={lost_lines} lost_bytes={lost_bytes} removed_bytes={removed_bytes}"
        );
        if let Some(trouble) = trouble {
            text.push_str(" trouble=");
            text.extend(trouble.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        text.push('\n');
        let new = own.join("output.new");
        fs::write(&new, text)?;
        fs::rename(new, own.join(FILE))
    }

    /// In a few words; `None` when there is nothing to say.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let mut words = Vec::new();
        if let Some(trouble) = &self.trouble {
            words.push(format!("output is lost: {trouble}"));
        }
        if self.lost_lines > 0 {
            words.push(format!("{} lines were dropped", self.lost_lines));
        }
        if self.removed_bytes > 0 {
            words.push(format!("{} bytes of older output made room", self.removed_bytes));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Removes the report: the service is started anew.
///
/// # Errors
/// As `unlink(2)`, but not that there is none.
pub fn forget(own: &Path) -> io::Result<()> {
    match fs::remove_file(own.join(FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

const FILE: &str = "output";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Report::read(dir.path()), Report::default());
        let report = Report {
            lost_lines: 3,
            lost_bytes: 40,
            removed_bytes: 0,
            trouble: Some("x = y: no space\nleft".to_owned()),
        };
        report.write(dir.path()).unwrap();
        let back = Report::read(dir.path());
        assert_eq!(back.trouble.as_deref(), Some("x = y: no space left"));
        assert_eq!((back.lost_lines, back.lost_bytes), (3, 40));
        let words = back.words().unwrap();
        assert_eq!(words, "output is lost: x = y: no space left, 3 lines were dropped");
        Report::default().write(dir.path()).unwrap();
        assert_eq!(Report::read(dir.path()), Report::default());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
