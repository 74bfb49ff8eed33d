#!/usr/bin/env bash
# The README cannot fall behind: every command and option of --help, and every config key
# that the program knows, is in it. It begins with the same service as the program does.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked -p reraise
host=$(rustc -vV | sed -n 's/^host: //p')
reraise=${CARGO_TARGET_DIR:-target}/$host/debug/reraise
failed=0
# in_readme WHAT WORD PATTERN: the pattern stands between word borders in the README
in_readme() {
    grep -qP -- "(?<![\w-])$3(?![\w-])" README.md && return
    echo "ci/docs.sh: $1 $2 is not in README.md" >&2
    failed=1
}
long_options() { grep -oP '^\s+(-\w, )?\K--[a-z][a-z-]*' || true; }

help=$("$reraise" --help)
commands=$(awk '/^[A-Z].*:$/ { on = /^Commands:/ } on && /^  [a-z]/ { print $1 }' <<<"$help")
[ -n "$commands" ] || { echo "ci/docs.sh: reraise --help lists no commands" >&2; exit 1; }
for option in $(long_options <<<"$help"); do in_readme option "$option" "$option"; done
for command in $commands; do
    [ "$command" != help ] || continue
    in_readme command "$command" "(reraise |\`)$command"
    for option in $("$reraise" "$command" --help | long_options); do
        [ "$option" = --help ] || in_readme "option of $command" "$option" "$option"
    done
done

# The first service is the same everywhere, and what it says is seen at once: Python keeps
# back what goes into a pipe, but for -u.
first=$(grep -m 1 -oP '^\$ \Kreraise skeleton .*' README.md)
if ! grep -qF -- "$first" <<<"$("$reraise" 2>&1 || true)"; then
    echo "ci/docs.sh: the README begins with another service than reraise: $first" >&2
    failed=1
fi
if grep -rnE 'python3? -m http' README.md reraise/src; then
    echo "ci/docs.sh: python3 without -u says nothing in a pipe" >&2
    failed=1
fi

# One table in the source holds the keys; each row begins with the name. Those that this
# version only knows as words for later (`later(`) need not be explained.
keys=$(grep -oP '^\s*key\("\K[a-z_]+' reraise/src/config/keys.rs || true)
[ -n "$keys" ] || { echo "ci/docs.sh: found no config keys" >&2; exit 1; }
for key in $keys; do in_readme "config key" "$key" "(config_$key|\`$key\`)"; done
exit "$failed"
