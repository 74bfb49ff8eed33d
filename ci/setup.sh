#!/usr/bin/env bash
# What the checks need and a bare Debian or Ubuntu lacks: packages, two users, and
# cargo-nextest. Run as root; a second run changes nothing.
set -euo pipefail
user=${RERAISE_TEST_USER:-reraise-ci}     # runs the tests as an ordinary user
other=${RERAISE_TEST_OTHER:-app1user}     # owns services; $user may become it by sudo
[ "$(id -u)" = 0 ] || { echo "ci/setup.sh: must be run as root" >&2; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }
missing=()
want() { # COMMAND PACKAGE...
    have "$1" || missing+=("${@:2}")
}
PATH=$PATH:/usr/sbin:/sbin
want sudo sudo
want git git
want cc gcc libc6-dev
want musl-gcc musl-tools
want python3 python3
want shellcheck shellcheck
want strace strace
want bindfs bindfs
want fusermount3 fuse3
want nginx nginx-light
want redis-server redis-server
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    # The tests start their own servers; a package must not.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -qy install --no-install-recommends "${missing[@]}"
fi

for name in "$user" "$other"; do
    id "$name" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$name"
done
rule="$user ALL=($other) NOPASSWD: ALL"
dropin=/etc/sudoers.d/reraise-ci
if [ "$(cat "$dropin" 2>/dev/null)" != "$rule" ]; then
    new=$(mktemp)
    printf '%s\n' "$rule" >"$new"
    visudo -qcf "$new"
    install -m 0440 "$new" "$dropin"
    rm -f "$new"
fi
runuser -u "$user" -- sudo -n -u "$other" true

need=1.95
if ! have cargo; then
    echo "ci/setup.sh: no cargo on PATH; Rust $need or later is needed" >&2
    echo "  install it with rustup (https://rustup.rs), then run this again" >&2
    exit 1
fi
got=$(cargo --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$need" "$got" | sort -V | head -n 1)" != "$need" ]; then
    echo "ci/setup.sh: cargo is $got; Rust $need or later is needed" >&2
    echo "  rustup update stable" >&2
    exit 1
fi
have cargo-nextest || cargo install --locked cargo-nextest
