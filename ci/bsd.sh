#!/bin/sh
# Build and test on a BSD, where bash or cargo-nextest may be missing.
# Arguments go to cargo, e.g. --ignore-rust-version where the packaged Rust is older.
set -eu
cd "$(dirname "$0")/.."

# .cargo/config.toml says "host-tuple", which an older cargo does not know.
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET

cargo build --locked --workspace "$@"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --profile ci "$@"
else
    # One test at a time: without nextest all of a file share one process.
    cargo test --locked --workspace "$@" -- --test-threads=1
fi
