#!/usr/bin/env bash
# ci/test-as.sh USER: the test suite once more, as an ordinary user. Run as root,
# after ci/test.sh, with the same CARGO_TARGET_DIR: nothing is compiled again, since
# USER may have no cargo. The checkout and the target directory must be readable
# for USER and for whom USER becomes by sudo.
set -euo pipefail
cd "$(dirname "$0")/.."
user=${1:?"usage: ci/test-as.sh USER"}
home=$(getent passwd "$user" | cut -d: -f6)
[ -n "$home" ] || { echo "ci/test-as.sh: no user $user" >&2; exit 1; }

scratch=$(mktemp -d /tmp/reraise-test-as.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cp "$(command -v cargo-nextest)" "$scratch/"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --locked --format-version 1 --filter-platform "$host" >"$scratch/cargo.json"
cargo nextest list --locked --workspace --list-type binaries-only \
    --message-format json >"$scratch/binaries.json"

if ! runuser -u "$user" -- test -r "$PWD/Cargo.toml"; then
    echo "ci/test-as.sh: $user cannot read $PWD" >&2
    echo "  run it from a copy, as .ci/run does" >&2
    exit 1
fi
runuser -u "$user" -- env -i \
    HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/sh LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CI="${CI:-}" RUST_BACKTRACE=1 \
    RERAISE_TEST_USER="${RERAISE_TEST_USER:-}" RERAISE_TEST_OTHER="${RERAISE_TEST_OTHER:-}" \
    "$scratch/cargo-nextest" nextest run --profile ci \
    --cargo-metadata "$scratch/cargo.json" --binaries-metadata "$scratch/binaries.json" \
    </dev/null
