#!/usr/bin/env bash
# The memory of 100 idle services and their context switches, against a ceiling. With no
# argument both builds are measured: the release archive's (static, small) and the one that
# `cargo install reraise` makes (dynamic, default profile). ci/footprint.sh DIR measures DIR's.
set -euo pipefail
cd "$(dirname "$0")/.."

# kB of private memory and page tables of keeper, logger and workers, a service. The budget is
# half of what runit's runsv takes (132): 66. Measured are 50 (static) and 52 to 60 (dynamic, by
# where the libraries come to lie: a page table more or less).
static_ceiling=54
dynamic_ceiling=64

measure() {
    ci/bench --peers reraise --tests memory,idle --services 100 --idle-sec 3 \
        --max-kb "$1" --max-switches 0 "$2"
}
if [ $# -gt 0 ]; then
    measure "$static_ceiling" "$1"
    exit
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')

echo "static, release profile:"
cargo build --locked --release -p reraise
measure "$static_ceiling" "$target/$host/release"

echo "dynamic, default profile:"
env CARGO_TARGET_DIR="$target/installed" CARGO_ENCODED_RUSTFLAGS="-Ctarget-feature=-crt-static" \
    CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_PROFILE_RELEASE_PANIC=unwind CARGO_PROFILE_RELEASE_OPT_LEVEL=3 \
    CARGO_PROFILE_RELEASE_STRIP=none \
    cargo build --locked --release -p reraise
measure "$dynamic_ceiling" "$target/installed/$host/release"
