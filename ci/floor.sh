#!/usr/bin/env bash
# What may depend on what. The library and auto-reraise build without the command
# line's crates, the crate list is the one allowed, and no file reaches past the floor below its own.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
fail() { printf 'ci/floor.sh: %s\n' "$*" >&2; failed=1; }

cargo build --locked -p reraise --no-default-features --bin auto-reraise

# crates TARGET: what auto-reraise links there, one name a line
crates() {
    cargo tree --locked -p reraise --no-default-features -e normal --target "$1" \
        --prefix none --format '{p}' | cut -d' ' -f1 | sort -u
}
# memoffset comes with the sockets of nix.
common="bitflags cfg-if libc memoffset nix reraise strsim"
linux="$common reraise-sys-linux rustix linux-raw-sys"
bsd="$common reraise-sys-bsd"
macos="$common reraise-sys-bsd reraise-sys-macos"
while read -r target allowed; do
    extra=$(comm -23 <(crates "$target") <(tr ' ' '\n' <<<"$allowed" | sort -u))
    [ -z "$extra" ] || fail "$target: not on the list of crates: ${extra//$'\n'/ }"
done <<EOT
x86_64-unknown-linux-gnu $linux
x86_64-unknown-linux-musl $linux
aarch64-unknown-linux-gnu $linux
x86_64-unknown-freebsd $bsd
x86_64-unknown-netbsd $bsd
x86_64-unknown-openbsd $bsd
x86_64-unknown-dragonfly $bsd
aarch64-apple-darwin $macos
EOT

# refuse WHY PATTERN PATHSPEC...: no line of code (comments aside) may match
refuse() {
    local why=$1 pattern=$2 hits
    shift 2
    hits=$(git grep -nP --untracked -e "^(?!\s*//).*?(?:$pattern)" -- "$@" || true)
    [ -z "$hits" ] || fail "$why"$'\n'"$hits"
}
src=reraise/src
refuse "only $src/backend may name a system or its crate" \
    '(?<![\w:])sys::|\breraise_sys_|\btarget_(os|vendor|family)\b|\bcfg_if!' \
    "$src" ":!$src/backend"
refuse "the backend knows nothing of what stands on it" \
    '\bcrate::(supervise|keeper|worker|cli|control|config)\b' "$src/backend"
refuse "the supervisor speaks to the trait, not to one backend" \
    '\bNative\b' "$src/supervise" "$src/machine.rs"
refuse "the state machine does no input or output" \
    '\b(std::(fs|io|net|process|thread)|nix::|libc::|Instant::now|SystemTime)\b' \
    "$src/supervise/machine.rs" "$src/supervise/policy.rs"
refuse "the library does not know the command line" \
    '\bcrate::cli\b|\b(clap|sysinfo)::' "$src" ":!$src/cli" ":!$src/main.rs"
refuse "a lint is expected with a reason, not allowed" '#!?\[allow\(' '*.rs'
exit "$failed"
