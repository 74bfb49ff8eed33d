#!/bin/sh
# Lints everything for the other systems and links the programs for FreeBSD and
# macOS, on Linux: cargo builds their standard library from source
# (-Zbuild-std), and zig links. `ci/cross.sh -p PACKAGE…` lints only these.
set -u
cd "$(dirname "$0")/.." || exit 1

ci/setup-cross.sh || { echo "cross: cannot install what is needed" >&2; exit 1; }

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/cross
# By their paths: rustup's, which has no source, may be first in PATH.
CARGO=/usr/bin/cargo
RUSTC=/usr/bin/rustc
# -Zbuild-std on a released compiler, which is all there is.
RUSTC_BOOTSTRAP=1
# No SDK is needed: rustc only wants to hear of one.
SDKROOT=$CARGO_TARGET_DIR/stubs
ZIG_STUBS=$CARGO_TARGET_DIR/stubs
ZIG_PYTHON=python3
"$ZIG_PYTHON" -m ziglang version > /dev/null 2>&1 || ZIG_PYTHON=$CARGO_TARGET_DIR/zig/bin/python3
CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER=$PWD/ci/zig-cc
CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=$PWD/ci/zig-cc
export CARGO_TARGET_DIR CARGO RUSTC RUSTC_BOOTSTRAP SDKROOT ZIG_STUBS ZIG_PYTHON \
    CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER
# A toolchain or flags that the caller chose are for another compiler.
unset RUSTUP_TOOLCHAIN RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER
mkdir -p "$ZIG_STUBS"

failed=
# step WHAT TARGET COMMAND…
step() {
    what=$1 target=$2
    shift 2
    echo "cross: $what $target"
    "$@" || { echo "cross: $what $target FAILED" >&2; failed="$failed $what:$target"; }
}

lint() {
    target=$1
    shift
    # cargo-clippy by its path too: cargo would look for rustup's.
    /usr/bin/cargo-clippy clippy --quiet --locked -Zbuild-std=std,panic_abort,test \
        --target "$target" --all-targets "$@" -- -D warnings
}

link() {
    ZIG_TARGET=$2 "$CARGO" build --quiet --locked -Zbuild-std=std,panic_abort \
        --target "$1" --package reraise --bins
}

for target in x86_64-unknown-freebsd x86_64-unknown-netbsd aarch64-apple-darwin; do
    if [ $# -gt 0 ]; then
        step lint "$target" lint "$target" "$@"
    else
        step lint "$target" lint "$target" --workspace
    fi
done
if [ $# = 0 ]; then
    step link x86_64-unknown-freebsd link x86_64-unknown-freebsd x86_64-freebsd
    step link aarch64-apple-darwin link aarch64-apple-darwin aarch64-macos
fi

if [ -n "$failed" ]; then
    echo "cross: failed:$failed" >&2
    exit 1
fi
echo "cross: all well"
