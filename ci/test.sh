#!/usr/bin/env bash
# The whole test suite. Further arguments go to nextest, e.g. ci/test.sh conformance
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo nextest --version >/dev/null 2>&1; then
    echo "ci/test.sh: cargo-nextest is not installed" >&2
    echo "  cargo install --locked cargo-nextest" >&2
    exit 1
fi
profile=default
[ -z "${CI:-}" ] || profile=ci
exec cargo nextest run --locked --workspace --profile "$profile" "$@"
