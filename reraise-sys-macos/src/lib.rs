//! What Reraise does differently on macOS.
