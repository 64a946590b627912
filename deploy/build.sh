#!/bin/sh
# Builds the program for a device, with every driver: one command, from an x86-64 or an Arm machine.
#
#   deploy/build.sh amd64|arm64 [BOARD]
#
# Prints the path of the binary. Takes the toolchain's own target where it is installed (`rustup target add
# aarch64-unknown-linux-gnu`), else Debian's packaged compiler; as root it installs the packages that are missing.
set -eu
cd "$(dirname "$0")/.."

arch=$1
case $arch in
    amd64) triple=x86_64-unknown-linux-gnu board=${2:-host} ;;
    arm64) triple=aarch64-unknown-linux-gnu board=${2:-generic-arm64} ;;
    *) echo "usage: $0 amd64|arm64 [BOARD]" >&2; exit 2 ;;
esac
features=${ATTENDANT_FEATURES:-v4l,alsa,gpio}
profile=${ATTENDANT_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}

need() { # need PACKAGE...: installs what dpkg does not have
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; run as root: apt-get install$missing" >&2
        exit 1
    fi
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

if [ "$arch" = "$(dpkg --print-architecture)" ]; then
    need libasound2-dev libclang-dev pkg-config
    BOARD=$board cargo build --locked --profile "$profile" --features "$features" >&2
    echo "$target/$profile/attendant"
    exit 0
fi

[ "$arch" = arm64 ] || { echo "cross-building is for arm64; build $arch on $arch" >&2; exit 2; }
if [ "$(id -u)" = 0 ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
    dpkg --add-architecture arm64
    apt-get update -qq
fi
need gcc-aarch64-linux-gnu libc6-dev-arm64-cross libasound2-dev:arm64 libclang-dev pkg-config
compiler=$(rustc --print sysroot)/bin/rustc
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple" ]; then
    need rustc-web libstd-rust-web-dev:arm64
    compiler=/usr/bin/rustc
fi
# A directory of its own: another compiler would replace what the host's builds share.
RUSTC=$compiler BOARD=$board CARGO_TARGET_DIR="$target/cross" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_PATH=/usr/lib/aarch64-linux-gnu/pkgconfig \
    BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--target=aarch64-linux-gnu -I/usr/aarch64-linux-gnu/include" \
    cargo build --locked --profile "$profile" --features "$features" --target "$triple" >&2
echo "$target/cross/$triple/$profile/attendant"
