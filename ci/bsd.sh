#!/bin/sh
# Builds and tests on a BSD, where bash or cargo-nextest may be missing; as root once
# more as an ordinary user, who needs no cargo, but must be able to read this place.
# Arguments go to cargo, e.g. --ignore-rust-version where the packaged Rust is older.
#
# ci/bsd.sh --each LIST runs each test of the programs in LIST in a process of its own,
# as nextest does: tests change the umask, the signal mask, the directory.
set -eu
cd "$(dirname "$0")/.."

each() { # LIST
    log=$(mktemp /tmp/reraise-test.XXXXXX)
    limit=
    # In the foreground, since otherwise FreeBSD's would adopt what a test leaves.
    ! command -v timeout >/dev/null || limit="timeout --foreground -k 10 180"
    passed=0 failed=
    while read -r dir program; do
        [ -x "$program" ] || { echo "FAILED: $(id -un) cannot run $program"; failed=$program; }
        names=$("$program" --list --format terse </dev/null | sed -n 's/: test$//p')
        for name in $names; do
            # Not into a pipe: what a test starts may hold it.
            if (cd "$dir" && exec $limit "$program" "$name" --exact) </dev/null >"$log" 2>&1; then
                passed=$((passed + 1))
            else
                echo "FAILED: ${program##*/} $name"
                cat "$log"
                failed="$failed $name"
            fi
        done
    done <"$1"
    rm -f "$log"
    echo "as $(id -un): $passed passed, failed:${failed:- none}"
    [ -z "$failed" ] && [ "$passed" != 0 ]
}

if [ "${1:-}" = --each ]; then
    each "$2"
    exit
fi

umask 022
# .cargo/config.toml says "host-tuple", which an older cargo does not know.
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET

scratch=$(mktemp -d /tmp/reraise-bsd.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cargo build --locked --workspace "$@"
cargo test --no-run --locked --workspace --tests --message-format json-render-diagnostics "$@" \
    >"$scratch/json"
# The directory and the program of each that cargo has made for tests.
sed -n 's/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"test":true},"features".*"executable":"\([^"]*\)".*/\1 \2/p' \
    "$scratch/json" >"$scratch/list"
[ -s "$scratch/list" ]

code=0
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --profile ci "$@" || code=1
else
    each "$scratch/list" || code=1
fi

[ "$(id -u)" = 0 ] || exit "$code"
user=${RERAISE_TEST_USER:-reraise-ci}
id "$user" >/dev/null 2>&1 || case $(uname -s) in
    FreeBSD | DragonFly) pw useradd "$user" -m -s /bin/sh ;;
    *) useradd -m -s /bin/sh "$user" ;;
esac
su -l "$user" -c "'$PWD/ci/bsd.sh' --each '$scratch/list'" </dev/null || code=1
exit "$code"
