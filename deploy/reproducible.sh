#!/bin/sh
# Builds the program twice, in two clean clones of this commit at different paths, and compares them byte for byte.
#
#   deploy/reproducible.sh amd64|arm64 [BOARD]
#
# Prints the SHA-256 of both. Exit code 1 if they differ: then it says where first. Takes two release builds' time. The same toolchain and the
# same system libraries are a condition; rust-toolchain and packages are printed beside the sums, so that another machine can be set up alike.
set -eu
cd "$(dirname "$0")/.."

arch=$1
board=${2:-}
commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "note: changes that are not committed are not built" >&2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# build NAME: a clone of its own, at a path of its own length
build() {
    clone=$place/$1
    git clone --quiet --no-hardlinks . "$clone"
    git -C "$clone" checkout --quiet "$commit"
    # a directory that others set would be shared by both
    (cd "$clone" && env -u CARGO_TARGET_DIR sh deploy/build.sh "$arch" ${board:+"$board"}) | tail -n 1 | sed "s|^|$clone/|"
}

first=$(build one)
second=$(build another/place/entirely)
rustc --version >&2
sha256sum "$first" "$second" | sed "s|$place/||"
if ! cmp "$first" "$second"; then
    echo "the two builds differ" >&2
    exit 1
fi
echo "identical"
