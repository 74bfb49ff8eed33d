#!/bin/sh
# ci/archive.sh TARGET: what a release offers for download, as dist/reraise-VERSION-TARGET.tar.gz.
# [package.metadata.binstall] in reraise/Cargo.toml names the same files.
set -eu
cd "$(dirname "$0")/.."
target=${1:?"usage: ci/archive.sh TARGET"}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
case ${GITHUB_REF:-} in
    "refs/tags/v$version") ;;
    refs/tags/*)
        echo "ci/archive.sh: the tag is ${GITHUB_REF#refs/tags/}, Cargo.toml says $version" >&2
        exit 1 ;;
esac

cargo build --locked --release -p reraise --target "$target"
name=reraise-$version-$target
rm -rf "dist/$name"
mkdir -p "dist/$name"
cp "${CARGO_TARGET_DIR:-target}/$target/release/reraise" \
    "${CARGO_TARGET_DIR:-target}/$target/release/auto-reraise" README.md LICENSE "dist/$name/"

# What runs here shows that it runs.
if [ "$target" = "$(rustc -vV | sed -n 's/^host: //p')" ]; then
    [ "$("dist/$name/reraise" --version | awk '{ print $NF }')" = "$version" ]
fi
tar -C dist -czf "dist/$name.tar.gz" "$name"
rm -rf "dist/$name"
echo "dist/$name.tar.gz"
