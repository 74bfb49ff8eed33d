#!/usr/bin/env bash
# Everything that judges the source without running it.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo clippy --locked -p reraise --no-default-features --lib --bin auto-reraise -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

shell=() python=()
while IFS= read -r -d '' file; do
    [ -f "$file" ] || continue
    case $file in *.py) python+=("$file") ;; esac
    case $(head -c 64 "$file" | head -n 1 | tr -d '\0') in
        '#!'*sh) shell+=("$file") ;;
        '#!'*python3) python+=("$file") ;;
    esac
done < <(git ls-files -z --cached --others --exclude-standard -- ci .ci reraise docs)
if command -v shellcheck >/dev/null; then
    shellcheck "${shell[@]}"
else
    echo "skipped: shellcheck is not installed"
fi
for file in "${python[@]}"; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1], feature_version=(3, 9))' "$file"
done

if command -v check-jsonschema >/dev/null; then
    check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
else
    echo "skipped: check-jsonschema (pip) is not installed"
fi
if command -v actionlint >/dev/null; then
    actionlint
fi
