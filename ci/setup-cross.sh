#!/bin/sh
# Installs what ci/cross.sh needs and Debian 12 does not have by itself: a Rust
# with the source of its standard library (rustup's targets cannot be had
# everywhere), and zig as a linker. Says nothing when all is there.
set -eu
cd "$(dirname "$0")/.."

cross=${CARGO_TARGET_DIR:-target}/cross

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

apt_get() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0 "$@" > /dev/null
}

missing=
for package in rustc-web cargo-web rust-web-src rust-web-clippy; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
has_zig() {
    "$1" -m ziglang version > /dev/null 2>&1
}
if ! has_zig python3 && ! has_zig "$cross/zig/bin/python3"; then
    dpkg-query -W -f '${Status}' python3-venv 2> /dev/null | grep -q 'ok installed' ||
        missing="$missing python3-venv"
fi
if [ -n "$missing" ]; then
    echo "setup-cross: installing$missing"
    apt_get update
    # shellcheck disable=SC2086 # a list of words
    apt_get install -y --no-install-recommends $missing
fi
if ! has_zig python3 && ! has_zig "$cross/zig/bin/python3"; then
    echo "setup-cross: installing ziglang"
    # Debian's own, whose venv package is the one installed above.
    /usr/bin/python3 -m venv "$cross/zig"
    "$cross/zig/bin/python3" -m pip --quiet --disable-pip-version-check install 'ziglang>=0.15,<0.18'
fi
