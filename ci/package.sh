#!/usr/bin/env bash
# The packages as they would be published, each compiled from its own .crate.
set -euo pipefail
cd "$(dirname "$0")/.."

options=(--locked --workspace)
# CI packages what is committed; a developer may look at what is not yet.
[ -n "${CI:-}" ] || options+=(--allow-dirty)
cargo package "${options[@]}"
