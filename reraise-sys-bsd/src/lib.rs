//! What Reraise does differently on the BSDs.
